"""No schedule beats the bound, and on cases made for it the bound is reached."""

import pytest

from factories import make_cost, make_limits
from tdpipe.control.arrivals import TimedRequest
from tdpipe.cost.cost_model import BatchLoad
from tdpipe.cost.profile_table import ProfileTable
from tdpipe.cost.profiled_cost import ProfiledCost, StageProfile
from tdpipe.policies.scheduler_registry import SCHEDULERS, make_scheduler
from tdpipe.prediction.oracle import OraclePredictor
from tdpipe.simulation.lower_bound import lower_bound
from tdpipe.simulation.simulated_run import simulate
from tdpipe.simulation.workload import lognormal_lengths, requests_of_lengths


class PerToken:
    """One second a token and stage, nothing else."""

    num_stages = 2

    def stage_time_s(self, stage, load):
        return float(load.num_tokens)

    def transfer_time_s(self, num_tokens):
        return 0.0


class PerBatch(PerToken):
    """One second a batch and stage, whatever its size: the weights' read."""

    def stage_time_s(self, stage, load):
        return 1.0


def profiled(dense, decode, **rates):
    """Two measured stages of (tokens, seconds) points; the last one samples at the rates."""
    tables = [ProfileTable(*zip(*points, strict=True)) for points in (dense, decode)]
    reads = {"pair_s": 1e-7, "kv_token_s": 1e-6}
    return ProfiledCost(
        (StageProfile(*tables, **reads), StageProfile(*tables, **reads, **rates)),
        link_latency_s=1e-3,
        link_token_s=1e-6,
        layers=(1, 1),
    )


# Decode steps that are cheaper than as many tokens of a prefill, and dearer ones; the time per
# token is least at a point that is no power of two, as a large batch falls out of the cache.
DENSE = ((8, 0.010), (96, 0.050), (512, 0.600))
CHEAP_STEPS = ((1, 0.004), (24, 0.010), (64, 0.080))
DEAR_STEPS = ((1, 0.020), (24, 0.080), (64, 0.200))


def run(lengths, cost, scheduler="pp-hybrid", num_blocks=400):
    limits = make_limits(cost.num_stages, num_blocks)
    requests = [TimedRequest(0.0, request) for request in requests_of_lengths(lengths)]
    oracle = OraclePredictor([output for _, output in lengths])
    return simulate(requests, make_scheduler(scheduler, make_cost(2)), cost, limits, oracle)


def test_work_bound_by_hand():
    bound = lower_bound([(5, 4), (7, 1)], PerToken(), 10**6)
    # 12 prompt tokens and 3 decode steps, and one token through the other stage.
    assert bound.compute_s == 16
    assert bound.name == "compute"


def test_chain_bound_by_hand():
    bound = lower_bound([(5, 40), (7, 1)], PerBatch(), 10**6)
    assert (bound.name, bound.seconds) == ("chain", 80)  # 40 passes through two stages
    assert run([(5, 40), (7, 1)], PerBatch()).makespan_s == 80


def test_memory_bound_by_hand():
    # Each request holds 10 + 11 + ... tokens over its steps; two fit at a time.
    lengths = [(10, 11)] * 50
    held = 10 + sum(range(11, 21))
    assert lower_bound(lengths, PerBatch(), 40).memory_s == pytest.approx(2 * 50 * held / 40)


def test_what_was_cached_counts_nowhere():
    lengths = [(10, 11), (10, 11)]
    first, second = (10 + sum(range(11, 21)), 2 + sum(range(3, 13)))
    bound = lower_bound(lengths, PerBatch(), 40, [0, 8])
    assert bound.memory_s == pytest.approx(2 * (first + second) / 40)
    assert lower_bound([(5, 4), (7, 1)], PerToken(), 10**6, [0, 6]).compute_s == 16 - 6


@pytest.mark.parametrize("scheduler", SCHEDULERS)
@pytest.mark.parametrize("num_blocks", [60, 400, 5000])
def test_no_schedule_is_faster(scheduler, num_blocks):
    cost = make_cost(2)
    lengths = lognormal_lengths(60, 60, 40, longest=300)
    bound = lower_bound(lengths, cost, num_blocks * 16)
    result = run(lengths, cost, scheduler, num_blocks)
    assert bound.seconds <= result.makespan_s < 4 * bound.seconds
    assert max(result.busy_shares) <= 1
    assert result.output_tokens == sum(output for _, output in lengths)


def test_time_per_token_is_the_best_there_is():
    cost = make_cost(2)
    bound = lower_bound([(1000, 1)], cost, 10**6)
    assert bound.compute_s < cost.stage_time_s(0, BatchLoad(prefill_tokens=1000)) * 2


@pytest.mark.parametrize("scheduler", SCHEDULERS)
@pytest.mark.parametrize("steps", [CHEAP_STEPS, DEAR_STEPS], ids=["cheap", "dear"])
def test_no_schedule_is_faster_on_measured_stages(scheduler, steps):
    cost = profiled(DENSE, steps, row_s=2e-4, projection_s=3e-3)
    lengths = lognormal_lengths(60, 60, 40, longest=300)
    bound = lower_bound(lengths, cost, 400 * 16)
    assert bound.seconds <= run(lengths, cost, scheduler).makespan_s < 8 * bound.seconds


def test_a_decode_token_counts_as_the_cheaper_of_two_ways():
    lengths = [(96, 2)] * 48  # 48 prompts of the best size, 48 decodes
    prompts_s = 48 * (0.050 + 96 * 97 / 2 * 1e-7) + 48 * 97 * 1e-6

    def work_s(steps, **rates):
        bound = lower_bound(lengths, profiled(DENSE, steps, **rates), 10**9).compute_s
        return bound - 0.010 - 0.001001 - prompts_s  # a chunk on the first stage, the link

    assert work_s(CHEAP_STEPS) == pytest.approx(2 * 0.010)
    assert work_s(DEAR_STEPS) == pytest.approx(48 * 0.050 / 96)
    rates = {"row_s": 1e-4, "projection_s": 1.0}  # rows that a decode step samples cost nothing
    rows_s = 48 * (1e-4 + 1 / 65536)
    assert work_s(CHEAP_STEPS, **rates) == pytest.approx(2 * 0.010 + rows_s)


def test_a_decode_step_has_no_more_sequences_than_there_are():
    cost = profiled(((1, 0.1), (2, 0.2)), ((1, 0.010), (1001, 0.020)))
    answers, prompts = (lower_bound([(8, n)] * 4, cost, 10**9).compute_s for n in (100, 1))
    reads_s = 4 * sum(range(9, 108)) * 1e-6
    assert answers - prompts == pytest.approx(99 * 0.01003 + reads_s)
