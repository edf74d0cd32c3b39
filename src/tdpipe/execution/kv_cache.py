"""The KV cache of one stage: keys and values of its layers, in slots.

A slot holds one token; slot = block_id * block_size + offset. Heads come first, so that gathering
the slots of a batch gives contiguous rows per head.
"""

import torch
from torch import Tensor


class KVCache:
    """Keys and values, each [layers, kv_heads, slots, head_dim]."""

    def __init__(
        self,
        num_layers: int,
        num_blocks: int,
        block_size: int,
        num_kv_heads: int,
        head_dim: int,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        shape = (num_layers, num_kv_heads, num_blocks * block_size, head_dim)
        # Zeroed, not empty: padding reads slot 0, and a NaN there would outlive its mask. On CPU
        # the pages stay untouched, hence unallocated, until they are written.
        self.keys = torch.zeros(shape, dtype=dtype, device=device)
        self.values = torch.zeros(shape, dtype=dtype, device=device)
        self.block_size = block_size

    def write(self, layer: int, slots: Tensor, key: Tensor, value: Tensor) -> None:
        """Store key and value [tokens, kv_heads, head_dim] at slots [tokens]."""
        self.keys[layer].index_copy_(1, slots, key.transpose(0, 1))
        self.values[layer].index_copy_(1, slots, value.transpose(0, 1))

    def read(self, layer: int, slots: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values [kv_heads, len(slots), head_dim] at slots."""
        keys = self.keys[layer].index_select(1, slots)
        return keys, self.values[layer].index_select(1, slots)
