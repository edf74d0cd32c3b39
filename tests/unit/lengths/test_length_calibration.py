"""From scores to lengths: unbiased sums, promised coverage, cut outputs, other limits."""

import numpy as np
import pytest

from tdpipe.lengths.length_bins import LengthBins, uncut_lengths
from tdpipe.lengths.length_calibration import fit_calibration
from tdpipe.prediction.length_predictor import QUANTILE_SHARES

LIMIT = 512


def drawn(count, seed, limit=LIMIT):
    """Scores that tell something, lengths of which a part is cut."""
    draws = np.random.default_rng(seed)
    scores = draws.normal(size=count)
    whole = np.ceil(np.exp(4.9 + 0.8 * scores + 0.7 * draws.normal(size=count)))
    lengths = np.minimum(whole, limit).astype(np.int64)
    return scores, lengths, np.full(count, limit), whole > limit


def test_sums_are_unbiased_and_coverage_is_kept():
    fitted = fit_calibration(*drawn(1500, 0))
    scores, lengths, limits, was_cut = drawn(6000, 1)
    assert 0.1 < was_cut.mean() < 0.3
    forecasts = fitted.bins.forecasts(fitted.bins_of(scores), limits.tolist())
    means = np.array([one.mean_tokens for one in forecasts])
    assert means.sum() == pytest.approx(lengths.sum(), rel=0.03)
    low = scores < np.median(scores)
    assert means[low].sum() == pytest.approx(lengths[low].sum(), rel=0.06)
    assert np.abs(means - lengths).mean() < 0.8 * np.abs(lengths.mean() - lengths).mean()
    p90 = np.array([one.p90_tokens for one in forecasts])
    assert 0.88 < (lengths <= p90).mean() < 0.92
    for column, share in enumerate(QUANTILE_SHARES):
        points = np.array([one.quantiles[column] for one in forecasts])
        below, within = (lengths < points).mean(), (lengths <= points).mean()
        assert below - 0.03 < share < within + 0.03
    for one in forecasts:
        assert list(one.quantiles) == sorted(one.quantiles)
        assert one.quantiles[0] >= 1 and max(*one.quantiles, one.mean_tokens) <= LIMIT


@pytest.mark.parametrize("limit", [1, 20, 200, 1024, 4096])
def test_other_limits_than_those_of_the_table(limit):
    fitted = fit_calibration(*drawn(3000, 0))
    scores, lengths, limits, _ = drawn(4000, 2, limit)
    forecasts = fitted.bins.forecasts(fitted.bins_of(scores), limits.tolist())
    sums = sum(one.mean_tokens for one in forecasts)
    # Beyond the table's limit nothing is known but that outputs went on.
    assert sums == pytest.approx(lengths.sum(), rel=0.04 if limit <= LIMIT else 0.25)
    assert all(1 <= one.mean_tokens <= limit and one.p90_tokens <= limit for one in forecasts)


@pytest.mark.parametrize("count", [1, 2, 9, 31])
def test_few_prompts(count):
    fitted = fit_calibration(*drawn(count, 3))
    bins = fitted.bins_of(np.array([-9.0, 0.0, 9.0]))
    assert all(0 <= index < len(fitted.bins.samples) for index in bins)
    assert fitted.bins.forecasts(bins, [LIMIT] * 3)[0].mean_tokens >= 1


def test_equal_scores_give_the_mean_of_all():
    _, lengths, limits, was_cut = drawn(2000, 4)
    order = np.argsort(lengths)
    fitted = fit_calibration(np.zeros(2000), lengths[order], limits, was_cut[order])
    (one,) = fitted.bins.forecasts(fitted.bins_of(np.zeros(1)), [LIMIT])
    assert one.mean_tokens == pytest.approx(lengths.mean(), rel=0.15)


def test_outputs_that_all_run_to_the_limit():
    limits = np.full(100, 64)
    fitted = fit_calibration(np.arange(100.0), limits, limits, np.ones(100, bool))
    (one,) = fitted.bins.forecasts(fitted.bins_of(np.array([50.0])), [64])
    assert (one.mean_tokens, one.p90_tokens, set(one.quantiles)) == (64, 64, {64})


def test_cut_outputs_go_on_and_others_stay():
    lengths = np.array([10, 64, 64, 40, 32, 32])
    limits = np.array([64, 64, 64, 64, 32, 64])
    was_cut = np.array([False, True, True, False, True, False])
    drawn_on = uncut_lengths(lengths, limits, was_cut)
    assert drawn_on[[0, 3, 5]].tolist() == [10, 40, 32]
    assert (drawn_on[[1, 2]] > 64).all() and drawn_on[4] > 32


def test_no_prompts_no_forecasts():
    assert LengthBins(np.ones((1, 4)), 0.9).forecasts(np.empty(0, np.int64), []) == []
