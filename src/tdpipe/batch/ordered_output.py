"""Puts a finished output into the order of the input; only places are kept in memory."""

import os
from array import array
from pathlib import Path

import numpy as np

from tdpipe.batch.finished_lines import decode_answered
from tdpipe.batch.input_index import InputIndex


def order_output(output: Path, index: InputIndex) -> None:
    """Rewrite a complete output by input line; the file is whole at every moment."""
    numbers, starts = array("Q"), array("Q", [0])
    with output.open("rb") as lines:
        for line in lines:
            numbers.append(decode_answered(line).number(index))
            starts.append(starts[-1] + len(line))
    order = np.argsort(np.array(numbers, dtype=np.uint64), kind="stable")
    ordered = output.with_name(output.name + ".ordered")
    with output.open("rb") as lines, ordered.open("wb") as target:
        for place in order:
            lines.seek(starts[place])
            target.write(lines.read(starts[place + 1] - starts[place]))
        target.flush()
        os.fsync(target.fileno())
    ordered.replace(output)
