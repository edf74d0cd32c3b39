"""Memory of stages on CPU in pages of 2 MiB instead of 4 KiB.

Weights and KV cache are read whole again and again, and of small pages a core remembers the
addresses of a few MiB only. Linux gives large ones where a program asks for them; the C library
asks for all that it allocates if its tunable says so (glibc 2.35 and newer, others ignore it).
"""

import math
import mmap
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import numpy as np
import numpy.typing as npt

TUNABLES = "GLIBC_TUNABLES"
NAME = "glibc.malloc.hugetlb"
ASK = f"{NAME}=1"  # 1: transparent ones, as far as there are any


def with_huge_pages(environment: Mapping[str, str]) -> dict[str, str]:
    """What a process needs in its environment besides this one; a user's own choice stays."""
    given = environment.get(TUNABLES, "")
    if NAME in given:
        return {}
    return {TUNABLES: f"{given}:{ASK}" if given else ASK}


# What is kept is cut from stretches of this size, one after the other, so that large pages hold the
# end of one array and the begin of the next. What is not used of a stretch takes no memory.
STRETCH_BYTES, LINE_BYTES = 1 << 26, 64
_stretch: "tuple[mmap.mmap, int] | None" = None  # the last one, and where it is free


def own_pages(shape: tuple[int, ...], kind: npt.DTypeLike) -> npt.NDArray[Any]:
    """Zeros in memory straight from the system, for what a process keeps and reads again and again.

    In the heap they would lie among what comes and goes, and giving that back would break up the
    large pages. Pages cost neither time nor memory until they are written to.
    """
    global _stretch
    count, kind = math.prod(shape), np.dtype(kind)
    size = -(-count * kind.itemsize // LINE_BYTES) * LINE_BYTES
    if _stretch is None or _stretch[1] + size > len(_stretch[0]):
        _stretch = _from_system(max(STRETCH_BYTES, size)), 0
    memory, at = _stretch
    _stretch = memory, at + size
    return np.frombuffer(memory, kind, count, offset=at).reshape(shape)


def _from_system(size: int) -> mmap.mmap:
    memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if hasattr(mmap, "MADV_HUGEPAGE"):
        with suppress(OSError):  # a system without them
            memory.madvise(mmap.MADV_HUGEPAGE)
    return memory
