"""How well the simulation predicts real runs: each scheduler for real and simulated, side by side.

    python benchmarks/simulated_vs_real.py [--rounds 2] [--requests 100] [--layouts PP2,TP2]
    python benchmarks/simulated_vs_real.py --again    # new figures from the raw runs on file

The layouts are held side by side: two stages as a pipeline, and one stage that two tensor-parallel
ranks share, on the same cores. Every round first profiles a layout, as `tdpipe profile` does,
because machines change their speed; then each scheduler runs the workload on it, and the same
requests are simulated with the same limits, predictor and measured stage times. Medians over the
rounds are compared. Writes benchmarks/results/simulated_vs_real.json.

Two causes of an error are told apart. `own_batches_s` is what the profile says of the very batches
that ran: held against the measured busy time it is the error of the stage times alone, be it the
model's or because the machine changed its speed. What is left of a run are gaps, in which a stage
waits for another one, for the link or for the engine.
"""

import argparse
import json
import random
import sys
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from statistics import median

from profiled_pipeline import (
    MODEL,
    QUICK_GRID,
    SMOKE_GRID,
    Figures,
    ProfiledPipeline,
    layout_config,
)
from result_record import RESULTS, ROOT, write_result
from tdpipe.execution.stage_profiler import FULL_GRID
from workload_lognormal import TOKEN_RANGE, WorkItem, make_workload

PIPELINE = ("pp-separate", "pp-hybrid", "pp-hybrid-2048", "token-throttling", "td-pipe", "adaptive")
TENSOR_PARALLEL = ("tp-separate", "tp-hybrid")
# Measured throughputs closer than this have the same rank.
TIE = 0.02


def even_lengths(
    prompts: tuple[int, int], outputs: tuple[int, int], num_requests: int, seed: int, scale: float
) -> list[WorkItem]:
    """Requests of that many prompt and output tokens, from least to most, times `scale`."""
    draw = random.Random(seed)

    def length(range_: tuple[int, int]) -> int:
        return max(2, round(scale * draw.randint(*range_)))

    lengths = [(length(prompts), length(outputs)) for _ in range(num_requests)]
    return [
        WorkItem([draw.randint(*TOKEN_RANGE) for _ in range(prompt)], output)
        for prompt, output in lengths
    ]


WORKLOADS: dict[str, Callable[[int, int, float], list[WorkItem]]] = {
    "lognormal": make_workload,
    "long prompts": partial(even_lengths, (300, 500), (30, 50)),
    "long outputs": partial(even_lengths, (20, 60), (60, 160)),
}


def compare(rounds: list[dict[str, Figures]], output_tokens: int) -> Figures:
    """One scheduler's measured rounds against its simulated ones."""
    measured_s = median(one["measured"]["wall_s"] for one in rounds)
    simulated_s = median(one["by_the_profile"]["wall_s"] for one in rounds)
    own_s = [stage_s("own_batches_s", one["measured"]) for one in rounds]
    busy_s = [stage_s("measured_s", one["measured"]) for one in rounds]
    simulated_busy_s = [one["by_the_profile"]["busy_s"] for one in rounds]
    bound_s = median(one["measured"]["bound_s"] for one in rounds)
    return {
        "measured_tokens_per_s": output_tokens / measured_s,
        "simulated_tokens_per_s": output_tokens / simulated_s,
        "error": measured_s / simulated_s - 1,
        "error_of_stage_times": sum(medians(busy_s)) / sum(medians(own_s)) - 1,
        "collective_share": median(one["measured"]["collective_share"] for one in rounds),
        "measured_busy_shares": [time_s / measured_s for time_s in medians(busy_s)],
        "simulated_busy_shares": [time_s / simulated_s for time_s in medians(simulated_busy_s)],
        "measured_busy_s": medians(busy_s),
        "own_batches_s": medians(own_s),
        "simulated_busy_s": medians(simulated_busy_s),
        "measured_gaps_s": [measured_s - time_s for time_s in medians(busy_s)],
        "simulated_gaps_s": [simulated_s - time_s for time_s in medians(simulated_busy_s)],
        "bound_share": bound_s / measured_s,
        "simulated_bound_share": bound_s / simulated_s,
        "rounds": rounds,
    }


def stage_s(name: str, run: Figures) -> list[float]:
    """Seconds under `name` on each stage, over all kinds of batches."""
    return [sum(kind[name] for kind in stage.values()) for stage in run["busy_s"]]


def medians(rounds: list[list[float]]) -> list[float]:
    """The median over the rounds for each stage."""
    return [median(values) for values in zip(*rounds, strict=True)]


def add_ranks(rows: dict[str, Figures]) -> bool:
    """Add both ranks, counting only schedulers that are no tie when measured; whether they agree.

    1 is the fastest. Where two are measured within TIE of each other neither is ahead of the other.
    """
    for row in rows.values():
        own = row["measured_tokens_per_s"]
        others = [
            other
            for other in rows.values()
            if abs(other["measured_tokens_per_s"] - own) >= TIE * own
        ]
        for kind in ("measured", "simulated"):
            name = f"{kind}_tokens_per_s"
            row[f"{kind}_rank"] = 1 + sum(other[name] > row[name] for other in others)
    return all(row["measured_rank"] == row["simulated_rank"] for row in rows.values())


def schedulers_of(layout: str, options: argparse.Namespace) -> list[str]:
    """Those that were asked for and that the layout can have."""
    usual = PIPELINE if layout.startswith("PP") else TENSOR_PARALLEL
    return [name for name in usual if options.schedulers is None or name in options.schedulers]


def measure(
    pipelines: dict[str, ProfiledPipeline], workload: list[WorkItem], options: argparse.Namespace
) -> Figures:
    """All rounds of one workload."""
    output_tokens = sum(item.output_tokens for item in workload)
    rounds: dict[str, list[dict[str, Figures]]] = {}
    for number in range(options.rounds):
        for layout, pipeline in pipelines.items():
            pipeline.profile()
            # Every second round goes backwards: a machine that slows down favours nobody.
            for name in schedulers_of(layout, options)[:: 1 - number % 2 * 2]:
                found = {
                    "measured": pipeline.run(name, workload),
                    "by_the_profile": pipeline.simulated(name, workload),
                }
                rounds.setdefault(f"{layout} {name}", []).append(found)
                measured, simulated = (output_tokens / run["wall_s"] for run in found.values())
                shown = f"{measured:.1f} tokens/s, simulated {simulated:.1f}"
                print(f"round {number + 1}: {layout} {name} {shown}", file=sys.stderr)
    return summary(rounds, sum(len(item.prompt) for item in workload), output_tokens)


def summary(
    rounds: dict[str, list[dict[str, Figures]]], prompt_tokens: int, output_tokens: int
) -> Figures:
    """What all rounds of one workload say."""
    rows = {name: compare(one, output_tokens) for name, one in rounds.items()}
    return {
        "prompt_tokens": prompt_tokens,
        "output_tokens": output_tokens,
        "same_order": add_ranks(rows),
        "best": {
            layout: best_of(layout, rows) for layout in sorted({one.split()[0] for one in rows})
        },
        "largest_error": max(abs(row["error"]) for row in rows.values()),
        "schedulers": rows,
    }


def best_of(layout: str, rows: dict[str, Figures]) -> str:
    """The fastest scheduler of a layout."""
    own = [name for name in rows if name.split()[0] == layout]
    return max(own, key=lambda name: rows[name]["measured_tokens_per_s"])


def table(workloads: dict[str, Figures]) -> str:
    """Measured and simulated side by side, a line for each workload and scheduler."""
    lines = [
        "| workload | scheduler | tokens/s | simulated | error | of stage times | rank | simulated "
        "| busy | simulated | all-reduces | of the bound |",
        "|---" * 12 + "|",
    ]
    for workload, found in workloads.items():
        for name, row in found["schedulers"].items():
            busy, simulated_busy = (
                " ".join(f"{share:.0%}" for share in row[f"{kind}_busy_shares"])
                for kind in ("measured", "simulated")
            )
            cells = [
                workload,
                name,
                f"{row['measured_tokens_per_s']:.1f}",
                f"{row['simulated_tokens_per_s']:.1f}",
                f"{row['error']:+.1%}",
                f"{row['error_of_stage_times']:+.1%}",
                *(str(row[f"{kind}_rank"]) for kind in ("measured", "simulated")),
                busy,
                simulated_busy,
                f"{row['collective_share']:.0%}" if row["collective_share"] else "",
                f"{row['bound_share']:.1%}",
            ]
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def options_of(arguments: list[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--layouts", default="PP2,TP2")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--scale", type=float, default=1.0, help="of all lengths")
    parser.add_argument("--schedulers", help="only these, comma-separated")
    parser.add_argument("--workloads", default=",".join(WORKLOADS))
    parser.add_argument("--name", default="simulated_vs_real", help="of the result file")
    parser.add_argument("--again", action="store_true", help="measure nothing")
    parser.add_argument("--smoke", action="store_true", help="8 short requests, one round")
    parser.add_argument("--folder", type=Path, help="where to write, instead of results/")
    options = parser.parse_args(arguments)
    if options.smoke:
        options.requests, options.rounds, options.scale = 8, 1, 0.1
    options.schedulers = options.schedulers.split(",") if options.schedulers else None
    options.workloads = options.workloads.split(",")
    return options


def show(found: dict[str, Figures], path: Path) -> None:
    """Print tables and verdicts."""
    print(table(found))
    for name, one in found.items():
        order = "the same" if one["same_order"] else "another"
        print(f"{name}: largest error {one['largest_error']:.1%}, {order} order")
    print(path.relative_to(ROOT) if path.is_relative_to(ROOT) else path)


def again(path: Path) -> None:
    """Make the figures of a result file anew; its origin stays that of its raw runs."""
    record = json.loads(path.read_text())
    found = record["workloads"]
    for name, one in found.items():
        rounds = {scheduler: row["rounds"] for scheduler, row in one["schedulers"].items()}
        found[name] = summary(rounds, one["prompt_tokens"], one["output_tokens"])
    record["table"] = table(found)
    path.write_text(json.dumps(record, indent=1) + "\n")
    show(found, path)


def main() -> None:
    """Profile, run, simulate, write, print."""
    options = options_of()
    if options.again:
        again((options.folder or RESULTS) / f"{options.name}.json")
        return
    found: dict[str, Figures] = {}
    with ExitStack() as stack:
        pipelines = {}
        for layout in options.layouts.split(","):
            grid = SMOKE_GRID if options.smoke else FULL_GRID
            pipelines[layout] = ProfiledPipeline(layout_config(layout), grid)
            stack.callback(pipelines[layout].executor.close)
        for layout, pipeline in pipelines.items():
            pipeline.profile(SMOKE_GRID if options.smoke else QUICK_GRID)
            warm_up = make_workload(4, options.seed + 1, 0.1)
            pipeline.run(schedulers_of(layout, options)[0], warm_up)
        for name in options.workloads:
            workload = WORKLOADS[name](options.requests, options.seed, options.scale)
            found[name] = measure(pipelines, workload, options)
    names = ("requests", "rounds", "layouts", "seed", "scale", "smoke")
    settings = {name: getattr(options, name) for name in names} | {
        "model": MODEL,
        "dtype": "float32",
        "partitions": {layout: list(one.setup.layers) for layout, one in pipelines.items()},
        "tie": TIE,
    }
    profiles = {layout: one.profiles for layout, one in pipelines.items()}
    figures = {"workloads": found, "table": table(found), "profiles": profiles}
    show(found, write_result(options.name, settings, figures, options.folder))


if __name__ == "__main__":
    main()
