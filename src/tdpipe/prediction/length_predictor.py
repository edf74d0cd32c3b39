"""Forecasts of how many tokens a request will generate, asked for once per request on arrival."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Prompt:
    """What a predictor may look at. `request_id` counts from 0 in input order."""

    request_id: int
    token_ids: tuple[int, ...]
    max_tokens: int


@dataclass(frozen=True, slots=True)
class LengthForecast:
    """Expected output length and its 90 % quantile, both in tokens and at least 1."""

    mean_tokens: int
    p90_tokens: int


class LengthPredictor(Protocol):
    """Forecasts output lengths (paper 3.3 uses a five-class BERT classifier)."""

    def predict(self, prompts: Sequence[Prompt]) -> list[LengthForecast]:
        """One forecast per prompt, in order."""
        ...
