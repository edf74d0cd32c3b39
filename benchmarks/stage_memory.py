"""Peak memory of each stage beside its weights and KV cache, and the time it takes to load.

    python benchmarks/stage_memory.py [--requests 64] [--kv-cache-memory 256MiB]

The KV cache is made so small that all of it is used: memory that was never written counts nowhere.
Writes benchmarks/results/stage_memory.json.
"""

import argparse
import time
from pathlib import Path
from typing import Any

from result_record import write_result
from tdpipe import LLM, SamplingParams
from tdpipe.config.memory_size import parse_memory_size
from tdpipe.execution.models.model_source import resolve_model
from workload_lognormal import make_workload

MODEL = "smollm2-135m-instruct"
VALUE_BYTES = 4


def peak_bytes(pid: int) -> int:
    """The most memory that a process has held, shared libraries included."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    [kib] = [line.split()[1] for line in lines if line.startswith("VmHWM:")]
    return int(kib) * 1024


def weight_bytes(partition: tuple[int, ...]) -> list[int]:
    """Of each stage's float32 weights; the first embeds, the last projects to the vocabulary."""
    shape = resolve_model(MODEL).config.shape()
    sizes = [layers * shape.layer_params for layers in partition]
    sizes[0] += shape.vocab_params
    if len(sizes) > 1:
        sizes[-1] += shape.vocab_params
    return [VALUE_BYTES * size for size in sizes]


def main() -> None:
    """One run, one line a stage."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=64)
    parser.add_argument("--stages", type=int, default=2)
    parser.add_argument("--kv-cache-memory", default="256MiB")
    parser.add_argument("--smoke", action="store_true", help="few requests, a small cache")
    parser.add_argument("--folder", type=Path, help="where to write, instead of results/")
    options = parser.parse_args()
    if options.smoke:
        options.requests, options.kv_cache_memory = 32, "16MiB"
    workload = make_workload(options.requests, seed=0, scale=0.1 if options.smoke else 1.0)
    started_s = time.perf_counter()
    with LLM(
        MODEL, pipeline_parallel_size=options.stages, kv_cache_memory=options.kv_cache_memory
    ) as llm:
        llm.wait_until_ready()
        ready_s = time.perf_counter() - started_s
        params = [
            SamplingParams(temperature=0.0, max_tokens=item.output_tokens, ignore_eos=True)
            for item in workload
        ]
        llm.generate([item.prompt for item in workload], params)
        summary = llm.summary()
        peaks = [peak_bytes(pid) for pid in llm.pids]
    weights = weight_bytes(tuple(summary.partition))
    kv_bytes = parse_memory_size("kv_cache_memory", options.kv_cache_memory)
    stages: list[dict[str, Any]] = [
        {"peak_bytes": peak, "weight_bytes": held, "beside_bytes": peak - held - kv_bytes}
        for peak, held in zip(peaks, weights, strict=True)
    ]
    figures = {
        "stages": stages,
        "kv_bytes": kv_bytes,
        "peak_kv_share": summary.peak_kv_share,
        "ready_s": ready_s,
        "partition": list(summary.partition),
    }
    settings = {
        "requests": options.requests, "stages": options.stages,
        "kv_cache_memory": options.kv_cache_memory, "smoke": options.smoke,
    }  # fmt: skip
    write_result("stage_memory", settings, figures, options.folder)
    print(f"ready after {ready_s:.1f} s; {summary.peak_kv_share:.0%} of the cache used")
    for stage, one in enumerate(stages):
        peak, beside = one["peak_bytes"] >> 20, one["beside_bytes"] >> 20
        print(f"stage {stage}: peak {peak} MiB, {beside} MiB beside weights and KV cache")


if __name__ == "__main__":
    main()
