"""Dealing requests into lanes."""

from hypothesis import given
from hypothesis import strategies as st

from tdpipe.core.lanes import deal, keep_only


@given(st.integers(0, 100), st.integers(1, 8))
def test_lanes_are_equal_and_complete(count, num_lanes):
    lanes = deal(range(count), num_lanes)
    sizes = [len(batch) for batch in lanes.batches]
    assert len(sizes) == num_lanes and max(sizes) - min(sizes) <= 1
    assert [i for batch in lanes.batches for i in batch] == list(range(count))
    assert lanes.num_requests == count


def test_keep_only_keeps_order():
    assert keep_only([3, 1, 2], {1: None, 3: None}) == [3, 1]
    assert keep_only([3, 1, 2], [2, 3]) == [3, 2]
