"""No schedule beats the bound, and on cases made for it the bound is reached."""

import pytest

from factories import make_cost, make_limits
from tdpipe.control.arrivals import TimedRequest
from tdpipe.cost.cost_model import BatchLoad
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
