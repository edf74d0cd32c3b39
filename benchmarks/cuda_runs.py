"""The parts `workload` and `four-stages` of cuda.py: random models run for real, and simulated.

Both profile the started stages, run each scheduler on a workload of lengths like those of ShareGPT,
and simulate the same requests with the measured stage times.
"""

import argparse
import os
import random
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import Any

import torch

from device_rates import describe
from profiled_pipeline import SMOKE_GRID, ProfiledPipeline
from random_models import RANDOM_MODELS, write_random_model
from result_record import write_result
from simulated_vs_real import summary
from tdpipe.config.engine_config import EngineConfig
from tdpipe.execution.stage_profiler import FULL_GRID
from tdpipe.frontend.stage_profile_cache import MPS_SHARE
from tdpipe.simulation.workload_models import generate_workload
from workload_lognormal import WorkItem

# Batches that a card needs to be filled, up to the largest that schedulers make.
CARD_GRID = replace(
    FULL_GRID, prefill_tokens=(8, 32, 128, 256, 512, 1024, 2048), pair_tokens=2048,
    short_tokens=128, decode_sequences=(1, 8, 16, 32, 64, 128, 256), contexts=(64, 1024),
    kv_sequences=64, link_tokens=2048,
)  # fmt: skip
LONGEST, SMOKE_LONGEST = 1024, 24
WARM_UP_REQUESTS = 32
SMOKE_KV = "16MiB"


def make_items(model: str, num_requests: int, seed: int, longest: int) -> list[WorkItem]:
    """Requests of lengths like ShareGPT's, cut to `longest`, of random token ids."""
    lengths = generate_workload("sharegpt", num_requests, seed).scaled(longest, longest).lengths()
    draw, highest = random.Random(seed), RANDOM_MODELS[model].shape.vocab_size - 1
    return [
        WorkItem([draw.randint(1, highest) for _ in range(prompt)], output)
        for prompt, output in lengths
    ]


def run_workload(options: argparse.Namespace) -> Path:
    """One model on one device as one stage; writes cuda_workload.json."""
    figures = measure_runs(options, 1, options.workload_requests, options.workload_schedulers)
    return _written("cuda_workload", options, figures)


def run_stages(options: argparse.Namespace) -> Path:
    """Several stages on one device, all schedulers; writes cuda_four_stages.json."""
    stages = options.stages
    figures = measure_runs(options, stages, options.stage_requests, options.schedulers)
    return _written("cuda_four_stages", options, figures)


def measure_runs(
    options: argparse.Namespace, num_stages: int, num_requests: int, schedulers: list[str]
) -> dict[str, Any]:
    """Profile, run and simulate; schedulers for which no time is left are named and left out."""
    until_s = time.monotonic() + options.limit_s
    longest = SMOKE_LONGEST if options.smoke else LONGEST
    items = make_items(options.run_model, num_requests, options.seed, longest)
    rounds: dict[str, list[dict[str, Any]]] = {}
    left_out = []
    with tempfile.TemporaryDirectory(prefix="tdpipe-model-") as folder:
        model = str(write_random_model(Path(folder), options.run_model))
        grid = SMOKE_GRID if options.smoke else CARD_GRID
        pipeline = ProfiledPipeline(engine_config(model, options, num_stages), grid)
        try:
            warm_up(pipeline, schedulers[0], items)
            pipeline.profile()
            for name in schedulers:
                if rounds and time.monotonic() > until_s:
                    left_out.append(name)
                    continue
                found = {
                    "measured": pipeline.run(name, items),
                    "by_the_profile": pipeline.simulated(name, items),
                }
                rounds[f"PP{num_stages} {name}"] = [found]
                print(f"{name}: {found['measured']['wall_s']:.1f} s", file=sys.stderr)
            layers, limits = list(pipeline.setup.layers), pipeline.limits
            profiles, dtype = pipeline.profiles, pipeline.setup.dtype
        finally:
            pipeline.executor.close()
    prompt_tokens, output_tokens = (
        sum(len(item.prompt) for item in items), sum(item.output_tokens for item in items)
    )  # fmt: skip
    return {
        "num_stages": num_stages,
        "num_requests": num_requests,
        "partition": layers,
        "dtype": dtype,
        "kv_tokens": limits.kv_tokens,
        "left_out": left_out,
        "profiles": profiles,
        **summary(rounds, prompt_tokens, output_tokens),
    }


def engine_config(model: str, options: argparse.Namespace, num_stages: int) -> EngineConfig:
    """All stages on the one device, which they name each."""
    return EngineConfig(
        model,
        load_format="dummy",
        dtype="bfloat16",
        pipeline_parallel_size=num_stages,
        stage_devices=[options.device] * num_stages,
        kv_cache_memory=SMOKE_KV if options.smoke else None,
    )


def warm_up(pipeline: ProfiledPipeline, scheduler: str, items: list[WorkItem]) -> None:
    """Let kernels be compiled and libraries choose theirs before anything counts."""
    pipeline.profile(SMOKE_GRID)
    pipeline.profiles.clear()
    pipeline.run(scheduler, items[:WARM_UP_REQUESTS])


def table(figures: dict[str, Any]) -> str:
    """Measured and simulated side by side, a line for each scheduler."""
    lines = [
        "| scheduler | output tokens/s | simulated | error | of stage times | bubbles | simulated "
        "| preemptions | of the bound |",
        "|---" * 9 + "|",
    ]
    for name, row in figures["schedulers"].items():
        bubbles, simulated = (
            1 - fmean(row[f"{kind}_busy_shares"]) for kind in ("measured", "simulated")
        )
        cells = [
            name.split()[1],
            f"{row['measured_tokens_per_s']:.0f}",
            f"{row['simulated_tokens_per_s']:.0f}",
            f"{row['error']:+.1%}",
            f"{row['error_of_stage_times']:+.1%}",
            f"{bubbles:.1%}",
            f"{simulated:.1%}",
            str(row["rounds"][0]["measured"]["num_preemptions"]),
            f"{row['bound_share']:.1%}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def sharing(options: argparse.Namespace, num_stages: int) -> str:
    """How the stages have their device."""
    if num_stages == 1:
        return "one stage has all of it"
    if not options.device.startswith("cuda"):
        return "cores of its own for each, or in turn"
    share = os.environ.get(MPS_SHARE)
    return f"MPS, {share}% of the multiprocessors each" if share else "in turn, all of it each"


def _written(name: str, options: argparse.Namespace, figures: dict[str, Any]) -> Path:
    shown = sharing(options, figures["num_stages"])
    settings = {
        "model": options.run_model, "workload": "sharegpt", "seed": options.seed,
        "smoke": options.smoke, "sharing": shown,
    }  # fmt: skip
    made = table(figures)
    print(made)
    print(f"{figures['num_stages']} stages, {shown}; largest error {figures['largest_error']:.1%}")
    if figures["left_out"]:
        print(f"no time was left for {', '.join(figures['left_out'])}")
    found = {"device": describe(torch.device(options.device)), **figures, "table": made}
    return write_result(name, settings, found, options.folder)
