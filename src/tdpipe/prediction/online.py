"""The predictor that needs no training: lengths of the run so far, the running requests included.

Requests that have ended are mostly short while a run is young; their mean alone would mislead. So
lengths are taken as a survival curve: of all requests that came as far as n tokens, the share that
ended there (Kaplan and Meier, 1958). Beyond the longest that was seen, and before anything was, a
request is taken to end at each token with the same chance: ends seen per token generated. Until
the first end that chance is 0, and a forecast is max_tokens.
"""

from bisect import bisect_right
from collections import Counter
from collections.abc import Sequence
from math import exp, expm1, log

from tdpipe.prediction.length_predictor import QUANTILE_SHARES, LengthForecast, Prompt


class OnlinePredictor:
    """Forecasts from one survival curve for all requests; a LearningPredictor."""

    def __init__(self) -> None:
        self._stopped: Counter[int] = Counter()
        self._cut: Counter[int] = Counter()
        # From each of `ends` on, share alive and tokens generated until there by a mean request.
        self._ends, self._alive, self._tokens = [0], [1.0], [0.0]
        self._chance = 0.0

    def predict(self, prompts: Sequence[Prompt]) -> list[LengthForecast]:
        """One forecast per prompt, in order; equal for equal max_tokens."""
        found: dict[int, LengthForecast] = {}
        for prompt in prompts:
            if prompt.max_tokens not in found:
                found[prompt.max_tokens] = self._forecast(prompt.max_tokens)
        return [found[prompt.max_tokens] for prompt in prompts]

    def learn(self, stopped: Sequence[int], cut: Sequence[int], alive: Sequence[int]) -> None:
        """Draw the curve anew. Requests cut by max_tokens tell only that they came so far."""
        self._stopped.update(stopped)
        self._cut.update(cut)
        passed = self._cut + Counter(alive)
        at_risk = self._stopped.total() + passed.total()
        generated = sum(n * k for counts in (self._stopped, passed) for n, k in counts.items())
        self._chance = self._stopped.total() / generated if generated else 0.0
        ends, shares, tokens = [0], [1.0], [0.0]
        for length in sorted(self._stopped.keys() | passed.keys()):
            if self._stopped[length]:
                tokens.append(tokens[-1] + shares[-1] * (length - ends[-1]))
                ends.append(length)
                shares.append(shares[-1] * (1 - self._stopped[length] / at_risk))
            at_risk -= self._stopped[length] + passed[length]
        longest = max(passed, default=0)
        if longest > ends[-1]:  # up to there the curve is known to be flat
            tokens.append(tokens[-1] + shares[-1] * (longest - ends[-1]))
            ends.append(longest)
            shares.append(shares[-1])
        self._ends, self._alive, self._tokens = ends, shares, tokens

    def outlived(self, generated: int, max_tokens: int) -> int:
        """E[min(length, max_tokens) | length > generated], rounded."""
        alive = self._alive_after(generated)
        if alive <= 0:  # longer than all before
            more = 1 / self._chance if self._chance else max_tokens
            return min(max_tokens, generated + max(1, round(more)))
        to_come = (self._tokens_until(max_tokens) - self._tokens_until(generated)) / alive
        return min(max_tokens, generated + max(1, round(to_come)))

    # ---- the curve

    def _alive_after(self, length: int) -> float:
        place = bisect_right(self._ends, length) - 1
        alive = self._alive[place]
        if place == len(self._ends) - 1:
            alive *= exp(-self._chance * (length - self._ends[-1]))
        return alive

    def _tokens_until(self, length: int) -> float:
        """E[min(length of a request, length)]."""
        place = bisect_right(self._ends, length) - 1
        more, alive = length - self._ends[place], self._alive[place]
        if place == len(self._ends) - 1 and self._chance:
            return self._tokens[place] - alive * expm1(-self._chance * more) / self._chance
        return self._tokens[place] + alive * more

    def _forecast(self, max_tokens: int) -> LengthForecast:
        mean = max(1, round(self._tokens_until(max_tokens)))
        quantiles = tuple(self._quantile(share, max_tokens) for share in QUANTILE_SHARES)
        return LengthForecast(mean, self._quantile(0.9, max_tokens), quantiles)

    def _quantile(self, share: float, max_tokens: int) -> int:
        """The least length within which that share ends, or max_tokens."""
        for end, alive in zip(self._ends, self._alive, strict=True):
            if 1 - alive >= share:
                return max(1, min(end, max_tokens))
        if not self._chance or self._alive[-1] <= 0:
            return max_tokens
        beyond = log(self._alive[-1] / (1 - share)) / self._chance
        return max(1, min(round(self._ends[-1] + beyond), max_tokens))
