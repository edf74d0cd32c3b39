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
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"
PAGES = ("README.md", "docs/benchmarks.md")
MARKS = re.compile(r"(<!-- table:([a-z_]+) -->\n).*?(<!-- /table -->)", re.DOTALL)


def peers(result: dict) -> str:
    """Throughputs and ratios, with where they come from."""
    settings, machine = result["settings"], result["machine"]
    return (
        f"{result['table']}\n\n{settings['requests']} requests, {settings['prompt_tokens']} prompt "
        f"and {settings['output_tokens']} output tokens, {settings['rounds']} alternating rounds, "
        f"medians, {machine['cores']} cores of {machine['cpu']} "
        "([peers.json](benchmarks/results/peers.json))\n"
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


def paper_nodes(result: dict) -> str:
    """tokens/s of the paper's schedulers, and td-pipe's ratio to each baseline."""
    columns = ("tp-separate", "tp-hybrid", "pp-separate", "pp-hybrid")
    head = "| node | model | td-pipe | adaptive |" + "".join(
        f" td-pipe / {name} | with engine time |" for name in columns
    )
    lines = [head, "|---" * (4 + 2 * len(columns)) + "|"]
    nodes = {(run["num_devices"], run["device"], run["model"]): {} for run in result["runs"]}
    for run in result["runs"]:
        key = (run["num_devices"], run["device"], run["model"])
        nodes[key][run["scheduler"], run["engine_overhead_s"] > 0] = run["tokens_per_s"]
    for (count, device, model), found in nodes.items():
        ours = found["td-pipe", False]
        ratios = [
            f" {ours / found[name, slow]:.2f} |" for name in columns for slow in (False, True)
        ]
        lines.append(
            f"| {count}x {device} | {model} | {ours:.0f} | {found['adaptive', False]:.0f} |"
            + "".join(ratios)
        )
    return "\n".join(lines) + "\n"


def paper_grid(result: dict) -> str:
    """adaptive against the best rival in each cell."""
    summary = result["summary"]
    lines = [
        "| node | model | workload | best rival | its share of the bound | adaptive's | "
        "adaptive / best rival | adaptive / td-pipe |",
        "|---" * 8 + "|",
    ]
    for cell in summary["cells"]:
        lines.append(
            f"| 4x {cell['device']} | {cell['model']} | {cell['workload']} "
            f"| {cell['best_rival']} | {cell['rival_bound_share']:.1%} "
            f"| {cell['bound_share']:.1%} | {cell['ratio']:.2f} | "
            f"{cell['ratio_td_pipe']:.2f} |"
        )
    lines.append(
        f"\nGeometric means: {summary['geometric_mean_ratio']:.3f} x the best rival of each cell, "
        f"{summary['geometric_mean_ratio_td_pipe']:.3f} x td-pipe; the least ratio is "
        f"{summary['least_ratio']:.3f}."
    )
    return "\n".join(lines) + "\n"


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
    lines = ["| | " + " | ".join(names) + " |", "|---" * (len(names) + 1) + "|"]
    for title, found in rows.items():
        lines.append(f"| {title} | " + " | ".join(found[name] for name in names) + " |")
    return "\n".join(lines) + "\n"


TABLES = {
    "peers": peers,
    "stage_busy": stage_busy,
    "paper_nodes": paper_nodes,
    "paper_grid": paper_grid,
    "paper_ablation": paper_ablation,
    "paper_memory": paper_memory,
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
