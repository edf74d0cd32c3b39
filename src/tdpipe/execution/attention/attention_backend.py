"""What a batch's attention reads and writes, and the protocol of its implementations.

Rows of a batch: the tokens of all prefill spans in order, then one row per decode.
"""

from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import numpy.typing as npt
from torch import Tensor

from tdpipe.execution.kv_cache import KVCache

# The slot of a row whose key and value are not kept: padding of recorded decodes.
NOT_KEPT = -1


@dataclass(frozen=True, slots=True)
class PrefillSpan:
    """Consecutive new tokens of one sequence.

    Attributes:
        first_row, num_tokens: its rows in the batch.
        context_tokens: tokens that its last row attends to, itself included.
        slots: [context_tokens] int64, cache slot of each of them.
    """

    first_row: int
    num_tokens: int
    context_tokens: int
    slots: Tensor


@dataclass(frozen=True, slots=True)
class DecodeGroup:
    """Decodes of similar context length, padded to the longest of them.

    Attributes:
        rows: [decodes] int64, which of the batch's decodes these are.
        slots: [decodes * longest] int64, cache slots, padded with those of block 0.
        bias: [decodes, 1, longest], 0 where a slot counts and -inf in the padding.
    """

    rows: Tensor
    slots: Tensor
    bias: Tensor


@dataclass(frozen=True, slots=True)
class PrefillTiles:
    """The tokens of all prefill spans, cut into tiles for one kernel launch.

    Attributes:
        tiles: [tiles, 4] int32: first row in the batch, number of rows, position of the first row
            in its sequence, where the sequence's context begins in `slots`.
        slots: [contexts] int64, cache slots of the spans' contexts, one span after another.
    """

    tiles: Tensor
    slots: Tensor


@dataclass(frozen=True, slots=True)
class RowTiles:
    """Tiles of equally many rows.

    Attributes:
        num_rows: of each tile.
        last_rows: [tiles] the row in the batch of each tile's last row; the others come before it.
        used: [tiles] how many of its rows there are; where it is short of rows, the first miss.
        lengths: [tiles] tokens that its last row attends to, itself included; one less for each
            row before.
        block_tables: [tiles, blocks] int32, padded with 0.
    """

    num_rows: int
    last_rows: npt.NDArray[np.int64]
    used: npt.NDArray[np.int64]
    lengths: npt.NDArray[np.int64]
    block_tables: npt.NDArray[np.int32]


@dataclass(slots=True)
class AttentionMetadata:
    """Where a batch's keys and values go and what each row attends to.

    Attributes:
        num_prefill_tokens: rows before the first decode.
        prefills: the prefill spans.
        slot_mapping: [tokens] int64, cache slot of each row's own token; NOT_KEPT in padding, which
            only backends that are recorded meet.
        decode_lengths: [decodes] int64, tokens in each context, the present one included.
        block_tables: [decodes, blocks] int32, padded with 0, for kernels that page themselves.
        block_size: tokens in a block.
        decode_groups: an implementation's own view of the decodes, made once a batch; the key is
            the attention window.
        prefill_tiles: likewise of the prefill spans.
        row_tiles: likewise of all rows.
    """

    num_prefill_tokens: int
    prefills: list[PrefillSpan]
    slot_mapping: Tensor
    decode_lengths: Tensor
    block_tables: Tensor
    block_size: int
    decode_groups: dict[int | None, list[DecodeGroup]] = field(default_factory=dict)
    prefill_tiles: PrefillTiles | None = None
    row_tiles: list[RowTiles] = field(default_factory=list)


class AttentionBackend(Protocol):
    """One implementation of attention over the paged cache.

    Attributes:
        cache_class: the layout of the cache that it reads.
        on_core: whether it computes on arrays, as models.core_layer does; float32 on CPU.
        is_recorded: whether decodes may be recorded as a graph: what it launches for them depends
            on how many they are and on the width of their block tables alone.
    """

    cache_class: type[KVCache]
    on_core: bool
    is_recorded: bool

    def forward(
        self,
        layer: int,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        kv_cache: KVCache,
        meta: AttentionMetadata,
        window: int | None,
    ) -> Tensor:
        """Store key and value [tokens, kv_heads, head_dim], then attend.

        `query` is [tokens, heads, head_dim]; `window` limits attention to that many tokens back,
        the present one included. Returns [tokens, heads, head_dim].
        """
        ...
