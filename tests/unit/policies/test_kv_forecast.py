"""The memory forecast against a brute-force simulation of every step."""

from hypothesis import given
from hypothesis import strategies as st

from factories import make_request
from tdpipe.policies.kv_forecast import FUTURE_POINTS, KVForecast


def blocks_in_use(requests, step, block_size):
    """Every request grows by a token a step and is gone after its predicted remainder."""
    used = 0
    for request in requests:
        if step <= max(1, request.predicted_remaining):
            tokens = request.num_tokens + step
            used += len({position // block_size for position in range(tokens)})
    return used


@given(
    st.lists(st.tuples(st.integers(1, 300), st.integers(1, 900)), min_size=1, max_size=12),
    st.sampled_from([1, 8, 16]),
)
def test_usage_equals_step_by_step_simulation(sizes, block_size):
    requests = [make_request(i, prompt, out) for i, (prompt, out) in enumerate(sizes)]
    forecast = KVForecast(block_size, requests)
    for index, step in enumerate(FUTURE_POINTS):
        assert forecast.usage[index] == blocks_in_use(requests, step, block_size)
    assert forecast.peak_blocks() == max(forecast.usage)


def test_peak_with_foresees_add():
    forecast = KVForecast(16, [make_request(0, 100, 40)])
    newcomer = make_request(1, 30, 500)
    foreseen = forecast.peak_with(newcomer)
    forecast.add(newcomer)
    assert forecast.peak_blocks() == foreseen


def test_a_prediction_already_exceeded_still_counts_for_the_next_step():
    overdue = make_request(0, 32, 1)
    overdue.output_token_ids.extend([5, 5, 5])
    assert KVForecast(16, [overdue]).peak_blocks() == 3
