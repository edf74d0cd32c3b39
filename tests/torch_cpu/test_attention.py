"""Both attention backends against a formula written out with loops."""

import math

import numba
import pytest
import torch
from numba.core import types
from numba.extending import intrinsic

from tdpipe.execution.attention.attention_backend import AttentionMetadata, PrefillSpan
from tdpipe.execution.attention.choose_attention import choose_attention
from tdpipe.execution.attention.numba_attention import NumbaAttention
from tdpipe.execution.attention.numba_kernels import SLACK
from tdpipe.execution.attention.torch_attention import TorchAttention
from tdpipe.execution.block_kv_cache import BlockKVCache
from tdpipe.execution.float_kernels import exp_of_negative
from tdpipe.execution.kv_cache import KVCache
from tdpipe.execution.vector_code import VectorCode

BLOCK, KV_HEADS, GROUP, DIM = 4, 2, 3, 16


def by_hand(query, keys, values, window):
    """One query [heads, dim] over keys, values [context, kv_heads, dim]."""
    first = 0 if window is None else max(0, len(keys) - window)
    rows = []
    for head in range(KV_HEADS * GROUP):
        shared = head // GROUP
        scores = [float(query[head] @ key[shared]) / math.sqrt(DIM) for key in keys[first:]]
        weights = torch.tensor(scores).softmax(0)
        rows.append(sum(w * v[shared] for w, v in zip(weights, values[first:], strict=True)))
    return torch.stack(rows)


@pytest.mark.parametrize("backend", [TorchAttention, NumbaAttention])
@pytest.mark.parametrize("window", [None, 1, 6, 100])
def test_decodes(backend, window):
    torch.manual_seed(0)
    lengths = [1, 4, 5, 23]
    cache = backend.cache_class(2, 40, BLOCK, KV_HEADS, DIM, torch.float32, torch.device("cpu"))
    tables = torch.randperm(40)[: 4 * 6].view(4, 6).int()
    at = torch.arange(23)
    slots = tables[:, at // BLOCK].long() * BLOCK + at % BLOCK
    context = torch.randn(2, 4, 23, KV_HEADS, DIM)
    for row, length in enumerate(lengths):
        cache.write(1, slots[row, :length], *context[:, row, :length])
    ends = torch.tensor(lengths) - 1
    key, value = context[:, torch.arange(4), ends]
    meta = AttentionMetadata(
        num_prefill_tokens=0,
        prefills=[],
        slot_mapping=slots[torch.arange(4), ends],
        decode_lengths=torch.tensor(lengths),
        block_tables=tables,
        block_size=BLOCK,
    )
    query = torch.randn(4, KV_HEADS * GROUP, DIM)
    got = backend().forward(1, query, key, value, cache, meta, window)
    for row, length in enumerate(lengths):
        want = by_hand(query[row], context[0, row, :length], context[1, row, :length], window)
        torch.testing.assert_close(got[row], want, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("window", [None, 2, 3])
def test_what_another_sequence_left_in_a_block_does_not_matter(window):
    torch.manual_seed(0)
    cache = NumbaAttention.cache_class(
        1, 2, BLOCK, KV_HEADS, DIM, torch.float32, torch.device("cpu")
    )
    context = torch.randn(2, 6, KV_HEADS, DIM)
    cache.write(0, torch.arange(6), *context)
    cache.keys[:, 1, ..., 2:] = cache.values[:, 1, :, 2:] = math.nan
    if window:
        cache.values[:, 0, :, : 6 - window] = math.nan
    meta = AttentionMetadata(
        num_prefill_tokens=0,
        prefills=[],
        slot_mapping=torch.tensor([5]),
        decode_lengths=torch.tensor([6]),
        block_tables=torch.tensor([[0, 1]], dtype=torch.int32),
        block_size=BLOCK,
    )
    query = torch.randn(1, KV_HEADS * GROUP, DIM)
    got = NumbaAttention().forward(0, query, *context[:, 5:], cache, meta, window)
    want = by_hand(query[0], *context, window)
    torch.testing.assert_close(got[0], want, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("window", [None, 3])
@pytest.mark.parametrize("earlier", [0, 5])
@pytest.mark.parametrize("backend", [TorchAttention, NumbaAttention])
def test_prefill_spans(window, earlier, backend):
    torch.manual_seed(0)
    total = earlier + 6
    cache = backend.cache_class(1, 8, BLOCK, KV_HEADS, DIM, torch.float32, torch.device("cpu"))
    blocks = torch.randperm(8)
    slots = (blocks[:, None] * BLOCK + torch.arange(BLOCK)).flatten()[:total]
    keys, values = torch.randn(2, total, KV_HEADS, DIM)
    cache.write(0, slots[:earlier], keys[:earlier], values[:earlier])
    meta = AttentionMetadata(
        num_prefill_tokens=6,
        prefills=[PrefillSpan(0, 6, total, slots)],
        slot_mapping=slots[earlier:],
        decode_lengths=torch.zeros(0, dtype=torch.long),
        block_tables=torch.zeros(0, 0, dtype=torch.int32),
        block_size=BLOCK,
    )
    query = torch.randn(6, KV_HEADS * GROUP, DIM)
    got = backend().forward(0, query, keys[earlier:], values[earlier:], cache, meta, window)
    for row in range(6):
        end = earlier + row + 1
        want = by_hand(query[row], keys[:end], values[:end], window)
        torch.testing.assert_close(got[row], want, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("growth", [1.5, 15.0, 40.0])
def test_scores_that_later_blocks_outgrow(growth):
    """Of a decode and of a prompt: sums of earlier blocks are brought down to the new highest."""
    total = 5 * BLOCK + 2
    cache = NumbaAttention.cache_class(
        1, 8, BLOCK, KV_HEADS, DIM, torch.float32, torch.device("cpu")
    )
    torch.manual_seed(0)
    query = torch.randn(total, KV_HEADS * GROUP, DIM)
    query += 1 - query.mean(-1, keepdim=True)  # each sums up to DIM
    # A score is growth x the block, apart from some noise.
    level = growth * (torch.arange(total) // BLOCK) / math.sqrt(DIM)
    keys = level[:, None, None] + torch.randn(total, KV_HEADS, DIM) / 8
    values = torch.randn(total, KV_HEADS, DIM)
    slots = (torch.randperm(8)[:, None] * BLOCK + torch.arange(BLOCK)).flatten()[:total]
    meta = AttentionMetadata(
        num_prefill_tokens=total,
        prefills=[PrefillSpan(0, total, total, slots)],
        slot_mapping=slots,
        decode_lengths=torch.zeros(0, dtype=torch.long),
        block_tables=torch.zeros(0, 0, dtype=torch.int32),
        block_size=BLOCK,
    )
    got = NumbaAttention().forward(0, query, keys, values, cache, meta, None)
    tops = (query[-1, 0] @ keys[:, 0].T / math.sqrt(DIM)).unflatten(0, (-1, 2)).amax(1)
    assert (tops[-1] - tops[1] > SLACK) == (growth > SLACK / 4)
    for row in range(total):
        want = by_hand(query[row], keys[: row + 1], values[: row + 1], None)
        torch.testing.assert_close(got[row], want, rtol=1e-4, atol=1e-4)  # of scores of 200


@intrinsic
def _exponential(typing, values, at):
    """values [8] from `at` on become e**values."""

    def generate(context, builder, signature, arguments):
        emit = VectorCode(context, builder, signature, arguments)
        place = emit.address(0)
        emit.store(emit.exponential(emit.load(place, 0, 8)), place, 0)
        return context.get_dummy_value()

    return types.void(values, at), generate


@numba.njit
def exponentials(values):
    for at in range(0, len(values), 8):
        _exponential(values, at)


def test_exponential_of_vectors():
    x = torch.linspace(-87, 88, 8000)
    got, want = x.clone(), x.double().exp()
    exponentials(got.numpy())
    assert ((got.double() - want) / want).abs().max() < 5e-7
    below = torch.tensor([-87.5, -1e3, -3e38] + [-100.0] * 5)
    exponentials(below.numpy())
    assert (below < 2e-38).all() and (below > 0).all()


def test_exponential():
    x = -torch.rand(2000, dtype=torch.float64) * 86
    got = torch.tensor([exp_of_negative(value) for value in x.float().numpy()], dtype=torch.float64)
    assert ((got - x.float().double().exp()) / x.exp()).abs().max() < 5e-7


def test_choice():
    cpu = torch.device("cpu")
    assert isinstance(choose_attention(torch.float32, cpu), NumbaAttention)
    assert isinstance(choose_attention(torch.bfloat16, cpu), TorchAttention)


@pytest.mark.parametrize(
    ("group", "dim", "block"), [(1, 64, 16), (8, 128, 32), (5, 80, 16), (14, 24, 8)]
)
def test_shapes_of_the_compiled_kernel(group, dim, block):
    torch.manual_seed(0)
    context = torch.randn(2, 3, 70, 2, dim)
    slots = torch.randperm(27)[:, None] * block + torch.arange(block)
    slots = slots.flatten()[: 3 * 9 * block].view(3, -1)[:, :70]
    cache = NumbaAttention.cache_class(1, 27, block, 2, dim, torch.float32, torch.device("cpu"))
    for row in range(3):
        cache.write(0, slots[row], *context[:, row])
    lengths = torch.tensor([70, 2 * block, 1])
    meta = AttentionMetadata(
        num_prefill_tokens=0,
        prefills=[],
        slot_mapping=slots[torch.arange(3), lengths - 1],
        decode_lengths=lengths,
        block_tables=(slots[:, ::block] // block).int(),
        block_size=block,
    )
    query = torch.randn(3, 2 * group, dim)
    last = context[:, torch.arange(3), lengths - 1]
    got = NumbaAttention().forward(0, query, *last, cache, meta, None)
    for row, length in enumerate(lengths):
        keys, values = context[:, row, :length].transpose(1, 2)  # [2, kv_heads, length, dim]
        heads = query[row].view(2, group, dim)
        want = torch.nn.functional.scaled_dot_product_attention(heads, keys, values)
        torch.testing.assert_close(got[row].view(2, group, dim), want, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", [KVCache, BlockKVCache, NumbaAttention.cache_class])
def test_a_cache_gives_back_what_was_written(kind):
    cache = kind(2, 6, BLOCK, KV_HEADS, DIM, torch.float32, torch.device("cpu"))
    slots = torch.randperm(6 * BLOCK)[:7]
    key, value = torch.randn(2, 7, KV_HEADS, DIM)
    cache.write(1, slots, key, value)
    keys, values = cache.read(1, slots[2:])
    assert keys.equal(key[2:].transpose(0, 1)) and values.equal(value[2:].transpose(0, 1))
    assert not cache.read(0, slots)[0].any()
