"""A length's forecast from the prompt's token ids: a linear score of its features, calibrated."""

from collections.abc import Sequence
from dataclasses import dataclass

from tdpipe.lengths.class_model import ClassModel
from tdpipe.lengths.length_bins import Floats, Ints
from tdpipe.lengths.length_calibration import LengthCalibration
from tdpipe.lengths.prompt_features import prompt_features
from tdpipe.prediction.length_predictor import LengthForecast


@dataclass(frozen=True, slots=True)
class TextModel:
    """Weights of the score and what lengths go with it.

    Attributes:
        weights: [NUM_BUCKETS] of hashed tokens and pairs.
        shape_weights: [NUM_SHAPE] of the dense features.
        bias: added to every score.
        calibration: from scores to lengths.
        class_model: the likeliest class, of NUM_BUCKETS + NUM_SHAPE columns.
    """

    weights: Floats
    shape_weights: Floats
    bias: float
    calibration: LengthCalibration
    class_model: ClassModel

    def scores(self, prompts: Sequence[Sequence[int]]) -> Floats:
        """A score [prompts] for each prompt's token ids."""
        return prompt_features(prompts).dot(self.weights, self.shape_weights) + self.bias

    def classes(self, prompts: Sequence[Sequence[int]]) -> Ints:
        """The likeliest class [prompts] for each prompt's token ids."""
        return self.class_model.of_features(prompt_features(prompts))

    def forecasts(
        self, prompts: Sequence[Sequence[int]], limits: Sequence[int]
    ) -> list[LengthForecast]:
        """Forecasts for prompts (token ids) with max_tokens `limits`."""
        bins = self.calibration.bins_of(self.scores(prompts))
        return self.calibration.bins.forecasts(bins, limits)
