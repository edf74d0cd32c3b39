"""Blocks are held once, returned once, and the integrity check notices a slip."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tdpipe.core.block_pool import STRETCH, BlockPool, blocks_for


@given(st.integers(0, 500), st.integers(1, 64))
def test_blocks_for_counts_partial_blocks(num_tokens, block_size):
    assert blocks_for(num_tokens, block_size) == len({i // block_size for i in range(num_tokens)})


def test_hold_and_give_back():
    pool = BlockPool(4)
    tables = {1: list(pool.hold(1, 2)), 2: list(pool.hold(2, 1))}
    assert tables == {1: [0, 1], 2: [2]} and pool.num_free == 1 and pool.peak_used == 3
    pool.check(tables)
    pool.give_back(1, tables.pop(1))
    pool.check(tables)
    assert pool.hold(3, 3) == (0, 1, 3)


def test_a_request_goes_on_where_its_last_block_ends():
    pool = BlockPool(3 * STRETCH)
    first, second = list(pool.hold(1, 3)), list(pool.hold(2, STRETCH - 1))
    assert first == [0, 1, 2] and second[0] == STRETCH
    first += pool.hold(1, STRETCH, first)  # at the end of its stretch, where another one begins
    assert first == [*range(STRETCH), 2 * STRETCH, 2 * STRETCH + 1, 2 * STRETCH + 2]
    second += pool.hold(2, 3, second)  # no stretch is all free: where another one would go on
    assert second[STRETCH - 1 :] == [2 * STRETCH - 1, 2 * STRETCH + 3, 2 * STRETCH + 4]
    pool.check({1: first, 2: second})
    pool.give_back(2, second)
    assert pool.hold(3, 2) == (STRETCH, STRETCH + 1)


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 9)), max_size=60), st.integers(1, 99))
def test_blocks_come_and_go(steps, num_blocks):
    """Request r takes so many blocks, or with 0 gives all of its own back."""
    pool, tables = BlockPool(num_blocks), {}
    for request, count in steps:
        table = tables.setdefault(request, [])
        if count == 0:
            pool.give_back(request, tables.pop(request))
        elif count <= pool.num_free:
            table += pool.hold(request, count, table)
        pool.check(tables)


def test_a_shared_block_counts_once_and_goes_with_its_last_holder():
    pool = BlockPool(4)
    tables = {1: list(pool.hold(1, 2)), 2: [0]}
    pool.cache(0)
    pool.join(2, [0])
    assert pool.num_used == 2 and (pool.num_holders(0), pool.num_holders(1)) == (2, 1)
    pool.check(tables)
    pool.give_back(1, tables.pop(1))
    pool.check(tables)
    assert pool.num_free == 3
    pool.give_back(2, tables.pop(2))
    pool.check(tables)
    assert pool.num_free == 4 and pool.num_holders(0) == 0


def test_idle_blocks_go_last_and_are_announced():
    pool, evicted = BlockPool(3), []
    pool.on_evict = evicted.append
    blocks = list(pool.hold(1, 2))
    for block_id in blocks:
        pool.cache(block_id)
    pool.give_back(1, blocks)
    assert pool.hold(2, 1) == (2,) and evicted == []
    assert pool.hold(3, 1) == (1,) and evicted == [1]
    pool.uncache(0)
    pool.check({2: [2], 3: [1]})
    assert pool.hold(4, 1) == (0,) and evicted == [1]


def test_slips_are_noticed():
    pool = BlockPool(4)
    table = list(pool.hold(1, 2))
    with pytest.raises(AssertionError):
        pool.check({1: table[:1]})
    with pytest.raises(AssertionError):
        pool.give_back(2, table)
    with pytest.raises(AssertionError):
        pool.join(2, table)  # not cached
    with pytest.raises(AssertionError):
        pool.check({1: table, 2: table[:1]})
    with pytest.raises(AssertionError):
        BlockPool(2).hold(1, 3)
