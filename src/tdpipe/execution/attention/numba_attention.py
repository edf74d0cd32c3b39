"""Attention over the paged cache as a compiled CPU kernel, computed in float32.

Gathering a context costs more than attending to it. The kernel walks each sequence's block table
instead, for decodes and for prompts alike: several rows of a prompt read a block together.
"""

from functools import cache

import numpy as np
import torch
from torch import Tensor

from tdpipe.execution.attention.attention_backend import AttentionMetadata
from tdpipe.execution.attention.numba_kernels import FloatArray, attend, write_cache
from tdpipe.execution.attention.row_tiles import row_tiles
from tdpipe.execution.block_kv_cache import BlockKVCache
from tdpipe.execution.kv_cache import KVCache

# Queries of a KV head in a tile of a prompt: so many read a block together.
TILE_QUERIES = 12


@cache
def _zeros(*counts: int) -> tuple[tuple[int, ...], ...]:
    """So many zeros each: kernels know the length of a tuple when they are compiled."""
    return tuple((0,) * count for count in counts)


# Integers with the bits of halves, as the kernels take them.
BITS = {torch.float16: torch.uint16, torch.bfloat16: torch.int16}


class CompiledKVCache(BlockKVCache):
    """A BlockKVCache of float32 on CPU, kept in any dtype, written by a compiled kernel.

    Its `blocks` are what the kernels read: halves are there as integers of their bits.
    """

    def __init__(
        self,
        num_layers: int,
        num_blocks: int,
        block_size: int,
        num_kv_heads: int,
        head_dim: int,
        dtype: torch.dtype,
        device: torch.device,
        stored: torch.dtype | None = None,
    ) -> None:
        sizes = (num_layers, num_blocks, block_size, num_kv_heads, head_dim)
        super().__init__(*sizes, dtype, device, stored)
        self.blocks = self.blocks.view(BITS.get(self.stored, self.stored))

    def write(self, layer: int, slots: Tensor, key: Tensor, value: Tensor) -> None:
        """Store key and value [tokens, kv_heads, head_dim] at slots [tokens]."""
        blocks = self.blocks.numpy()[layer]
        write_cache(key.numpy(), value.numpy(), slots.numpy(), self.block_size, blocks)


class NumbaAttention:
    """AttentionBackend for float32 on CPU; the first use compiles, later processes load."""

    cache_class: type[KVCache] = CompiledKVCache
    on_core = True
    is_recorded = False

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
        assert isinstance(kv_cache, BlockKVCache)
        heads = torch.cat((query, key, value), dim=1).numpy()
        mixed = self.mix(layer, heads, query.shape[1], kv_cache, meta, window)
        return torch.from_numpy(mixed)

    def mix(
        self,
        layer: int,
        heads: FloatArray,
        num_heads: int,
        kv_cache: BlockKVCache,
        meta: AttentionMetadata,
        window: int | None,
    ) -> FloatArray:
        """As forward, of heads [tokens, heads, head_dim]: num_heads queries, then keys, values."""
        num_kv_heads, head_dim = (heads.shape[1] - num_heads) // 2, heads.shape[2]
        keys_end = num_heads + num_kv_heads
        blocks = kv_cache.blocks.numpy()[layer]
        slots, block_size = meta.slot_mapping.numpy(), meta.block_size
        write_cache(heads[:, num_heads:keys_end], heads[:, keys_end:], slots, block_size, blocks)
        group = num_heads // num_kv_heads
        meta.row_tiles = meta.row_tiles or row_tiles(meta, max(1, TILE_QUERIES // group))
        output = np.empty((len(heads), num_heads, head_dim), np.float32)
        for tiles in meta.row_tiles:
            attend(
                heads, blocks, tiles.last_rows, tiles.used, tiles.lengths, tiles.block_tables,
                tiles.num_rows, window or 0, _zeros(tiles.num_rows * group, head_dim, block_size),
                output,
            )  # fmt: skip
        return output
