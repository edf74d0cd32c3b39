"""Memory and rate of `tdpipe run-batch` over inputs of growing length, on a tiny model.

    python benchmarks/batch_memory.py [--lines 1000 100000] [--smoke]

Each run is a process of its own; its memory, and that of its stages, is sampled twice a second:
resident bytes at a tenth of the input, at its end, and at the peak. Memory is flat where the end is
not above the tenth. Rates are of the run alone, without the start of the stages. The shortest
input is run before and after each other one, and rates are compared to the mean of the two. A short
run is slowed by its start and its tail, so that the rate in each tenth of a run is told as well.
"""

import argparse
import itertools
import json
import random
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import fmean
from typing import Any

import psutil

from result_record import write_result
from tiny_model import write_tiny_model

SAMPLE_S = 0.5
NUM_STAGES = 2
WORDS = ("river", "stone", "light", "paper", "engine", "window", "garden", "music", "winter")


def write_input(path: Path, num_lines: int, seed: int = 0) -> None:
    """Completions of 5 to 30 words and 4 to 16 tokens."""
    draw = random.Random(seed)
    with path.open("w") as lines:
        for number in range(num_lines):
            prompt = " ".join(draw.choices(WORDS, k=draw.randint(5, 30)))
            body = {
                "prompt": f"{number} {prompt}",
                "max_tokens": draw.randint(4, 16),
                "temperature": 0,
                "ignore_eos": True,
            }
            record = {"custom_id": f"request-{number}", "url": "/v1/completions", "body": body}
            lines.write(json.dumps(record) + "\n")


def measure(model: Path, folder: Path, num_lines: int) -> dict[str, Any]:
    """One run of num_lines lines: seconds, rate, and memory in MiB."""
    source, target = folder / f"{num_lines}.jsonl", folder / "out.jsonl"
    if not source.exists():
        write_input(source, num_lines)
    command = [
        sys.executable, "-m", "tdpipe.cli.main", "run-batch", "-i", str(source), "-o", str(target),
        "--overwrite", "--model", str(model), "-p", str(NUM_STAGES), "--kv-cache-memory", "64MiB",
        "--max-model-len", "512",
    ]  # fmt: skip
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True)
        samples = sample_memory(process, target)
        shown = process.stdout.read() if process.stdout else ""
    found = re.search(r"time +([\d.]+) s", shown)
    if process.returncode or found is None:
        raise RuntimeError((folder / "log").read_text()[-2000:])
    wall_s = float(found[1])
    return {"lines": num_lines, "wall_s": wall_s, "lines_per_s": num_lines / wall_s,
            "tenths_lines_per_s": rates_of_tenths(samples, target.stat().st_size, num_lines),
            **figures(samples, target.stat().st_size)}  # fmt: skip


def sample_memory(process: "subprocess.Popen[str]", target: Path) -> list[dict[str, Any]]:
    """Resident MiB of the engine and of each stage, and how long the output was."""
    samples: list[dict[str, Any]] = []
    engine = psutil.Process(process.pid)
    while process.poll() is None:
        try:
            written = target.stat().st_size if target.exists() else 0
            resident = [engine, *engine.children()]
            mib = [one.memory_info().rss / 2**20 for one in resident]
            taken_s = time.perf_counter()
            samples.append({"at_s": taken_s, "bytes": written, "engine": mib[0], "stages": mib[1:]})
        except psutil.NoSuchProcess:
            pass
        time.sleep(SAMPLE_S)
    return samples


def rates_of_tenths(samples: list[dict[str, Any]], size: int, num_lines: int) -> list[float]:
    """Lines a second while each tenth of the output was written, by its bytes."""
    running = [one for one in samples if one["bytes"]]
    passed = [next((o for o in running if o["bytes"] >= size * k / 10), None) for k in range(11)]
    rates = []
    for before, after in itertools.pairwise(passed):
        if before is None or after is None or after["at_s"] <= before["at_s"]:
            return []  # too short a run to be told in tenths
        share = (after["bytes"] - before["bytes"]) / size
        rates.append(round(num_lines * share / (after["at_s"] - before["at_s"]), 1))
    return rates


def figures(samples: list[dict[str, Any]], size: int) -> dict[str, Any]:
    """Memory at a tenth of the output, at its end, and at the peak."""
    # A process that is ending has nothing resident.
    alive = [one for one in samples if len(one["stages"]) == NUM_STAGES and min(one["stages"]) > 50]
    running = [one for one in alive if one["bytes"]]
    if not running:  # too short a run to be sampled
        return {}
    tenth = next(one for one in running if one["bytes"] >= size / 10 or one is running[-1])
    return {
        "engine_mib": {
            "tenth": round(tenth["engine"], 1),
            "end": round(running[-1]["engine"], 1),
            "peak": round(max(one["engine"] for one in samples), 1),
        },
        "stages_mib": {
            "tenth": [round(one, 1) for one in tenth["stages"]],
            "end": [round(one, 1) for one in running[-1]["stages"]],
        },
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--lines", type=int, nargs="+", default=[1000, 100_000])
    parser.add_argument("--folder", type=Path, help="where to write, instead of results/")
    parser.add_argument(
        "--smoke", action="store_true", help="a hundredth of the lines, each input once"
    )
    options = parser.parse_args()
    counts = [max(10, count // 100) for count in options.lines] if options.smoke else options.lines
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        model = write_tiny_model(folder / "model")
        runs = [measure(model, folder, counts[0])]
        for count in counts[1:]:
            runs.append(measure(model, folder, count))
            print(json.dumps(runs[-1]))
            if not options.smoke:
                runs.append(measure(model, folder, counts[0]))
    for place in range(1, len(runs), 2):
        around = [one["lines_per_s"] for one in (runs[place - 1], *runs[place + 1 : place + 2])]
        runs[place]["rate_share"] = runs[place]["lines_per_s"] / fmean(around)
        print(f"{runs[place]['lines']} lines: {runs[place]['rate_share']:.3f} of the rate")
    settings = {"lines": counts, "stages": NUM_STAGES, "smoke": options.smoke}
    print(write_result("batch_memory", settings, {"runs": runs}, options.folder))


if __name__ == "__main__":
    main()
