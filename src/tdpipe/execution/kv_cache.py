"""The KV cache of one stage: keys and values of its layers, in slots.

A slot holds one token; slot = block_id * block_size + offset. Heads come first, so that gathering
the slots of a batch gives contiguous rows per head.
"""

import math

import numpy as np
import torch
from torch import Tensor

from tdpipe.execution.huge_pages import own_pages


class KVCache:
    """Keys and values, each [layers, kv_heads, slots, head_dim].

    Args:
        dtype: of what is written and read.
        stored: dtype that it is kept in; None keeps it as it is.
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
        shape = (num_layers, num_kv_heads, num_blocks * block_size, head_dim)
        self.dtype, self.stored, self.block_size = dtype, stored or dtype, block_size
        self.keys = zeros(shape, self.stored, device)
        self.values = zeros(shape, self.stored, device)

    @property
    def rounds(self) -> bool:
        """Whether what is read is not just what was written."""
        return self.stored != self.dtype

    def write(self, layer: int, slots: Tensor, key: Tensor, value: Tensor) -> None:
        """Store key and value [tokens, kv_heads, head_dim] at slots [tokens]."""
        self.keys[layer].index_copy_(1, slots, rounded(key, self.stored).transpose(0, 1))
        self.values[layer].index_copy_(1, slots, rounded(value, self.stored).transpose(0, 1))

    def read(self, layer: int, slots: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values [kv_heads, len(slots), head_dim] at slots."""
        keys = self.keys[layer].index_select(1, slots)
        return keys.to(self.dtype), self.values[layer].index_select(1, slots).to(self.dtype)


def rounded(values: Tensor, dtype: torch.dtype) -> Tensor:
    """The values in the dtype of a cache; what is beyond the largest float16 becomes that."""
    if dtype == torch.float16 and values.dtype != dtype:
        largest = torch.finfo(dtype).max
        values = values.clamp(-largest, largest)
    return values.to(dtype)


def zeros(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """Zeroed, not empty: padding reads block 0, and a NaN there would outlive its mask."""
    if device.type != "cpu":
        return torch.zeros(shape, dtype=dtype, device=device)
    num_bytes = math.prod(shape) * torch.empty(0, dtype=dtype).element_size()
    return torch.from_numpy(own_pages((num_bytes,), np.uint8)).view(dtype).view(shape)
