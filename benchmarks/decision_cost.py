"""What deciding costs: time in a scheduler's plan() as a share of the run that it plans.

    python benchmarks/decision_cost.py [--requests 5000]

The paper's nodes of 4 devices, ShareGPT-like requests, noisy predictor: simulated runs, in which
the scheduler's time on the core is measured and the run's is the simulated one. In a real run the
engine decides while the stages work, so that this is time that it needs, not time that is lost.
Quiet machines tell more.
"""

import argparse
import itertools
import time
from pathlib import Path
from typing import Any

from paper import NODES, PIPELINE, Cell, make_workload
from result_record import ROOT, write_result
from tdpipe.core.engine_state import EngineState
from tdpipe.cost.hardware_catalogue import find_device
from tdpipe.cost.model_catalogue import find_model
from tdpipe.cost.placement import place
from tdpipe.policies.policy import Choice, Policy
from tdpipe.policies.scheduler_registry import make_scheduler
from tdpipe.simulation.predictor_choice import make_predictor
from tdpipe.simulation.scenario import Scenario
from tdpipe.simulation.simulated_run import simulate
from tdpipe.simulation.workload import timed_requests_of


class TimedPolicy:
    """A policy and the time that its decisions took.

    Attributes:
        decision_s: seconds on the core, of all decisions.
        num_decisions: calls of plan().
    """

    def __init__(self, policy: Policy) -> None:
        self.policy = policy
        self.decision_s = 0.0
        self.num_decisions = 0

    def plan(self, state: EngineState, now_s: float) -> Choice | None:
        """The policy's own plan."""
        start_s = time.thread_time()
        choice = self.policy.plan(state, now_s)
        self.decision_s += time.thread_time() - start_s
        self.num_decisions += 1
        return choice


def measure(cell: Cell) -> dict[str, Any]:
    """Simulate a cell; what its decisions cost."""
    placement = place(find_model(cell.model), find_device(cell.device), cell.num_devices)
    workload = make_workload(cell)
    scenario = Scenario(placement, workload)
    cost = placement.cost()
    outputs = [output for _, output in workload.lengths()]
    policy = TimedPolicy(make_scheduler(cell.scheduler, cost))
    result = simulate(
        timed_requests_of(workload), policy, cost, scenario.limits(),
        make_predictor(scenario.predictor, outputs), output_tokens=outputs,
    )  # fmt: skip
    return {
        "device": cell.device,
        "model": cell.model,
        "scheduler": cell.scheduler,
        "num_batches": result.num_batches,
        "num_decisions": policy.num_decisions,
        "decision_s": policy.decision_s,
        "makespan_s": result.makespan_s,
        "share": policy.decision_s / result.makespan_s,
    }


def main() -> None:
    """Measure, print and record."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=5000)
    parser.add_argument("--smoke", action="store_true", help="50 requests")
    parser.add_argument("--folder", type=Path, help="where to write, instead of results/")
    options = parser.parse_args()
    requests = 50 if options.smoke else options.requests
    rows = []
    for (device, model), scheduler in itertools.product(NODES, PIPELINE):
        row = measure(Cell(device, model, 4, "sharegpt", requests, scheduler))
        rows.append(row)
        print(
            f"4x {device:14} {model:12} {scheduler:18} {row['num_batches']:6} batches, "
            f"{row['decision_s'] / row['num_decisions'] * 1e6:6.0f} us a decision, "
            f"{row['share']:.2%} of {row['makespan_s']:.0f} s",
            flush=True,
        )
    path = write_result("decision_cost", {"requests": requests}, {"runs": rows}, options.folder)
    print(path.relative_to(ROOT) if path.is_relative_to(ROOT) else path)


if __name__ == "__main__":
    main()
