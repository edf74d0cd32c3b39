"""Where the stages' time goes, by phase and part, in a real run of the peers' workload.

    python benchmarks/breakdown.py [--requests 200] [--schedulers td-pipe,adaptive]
        [--settings KEY=VALUE ...]

Writes benchmarks/results/breakdown.json and prints a table for each scheduler. The parts are those
of src/tdpipe/execution/stage_clock.py; what its clocks cost is in them.
"""

import argparse
import json
import os
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil

from result_record import write_result
from tdpipe import LLM, SamplingParams
from tdpipe.execution.stage_clock import STAGE_CLOCK
from workload_lognormal import make_workload

MODEL = "smollm2-135m-instruct"


def main() -> None:
    """One run of each scheduler, one table a stage."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=200)
    parser.add_argument("--schedulers", default="td-pipe,adaptive", help="comma-separated")
    parser.add_argument("--stages", type=int, default=2)
    parser.add_argument("--settings", nargs="*", default=[], help="of the engine, KEY=VALUE")
    parser.add_argument("--smoke", action="store_true", help="few and short requests")
    parser.add_argument("--folder", type=Path, help="where to write, instead of results/")
    options = parser.parse_args()
    named = dict(one.split("=", 1) for one in options.settings)
    if options.smoke:
        options.requests = 8
    schedulers = options.schedulers.split(",")
    runs = {scheduler: measure(scheduler, options, named) for scheduler in schedulers}
    settings = {
        "requests": options.requests, "schedulers": schedulers, "stages": options.stages,
        "engine": named, "smoke": options.smoke,
    }  # fmt: skip
    write_result("breakdown", settings, {"runs": runs}, options.folder)
    for scheduler, figures in runs.items():
        print(scheduler, end=": ")
        show(figures)


def measure(scheduler: str, options: argparse.Namespace, named: dict[str, str]) -> dict[str, Any]:
    """Seconds by stage, phase and part, and the engine's own."""
    workload = make_workload(options.requests, seed=0, scale=0.1 if options.smoke else 1.0)
    params = [
        SamplingParams(temperature=0.0, max_tokens=item.output_tokens, ignore_eos=True)
        for item in workload
    ]
    with tempfile.TemporaryDirectory() as folder:
        os.environ[STAGE_CLOCK] = folder
        with LLM(MODEL, pipeline_parallel_size=options.stages, scheduler=scheduler, **named) as llm:
            llm.generate([[5, 6, 7]] * 4, SamplingParams(max_tokens=8))  # kernels loaded by then
            engine = psutil.Process()
            before = engine.cpu_times()
            started_s = time.perf_counter()
            llm.generate([item.prompt for item in workload], params)
            seconds = time.perf_counter() - started_s
            after = engine.cpu_times()
            summary = llm.summary()
        stages = [
            json.loads((Path(folder) / f"stage-{stage}.json").read_text())
            for stage in range(options.stages)
        ]
    output_tokens = sum(item.output_tokens for item in workload)
    return {
        "seconds": seconds,
        "output_tokens_per_s": output_tokens / seconds,
        "engine_cpu_s": after.user + after.system - before.user - before.system,
        "partition": list(summary.partition),
        "stage_busy_shares": list(summary.stage_busy_shares),
        "num_batches": summary.num_batches,
        "stages": stages,
    }


def show(figures: dict[str, Any]) -> None:
    """Seconds and shares, phase by phase."""
    print(
        f"{figures['seconds']:.1f} s, {figures['output_tokens_per_s']:.1f} output tokens/s, "
        f"layers {figures['partition']}, the engine's own process {figures['engine_cpu_s']:.1f} s"
    )
    for stage, phases in enumerate(figures["stages"]):
        for phase, parts in phases.items():
            total_s = sum(parts.values())
            ordered = sorted(parts.items(), key=lambda part: -part[1])
            shares = ", ".join(f"{name} {s:.1f} ({s / total_s:.0%})" for name, s in ordered)
            print(f"stage {stage}, {phase}: {total_s:.1f} s: {shares}")


if __name__ == "__main__":
    main()
