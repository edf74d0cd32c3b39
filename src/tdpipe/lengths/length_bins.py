"""Samples of output lengths, one set for each bin, and the forecasts made from them."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil

import numpy as np
import numpy.typing as npt

from tdpipe.prediction.length_predictor import QUANTILE_SHARES, LengthForecast

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class LengthBins:
    """Lengths as they were seen in each bin.

    Attributes:
        samples: [bins, samples], tokens, rising within each bin. May exceed the limit under which
            they were seen, see `uncut_lengths`; a forecast cuts each at its prompt's max_tokens
            before it takes the mean, so a smaller limit than that of the table is no special case.
        p90_level: share of a bin's samples that lie within its p90_tokens.
    """

    samples: Floats
    p90_level: float

    def forecasts(self, bins: Ints, limits: Sequence[int]) -> list[LengthForecast]:
        """Forecasts of prompts in `bins` [prompts] with max_tokens `limits` [prompts]."""
        if not len(limits):
            return []
        within = self.within(bins, limits)
        means = np.maximum(1, np.rint(within.mean(axis=1))).astype(np.int64).tolist()
        last = within.shape[1] - 1
        columns = [int(share * (last + 1)) for share in QUANTILE_SHARES]
        # The level is a whole number of samples, or a little more after it was rounded in a file.
        columns.append(min(last, max(0, ceil(self.p90_level * (last + 1) - 1e-3) - 1)))
        chosen = np.maximum(1, np.rint(within[:, columns])).astype(np.int64).tolist()
        return [
            LengthForecast(mean, points[-1], tuple(points[:-1]))
            for mean, points in zip(means, chosen, strict=True)
        ]

    def within(self, bins: Ints, limits: Sequence[int]) -> Floats:
        """The samples [prompts, samples] for prompts in `bins`, cut at their `limits`."""
        cut: Floats = np.minimum(self.samples[bins], np.array(limits, np.float64)[:, None])
        return cut


def uncut_lengths(lengths: Ints, limits: Ints, was_cut: npt.NDArray[np.bool_]) -> Floats:
    """What outputs that were cut at `limits` would have become; others as they are.

    Beyond the limit an output is taken to end with the same probability at each token as outputs
    did between half the limit and the limit, all in all. The draws are a sequence that fills the
    interval evenly wherever one looks, not random numbers.
    """
    drawn = lengths.astype(np.float64)
    for limit in np.unique(limits[was_cut]):
        here = was_cut & (limits == limit)
        beyond = lengths - limit // 2
        at_risk = (beyond > 0) & (limits >= limit)
        ended = int((at_risk & ~was_cut & (lengths <= limit)).sum())
        walked = float(np.minimum(beyond[at_risk], limit - limit // 2).sum())
        # Half an end more: where none was seen, there may be one soon after.
        hazard = (ended + 0.5) / walked
        turns = np.modf(np.arange(1, int(here.sum()) + 1) * 0.6180339887498949)[0]
        drawn[here] = limit + np.minimum(-np.log1p(-turns) / hazard, 16.0 * limit)
    return drawn
