"""A core's rate in a layer's matrix products, by number of rows: our kernels beside libraries'.

    python benchmarks/projection_rates.py [--rounds 3]

The projections of so many layers of the embedded model that no cache holds them are gone through
in order, as a decode step does, by each layout of the weights in turn; one core. Writes
benchmarks/results/projection_rates.json and prints a table.
"""

import argparse
import json
import os
import sys
import time
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from limit import shapes_of
from make_tables import TABLES
from result_record import write_result
from tdpipe.execution import int8_kernels
from tdpipe.execution.huge_pages import with_huge_pages
from tdpipe.execution.models.model_source import resolve_model
from tdpipe.execution.models.packed_weights import (
    FloatPanels,
    Int8Panels,
    PackedWeights,
    ReorderedInt8,
    ReorderedWeights,
)
from tdpipe.execution.row_kernels import FloatArray

MODEL = "smollm2-135m-instruct"
LAYERS, ROWS = 15, (1, 4, 8, 16, 32, 64, 256, 1024)
SECONDS_EACH = 0.3


class PlainWeights:
    """Weights as they are, for torch's own product."""

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        self._weight, self._bias = weight, bias

    def multiply(self, x: FloatArray) -> FloatArray:
        """[rows, in] -> [rows, out]"""
        return functional.linear(torch.from_numpy(x), self._weight, self._bias).numpy()


def layouts(weight: Tensor) -> dict[str, PackedWeights]:
    """The same weights [out, in] in each form that this processor has."""
    scales = weight.abs().amax(dim=1) / 63
    rounded = (weight / scales[:, None]).round().to(torch.int8)
    found: dict[str, PackedWeights] = {
        "tdpipe": FloatPanels(weight, None),
        "oneDNN": ReorderedWeights(weight, None),
        "torch": PlainWeights(weight, None),
        "oneDNN int8": ReorderedInt8(rounded, scales, None),
    }
    if int8_kernels.is_available():
        found["tdpipe int8"] = Int8Panels(rounded, scales, None)
    return found


def main() -> None:
    """Measure, write, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--smoke", action="store_true", help="one layer, few rows")
    parser.add_argument("--folder", type=Path, help="where to write, instead of results/")
    options = parser.parse_args()
    huge_pages = with_huge_pages(os.environ)  # as stages have them; only a new process gets them
    if huge_pages:
        os.execve(sys.executable, [sys.executable, *sys.argv], os.environ | huge_pages)
    rows = ROWS[1:3] if options.smoke else ROWS
    seconds = 0.0 if options.smoke else SECONDS_EACH
    torch.set_num_threads(1)
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {max(cores)})
    shapes = shapes_of(resolve_model(MODEL).folder)
    del shapes["vocabulary"]  # once a batch, not in each layer
    matrices = [
        layouts(torch.randn(outputs, inputs) / inputs)
        for _ in range(1 if options.smoke else LAYERS)
        for inputs, outputs in shapes.values()
    ]
    operations = 2 * sum(a * b for a, b in shapes.values()) * len(matrices) / len(shapes)
    runs: dict[str, dict[int, list[float]]] = {name: {} for name in matrices[0]}
    with torch.inference_mode():
        for count in rows:
            inputs = [torch.randn(count, size).numpy() for size, _ in shapes.values()]
            for _ in range(options.rounds):
                for name, found in runs.items():
                    chosen = [one[name] for one in matrices]
                    took_s = seconds_of(chosen, inputs, seconds)
                    found.setdefault(count, []).append(operations * count / took_s)
    os.sched_setaffinity(0, cores)
    settings = {"rounds": options.rounds, "layers": LAYERS, "smoke": options.smoke}
    rates = {name: {n: median(all_) for n, all_ in found.items()} for name, found in runs.items()}
    figures: dict[str, Any] = {"operations_per_s": rates, "runs": runs}
    path = write_result("projection_rates", settings, figures, options.folder)
    print(TABLES["projection_rates"](json.loads(path.read_text())))


def seconds_of(weights: list[PackedWeights], inputs: list[FloatArray], at_least_s: float) -> float:
    """The median time of all products in order, the first pass not counted."""
    times: list[float] = []
    end_s = time.perf_counter() + at_least_s
    while len(times) < 3 or time.perf_counter() < end_s:
        before_s = time.perf_counter()
        for at, one in enumerate(weights):
            one.multiply(inputs[at % len(inputs)])
        times.append(time.perf_counter() - before_s)
    return median(times[1:])


if __name__ == "__main__":
    main()
