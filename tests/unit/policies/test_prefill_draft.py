"""What prompts have in common costs a batch, and a forecast, nothing twice."""

import pytest

from factories import make_control, make_limits, make_new, make_request, make_state
from fakes import PagedExecutor
from tdpipe.control.arrivals import ScheduledArrivals
from tdpipe.control.engine_loop import drive
from tdpipe.policies.kv_forecast import KVForecast, expected_blocks
from tdpipe.policies.kv_timeline import KVTimeline
from tdpipe.policies.policy import PrefillChunk
from tdpipe.policies.prefill_draft import PrefillDraft
from tdpipe.policies.scheduler_registry import SCHEDULERS
from tdpipe.policies.shared_blocks import SharedBlocks


def state_of(*lengths, num_blocks=20):
    """Waiting requests, each of which begins as the longer ones do, in blocks of 4."""
    requests = [make_request(index, length) for index, length in enumerate(lengths)]
    state = make_state(make_limits(num_blocks=num_blocks, block_size=4), requests)
    for request in requests:
        state.prefixes.add(request)
        state.prefixes.waits(request, 1)
        state.num_waiting_tokens += request.num_tokens
    return state


def admit(state, request, num_tokens):
    """As the control plane does."""
    del state.waiting[request.request_id]
    state.prefixes.waits(request, -1)
    state.resident[request.request_id] = request
    state.prefixes.join(request)
    count = state.blocks_needed(request, num_tokens)
    request.block_ids += state.pool.hold(request.request_id, count)
    request.num_scheduled += num_tokens
    request.prefill_target = request.num_tokens
    state.prefixes.offer(request)


def test_the_second_prompt_of_a_batch_costs_what_is_its_own():
    state = state_of(15, 14)
    draft = PrefillDraft(state)
    first, second = state.waiting.values()
    assert (draft.tokens_left(second), draft.blocks(second)) == (14, 4)
    draft.add(first)
    assert (draft.start(second), draft.tokens_left(second), draft.blocks(second)) == (12, 2, 1)
    draft.add(second)
    assert draft.chunks == [PrefillChunk(0, 0, 15), PrefillChunk(1, 12, 2)]
    assert draft.free_blocks == 20 - 5 and draft.num_tokens == 17


def test_a_chunk_gives_what_it_completes():
    state = state_of(15, 14)
    draft = PrefillDraft(state)
    first, second = state.waiting.values()
    draft.add(first, 9)
    assert draft.start(second) == 8 and draft.room_tokens(second) == 17 * 4


def test_a_prefill_that_goes_on_gives_too():
    state = state_of(15, 14)
    first, second = state.waiting.values()
    admit(state, first, 6)
    draft = PrefillDraft(state)
    assert (draft.start(second), draft.start(first), draft.room_tokens(first)) == (4, 6, 74)
    draft.add(first)
    assert draft.start(second) == 12 and draft.free_blocks == 16
    assert draft.chunks == [PrefillChunk(0, 6, 9)]


def test_idle_blocks_count_as_taken_once():
    state = state_of(15, 14, 13)
    first, second, third = state.waiting.values()
    admit(state, first, 15)
    state.pool.give_back(0, state.resident.pop(0).block_ids)
    draft = PrefillDraft(state)
    assert draft.free_blocks == 20 and draft.room_tokens(second) == 17 * 4
    assert (draft.tokens_left(second), draft.blocks(second)) == (2, 4)
    draft.add(second)
    assert (draft.tokens_left(third), draft.blocks(third), draft.free_blocks) == (1, 1, 16)


def test_tokens_to_prefill_count_a_prefix_once():
    state = state_of(15, 14, 13)
    assert state.num_waiting_tokens == 42 and state.num_tokens_to_prefill == 42 - 2 * 12


@pytest.mark.parametrize("usage", [expected_blocks, None])
def test_forecasts_count_a_prefix_once(usage):
    state = state_of(15, 14)
    requests = list(state.waiting.values())
    parts = [usage] if usage else []
    forecast = KVForecast(4, requests, *parts, shared=SharedBlocks(state))
    # In 4 tokens (15 + 4) and (14 + 4) are 5 blocks each, and 3 of them are the same.
    assert KVForecast(4, requests, *parts).usage[0] == 4 + 4
    assert forecast.usage[0] == 4 + 4 - 3
    one = KVForecast(4, requests[:1], *parts, shared=SharedBlocks(state))
    assert one.peak_with(requests[1]) == forecast.peak_blocks()


def test_the_timeline_counts_a_prefix_once():
    state = state_of(15, 14)
    first, second = state.waiting.values()
    alike, unlike = (KVTimeline(4, lambda request: 4) for _ in range(2))
    alike.rebuild([first, second], [4, 4], 4, SharedBlocks(state))
    unlike.rebuild([first, second], [4, 4], 4)
    assert max(unlike.blocks) - max(alike.blocks) == 3
    grown = KVTimeline(4, lambda request: 4)
    grown.rebuild([first], [4], 4, SharedBlocks(state))
    peak = grown.peak_with(second, 10**6)
    grown.add(second)
    assert peak == max(grown.blocks) == max(alike.blocks)


@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_more_requests_fit_at_once(scheduler):
    """A header of 6 blocks and 2 of their own: of 20 requests 7 would fit without sharing."""
    limits = make_limits(num_blocks=60, block_size=4)
    control = make_control(scheduler, limits, prefix_caching=True)
    executor = PagedExecutor(2, 60, 4)
    most = 0
    for _ in drive(
        control,
        executor,
        ScheduledArrivals.all_at_once([make_new(index, 25, 6) for index in range(20)]),
    ):
        most = max(most, len(control.state.resident))
    assert most == 20 and control.state.pool.peak_used == 6 + 20 * 2
    assert control.state.num_preemptions == 0
