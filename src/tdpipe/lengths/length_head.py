"""A length's forecast from the served model's own state, which costs nothing after the prefill.

The state is the residual at the prompt's last token, scaled to a mean square of 1, between two
layers well behind the middle: there it says more of the answer to come than at the end, where it is
about the next token (which layer says most is learned, too; Shahout et al. read one of the middle
as well, arXiv:2410.01035).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tdpipe.lengths.class_model import ClassModel
from tdpipe.lengths.length_bins import Floats, Ints
from tdpipe.lengths.length_calibration import LengthCalibration
from tdpipe.prediction.length_predictor import LengthForecast


@dataclass(frozen=True, slots=True)
class LengthHead:
    """A linear score of the state, calibrated. Plain numpy: stages can use it.

    Attributes:
        weights: [hidden].
        bias: added to every score.
        calibration: from scores to lengths.
        class_model: the likeliest class.
        max_tokens: the limit to forecast under where a request's own is not known, in tokens.
        depth: layers of the served model before the state, 1 or more.
    """

    weights: Floats
    bias: float
    calibration: LengthCalibration
    class_model: ClassModel
    max_tokens: int
    depth: int

    def scores(self, hidden: npt.NDArray[np.floating]) -> Floats:
        """A score [prompts] for each state [prompts, hidden]."""
        products: Floats = hidden.astype(np.float64) @ self.weights + self.bias
        return products

    def classes(self, hidden: npt.NDArray[np.floating]) -> Ints:
        """The likeliest class [prompts] for each state [prompts, hidden]."""
        return self.class_model.of_rows(hidden.astype(np.float64))

    def forecast_means(
        self, hidden: npt.NDArray[np.floating], limits: Sequence[int] | None = None
    ) -> list[int]:
        """Expected output tokens for states [prompts, hidden]; `limits` are their max_tokens.

        Without limits each is forecast under the limit of the outputs that were learned from.
        """
        return [one.mean_tokens for one in self.forecasts(hidden, limits)]

    def forecasts(
        self, hidden: npt.NDArray[np.floating], limits: Sequence[int] | None = None
    ) -> list[LengthForecast]:
        """As `forecast_means`, with quantiles."""
        bins = self.calibration.bins_of(self.scores(hidden))
        return self.calibration.bins.forecasts(bins, limits or [self.max_tokens] * len(bins))
