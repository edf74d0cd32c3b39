"""transformers' generate as a contender, with static batches of requests of similar output length.

    python benchmarks/peer_transformers.py FOLDER BATCH_SIZES REQUESTS SEED SCALE

Each batch is padded on the left and runs until its longest output is done; only the tokens that
were asked for count. The batch size is the fastest of BATCH_SIZES on a part of the workload.
"""

import os
import sys
import time
from collections.abc import Callable
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "2")

import torch
from transformers import AutoModelForCausalLM

from peer_protocol import serve
from workload_lognormal import WorkItem, make_workload

PROBE_REQUESTS = 64


def start(
    folder: str, batch_sizes: list[int], seed: int
) -> Callable[[list[WorkItem]], dict[str, Any]]:
    """Load the model and choose the batch size."""
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    model.generation_config.eos_token_id = None

    def run_batch(batch: list[WorkItem]) -> None:
        longest = max(len(item.prompt) for item in batch)
        padding = [longest - len(item.prompt) for item in batch]
        ids = [[0] * pad + item.prompt for pad, item in zip(padding, batch, strict=True)]
        mask = [[0] * pad + [1] * (longest - pad) for pad in padding]
        steps = max(item.output_tokens for item in batch)
        out = model.generate(
            torch.tensor(ids),
            attention_mask=torch.tensor(mask),
            max_new_tokens=steps,
            min_new_tokens=steps,
            do_sample=False,
            pad_token_id=0,
        )
        assert out.shape[1] == longest + steps

    def run(workload: list[WorkItem], size: int) -> None:
        ordered = sorted(workload, key=lambda item: item.output_tokens)
        for first in range(0, len(ordered), size):
            run_batch(ordered[first : first + size])

    size, times = batch_sizes[0], dict[int, float]()
    if len(batch_sizes) > 1:
        probe = make_workload(PROBE_REQUESTS, seed + 2)
        for candidate in batch_sizes:
            started_s = time.perf_counter()
            run(probe, candidate)
            times[candidate] = time.perf_counter() - started_s
        size = min(times, key=lambda candidate: times[candidate])

    def run_all(workload: list[WorkItem]) -> dict[str, Any]:
        run(workload, size)
        return {"batch_size": size, "probe_requests": PROBE_REQUESTS, "probe_seconds": times}

    return run_all


if __name__ == "__main__":
    model_folder, sizes = sys.argv[1:3]
    chosen = [int(size) for size in sizes.split(",")]
    serve(lambda: start(model_folder, chosen, int(sys.argv[4])), sys.argv[3:])
