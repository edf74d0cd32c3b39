"""Forecasts of how many tokens a request will generate, asked for on its arrival."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

# Shares of the requests that end within each of `LengthForecast.quantiles`.
QUANTILE_SHARES = tuple((2 * index + 1) / 20 for index in range(10))


@dataclass(frozen=True, slots=True)
class Prompt:
    """What a predictor may look at.

    Attributes:
        request_id: counts from 0 in input order.
        token_ids: the prompt, with what the chat template adds.
        max_tokens: output tokens at most.
        ends_early: whether an end-of-text token ends it (not so with ignore_eos).
        hint: output tokens of another run or model on the same prompt, if known.
    """

    request_id: int
    token_ids: tuple[int, ...]
    max_tokens: int
    ends_early: bool = True
    hint: int | None = None


@dataclass(frozen=True, slots=True)
class LengthForecast:
    """An output length as it is expected; all in tokens, at least 1 and at most max_tokens.

    Attributes:
        mean_tokens: expectation.
        p90_tokens: 90 % quantile.
        quantiles: at QUANTILE_SHARES, rising; empty where only the mean is known.
        is_given: it comes from the request itself or from the user, and no predictor revises it.
    """

    mean_tokens: int
    p90_tokens: int
    quantiles: tuple[int, ...] = ()
    is_given: bool = False

    @classmethod
    def certain(cls, num_tokens: int) -> "LengthForecast":
        """Of a length that is known."""
        return cls(num_tokens, num_tokens, (), is_given=True)

    def at_most(self, max_tokens: int) -> "LengthForecast":
        """The forecast for a request that is cut at max_tokens.

        Its mean is that of the cut quantiles where the limit cuts some of them.
        """
        cut = tuple(min(length, max_tokens) for length in self.quantiles)
        mean = round(sum(cut) / len(cut)) if cut != self.quantiles else self.mean_tokens
        p90 = min(self.p90_tokens, max_tokens)
        return LengthForecast(min(mean, max_tokens), p90, cut, self.is_given)


class LengthPredictor(Protocol):
    """Forecasts output lengths (paper 3.3 uses a five-class BERT classifier)."""

    def predict(self, prompts: Sequence[Prompt]) -> list[LengthForecast]:
        """One forecast per prompt, in order."""
        ...


@runtime_checkable
class LearningPredictor(LengthPredictor, Protocol):
    """A predictor that learns from the run itself, so that its forecasts change."""

    def learn(self, stopped: Sequence[int], cut: Sequence[int], alive: Sequence[int]) -> None:
        """Take in output lengths in tokens.

        Args:
            stopped: of requests that ended by themselves since the last call.
            cut: of requests that max_tokens ended since the last call.
            alive: what each running request has generated so far.
        """
        ...

    def outlived(self, generated: int, max_tokens: int) -> int:
        """Mean length of a request that has generated so many tokens and goes on."""
        ...
