"""Attention over the paged cache as a compiled CPU kernel, float32 only.

Gathering a context costs more than attending to it. The kernel walks each sequence's block table
instead, for decodes and for prompts alike: several rows of a prompt read a block together.
"""

from functools import cache

import torch
from torch import Tensor

from tdpipe.execution.attention.attention_backend import AttentionMetadata
from tdpipe.execution.attention.numba_kernels import attend, write_cache
from tdpipe.execution.attention.row_tiles import row_tiles
from tdpipe.execution.block_kv_cache import BlockKVCache
from tdpipe.execution.kv_cache import KVCache

# Queries of a KV head in a tile of a prompt: so many read a block together.
TILE_QUERIES = 12


@cache
def _zeros(*counts: int) -> tuple[tuple[int, ...], ...]:
    """So many zeros each: kernels know the length of a tuple when they are compiled."""
    return tuple((0,) * count for count in counts)


class CompiledKVCache(BlockKVCache):
    """A BlockKVCache in float32 on CPU, written by a compiled kernel."""

    def write(self, layer: int, slots: Tensor, key: Tensor, value: Tensor) -> None:
        """Store key and value [tokens, kv_heads, head_dim] at slots [tokens]."""
        blocks = self.blocks.numpy()[layer]
        write_cache(key.numpy(), value.numpy(), slots.numpy(), self.block_size, blocks)


class NumbaAttention:
    """AttentionBackend for float32 on CPU; the first use compiles, later processes load."""

    cache_class: type[KVCache] = CompiledKVCache

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
        kv_cache.write(layer, meta.slot_mapping, key, value)
        query = query.contiguous()
        _, num_heads, head_dim = query.shape
        group = num_heads // key.shape[1]
        meta.row_tiles = meta.row_tiles or row_tiles(meta, max(1, TILE_QUERIES // group))
        output = torch.empty_like(query)
        blocks = kv_cache.blocks.numpy()[layer]
        for tiles in meta.row_tiles:
            attend(
                query.numpy(), blocks, tiles.last_rows, tiles.used, tiles.lengths,
                tiles.block_tables, tiles.num_rows, window or 0,
                _zeros(tiles.num_rows * group, head_dim, meta.block_size), output.numpy(),
            )  # fmt: skip
        return output
