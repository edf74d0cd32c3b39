"""How long requests live compared with their forecasts, learned from the run itself.

A forecast is one number, and half of them fall into the wrong class (paper 3.3). What counts for
memory is the sum over many requests, now and later. So for each class of forecasts the distribution
of the ratio (true length / forecast) is estimated from the requests that have ended and from those
still alive: of all that came as far as a ratio, the share that ended there (Kaplan-Meier). Each
request is then taken to end at a quantile of its own in what is left of that distribution: summed
over many requests this is the expected usage, at the price of one look-up for each.

A forecast is the mean of a length that max_tokens cuts. The distribution is that of the length
without the cut: a cut request was still alive there. What is believed at first is as wide as the
forecasts themselves say, where they have quantiles, and is moved so that the cut length keeps the
forecast as its mean: the higher, the nearer to max_tokens that is.
"""

from bisect import bisect_left
from collections.abc import Iterable
from functools import cache, lru_cache
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
# Wider ones go by steps of a quarter of a doubling, and count as many requests before they do.
DEVIATIONS = [PRIOR_DEVIATION * step for step in range(1, 9)]
# The belief is moved by so many bins at most: up where forecasts are as long as max_tokens.
SHIFTS = range(-2 * BINS_PER_DOUBLING, -LEAST_DOUBLING * BINS_PER_DOUBLING + 1)
# Two quantiles of a forecast, and the standard deviations between them: 15 and 45 %.
LOW, MIDDLE, DEVIATIONS_BETWEEN = 1, 4, 0.911
# Multiples of it, modulo 1, are spread evenly however many are taken.
GOLDEN_RATIO = 0.6180339887498949


class LengthSurvival:
    """Remaining lengths of requests, by class of their forecast."""

    def __init__(self) -> None:
        self._alive: dict[int, Request] = {}
        self._ended: dict[int, list[float]] = {}  # class -> requests that ended in each bin
        self._cut: dict[int, list[float]] = {}  # class -> requests that max_tokens cut there
        self._shifts: dict[int, int] = {}  # class -> shift of its requests, on average
        # Deviations that forecasts have told, in doublings.
        self._told_sum, self._num_told = 0.0, 0
        self._deviation = PRIOR_DEVIATION
        self._common = prior_hazards(PRIOR_DEVIATION)
        self._first_curves: dict[int, list[float]] = {}  # by shift, of classes without their own
        self._curves: dict[int, list[float]] = {}
        self._mean_ratios: dict[tuple[int, float], float] = {}  # by class and cut

    def follow(self, request: Request) -> None:
        """The request is admitted; `learn` will see by itself that it has ended."""
        is_new = request.request_id not in self._alive  # a preempted one comes again
        self._alive[request.request_id] = request
        quantiles = request.length_quantiles
        if is_new and quantiles and quantiles[MIDDLE] < request.max_tokens:
            self._told_sum += log2(quantiles[MIDDLE] / quantiles[LOW]) / DEVIATIONS_BETWEEN
            self._num_told += 1

    def learn(self) -> None:
        """Take in which requests have ended since the last call, and how far the others are."""
        ended = [request for request in self._alive.values() if request.finish_reason is not None]
        for request in ended:
            del self._alive[request.request_id]
            if request.finish_reason is FinishReason.STOP:
                _count(self._ended, request)
            elif request.finish_reason is FinishReason.LENGTH:
                _count(self._cut, request)
        reached = {key: list(counts) for key, counts in self._cut.items()}
        rooms = self._count_alive(reached)
        if self._num_told:
            told = self._told_sum / self._num_told
            self._deviation = min(DEVIATIONS, key=lambda deviation: abs(deviation - told))
        for key, of_class in rooms.items():
            self._shifts[key] = self._shift(round(sum(of_class) / len(of_class)))
        # What all classes have in common is the prior of each.
        sums = [
            _sums([moved(counts, -self._shifts.get(key, 0)) for key, counts in kind.items()])
            for kind in (self._ended, reached)
        ]
        self._common = _hazards(sums[0], sums[1], prior_hazards(self._deviation))
        self._first_curves.clear()
        self._mean_ratios.clear()
        none = [0.0] * NUM_BINS
        for key in self._ended.keys() | reached.keys():
            counts = self._ended.get(key, none), reached.get(key, none)
            prior = _shifted(self._common, self._shifts.get(key, 0))
            self._curves[key] = _ended_share(_hazards(*counts, prior))

    def _count_alive(self, reached: dict[int, list[float]]) -> dict[int, list[float]]:
        """Count each living request in its class's bin of `reached`; returns their rooms by class.

        What a forecast says is looked up once for all that have it: this is asked as often as
        `remaining_of`.
        """
        rooms: dict[int, list[float]] = {}
        known: dict[tuple[int, int], tuple[list[float], list[float], float]] = {}
        for request in self._alive.values():
            predicted, most = request.predicted_tokens, request.max_tokens
            found = known.get((predicted, most))
            if found is None:
                key = class_of(predicted)
                bins = reached.setdefault(key, [0.0] * NUM_BINS)
                found = bins, rooms.setdefault(key, []), _room(most, predicted)
                known[predicted, most] = found
            bins, of_class, room = found
            of_class.append(room)
            bins[_bin_of(len(request.output_token_ids), predicted)] += 1
        return rooms

    def remaining(self, request: Request) -> int:
        """Tokens that the request is taken to generate yet, at least 1."""
        return self.remaining_of([request])[0]

    def remaining_of(self, requests: Iterable[Request]) -> list[int]:
        """The same for many requests: what is left to each at its own quantile.

        Asked for every resident of every forecast; a call for each would cost more than its work.
        """
        found = []
        own_curves: dict[int, list[float] | None] = {}  # by forecast, which many have in common
        for request in requests:
            predicted, generated = request.predicted_tokens, len(request.output_token_ids)
            most = request.max_tokens
            if predicted in own_curves:
                curve = own_curves[predicted]
            else:
                curve = own_curves[predicted] = self._curves.get(class_of(predicted))
            if curve is None:
                curve = self._first_curve(self._shift(round(_room(most, predicted))))
            share = request.request_id * GOLDEN_RATIO % 1.0
            if generated:
                place = log2(generated / predicted) * BINS_PER_DOUBLING + PLACE_OF_1
                if place < 0.0:
                    place = 0.0
                elif place > NUM_BINS:
                    place = float(NUM_BINS)
                index = int(place) if place < NUM_BINS else NUM_BINS - 1
                ended = curve[index]
                ended += (place - index) * (curve[index + 1] - ended)
                share = ended + share * (1 - ended)
            # The first place at which the curve has that value.
            index = bisect_left(curve, share)
            place = 0.0
            if index:
                low, high = curve[index - 1], curve[index if index < NUM_BINS else NUM_BINS]
                place = index - 1 + (share - low) / (high - low) if high > low else float(index)
            end = round(predicted * 2 ** (place / BINS_PER_DOUBLING + RATIO_AT_0))
            left = (end if end < most else most) - generated
            found.append(left if left > 1 else 1)
        return found

    def tokens_until(self, key: int, overhang: float, most: float) -> float:
        """Tokens n of which a request of the class has on average `overhang` or fewer to come.

        That is the least n with E[max(0, length - n)] <= overhang, to the next bin.

        Args:
            most: where such requests are cut.
        """
        curve, forecast = self._curve_of(key, most), _forecast_of(key)
        to_come = 0.0
        for index in range(NUM_BINS - 1, 0, -1):
            end = min(forecast * RATIOS[index], most)
            to_come += (end - min(forecast * RATIOS[index - 1], most)) * (1 - curve[index])
            if to_come > overhang:
                return end
        return 0.0

    def tokens_outlived_by(self, share: float, key: int, most: float) -> float:
        """Tokens that at most a share of the requests of the class outlive, to the next bin."""
        index = bisect_left(self._curve_of(key, most), 1 - share)
        return min(most, _forecast_of(key) * RATIOS[min(index, NUM_BINS - 1)])

    def mean_tokens(self, key: int, most: float) -> float:
        """Mean length in a class of forecasts that are cut at `most` tokens."""
        return _forecast_of(key) * self.mean_ratio(key, most)

    def mean_ratio(self, key: int, most: float) -> float:
        """Mean of length / forecast in a class of forecasts that are cut at `most` tokens."""
        found = self._mean_ratios.get((key, most))
        if found is None:
            curve, cut = self._curve_of(key, most), most / _forecast_of(key)
            found = self._mean_ratios[key, most] = sum(
                (high - low) * min(ratio, cut)
                for (low, high), ratio in zip(pairwise(curve), RATIOS, strict=True)
            )
        return found

    def _curve_of(self, key: int, most: float) -> list[float]:
        curve = self._curves.get(key)
        if curve is None:
            room = BINS_PER_DOUBLING * log2(max(1.0, most / _forecast_of(key)))
            curve = self._first_curve(self._shift(round(room)))
        return curve

    def _shift(self, room: int) -> int:
        return shift_for(room, self._deviation)

    def _first_curve(self, shift: int) -> list[float]:
        curve = self._first_curves.get(shift)
        if curve is None:
            curve = self._first_curves[shift] = _ended_share(_shifted(self._common, shift))
        return curve


@lru_cache(maxsize=4096)
def class_of(num_tokens: float) -> int:
    """Number of the class that forecasts of this length are in."""
    return int(CLASSES_PER_DOUBLING * log2(max(1.0, num_tokens)))


def _forecast_of(key: int) -> float:
    """A forecast in the middle of a class."""
    return float(2 ** ((key + 0.5) / CLASSES_PER_DOUBLING))


@lru_cache(maxsize=4096)
def _room(most: int, predicted: int) -> float:
    """Bins from a forecast to where max_tokens cuts."""
    return BINS_PER_DOUBLING * log2(max(1.0, most / predicted))


@cache
def shift_for(room: int, deviation: float) -> int:
    """Bins by which the first belief is moved for requests that are cut `room` bins above forecast.

    The one nearest to 0 whose cut mean is nearest to the forecast, to one hundredth of it.
    """
    chances = [high - low for low, high in pairwise(_ended_share(prior_hazards(deviation)))]
    cut = 2 ** (room / BINS_PER_DOUBLING)

    def error(shift: int) -> tuple[float, int]:
        ratios = [ratio * 2 ** (shift / BINS_PER_DOUBLING) for ratio in RATIOS]
        means = [chance * min(ratio, cut) for chance, ratio in zip(chances, ratios, strict=True)]
        return round(abs(sum(means) - 1), 2), abs(shift)

    return min(SHIFTS, key=error)


def _shifted(hazards: list[float], shift: int) -> list[float]:
    """Hazards of the same lengths, all longer by so many bins, or shorter if it is negative."""
    if shift >= 0:
        return [0.0] * shift + hazards[: NUM_BINS - shift]
    return hazards[-shift:] + hazards[-1:] * -shift


def moved(counts: list[float], shift: int) -> list[float]:
    """Requests counted by bin, each of them so many bins further up."""
    if shift >= 0:
        kept = NUM_BINS - shift
        return [0.0] * shift + counts[: kept - 1] + [sum(counts[kept - 1 :])]
    return [sum(counts[: 1 - shift]), *counts[1 - shift :], *[0.0] * -shift]


def _count(counts: dict[int, list[float]], request: Request) -> None:
    """Count the request in the bin that it has come to."""
    predicted = request.predicted_tokens
    bins = counts.setdefault(class_of(predicted), [0.0] * NUM_BINS)
    bins[_bin_of(len(request.output_token_ids), predicted)] += 1


def _bin_of(generated: int, predicted: int) -> int:
    if not generated:
        return 0
    place = int(log2(generated / predicted) * BINS_PER_DOUBLING + PLACE_OF_1)
    return 0 if place < 0 else place if place < NUM_BINS else NUM_BINS - 1


def _sums(counts: list[list[float]]) -> list[float]:
    return list(map(sum, zip(*counts, strict=True))) or [0.0] * NUM_BINS


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


@cache
def prior_hazards(deviation: float) -> list[float]:
    """Chance to end in each bin, of forecasts that err by so many doublings."""

    def later(doublings: float) -> float:
        """Share of forecasts that err by more than that."""
        return 0.5 * (1 - erf(doublings / deviation / 2**0.5))

    edges = [(index - 0.5) / BINS_PER_DOUBLING + LEAST_DOUBLING for index in range(NUM_BINS + 1)]
    least, most = PRIOR_HAZARDS
    return [
        min(max(1 - later(high) / max(later(low), 1e-12), least), most)
        for low, high in pairwise(edges)
    ]
