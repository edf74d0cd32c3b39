"""Which lines of the input an output answers already. A byte a line of the input is kept."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from tdpipe.batch.input_index import InputIndex
from tdpipe.core.errors import ConfigError


class Answered(msgspec.Struct):
    """What tells which input line a result line answers; the rest of it is not kept."""

    custom_id: str | None = None
    error: Any = None

    def number(self, index: InputIndex) -> int:
        """The input line's number; 0 if there is no such line.

        An error names its line: the id of a bad line may be missing or used twice.
        """
        if isinstance(self.error, dict):
            number = self.error.get("line")
            return number if isinstance(number, int) and 0 < number <= index.last_line else 0
        return index.first_use(self.custom_id) if self.custom_id else 0


decode_answered = msgspec.json.Decoder(Answered).decode


@dataclass(slots=True)
class FinishedLines:
    """Input lines that have a result.

    Attributes:
        last_line: number of the input's last line.
        num_bytes: length of the output up to its last whole line.
    """

    last_line: int
    num_succeeded: int = 0
    num_failed: int = 0
    num_bytes: int = 0
    _done: bytearray = field(init=False)

    def __post_init__(self) -> None:
        self._done = bytearray(self.last_line + 1)

    def __len__(self) -> int:
        return self.num_succeeded + self.num_failed

    def has(self, number: int) -> bool:
        """Whether the line of this number, from 1, is done."""
        return bool(self._done[number])

    def add(self, number: int, failed: bool) -> None:
        """Note a line; once only."""
        assert not self._done[number], number
        self._done[number] = 1
        self.num_failed += failed
        self.num_succeeded += not failed


def read_finished(output: Path, index: InputIndex) -> FinishedLines:
    """Read an output; a last line that is not whole does not count.

    Raises:
        ConfigError: a line before the last is damaged, or answers no line of the input.
    """
    finished = FinishedLines(index.last_line)
    with output.open("rb") as lines:
        for place, line in enumerate(lines, start=1):
            if not line.endswith(b"\n"):
                break  # torn by a crash
            try:
                answered = decode_answered(line)
                number = answered.number(index)
            except (msgspec.DecodeError, ValueError, RecursionError):
                number = 0
            if not number or finished.has(number):
                fix = f"line {place} is damaged or not of this input: start anew with --overwrite"
                raise ConfigError("output", str(output), fix)
            finished.add(number, failed=answered.error is not None)
            finished.num_bytes += len(line)
    return finished
