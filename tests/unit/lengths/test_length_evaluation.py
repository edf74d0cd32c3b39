"""Figures of forecasts."""

import numpy as np
import pytest

from tdpipe.lengths.length_evaluation import (
    class_edges,
    evaluate,
    forecast_class,
    length_class,
    prompts_of,
)
from tdpipe.lengths.length_table import LengthRecord
from tdpipe.prediction.length_predictor import LengthForecast
from tdpipe.prediction.max_tokens import MaxTokensPredictor

RECORDS = [LengthRecord(f"{i}", (i,), 1 + i % 100, "stop", 200) for i in range(300)]
EDGES = class_edges([one.output_tokens for one in RECORDS])


def test_classes_are_the_papers():
    assert EDGES == (26, 51, 76, 100)
    assert [length_class(EDGES, n) for n in (1, 26, 27, 76, 77, 100, 101)] == [0, 0, 1, 2, 3, 3, 4]
    assert forecast_class(EDGES, LengthForecast(90, 90, (1, 2, 3, 60, 99, 99))) == 0
    assert forecast_class(EDGES, LengthForecast(90, 90)) == 3
    assert class_edges([5]) == (5, 5, 5, 5)


def test_the_truth_is_without_error():
    told = [LengthForecast(one.output_tokens, one.output_tokens) for one in RECORDS]
    figures = evaluate(told, RECORDS, EDGES).figures()
    assert figures["class_accuracy"] == figures["mean_class_accuracy"] == 1.0
    assert figures["p90_coverage"] == 1.0 and figures["mean_error_tokens"] == 0.0
    assert figures["sum_error_256"] == figures["sum_error_256_p95"] == 0.0


def test_the_limit_is_far_off():
    metrics = evaluate(MaxTokensPredictor().predict(prompts_of(RECORDS)), RECORDS, EDGES)
    assert metrics.class_accuracy == 0.0
    assert metrics.mean_error_tokens == pytest.approx(200 - 50.5)
    assert metrics.group_errors[256][0] == pytest.approx(200 / 50.5 - 1, rel=0.01)


def test_groups_even_out_and_are_drawn_alike():
    noise = np.random.default_rng(0).integers(-40, 41, len(RECORDS))
    told = [
        LengthForecast(max(1, one.output_tokens + int(n)), 200)
        for one, n in zip(RECORDS, noise, strict=True)
    ]
    errors = evaluate(told, RECORDS, EDGES).group_errors
    assert errors[16][0] > errors[64][0] > errors[256][0] > 0
    assert errors == evaluate(told, RECORDS, EDGES).group_errors
    assert list(evaluate(told[:20], RECORDS[:20], EDGES).group_errors) == [16]
