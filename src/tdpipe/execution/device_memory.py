"""How much memory a device has left for the KV cache, and giving back what is not needed."""

import ctypes
from contextlib import suppress

import psutil
import torch

# Left free on a CUDA device for activations and the libraries' work space.
CUDA_WORK_SPACE_BYTES = 1 << 30


def free_kv_bytes(
    device: torch.device, memory_utilization: float, num_ranks: int, ranks_on_device: int = 1
) -> int:
    """Bytes that KV caches may take, with this process's weights already loaded.

    A CUDA device gives memory_utilization of its total, less what is in use: to one process, or to
    all the ranks_on_device that share it together. They load at the same time, so the least that
    any of them reports is what is left to all (cost/memory_plan.py). On CPU the num_ranks processes
    of all stages share the machine: each may take an equal part of half of what is available.
    """
    if device.type == "cuda":
        free, total = torch.cuda.mem_get_info(device)
        kept = round((1.0 - memory_utilization) * total)
        return max(0, int(free) - kept - ranks_on_device * CUDA_WORK_SPACE_BYTES)
    return int(psutil.virtual_memory().available) // (2 * num_ranks)


def give_back_heap() -> None:
    """Hand what was freed in the heap, between what is kept, back to the system (glibc only)."""
    with suppress(AttributeError):  # another C library
        ctypes.CDLL(None).malloc_trim(0)
