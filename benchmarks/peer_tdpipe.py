"""tdpipe as a contender: python benchmarks/peer_tdpipe.py SCHEDULER STAGES REQUESTS SEED SCALE

A scheduler's name that ends in -int8 asks for int8 weights, one in -kv16 for a KV cache in float16,
one in -int8-kv16 for both. In place of a scheduler `replicas` asks for as many engines of one stage
each, among which the workload is shared.
"""

import sys
from collections.abc import Callable
from typing import Any

from peer_protocol import serve
from tdpipe import LLM, SamplingParams
from tdpipe.outputs import Job
from tdpipe.replicas.replica_pool import ReplicaPool
from workload_lognormal import WorkItem

INT8, KV16 = "-int8", "-kv16"
REPLICAS = "replicas"
MODEL = "smollm2-135m-instruct"


def settings_of(name: str) -> dict[str, Any]:
    """The engine's settings that a contender's name stands for."""
    weights = name.removesuffix(KV16)
    scheduler = weights.removesuffix(INT8)
    return {
        "scheduler": "adaptive" if scheduler == REPLICAS else scheduler,
        "quantization": "int8" if weights.endswith(INT8) else None,
        "kv_cache_dtype": "float16" if name.endswith(KV16) else "auto",
    }


def params_of(item: WorkItem) -> SamplingParams:
    """Greedy, to exactly its output tokens."""
    return SamplingParams(temperature=0.0, max_tokens=item.output_tokens, ignore_eos=True)


def start(name: str, num_stages: int) -> Callable[[list[WorkItem]], dict[str, Any]]:
    """Start the stages."""
    if name.startswith(REPLICAS):
        return start_replicas(name, num_stages)
    llm = LLM(
        MODEL,
        pipeline_parallel_size=num_stages,
        **settings_of(name),
        dtype="float32",
        device="cpu",
    )
    llm.wait_until_ready()

    def run(workload: list[WorkItem]) -> dict[str, Any]:
        outputs = llm.generate([item.prompt for item in workload], list(map(params_of, workload)))
        made = [len(output.outputs[0].token_ids) for output in outputs]
        assert made == [item.output_tokens for item in workload]
        summary = llm.summary()
        return {
            "prefill_s": summary.prefill_s,
            "decode_s": summary.decode_s,
            "mixed_s": summary.mixed_s,
            "num_switches": summary.num_switches,
            "partition": list(summary.partition),
            "stage_busy_shares": list(summary.stage_busy_shares),
            "bound_share": summary.bound_share,
            "bound_estimated": summary.bound is None or summary.bound.is_estimated,
        }

    return run


def start_replicas(name: str, num_replicas: int) -> Callable[[list[WorkItem]], dict[str, Any]]:
    """Start so many engines of one stage."""
    pool = ReplicaPool(
        MODEL, replicas=num_replicas, **settings_of(name), dtype="float32", device="cpu"
    )
    pool.wait_until_ready()

    def run(workload: list[WorkItem]) -> dict[str, Any]:
        jobs = [
            Job(index, item.prompt, None, params_of(item)) for index, item in enumerate(workload)
        ]
        made = {}
        for result in pool.submit_iter(jobs):
            assert result.output is not None, result.error
            made[result.key] = len(result.output.outputs[0].token_ids)
        assert made == {index: item.output_tokens for index, item in enumerate(workload)}
        return {}

    return run


if __name__ == "__main__":
    contender, stages = sys.argv[1:3]
    serve(lambda: start(contender, int(stages)), sys.argv[3:])
