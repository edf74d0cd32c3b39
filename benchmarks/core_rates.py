"""What each core reaches while all stages' cores are at the same work: products and reads.

Cores of one machine share caches, memory and often a physical core (two virtual ones are then two
threads of it), so one alone is faster than all of them can be at a time.
"""

import multiprocessing
import os
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing.synchronize import Barrier
from statistics import mean
from typing import NamedTuple

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported: one core is one stage

import torch
from torch import nn

from tdpipe.execution.models.projection import Projection

LEAST_CALLS = 5
START_TIMEOUT_S = 120
_barrier: Barrier | None = None  # of the processes that measure together


class Work(NamedTuple):
    """What is measured: products of these shapes (inputs, outputs) with so many rows, and reads."""

    shapes: dict[str, tuple[int, int]]
    rows: tuple[int, ...]
    int8: bool
    read_bytes: int
    seconds_each: float


class Rates(NamedTuple):
    """Of one core: operations a second by shape and number of rows, and bytes read a second."""

    products: dict[str, dict[int, float]]
    read_bytes_per_s: float


def core_rates(work: Work, cores: int) -> Rates:
    """Mean rates of a core while so many do the same, each in a process of its own."""
    context = multiprocessing.get_context("spawn")
    chosen = sorted(os.sched_getaffinity(0))[-cores:]
    barrier = context.Barrier(cores)
    with ProcessPoolExecutor(cores, context, _join, (barrier,)) as processes:
        of_cores = list(processes.map(_rates_of, chosen, [work] * cores))
    products = {
        name: {count: mean(one.products[name][count] for one in of_cores) for count in work.rows}
        for name in work.shapes
    }
    return Rates(products, mean(one.read_bytes_per_s for one in of_cores))


def _join(barrier: Barrier) -> None:
    """Begin the process of a core."""
    global _barrier
    _barrier = barrier
    torch.set_num_threads(1)


def _rates_of(core: int, work: Work) -> Rates:
    """The rates of this core; every process does the same at the same time."""
    os.sched_setaffinity(0, {core})
    with torch.inference_mode():
        products = {
            name: _product_rates(inputs, outputs, work)
            for name, (inputs, outputs) in work.shapes.items()
        }
        values = torch.ones(work.read_bytes // 4)
        read_s = _best_s(lambda: values.sum(), work.seconds_each)
    return Rates(products, work.read_bytes / read_s)


def _product_rates(inputs: int, outputs: int, work: Work) -> dict[int, float]:
    """Operations a second by number of rows."""
    projection = Projection(inputs, outputs)
    projection.weight = nn.Parameter(torch.randn(outputs, inputs) / inputs, False)
    if work.int8:
        projection.quantize()
    else:
        projection.pack()
    rates = {}
    for count in work.rows:
        x = torch.randn(count, inputs)
        took_s = _best_s(lambda x=x: projection(x), work.seconds_each)
        rates[count] = 2.0 * count * inputs * outputs / took_s
    return rates


def _best_s(function: Callable[[], object], seconds: float) -> float:
    """The least time of a call, repeated for about that long while the other cores do the same.

    The last calls may be without company, so they are not looked at.
    """
    function()
    times: list[float] = []
    assert _barrier is not None
    _barrier.wait(START_TIMEOUT_S)
    started_s = time.perf_counter()
    while time.perf_counter() < started_s + seconds or len(times) < LEAST_CALLS:
        before_s = time.perf_counter()
        function()
        times.append(time.perf_counter() - before_s)
    return min(times[: -len(times) // LEAST_CALLS])
