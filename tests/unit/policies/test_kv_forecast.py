"""The memory forecast against a brute-force simulation of every step."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from factories import make_request
from tdpipe.policies.kv_forecast import FUTURE_POINTS, KVForecast, expected_blocks


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


@given(
    st.lists(st.integers(1, 900), min_size=1, max_size=10), st.integers(1, 300), st.integers(0, 500)
)
def test_a_distribution_is_the_mean_over_what_is_not_outlived(lengths, num_prompt, generated):
    request = make_request(0, num_prompt, predicted=40, max_tokens=900)
    request.output_token_ids.extend([5] * generated)
    request.length_quantiles = tuple(sorted(lengths))
    alive = [length for length in lengths if length > generated]
    alike = []
    for length in alive or [40]:
        alike.append(make_request(0, num_prompt, predicted=length))
        alike[-1].output_token_ids.extend([5] * generated)
    forecast = KVForecast(16, [request], expected_blocks)
    for index, step in enumerate(FUTURE_POINTS):
        mean = blocks_in_use(alike, step, 16) / len(alike)
        assert forecast.usage[index] == pytest.approx(mean)
