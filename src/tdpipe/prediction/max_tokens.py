"""The cautious predictor: every request runs to its limit. Never overfills, admits too little."""

from collections.abc import Sequence

from tdpipe.prediction.length_predictor import LengthForecast, Prompt


class MaxTokensPredictor:
    """Forecasts max_tokens for every request; exact for requests that ignore end-of-text."""

    def predict(self, prompts: Sequence[Prompt]) -> list[LengthForecast]:
        return [LengthForecast(prompt.max_tokens, prompt.max_tokens) for prompt in prompts]
