"""Triton kernels of attention over the paged cache; they know nothing of batches or layers.

Both attention kernels walk a context in tiles with an online softmax (FlashAttention,
arXiv:2205.14135): sums and products accumulate in float32, and no row of scores is ever whole in
memory. Exponentials are powers of two, which the hardware has; `scale` therefore carries log2(e).

Sizes of tiles are powers of two; `dims` is head_dim rounded up to one. `product` is the type that
products are taken in.
"""

import triton
import triton.language as tl

# The largest score before any was seen. Finite, so that differences from it are never NaN.
LOWEST = tl.constexpr(-1e38)


@triton.jit
def write_kernel(
    key,
    value,
    keys,
    values,
    slot_mapping,
    key_row_stride,
    key_head_stride,
    value_row_stride,
    value_head_stride,
    cache_head_stride,
    num_kv_heads: tl.constexpr,
    head_dim: tl.constexpr,
    heads: tl.constexpr,
    dims: tl.constexpr,
):
    """Store one token's key and value [kv_heads, head_dim] at its slot of a layer.

    keys, values: [kv_heads, slots, head_dim]; slot_mapping: [tokens] int64, negative where they are
    not kept. Grid: (tokens,).
    """
    row = tl.program_id(0).to(tl.int64)
    slot = tl.load(slot_mapping + row)
    if slot >= 0:
        head = tl.arange(0, heads)[:, None].to(tl.int64)
        dim = tl.arange(0, dims)[None]
        mask = (head < num_kv_heads) & (dim < head_dim)
        to = head * cache_head_stride + slot * head_dim + dim
        new_key = tl.load(key + row * key_row_stride + head * key_head_stride + dim, mask=mask)
        tl.store(keys + to, new_key, mask=mask)
        value_at = row * value_row_stride + head * value_head_stride + dim
        tl.store(values + to, tl.load(value + value_at, mask=mask), mask=mask)


@triton.jit
def _cached(cache, slots, valid, head_dim: tl.constexpr, dims: tl.constexpr):
    """[tokens, dims] of one head's cache at slots [tokens].

    Zeros where not valid: what another sequence left there may be NaN, and outlive any weight.
    """
    dim = tl.arange(0, dims)[None]
    at = slots[:, None].to(tl.int64) * head_dim + dim
    return tl.load(cache + at, mask=valid[:, None] & (dim < head_dim), other=0.0)


@triton.jit
def _attend_tile(query, key, value, seen, top, total, mixed, scale, product: tl.constexpr):
    """One tile's step of the online softmax.

    query: [rows, dims]; key, value: [tile, dims]; seen: [rows, tile]; top, total: [rows], largest
    score so far and sum of weights relative to it; mixed: [rows, dims], weighted sum of values.
    """
    # ieee: float32 stays float32 and is not cut to TF32; it says nothing to narrower types.
    scores = tl.dot(query.to(product), tl.trans(key.to(product)), input_precision="ieee") * scale
    scores = tl.where(seen, scores, float("-inf"))
    new_top = tl.maximum(top, tl.max(scores, 1))
    weights = tl.exp2(scores - new_top[:, None])
    shrink = tl.exp2(top - new_top)
    total = total * shrink + tl.sum(weights, 1)
    rounded = weights.to(value.dtype).to(product)
    mixed = tl.dot(rounded, value.to(product), mixed * shrink[:, None], input_precision="ieee")
    return new_top, total, mixed


@triton.jit(do_not_specialize=["table_stride", "window"])
def decode_kernel(
    query,
    keys,
    values,
    block_tables,
    lengths,
    output,
    log_sums,
    query_row_stride,
    query_head_stride,
    cache_head_stride,
    table_stride,
    window,
    scale,
    group: tl.constexpr,
    head_dim: tl.constexpr,
    block_size: tl.constexpr,
    rows: tl.constexpr,
    dims: tl.constexpr,
    tile: tl.constexpr,
    product: tl.constexpr,
):
    """The query heads of one KV head over one split of one decode's context.

    query: [decodes, heads, head_dim]; keys, values: [kv_heads, slots, head_dim]; block_tables:
    [decodes, table_stride] int32; lengths: [decodes] int64; output: [decodes, heads, splits,
    head_dim], each split normalised by itself; log_sums: [decodes, heads, splits] float32, log2 of
    the sum of its weights, written if there is more than one split.
    Grid: (decodes, kv_heads, splits). A split without tokens gives zeros and a log sum of LOWEST.
    """
    decode, kv_head = tl.program_id(0).to(tl.int64), tl.program_id(1).to(tl.int64)
    split, num_splits = tl.program_id(2), tl.num_programs(2)
    # Each context is cut by its own length, so that short ones are not left to one split.
    length = tl.load(lengths + decode).to(tl.int32)
    begin = tl.maximum(length - window, 0)
    share = tl.cdiv(tl.cdiv(length - begin, tile), num_splits) * tile
    low = begin + split * share
    high = tl.minimum(low + share, length)

    row, dim = tl.arange(0, rows), tl.arange(0, dims)[None]
    head = kv_head * group + row[:, None]
    shown = (row[:, None] < group) & (dim < head_dim)
    at = decode * query_row_stride + head * query_head_stride + dim
    own = tl.load(query + at, mask=shown, other=0.0)
    top = tl.full([rows], LOWEST, tl.float32)
    total = tl.zeros([rows], tl.float32)
    mixed = tl.zeros([rows, dims], tl.float32)
    for start in range(low, high, tile):
        position = start + tl.arange(0, tile)
        valid = position < high
        table_at = decode * table_stride + position // block_size
        block = tl.load(block_tables + table_at, mask=valid, other=0).to(tl.int64)
        slots = block * block_size + position % block_size
        key = _cached(keys + kv_head * cache_head_stride, slots, valid, head_dim, dims)
        value = _cached(values + kv_head * cache_head_stride, slots, valid, head_dim, dims)
        top, total, mixed = _attend_tile(
            own, key, value, valid[None], top, total, mixed, scale, product
        )
    total = tl.where(total > 0, total, 1.0)
    to = (decode * tl.num_programs(1) * group + head) * num_splits + split
    tl.store(output + to * head_dim + dim, mixed / total[:, None], mask=shown)
    if num_splits > 1:
        tl.store(log_sums + to, (top + tl.log2(total))[:, None], mask=row[:, None] < group)


@triton.jit
def combine_kernel(
    parts,
    log_sums,
    output,
    head_dim: tl.constexpr,
    splits: tl.constexpr,
    dims: tl.constexpr,
):
    """Weigh the splits of one head of one decode by their sums of weights (flash-decoding).

    parts: [decodes * heads, splits, head_dim] float32; log_sums: [decodes * heads, splits];
    output: [decodes * heads, head_dim]. Grid: (decodes * heads,).
    """
    head = tl.program_id(0).to(tl.int64)
    split, dim = tl.arange(0, splits), tl.arange(0, dims)
    sums = tl.load(log_sums + head * splits + split)
    weights = tl.exp2(sums - tl.max(sums, 0))
    at = (head * splits + split[:, None]) * head_dim + dim[None]
    part = tl.load(parts + at, mask=dim[None] < head_dim, other=0.0)
    mixed = tl.sum(part * weights[:, None], 0) / tl.sum(weights, 0)
    tl.store(output + head * head_dim + dim, mixed, mask=dim < head_dim)


@triton.jit(do_not_specialize=["window"])
def prefill_kernel(
    query,
    keys,
    values,
    tiles,
    slots,
    output,
    query_row_stride,
    query_head_stride,
    cache_head_stride,
    window,
    scale,
    group: tl.constexpr,
    head_dim: tl.constexpr,
    rows: tl.constexpr,
    dims: tl.constexpr,
    tile: tl.constexpr,
    product: tl.constexpr,
):
    """One head of one tile of query rows over all that these rows see, causally.

    query, output: [tokens, heads, head_dim]; keys, values: [kv_heads, slots, head_dim]; tiles:
    [tiles, 4] int32, see PrefillTiles; slots: [contexts] int64. Grid: (heads, tiles), so that heads
    that share keys run together and find them in the cache of the device.
    """
    head, entry = tl.program_id(0).to(tl.int64), tiles + tl.program_id(1) * 4
    first_row, num_rows = tl.load(entry).to(tl.int64), tl.load(entry + 1)
    first_position, first_slot = tl.load(entry + 2), tl.load(entry + 3)
    cache_at = head // group * cache_head_stride

    row, dim = tl.arange(0, rows)[:, None], tl.arange(0, dims)[None]
    shown = (row < num_rows) & (dim < head_dim)
    at = (first_row + row) * query_row_stride + head * query_head_stride + dim
    own = tl.load(query + at, mask=shown, other=0.0)
    top = tl.full([rows], LOWEST, tl.float32)
    total = tl.zeros([rows], tl.float32)
    mixed = tl.zeros([rows, dims], tl.float32)
    end = first_position + num_rows
    for start in range(tl.maximum(first_position + 1 - window, 0), end, tile):
        position = start + tl.arange(0, tile)
        valid = position < end
        slot = tl.load(slots + first_slot + position, mask=valid, other=0)
        key = _cached(keys + cache_at, slot, valid, head_dim, dims)
        value = _cached(values + cache_at, slot, valid, head_dim, dims)
        back = first_position + row - position[None]
        seen = (back >= 0) & (back < window)
        top, total, mixed = _attend_tile(own, key, value, seen, top, total, mixed, scale, product)
    # Rows beyond the span may have seen nothing; they are not stored.
    total = tl.where(total > 0, total, 1.0)
    to = ((first_row + row) * tl.num_programs(0) + head) * head_dim + dim
    tl.store(output + to, mixed / total[:, None], mask=shown)
