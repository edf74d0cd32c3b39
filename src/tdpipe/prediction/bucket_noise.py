"""A predictor with the paper's form and a chosen accuracy, made from true lengths: experiments.

Five classes cut at the 25th, 50th, 75th and 99th percentile of the outputs; the forecast is the
mean length of the class (paper 3.3). The class is right for a share `accuracy` of the requests,
else most often a neighbour of the right one, as a regression rounded to a class errs.
"""

import random
from bisect import bisect_left
from collections.abc import Sequence

from tdpipe.core.errors import ConfigError
from tdpipe.prediction.length_predictor import LengthForecast, Prompt

CUTS = (0.25, 0.50, 0.75, 0.99)
# A wrong class is a neighbour this often, else any other.
NEIGHBOUR_SHARE = 0.8


class BucketNoisePredictor:
    """Forecasts for requests whose ids are indices into output_tokens.

    Raises:
        ConfigError: the accuracy is not between 0 and 1, or there are no lengths.
    """

    def __init__(self, output_tokens: Sequence[int], accuracy: float = 0.58, seed: int = 0) -> None:
        if not 0 <= accuracy <= 1:
            raise ConfigError("accuracy", accuracy, "use a share from 0 to 1")
        if not output_tokens:
            raise ConfigError("length_predictor", "no lengths", "give the true lengths")
        ordered = sorted(output_tokens)
        edges = [ordered[min(len(ordered) - 1, int(cut * len(ordered)))] for cut in CUTS]
        source = random.Random(seed)
        right = [bisect_left(edges, length) for length in output_tokens]
        self._means = _class_means(output_tokens, right)
        self._p90 = _class_quantiles(output_tokens, right, 0.9)
        self._classes = [_draw(source, index, accuracy) for index in right]

    def predict(self, prompts: Sequence[Prompt]) -> list[LengthForecast]:
        """One forecast per prompt, in order."""
        classes = [self._classes[prompt.request_id] for prompt in prompts]
        return [LengthForecast(self._means[index], self._p90[index]) for index in classes]


def _draw(source: random.Random, right: int, accuracy: float) -> int:
    if source.random() < accuracy:
        return right
    others = [index for index in range(len(CUTS) + 1) if index != right]
    neighbours = [index for index in others if abs(index - right) == 1]
    return source.choice(neighbours if source.random() < NEIGHBOUR_SHARE else others)


def _class_means(lengths: Sequence[int], classes: Sequence[int]) -> list[int]:
    members = _members(lengths, classes)
    return [max(1, round(sum(one) / len(one))) for one in members]


def _class_quantiles(lengths: Sequence[int], classes: Sequence[int], share: float) -> list[int]:
    members = _members(lengths, classes)
    return [max(1, sorted(one)[int(share * (len(one) - 1))]) for one in members]


def _members(lengths: Sequence[int], classes: Sequence[int]) -> list[list[int]]:
    """Lengths of each class; an empty class (few distinct lengths) stands for the overall mean."""
    mean = round(sum(lengths) / len(lengths))
    members: list[list[int]] = [[] for _ in range(len(CUTS) + 1)]
    for length, index in zip(lengths, classes, strict=True):
        members[index].append(length)
    return [one or [mean] for one in members]
