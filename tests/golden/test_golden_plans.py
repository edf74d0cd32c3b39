"""Golden plan replay: the same input gives the same sequence of batches, today and tomorrow.

A refactoring leaves the files unchanged; a change of a policy shows as their diff. To rewrite them:
    PYTHONPATH=tests python tests/golden/test_golden_plans.py
"""

from pathlib import Path

import pytest

from factories import make_control, make_cost, make_limits
from tdpipe.control.arrivals import ScheduledArrivals
from tdpipe.control.engine_loop import drive
from tdpipe.control.plan_recorder import PlanRecorder
from tdpipe.policies.scheduler_registry import SCHEDULERS
from tdpipe.simulation.simulated_pipeline import SimulatedPipeline
from tdpipe.simulation.workload import lognormal_lengths, requests_of_lengths

FOLDER = Path(__file__).parent / "plans"
CASES = {"roomy": (2, 4000), "tight": (2, 60), "four-stages": (4, 200)}


def plans(scheduler, case):
    num_stages, num_blocks = CASES[case]
    recorder = PlanRecorder()
    limits = make_limits(num_stages, num_blocks, max_num_batched_tokens=512)
    control = make_control(scheduler, limits, recorder=recorder)
    lengths = lognormal_lengths(24, 90, 25, longest=400, seed=7)
    source = ScheduledArrivals.all_at_once(requests_of_lengths(lengths))
    for _ in drive(control, SimulatedPipeline(make_cost(num_stages)), source):
        pass
    return "\n".join(recorder.lines) + "\n"


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_plans_are_those_recorded(scheduler, case):
    recorded = (FOLDER / f"{scheduler}.{case}.txt").read_text()
    assert plans(scheduler, case) == recorded


def test_replay_notices_a_change():
    assert plans("td-pipe", "tight") != plans("pp-separate", "tight")


if __name__ == "__main__":
    for scheduler_name in SCHEDULERS:
        for case_name in CASES:
            path = FOLDER / f"{scheduler_name}.{case_name}.txt"
            path.write_text(plans(scheduler_name, case_name))
