"""A pipeline of StageModels in one process, driven slice by slice; and tiny models to put in it."""

from pathlib import Path

import torch

from tdpipe.core.batch_plan import BatchPlan, Phase, SequenceSlice
from tdpipe.execution.attention.attention_backend import AttentionBackend
from tdpipe.execution.attention.torch_attention import TorchAttention
from tdpipe.execution.batch_tensors import build_batch
from tdpipe.execution.models.decoder import StageModel
from tdpipe.execution.models.model_source import load_config
from tdpipe.execution.sequence_table import SequenceTable

CPU = torch.device("cpu")
BLOCK_SIZE = 4


class Chain:
    """Stages of the given numbers of layers, with scattered blocks of a shared pool."""

    def __init__(
        self, folder: Path, layers: list[int], attention: AttentionBackend | None = None
    ) -> None:
        config = load_config(folder)
        assert sum(layers) == config.num_layers
        ends = [sum(layers[: i + 1]) for i in range(len(layers))]
        self.models = [
            StageModel(
                config,
                end - count,
                end,
                is_first=end == count,
                is_last=end == config.num_layers,
                dtype=torch.float32,
                device=CPU,
                max_model_len=512,
            )
            for count, end in zip(layers, ends, strict=True)
        ]
        for model in self.models:
            model.load(folder)
        self.attention = attention or TorchAttention()
        kind = self.attention.cache_class
        self.caches = [
            kind(n, 512, BLOCK_SIZE, config.num_kv_heads, config.head_dim, torch.float32, CPU)
            for n in layers
        ]
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
        batch = build_batch(plan, self.table, BLOCK_SIZE, CPU)
        x = batch.token_ids
        with torch.inference_mode():
            for model, cache in zip(self.models, self.caches, strict=True):
                x = model(x, batch.positions, cache, self.attention, batch.attention)
            return self.models[-1].project(x[batch.sampled_rows])


def relative_gap(logits: torch.Tensor, reference: torch.Tensor) -> float:
    """Largest difference over the largest logit."""
    return float((logits - reference).abs().max() / reference.abs().max())
