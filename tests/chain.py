"""A pipeline of StageModels in one process, driven slice by slice."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import torch

from tdpipe.core.batch_plan import BatchPlan, Phase, SequenceSlice
from tdpipe.core.tensor_shard import tensor_shards
from tdpipe.execution.attention.attention_backend import AttentionBackend
from tdpipe.execution.attention.torch_attention import TorchAttention
from tdpipe.execution.batch_tensors import build_batch
from tdpipe.execution.models.decoder import StageModel
from tdpipe.execution.models.model_source import load_config
from tdpipe.execution.sequence_table import SequenceTable
from tdpipe.execution.tensor_ranks import TensorRanks

CPU = torch.device("cpu")
BLOCK_SIZE = 4


class ThreadRanks(TensorRanks):
    """Ranks that are threads of one process: each leaves its tensor and takes all of them."""

    def __init__(self, shards, rank: int, left: dict[int, torch.Tensor], barrier: Barrier) -> None:
        super().__init__(shards, rank)
        self._left, self._barrier = left, barrier

    def _all(self, x: torch.Tensor) -> list[torch.Tensor]:
        self._left[self.shard.rank] = x.clone()
        self._barrier.wait(60)
        found = [self._left[rank] for rank in range(self.size)]
        self._barrier.wait(60)
        return found

    def sum(self, x: torch.Tensor) -> torch.Tensor:
        return x.copy_(torch.stack(self._all(x)).sum(0))

    def gather_vocab(self, logits: torch.Tensor) -> torch.Tensor | None:
        found = self._all(logits)
        return torch.cat(found, dim=1) if self.is_first else None


class Chain:
    """Stages of the given numbers of layers, with scattered blocks of a shared pool.

    Each is shared by num_ranks ranks, which are threads. The caches keep dtype `stored`.
    """

    def __init__(
        self,
        folder: Path,
        layers: list[int],
        attention: type[AttentionBackend] = TorchAttention,
        num_ranks: int = 1,
        stored: torch.dtype | None = None,
    ) -> None:
        config = load_config(folder)
        assert sum(layers) == config.num_layers
        ends = [sum(layers[: i + 1]) for i in range(len(layers))]
        shards, left, barrier = tensor_shards(config.shape(), num_ranks), {}, Barrier(num_ranks)
        ranks = [ThreadRanks(shards, rank, left, barrier) for rank in range(num_ranks)]
        self.models = [
            [
                StageModel(
                    config,
                    end - count,
                    end,
                    is_first=end == count,
                    is_last=end == config.num_layers,
                    dtype=torch.float32,
                    device=CPU,
                    max_model_len=512,
                    ranks=rank,
                )
                for count, end in zip(layers, ends, strict=True)
            ]
            for rank in ranks
        ]
        for model in [model for stages in self.models for model in stages]:
            model.load(folder)
        self.attention = attention
        sizes = (512, BLOCK_SIZE)
        self.caches = [
            [
                attention.cache_class(
                    n, *sizes, shard.kv_heads.size, config.head_dim, torch.float32, CPU, stored
                )
                for n in layers
            ]
            for shard in shards
        ]
        self.threads = ThreadPoolExecutor(num_ranks)
        self.table = SequenceTable(128)
        self.held: dict[int, int] = {}
        # Every third block, wrapped around: neighbours in a sequence are no neighbours in memory.
        self.free = [(i * 3) % 512 + (i * 3) // 512 for i in range(510)]

    def step(self, work: list[tuple[int, int, list[int]]], num_prefills: int) -> torch.Tensor:
        """Compute (request, start, tokens) slices; logits [slices, vocab] of their last tokens."""
        slices = []
        for request, start, tokens in work:
            needed = -(-(start + len(tokens)) // BLOCK_SIZE) - self.held.get(request, 0)
            new = tuple(self.free.pop() for _ in range(needed))
            self.held[request] = self.held.get(request, 0) + needed
            slices.append(SequenceSlice(request, start, tuple(tokens), new, True))
        plan = BatchPlan(0, Phase.MIXED, num_prefills, tuple(slices), (), (), "")
        self.table.apply(plan)
        results = list(
            self.threads.map(lambda rank: self._run(plan, rank), range(len(self.models)))
        )
        assert all(one is None for one in results[1:])
        return results[0]

    def _run(self, plan: BatchPlan, rank: int) -> torch.Tensor | None:
        batch = build_batch(plan, self.table, BLOCK_SIZE, CPU)
        x, attention = batch.token_ids, self.attention()
        with torch.inference_mode():
            for model, cache in zip(self.models[rank], self.caches[rank], strict=True):
                x = model(x, batch.positions, cache, attention, batch.attention)
            return self.models[rank][-1].project(x[batch.sampled_rows])


def relative_gap(logits: torch.Tensor, reference: torch.Tensor) -> float:
    """Largest difference over the largest logit."""
    return float((logits - reference).abs().max() / reference.abs().max())
