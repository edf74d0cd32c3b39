"""Memory given back to the system."""

import psutil

from tdpipe.execution.device_memory import give_back_heap

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
