"""Kernels of decode attention, compiled for the core at hand; one thread: a stage has one core.

The sums over dimensions and slots are written as vector instructions (LLVM's own vector types,
which fit any processor), because compilers do not find this form by themselves: a block's scores
take one vector of its slots for each query head and add a row of keys at a time, its share of the
output one vector for each stretch of dimensions. Keys and values are read once for all heads that
share them.

Counts come as tuples of that many zeros, because the length of a tuple is known when a kernel is
compiled, and a later process still finds the compiled code.
"""

import math
from collections.abc import Callable
from typing import Any

import numba
import numpy as np
import numpy.typing as npt
from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

from tdpipe.execution.float_kernels import exp_of_negative, float_of_rank, rank_of

FloatArray = npt.NDArray[np.float32]
# Tuples of zeros, as many as heads share a key, as head_dim, and as slots are in a block.
Sizes = tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]

OPTIONS = {"fastmath": True, "cache": True, "error_model": "numpy", "boundscheck": False}
# A score of no weight: below every true one, and no infinity, which fast arithmetic may not meet.
LOWEST = np.float32(-3e38)
# Sums kept in registers at a time, and the widest vector of a processor, in floats.
MOST_SUMS, WIDEST = 12, 16

FLOAT, INT64 = ir.FloatType(), ir.IntType(64)


class _Vectors:
    """Emits loads, stores and arithmetic on vectors of floats at fixed offsets from addresses."""

    def __init__(self, context: Any, builder: Any, signature: Any, arguments: Any) -> None:
        self.builder = builder
        self._context, self._signature, self._arguments = context, signature, arguments

    def address(self, which: int) -> Any:
        """Of element arguments[which + 1] of the array arguments[which]."""
        kind, value = self._signature.args[which], self._arguments[which]
        array = cgutils.create_struct_proxy(kind)(self._context, self.builder, value)
        return self.builder.gep(array.data, [self._arguments[which + 1]])

    def load(self, address: Any, offset: int, width: int) -> Any:
        """`width` floats from `offset` on."""
        loaded = self.builder.load(self._vector_at(address, offset, width))
        loaded.align = 4
        return loaded

    def store(self, value: Any, address: Any, offset: int, width: int) -> None:
        """`width` floats to `offset` and on."""
        stored = self.builder.store(value, self._vector_at(address, offset, width))
        stored.align = 4

    def spread(self, scalar: Any, width: int) -> Any:
        """`width` times the scalar."""
        kind = ir.VectorType(FLOAT, width)
        nothing, first = ir.Constant(kind, ir.Undefined), ir.Constant(ir.IntType(32), 0)
        one = self.builder.insert_element(nothing, scalar, first)
        mask = ir.Constant(ir.VectorType(ir.IntType(32), width), [0] * width)
        return self.builder.shuffle_vector(one, nothing, mask)

    def load_spread(self, address: Any, offset: int, width: int) -> Any:
        """`width` times the float at `offset`."""
        place = self.builder.gep(address, [ir.Constant(INT64, offset)])
        return self.spread(self.builder.load(place), width)

    def multiply_add(self, total: Any, left: Any, right: Any) -> Any:
        """total + left * right, rounded once where the processor can."""
        product = self.builder.fmul(left, right, flags=("fast",))
        return self.builder.fadd(total, product, flags=("fast",))

    def _vector_at(self, address: Any, offset: int, width: int) -> Any:
        place = self.builder.gep(address, [ir.Constant(INT64, offset)])
        return self.builder.bitcast(place, ir.VectorType(FLOAT, width).as_pointer())


def _counts(sizes: Any) -> tuple[int, int, int]:
    heads, dims, slots = (len(one) for one in sizes)
    return heads, dims, slots


@intrinsic  # type: ignore[untyped-decorator]
def _score(
    typing: Any, sizes: Any, query: Any, query_at: Any, keys: Any, keys_at: Any, scale: Any,
    scores: Any, scores_at: Any,
) -> tuple[Any, Callable[..., Any]]:  # fmt: skip
    """scores [heads, slots] = query [heads, dims] x keys [dims, slots], times scale."""
    heads, dims, slots = _counts(sizes)

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        emit = _Vectors(context, builder, signature, arguments)
        query_place, key_place, score_place = (emit.address(which) for which in (1, 3, 6))
        zero = ir.Constant(ir.VectorType(FLOAT, slots), [0.0] * slots)
        scales = emit.spread(arguments[5], slots)
        for first in range(0, heads, MOST_SUMS):
            sums = dict.fromkeys(range(first, min(heads, first + MOST_SUMS)), zero)
            for dim in range(dims):
                row = emit.load(key_place, dim * slots, slots)
                for head in sums:
                    factor = emit.load_spread(query_place, head * dims + dim, slots)
                    sums[head] = emit.multiply_add(sums[head], row, factor)
            for head, total in sums.items():
                scaled = builder.fmul(total, scales, flags=("fast",))
                emit.store(scaled, score_place, head * slots, slots)
        return context.get_dummy_value()

    kinds = (sizes, query, query_at, keys, keys_at, scale, scores, scores_at)
    return types.void(*kinds), generate


@intrinsic  # type: ignore[untyped-decorator]
def _add_values(
    typing: Any, sizes: Any, weights: Any, weights_at: Any, values: Any, values_at: Any,
    output: Any, output_at: Any,
) -> tuple[Any, Callable[..., Any]]:  # fmt: skip
    """output [heads, dims] += weights [heads, slots] x values [slots, dims]."""
    heads, dims, slots = _counts(sizes)
    width = math.gcd(dims, WIDEST)

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        emit = _Vectors(context, builder, signature, arguments)
        weight_place, value_place, output_place = (emit.address(which) for which in (1, 3, 5))
        places = [(head, dim) for dim in range(0, dims, width) for head in range(heads)]
        for first in range(0, len(places), MOST_SUMS):
            now = places[first : first + MOST_SUMS]
            sums = {
                (head, dim): emit.load(output_place, head * dims + dim, width) for head, dim in now
            }
            for slot in range(slots):
                rows = {
                    dim: emit.load(value_place, slot * dims + dim, width)
                    for dim in sorted({dim for _, dim in now})
                }
                for head, dim in now:
                    weight = emit.load_spread(weight_place, head * slots + slot, width)
                    sums[head, dim] = emit.multiply_add(sums[head, dim], rows[dim], weight)
            for (head, dim), total in sums.items():
                emit.store(total, output_place, head * dims + dim, width)
        return context.get_dummy_value()

    kinds = (sizes, weights, weights_at, values, values_at, output, output_at)
    return types.void(*kinds), generate


@numba.njit(**OPTIONS)  # type: ignore[untyped-decorator]
def _weigh(
    scores: FloatArray,
    low: int,
    high: int,
    tops: FloatArray,
    totals: FloatArray,
    output: FloatArray,
    sizes: Sizes,
) -> None:
    """Scores [heads, slots] of one block become weights, relative to each head's highest so far.

    What was summed up relative to a lower one is scaled (online softmax, arXiv:1805.02867). Slots
    outside low .. high belong to no token of the sequence.
    """
    heads, dims, slots = sizes
    for g in range(len(heads)):
        if high - low < len(slots):
            for t in range(low):
                scores[g, t] = LOWEST
            for t in range(high, len(slots)):
                scores[g, t] = LOWEST
        rank = rank_of(tops[g])
        for t in range(len(slots)):
            rank = max(rank, rank_of(scores[g, t]))
        top = float_of_rank(rank)
        if top > tops[g]:
            shrink = exp_of_negative(tops[g] - top)
            tops[g] = top
            totals[g] *= shrink
            for d in range(len(dims)):
                output[g, d] *= shrink
        total = np.float32(0.0)
        for t in range(len(slots)):
            weight = exp_of_negative(scores[g, t] - top)
            scores[g, t] = weight
            total += weight
        totals[g] += total


@numba.njit(**OPTIONS)  # type: ignore[untyped-decorator]
def _add_some_values(
    weights: FloatArray, values: FloatArray, low: int, high: int, sizes: Sizes, output: FloatArray
) -> None:
    """output [heads, dims] += weights [heads, slots] x values [slots, dims] of slots low .. high.

    The others hold what another sequence left there, and a NaN of it would outlive any weight.
    """
    heads, dims, _ = sizes
    for t in range(low, high):
        for g in range(len(heads)):
            for d in range(len(dims)):
                output[g, d] += weights[g, t] * values[t, d]


@numba.njit(**OPTIONS)  # type: ignore[untyped-decorator]
def decode_attention(
    query: FloatArray,
    cache: FloatArray,
    block_tables: npt.NDArray[np.int32],
    lengths: npt.NDArray[np.int64],
    window: int,
    sizes: Sizes,
    output: FloatArray,
) -> None:
    """Attention of one query each over their own contexts.

    query, output: [decodes, heads, head_dim]; cache: one layer of a BlockKVCache, [blocks,
    kv_heads, 2, block_size * head_dim]; block_tables: [decodes, blocks]; lengths: [decodes];
    window: tokens back, 0 for all; sizes: zeros, as many as heads share a key, as head_dim, and as
    slots are in a block.
    """
    group, dims, size = len(sizes[0]), len(sizes[1]), len(sizes[2])
    scale = np.float32(1.0 / math.sqrt(dims))
    kv_heads, step = cache.shape[1], size * dims
    num_heads = kv_heads * group
    all_queries, all_outputs, floats = query.reshape(-1), output.reshape(-1), cache.reshape(-1)
    scores = np.empty((group, size), np.float32)
    score_row = scores.reshape(-1)
    tops, totals = np.empty(num_heads, np.float32), np.empty(num_heads, np.float32)
    output[:] = np.float32(0.0)
    for i in range(query.shape[0]):
        length = lengths[i]
        first = max(0, length - window) if window > 0 else 0
        tops[:], totals[:] = LOWEST, np.float32(0.0)
        # A block at a time with all its heads, as they lie in memory.
        for b in range(first // size, (length + size - 1) // size):
            low, high = max(0, first - b * size), min(size, length - b * size)
            for h in range(kv_heads):
                keys_at = (np.int64(block_tables[i, b]) * kv_heads + h) * 2 * step
                values_at, row_at = keys_at + step, (i * num_heads + h * group) * dims
                own = slice(h * group, (h + 1) * group)
                _score(sizes, all_queries, row_at, floats, keys_at, scale, score_row, 0)
                _weigh(scores, low, high, tops[own], totals[own], output[i, own], sizes)
                if high - low == size:
                    _add_values(sizes, score_row, 0, floats, values_at, all_outputs, row_at)
                else:
                    values = floats[values_at : values_at + step].reshape(size, dims)
                    _add_some_values(scores, values, low, high, sizes, output[i, own])
        for h in range(num_heads):
            inverse = np.float32(1.0) / totals[h]
            for d in range(dims):
                output[i, h, d] *= inverse


@numba.njit(**OPTIONS)  # type: ignore[untyped-decorator]
def write_cache(
    keys: FloatArray,
    values: FloatArray,
    slots: npt.NDArray[np.int64],
    block_size: int,
    cache: FloatArray,
) -> None:
    """Store keys and values [tokens, kv_heads, head_dim] at slots [tokens] of one layer."""
    dims = keys.shape[2]
    for i in range(keys.shape[0]):
        block, offset = slots[i] // block_size, slots[i] % block_size
        for h in range(keys.shape[1]):
            for d in range(dims):
                cache[block, h, 0, d * block_size + offset] = keys[i, h, d]
            for d in range(dims):
                cache[block, h, 1, offset * dims + d] = values[i, h, d]


@numba.njit(**OPTIONS)  # type: ignore[untyped-decorator]
def read_cache(
    cache: FloatArray,
    slots: npt.NDArray[np.int64],
    block_size: int,
    keys: FloatArray,
    values: FloatArray,
) -> None:
    """Fill keys and values [kv_heads, len(slots), head_dim] from slots of one layer."""
    dims = keys.shape[2]
    for i in range(slots.shape[0]):
        block, offset = slots[i] // block_size, slots[i] % block_size
        for h in range(keys.shape[0]):
            for d in range(dims):
                keys[h, i, d] = cache[block, h, 0, d * block_size + offset]
            for d in range(dims):
                values[h, i, d] = cache[block, h, 1, offset * dims + d]
