"""From a score, any number that rises with the length, to a distribution of lengths.

The scores seen are cut into bins of equally many; a bin's samples are the lengths of the outputs
whose scores are nearest to its middle, those of neighbouring bins included. Their mean is unbiased
whatever the score's scale, so sums over many requests are as well.

The 90 % quantile is a promise over all prompts: nine outputs in ten end within it. Where it is
max_tokens it holds always, which is often where many outputs are cut; elsewhere a lower quantile of
the bin is enough. Which one is found on prompts whose own lengths were left out (split conformal,
arXiv:2107.07511).
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tdpipe.lengths.length_bins import Floats, Ints, LengthBins, uncut_lengths

P90 = 0.9
MAX_BINS = 64
# Samples of a bin: this share of all, within these bounds.
SAMPLE_SHARE, MIN_SAMPLES, MAX_SAMPLES = 1 / 8, 32, 512
FOLDS = 5


@dataclass(frozen=True, slots=True)
class LengthCalibration:
    """Bins of a score.

    Attributes:
        edges: [bins - 1], rising scores at which the next bin begins.
        bins: what lengths each bin has.
    """

    edges: Floats
    bins: LengthBins

    def bins_of(self, scores: Floats) -> Ints:
        """The bin [prompts] of each score [prompts]."""
        places: Ints = np.searchsorted(self.edges, scores, side="right")
        return places


def fit_calibration(
    scores: Floats, lengths: Ints, limits: Ints, was_cut: npt.NDArray[np.bool_]
) -> LengthCalibration:
    """Learn which lengths go with which scores; all arguments are [prompts], at least one.

    The scores must come from models that have not seen the prompt's own length.
    """
    assert len(scores) == len(lengths) == len(limits) == len(was_cut) > 0
    # Ties are common (short prompts alike), and equal scores must not be ordered by length.
    mixed = np.random.default_rng(0).permutation(len(scores))
    order = mixed[np.argsort(scores[mixed], kind="stable")]
    scores, lengths, limits = scores[order], lengths[order], limits[order]
    values = uncut_lengths(lengths, limits, was_cut[order])
    count = len(scores)
    num_samples = min(int(np.clip(count * SAMPLE_SHARE, MIN_SAMPLES, MAX_SAMPLES)), count)
    level = _level(scores, values, lengths, limits, num_samples)
    edges, samples = _windows(scores, values, num_samples)
    return LengthCalibration(edges, LengthBins(samples, level))


def _windows(scores: Floats, values: Floats, num_samples: int) -> tuple[Floats, Floats]:
    """Edges [bins - 1] and samples [bins, num_samples] of values ordered by score."""
    count = len(scores)
    num_bins = min(MAX_BINS, count)
    middles = (np.arange(num_bins) + 0.5) * count / num_bins
    firsts = np.clip(np.rint(middles - num_samples / 2).astype(np.int64), 0, count - num_samples)
    samples = np.sort(values[firsts[:, None] + np.arange(num_samples)], axis=1)
    starts = np.arange(1, num_bins) * count // num_bins
    return (scores[starts - 1] + scores[starts]) / 2, samples


def _level(scores: Floats, values: Floats, lengths: Ints, limits: Ints, num_samples: int) -> float:
    """The least share of a bin's samples that nine left-out outputs in ten end within."""
    count = len(scores)
    if count < 2 * FOLDS:
        return P90
    num_samples = min(num_samples, count - -(-count // FOLDS))
    covered = np.zeros(num_samples)
    for fold in range(FOLDS):
        left_out = np.arange(count) % FOLDS == fold
        edges, samples = _windows(scores[~left_out], values[~left_out], num_samples)
        bins = np.searchsorted(edges, scores[left_out], side="right")
        within = np.rint(np.minimum(samples[bins], limits[left_out][:, None]))
        covered += (lengths[left_out][:, None] <= within).sum(axis=0)
    wanted = P90 * (count + 1)
    enough = np.flatnonzero(covered >= wanted)
    return float(enough[0] + 1 if len(enough) else num_samples) / num_samples
