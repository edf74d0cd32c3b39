"""Decodes as recorded graphs: one launch for all of a stage's layers, not one for each kernel.

A card computes the layers of a small decode faster than a processor launches their kernels one by
one. They are recorded once for each of a ladder of sizes (CUDA graphs) on tensors that stay where
they are. A batch is copied to the first rows of the smallest size that holds it; the others are
padding: sequences of no tokens, whose keys and values are not kept.
"""

from bisect import bisect_left
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import torch
from torch import Tensor

from tdpipe.execution.attention.attention_backend import NOT_KEPT, AttentionMetadata
from tdpipe.execution.batch_tensors import BatchTensors

# A decode of more rows keeps a card busy for longer than its launches take.
MOST_ROWS = 512

# Hidden states [rows, hidden] of token ids or hidden states, positions, and what they attend to.
Compute = Callable[[Tensor, Tensor, AttentionMetadata], Tensor]
Replay = Callable[[], None]


def ladder(max_rows: int) -> tuple[int, ...]:
    """Sizes to record, the last of them max_rows.

    Close together where a row more costs something: a decode of 16 rows takes as long as one of 9,
    for its weights are read either way.
    """
    steps = (1, 2, 4, 8, *range(16, 128, 16), *range(128, max_rows, 32))
    return (*(step for step in steps if step < max_rows), max_rows)


class GraphRecorder(Protocol):
    """Records what a function launches."""

    def record(self, function: Callable[[], None]) -> Replay:
        """What launches it again, on the same tensors."""
        ...


class CudaGraphRecorder:
    """Records on the present card. All records share memory, so one of them runs at a time."""

    def __init__(self) -> None:
        self._pool = torch.cuda.graph_pool_handle()

    def record(self, function: Callable[[], None]) -> Replay:
        """See GraphRecorder. The function runs once before: compiling cannot be recorded."""
        function()
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        # Threads of nccl ask the card meanwhile, which in its other mode would end the recording.
        with torch.cuda.graph(graph, pool=self._pool, capture_error_mode="thread_local"):
            function()
        replay: Replay = graph.replay
        return replay


@dataclass(frozen=True, slots=True)
class GraphShape:
    """The tensors of a stage's decodes.

    Attributes:
        max_rows: of the largest decode that is recorded.
        max_blocks: of a sequence's block table.
        block_size: tokens in a block.
        hidden_size, dtype, device: of its hidden states.
        takes_tokens: whether its input is token ids, as the first stage's is.
    """

    max_rows: int
    max_blocks: int
    block_size: int
    hidden_size: int
    dtype: torch.dtype
    device: torch.device
    takes_tokens: bool


class DecodeGraphs:
    """A stage's layers over decodes alone, recorded for a ladder of sizes when this is made.

    Args:
        compute: the layers; what it launches may depend on the size of its input, not on what is in
            it.
    """

    def __init__(self, compute: Compute, shape: GraphShape, recorder: GraphRecorder) -> None:
        rows, device = shape.max_rows, shape.device
        self._compute, self._shape = compute, shape
        self._hidden = torch.zeros(rows, shape.hidden_size, dtype=shape.dtype, device=device)
        tokens = torch.zeros(rows, dtype=torch.int64, device=device)
        self._given = tokens if shape.takes_tokens else self._hidden
        self._positions = torch.zeros_like(tokens)
        self._slots = torch.full_like(tokens, NOT_KEPT)
        self._lengths = torch.zeros_like(tokens)
        self._tables = torch.zeros(rows, shape.max_blocks, dtype=torch.int32, device=device)
        self._sizes = ladder(rows)
        self._replays: dict[int, Replay] = {}
        # The largest first: the others find room in the memory that it took.
        for size in reversed(self._sizes):
            self._replays[size] = recorder.record(partial(self._step, size))

    def hold(self, batch: BatchTensors) -> bool:
        """Whether it is a batch of decodes, and not of more than are recorded."""
        is_decode = batch.attention.num_prefill_tokens == 0
        return is_decode and 0 < len(batch.positions) <= self._sizes[-1]

    def run(self, given: Tensor, batch: BatchTensors) -> Tensor:
        """As `compute`, of a batch that they hold."""
        meta, count = batch.attention, len(batch.positions)
        size = self._sizes[bisect_left(self._sizes, count)]
        self._given[:count].copy_(given)
        self._positions[:count].copy_(batch.positions)
        self._slots[:count].copy_(meta.slot_mapping)
        self._slots[count:size].fill_(NOT_KEPT)
        self._lengths[:count].copy_(meta.decode_lengths)
        self._lengths[count:size].fill_(0)
        self._tables[:count, : meta.block_tables.shape[1]].copy_(meta.block_tables)
        self._replays[size]()
        # The next batch's are put in the same place, while these may still be on their way.
        return self._hidden[:count].clone()

    def _step(self, size: int) -> None:
        meta = AttentionMetadata(
            num_prefill_tokens=0,
            prefills=[],
            slot_mapping=self._slots[:size],
            decode_lengths=self._lengths[:size],
            block_tables=self._tables[:size],
            block_size=self._shape.block_size,
        )
        hidden = self._compute(self._given[:size], self._positions[:size], meta)
        self._hidden[:size].copy_(hidden)
