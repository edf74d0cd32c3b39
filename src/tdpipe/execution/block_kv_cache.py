"""The KV cache as the CPU kernels read it: all heads of a block in one stretch of memory.

A decode reads each sequence's blocks one after the other, and a core reads long stretches faster
than scattered pages. Keys lie transposed in their block, a row for each dimension: the scores of a
block's tokens are then sums of rows, which vector units do without adding across.
"""

import torch
from torch import Tensor

from tdpipe.execution.kv_cache import KVCache, rounded, zeros


class BlockKVCache(KVCache):
    """Keys and values of one stage, [layers, blocks, kv_heads, 2, block_size * head_dim].

    Of the pair, the first holds keys as [head_dim, block_size], the second values as
    [block_size, head_dim].
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
        shape = (num_layers, num_blocks, num_kv_heads, 2, block_size * head_dim)
        self.dtype, self.stored, self.block_size = dtype, stored or dtype, block_size
        self.blocks = zeros(shape, self.stored, device)
        self.keys = self.blocks.view(*shape[:4], head_dim, block_size)[:, :, :, 0]
        self.values = self.blocks.view(*shape[:4], block_size, head_dim)[:, :, :, 1]

    def write(self, layer: int, slots: Tensor, key: Tensor, value: Tensor) -> None:
        """Store key and value [tokens, kv_heads, head_dim] at slots [tokens]."""
        block, offset = slots // self.block_size, slots % self.block_size
        self.keys[layer].transpose(2, 3).transpose(1, 2)[block, offset] = rounded(key, self.stored)
        self.values[layer].transpose(1, 2)[block, offset] = rounded(value, self.stored)

    def read(self, layer: int, slots: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values [kv_heads, len(slots), head_dim] at slots."""
        block, offset = slots // self.block_size, slots % self.block_size
        keys = self.keys[layer].transpose(2, 3).transpose(1, 2)[block, offset]
        values = self.values[layer].transpose(1, 2)[block, offset]
        return keys.transpose(0, 1).to(self.dtype), values.transpose(0, 1).to(self.dtype)
