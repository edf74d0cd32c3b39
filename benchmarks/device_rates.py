"""What a device reaches by plain torch: copies of memory, and matrix products of given shapes."""

import time
from collections.abc import Callable
from statistics import median
from typing import Any

import torch
from torch.nn.functional import linear

from tdpipe.core.model_shape import ModelShape

REPEATS = 10


def settle(device: torch.device) -> None:
    """Wait until the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def seconds(work: Callable[[], object], device: torch.device) -> float:
    """Median seconds of one call, each waited for; the first two warm up."""
    times = []
    for _ in range(REPEATS + 2):
        settle(device)
        started_s = time.perf_counter()
        work()
        settle(device)
        times.append(time.perf_counter() - started_s)
    return median(times[2:])


def copy_bytes_per_s(device: torch.device, num_bytes: int) -> float:
    """Bytes read and written a second, when num_bytes are copied on the device."""
    source = torch.zeros(num_bytes, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return 2 * num_bytes / seconds(lambda: target.copy_(source), device)


def matmul_flops(
    device: torch.device, dtype: torch.dtype, shape: ModelShape, num_rows: int
) -> float:
    """Operations a second in the four projections of a layer, for num_rows tokens."""
    total, time_s = 0, 0.0
    for rows, columns in layer_products(shape):
        weight = torch.randn(rows, columns, device=device).to(dtype).mul_(columns**-0.5)
        x = torch.randn(num_rows, columns, device=device).to(dtype)
        time_s += seconds(lambda x=x, weight=weight: linear(x, weight), device)
        total += 2 * num_rows * rows * columns
    return total / time_s


def layer_products(shape: ModelShape) -> list[tuple[int, int]]:
    """(outputs, inputs) of the projections of a layer, as the decoder fuses them."""
    heads, kv_heads = shape.num_heads * shape.head_dim, shape.num_kv_heads * shape.head_dim
    hidden, inner = shape.hidden_size, shape.intermediate_size
    return [
        (heads + 2 * kv_heads, hidden),
        (hidden, heads),
        (2 * inner, hidden),
        (hidden, inner),
    ]


def describe(device: torch.device) -> dict[str, Any]:
    """The card, as far as this process may use it: multiprocessors are fewer under MPS."""
    if device.type != "cuda":
        return {"name": device.type}
    found = torch.cuda.get_device_properties(device)
    return {
        "name": found.name,
        "multiprocessors": found.multi_processor_count,
        "memory_gib": round(found.total_memory / 2**30, 1),
        "cuda": torch.version.cuda,
    }
