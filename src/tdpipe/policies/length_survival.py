"""How long requests live compared with their forecasts, learned from the run itself.

A forecast is one number, and half of them fall into the wrong class (paper 3.3). What counts for
memory is the sum over many requests, now and later. So for each class of forecasts the distribution
of the ratio (true length / forecast) is estimated from the requests that have ended and from those
still alive: of all that came as far as a ratio, the share that ended there (Kaplan-Meier). Each
request is then taken to end at a quantile of its own in what is left of that distribution: summed
over many requests this is the expected usage, at the price of one look-up for each.
"""

from bisect import bisect_left
from functools import lru_cache
from itertools import accumulate, pairwise
from math import erf, log2

from tdpipe.core.request import FinishReason, Request

CLASSES_PER_DOUBLING = 2
# Bins of the ratio, from 1/16 to 256; a ratio of 1 lies in the middle of its bin.
BINS_PER_DOUBLING = 6
LEAST_DOUBLING = -4
NUM_BINS = BINS_PER_DOUBLING * 12
RATIOS = [2 ** (index / BINS_PER_DOUBLING + LEAST_DOUBLING) for index in range(NUM_BINS)]
PLACE_OF_1 = 0.5 - LEAST_DOUBLING * BINS_PER_DOUBLING
RATIO_AT_0 = LEAST_DOUBLING - 0.5 / BINS_PER_DOUBLING  # in doublings
# What is believed before anything ended, with the weight of so many requests: that forecasts are
# right within some deviation (in doublings), but no certainty of any end.
PRIOR_WEIGHT = 8.0
PRIOR_DEVIATION = 0.25
PRIOR_HAZARDS = (0.01, 0.3)  # least and most
# Multiples of it, modulo 1, are spread evenly however many are taken.
GOLDEN_RATIO = 0.6180339887498949


class LengthSurvival:
    """Remaining lengths of requests, by class of their forecast."""

    def __init__(self) -> None:
        self._alive: dict[int, Request] = {}
        self._ended: dict[int, list[float]] = {}  # class -> requests that ended in each bin
        self._prior = _prior_hazards()
        self._first_curve = _ended_share(self._prior)
        self._curves: dict[int, list[float]] = {}

    def follow(self, request: Request) -> None:
        """The request is admitted; `learn` will see by itself that it has ended."""
        self._alive[request.request_id] = request

    def learn(self) -> None:
        """Take in which requests have ended since the last call, and how far the others are."""
        ended = [request for request in self._alive.values() if request.finish_reason is not None]
        for request in ended:
            del self._alive[request.request_id]
            if request.finish_reason is not FinishReason.ABORT:
                _count(self._ended, request)
        reached: dict[int, list[float]] = {}
        for request in self._alive.values():
            _count(reached, request)
        # What all classes have in common is the prior of each.
        common = _hazards(_sums(self._ended), _sums(reached), self._prior)
        self._first_curve = _ended_share(common)
        none = [0.0] * NUM_BINS
        for key in self._ended.keys() | reached.keys():
            counts = self._ended.get(key, none), reached.get(key, none)
            self._curves[key] = _ended_share(_hazards(*counts, common))

    def remaining(self, request: Request) -> int:
        """Tokens that the request is taken to generate yet, at least 1."""
        return self.quantile(request, request.request_id * GOLDEN_RATIO % 1.0)

    def quantile(self, request: Request, share: float) -> int:
        """Tokens after which a share of the requests like this one will have ended; at least 1."""
        # Asked for every resident of every forecast, so that calls would cost more than their work.
        predicted, generated = request.predicted_tokens, len(request.output_token_ids)
        curve = self._curves.get(class_of(predicted), self._first_curve)
        if generated:
            place = _place_of(generated, predicted)
            index = int(place) if place < NUM_BINS else NUM_BINS - 1
            ended = curve[index]
            ended += (place - index) * (curve[index + 1] - ended)
            share = ended + share * (1 - ended)
        # The first place at which the curve has that value.
        index = bisect_left(curve, share)
        if index:
            low, high = curve[index - 1], curve[min(index, NUM_BINS)]
            place = index - 1 + (share - low) / (high - low) if high > low else float(index)
        else:
            place = 0.0
        remaining = round(predicted * 2 ** (place / BINS_PER_DOUBLING + RATIO_AT_0))
        most = request.max_tokens
        remaining = (remaining if remaining < most else most) - generated
        return remaining if remaining > 1 else 1

    def tokens_until(self, key: int, overhang: float) -> float:
        """Tokens n of which a request of the class has on average `overhang` or fewer to come.

        That is the least n with E[max(0, length - n)] <= overhang, to the next bin.
        """
        curve = self._curves.get(key, self._first_curve)
        forecast = _forecast_of(key)
        to_come = 0.0
        for index in range(NUM_BINS - 1, 0, -1):
            to_come += forecast * (RATIOS[index] - RATIOS[index - 1]) * (1 - curve[index])
            if to_come > overhang:
                return float(forecast * RATIOS[index])
        return 0.0

    def mean_tokens(self, key: int) -> float:
        """Mean length in a class of forecasts."""
        return _forecast_of(key) * self.mean_ratio(key)

    def mean_ratio(self, key: int) -> float:
        """Mean of length / forecast in a class of forecasts."""
        curve = self._curves.get(key, self._first_curve)
        return sum(
            (high - low) * ratio for (low, high), ratio in zip(pairwise(curve), RATIOS, strict=True)
        )


@lru_cache(maxsize=4096)
def class_of(num_tokens: float) -> int:
    """Number of the class that forecasts of this length are in."""
    return int(CLASSES_PER_DOUBLING * log2(max(1.0, num_tokens)))


def _forecast_of(key: int) -> float:
    """A forecast in the middle of a class."""
    return float(2 ** ((key + 0.5) / CLASSES_PER_DOUBLING))


def _place_of(generated: int, predicted: int) -> float:
    """The ratio on the axis of the bins; bin i reaches from i to i + 1."""
    if not generated:
        return 0.0
    place = log2(generated / predicted) * BINS_PER_DOUBLING + PLACE_OF_1
    return 0.0 if place < 0.0 else float(NUM_BINS) if place > NUM_BINS else place


def _count(counts: dict[int, list[float]], request: Request) -> None:
    predicted = request.predicted_tokens
    bins = counts.get(class_of(predicted))
    if bins is None:
        bins = counts[class_of(predicted)] = [0.0] * NUM_BINS
    place = int(_place_of(len(request.output_token_ids), predicted))
    bins[place if place < NUM_BINS else NUM_BINS - 1] += 1


def _sums(counts: dict[int, list[float]]) -> list[float]:
    return list(map(sum, zip(*counts.values(), strict=True))) or [0.0] * NUM_BINS


def _hazards(ended: list[float], reached: list[float], prior: list[float]) -> list[float]:
    """Of those who reach a bin, the share that ends there.

    Args:
        ended: requests that ended in each bin.
        reached: requests that are alive in each bin.
        prior: hazards believed with the weight of PRIOR_WEIGHT requests.
    """
    at_risk = sum(ended) + sum(reached)
    hazards: list[float] = []
    for ends, still_there, believed in zip(ended, reached, prior, strict=True):
        # Who is alive in a bin has passed half of it.
        passed = at_risk - still_there / 2
        hazards.append((ends + PRIOR_WEIGHT * believed) / (passed + PRIOR_WEIGHT))
        at_risk -= ends + still_there
    return hazards


def _ended_share(hazards: list[float]) -> list[float]:
    """Share that has ended at the start of each bin; at the end of the last one, all."""
    alive = accumulate(hazards, lambda share, hazard: share * (1 - hazard), initial=1.0)
    return [*[1 - share for share in alive][:-1], 1.0]


def _prior_hazards() -> list[float]:
    def later(doublings: float) -> float:
        """Share of forecasts that err by more than that."""
        return 0.5 * (1 - erf(doublings / PRIOR_DEVIATION / 2**0.5))

    edges = [(index - 0.5) / BINS_PER_DOUBLING + LEAST_DOUBLING for index in range(NUM_BINS + 1)]
    least, most = PRIOR_HAZARDS
    return [
        min(max(1 - later(high) / max(later(low), 1e-12), least), most)
        for low, high in pairwise(edges)
    ]
