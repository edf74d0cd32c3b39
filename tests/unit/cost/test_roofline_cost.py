"""The time estimate behaves as the hardware does."""

import pytest

from factories import make_cost
from tdpipe.core.batch_plan import BatchPlan, Phase, SequenceSlice
from tdpipe.cost.cost_model import decode_load, plan_load, prefill_load, slowest_stage_time_s


def test_prefill_pairs_are_the_causal_triangle():
    for start, count in [(0, 5), (3, 4), (10, 1)]:
        pairs = sum(position + 1 for position in range(start, start + count))
        assert prefill_load(start, count).prefill_pairs == pairs


def test_plan_load_adds_up():
    slices = (
        SequenceSlice(0, 0, (1, 2, 3), (0,), False),
        SequenceSlice(1, 0, (1, 2), (1,), True),
        SequenceSlice(2, 40, (9,), (), True),
    )
    load = plan_load(BatchPlan(0, Phase.MIXED, 2, slices, (), (), ""))
    assert (load.prefill_tokens, load.prefill_pairs) == (5, 9)
    assert (load.decode_sequences, load.decode_context_tokens, load.sampled) == (1, 41, 2)
    assert load.num_tokens == 6


def test_more_work_never_takes_less_time():
    cost = make_cost(2)
    times = [cost.stage_time_s(1, decode_load(n, n * 200)) for n in range(1, 300)]
    assert times == sorted(times)
    assert (
        cost.stage_time_s(0, prefill_load(0, 1024))
        > 4 * cost.stage_time_s(0, prefill_load(0, 256)) - 3 * cost.rates.batch_overhead_s - 1e-9
    )


def test_only_the_last_stage_projects():
    cost = make_cost(2)
    sampled, silent = prefill_load(0, 64), prefill_load(0, 64, samples=False)
    assert cost.stage_time_s(0, sampled) == cost.stage_time_s(0, silent)
    extra = cost.stage_time_s(1, sampled) - cost.stage_time_s(1, silent)
    assert extra == pytest.approx(cost.vocab_time_s(1))
    assert slowest_stage_time_s(cost, sampled) >= cost.stage_time_s(0, sampled)
