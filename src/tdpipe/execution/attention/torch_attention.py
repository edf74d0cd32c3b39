"""Paged attention in plain torch: the reference, for any device and dtype.

Prefill of a whole prompt attends to its fresh keys, without a mask in memory, or to those that the
cache gives back where it rounds them: how a prompt is cut must not change a result. Decodes are
gathered from the cache in groups of similar length, so that padding stays small. The heads that
share a KV head are rows of one small matrix, so K and V are read once for all of them.
"""

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from tdpipe.execution.attention.attention_backend import (
    AttentionMetadata,
    DecodeGroup,
    PrefillSpan,
)
from tdpipe.execution.kv_cache import KVCache

# Decodes gathered together: small enough for the cache, large enough to pay for the calls.
GROUP_SIZE = 16


class TorchAttention:
    """AttentionBackend in plain torch."""

    cache_class: type[KVCache] = KVCache
    on_core = False
    is_recorded = False

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
        for span in meta.prefills:
            rows = slice(span.first_row, span.first_row + span.num_tokens)
            output[rows] = _prefill(
                layer, query[rows], key[rows], value[rows], kv_cache, span, window
            )
        first = meta.num_prefill_tokens
        if len(query) > first:
            if window not in meta.decode_groups:
                meta.decode_groups[window] = _groups(meta, window, query.dtype)
            for group in meta.decode_groups[window]:
                rows_of_group = group.rows + first
                output[rows_of_group] = _decode(layer, query[rows_of_group], kv_cache, group)
        return output


def _prefill(
    layer: int,
    query: Tensor,  # [new, heads, head_dim]
    key: Tensor,  # [new, kv_heads, head_dim]
    value: Tensor,
    kv_cache: KVCache,
    span: PrefillSpan,
    window: int | None,
) -> Tensor:
    new, context = span.num_tokens, span.context_tokens
    keys, values = key.transpose(0, 1), value.transpose(0, 1)
    if context > new or kv_cache.rounds:
        keys, values = kv_cache.read(layer, span.slots)
    mask = None
    if context > new or (window is not None and context > window):
        mask = _offset_mask(new, context, window, query.device)
    mixed = scaled_dot_product_attention(
        query.transpose(0, 1)[None],  # [1, heads, new, head_dim]
        keys[None],
        values[None],
        attn_mask=mask,
        is_causal=mask is None,
        enable_gqa=query.shape[1] != key.shape[1],
    )
    return mixed[0].transpose(0, 1)


def _offset_mask(new: int, context: int, window: int | None, device: torch.device) -> Tensor:
    """[new, context], true where row i (position context - new + i) sees a position."""
    at = torch.arange(context - new, context, device=device)[:, None]
    seen = torch.arange(context, device=device)[None]
    mask = seen <= at
    return mask if window is None else mask & (seen > at - window)


def _groups(meta: AttentionMetadata, window: int | None, dtype: torch.dtype) -> list[DecodeGroup]:
    lengths, order = meta.decode_lengths.sort(descending=True)
    groups: list[DecodeGroup] = []
    for start in range(0, len(order), GROUP_SIZE):
        rows = order[start : start + GROUP_SIZE]
        ends = lengths[start : start + GROUP_SIZE, None]
        longest = int(ends[0])
        at = torch.arange(longest, device=rows.device)[None]
        seen = at < ends if window is None else (at < ends) & (at >= ends - window)
        bias = torch.zeros(seen.shape, dtype=dtype, device=rows.device)
        bias.masked_fill_(~seen, float("-inf"))
        blocks = meta.block_tables[rows].long()[:, at[0] // meta.block_size]
        slots = blocks * meta.block_size + at % meta.block_size
        groups.append(DecodeGroup(rows, slots.flatten(), bias[:, None]))
    return groups


def _decode(layer: int, query: Tensor, kv_cache: KVCache, group: DecodeGroup) -> Tensor:
    """[decodes, heads, head_dim] of one query each over their own contexts."""
    count, num_heads, head_dim = query.shape
    keys, values = kv_cache.read(layer, group.slots)
    num_kv_heads = len(keys)
    per_kv_head = query.view(count, num_kv_heads, num_heads // num_kv_heads, head_dim)
    mixed = scaled_dot_product_attention(
        per_kv_head.transpose(0, 1),  # [kv_heads, decodes, group, head_dim]
        keys.view(num_kv_heads, count, -1, head_dim),
        values.view(num_kv_heads, count, -1, head_dim),
        attn_mask=group.bias[None],
    )
    return mixed.transpose(0, 1).reshape(count, num_heads, head_dim)
