"""How well the simulation predicts real runs: each scheduler for real and simulated, side by side.

    python benchmarks/simulated_vs_real.py [--rounds 2] [--requests 100]

Every round first profiles the pipeline, as `tdpipe profile` does; then each scheduler runs the
workload on the same stages, and the same requests are simulated with the same limits, predictor and
measured stage times. Machines that others share change their speed between a profile and a run: so
a few probes (seconds) before and after each run tell how many times as long as in the profile each
stage takes now, and the simulated stages are that much slower. What the profile alone predicts is
reported too. Medians over the rounds are compared.
Writes benchmarks/results/simulated_vs_real.json.

Two causes of an error are told apart. `own_batches_s` is what the profile says of the very batches
that ran: held against the measured busy time it is the error of the stage times alone, be it the
model's or because the machine changed its speed. What is left of a run are gaps, in which a stage
waits for another one, for the link or for the engine.
"""

import argparse
import random
import sys
from collections.abc import Callable
from pathlib import Path
from statistics import median

from profiled_pipeline import MODEL, QUICK_GRID, Figures, ProfiledPipeline
from result_record import ROOT, write_result
from workload_lognormal import TOKEN_RANGE, WorkItem, make_workload

SCHEDULERS = (
    *("pp-separate", "pp-hybrid", "pp-hybrid-2048", "token-throttling", "td-pipe", "adaptive"),
)
# Measured throughputs closer than this have the same rank.
TIE = 0.02


def long_prompts(num_requests: int, seed: int, scale: float) -> list[WorkItem]:
    """Requests of 300 to 500 prompt and 30 to 50 output tokens, times `scale`."""
    draw = random.Random(seed)

    def length(low: int, high: int) -> int:
        return max(2, round(scale * draw.randint(low, high)))

    lengths = [(length(300, 500), length(30, 50)) for _ in range(num_requests)]
    return [
        WorkItem([draw.randint(*TOKEN_RANGE) for _ in range(prompt)], output)
        for prompt, output in lengths
    ]


WORKLOADS: dict[str, Callable[[int, int, float], list[WorkItem]]] = {
    "lognormal": make_workload,
    "long prompts": long_prompts,
}


def compare(rounds: list[dict[str, Figures]], output_tokens: int) -> Figures:
    """One scheduler's measured rounds against its simulated ones."""
    wall_s = {kind: median(one[kind]["wall_s"] for one in rounds) for kind in rounds[0]}
    measured_s, simulated_s = wall_s["measured"], wall_s["simulated"]
    own_s = [
        [
            time_s * factor
            for time_s, factor in zip(
                stage_s("own_batches_s", one["measured"]), one["simulated"]["slowness"], strict=True
            )
        ]
        for one in rounds
    ]
    busy_s = [stage_s("measured_s", one["measured"]) for one in rounds]
    simulated_busy_s = [one["simulated"]["busy_s"] for one in rounds]
    bound_s = median(one["measured"]["bound_s"] for one in rounds)
    return {
        "measured_tokens_per_s": output_tokens / measured_s,
        "simulated_tokens_per_s": output_tokens / simulated_s,
        "profile_tokens_per_s": output_tokens / wall_s["by_the_profile"],
        "error": measured_s / simulated_s - 1,
        "error_of_the_profile": measured_s / wall_s["by_the_profile"] - 1,
        "slowness": medians([one["simulated"]["slowness"] for one in rounds]),
        "error_of_stage_times": sum(medians(busy_s)) / sum(medians(own_s)) - 1,
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


def measure(
    pipeline: ProfiledPipeline, workload: list[WorkItem], options: argparse.Namespace
) -> Figures:
    """All rounds of one workload."""
    output_tokens = sum(item.output_tokens for item in workload)
    rounds: dict[str, list[dict[str, Figures]]] = {name: [] for name in options.schedulers}
    for number in range(options.rounds):
        pipeline.profile()
        for name in options.schedulers:
            before = pipeline.slowness()
            run = pipeline.run(name, workload)
            after = pipeline.slowness()
            slowness = [(one + other) / 2 for one, other in zip(before, after, strict=True)]
            found = {
                "measured": run,
                "simulated": pipeline.simulated(name, workload, slowness),
                "by_the_profile": pipeline.simulated(name, workload, [1.0] * len(slowness)),
            }
            found["simulated"] |= {"slowness": slowness, "before": before, "after": after}
            rounds[name].append(found)
            speeds = [output_tokens / one["wall_s"] for one in found.values()]
            shown = "{:.1f} tokens/s, simulated {:.1f}, by the profile {:.1f}".format(*speeds)
            print(f"round {number + 1}: {name} {shown}", file=sys.stderr)
    rows = {name: compare(rounds[name], output_tokens) for name in options.schedulers}
    return {
        "prompt_tokens": sum(len(item.prompt) for item in workload),
        "output_tokens": output_tokens,
        "same_order": add_ranks(rows),
        "largest_error": max(abs(row["error"]) for row in rows.values()),
        "schedulers": rows,
    }


def table(workloads: dict[str, Figures]) -> str:
    """Measured and simulated side by side, a line for each workload and scheduler."""
    lines = [
        "| workload | scheduler | tokens/s | simulated | error | of stage times | profile alone "
        "| rank | simulated | busy | simulated | of the bound |",
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
                f"{row['error_of_the_profile']:+.1%}",
                *(str(row[f"{kind}_rank"]) for kind in ("measured", "simulated")),
                busy,
                simulated_busy,
                f"{row['bound_share']:.1%}",
            ]
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def options_of(arguments: list[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--stages", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--scale", type=float, default=1.0, help="of all lengths")
    parser.add_argument("--schedulers", default=",".join(SCHEDULERS))
    parser.add_argument("--workloads", default=",".join(WORKLOADS))
    parser.add_argument("--smoke", action="store_true", help="8 short requests, one round")
    parser.add_argument("--folder", type=Path, help="where to write, instead of results/")
    options = parser.parse_args(arguments)
    if options.smoke:
        options.requests, options.rounds, options.scale = 8, 1, 0.1
    options.schedulers = options.schedulers.split(",")
    options.workloads = options.workloads.split(",")
    return options


def main() -> None:
    """Profile, run, simulate, write, print."""
    options = options_of()
    pipeline = ProfiledPipeline(options.stages, options.smoke)
    try:
        pipeline.profile(QUICK_GRID)
        pipeline.run(options.schedulers[0], make_workload(4, options.seed + 1, 0.1))  # warms up
        found = {}
        for name in options.workloads:
            workload = WORKLOADS[name](options.requests, options.seed, options.scale)
            found[name] = measure(pipeline, workload, options)
    finally:
        pipeline.executor.close()
    names = ("requests", "rounds", "stages", "seed", "scale", "smoke")
    settings = {name: getattr(options, name) for name in names} | {
        "model": MODEL,
        "dtype": "float32",
        "partition": list(pipeline.setup.layers),
        "tie": TIE,
    }
    text = table(found)
    figures = {"workloads": found, "table": text, "profiles": pipeline.profiles}
    path = write_result("simulated_vs_real", settings, figures, options.folder)
    print(text)
    for name, one in found.items():
        order = "the same" if one["same_order"] else "another"
        print(f"{name}: largest error {one['largest_error']:.1%}, {order} order")
    print(path.relative_to(ROOT) if path.is_relative_to(ROOT) else path)


if __name__ == "__main__":
    main()
