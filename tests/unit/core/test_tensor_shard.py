"""Every head, column and vocabulary row is some rank's, whatever the number of ranks."""

from itertools import pairwise

import pytest

from tdpipe.core.errors import ConfigError
from tdpipe.core.model_shape import ModelShape
from tdpipe.core.tensor_shard import (
    check_tensor_parallel,
    most_heads,
    rank_kv_values,
    tensor_shards,
)

EMBEDDED = ModelShape(30, 576, 1536, 9, 3, 64, 49152, True)


def shape(heads, kv_heads, columns=1536, vocab=1001):
    return ModelShape(2, heads * 16, columns, heads, kv_heads, 16, vocab, False)


def covers(shares):
    assert shares[0].start == 0 and shares[-1].stop == shares[0].whole
    assert all(one.stop == two.start for one, two in pairwise(shares))
    assert all(share.size > 0 for share in shares)


@pytest.mark.parametrize(("heads", "kv_heads"), [(9, 3), (8, 8), (8, 1), (12, 4), (32, 8), (7, 7)])
def test_the_ranks_hold_everything_once(heads, kv_heads):
    for num_ranks in range(1, heads + 1):
        shards = tensor_shards(shape(heads, kv_heads), num_ranks)
        assert [one.rank for one in shards] == list(range(num_ranks))
        for part in ("heads", "columns", "vocab"):
            covers([getattr(one, part) for one in shards])
        for one in shards:
            # Query heads of a rank have their KV heads there, as many to each.
            assert one.heads.size % one.kv_heads.size == 0
            group = heads // kv_heads
            assert one.heads.start // group == one.kv_heads.start
            assert (one.heads.stop - 1) // group == one.kv_heads.stop - 1
        assert {kv for one in shards for kv in range(one.kv_heads.start, one.kv_heads.stop)} == set(
            range(kv_heads)
        )
        model = shape(heads, kv_heads)
        most_kv = max(one.kv_heads.size for one in shards)
        assert rank_kv_values(model, num_ranks) == 2 * most_kv * model.head_dim
        assert most_heads(model, num_ranks) == max(one.heads.size for one in shards)


def test_the_embedded_model_on_two_ranks():
    """6 and 3 heads: the rank with fewer has more of the MLP, in groups of 16 columns."""
    one, two = tensor_shards(EMBEDDED, 2)
    assert (one.heads.size, two.heads.size) == (6, 3)
    assert (one.kv_heads.size, two.kv_heads.size) == (2, 1)
    assert (one.columns.size, two.columns.size) == (688, 848)

    def weights(shard):
        attention = 2 * 576 * 64 * (shard.heads.size + shard.kv_heads.size)
        return attention + 3 * 576 * shard.columns.size

    assert weights(one) + weights(two) == EMBEDDED.layer_params
    assert abs(weights(one) - weights(two)) < 0.02 * EMBEDDED.layer_params


def test_few_columns_are_left_to_no_rank_alone():
    """Attention outweighs the MLP: still each rank has a column."""
    covers([one.columns for one in tensor_shards(shape(5, 5, columns=7), 4)])


@pytest.mark.parametrize("num_ranks", [0, 10])
def test_more_ranks_than_heads(num_ranks):
    with pytest.raises(ConfigError, match="use 1 to 9, the model's attention heads"):
        check_tensor_parallel(EMBEDDED, num_ranks)
