"""Decode attention over the paged cache as a compiled CPU kernel; prefill stays with torch.

Gathering the context costs more than attending to it. The kernel walks each sequence's block table
instead, and reads every key and value row once for all the query heads that share it. float32 only,
one thread: a stage has one core.

The inner loops run over heads that share a key, dimensions and slots of a block. Their counts come
as tuples of that many zeros, because the length of a tuple is known when the kernel is compiled:
that lets the compiler unroll the loops and keep sums in registers, and a later process still finds
the compiled code.
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
# Tuples of zeros, as many as heads share a key, as head_dim, and as slots are in a block.
Sizes = tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]

OPTIONS = {"fastmath": True, "cache": True, "error_model": "numpy", "boundscheck": False}
# A score of no weight: below every true one, and no infinity, which fast arithmetic may not meet.
LOWEST = np.float32(-3e38)


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
            heads = query.shape[1] // key.shape[1]
            sizes = ((0,) * heads, (0,) * query.shape[2], (0,) * meta.block_size)
            decode_attention(
                query[first:].contiguous().numpy(),
                kv_cache.keys[layer].numpy(),
                kv_cache.values[layer].numpy(),
                meta.block_tables.numpy(),
                meta.decode_lengths.numpy(),
                window or 0,
                sizes,
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


@numba.njit(**OPTIONS)  # type: ignore[untyped-decorator]
def _score(
    query: FloatArray, keys: FloatArray, scale: float, sizes: Sizes, scores: FloatArray
) -> None:
    """scores [heads, slots] = query [heads, dims] x keys [slots, dims], times scale."""
    heads, dims, slots = sizes
    for t in range(len(slots)):
        for g in range(len(heads)):
            dot = np.float32(0.0)
            for d in range(len(dims)):
                dot += query[g, d] * keys[t, d]
            scores[g, t] = dot * scale


@numba.njit(**OPTIONS)  # type: ignore[untyped-decorator]
def _softmax(scores: FloatArray, first: int, length: int, sizes: Sizes) -> None:
    """Softmax of each head over positions first .. length - 1; scores [blocks, heads, slots].

    The other slots of the first and the last block weigh next to nothing in it.
    """
    heads, _, slots = sizes
    size = len(slots)
    begin, end = first // size, (length + size - 1) // size
    for g in range(len(heads)):
        for t in range(first - begin * size):
            scores[begin, g, t] = LOWEST
        for t in range(length - (end - 1) * size, size):
            scores[end - 1, g, t] = LOWEST
        top = LOWEST
        for b in range(begin, end):
            for t in range(size):
                top = max(top, scores[b, g, t])
        total = np.float32(0.0)
        for b in range(begin, end):
            for t in range(size):
                weight = _exp(scores[b, g, t] - top)
                scores[b, g, t] = weight
                total += weight
        inverse = np.float32(1.0) / total
        for b in range(begin, end):
            for t in range(size):
                scores[b, g, t] *= inverse


@numba.njit(**OPTIONS)  # type: ignore[untyped-decorator]
def _add_values(
    weights: FloatArray, values: FloatArray, low: int, high: int, sizes: Sizes, output: FloatArray
) -> None:
    """output [heads, dims] += weights [heads, slots] x values [slots, dims] of slots low .. high.

    The others hold what another sequence left there, and a NaN of it would outlive any weight.
    """
    heads, dims, slots = sizes
    if high - low == len(slots):
        for g in range(len(heads)):
            for d in range(len(dims)):
                total = output[g, d]
                for t in range(len(slots)):
                    total += weights[g, t] * values[t, d]
                output[g, d] = total
    else:
        for t in range(low, high):
            for g in range(len(heads)):
                for d in range(len(dims)):
                    output[g, d] += weights[g, t] * values[t, d]


@numba.njit(**OPTIONS)  # type: ignore[untyped-decorator]
def decode_attention(
    query: FloatArray,
    keys: FloatArray,
    values: FloatArray,
    block_tables: npt.NDArray[np.int32],
    lengths: npt.NDArray[np.int64],
    window: int,
    sizes: Sizes,
    output: FloatArray,
) -> None:
    """Attention of one query each over their own contexts.

    query, output: [decodes, heads, head_dim]; keys, values: [kv_heads, slots, head_dim];
    block_tables: [decodes, blocks]; lengths: [decodes]; window: tokens back, 0 for all; sizes:
    zeros, as many as heads share a key, as head_dim, and as slots are in a block.
    """
    group, size = len(sizes[0]), len(sizes[2])
    scale = np.float32(1.0 / math.sqrt(len(sizes[1])))
    scores = np.empty((block_tables.shape[1], group, size), np.float32)
    output[:] = np.float32(0.0)
    for i in range(query.shape[0]):
        length = lengths[i]
        first = max(0, length - window) if window > 0 else 0
        begin, end = first // size, (length + size - 1) // size
        for h in range(keys.shape[0]):
            own = slice(h * group, (h + 1) * group)
            for b in range(begin, end):
                at = np.int64(block_tables[i, b]) * size
                _score(query[i, own], keys[h, at : at + size], scale, sizes, scores[b])
            _softmax(scores, first, length, sizes)
            for b in range(begin, end):
                at = np.int64(block_tables[i, b]) * size
                low, high = max(0, first - b * size), min(size, length - b * size)
                _add_values(scores[b], values[h, at : at + size], low, high, sizes, output[i, own])
