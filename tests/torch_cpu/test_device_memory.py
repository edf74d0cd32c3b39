"""Memory given back to the system."""

import numpy as np
import psutil

from tdpipe.execution.device_memory import give_back_heap
from tdpipe.execution.huge_pages import LINE_BYTES, STRETCH_BYTES, own_pages

PIECE, COUNT = 64 << 10, 1000  # small enough to come from the heap, 62 MiB in all


def test_what_was_freed_between_what_is_kept_goes_back():
    process = psutil.Process()
    pieces = [bytearray(PIECE) for _ in range(COUNT)]
    kept = pieces[COUNT - 1]  # above all others in the heap, which can therefore not shrink
    del pieces
    before = process.memory_info().rss
    give_back_heap()
    assert before - process.memory_info().rss > COUNT * PIECE / 2
    assert len(kept) == PIECE


def test_what_is_kept_lies_apart_and_takes_nothing_before_it_is_written():
    arrays = [own_pages((3, size), np.float32) for size in (1, 7, STRETCH_BYTES, 0, 1 << 20)]
    before = psutil.Process().memory_info().rss
    again = own_pages((STRETCH_BYTES,), np.uint8)
    assert psutil.Process().memory_info().rss - before < STRETCH_BYTES / 8
    for number, array in enumerate(arrays, 1):
        assert array.shape[0] == 3 and not array.any() and array.ctypes.data % LINE_BYTES == 0
        array[:, :8] = number
    assert all((array[:, :8] == number).all() for number, array in enumerate(arrays, 1))
    assert not again.any()
