"""Kernels of attention, compiled for the core at hand; one thread: a stage has one core.

The sums over dimensions and slots are written as vector instructions (LLVM's own vector types,
which fit any processor), because compilers do not find this form by themselves: a block's scores
take vectors of its slots for each query head and add a row of keys at a time, its share of the
output vectors of dimensions and a row of values at a time. Keys and values are read once for all
heads that share them, while those of the next block are fetched, a line with every few sums: all at
a time are more than a core can wait for. Blocks of float32 that follow one another in memory, and
are read in that order, are left to the core: it reads ahead on its own and keeps more lines under
way than it lets a program ask for; at a jump it begins anew. Halves take longer to be computed than
to be read.

Counts come as tuples of that many zeros, because the length of a tuple is known when a kernel is
compiled, and a later process still finds the compiled code.
"""

import functools
import math
from collections.abc import Callable
from functools import partial
from typing import Any

import numba
import numpy as np
import numpy.typing as npt
from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

from tdpipe.execution.attention.stored_values import (
    StoredArray,
    as_stored,
    load_stored,
    values_in_line,
)
from tdpipe.execution.float_kernels import exp_of_negative, float_of_rank, rank_of
from tdpipe.execution.vector_code import (
    FAST,
    FLOAT,
    INT64,
    VectorCode,
    register_floats,
    sums_at_once,
)

FloatArray = npt.NDArray[np.float32]
# Tuples of zeros, as many as queries share a key, as head_dim, and as slots are in a block.
Sizes = tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]

OPTIONS = {"fastmath": True, "cache": True, "error_model": "numpy", "boundscheck": False}
# A score of no weight: below every true one, and no infinity, which fast arithmetic may not meet.
LOWEST = np.float32(-3e38)
# Weights are relative to a head's highest score when it last was this much outgrown: e**20 and what
# is a full context of it are far from where float32 ends.
SLACK = np.float32(20.0)
FLOAT_BYTES = 4
# Slots of a block whose scores are computed at a time.
SLOTS_AT_ONCE = 2 * register_floats()


def _counts(sizes: Any) -> tuple[int, int, int]:
    heads, dims, slots = (len(one) for one in sizes)
    return heads, dims, slots


@intrinsic  # type: ignore[untyped-decorator]
def _score(
    typing: Any, sizes: Any, query: Any, query_at: Any, keys: Any, keys_at: Any, scale: Any,
    scores: Any, scores_at: Any, ahead: Any, ahead_at: Any,
) -> tuple[Any, Callable[..., Any]]:  # fmt: skip
    """scores [heads, slots] = query [heads, dims] x keys [dims, slots], times scale.

    As many keys are fetched from `ahead`, evenly meanwhile.
    """
    heads, dims, slots = _counts(sizes)

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        emit = VectorCode(context, builder, signature, arguments)
        query_place, key_place, score_place, ahead_place = (
            emit.address(which) for which in (1, 3, 6, 8)
        )
        width = math.gcd(slots, SLOTS_AT_ONCE)
        kind, scales = ir.VectorType(FLOAT, width), emit.spread(arguments[5], width)
        at_once = sums_at_once(width)
        # Few heads have several sums each, so that none waits for its last addition.
        apart = math.gcd(dims, max(1, at_once // heads))
        stretches = [
            (slot, range(head, min(heads, head + at_once)))
            for slot in range(0, slots, width)
            for head in range(0, heads, at_once)
        ]
        num_steps = dims // apart  # of each stretch
        fetched = dims * slots // (len(stretches) * num_steps)  # keys with each step
        in_line = values_in_line(keys)
        for number, (slot, now) in enumerate(stretches):
            places = [(dim, head) for dim in range(apart) for head in now]
            sums = {place: cgutils.alloca_once(builder, kind) for place in places}
            for total in sums.values():
                builder.store(ir.Constant(kind, [0.0] * width), total)
            with cgutils.for_range(builder, INT64(num_steps)) as loop:
                lines = builder.gep(ahead_place, [builder.mul(loop.index, INT64(fetched))])
                emit.fetch_all(lines, number * num_steps * fetched, fetched, in_line)
                first = builder.mul(loop.index, INT64(apart))
                row_place = builder.gep(key_place, [builder.mul(first, INT64(slots))])
                own_query = builder.gep(query_place, [first])
                rows = [
                    load_stored(emit, keys, row_place, dim * slots + slot, width)
                    for dim in range(apart)
                ]
                for (dim, head), total in sums.items():
                    factor = emit.load_spread(own_query, head * dims + dim, width)
                    builder.store(emit.multiply_add(builder.load(total), rows[dim], factor), total)
            for head in now:
                parts = [builder.load(sums[dim, head]) for dim in range(apart)]
                total = functools.reduce(partial(builder.fadd, flags=FAST), parts)
                emit.store(
                    builder.fmul(total, scales, flags=FAST), score_place, head * slots + slot
                )
        return context.get_dummy_value()

    kinds = (sizes, query, query_at, keys, keys_at, scale, scores, scores_at, ahead, ahead_at)
    return types.void(*kinds), generate


@intrinsic  # type: ignore[untyped-decorator]
def _add_values(
    typing: Any, sizes: Any, weights: Any, weights_at: Any, values: Any, values_at: Any,
    low: Any, high: Any, output: Any, output_at: Any, ahead: Any, ahead_at: Any,
) -> tuple[Any, Callable[..., Any]]:  # fmt: skip
    """output [heads, dims] += weights [heads, slots] x values [slots, dims] of slots low .. high.

    The others hold what another sequence left there, and a NaN of it would outlive any weight.
    As many values are fetched from `ahead`, evenly meanwhile.
    """
    heads, dims, slots = _counts(sizes)
    width = math.gcd(dims, register_floats())

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        emit = VectorCode(context, builder, signature, arguments)
        weight_place, value_place, output_place, ahead_place = (
            emit.address(which) for which in (1, 3, 7, 9)
        )
        places = [(head, dim) for dim in range(0, dims, width) for head in range(heads)]
        # All heads of some dimensions, and not quite as many as there is room for: the factor of
        # each head takes a register too.
        at_once = max(1, (sums_at_once(width) - 1) // heads) * heads
        fetched = -(-dims // -(-len(places) // at_once))  # values with each slot
        for number, first in enumerate(range(0, len(places), at_once)):
            now = places[first : first + at_once]
            sums = {
                place: cgutils.alloca_once(builder, ir.VectorType(FLOAT, width)) for place in now
            }
            for (head, dim), total in sums.items():
                builder.store(emit.load(output_place, head * dims + dim, width), total)
            with cgutils.for_range(builder, arguments[6], arguments[5]) as loop:
                lines = builder.gep(ahead_place, [builder.mul(loop.index, INT64(fetched))])
                emit.fetch_all(lines, number * slots * fetched, fetched, values_in_line(values))
                own = builder.gep(value_place, [builder.mul(loop.index, INT64(dims))])
                own_weight = builder.gep(weight_place, [loop.index])
                rows = {
                    dim: load_stored(emit, values, own, dim, width)
                    for dim in sorted({dim for _, dim in now})
                }
                for (head, dim), total in sums.items():
                    weight = emit.load_spread(own_weight, head * slots, width)
                    more = emit.multiply_add(builder.load(total), rows[dim], weight)
                    builder.store(more, total)
            for (head, dim), total in sums.items():
                emit.store(builder.load(total), output_place, head * dims + dim)
        return context.get_dummy_value()

    kinds = (
        sizes, weights, weights_at, values, values_at, low, high, output, output_at, ahead, ahead_at
    )  # fmt: skip
    return types.void(*kinds), generate


@intrinsic  # type: ignore[untyped-decorator]
def _any_above(
    typing: Any, sizes: Any, scores: Any, scores_at: Any, limit: Any
) -> tuple[Any, Callable[..., Any]]:
    """Whether a score of one head [slots] is above the limit."""
    slots = _counts(sizes)[2]

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        emit = VectorCode(context, builder, signature, arguments)
        row = emit.load(emit.address(1), 0, slots)
        return emit.any_above(row, emit.spread(arguments[3], slots))

    return types.boolean(sizes, scores, scores_at, limit), generate


@intrinsic  # type: ignore[untyped-decorator]
def _weigh(
    typing: Any, sizes: Any, scores: Any, scores_at: Any, top: Any, totals: Any, totals_at: Any
) -> tuple[Any, Callable[..., Any]]:
    """Scores of one head [slots] become weights, e**(score - top); totals [slots] += weights."""
    slots = _counts(sizes)[2]

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        emit = VectorCode(context, builder, signature, arguments)
        score_place, total_place = emit.address(1), emit.address(4)
        row, tops = emit.load(score_place, 0, slots), emit.spread(arguments[3], slots)
        weights = emit.exponential(builder.fsub(row, tops, flags=FAST))
        totals = builder.fadd(emit.load(total_place, 0, slots), weights, flags=FAST)
        emit.store(weights, score_place, 0)
        emit.store(totals, total_place, 0)
        return context.get_dummy_value()

    return types.void(sizes, scores, scores_at, top, totals, totals_at), generate


@numba.njit(**OPTIONS)  # type: ignore[untyped-decorator]
def _raise_top(
    scores: FloatArray, scores_at: int, tops: FloatArray, head: int, totals: FloatArray,
    output: FloatArray, output_at: int, sizes: Sizes,
) -> None:  # fmt: skip
    """Let tops[head] be its highest score so far, and what was summed up relative to the old one
    be relative to this one (online softmax, arXiv:1805.02867)."""
    _, dims, slots = sizes
    rank = rank_of(tops[head])
    for t in range(len(slots)):
        rank = max(rank, rank_of(scores[scores_at + t]))
    top = float_of_rank(rank)
    shrink = exp_of_negative(tops[head] - top)
    tops[head] = top
    for t in range(len(slots)):
        totals[head * len(slots) + t] *= shrink
    for d in range(len(dims)):
        output[output_at + d] *= shrink


@numba.njit(**OPTIONS)  # type: ignore[untyped-decorator]
def _first(length: int, window: int, rows: int) -> int:
    """The first token that any row of a tile sees."""
    return max(0, length - rows + 1 - window) if window > 0 else 0


@numba.njit(**OPTIONS)  # type: ignore[untyped-decorator]
def _block_after(
    block_tables: npt.NDArray[np.int32],
    lengths: npt.NDArray[np.int64],
    window: int,
    rows: int,
    size: int,
    by_itself: bool,
    i: int,
    b: int,
) -> int:
    """The block that is read after block b of tile i, or b's if nothing need be fetched.

    by_itself: the core is to read on without being told.
    """
    block = np.int64(block_tables[i, b])
    if (b + 1) * size < lengths[i]:
        after = np.int64(block_tables[i, b + 1])
        return block if by_itself and after == block + 1 else after
    if i + 1 == len(lengths):
        return block
    return np.int64(block_tables[i + 1, _first(lengths[i + 1], window, rows) // size])


@numba.njit(**OPTIONS)  # type: ignore[untyped-decorator]
def _hide(
    scores: FloatArray, block_start: int, length: int, window: int, per_row: int, sizes: Sizes
) -> None:
    """What a query does not see scores nothing.

    scores: [rows * per_row, slots] of the block that begins at block_start; the last row sees
    `length` tokens, each row before one less.
    """
    queries, _, slots = sizes
    for q in range(len(queries)):
        seen = length - (len(queries) - 1 - q) // per_row
        first = max(0, seen - window) if window > 0 else 0
        for t in range(min(len(slots), max(0, first - block_start))):
            scores[q, t] = LOWEST
        for t in range(max(0, seen - block_start), len(slots)):
            scores[q, t] = LOWEST


@numba.njit(**OPTIONS)  # type: ignore[untyped-decorator]
def _gather(query: FloatArray, first_row: int, missing: int, tile: FloatArray) -> None:
    """tile [kv_heads, rows, per_row, head_dim] of the queries from row first_row + missing on."""
    kv_heads, rows, per_row, dims = tile.shape
    for r in range(missing, rows):
        for h in range(kv_heads):
            for g in range(per_row):
                for d in range(dims):
                    tile[h, r, g, d] = query[first_row + r, h * per_row + g, d]


@numba.njit(**OPTIONS)  # type: ignore[untyped-decorator]
def _hand_out(
    tile: FloatArray, totals: FloatArray, first_row: int, missing: int, output: FloatArray
) -> None:
    """The reverse, of weighted sums, divided by their weights' totals [queries of all, slots]."""
    kv_heads, rows, per_row, dims = tile.shape
    slots = len(totals) // (kv_heads * rows * per_row)
    for r in range(missing, rows):
        for h in range(kv_heads):
            for g in range(per_row):
                at = ((h * rows + r) * per_row + g) * slots
                inverse = np.float32(1.0) / totals[at : at + slots].sum()
                for d in range(dims):
                    output[first_row + r, h * per_row + g, d] = tile[h, r, g, d] * inverse


@numba.njit(**OPTIONS)  # type: ignore[untyped-decorator]
def attend(
    query: FloatArray,
    cache: StoredArray,
    last_rows: npt.NDArray[np.int64],
    used: npt.NDArray[np.int64],
    lengths: npt.NDArray[np.int64],
    block_tables: npt.NDArray[np.int32],
    rows: int,
    window: int,
    sizes: Sizes,
    output: FloatArray,
) -> None:
    """Attention of tiles of rows over their sequences, each row up to itself.

    output: [tokens, heads, head_dim]; query: the same, or with more heads behind; cache: one layer
    of a BlockKVCache, [blocks, kv_heads, 2, block_size * head_dim]; last_rows, used, lengths,
    block_tables, rows: as in RowTiles; window: tokens back, 0 for all; sizes: zeros, as many as
    queries of a tile share a key (its rows times the heads of a KV head), as head_dim, and as slots
    are in a block.
    """
    queries, dims, size = len(sizes[0]), len(sizes[1]), len(sizes[2])
    scale, per_row = np.float32(1.0 / math.sqrt(dims)), queries // rows
    kv_heads, step = cache.shape[1], size * dims
    by_itself = cache.itemsize == FLOAT_BYTES and size <= SLOTS_AT_ONCE
    # A tile's queries and outputs, those that share a key one after the other. Flat, and elements
    # given by their place: a slice costs more than what is done with it.
    own_query = np.zeros((kv_heads, rows, per_row, dims), np.float32)
    own_output = np.empty((kv_heads, rows, per_row, dims), np.float32)
    all_queries, all_outputs, stored = own_query.ravel(), own_output.ravel(), cache.reshape(-1)
    scores = np.empty((queries, size), np.float32)
    score_row = scores.reshape(-1)
    tops = np.empty(kv_heads * queries, np.float32)
    totals = np.empty(kv_heads * queries * size, np.float32)
    for i in range(len(last_rows)):
        first_row, length = last_rows[i] - rows + 1, lengths[i]
        missing = rows - used[i]
        _gather(query, first_row, missing, own_query)
        own_output[:] = np.float32(0.0)
        tops[:], totals[:] = LOWEST, np.float32(0.0)
        # A block at a time with all its heads, as they lie in memory.
        start = _first(length, window, rows)
        for b in range(start // size, (length + size - 1) // size):
            low, high = max(0, start - b * size), min(size, length - b * size)
            all_seen = (b + 1) * size <= length - rows + 1 and (
                window == 0 or b * size >= length - window
            )
            ahead = _block_after(block_tables, lengths, window, rows, size, by_itself, i, b)
            for h in range(kv_heads):
                ahead_at = (ahead * kv_heads + h) * 2 * step
                keys_at = (np.int64(block_tables[i, b]) * kv_heads + h) * 2 * step
                values_at, queries_at = keys_at + step, h * queries * dims
                _score(
                    sizes, all_queries, queries_at, stored, keys_at, scale, score_row, 0, stored,
                    ahead_at,
                )  # fmt: skip
                if not all_seen:
                    _hide(scores, b * size, length, window, per_row, sizes)
                for q in range(queries):
                    at, place = q * size, h * queries + q
                    if _any_above(sizes, score_row, at, tops[place] + SLACK):
                        out_at = place * dims
                        _raise_top(score_row, at, tops, place, totals, all_outputs, out_at, sizes)
                    _weigh(sizes, score_row, at, tops[place], totals, place * size)
                _add_values(
                    sizes, score_row, 0, stored, values_at, low, high, all_outputs, queries_at,
                    stored, ahead_at + step,
                )  # fmt: skip
        _hand_out(own_output, totals, first_row, missing, output)


@numba.njit(**{**OPTIONS, "fastmath": False})  # type: ignore[untyped-decorator]
def write_cache(
    keys: FloatArray,
    values: FloatArray,
    slots: npt.NDArray[np.int64],
    block_size: int,
    cache: StoredArray,
) -> None:
    """Store keys and values [tokens, kv_heads, head_dim] at slots [tokens] of one layer."""
    dims = keys.shape[2]
    for i in range(keys.shape[0]):
        block, offset = slots[i] // block_size, slots[i] % block_size
        for h in range(keys.shape[1]):
            for d in range(dims):
                cache[block, h, 0, d * block_size + offset] = as_stored(keys[i, h, d], cache)
            for d in range(dims):
                cache[block, h, 1, offset * dims + d] = as_stored(values[i, h, d], cache)
