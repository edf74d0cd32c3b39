"""The part `kernels` of cuda.py: decode and prefill steps of whole models against the roofline."""

import argparse
import gc
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from device_rates import copy_bytes_per_s, describe, matmul_flops
from model_steps import WholeModel, against_roofline
from random_models import RANDOM_MODELS, write_random_model
from result_record import write_result
from tdpipe.execution.probe_batches import Probe

DECODES = [(count, context) for context in (128, 256, 512, 1024) for count in (1, 16, 64, 128, 256)]
PREFILLS = [(1, 128), (1, 512), (1, 1024), (1, 2048), (4, 512), (16, 128), (1, 4096)]
SMOKE_DECODES, SMOKE_PREFILLS = [(1, 16), (64, 16)], [(1, 32), (4, 256)]
COPIED_BYTES, SMOKE_BYTES = 4 << 30, 8 << 20
RATE_ROWS, SMOKE_ROWS = 2048, 64
# What the project holds itself to, and where it counts.
DECODE_TARGET, DECODE_FROM = 0.75, 64
PREFILL_TARGET, PREFILL_FROM = 0.60, 1024


def probes_of(smoke: bool) -> list[Probe]:
    """All steps that are measured."""
    decodes, prefills = (SMOKE_DECODES, SMOKE_PREFILLS) if smoke else (DECODES, PREFILLS)
    found = [Probe(num_decodes=count, context_tokens=context) for count, context in decodes]
    return found + [Probe(count, length, samples=True) for count, length in prefills]


def measure_model(name: str, device: torch.device, smoke: bool, until_s: float) -> dict[str, Any]:
    """One model: what the device reaches on its shapes, then every probe that fits."""
    dtype, shape = torch.bfloat16, RANDOM_MODELS[name].shape
    bytes_per_s = copy_bytes_per_s(device, SMOKE_BYTES if smoke else COPIED_BYTES)
    flops = matmul_flops(device, dtype, shape, SMOKE_ROWS if smoke else RATE_ROWS)
    probes = probes_of(smoke)
    rows, left_out = [], []
    with tempfile.TemporaryDirectory(prefix="tdpipe-model-") as folder:
        path = write_random_model(Path(folder), name)
        started_s = time.monotonic()
        model = WholeModel(path, device, dtype, probes)
        print(f"{name}: made in {time.monotonic() - started_s:.0f} s", file=sys.stderr)
        for probe in probes:
            sizes = {
                "prefills": probe.num_prefills,
                "prefill_tokens": probe.prefill_tokens,
                "decodes": probe.num_decodes,
                "context_tokens": probe.context_tokens,
            }
            if not model.fits(probe) or time.monotonic() > until_s:
                left_out.append(sizes)
                continue
            times = model.times(probe)
            reached = against_roofline(shape, probe, times["step_s"], bytes_per_s, flops)
            rows.append(sizes | times | reached)
    return {
        "copy_bytes_per_s": bytes_per_s,
        "matmul_flops": flops,
        "steps": rows,
        "left_out": left_out,
        **least_shares(rows),
    }


def least_shares(rows: list[dict[str, Any]]) -> dict[str, float | None]:
    """The worst step of those that the targets are for; None where none was measured."""
    decodes = [row["bandwidth_share"] for row in rows if row["decodes"] >= DECODE_FROM]
    prefills = [
        row["matmul_share"]
        for row in rows
        if row["prefills"] * row["prefill_tokens"] >= PREFILL_FROM
    ]
    return {
        "least_decode_bandwidth_share": min(decodes, default=None),
        "least_prefill_matmul_share": min(prefills, default=None),
    }


def table(models: dict[str, dict[str, Any]]) -> str:
    """A line for each step."""
    lines = [
        "| model | step | ms | launching | of bandwidth | of matrix rate | of the roofline |",
        "|---" * 7 + "|",
    ]
    for name, found in models.items():
        for row in found["steps"]:
            step = f"decode {row['decodes']} x {row['context_tokens']}"
            if row["prefills"]:
                step = f"prefill {row['prefills']} x {row['prefill_tokens']}"
            cells = [
                name,
                step,
                f"{row['step_s'] * 1e3:.2f}",
                f"{row['launch_s'] / row['step_s']:.0%}",
                *(f"{row[f'{kind}_share']:.1%}" for kind in ("bandwidth", "matmul", "roofline")),
            ]
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def verdicts(models: dict[str, dict[str, Any]]) -> list[str]:
    """The targets, a line for each model."""
    lines = []
    for name, found in models.items():
        decode, prefill = (
            "not measured" if share is None else f"{share:.1%}"
            for share in (
                found["least_decode_bandwidth_share"],
                found["least_prefill_matmul_share"],
            )
        )
        lines.append(
            f"{name}: copies {found['copy_bytes_per_s'] / 1e9:.0f} GB/s, products "
            f"{found['matmul_flops'] / 1e12:.1f} TFLOP/s; decode from {DECODE_FROM} at least "
            f"{decode} of bandwidth (target {DECODE_TARGET:.0%}), prefill from {PREFILL_FROM} "
            f"tokens at least {prefill} of the matrix rate (target {PREFILL_TARGET:.0%})"
        )
    return lines


@torch.inference_mode()
def run_kernels(options: argparse.Namespace) -> Path:
    """Measure all models, write cuda_kernels.json, print."""
    device = torch.device(options.device)
    until_s = time.monotonic() + options.limit_s
    models = {}
    for name in options.models:
        models[name] = measure_model(name, device, options.smoke, until_s)
        gc.collect()  # its weights make room for the next one's
        if device.type == "cuda":
            torch.cuda.empty_cache()
    settings = {"models": options.models, "dtype": "bfloat16", "smoke": options.smoke}
    figures = {"device": describe(device), "models": models, "table": table(models)}
    print("\n".join([figures["table"], *verdicts(models)]))
    return write_result("cuda_kernels", settings, figures, options.folder)
