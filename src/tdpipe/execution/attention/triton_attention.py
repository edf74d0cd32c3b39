"""Attention over the paged cache as Triton kernels, for CUDA devices.

Keys and values are written first and then read by slots, so fresh tokens and earlier context are
alike: one launch serves all prefill spans of a batch, whole prompts and chunks. Decodes are cut
into splits of their contexts where there are too few of them to fill the device (flash-decoding:
Dao et al., 2023; the paged cache: Kwon et al., arXiv:2309.06180). Nothing waits for the device.

With TRITON_INTERPRET=1 in the environment before triton is imported, the kernels run on CPU.
"""

import math
from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from tdpipe.execution.attention.attention_backend import (
    AttentionMetadata,
    PrefillSpan,
    PrefillTiles,
)
from tdpipe.execution.attention.triton_kernels import (
    combine_kernel,
    decode_kernel,
    prefill_kernel,
    write_kernel,
)
from tdpipe.execution.host_staging import to_device
from tdpipe.execution.kv_cache import KVCache

# More than any context: a window that leaves nothing out.
NO_WINDOW = 1 << 30
# The smallest matrix product that tl.dot takes.
MIN_DOT = 16
# Two programs on a multiprocessor: one reads memory while the other computes.
PROGRAMS_PER_MULTIPROCESSOR = 2
# A shorter split costs more to combine than it saves.
MIN_SPLIT_TOKENS = 128
# combine_kernel holds all splits of a head at once.
MAX_SPLITS = 64


class TritonAttention:
    """AttentionBackend for CUDA devices; the first use of each kernel compiles it.

    The last dimension of query, key and value must be contiguous.

    Args:
        multiprocessors: of the device, which splits of decode contexts shall keep busy.
    """

    cache_class: type[KVCache] = KVCache
    on_core = False
    is_recorded = True

    def __init__(self, multiprocessors: int) -> None:
        self._multiprocessors = multiprocessors

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
        _write(layer, key, value, kv_cache, meta.slot_mapping)
        output = torch.empty(query.shape, dtype=query.dtype, device=query.device)
        limit = NO_WINDOW if window is None else window
        if meta.prefills:
            _prefill(layer, query, output, kv_cache, meta, limit)
        first = meta.num_prefill_tokens
        if len(query) > first:
            self._decode(layer, query[first:], output[first:], kv_cache, meta, limit)
        return output

    def _decode(
        self,
        layer: int,
        query: Tensor,  # [decodes, heads, head_dim]
        output: Tensor,
        kv_cache: KVCache,
        meta: AttentionMetadata,
        window: int,
    ) -> None:
        keys, values = kv_cache.keys[layer], kv_cache.values[layer]
        (count, num_heads, head_dim), num_kv_heads = query.shape, len(keys)
        group, dims = num_heads // num_kv_heads, padded(head_dim)
        longest = min(meta.block_tables.shape[1] * meta.block_size, window)
        splits = num_splits(count * num_kv_heads, longest, self._multiprocessors)
        parts = log_sums = output
        if splits > 1:
            shape = (count, num_heads, splits)
            parts = torch.empty((*shape, head_dim), dtype=torch.float32, device=query.device)
            log_sums = torch.empty(shape, dtype=torch.float32, device=query.device)
        decode_kernel[(count, num_kv_heads, splits)](
            query,
            keys,
            values,
            meta.block_tables,
            meta.decode_lengths,
            parts,
            log_sums,
            query.stride(0),
            query.stride(1),
            keys.stride(0),
            meta.block_tables.stride(0),
            window,
            scale(head_dim),
            group=group,
            head_dim=head_dim,
            block_size=meta.block_size,
            rows=padded(group),
            dims=dims,
            tile=tile_tokens(dims, query.dtype),
            product=_product(query.dtype),
            num_warps=4,
            num_stages=2,
        )
        if splits > 1:
            combine_kernel[(count * num_heads,)](
                parts, log_sums, output, head_dim=head_dim, splits=splits, dims=dims
            )


def _write(layer: int, key: Tensor, value: Tensor, kv_cache: KVCache, slots: Tensor) -> None:
    num_tokens, num_kv_heads, head_dim = key.shape
    keys = kv_cache.keys[layer]
    write_kernel[(num_tokens,)](
        key,
        value,
        keys,
        kv_cache.values[layer],
        slots,
        key.stride(0),
        key.stride(1),
        value.stride(0),
        value.stride(1),
        keys.stride(0),
        num_kv_heads=num_kv_heads,
        head_dim=head_dim,
        heads=triton.next_power_of_2(num_kv_heads),
        dims=padded(head_dim),
    )


def _prefill(
    layer: int,
    query: Tensor,
    output: Tensor,
    kv_cache: KVCache,
    meta: AttentionMetadata,
    window: int,
) -> None:
    keys, values = kv_cache.keys[layer], kv_cache.values[layer]
    _, num_heads, head_dim = query.shape
    dims = padded(head_dim)
    tile = tile_tokens(dims, query.dtype)
    if meta.prefill_tiles is None:
        meta.prefill_tiles = prefill_tiles(meta.prefills, tile, query.device)
    tiles = meta.prefill_tiles
    prefill_kernel[(num_heads, len(tiles.tiles))](
        query,
        keys,
        values,
        tiles.tiles,
        tiles.slots,
        output,
        query.stride(0),
        query.stride(1),
        keys.stride(0),
        window,
        scale(head_dim),
        group=num_heads // len(keys),
        head_dim=head_dim,
        rows=tile,
        dims=dims,
        tile=tile,
        product=_product(query.dtype),
        num_warps=4,
        num_stages=2,
    )


def num_splits(programs: int, longest_tokens: int, multiprocessors: int) -> int:
    """Parts to cut each decode's context into, a power of two.

    Args:
        programs: decodes times KV heads, what there is to do in parallel without splits.
        longest_tokens: of the contexts, as far as they are attended to.
        multiprocessors: of the device.
    """
    wanted = PROGRAMS_PER_MULTIPROCESSOR * multiprocessors // programs
    most = max(1, min(wanted, longest_tokens // MIN_SPLIT_TOKENS, MAX_SPLITS))
    return 1 << (most.bit_length() - 1)


def prefill_tiles(spans: Sequence[PrefillSpan], rows: int, device: torch.device) -> PrefillTiles:
    """The spans' tokens in tiles of at most `rows`; a tile never crosses spans."""
    tiles: list[tuple[int, int, int, int]] = []
    first_slot = 0
    for span in spans:
        earlier = span.context_tokens - span.num_tokens
        for at in range(0, span.num_tokens, rows):
            num_rows = min(rows, span.num_tokens - at)
            tiles.append((span.first_row + at, num_rows, earlier + at, first_slot))
        first_slot += span.context_tokens
    # Those with most to see start first, so that no long one is left for the end.
    tiles.sort(key=lambda tile: tile[2], reverse=True)
    on_device = to_device(torch.tensor(tiles, dtype=torch.int32), device)
    slots = spans[0].slots if len(spans) == 1 else torch.cat([span.slots for span in spans])
    return PrefillTiles(on_device, slots)


def tile_tokens(dims: int, dtype: torch.dtype) -> int:
    """Tokens in a tile of [tokens, dims]: 16 KiB, so that five of them fit 96 KiB of shared memory.

    Five are a tile of queries, and keys and values twice, the next ones on their way.
    """
    return max(MIN_DOT, min(64, 16384 // (dims * dtype.itemsize)))


def padded(size: int) -> int:
    """The power of two that holds `size`, and that tl.dot takes."""
    return max(MIN_DOT, int(triton.next_power_of_2(size)))


def scale(head_dim: int) -> float:
    """1 / sqrt(head_dim), times log2(e) because the kernels' exponentials are powers of two."""
    return math.log2(math.e) / math.sqrt(head_dim)


def _product(dtype: torch.dtype) -> tl.dtype:
    """The type to multiply in: the data's own, but float32 in the interpreter.

    The interpreter keeps bfloat16 as integers and would multiply those. Products of narrow numbers
    are exact in float32 either way.
    """
    narrow = {torch.float16: tl.float16, torch.bfloat16: tl.bfloat16}
    return tl.float32 if triton.knobs.runtime.interpret else narrow.get(dtype, tl.float32)
