"""Greedy prefill admits by the future, not by the present."""

from factories import add_resident, make_limits, make_request, make_state
from tdpipe.policies.greedy_prefill import GreedyPrefill
from tdpipe.policies.kv_forecast import KVForecast


def admitted_in_all(state, greedy):
    """Request ids of all batches of a phase, without running them."""
    return [[request.request_id for request in batch] for batch in greedy.would_admit(state)]


def test_batches_close_at_saturation():
    waiting = [make_request(i, 100, 4) for i in range(5)]
    state = make_state(make_limits(num_blocks=400), waiting)
    greedy = GreedyPrefill(saturation_tokens=192)
    forecast = KVForecast(16)
    assert [r.request_id for r in greedy.next_batch(state, forecast)] == [0, 1]
    assert admitted_in_all(state, greedy) == [[0, 1], [2, 3], [4]]


def test_short_outputs_admit_more_than_long_ones():
    limits = make_limits(num_blocks=100)
    short = make_state(limits, [make_request(i, 64, 16) for i in range(100)])
    long = make_state(limits, [make_request(i, 64, 1024) for i in range(100)])
    greedy = GreedyPrefill()
    assert sum(map(len, admitted_in_all(short, greedy))) == 17  # 5 blocks each, 90 not reached
    assert sum(map(len, admitted_in_all(long, greedy))) == 1  # 68 blocks at the end


def test_residents_count_with_what_they_still_need():
    state = make_state(make_limits(num_blocks=100), [make_request(1, 64, 16)])
    add_resident(state, make_request(0, 64, 1290))
    greedy = GreedyPrefill()
    forecast = KVForecast(16, state.resident.values())
    assert forecast.peak_blocks() == 69  # the point 1024 is the last before its end
    assert len(greedy.next_batch(state, forecast)) == 1
    state.limits = make_limits(num_blocks=76)
    assert greedy.next_batch(state, KVForecast(16, state.resident.values())) == []


def test_a_lone_request_that_fits_the_cache_is_never_locked_out():
    state = make_state(make_limits(num_blocks=10), [make_request(0, 100, 60)])
    assert len(GreedyPrefill().next_batch(state, KVForecast(16))) == 1


def test_prompt_blocks_must_be_free_now():
    state = make_state(make_limits(num_blocks=100), [make_request(1, 320, 4)])
    add_resident(state, make_request(0, 16 * 90, 1))
    state.resident[0].output_token_ids.clear()
    assert GreedyPrefill(threshold=10.0).next_batch(state, KVForecast(16)) == []


def test_batches_keep_to_the_limits_and_the_what_if_makes_the_same():
    state = make_state(
        make_limits(4, 10_000, max_num_seqs=2, max_num_batched_tokens=300),
        [make_request(i, n, 4) for i, n in enumerate((100, 250, 40, 10, 8, 8))],
    )
    # 100 + 250 are too many tokens; 40 would be the third prompt after 250 is saturated.
    expected = [[0], [1], [2, 3], [4, 5]]
    rule = GreedyPrefill()
    planned = [[one.request_id for one in batch] for batch in rule.would_admit(state)]
    assert planned == expected
    forecast = KVForecast(16)
    for ids in expected:
        batch = rule.next_batch(state, forecast)
        assert [one.request_id for one in batch] == ids
        for request in batch:
            del state.waiting[request.request_id]
