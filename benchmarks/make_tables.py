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
from pathlib import Path

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"
PAGES = ("README.md",)
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


TABLES = {"peers": peers, "stage_busy": stage_busy}


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
