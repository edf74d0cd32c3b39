"""Steps of a whole model in this process, without engine or links, and the least that they take.

A step is the forward pass and the projection of the sampled rows, from when the batch's tensors are
on the device until it is done. Its time is held against what its weights and cached tokens take to
read at the measured bandwidth, and its operations at the measured rate.
"""

import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

import torch

from device_rates import settle
from tdpipe.core.batch_plan import BatchPlan
from tdpipe.core.block_pool import blocks_for
from tdpipe.core.limits import Limits
from tdpipe.core.model_shape import ModelShape
from tdpipe.cost.memory_plan import block_bytes
from tdpipe.execution.attention.attention_backend import AttentionMetadata
from tdpipe.execution.attention.choose_attention import choose_attention
from tdpipe.execution.batch_tensors import build_batch
from tdpipe.execution.decode_graphs import (
    MOST_ROWS,
    CudaGraphRecorder,
    DecodeGraphs,
    GraphShape,
)
from tdpipe.execution.device_memory import free_kv_bytes
from tdpipe.execution.models.decoder import StageModel
from tdpipe.execution.models.model_source import load_config
from tdpipe.execution.probe_batches import Probe, ProbeBatches
from tdpipe.execution.sequence_table import SequenceTable

BLOCK_SIZE = 32
WARM_UP, REPEATS = 3, 10
MEMORY_SHARE = 0.9


class WholeModel:
    """A model with random weights on one device, and a KV cache for the probes.

    Args:
        probes: what is to be measured; the cache holds the largest of them that fits.
    """

    def __init__(
        self, folder: Path, device: torch.device, dtype: torch.dtype, probes: Sequence[Probe]
    ) -> None:
        config = load_config(folder)
        self.shape, self._device = config.shape(), device
        longest = max(max(probe.prefill_tokens, probe.context_tokens) for probe in probes)
        self._model = StageModel(
            config, 0, config.num_layers, is_first=True, is_last=True, dtype=dtype,
            device=device, max_model_len=longest,
        )  # fmt: skip
        self._model.load(folder, "dummy")
        self._attention = choose_attention(dtype, device)
        if device.type == "cuda":
            torch.cuda.empty_cache()  # what torch holds in reserve counts as taken
        size = block_bytes(self.shape, config.num_layers, BLOCK_SIZE, dtype.itemsize)
        room = free_kv_bytes(device, MEMORY_SHARE, 1) // size
        num_blocks = min(room, max(blocks_of(probe) for probe in probes))
        self._limits = Limits(1, BLOCK_SIZE, num_blocks, longest)
        self._cache = self._attention.cache_class(
            config.num_layers, num_blocks, BLOCK_SIZE, config.num_kv_heads, config.head_dim,
            dtype, device,
        )  # fmt: skip
        for layer in (*self._cache.keys, *self._cache.values):
            layer.uniform_(-1.0, 1.0)
        self._graphs = self._recorded(max(probe.num_decodes for probe in probes), longest)
        # All of the cache has been written: decodes may read any of it.
        self._batches = ProbeBatches(self._limits, num_written=num_blocks)
        self._table = SequenceTable(blocks_for(longest, BLOCK_SIZE))

    def _recorded(self, most_decodes: int, longest: int) -> DecodeGraphs | None:
        """As a stage records its decodes; None where it does not."""
        if self._device.type != "cuda" or not self._attention.is_recorded or not most_decodes:
            return None
        shape = GraphShape(
            max_rows=min(most_decodes, MOST_ROWS),
            max_blocks=blocks_for(longest, BLOCK_SIZE),
            block_size=BLOCK_SIZE,
            hidden_size=self.shape.hidden_size,
            dtype=self._cache.dtype,
            device=self._device,
            takes_tokens=True,
        )
        return DecodeGraphs(self._computed, shape, CudaGraphRecorder())

    def _computed(
        self, given: torch.Tensor, positions: torch.Tensor, meta: AttentionMetadata
    ) -> torch.Tensor:
        return self._model(given, positions, self._cache, self._attention, meta)

    def fits(self, probe: Probe) -> bool:
        """Whether the cache holds it."""
        return probe.fits(self._limits)

    def times(self, probe: Probe) -> dict[str, float]:
        """Median seconds of a step, of launching it, and of making its tensors before.

        Where launching takes as long as the step, the device waits for the processor.
        """
        plans = self._batches.plans(probe, WARM_UP + REPEATS)
        rounds = [self._step(plan) for plan in plans][WARM_UP:]
        names = ("tensors_s", "launch_s", "step_s")
        return dict(zip(names, map(median, zip(*rounds, strict=True)), strict=True))

    def _step(self, plan: BatchPlan) -> tuple[float, float, float]:
        self._table.apply(plan)
        settle(self._device)
        began_s = time.perf_counter()
        batch = build_batch(plan, self._table, BLOCK_SIZE, self._device)
        settle(self._device)
        ready_s = time.perf_counter()
        if self._graphs is not None and self._graphs.hold(batch):
            hidden = self._graphs.run(batch.token_ids, batch)
        else:
            hidden = self._computed(batch.token_ids, batch.positions, batch.attention)
        self._model.project(hidden[batch.sampled_rows])
        launched_s = time.perf_counter()
        settle(self._device)
        done_s = time.perf_counter()
        return ready_s - began_s, launched_s - ready_s, done_s - ready_s


def blocks_of(probe: Probe) -> int:
    """KV blocks that a probe needs."""
    prefills = probe.num_prefills * blocks_for(probe.prefill_tokens, BLOCK_SIZE)
    return prefills + probe.num_decodes * blocks_for(probe.context_tokens, BLOCK_SIZE)


def against_roofline(
    shape: ModelShape, probe: Probe, step_s: float, bytes_per_s: float, flops: float
) -> dict[str, Any]:
    """Shares of bandwidth, matrix rate and roofline that a bf16 step reaches.

    The roofline's time: dense work takes the longer of reading the weights and of its operations,
    attention that of reading the cache, or of its pairs' operations.
    """
    load, value_bytes = probe.load, 2
    dense_params = shape.num_layers * shape.layer_params
    weight_bytes = (dense_params + shape.vocab_params) * value_bytes
    cached = shape.num_layers * shape.kv_values_per_token * value_bytes
    kv_bytes = cached * load.decode_context_tokens
    dense = 2 * dense_params * load.num_tokens + 2 * shape.vocab_params * load.sampled
    pairs = 4 * shape.num_layers * shape.num_heads * shape.head_dim * load.prefill_pairs
    least_s = max(weight_bytes / bytes_per_s, dense / flops)
    least_s += kv_bytes / bytes_per_s + pairs / flops
    return {
        "bytes": weight_bytes + kv_bytes,
        "operations": dense + pairs,
        "bandwidth_share": (weight_bytes + kv_bytes) / step_s / bytes_per_s,
        "matmul_share": (dense + pairs) / step_s / flops,
        "roofline_share": least_s / step_s,
    }
