"""Batch runs on a tiny model with a random fault each: do they all end complete and clean?

    python benchmarks/faults.py --runs 200 --first-seed 0 [--at-once 2]

Writes results/faults.json after every run: seeds, faults, times to detection, problems (none).
"""

import argparse
import sys
import tempfile
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from statistics import median
from typing import Any

from byte_model import write_byte_model
from fault_runs import NUM_LINES, FaultBench, random_fault
from result_record import write_result


def main() -> int:
    """Run the faults of consecutive seeds; 1 if any run had a problem."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=200)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--at-once", type=int, default=1, help="runs that go on at a time")
    parser.add_argument("--folder", type=Path, help="for the result, instead of results/")
    parser.add_argument("--smoke", action="store_true", help="one run")
    arguments = parser.parse_args()
    num_runs = 1 if arguments.smoke else arguments.runs
    runs: list[dict[str, Any]] = []
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        model = write_byte_model(Path(folder) / "model")
        bench = FaultBench(model, Path(folder))

        def outcome_of(seed: int) -> dict[str, Any]:
            return {"seed": seed, **bench.run(random_fault(seed), f"run-{seed}")}

        seeds = range(arguments.first_seed, arguments.first_seed + num_runs)
        pool = stack.enter_context(ThreadPoolExecutor(arguments.at_once))
        for outcome in pool.map(outcome_of, seeds):
            runs.append(outcome)
            print(outcome, file=sys.stderr, flush=True)
            settings = {
                "lines": NUM_LINES,
                "first_seed": arguments.first_seed,
                "at_once": arguments.at_once,
            }
            write_result("faults", settings, figures(runs), arguments.folder)
    print(summary(runs))
    return 1 if any(run["problems"] for run in runs) else 0


def figures(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """Counts by kind of fault, times to detection in seconds, and all runs."""
    times = [run["detection_s"] for run in runs if run["detection_s"] is not None]
    return {
        "num_runs": len(runs),
        "num_with_problems": sum(bool(run["problems"]) for run in runs),
        "num_by_action": dict(sorted(Counter(run["action"] for run in runs).items())),
        "num_restarts": sum(run["restarts"] for run in runs),
        "num_resumed": sum(len(run["statuses"]) > 1 for run in runs),
        "detection_s": {
            "count": len(times),
            "median": round(median(times), 3) if times else None,
            "longest": max(times, default=None),
        },
        "runs": runs,
    }


def summary(runs: list[dict[str, Any]]) -> str:
    """The figures in a few lines."""
    made = figures(runs)
    bad = [run["seed"] for run in runs if run["problems"]]
    return (
        f"{made['num_runs']} runs, {made['num_by_action']}\n"
        f"{made['num_restarts']} restarts, {made['num_resumed']} runs resumed, "
        f"detection {made['detection_s']}\n"
        f"with problems: {bad or 'none'}"
    )


if __name__ == "__main__":
    sys.exit(main())
