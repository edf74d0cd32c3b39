"""The paper's evaluation and a wider grid, simulated: every scheduler on every node and workload.

    python benchmarks/paper.py [--parts nodes,grid,ablation,memory] [--processes 2]
    python benchmarks/paper.py --real [OPTIONS of simulated_vs_real.py]

Four parts, one result file each:

nodes     4x L20 (13B, 32B) and 4x A100 PCIe (32B, 70B), 1, 2 and 4 devices where the model fits,
          5000 ShareGPT-like requests; with no engine overhead, and with that of the paper's
          baselines (a Python engine that is not overlapped with the stages); the pipelined
          ones also with decode batches as uneven as they come
grid      those nodes with 4 devices x six workloads x all pipeline schedulers, noisy predictor,
          geometric means over three draws of each workload: one request that is ten times longer
          than forecast and comes last is a matter of luck; td-pipe and adaptive also with the
          oracle and the constant, for one draw
ablation  td-pipe with one part replaced
memory    the KV cache cut to 67, 38, 19 and 10 % of what the workload would like

--real runs pipeline against tensor parallelism on this machine, as simulated_vs_real.py does.

Simulated runs are deterministic: figures are those of any machine. With --schedulers only those are
simulated, and the rows of the others are kept from the result file that is there.
"""

import argparse
import itertools
import json
import statistics
import sys
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import simulated_vs_real
from result_record import RESULTS, ROOT, write_result
from tdpipe.core.errors import CapacityError
from tdpipe.cost.hardware_catalogue import find_device
from tdpipe.cost.model_catalogue import find_model
from tdpipe.cost.placement import Placement, place
from tdpipe.policies.scheduler_registry import TENSOR_PARALLEL
from tdpipe.simulation.scenario import Scenario, load_workload
from tdpipe.simulation.workload import Workload

NODES = (
    ("L20", "llama-2-13b"),
    ("L20", "qwen2.5-32b"),
    ("A100-PCIe-80G", "qwen2.5-32b"),
    ("A100-PCIe-80G", "llama-2-70b"),
)
# Requests of each workload in the wide grid: several times what a cache holds.
WORKLOADS = {
    "sharegpt": 5000,
    "azure-conv": 3000,
    "azure-code": 3000,
    "m-large": 3000,
    "long-document": 1000,
    "reasoning": 1000,
}
# Prompt and output limits: the paper's for ShareGPT, elsewhere a context that the nodes hold.
LIMITS = {"sharegpt": (1023, 2048)}
DEFAULT_LIMITS = (16000, 8192)
RIVALS = ("pp-separate", "pp-hybrid", "pp-hybrid-2048", "token-throttling")
PIPELINE = (*RIVALS, "td-pipe", "adaptive")
BASELINES = ("tp-separate", "tp-hybrid", "pp-separate", "pp-hybrid")
ABLATION = ("td-pipe", "td-pipe-occupancy", "td-pipe-no-stealing", "td-pipe-finished")
UNBALANCED = ("pp-separate-unbalanced", "pp-hybrid-unbalanced")
# A Python engine's time for a batch when nothing of it overlaps with the stages.
ENGINE_OVERHEAD_S = 0.005
SEEDS = (0, 1, 2)
# Where a few requests are far longer than all others, when those start decides much: more draws, of
# the schedulers that are the fastest there.
DRAWN = ("sharegpt", "m-large", "reasoning")
DRAWS = tuple(range(8))
FASTEST = ("pp-hybrid", "token-throttling", "adaptive")
KV_SHARES = (0.67, 0.38, 0.19, 0.10)


@dataclass(frozen=True, slots=True)
class Cell:
    """One simulated run."""

    device: str
    model: str
    num_devices: int
    workload: str
    requests: int
    scheduler: str
    predictor: str = "noisy"
    engine_overhead_s: float = 0.0
    kv_share: float | None = None
    seed: int = 0


CELL_FIELDS = tuple(Cell.__dataclass_fields__)


def make_workload(cell: Cell) -> Workload:
    """The workload of a cell, with its limits."""
    prompt_limit, output_limit = LIMITS.get(cell.workload, DEFAULT_LIMITS)
    return load_workload(cell.workload, cell.requests, cell.seed).scaled(prompt_limit, output_limit)


def utilization_for(placement: Placement, workload: Workload, kv_share: float) -> float:
    """Share of memory with which the cache holds kv_share of all requests at their full length."""
    sizes = [prompt + output for prompt, output in workload.lengths()]
    least = max(kv_share * sum(sizes), max(sizes) + 16)  # the longest request must fit
    low, high = 0.0, 1.0
    for _ in range(30):
        middle = (low + high) / 2
        try:
            held = placement.num_blocks(16, middle) * 16
        except CapacityError:  # the weights do not fit
            held = 0
        low, high = (middle, high) if held < least else (low, middle)
    return high


def run(cell: Cell) -> dict[str, Any]:
    """Simulate a cell; its settings and figures."""
    stages = 1 if cell.scheduler in TENSOR_PARALLEL else cell.num_devices
    shape, device = find_model(cell.model), find_device(cell.device)
    placement = place(shape, device, stages, cell.num_devices // stages)
    workload = make_workload(cell)
    settings: dict[str, Any] = {
        "predictor": cell.predictor, "engine_overhead_s": cell.engine_overhead_s,
    }  # fmt: skip
    if cell.kv_share is not None:
        settings["utilization"] = utilization_for(placement, workload, cell.kv_share)
    scenario = Scenario(placement, workload, **settings)
    result = scenario.run(cell.scheduler)
    bound = scenario.bound()
    return {
        **{name: getattr(cell, name) for name in CELL_FIELDS},
        "layers": list(placement.layers),
        "tokens_per_s": result.tokens_per_s,
        "makespan_s": result.makespan_s,
        "bound_share": bound.seconds / result.makespan_s,
        "bound": bound.name,
        "recomputed_share": result.recomputed_share,
        "num_preemptions": result.num_preemptions,
        "peak_kv_share": result.peak_kv_share,
        "busy_shares": list(result.busy_shares),
    }


def cell_of(row: dict[str, Any]) -> Cell:
    """The cell that a row is the result of."""
    return Cell(**{name: row[name] for name in CELL_FIELDS})


def fits(device: str, model: str, num_devices: int) -> bool:
    """Whether weights and at least 8192 tokens of cache fit num_devices stages."""
    try:
        placement = place(find_model(model), find_device(device), num_devices)
        return placement.num_blocks() * 16 >= 8192
    except CapacityError:
        return False


def node_cells(scale: float) -> Iterable[Cell]:
    """Figure by figure: node x devices x scheduler, with and without engine overhead."""
    for (device, model), count in itertools.product(NODES, (1, 2, 4)):
        if not fits(device, model, count):
            continue
        for scheduler in (*BASELINES, *UNBALANCED, "td-pipe", "adaptive"):
            for overhead_s in (0.0, ENGINE_OVERHEAD_S):
                # Our engine decides while the stages work; only the baselines pay.
                if overhead_s and scheduler in ("td-pipe", "adaptive"):
                    continue
                requests = int(5000 * scale)
                yield Cell(
                    device, model, count, "sharegpt", requests, scheduler,
                    engine_overhead_s=overhead_s,
                )  # fmt: skip


def grid_cells(scale: float) -> Iterable[Cell]:
    """Nodes x workloads x pipeline schedulers."""
    # With fewer requests it is a trial: one draw on the smallest and the largest node will do.
    nodes, seeds = (NODES, SEEDS) if scale >= 1 else (NODES[::3], SEEDS[:1])
    for (device, model), (workload, count) in itertools.product(nodes, WORKLOADS.items()):
        requests = int(count * scale)
        for scheduler, seed in itertools.product(PIPELINE, seeds):
            yield Cell(device, model, 4, workload, requests, scheduler, seed=seed)
        for scheduler, predictor in itertools.product(
            ("td-pipe", "adaptive"), ("oracle", "constant")
        ):
            yield Cell(device, model, 4, workload, requests, scheduler, predictor)


def draw_cells(scale: float) -> Iterable[Cell]:
    """Nodes x workloads with very unlike lengths x the fastest schedulers, drawn more often."""
    nodes, draws = (NODES, DRAWS) if scale >= 1 else (NODES[::3], DRAWS[:2])
    for (device, model), workload in itertools.product(nodes, DRAWN):
        requests = int(WORKLOADS[workload] * scale)
        for scheduler, seed in itertools.product(FASTEST, draws):
            yield Cell(device, model, 4, workload, requests, scheduler, seed=seed)


def ablation_cells(scale: float) -> Iterable[Cell]:
    """td-pipe and its variants on the paper's nodes."""
    for (device, model), scheduler in itertools.product(NODES, ABLATION):
        yield Cell(device, model, 4, "sharegpt", int(5000 * scale), scheduler)


def memory_cells(scale: float) -> Iterable[Cell]:
    """A shrinking cache."""
    for share, scheduler in itertools.product(KV_SHARES, (*PIPELINE,)):
        yield Cell(
            "A100-PCIe-80G", "llama-2-70b", 4, "sharegpt", int(2000 * scale), scheduler,
            kv_share=share,
        )  # fmt: skip


PARTS = {
    "nodes": node_cells,
    "grid": grid_cells,
    "draws": draw_cells,
    "ablation": ablation_cells,
    "memory": memory_cells,
}


def mean_over_seeds(rows: list[dict[str, Any]]) -> dict[str, float]:
    """Geometric means of speed and share of the bound, the most recomputed share."""
    return {
        "tokens_per_s": statistics.geometric_mean(row["tokens_per_s"] for row in rows),
        "bound_share": statistics.geometric_mean(row["bound_share"] for row in rows),
        "recomputed_share": max(row["recomputed_share"] for row in rows),
    }


def grid_summary(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """adaptive against the best rival and td-pipe, cell by cell and in the geometric mean."""
    noisy: dict[tuple[str, str, str], dict[str, list[dict[str, Any]]]] = {}
    for row in rows:
        if row["predictor"] == "noisy":
            cell = noisy.setdefault((row["device"], row["model"], row["workload"]), {})
            cell.setdefault(row["scheduler"], []).append(row)
    cells = []
    for (device, model, workload), by_scheduler in noisy.items():
        found = {name: mean_over_seeds(runs) for name, runs in by_scheduler.items()}
        ours = found["adaptive"]["tokens_per_s"]
        others = [name for name in found if name != "adaptive"]
        best = max(others, key=lambda name: found[name]["tokens_per_s"])
        cells.append(
            {
                "device": device, "model": model, "workload": workload, "best_rival": best,
                "ratio": ours / found[best]["tokens_per_s"],
                "ratio_td_pipe": ours / found["td-pipe"]["tokens_per_s"],
                "rival_bound_share": found[best]["bound_share"],
                "bound_share": found["adaptive"]["bound_share"],
                "recomputed_share": found["adaptive"]["recomputed_share"],
                "tokens_per_s": {name: mean["tokens_per_s"] for name, mean in found.items()},
            }
        )  # fmt: skip
    return {
        "cells": cells,
        "geometric_mean_ratio": statistics.geometric_mean(cell["ratio"] for cell in cells),
        "geometric_mean_ratio_td_pipe": statistics.geometric_mean(
            cell["ratio_td_pipe"] for cell in cells
        ),
        "least_ratio": min(cell["ratio"] for cell in cells),
    }


def draws_summary(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """adaptive against the fastest rival over all draws: the mean ratio and its standard error."""
    cells: dict[tuple[str, str, str], dict[str, dict[int, float]]] = {}
    for row in rows:
        cell = cells.setdefault((row["device"], row["model"], row["workload"]), {})
        cell.setdefault(row["scheduler"], {})[row["seed"]] = row["tokens_per_s"]
    found = []
    for (device, model, workload), speeds in cells.items():
        ours = speeds.pop("adaptive")
        best = max(speeds, key=lambda name: statistics.geometric_mean(speeds[name].values()))
        ratios = [ours[seed] / speed for seed, speed in speeds[best].items()]
        recomputed = [
            row["recomputed_share"]
            for row in rows
            if (row["device"], row["model"], row["workload"]) == (device, model, workload)
            and row["scheduler"] == "adaptive"
        ]
        found.append(
            {
                "device": device, "model": model, "workload": workload, "best_rival": best,
                "ratios": ratios, "ratio": statistics.geometric_mean(ratios),
                "standard_error": statistics.stdev(ratios) / len(ratios) ** 0.5,
                "mean_recomputed_share": statistics.mean(recomputed),
                "most_recomputed_share": max(recomputed),
            }
        )  # fmt: skip
    return found


def show(rows: list[dict[str, Any]]) -> None:
    """One line a run."""
    for row in rows:
        print(
            f"{row['num_devices']}x {row['device']:14} {row['model']:12} {row['workload']:13} "
            f"{row['scheduler']:20} {row['predictor']:8} {row['tokens_per_s']:8.0f} tokens/s "
            f"{row['bound_share']:6.1%} of the {row['bound']} bound, "
            f"{row['recomputed_share']:.2%} recomputed"
        )


def kept_rows(
    part: str, cells: list[Cell], folder: Path
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Rows of these cells in the result file that is there, and each scheduler's commit.

    Raises:
        SystemExit: the file lacks one of them.
    """
    record = json.loads((folder / f"paper_{part}.json").read_text())
    rows = {tuple(row[name] for name in CELL_FIELDS): row for row in record["runs"]}
    try:
        kept = [rows[tuple(getattr(cell, name) for name in CELL_FIELDS)] for cell in cells]
    except KeyError as error:
        raise SystemExit(
            f"paper_{part}.json has no run of {error}: leave --schedulers out"
        ) from None
    before = record.get("kept", {})
    commits = {cell.scheduler: before.get(cell.scheduler, record["commit"]) for cell in cells}
    return kept, commits


def main() -> None:
    """Simulate the parts asked for, or run for real."""
    if sys.argv[1:2] == ["--real"]:
        del sys.argv[1]
        simulated_vs_real.main()
        return
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--parts", default=",".join(PARTS))
    parser.add_argument("--schedulers", help="comma-separated; others keep their rows")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--scale", type=float, default=1.0, help="of the numbers of requests")
    parser.add_argument("--smoke", action="store_true", help="a few requests of each workload")
    parser.add_argument("--folder", type=Path, help="where to write, instead of results/")
    options = parser.parse_args()
    if options.smoke:
        options.scale = 0.004
    for part in options.parts.split(","):
        cells = list(PARTS[part](options.scale))
        names = options.schedulers.split(",") if options.schedulers else None
        mine = [cell for cell in cells if names is None or cell.scheduler in names]
        figures: dict[str, Any] = {}
        kept: list[dict[str, Any]] = []
        if names is not None:
            others = [cell for cell in cells if cell not in mine]
            kept, figures["kept"] = kept_rows(part, others, options.folder or RESULTS)
        with ProcessPoolExecutor(options.processes) as pool:
            rows = list(pool.map(run, mine))
        show(rows)
        order = {cell: index for index, cell in enumerate(cells)}
        rows = sorted(kept + rows, key=lambda row: order[cell_of(row)])
        figures["runs"] = rows
        if part == "grid":
            figures["summary"] = grid_summary(rows)
            shown = {k: v for k, v in figures["summary"].items() if k != "cells"}
            print(shown)
        elif part == "draws":
            figures["summary"] = draws_summary(rows)
        path = write_result(f"paper_{part}", {"scale": options.scale}, figures, options.folder)
        print(path.relative_to(ROOT) if path.is_relative_to(ROOT) else path)


if __name__ == "__main__":
    main()
