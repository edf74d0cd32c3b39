"""Whether `tdpipe plan` picks the fastest: its pick against an exhaustive simulation.

    python benchmarks/plan_check.py [--cells 'L20/*/sharegpt,A100*/reasoning'] [--processes 2]
    python benchmarks/plan_check.py --anew adaptive   # others as they are on file

A cell is one of the paper's nodes of 4 devices with one of the six workloads of paper.py. The
search has every layout of P stages of T ranks that fits, pipelines with the balanced partition and
with up to two layers more or less on the last stage, and every scheduler; `plan` itself tries a
few schedulers, on one partition of each layout and on those beside the best.

A candidate is left out only where its lower bound is no faster than the best time simulated so
far. It could not have won, so the best is the best of all of them.

Both sides simulate the requests that `plan` simulates: all, or a sample where all are too many,
which drops about a fifth of the two largest workloads. With --full it is all of them, and the pick
is simulated on them once more.

Simulated times are deterministic, so those of a scheduler that has not changed need not be made
again: what `plan` simulates of it must be what the file says. The seconds that `plan` takes are
those of this machine, one cell after the other, with --processes simulations at a time as the
command has one on each core.
"""

import argparse
import json
import time
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from fnmatch import fnmatch
from multiprocessing import get_context
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

# Candidates as the result file has them.
Rows = list[dict[str, Any]]


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


def check(cell: Cell, full: bool, processes: int, on_file: Rows) -> dict[str, Any]:
    """Plan a cell, then search it exhaustively; settings and figures.

    Args:
        on_file: candidates simulated before that need not be simulated again.
    """
    question = PlanQuestion(find_model(cell.model), find_device(cell.device), make_workload(cell))
    began_s = time.perf_counter()
    search = PlanSearch(question, processes=processes)
    ranking = search.ranking(NUM_DEVICES)
    plan_s = time.perf_counter() - began_s
    found = candidates(search, ranking, full)
    requests = len(found[0].scenario.workload.requests)
    simulated = known_makespans(found, [] if full else ranking, on_file)
    pick = candidate_of(ranking[0], found)
    with ProcessPoolExecutor(processes, get_context("spawn")) as pool:
        simulate_all([pick, *found], simulated, processes, pool)
    best = min(simulated, key=lambda one: simulated[one])
    return {
        "device": cell.device,
        "model": cell.model,
        "workload": cell.workload,
        "requests": requests,
        "pick": pick.record(simulated[pick]),
        "best": best.record(simulated[best]),
        "ratio": simulated[pick] / simulated[best],
        "plan_s": plan_s,
        "num_simulated": len(simulated),
        "num_pruned": len(found) - len(simulated),
        "simulated": [one.record(makespan_s) for one, makespan_s in simulated.items()],
    }


def known_makespans(
    found: list[Candidate], ranking: list[Plan], on_file: Rows
) -> dict[Candidate, float]:
    """What `plan` and the file have simulated, in seconds; they must agree where both have."""
    by_key = {key_of(one.record(0.0)): one for one in found}
    # A candidate on file may be one that another pick's neighbourhood had.
    known = {
        by_key[key]: float(row["makespan_s"]) for row in on_file if (key := key_of(row)) in by_key
    }
    for plan in ranking:
        if plan.basis is Basis.SIMULATED:
            one = candidate_of(plan, found)
            told_s = known.setdefault(one, plan.makespan_s)
            assert abs(told_s / plan.makespan_s - 1) < 1e-9, (one.scheduler, told_s, plan)
    return known


def key_of(row: dict[str, Any]) -> tuple[str, str, str]:
    """What makes a candidate's record another's."""
    return row["layout"], row["scheduler"], ",".join(map(str, row["layers"]))


def simulate_all(
    found: list[Candidate],
    simulated: dict[Candidate, float],
    processes: int,
    pool: ProcessPoolExecutor,
) -> None:
    """Add the makespans of all that could be fastest; the first is simulated in any case."""
    first, *rest = found
    if first not in simulated:
        simulated[first] = makespan_s_of(first)
    left = deque(one for one in rest if one not in simulated)
    while left and left[0].bound_s < min(simulated.values()):  # in the order of their bounds
        some = [left.popleft() for _ in range(min(processes, len(left)))]
        simulated |= zip(some, pool.map(makespan_s_of, some), strict=True)


def makespan_s_of(one: Candidate) -> float:
    """Seconds that a candidate's simulated run takes."""
    return one.scenario.run(one.scheduler).makespan_s


def rows_on_file(folder: Path, anew: Sequence[str]) -> tuple[dict[str, Rows], dict[str, Any]]:
    """Candidates with other schedulers than these, by their cell's name; and their commit."""
    record = json.loads((folder / "plan_check.json").read_text())
    kept = {
        "/".join(row[name] for name in ("device", "model", "workload")): [
            one for one in row["simulated"] if one["scheduler"] not in anew
        ]
        for row in record["cells"]
    }
    return kept, record["commit"]


def show(row: dict[str, Any]) -> None:
    """One line a cell."""
    pick, best = (
        f"{one['layout']} {one['scheduler']} {one['layers']} {one['makespan_s']:.1f} s"
        for one in (row["pick"], row["best"])
    )
    print(
        f"{row['device']:14} {row['model']:12} {row['workload']:13} pick {pick}, best {best}, "
        f"ratio {row['ratio']:.4f}, planned in {row['plan_s']:.1f} s, "
        f"{row['num_simulated']} simulated, {row['num_pruned']} pruned",
        flush=True,
    )


def main() -> None:
    """Check the cells asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cells", default="*", help="patterns of device/model/workload")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--full", action="store_true", help="simulate all requests")
    parser.add_argument("--anew", help="simulate only these schedulers; others are on file")
    parser.add_argument("--smoke", action="store_true", help="a hundredth of the requests")
    parser.add_argument("--folder", type=Path, help="where to write, instead of results/")
    options = parser.parse_args()
    scale = 0.01 if options.smoke else 1.0
    on_file: dict[str, Rows] = {}
    kept: dict[str, Any] = {}
    if options.anew:
        anew = options.anew.split(",")
        on_file, commit = rows_on_file(options.folder or RESULTS, anew)
        kept = {"kept": {"commit": commit, "but": anew}}
    rows = []
    for cell in cells(options.cells.split(","), scale):
        row = check(cell, options.full, options.processes, on_file.get(cell_name(cell), []))
        show(row)
        rows.append(row)
    figures = {
        "largest_ratio": max(row["ratio"] for row in rows),
        "longest_plan_s": max(row["plan_s"] for row in rows),
        "cells": rows,
        **kept,
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
