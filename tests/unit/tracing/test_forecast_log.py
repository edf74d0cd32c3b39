"""Forecast against truth: sums of all requests, pairs of a bounded sample of them."""

import itertools

import pytest

from tdpipe.tracing.forecast_log import ForecastLog


def test_accuracy():
    log = ForecastLog()
    assert log.accuracy() is None and log.pairs() == []
    for pair in ((10, 20), (50, 10), (30, 30), (41, 20)):
        log.add(*pair)
    accuracy = log.accuracy()
    assert (accuracy.num_requests, accuracy.mean_forecast, accuracy.mean_actual) == (4, 32.75, 20)
    assert accuracy.mean_error == pytest.approx(12.75)
    assert accuracy.mean_absolute_error == pytest.approx((10 + 40 + 0 + 21) / 4)
    assert accuracy.within_double == 0.5


def test_the_sample_is_bounded_and_even():
    log = ForecastLog(most_pairs=8)
    for index in range(100):
        log.add(index, 2 * index)
    forecasts = [forecast for forecast, _ in log.pairs()]
    assert 4 <= len(forecasts) <= 8
    steps = {after - before for before, after in itertools.pairwise(forecasts)}
    assert steps == {16} and forecasts[0] == 0
    assert log.accuracy().num_requests == 100 and log.sum_actual == 9900


def test_as_plain_values_and_back():
    log = ForecastLog()
    for index in range(20):
        log.add(index, 3)
    again = ForecastLog.from_dict(log.as_dict())
    assert again.accuracy() == log.accuracy() and again.pairs() == log.pairs()
    with pytest.raises(KeyError):
        ForecastLog.from_dict({})
