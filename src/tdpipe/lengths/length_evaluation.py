"""How good forecasts of output lengths are, against the lengths that came."""

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tdpipe.lengths.length_table import LengthRecord
from tdpipe.prediction.length_predictor import LengthForecast, Prompt

# Classes as in the paper: cut at these quantiles of the training lengths.
CLASS_CUTS = (0.25, 0.50, 0.75, 0.99)
GROUP_SIZES = (16, 64, 256)
NUM_GROUPS = 1000


@dataclass(frozen=True, slots=True)
class LengthMetrics:
    """Figures of one predictor; shares are from 0 to 1.

    Attributes:
        num_prompts: how many were forecast.
        class_accuracy: right classes, of those that the predictor names, or else of the class that
            holds most of the forecast's quantiles.
        mean_class_accuracy: right classes, of the class of mean_tokens.
        mean_error_tokens: mean of |mean_tokens - length|.
        group_errors: group size -> (mean, 95 % quantile) of |sum forecast - sum| / sum over random
            groups of that many prompts; sizes beyond the number of prompts are left out.
        p90_coverage: lengths within p90_tokens.
    """

    num_prompts: int
    class_accuracy: float
    mean_class_accuracy: float
    mean_error_tokens: float
    group_errors: dict[int, tuple[float, float]]
    p90_coverage: float

    def figures(self) -> dict[str, float]:
        """By name, for files and JSON."""
        groups: dict[str, float] = {}
        for size, (mean, p95) in self.group_errors.items():
            groups |= {f"sum_error_{size}": mean, f"sum_error_{size}_p95": p95}
        return {
            "num_prompts": self.num_prompts,
            "class_accuracy": self.class_accuracy,
            "mean_class_accuracy": self.mean_class_accuracy,
            "mean_error_tokens": self.mean_error_tokens,
            **groups,
            "p90_coverage": self.p90_coverage,
        }


def class_edges(lengths: Sequence[int]) -> tuple[int, ...]:
    """The longest length of each class but the last, of at least one length."""
    ordered = sorted(lengths)
    return tuple(ordered[min(len(ordered) - 1, int(cut * len(ordered)))] for cut in CLASS_CUTS)


def length_class(edges: Sequence[int], length: int) -> int:
    """0 for the shortest to len(edges) for the longest."""
    return bisect_left(edges, length)


def forecast_class(edges: Sequence[int], forecast: LengthForecast) -> int:
    """The class with most of the forecast's quantiles; that of its mean where it has none."""
    points = forecast.quantiles or (forecast.mean_tokens,)
    classes = [length_class(edges, point) for point in points]
    return max(classes, key=classes.count)


def prompts_of(records: Sequence[LengthRecord]) -> list[Prompt]:
    """What a predictor is asked; request ids count from 0."""
    return [Prompt(i, one.token_ids, one.max_tokens) for i, one in enumerate(records)]


def evaluate(
    forecasts: Sequence[LengthForecast],
    records: Sequence[LengthRecord],
    edges: Sequence[int],
    named: Sequence[int] | None = None,
) -> LengthMetrics:
    """Hold forecasts against records, one each and at least one, in classes cut at `edges`.

    `named` are the classes that the predictor itself names, where it does.
    """
    assert len(forecasts) == len(records) > 0
    truths = [record.output_tokens for record in records]
    classes = [length_class(edges, truth) for truth in truths]
    means = np.array([forecast.mean_tokens for forecast in forecasts], np.float64)
    lengths = np.array(truths, np.float64)
    p90 = np.array([forecast.p90_tokens for forecast in forecasts])
    told = named or [forecast_class(edges, forecast) for forecast in forecasts]
    of_means = [length_class(edges, forecast.mean_tokens) for forecast in forecasts]
    return LengthMetrics(
        num_prompts=len(records),
        class_accuracy=_share_equal(told, classes),
        mean_class_accuracy=_share_equal(of_means, classes),
        mean_error_tokens=float(np.abs(means - lengths).mean()),
        group_errors=_group_errors(means, lengths),
        p90_coverage=float((lengths <= p90).mean()),
    )


def _share_equal(one: Sequence[int], other: Sequence[int]) -> float:
    return sum(a == b for a, b in zip(one, other, strict=True)) / len(one)


def _group_errors(
    means: npt.NDArray[np.float64], lengths: npt.NDArray[np.float64]
) -> dict[int, tuple[float, float]]:
    """Errors of sums over NUM_GROUPS groups of each size, drawn without putting back."""
    draws = np.random.default_rng(0)
    errors = {}
    for size in GROUP_SIZES:
        if size > len(means):
            continue
        gaps = []
        for _ in range(NUM_GROUPS):
            group = draws.choice(len(means), size, replace=False)
            truth = lengths[group].sum()
            gaps.append(abs(means[group].sum() - truth) / truth)
        errors[size] = (float(np.mean(gaps)), float(np.quantile(gaps, 0.95)))
    return errors
