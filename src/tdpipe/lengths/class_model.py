"""A linear classifier of lengths into the paper's five classes, for any kind of features.

The class of a forecast's mean is often not the likeliest class: where an output is either short or
cut at its limit, the mean lies between. A classifier of its own is right more often.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tdpipe.lengths.length_bins import Floats, Ints
from tdpipe.lengths.prompt_features import NUM_BUCKETS, FeatureRows


@dataclass(frozen=True, slots=True)
class ClassModel:
    """A score for each class; the highest is the likeliest.

    Attributes:
        weights: [classes, columns].
        biases: [classes].
    """

    weights: Floats
    biases: Floats

    def of_rows(self, rows: npt.NDArray[np.floating]) -> Ints:
        """The class [prompts] of dense features [prompts, columns]."""
        likeliest: Ints = (rows @ self.weights.T + self.biases).argmax(axis=1)
        return likeliest

    def of_features(self, features: FeatureRows) -> Ints:
        """The class [prompts] of sparse features, columns as in `prompt_features`."""
        scores = [
            features.dot(row[:NUM_BUCKETS], row[NUM_BUCKETS:]) + bias
            for row, bias in zip(self.weights, self.biases, strict=True)
        ]
        likeliest: Ints = np.array(scores).argmax(axis=0)
        return likeliest
