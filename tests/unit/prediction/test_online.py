"""Learning lengths from the run: survival curves by hand, and against simulated requests."""

import random
from statistics import fmean

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tdpipe.prediction.length_predictor import LearningPredictor, Prompt
from tdpipe.prediction.online import OnlinePredictor

LENGTHS = st.lists(st.integers(1, 400), max_size=30)


def mean_of(predictor, max_tokens=100):
    (forecast,) = predictor.predict([Prompt(0, (1,), max_tokens)])
    return forecast.mean_tokens


def test_it_is_a_learning_predictor():
    assert isinstance(OnlinePredictor(), LearningPredictor)


def test_before_anything_ended_it_is_max_tokens():
    predictor = OnlinePredictor()
    assert predictor.predict([]) == []
    (forecast,) = predictor.predict([Prompt(0, (1,), 70)])
    assert (forecast.mean_tokens, forecast.p90_tokens) == (70, 70)
    predictor.learn([], [], [5, 6])
    assert mean_of(predictor) == 100 and predictor.outlived(30, 100) == 100


def test_all_have_ended():
    predictor = OnlinePredictor()
    predictor.learn([10, 10, 20, 40], [], [])
    assert mean_of(predictor) == 20
    assert mean_of(predictor, max_tokens=20) == 15
    (forecast,) = predictor.predict([Prompt(0, (1,), 100)])
    assert forecast.quantiles == (10,) * 5 + (20, 20, 20, 40, 40)
    # Of the two that came beyond 10, one ends at 20 and one at 40.
    assert predictor.outlived(10, 100) == 30
    assert predictor.outlived(20, 100) == 40
    assert 41 <= predictor.outlived(50, 100) <= 100
    assert predictor.outlived(99, 100) == 100


def test_running_requests_count_as_longer():
    """Two of four ended at 10; the others came to 20; of 60 tokens, 2 were ends."""
    predictor = OnlinePredictor()
    predictor.learn([10, 10], [], [20, 20])
    # Half of them go on after 20, and end with a chance of 2 / 60 a token.
    assert mean_of(predictor, max_tokens=10_000) == 10 + round(0.5 * 10 + 0.5 * 30)
    assert mean_of(predictor) > 20


def test_requests_cut_by_the_limit_did_not_end():
    ended, cut = OnlinePredictor(), OnlinePredictor()
    ended.learn([10, 50, 50], [], [])
    cut.learn([10], [50, 50], [])
    assert mean_of(cut, max_tokens=500) > mean_of(ended, max_tokens=500)
    assert mean_of(cut, max_tokens=50) == mean_of(ended, max_tokens=50)


@given(stopped=LENGTHS, cut=LENGTHS, alive=LENGTHS, limit=st.integers(1, 500))
def test_forecasts_stay_in_their_range(stopped, cut, alive, limit):
    predictor = OnlinePredictor()
    predictor.learn(stopped, cut, alive)
    (forecast,) = predictor.predict([Prompt(0, (1,), limit)])
    assert 1 <= forecast.mean_tokens <= limit and 1 <= forecast.p90_tokens <= limit
    assert list(forecast.quantiles) == sorted(forecast.quantiles)
    for generated in range(limit):
        assert generated < predictor.outlived(generated, limit) <= limit


@pytest.mark.parametrize(("seen", "most"), [(40, 2.0), (150, 1.1)])
def test_a_young_run_does_not_mislead(seen, most):
    """Of 2000 requests that run side by side, those that ended within `seen` tokens are short."""
    source = random.Random(1)
    lengths = [min(1000, 1 + int(source.lognormvariate(4.5, 0.8))) for _ in range(2000)]
    stopped = [length for length in lengths if length <= seen]
    predictor = OnlinePredictor()
    predictor.learn(stopped, [], [seen] * (len(lengths) - len(stopped)))
    true_mean = fmean(lengths)
    assert 0.95 < mean_of(predictor, 1000) / true_mean < most
    assert fmean(stopped) < 0.7 * true_mean
