"""Decode attention over the paged cache as a compiled CPU kernel; prefill stays with torch.

Gathering the context costs more than attending to it. The kernel walks each sequence's block table
instead, and reads every key and value row once for all the query heads that share it. float32 only,
one thread: a stage has one core.
"""

import math

import numba
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from tdpipe.execution.attention.attention_backend import AttentionMetadata
from tdpipe.execution.attention.torch_attention import TorchAttention
from tdpipe.execution.kv_cache import KVCache

FloatArray = npt.NDArray[np.float32]


class NumbaAttention:
    """AttentionBackend for float32 on CPU; the first use compiles, later processes load."""

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
        kv_cache.write(layer, meta.slot_mapping, key, value)
        output = torch.empty_like(query)
        self._torch.prefill(layer, query, key, value, output, kv_cache, meta, window)
        first = meta.num_prefill_tokens
        if len(query) > first:
            decode_attention(
                query[first:].contiguous().numpy(),
                kv_cache.keys[layer].numpy(),
                kv_cache.values[layer].numpy(),
                meta.block_tables.numpy(),
                meta.decode_lengths.numpy(),
                meta.block_size,
                window or 0,
                output[first:].numpy(),
            )
        return output


@numba.njit(fastmath=True, cache=True, error_model="numpy", inline="always")  # type: ignore[untyped-decorator]
def _exp(x: float) -> float:
    """e**x for x <= 0 in float32 arithmetic that vectorises, to about 2e-7 relative.

    2**n * 2**f with f in [-0.5, 0.5] by a polynomial (Cephes expf); 0 below -87.
    """
    x = max(x, np.float32(-87.0))
    n = np.floor(x * np.float32(1.44269504) + np.float32(0.5))
    r = x - n * np.float32(0.693359375) + n * np.float32(2.12194440e-4)
    p = np.float32(1.9875691500e-4)
    p = p * r + np.float32(1.3981999507e-3)
    p = p * r + np.float32(8.3334519073e-3)
    p = p * r + np.float32(4.1665795894e-2)
    p = p * r + np.float32(1.6666665459e-1)
    p = p * r + np.float32(5.0000001201e-1)
    p = p * r * r + r + np.float32(1.0)
    return p * _power_of_two(n)


@numba.njit(fastmath=True, cache=True, inline="always")  # type: ignore[untyped-decorator]
def _power_of_two(n: float) -> float:
    """2**n for whole n in [-126, 0], by squaring the bits of n; branch-free."""
    m = np.int32(-n)
    value = np.float32(1.0)
    value *= np.float32(0.5) if m & 1 else np.float32(1.0)
    value *= np.float32(0.25) if m & 2 else np.float32(1.0)
    value *= np.float32(0.0625) if m & 4 else np.float32(1.0)
    value *= np.float32(2.0**-8) if m & 8 else np.float32(1.0)
    value *= np.float32(2.0**-16) if m & 16 else np.float32(1.0)
    value *= np.float32(2.0**-32) if m & 32 else np.float32(1.0)
    value *= np.float32(2.0**-64) if m & 64 else np.float32(1.0)
    return value


@numba.njit(fastmath=True, cache=True, error_model="numpy", boundscheck=False)  # type: ignore[untyped-decorator]
def decode_attention(
    query: FloatArray,
    keys: FloatArray,
    values: FloatArray,
    block_tables: npt.NDArray[np.int32],
    lengths: npt.NDArray[np.int64],
    block_size: int,
    window: int,
    output: FloatArray,
) -> None:
    """Attention of one query each over their own contexts.

    query, output: [decodes, heads, head_dim]; keys, values: [kv_heads, slots, head_dim];
    block_tables: [decodes, blocks]; lengths: [decodes]; window: tokens back, 0 for all.
    """
    num_decodes, num_heads, head_dim = query.shape
    num_kv_heads = keys.shape[0]
    group = num_heads // num_kv_heads
    scale = np.float32(1.0 / math.sqrt(head_dim))
    scores = np.empty((group, block_tables.shape[1] * block_size), np.float32)
    for i in range(num_decodes):
        length = lengths[i]
        first = max(0, length - window) if window > 0 else 0
        for h in range(num_kv_heads):
            for at in range(first, length):
                block = np.int64(block_tables[i, at // block_size])
                key = keys[h, block * block_size + at % block_size]
                for g in range(group):
                    dot = np.float32(0.0)
                    for d in range(head_dim):
                        dot += query[i, h * group + g, d] * key[d]
                    scores[g, at] = dot * scale
            for g in range(group):
                row = scores[g]
                top = row[first]
                for at in range(first + 1, length):
                    top = max(top, row[at])
                total = np.float32(0.0)
                for at in range(first, length):
                    row[at] = _exp(row[at] - top)
                    total += row[at]
                inverse = np.float32(1.0) / total
                for at in range(first, length):
                    row[at] *= inverse
                for d in range(head_dim):
                    output[i, h * group + g, d] = np.float32(0.0)
            for at in range(first, length):
                block = np.int64(block_tables[i, at // block_size])
                value = values[h, block * block_size + at % block_size]
                for g in range(group):
                    weight = scores[g, at]
                    for d in range(head_dim):
                        output[i, h * group + g, d] += weight * value[d]
