"""The three simple predictors."""

import pytest

from tdpipe.core.errors import ConfigError
from tdpipe.prediction.constant import ConstantPredictor
from tdpipe.prediction.length_predictor import Prompt
from tdpipe.prediction.max_tokens import MaxTokensPredictor
from tdpipe.prediction.oracle import OraclePredictor

PROMPTS = [Prompt(0, (1, 2), 10), Prompt(1, (3,), 500)]


def means(predictor):
    return [forecast.mean_tokens for forecast in predictor.predict(PROMPTS)]


def test_means():
    assert means(MaxTokensPredictor()) == [10, 500]
    assert means(ConstantPredictor(60)) == [10, 60]
    assert means(OraclePredictor([7, 0])) == [7, 1]


def test_oracle_without_an_answer():
    with pytest.raises(ConfigError, match="at least 2 requests"):
        OraclePredictor([7]).predict(PROMPTS)


def test_constant_below_one():
    with pytest.raises(ConfigError, match="constant:0"):
        ConstantPredictor(0)
