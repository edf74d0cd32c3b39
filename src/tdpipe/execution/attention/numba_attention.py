"""Decode attention over the paged cache as a compiled CPU kernel; prefill stays with torch.

Gathering the context costs more than attending to it. The kernel walks each sequence's block table
instead. float32 only.
"""

import torch
from torch import Tensor

from tdpipe.execution.attention.attention_backend import AttentionMetadata
from tdpipe.execution.attention.numba_kernels import decode_attention, read_cache, write_cache
from tdpipe.execution.attention.torch_attention import TorchAttention
from tdpipe.execution.block_kv_cache import BlockKVCache
from tdpipe.execution.kv_cache import KVCache


class CompiledKVCache(BlockKVCache):
    """A BlockKVCache in float32 on CPU, written and read by compiled kernels."""

    def write(self, layer: int, slots: Tensor, key: Tensor, value: Tensor) -> None:
        """Store key and value [tokens, kv_heads, head_dim] at slots [tokens]."""
        blocks = self.blocks[layer].numpy()
        write_cache(key.numpy(), value.numpy(), slots.numpy(), self.block_size, blocks)

    def read(self, layer: int, slots: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values [kv_heads, len(slots), head_dim] at slots."""
        shape = (self.blocks.shape[2], len(slots), self.values.shape[-1])
        keys, values = torch.empty(shape), torch.empty(shape)
        blocks = self.blocks[layer].numpy()
        read_cache(blocks, slots.numpy(), self.block_size, keys.numpy(), values.numpy())
        return keys, values


class NumbaAttention:
    """AttentionBackend for float32 on CPU; the first use compiles, later processes load."""

    cache_class: type[KVCache] = CompiledKVCache

    def __init__(self) -> None:
        self._torch = TorchAttention()

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
        output = torch.empty_like(query, memory_format=torch.contiguous_format)
        self._torch.prefill(layer, query, key, value, output, kv_cache, meta, window)
        first = meta.num_prefill_tokens
        if len(query) > first:
            heads = query.shape[1] // key.shape[1]
            sizes = ((0,) * heads, (0,) * query.shape[2], (0,) * meta.block_size)
            decode_attention(
                query[first:].contiguous().numpy(),
                kv_cache.blocks[layer].numpy(),
                meta.block_tables.numpy(),
                meta.decode_lengths.numpy(),
                window or 0,
                sizes,
                output[first:].numpy(),
            )
        return output
