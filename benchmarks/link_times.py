"""One of two ranks that time a sum over both, and handing on hidden states; rank 0 prints seconds.

python benchmarks/link_times.py FOLDER RANK        # slow_link.py starts both
"""

import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torch.distributed as dist

from slow_link import ROWS
from tdpipe.core.tensor_shard import tensor_shards
from tdpipe.execution.models.model_source import resolve_model
from tdpipe.execution.tensor_ranks import TensorRanks

REPEATS = 50


def seconds(call: Callable[[], object]) -> float:
    """Mean time of a call, the first ones left out."""
    for _ in range(5):
        call()
    started_s = time.perf_counter()
    for _ in range(REPEATS):
        call()
    return (time.perf_counter() - started_s) / REPEATS


def main() -> None:
    """Sums, round trips, of which half is one way, and sums in two steps."""
    folder, rank = sys.argv[1], int(sys.argv[2])
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {cores[rank % len(cores)]})
    torch.set_num_threads(1)
    config = resolve_model("smollm2-135m-instruct").config
    ranks = TensorRanks(tensor_shards(config.shape(), 2), rank)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    ranks.meet(0, 1, torch.device("cpu"), Path(folder))

    def round_trip(x: torch.Tensor) -> None:
        for sender in (0, 1):
            dist.send(x, 1 - rank) if rank == sender else dist.recv(x, 1 - rank)

    def in_two_steps(x: torch.Tensor) -> None:
        """The sum as gloo makes it of a reduce-scatter and an all-gather, into padded rows."""
        whole = torch.cat([x, x[: len(x) % 2]])
        part = torch.empty(len(whole) // 2, whole.shape[1])
        dist.reduce_scatter_tensor(part, whole)
        dist.all_gather_into_tensor(whole, part)

    states = [torch.zeros(rows, config.hidden_size) for rows in ROWS]
    found = [seconds(lambda x=x: ranks.sum(x)) for x in states]  # type: ignore[misc]
    found += [seconds(lambda x=x: round_trip(x)) / 2 for x in states]  # type: ignore[misc]
    found += [seconds(lambda x=x: in_two_steps(x)) for x in states]  # type: ignore[misc]
    if rank == 0:
        print(*found, flush=True)
        os._exit(0)
    time.sleep(3600)  # what it has sent may be on its way: slow_link.py ends it


if __name__ == "__main__":
    main()
