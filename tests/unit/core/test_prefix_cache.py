"""Common beginnings: found as requests come, held together, kept for who waits, then freed."""

import pytest

from factories import make_request
from tdpipe.core.block_pool import BlockPool
from tdpipe.core.prefix_cache import PrefixCache

HEADER = tuple(range(12))  # three blocks of 4


class Cache:
    """A cache with its pool, and the life of requests as the control plane leads it."""

    def __init__(self, num_blocks=10):
        self.pool = BlockPool(num_blocks)
        self.prefixes = PrefixCache(self.pool, 4)
        self.waiting, self.resident = [], []

    def add(self, request_id, *tail, header=HEADER):
        request = make_request(request_id)
        request.prompt_token_ids = (*header, *tail)
        self.prefixes.add(request)
        self.waits(request)
        return request

    def waits(self, request):
        self.waiting.append(request)
        self.prefixes.waits(request, 1)
        self.check()

    def prefill(self, request, num_tokens=None):
        """Admit the request, if it waits, and compute its next tokens; returns how many."""
        if request in self.waiting:
            self.waiting.remove(request)
            self.prefixes.waits(request, -1)
            self.resident.append(request)
            self.prefixes.join(request)
        count = num_tokens or request.num_unscheduled
        blocks = -(-(request.num_scheduled + count) // 4) - len(request.block_ids)
        request.block_ids += self.pool.hold(request.request_id, blocks)
        request.num_scheduled += count
        self.prefixes.offer(request)
        self.check()
        return count

    def release(self, request, ended=True):
        if request in self.waiting:
            self.waiting.remove(request)
            self.prefixes.waits(request, -1)
        else:
            self.resident.remove(request)
            self.pool.give_back(request.request_id, request.block_ids)
            request.block_ids.clear()
            request.num_shared_blocks = request.num_scheduled = 0
        if ended:
            self.prefixes.remove(request)
            self.check()
        else:
            self.waits(request)

    def check(self):
        self.pool.check({one.request_id: one.block_ids for one in self.resident})
        self.prefixes.check(self.waiting, self.resident)


def test_the_second_request_computes_only_its_own():
    cache = Cache()
    first, second = cache.add(0, 90, 91), cache.add(1, 80)
    assert cache.prefixes.num_saved_tokens == 12
    assert cache.prefill(first) == 14 and cache.prefill(second) == 1
    assert first.block_ids[:3] == second.block_ids[:3] and first.block_ids[3] != second.block_ids[3]
    assert cache.pool.num_used == 5 == cache.pool.peak_used
    cache.release(first)
    assert cache.pool.num_used == 4
    cache.release(second)
    assert cache.pool.num_free == 10


def test_the_last_prompt_token_is_always_computed():
    cache = Cache()
    first, second = cache.add(0), cache.add(1)  # equal prompts that end with a block
    assert cache.prefill(first) == 12 and cache.prefill(second) == 4


def test_a_request_that_comes_late_finds_what_was_computed_alone():
    cache = Cache()
    first = cache.add(0, 90)
    assert cache.prefill(first, 8) == 8 and not cache.prefixes.path(first)
    second = cache.add(1, 80)
    assert [node.block_id for node in cache.prefixes.path(second)] == [*first.block_ids, None]
    cache.prefill(first)
    assert cache.prefill(second) == 1


def test_blocks_are_kept_for_who_waits_and_for_nobody_else():
    cache = Cache()
    first, second = cache.add(0, 90), cache.add(1, 80)
    cache.prefill(first)
    cache.release(first)
    assert (cache.pool.num_free, cache.pool.num_used) == (10, 0)
    assert cache.prefill(second) == 1 and cache.pool.num_used == 4
    cache.release(second)
    third = cache.add(2, 70)
    assert cache.prefill(third) == 13


def test_idle_blocks_are_given_away_from_the_end():
    cache = Cache(num_blocks=5)
    first, second = cache.add(0, 90), cache.add(1, 80)
    other = cache.add(2, header=range(50, 62))
    cache.prefill(first)
    cache.release(first)
    assert cache.prefixes.num_saved_blocks == 3
    cache.prefill(other)  # takes three blocks where two are free
    assert cache.prefixes.num_saved_blocks == 2
    cache.release(other)
    assert cache.prefill(second) == 5


def test_a_preempted_request_may_find_its_own_blocks_again():
    cache = Cache()
    first, second = cache.add(0, 90), cache.add(1, 80)
    cache.prefill(first)
    cache.release(first, ended=False)
    assert cache.prefixes.num_saved_tokens == 2 * 12
    assert cache.prefill(first) == 1
    cache.release(second)
    cache.release(first)
    assert cache.pool.num_free == 10


def test_branches_below_a_common_beginning():
    cache = Cache(30)
    other = (*HEADER[:4], *range(30, 38))
    requests = [cache.add(0, 1, 2), cache.add(1, 3, header=other), cache.add(2, 4)]
    requests.append(cache.add(3, 5, header=other))
    assert [one.request_id for one in cache.prefixes.grouped(requests)] == [0, 2, 1, 3]
    assert [cache.prefill(one) for one in requests] == [14, 9, 1, 1]


def test_unlike_requests_keep_their_order():
    cache = Cache()
    requests = [cache.add(i, header=range(i, i + 9)) for i in (3, 1, 2)]
    assert cache.prefixes.grouped(requests) == requests
    assert cache.prefixes.num_saved_tokens == 0 and not cache.prefixes.path(requests[0])


def test_clear_drops_all_cached_blocks():
    cache = Cache()
    first, second = cache.add(0, 90), cache.add(1, 80)
    cache.prefill(first)
    with pytest.raises(AssertionError):
        cache.prefixes.clear()
    cache.release(first, ended=False)
    cache.prefixes.clear()
    cache.check()
    assert cache.prefill(second) == 13 and cache.prefill(first) == 1


def test_what_two_compute_at_once_is_cached_once():
    cache = Cache()
    first, second = cache.add(0, 90), cache.add(1, 80)
    cache.prefill(first, 2)
    cache.prefill(second, 2)
    cache.prefill(first, 4)
    cache.prefill(second)  # its first block is its own, so what follows is too
    cache.prefill(first)
    assert (first.num_shared_blocks, second.num_shared_blocks) == (3, 0)
    assert cache.pool.num_used == 8


def test_slips_are_noticed():
    cache = Cache()
    first, second = cache.add(0, 90), cache.add(1, 80)
    cache.prefill(first)
    cache.prefill(second)
    cache.prefixes.path(first)[1].num_users = 1
    with pytest.raises(AssertionError):
        cache.check()
