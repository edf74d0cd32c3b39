"""The average predictor: every request gets the same forecast."""

from collections.abc import Sequence

from tdpipe.core.errors import ConfigError
from tdpipe.prediction.length_predictor import LengthForecast, Prompt


class ConstantPredictor:
    """Forecasts num_tokens for every request, or its max_tokens if that is less.

    Raises:
        ConfigError: num_tokens is below 1.
    """

    def __init__(self, num_tokens: int = 128) -> None:
        if num_tokens < 1:
            raise ConfigError("length_predictor", f"constant:{num_tokens}", "use 1 token or more")
        self.num_tokens = num_tokens

    def predict(self, prompts: Sequence[Prompt]) -> list[LengthForecast]:
        lengths = [min(self.num_tokens, prompt.max_tokens) for prompt in prompts]
        return [LengthForecast(length, length) for length in lengths]
