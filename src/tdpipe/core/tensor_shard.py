"""What each tensor-parallel rank of a stage holds: attention heads, MLP columns, vocabulary rows.

Column-split projections (queries, keys, values, gate, up) give each rank its own heads and columns,
row-split ones (output, down) a summand of the result (Megatron-LM, arXiv:1909.08053). Counts need
not divide: a rank that gets fewer heads gets more MLP columns, so that all hold as many weights.
"""

from dataclasses import dataclass
from itertools import pairwise

from tdpipe.core.errors import ConfigError
from tdpipe.core.model_shape import ModelShape

# MLP columns go in such groups where there are enough: matrix kernels work on as many at a time.
COLUMNS = 16


@dataclass(frozen=True, slots=True)
class Share:
    """start .. stop - 1 of `whole`."""

    start: int
    stop: int
    whole: int

    @property
    def size(self) -> int:
        return self.stop - self.start


@dataclass(frozen=True, slots=True)
class TensorShard:
    """One rank's share of each layer, and of the embedding and the vocabulary projection.

    `heads` are whole groups of a KV head each, or part of the group of one KV head that other
    ranks hold as well.
    """

    rank: int
    heads: Share
    kv_heads: Share
    columns: Share
    vocab: Share


def tensor_shards(shape: ModelShape, num_ranks: int) -> list[TensorShard]:
    """The shares of all ranks, in order.

    Raises:
        ConfigError: there are more ranks than heads.
    """
    check_tensor_parallel(shape, num_ranks)
    heads, kv_heads = _head_shares(shape, num_ranks)
    columns = _column_shares(shape, heads, kv_heads)
    vocab = _even_shares(shape.vocab_size, num_ranks)
    return [
        TensorShard(rank, *shares)
        for rank, shares in enumerate(zip(heads, kv_heads, columns, vocab, strict=True))
    ]


def check_tensor_parallel(shape: ModelShape, num_ranks: int) -> None:
    """Refuse more ranks than the model has heads.

    Raises:
        ConfigError: each rank needs at least one.
    """
    if not 1 <= num_ranks <= shape.num_heads:
        fix = f"use 1 to {shape.num_heads}, the model's attention heads"
        raise ConfigError("tensor_parallel_size", num_ranks, fix)


def rank_kv_values(shape: ModelShape, num_ranks: int) -> int:
    """Numbers that a token stores in one layer's KV cache, on the rank that holds most heads."""
    return 2 * -(-shape.num_kv_heads // num_ranks) * shape.head_dim


def most_heads(shape: ModelShape, num_ranks: int) -> int:
    """Query heads of the rank that holds most."""
    return max(share.size for share in _head_shares(shape, num_ranks)[0])


def _head_shares(shape: ModelShape, num_ranks: int) -> tuple[list[Share], list[Share]]:
    """Of query heads and of KV heads; beyond one rank a KV head, ranks share one."""
    num_kv, group = shape.num_kv_heads, shape.num_heads // shape.num_kv_heads
    if num_ranks <= num_kv:
        kv_shares = _even_shares(num_kv, num_ranks)
        heads = [Share(s.start * group, s.stop * group, shape.num_heads) for s in kv_shares]
        return heads, kv_shares
    heads, kv_shares = [], []
    for kv_head, ranks in enumerate(_even_shares(num_ranks, num_kv)):
        for part in _even_shares(group, ranks.size):
            first = kv_head * group
            heads.append(Share(first + part.start, first + part.stop, shape.num_heads))
            kv_shares.append(Share(kv_head, kv_head + 1, num_kv))
    return heads, kv_shares


def _column_shares(shape: ModelShape, heads: list[Share], kv_heads: list[Share]) -> list[Share]:
    """MLP columns, so many that each rank holds about the same number of weights."""
    count, whole = len(heads), shape.intermediate_size
    unit = COLUMNS if whole % COLUMNS == 0 and whole >= 4 * COLUMNS * count else 1
    # A column has a weight of gate, of up and of down for each hidden dimension; a query head has
    # its own and the output's for each of its dimensions, a KV head a key's and a value's.
    in_columns = [
        2 * (query.size + kv.size) * shape.head_dim / 3
        for query, kv in zip(heads, kv_heads, strict=True)
    ]
    even = (whole + sum(in_columns)) / count
    wanted = [max(unit, even - attention) for attention in in_columns]
    ends, total = [0], 0.0
    for rank, columns in enumerate(wanted):
        total += columns
        least = ends[-1] + unit  # no rank without any
        most = whole - (count - 1 - rank) * unit
        end = round(whole * total / sum(wanted) / unit) * unit
        ends.append(min(max(end, least), most))
    return [Share(start, stop, whole) for start, stop in pairwise(ends)]


def _even_shares(whole: int, count: int) -> list[Share]:
    """Shares that differ by one at most, the larger ones first."""
    least, extra = divmod(whole, count)
    starts = [rank * least + min(rank, extra) for rank in range(count + 1)]
    return [Share(start, stop, whole) for start, stop in pairwise(starts)]
