"""Features of prompts: rows do not depend on each other, and stay small for long prompts."""

import time

import numpy as np
import pytest

from tdpipe.lengths.prompt_features import END_TOKENS, NUM_BUCKETS, NUM_SHAPE, prompt_features


def dense(features):
    rows = np.zeros((len(features.shape), NUM_BUCKETS))
    np.add.at(rows, (features.rows, features.buckets), features.values)
    return rows


def test_rows_are_those_of_each_prompt_alone():
    draws = np.random.default_rng(0)
    prompts = [tuple(draws.integers(0, 150_000, n).tolist()) for n in (1, 7, 0, 40, 2)]
    together = prompt_features(prompts)
    for index, prompt in enumerate(prompts):
        alone = prompt_features([prompt])
        assert dense(together)[index] == pytest.approx(dense(alone)[0])
        assert together.shape[index] == pytest.approx(alone.shape[0])
    assert np.linalg.norm(dense(together), axis=1) == pytest.approx([1, 1, 0, 1, 1])


def test_order_and_counts_matter():
    rows = dense(prompt_features([(5, 6, 7), (7, 6, 5), (5, 6, 7, 5, 6, 7)]))
    assert not np.allclose(rows[0], rows[1]) and not np.allclose(rows[0], rows[2])
    assert rows[0] @ rows[1] > 0.5 and rows[0] @ rows[2] > rows[0] @ rows[1]


def test_dot_is_the_product():
    draws = np.random.default_rng(1)
    features = prompt_features([(1, 2, 3), (), (4, 4, 4, 4)])
    weights, shape_weights = draws.normal(size=NUM_BUCKETS), draws.normal(size=NUM_SHAPE)
    wanted = dense(features) @ weights + features.shape @ shape_weights
    assert features.dot(weights, shape_weights) == pytest.approx(wanted)


def test_nothing_gives_nothing():
    features = prompt_features([])
    assert features.shape.shape == (0, NUM_SHAPE)
    assert features.dot(np.zeros(NUM_BUCKETS), np.zeros(NUM_SHAPE)).shape == (0,)


def test_long_prompts_cost_no_more_than_their_ends():
    middle = list(range(1000, 101_000))
    one, other = [*range(END_TOKENS), *middle, *range(END_TOKENS)], None
    other = [*range(END_TOKENS), *reversed(middle), *range(END_TOKENS)]
    features = prompt_features([one, other])
    assert len(features.values) <= 2 * 4 * END_TOKENS
    assert (dense(features)[0] == dense(features)[1]).all()
    started_s = time.process_time()
    for _ in range(20):
        prompt_features([one])
    assert time.process_time() - started_s < 1.0
