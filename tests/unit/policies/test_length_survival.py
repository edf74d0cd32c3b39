"""Remaining lengths learned from requests that end, and from those that do not."""

import random

import pytest

from factories import make_request
from tdpipe.core.request import FinishReason
from tdpipe.policies.length_survival import NUM_BINS, LengthSurvival, class_of, moved
from tdpipe.prediction.length_predictor import QUANTILE_SHARES


def run_for(requests, lengths, steps):
    """Every request generates `steps` tokens in all, or its length if that is less."""
    for request, length in zip(requests, lengths, strict=True):
        request.output_token_ids[:] = [1] * min(steps, length)
        if steps >= length:
            request.finish_reason = FinishReason.STOP


def lognormal(mean, deviation, number, seed=0):
    """Lengths spread by so many doublings around half their mean."""
    source = random.Random(seed)
    return [max(1, round(mean / 2 * 2 ** source.gauss(0, deviation))) for _ in range(number)]


def cut_forecasts(lengths, most, quantiles=()):
    """A survival that has seen nothing end; all forecasts are the mean of the cut lengths."""
    mean = round(sum(min(one, most) for one in lengths) / len(lengths))
    survival = LengthSurvival()
    requests = []
    for index in range(len(lengths)):
        request = make_request(index, 10, mean, max_tokens=most)
        request.length_quantiles = quantiles
        survival.follow(request)
        requests.append(request)
    survival.learn()
    return survival, requests


def remaining(survival, requests):
    return sum(survival.remaining(one) for one in requests if one.finish_reason is None)


def followed(predicted, lengths):
    requests = [
        make_request(i, 10, n, max_tokens=100_000) for i, n in enumerate(predicted(lengths))
    ]
    survival = LengthSurvival()
    for request in requests:
        survival.follow(request)
    return requests, survival


def lognormal_lengths(count, seed=0):
    source = random.Random(seed)
    return [1 + int(source.lognormvariate(5, 0.8)) for _ in range(count)]


def test_forecasts_are_believed_at_first():
    survival = LengthSurvival()
    requests = [make_request(i, 10, 200, max_tokens=10_000) for i in range(500)]
    assert remaining(survival, requests) / 500 == pytest.approx(200, rel=0.1)


def test_the_sum_is_right_although_all_forecasts_are_half_the_truth():
    lengths = lognormal_lengths(2000)
    requests, survival = followed(lambda true: [max(1, n // 2) for n in true], lengths)
    run_for(requests, lengths, 200)
    survival.learn()
    alive = [n - 200 for n in lengths if n > 200]
    forecasts = sum(one.predicted_remaining for one in requests if one.finish_reason is None)
    assert forecasts < 0.5 * sum(alive)
    assert remaining(survival, requests) == pytest.approx(sum(alive), rel=0.2)


def test_forecasts_that_are_right_stay_sharp():
    lengths = lognormal_lengths(2000)
    requests, survival = followed(lambda true: true, lengths)
    run_for(requests, lengths, 100)
    survival.learn()
    errors = [
        abs(survival.remaining(one) + 100 - n) / n
        for one, n in zip(requests, lengths, strict=True)
        if n > 100
    ]
    assert sum(errors) / len(errors) < 0.12


def test_who_outlives_everything_known_goes_on_up_to_its_limit():
    survival = LengthSurvival()
    old = make_request(0, 10, 10, max_tokens=700)
    old.output_token_ids[:] = [1] * 699
    assert survival.remaining(old) == 1
    old.output_token_ids[:] = [1] * 300
    assert 1 <= survival.remaining(old) <= 400


def test_aborted_requests_teach_nothing():
    requests, survival = followed(lambda true: [100] * len(true), [10] * 50)
    before = survival.mean_ratio(class_of(100), 100_000)
    for request in requests:
        request.output_token_ids[:] = [1] * 10
        request.finish_reason = FinishReason.ABORT
    survival.learn()
    assert survival.mean_ratio(class_of(100), 100_000) == before


def test_overhang_of_a_class_falls_with_the_rounds_left():
    survival = LengthSurvival()
    key = class_of(200)
    tokens = [
        survival.tokens_until(key, overhang, 100_000) for overhang in (1000.0, 100.0, 10.0, 1.0)
    ]
    assert tokens == sorted(tokens) and tokens[0] == 0.0
    # Forecasts are right within a quarter of a doubling: little is to come after 1.5 x 200.
    assert 200 < tokens[2] < 700


@pytest.mark.parametrize("forecast", [100, 300, 450, 512])
def test_what_is_believed_at_first_keeps_the_forecast_as_the_mean_of_the_cut_length(forecast):
    requests = [make_request(i, 10, forecast, max_tokens=512) for i in range(200)]
    for survival in (LengthSurvival(), followed(lambda true: [forecast] * 9, [600] * 9)[1]):
        expected = remaining(survival, requests) / len(requests)
        assert 0.9 * forecast < expected < 1.1 * forecast
    assert max(LengthSurvival().remaining(one) for one in requests) <= 512


def test_forecasts_tell_how_wide_they_are():
    lengths = sorted(lognormal(400, 1.5, 400))
    told = tuple(min(512, lengths[int(share * len(lengths))]) for share in QUANTILE_SHARES)
    wide, requests = cut_forecasts(lengths, 512, told)
    narrow, _ = cut_forecasts(lengths, 512)
    for request in requests:
        request.output_token_ids[:] = [1] * 300  # all have outlived the forecast
    true = [min(512, one) - 300 for one in lengths if one > 300]
    mean = sum(true) / len(true)
    assert remaining(wide, requests) / len(requests) > 0.8 * mean
    assert remaining(narrow, requests) / len(requests) < 0.7 * mean


def test_a_preempted_request_tells_its_width_once():
    beliefs = []
    for times_admitted in (1, 9):
        survival = LengthSurvival()
        narrow, wide = (make_request(index, 10, 100, max_tokens=100_000) for index in range(2))
        narrow.length_quantiles = (100,) * len(QUANTILE_SHARES)
        wide.length_quantiles = tuple(2**index for index in range(len(QUANTILE_SHARES)))
        for request in (narrow, *[wide] * times_admitted):
            survival.follow(request)
        survival.learn()
        beliefs.append(survival.tokens_outlived_by(0.05, class_of(100), 100_000))
    assert beliefs[0] == beliefs[1]


def test_requests_that_are_cut_were_alive_there():
    requests, survival = followed(lambda true: [200] * len(true), [200] * 100)
    for request in requests:
        request.output_token_ids[:] = [1] * 200
        request.finish_reason = FinishReason.LENGTH
    survival.learn()
    later = [make_request(1000 + i, 10, 200, max_tokens=200) for i in range(100)]
    assert remaining(survival, later) > 0.98 * 200 * len(later)


@pytest.mark.parametrize("shift", [-3, 0, 5])
def test_moved_counts_keep_their_number(shift):
    counts = [float(index % 7) for index in range(NUM_BINS)]
    there = moved(counts, shift)
    assert len(there) == NUM_BINS and sum(there) == sum(counts)
    assert there[40 + shift] == counts[40]
