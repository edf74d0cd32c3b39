"""Keys and values kept as halves: the compiled kernels against torch, bits and attention."""

import math

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from chain import Chain, relative_gap
from tdpipe.execution.attention.attention_backend import AttentionMetadata, PrefillSpan
from tdpipe.execution.attention.numba_attention import NumbaAttention
from tdpipe.execution.attention.torch_attention import TorchAttention
from tdpipe.execution.block_kv_cache import BlockKVCache
from tdpipe.execution.kv_cache import KVCache

CPU = torch.device("cpu")
HALVES = [torch.float16, torch.bfloat16]
LARGEST = 65504.0


def make_cache(kind, num_blocks, block, kv_heads, dim, stored):
    return kind(1, num_blocks, block, kv_heads, dim, torch.float32, CPU, stored)


# ---- bits


def between_halves(stored):
    """Floats midway between neighbours of the half type, and the floats next to those."""
    bits = torch.arange(2**15, dtype=torch.int32).to(torch.int16)
    halves = bits.view(stored).float()
    halves = halves[halves.isfinite()]
    midway = (halves[:-1].double() + halves[1:].double()).div(2).float()
    infinity = torch.full_like(midway, math.inf)
    near = [midway, midway.nextafter(infinity), midway.nextafter(-infinity), halves]
    return torch.cat([*near, *(-one for one in near)])


@pytest.mark.parametrize("stored", HALVES)
@pytest.mark.parametrize("kind", [KVCache, BlockKVCache, NumbaAttention.cache_class])
def test_rounding_is_to_nearest_even(kind, stored):
    given = between_halves(stored)
    given = given[: len(given) // 64 * 64].view(-1, 1, 64)
    tokens = len(given)
    cache = make_cache(kind, -(-tokens // 32), 32, 1, 64, stored)
    assert cache.keys.dtype == cache.values.dtype == stored
    cache.write(0, torch.arange(tokens), given, given.flip(0))
    keys, values = cache.read(0, torch.arange(tokens))
    assert keys.dtype == values.dtype == torch.float32
    want = given.to(stored).float()
    assert keys[0].equal(want[:, 0]) and values[0].equal(want.flip(0)[:, 0])
    assert not keys.equal(given.transpose(0, 1))


@pytest.mark.parametrize("stored", HALVES)
@pytest.mark.parametrize("kind", [KVCache, BlockKVCache, NumbaAttention.cache_class])
def test_what_is_beyond_float16_becomes_its_largest(kind, stored):
    beyond = [65504.0, 65519.9, 65520.0, 1e6, 3e38, math.inf]
    none = torch.tensor([0x7FC00000, 0x7FFFFFFF, -1], dtype=torch.int32).view(torch.float32)
    given = torch.tensor([*beyond, *(-one for one in beyond), 0.0])
    given = torch.cat([given, none])[:, None, None]
    cache = make_cache(kind, 4, 4, 1, 1, stored)
    slots = torch.randperm(16)[: len(given)]
    cache.write(0, slots, given, given)
    for got in cache.read(0, slots):
        got = got.flatten()
        if stored == torch.float16:
            assert (got[:6] == LARGEST).all() and (got[6:12] == -LARGEST).all()
        else:
            assert got[:12].equal(given.flatten()[:12].bfloat16().float())
        assert got[12] == 0 and got[13:].isnan().all()


# ---- attention


def mixed_batch(block, kv_heads, group, dim):
    """A prompt of which 20 tokens are cached, one that is new, and decodes of ragged lengths.

    Returns metadata, all contexts with their slots, and rows of query, key and value.
    """
    totals = [20 + 7, 5, 70, 2 * block, 2 * block + 1, 1]
    new = [7, 5, 1, 1, 1, 1]
    most = -(-max(totals) // block)
    tables = torch.randperm(len(totals) * most).view(len(totals), most)
    slots = [(row[:, None] * block + torch.arange(block)).flatten()[:total]
             for row, total in zip(tables, totals, strict=True)]  # fmt: skip
    contexts = [torch.randn(2, total, kv_heads, dim) for total in totals]
    rows = torch.cat([one[:, -count:] for one, count in zip(contexts, new, strict=True)], dim=1)
    meta = AttentionMetadata(
        num_prefill_tokens=12,
        prefills=[PrefillSpan(0, 7, 27, slots[0]), PrefillSpan(7, 5, 5, slots[1])],
        slot_mapping=torch.cat([one[-count:] for one, count in zip(slots, new, strict=True)]),
        decode_lengths=torch.tensor(totals[2:]),
        block_tables=tables[2:].int(),
        block_size=block,
    )
    return (
        meta,
        list(zip(slots, contexts, strict=True)),
        (torch.randn(16, kv_heads * group, dim), *rows),
    )


def attended(backend, stored, sizes, scale=1.0):
    block, kv_heads, group, dim, window = sizes
    torch.manual_seed(0)
    meta, contexts, (query, key, value) = mixed_batch(block, kv_heads, group, dim)
    num_blocks = meta.block_tables.numel() + 2 * meta.block_tables.shape[1]
    cache = make_cache(backend.cache_class, num_blocks, block, kv_heads, dim, stored)
    for slots, context in contexts:
        cache.write(0, slots, *(scale * context))
    return backend().forward(0, query, scale * key, scale * value, cache, meta, window)


SIZES = [  # block, KV heads, heads of each, dimensions, window
    (32, 2, 3, 64, 9), (32, 1, 1, 80, None), (16, 1, 8, 128, 40), (16, 1, 5, 96, 17),
]  # fmt: skip


@pytest.mark.parametrize(
    ("stored", "sizes"),
    [*((torch.float16, sizes) for sizes in SIZES), (torch.bfloat16, SIZES[0])],
)
def test_attention_is_that_of_torch(sizes, stored):
    want = attended(TorchAttention, stored, sizes)
    torch.testing.assert_close(attended(NumbaAttention, stored, sizes), want, rtol=1e-5, atol=1e-5)
    # The reference rounds, prompts included, and not by more than the type does.
    gap = (want - attended(TorchAttention, None, sizes)).abs().amax(dim=(1, 2))
    assert gap.min() > 1e-5 and gap.max() < (4e-3 if stored == torch.float16 else 3e-2)


@pytest.mark.parametrize("backend", [TorchAttention, NumbaAttention])
def test_keys_beyond_float16_give_numbers(backend):
    got = attended(backend, torch.float16, SIZES[0], scale=1e6)
    assert got.isfinite().all() and got.abs().max() > 1e4


# ---- stages


def test_logits_of_stages_are_those_of_torch(tmp_path):
    config = LlamaConfig(
        vocab_size=320, hidden_size=64, intermediate_size=96, num_hidden_layers=3,
        num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=256,
    )  # fmt: skip
    torch.manual_seed(0)
    LlamaForCausalLM(config).save_pretrained(tmp_path)

    def logits(layers, attention, stored):
        chain = Chain(tmp_path, layers, attention, stored=stored)
        first = chain.step([(1, 0, list(range(30))), (2, 0, [5])], num_prefills=2)
        second = chain.step([(1, 30, [7, 8, 9]), (2, 1, [6])], num_prefills=1)
        return torch.cat([first, second, chain.step([(1, 33, [7]), (2, 2, [6])], num_prefills=0)])

    for stored in HALVES:
        want = logits([3], TorchAttention, stored)
        got = logits([1, 2], NumbaAttention, stored)
        assert relative_gap(got, want) < 1e-5
        assert got.equal(logits([3], NumbaAttention, stored))
        assert relative_gap(want, logits([3], TorchAttention, None)) > 1e-4
