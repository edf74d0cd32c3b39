"""The noisy predictor is as accurate as asked for, and its sums are close."""

import pytest

from tdpipe.core.errors import ConfigError
from tdpipe.prediction.bucket_noise import BucketNoisePredictor
from tdpipe.prediction.length_predictor import Prompt
from tdpipe.simulation.workload import lognormal_lengths

LENGTHS = [output for _, output in lognormal_lengths(2000, 100, 150, longest=2000)]
PROMPTS = [Prompt(i, (1,), 4096) for i in range(len(LENGTHS))]


def means(predictor):
    return [forecast.mean_tokens for forecast in predictor.predict(PROMPTS)]


def test_accuracy():
    exact = means(BucketNoisePredictor(LENGTHS, 1.0))
    assert len(set(exact)) == 5
    noisy = means(BucketNoisePredictor(LENGTHS, 0.58, seed=3))
    right = sum(a == b for a, b in zip(exact, noisy, strict=True)) / len(LENGTHS)
    assert right == pytest.approx(0.58, abs=0.03)
    assert means(BucketNoisePredictor(LENGTHS, 0.58, seed=3)) == noisy
    assert sum(exact) == pytest.approx(sum(LENGTHS), rel=0.01)


def test_few_distinct_lengths():
    predictor = BucketNoisePredictor([5, 5, 5], 1.0)
    assert [forecast.mean_tokens for forecast in predictor.predict(PROMPTS[:3])] == [5, 5, 5]


def test_bad_settings():
    with pytest.raises(ConfigError, match="accuracy"):
        BucketNoisePredictor([1], 1.5)
    with pytest.raises(ConfigError, match="true lengths"):
        BucketNoisePredictor([])
