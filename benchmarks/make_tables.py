"""Writes the tables of README.md from benchmarks/results, between marks such as

    <!-- table:peers -->
    <!-- /table -->

    python benchmarks/make_tables.py [--check]

A table without its result file becomes a line that says so. With --check nothing is written, and
the exit status is 1 if a table is out of date.
"""

import json
import re
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import batch_tables
import execution_tables
import length_tables
from result_record import cores_text

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"
PAGES = ("README.md", "docs/benchmarks.md", "docs/length_prediction.md")
MARKS = re.compile(r"(<!-- table:([a-z0-9_]+) -->\n).*?(<!-- /table -->)", re.DOTALL)


def peers(result: dict) -> str:
    """Throughputs and ratios, with where they come from."""
    settings, machine, name = result["settings"], result["machine"], result["name"]
    rounds, static = settings["rounds"], ""
    if "transformers" in result["runs"]:
        size = result["runs"]["transformers"]["rounds"][0]["batch_size"]
        static = f"transformers in static batches of {size}, "
    return (
        f"{result['table']}\n\n{settings['requests']} requests, {settings['prompt_tokens']} prompt "
        f"and {settings['output_tokens']} output tokens, "
        f"{f'{rounds} alternating rounds, medians' if rounds > 1 else 'one round in turn'}, "
        f"{static}{cores_text(machine)} "
        f"([{name}.json](benchmarks/results/{name}.json))\n"
    )


def stage_busy(result: dict) -> str:
    """Busy share of each stage while decoding."""
    rows = [
        f"| {stage} | {layers} | {share:.1%} |"
        for stage, (layers, share) in enumerate(
            zip(result["partition"], result["decode_busy_shares"], strict=True)
        )
    ]
    head = "| stage | layers | busy while decoding |\n|---|---|---|\n"
    least = result["settings"]["least_resident"]
    return (
        head
        + "\n".join(rows)
        + f"\n\ntd-pipe, at least {least} requests resident, {result['decode_window_s']:.1f} s "
        "([stage_busy.json](benchmarks/results/stage_busy.json))\n"
    )


# What the baselines of paper_nodes carry: label, suffix of the scheduler, engine time or not.
BURDENS = (
    ("none", "", False),
    ("engine", "", True),
    ("uneven", "-unbalanced", False),
    ("both", "-unbalanced", True),
)


def paper_nodes(result: dict) -> str:
    """tokens/s of td-pipe and adaptive, and td-pipe's ratio to each baseline, by its burden."""
    baselines = ("tp-separate", "tp-hybrid", "pp-separate", "pp-hybrid")
    columns = [
        (name, label, suffix, slow)
        for name in baselines
        for label, suffix, slow in BURDENS
        if not (suffix and name.startswith("tp"))
    ]
    head = "| node | model | td-pipe | adaptive |" + "".join(
        f" {name}: {label} |" for name, label, _, _ in columns
    )
    lines = [head, "|---" * (4 + len(columns)) + "|"]
    nodes: dict[tuple, dict] = {}
    for run in result["runs"]:
        key = (run["num_devices"], run["device"], run["model"])
        found = nodes.setdefault(key, {})
        found[run["scheduler"], run["engine_overhead_s"] > 0] = run["tokens_per_s"]
    for (count, device, model), found in nodes.items():
        ours = found["td-pipe", False]
        ratios = [
            f" {ours / found[name + suffix, slow]:.2f} |" for name, _, suffix, slow in columns
        ]
        lines.append(
            f"| {count}x {device} | {model} | {ours:.0f} | {found['adaptive', False]:.0f} |"
            + "".join(ratios)
        )
    return "\n".join(lines) + "\n"


def paper_grid(result: dict) -> str:
    """adaptive against the best rival in each cell."""
    summary = result["summary"]
    rows = [
        (
            f"4x {cell['device']}", cell["model"], cell["workload"], cell["best_rival"],
            f"{cell['rival_bound_share']:.1%}", f"{cell['bound_share']:.1%}",
            f"{cell['ratio']:.3f}", f"{cell['ratio_td_pipe']:.2f}",
            f"{cell['recomputed_share']:.2%}",
        )
        for cell in summary["cells"]
    ]  # fmt: skip
    columns = (
        "node", "model", "workload", "best rival", "its share of the bound", "adaptive's",
        "adaptive / best rival", "adaptive / td-pipe", "recomputed",
    )  # fmt: skip
    return (
        f"{_rows(columns, rows)}\n"
        f"Geometric means: {summary['geometric_mean_ratio']:.3f} x the best rival of each cell, "
        f"{summary['geometric_mean_ratio_td_pipe']:.3f} x td-pipe; the least ratio is "
        f"{summary['least_ratio']:.3f}.\n"
    )


def paper_draws(result: dict) -> str:
    """adaptive against the fastest rival of each cell, over more draws."""
    rows = [
        (
            f"4x {cell['device']}", cell["model"], cell["workload"], cell["best_rival"],
            f"{cell['ratio']:.3f} ± {cell['standard_error']:.3f}",
            f"{min(cell['ratios']):.3f} to {max(cell['ratios']):.3f}",
            f"{cell['mean_recomputed_share']:.2%}", f"{cell['most_recomputed_share']:.2%}",
        )
        for cell in result["summary"]
    ]  # fmt: skip
    columns = (
        "node", "model", "workload", "fastest rival", "adaptive / fastest rival", "by draw",
        "recomputed", "at most",
    )  # fmt: skip
    return _rows(columns, rows)


def paper_ablation(result: dict) -> str:
    """tokens/s of td-pipe and its variants."""
    return _matrix(result["runs"], lambda run: f"4x {run['device']} {run['model']}")


def paper_memory(result: dict) -> str:
    """tokens/s with a shrinking cache, and recomputed tokens."""
    speeds = _matrix(result["runs"], lambda run: f"{run['kv_share']:.0%}")
    shares = _matrix(
        result["runs"], lambda run: f"{run['kv_share']:.0%}", "recomputed_share", "{:.1%}"
    )
    return f"{speeds}\nRecomputed tokens, as a share of all:\n\n{shares}"


def decision_cost(result: dict) -> str:
    """Share of a run's time that the decisions take."""
    return _matrix(
        result["runs"], lambda run: f"4x {run['device']} {run['model']}", "share", "{:.2%}"
    )


def plan_check(result: dict) -> str:
    """plan's pick against the best of an exhaustive simulation in each cell."""
    rows = []
    for cell in result["cells"]:
        pick, best = (_candidate(cell[name]) for name in ("pick", "best"))
        rows.append(
            (
                f"4x {cell['device']}", cell["model"], cell["workload"], pick,
                "the same" if best == pick else best, f"{cell['ratio']:.3f}",
                f"{cell['plan_s']:.0f} s", str(cell["num_simulated"]), str(cell["num_pruned"]),
            )
        )  # fmt: skip
    columns = (
        "node", "model", "workload", "plan's pick", "best", "pick's time / best",
        "planned in", "simulated", "could not win",
    )  # fmt: skip
    return (
        f"{_rows(columns, rows)}\n"
        f"The largest ratio is {result['largest_ratio']:.3f}; `plan` took at most "
        f"{result['longest_plan_s']:.0f} s with {result['settings']['processes']} simulations at a "
        f"time on {cores_text(result['machine'])}.\n"
    )


def _candidate(found: dict) -> str:
    layers = ",".join(map(str, found["layers"]))
    return f"{found['layout']} {found['scheduler']} {layers}"


RECORDED_FIGURES = (
    ("makespan (s)", "makespan_s", 1, "{:.1f}"),
    ("output tokens/s", "output_tokens_per_s", 1, "{:.0f}"),
    *((f"latency P{level} (s)", f"latency_p{level}_s", 1, "{:.1f}") for level in (10, 50, 90, 99)),
    *((f"time to first token P{level} (s)", f"ttft_p{level}_s", 1, "{:.1f}") for level in (50, 90)),
    ("time per further token, mean (ms)", "tpot_mean_s", 1e3, "{:.1f}"),
)


def recorded_runs(result: dict) -> str:
    """Recorded vLLM runs against simulated ones: recorded -> simulated (error)."""
    runs = result["runs"]
    rows = [
        (title, [_error(run["recorded"][key], run["simulated"][key], form, scale) for run in runs])
        for title, key, scale, form in RECORDED_FIGURES
    ]
    tails = [
        (run["decode_tail"]["recorded_step_s"], run["decode_tail"]["modelled_step_s"])
        for run in runs
    ]
    rows += [
        ("step of the last decodes (ms)", [_error(*tail, "{:.1f}", 1e3) for tail in tails]),
        (
            "KV cache (tokens)",
            [f"{run['kv_tokens'] or 'unknown'} -> {run['simulated_kv_tokens']}" for run in runs],
        ),
        ("distance of completions", [f"{run['completion_distance']:.3f}" for run in runs]),
    ]
    names = [f"{run['tensor_parallel']}x {run['device']}, {run['model']}" for run in runs]
    lines = ["| | " + " | ".join(names) + " |", "|---" * (len(names) + 1) + "|"]
    lines += [f"| {title} | " + " | ".join(cells) + " |" for title, cells in rows]
    lines.append(
        "\nLatency: from arrival to the last token. Step of the last decodes: mean time of a step "
        "once every request has its first token, recorded and by the cost model for the same "
        "requests. Distance of completions: the largest difference between the shares of requests "
        "completed by any instant."
    )
    return "\n".join(lines) + "\n"


def _error(recorded: float, simulated: float, form: str, scale: float) -> str:
    shown = f"{form.format(recorded * scale)} -> {form.format(simulated * scale)}"
    return f"{shown} ({simulated / recorded - 1:+.1%})"


def simulated_vs_real(result: dict) -> str:
    """Measured and simulated throughput of each scheduler, and how far they are apart."""
    settings, machine = result["settings"], result["machine"]
    verdicts = [
        f"{name}: largest error {found['largest_error']:.1%}, order of schedulers "
        + ("as simulated" if found["same_order"] else "not as simulated")
        + _to_rivals(found)
        + _faster_layout(found)
        for name, found in result["workloads"].items()
    ]
    layouts = ", ".join(
        f"{layout} of {','.join(map(str, layers))} layers"
        for layout, layers in settings["partitions"].items()
    )
    return (
        f"{result['table']}\n\n{'; '.join(verdicts)}. {settings['requests']} requests, {layouts}, "
        f"{settings['rounds']} alternating rounds, medians, {cores_text(machine)} "
        f"([{result['name']}.json](../benchmarks/results/{result['name']}.json))\n"
    )


def _to_rivals(found: dict) -> str:
    """td-pipe and adaptive against the best of the other pipeline schedulers."""
    rates = {
        name.removeprefix("PP2 "): row["measured_tokens_per_s"]
        for name, row in found["schedulers"].items()
        if name.startswith("PP2 ")
    }
    ours = [name for name in ("td-pipe", "adaptive") if name in rates]
    rivals = [name for name in rates if name not in ours]
    if not ours or not rivals:
        return ""
    best = max(rivals, key=rates.__getitem__)
    ratios = (f", {name} {rates[name] / rates[best]:.2f} x {best}" for name in ours)
    return "".join(ratios)


def _faster_layout(found: dict) -> str:
    """The fastest of each layout, where there are two."""
    rows = found["schedulers"]
    best = [(rows[name]["measured_tokens_per_s"], name) for name in found["best"].values()]
    if len(best) < 2:
        return ""
    fast, slow = max(best), min(best)
    return f", {fast[1]} {fast[0] / slow[0]:.2f} x {slow[1]}"


def _matrix(
    runs: list[dict],
    row_of: Callable[[dict], str],
    figure: str = "tokens_per_s",
    form: str = "{:.0f}",
) -> str:
    names = list(dict.fromkeys(run["scheduler"] for run in runs))
    rows: dict[str, dict[str, str]] = {}
    for run in runs:
        rows.setdefault(row_of(run), {})[run["scheduler"]] = form.format(run[figure])
    table = [(title, *(found[name] for name in names)) for title, found in rows.items()]
    return _rows(("", *names), table)


def _rows(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [columns, ("---",) * len(columns), *rows]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)


TABLES = {
    "peers": peers,
    "peers_avx2": peers,
    "peers_static": peers,
    "replicas": peers,
    "stage_busy": stage_busy,
    "paper_nodes": paper_nodes,
    "paper_grid": paper_grid,
    "paper_draws": paper_draws,
    "paper_ablation": paper_ablation,
    "paper_memory": paper_memory,
    "recorded_runs": recorded_runs,
    "decision_cost": decision_cost,
    "plan_check": plan_check,
    "simulated_vs_real": simulated_vs_real,
    "simulated_vs_real_busy": simulated_vs_real,
    "real_schedulers": simulated_vs_real,
    "breakdown": execution_tables.breakdown,
    "slow_link": execution_tables.slow_link,
    "projection_rates": execution_tables.projection_rates,
    "projection_rates_avx2": execution_tables.projection_rates,
    "limit": execution_tables.limit,
    "limit_avx2": execution_tables.limit,
    "limit_int8": execution_tables.limit,
    "stage_memory": execution_tables.stage_memory,
    "quantization": execution_tables.quantization,
    "prefix_sharing": execution_tables.prefix_sharing,
    "prefix_sharing_roomy": execution_tables.prefix_sharing,
    "length_accuracy": length_tables.length_accuracy,
    "length_accuracy_warm": length_tables.length_accuracy,
    "length_effect": length_tables.length_effect,
    "length_effect_real": length_tables.length_effect_real,
    "length_cost": length_tables.length_cost,
    "batch_memory": batch_tables.batch_memory,
    "faults": batch_tables.faults,
}


def render(text: str) -> str:
    """The page with its tables made anew."""

    def table(match: re.Match[str]) -> str:
        path = RESULTS / f"{match[2]}.json"
        made = "not measured yet\n"
        if path.exists():
            made = TABLES[match[2]](json.loads(path.read_text()))
        return match[1] + made + match[3]

    return MARKS.sub(table, text)


def main() -> int:
    """Render every page, or check it."""
    stale = 0
    for name in PAGES:
        page = ROOT / name
        old = page.read_text()
        new = render(old)
        if new != old and "--check" in sys.argv:
            print(f"{name}: tables are out of date; run python benchmarks/make_tables.py")
            stale = 1
        elif new != old:
            page.write_text(new)
    return stale


if __name__ == "__main__":
    sys.exit(main())
