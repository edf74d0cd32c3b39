"""The predictor that knows: true lengths, given from outside. For experiments and replays."""

from collections.abc import Sequence

from tdpipe.core.errors import ConfigError
from tdpipe.prediction.length_predictor import LengthForecast, Prompt


class OraclePredictor:
    """Forecasts output_tokens[request_id], the true length of each request in input order."""

    def __init__(self, output_tokens: Sequence[int]) -> None:
        self.output_tokens = tuple(output_tokens)

    def predict(self, prompts: Sequence[Prompt]) -> list[LengthForecast]:
        """Raises ConfigError when a request is beyond the lengths that were given."""
        return [self._forecast(prompt) for prompt in prompts]

    def _forecast(self, prompt: Prompt) -> LengthForecast:
        if prompt.request_id >= len(self.output_tokens):
            fix = f"give a length for each of at least {prompt.request_id + 1} requests"
            raise ConfigError("length_predictor", f"{len(self.output_tokens)} lengths", fix)
        length = max(1, self.output_tokens[prompt.request_id])
        return LengthForecast(length, length)
