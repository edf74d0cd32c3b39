"""The KV cache of one stage: keys and values of its layers, in slots.

A slot holds one token; slot = block_id * block_size + offset. Heads come first, so that gathering
the slots of a batch gives contiguous rows per head.
"""

import math

import numpy as np
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
        self.keys = zeros(shape, dtype, device)
        self.values = zeros(shape, dtype, device)
        self.block_size = block_size

    def write(self, layer: int, slots: Tensor, key: Tensor, value: Tensor) -> None:
        """Store key and value [tokens, kv_heads, head_dim] at slots [tokens]."""
        self.keys[layer].index_copy_(1, slots, key.transpose(0, 1))
        self.values[layer].index_copy_(1, slots, value.transpose(0, 1))

    def read(self, layer: int, slots: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values [kv_heads, len(slots), head_dim] at slots."""
        keys = self.keys[layer].index_select(1, slots)
        return keys, self.values[layer].index_select(1, slots)


def zeros(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """Zeroed, not empty: padding reads block 0, and a NaN there would outlive its mask."""
    if device.type != "cpu":
        return torch.zeros(shape, dtype=dtype, device=device)
    # numpy asks the system for zero pages, which cost neither time nor memory until written to;
    # torch would write all of them now.
    num_bytes = math.prod(shape) * torch.empty(0, dtype=dtype).element_size()
    return torch.from_numpy(np.zeros(num_bytes, np.uint8)).view(dtype).view(shape)
