"""Whether `tdpipe plan` picks the fastest: its pick against an exhaustive simulation.

    python benchmarks/plan_check.py [--cells 'L20/*/sharegpt,A100*/reasoning'] [--processes 2]
    python benchmarks/plan_check.py --again    # plan anew, against the simulations on file

A cell is one of the paper's nodes of 4 devices with one of the six workloads of paper.py. The
search has every layout of P stages of T ranks that fits, pipelines with the balanced partition and
with up to two layers more or less on the last stage, and every scheduler; `plan` itself tries a
few schedulers, on one partition of each layout and on those beside the best.

A candidate is left out only where its lower bound is no faster than the best time simulated so
far. It could not have won, so the best is the best of all of them.

Both sides simulate the requests that `plan` simulates: all, or a sample where all are too many,
which drops about a fifth of the two largest workloads. With --full it is all of them, and the pick
is simulated on them once more.

Simulated times are deterministic; the seconds that `plan` takes are those of this machine, with
--processes cells at a time. The command uses every core, here each search has one, so that its
time on the core says more on a busy machine.
"""

import argparse
import json
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from fnmatch import fnmatch
from functools import partial
from pathlib import Path
from typing import Any

from paper import NODES, PIPELINE, WORKLOADS, Cell, make_workload
from result_record import RESULTS, ROOT, write_result
from tdpipe.core.errors import CapacityError
from tdpipe.cost.hardware_catalogue import find_device
from tdpipe.cost.model_catalogue import find_model
from tdpipe.cost.partition import spread_layers
from tdpipe.cost.placement import Placement
from tdpipe.policies.scheduler_registry import TENSOR_PARALLEL
from tdpipe.simulation.layouts import layout_name, layouts, schedulers_for
from tdpipe.simulation.plan import Basis, Plan, PlanQuestion
from tdpipe.simulation.plan_search import PlanSearch
from tdpipe.simulation.scenario import Scenario

NUM_DEVICES = 4
SCHEDULERS = (*PIPELINE, *TENSOR_PARALLEL)
# Layers more on the last stage than in the balanced partition.
LAST_STAGE_LAYERS = (0, -1, 1, -2, 2)


@dataclass(frozen=True, slots=True, eq=False)
class Candidate:
    """A scenario with a scheduler, and the seconds that it takes at least."""

    scenario: Scenario
    scheduler: str
    bound_s: float

    def record(self, makespan_s: float) -> dict[str, Any]:
        """What the result file says of it."""
        placement = self.scenario.placement
        return {
            "layout": layout_name(placement),
            "layers": list(placement.layers),
            "scheduler": self.scheduler,
            "makespan_s": makespan_s,
        }


def cell_name(cell: Cell) -> str:
    """Such as L20/llama-2-13b/sharegpt."""
    return f"{cell.device}/{cell.model}/{cell.workload}"


def cells(patterns: Sequence[str], scale: float) -> list[Cell]:
    """The cells whose names match one of the patterns."""
    found = [
        Cell(device, model, NUM_DEVICES, workload, int(requests * scale), "")
        for device, model in NODES
        for workload, requests in WORKLOADS.items()
    ]
    return [cell for cell in found if any(fnmatch(cell_name(cell), one) for one in patterns)]


def neighbourhood(placement: Placement) -> Iterator[Placement]:
    """The placement, and those with a few layers more or less on the last stage."""
    num_layers, num_stages = sum(placement.layers), len(placement.layers)
    for more in LAST_STAGE_LAYERS if num_stages > 1 else (0,):
        last = placement.layers[-1] + more
        if 1 <= last <= num_layers - (num_stages - 1):
            yield replace(placement, layers=spread_layers(num_layers, num_stages, last))


def candidates(search: PlanSearch, ranking: list[Plan], full: bool) -> list[Candidate]:
    """All there are, those of `plan` among them; first those that may be fastest."""
    question = search.question
    balanced = layouts(question.shape, question.device, NUM_DEVICES)
    placements = [near for one in balanced for near in neighbourhood(one)]
    placements += [plan.scenario.placement for plan in ranking]
    found = []
    for placement in dict.fromkeys(placements):
        whole = question.scenario(placement, question.workload)
        scenario = whole if full else question.scenario(placement, search.workload)
        try:
            whole.limits()  # the longest request may not be in the sample, but must fit
            bound_s = scenario.bound().seconds
        except CapacityError:
            continue
        names = schedulers_for(placement, SCHEDULERS)
        found += [Candidate(scenario, name, bound_s) for name in names]
    return sorted(found, key=lambda candidate: candidate.bound_s)


def candidate_of(plan: Plan, found: list[Candidate]) -> Candidate:
    """The one that the plan means."""
    placement = plan.scenario.placement
    return next(
        one
        for one in found
        if one.scenario.placement == placement and one.scheduler == plan.scheduler
    )


def simulate_all(found: list[Candidate], ranking: list[Plan], full: bool) -> dict[Candidate, float]:
    """Makespans in seconds of all that could be fastest, and of the first plan."""
    known = [plan for plan in ranking if plan.basis is Basis.SIMULATED]
    simulated = {candidate_of(plan, found): plan.makespan_s for plan in known}
    if full:  # what `plan` simulated was perhaps a sample
        first = candidate_of(ranking[0], found)
        simulated = {first: first.scenario.run(first.scheduler).makespan_s}
    for one in found:
        if one not in simulated and one.bound_s < min(simulated.values()):
            simulated[one] = one.scenario.run(one.scheduler).makespan_s
    return simulated


def check(cell: Cell, full: bool) -> dict[str, Any]:
    """Plan a cell, then search it exhaustively; settings and figures."""
    question = PlanQuestion(find_model(cell.model), find_device(cell.device), make_workload(cell))
    search, ranking, plan_s, plan_cpu_s = planned(question)
    found = candidates(search, ranking, full)
    simulated = simulate_all(found, ranking, full)
    pick = candidate_of(ranking[0], found)
    best = min(simulated, key=lambda one: simulated[one])
    return {
        "device": cell.device,
        "model": cell.model,
        "workload": cell.workload,
        "requests": len(best.scenario.workload.requests),
        "pick": pick.record(simulated[pick]),
        "best": best.record(simulated[best]),
        "ratio": simulated[pick] / simulated[best],
        "plan_s": plan_s,
        "plan_cpu_s": plan_cpu_s,
        "num_simulated": len(simulated),
        "num_pruned": len(found) - len(simulated),
        "simulated": [one.record(makespan_s) for one, makespan_s in simulated.items()],
    }


def check_again(row: dict[str, Any]) -> dict[str, Any]:
    """Plan a cell of the result file anew; what was simulated then stands."""
    requests = WORKLOADS[row["workload"]]
    cell = Cell(row["device"], row["model"], NUM_DEVICES, row["workload"], requests, "")
    question = PlanQuestion(find_model(cell.model), find_device(cell.device), make_workload(cell))
    search, ranking, plan_s, plan_cpu_s = planned(question)
    first = ranking[0]
    pick = Candidate(first.scenario, first.scheduler, first.bound.seconds).record(first.makespan_s)
    known = [one for one in row["simulated"] if same_candidate(one, pick)]
    for one in known:
        assert abs(one["makespan_s"] / pick["makespan_s"] - 1) < 1e-9, (one, pick)
    assert len(search.workload.requests) == row["requests"], "the sample has changed: check in full"
    found = row["simulated"] if known else [*row["simulated"], pick]
    best = min(found, key=lambda one: one["makespan_s"])
    return {
        **row, "pick": pick, "best": best, "ratio": pick["makespan_s"] / best["makespan_s"],
        "plan_s": plan_s, "plan_cpu_s": plan_cpu_s,
        "num_simulated": len(found), "simulated": found,
    }  # fmt: skip


def same_candidate(one: dict[str, Any], other: dict[str, Any]) -> bool:
    """Whether both are the same layout, layers and scheduler."""
    return all(one[name] == other[name] for name in ("layout", "layers", "scheduler"))


def planned(question: PlanQuestion) -> tuple[PlanSearch, list[Plan], float, float]:
    """The search, its ranking, and the seconds that it took: of the clock, and of a core."""
    began_s, began_cpu_s = time.perf_counter(), time.process_time()
    search = PlanSearch(question)
    ranking = search.ranking(NUM_DEVICES)
    return search, ranking, time.perf_counter() - began_s, time.process_time() - began_cpu_s


def show(row: dict[str, Any]) -> None:
    """One line a cell."""
    pick, best = (
        f"{one['layout']} {one['scheduler']} {one['layers']} {one['makespan_s']:.1f} s"
        for one in (row["pick"], row["best"])
    )
    print(
        f"{row['device']:14} {row['model']:12} {row['workload']:13} pick {pick}, best {best}, "
        f"ratio {row['ratio']:.4f}, planned in {row['plan_s']:.1f} s "
        f"({row['plan_cpu_s']:.1f} s of a core), "
        f"{row['num_simulated']} simulated, {row['num_pruned']} pruned",
        flush=True,
    )


def main() -> None:
    """Check the cells asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cells", default="*", help="patterns of device/model/workload")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--full", action="store_true", help="simulate all requests")
    parser.add_argument("--again", action="store_true", help="plan anew, simulate nothing else")
    parser.add_argument("--smoke", action="store_true", help="a hundredth of the requests")
    parser.add_argument("--folder", type=Path, help="where to write, instead of results/")
    options = parser.parse_args()
    scale = 0.01 if options.smoke else 1.0
    rows = []
    work: Callable[[Any], dict[str, Any]] = partial(check, full=options.full)
    chosen: list[Any] = cells(options.cells.split(","), scale)
    simulated_at = None
    if options.again:
        record = json.loads(((options.folder or RESULTS) / "plan_check.json").read_text())
        work, chosen, simulated_at = check_again, record["cells"], record["commit"]
    with ProcessPoolExecutor(options.processes) as pool:
        for row in pool.map(work, chosen):
            show(row)
            rows.append(row)
    figures = {
        "largest_ratio": max(row["ratio"] for row in rows),
        "longest_plan_s": max(row["plan_s"] for row in rows),
        "cells": rows,
        "simulated_at": simulated_at,
    }
    settings = {
        "scale": scale, "cells": options.cells, "full": options.full,
        "processes": options.processes, "schedulers": SCHEDULERS,
        "last_stage_layers": LAST_STAGE_LAYERS,
    }  # fmt: skip
    path = write_result("plan_check", settings, figures, options.folder)
    print(path.relative_to(ROOT) if path.is_relative_to(ROOT) else path)


if __name__ == "__main__":
    main()
