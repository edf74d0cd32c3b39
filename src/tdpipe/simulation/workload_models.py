"""Seeded workloads without their data: lengths drawn from quantiles fitted to real traces.

A model is the quantiles of both lengths and their rank correlation. A draw takes two correlated
normal numbers (a Gaussian copula) and looks each up between its quantiles, in the logarithm of
the length because lengths spread over orders of magnitude.
"""

import math
import random
from bisect import bisect_right
from dataclasses import dataclass
from statistics import NormalDist

from tdpipe.core.errors import ConfigError
from tdpipe.simulation.workload import Workload, WorkloadRequest

# Closer together at the top: few long requests hold much of the tokens.
QUANTILE_LEVELS = (
    *(0.0, 0.01, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.75, 0.8),
    *(0.85, 0.9, 0.925, 0.95, 0.97, 0.98, 0.99, 0.995, 0.998, 0.999, 0.9999, 1.0),
)
NORMAL = NormalDist()


@dataclass(frozen=True, slots=True)
class LengthModel:
    """Lengths of prompt and output at QUANTILE_LEVELS, and Spearman's correlation of the two."""

    prompt_quantiles: tuple[int, ...]
    output_quantiles: tuple[int, ...]
    rank_correlation: float

    def draw(self, source: random.Random) -> tuple[int, int]:
        """One (prompt tokens, output tokens)."""
        # The normal numbers whose ranks correlate as wanted correlate a little more themselves.
        correlation = 2.0 * math.sin(math.pi / 6.0 * self.rank_correlation)
        first, other = source.gauss(), source.gauss()
        second = correlation * first + math.sqrt(1.0 - correlation**2) * other
        prompt = length_at(NORMAL.cdf(first), self.prompt_quantiles)
        return prompt, length_at(NORMAL.cdf(second), self.output_quantiles)


def length_at(level: float, quantiles: tuple[int, ...]) -> int:
    """The length that a share `level` of all does not exceed."""
    above = min(bisect_right(QUANTILE_LEVELS, level), len(QUANTILE_LEVELS) - 1)
    low, high = QUANTILE_LEVELS[above - 1], QUANTILE_LEVELS[above]
    share = (level - low) / (high - low)
    shortest, longest = quantiles[above - 1], quantiles[above]
    return max(1, round(shortest * math.pow(longest / shortest, share)))


def lognormal_quantiles(median: float, sigma: float) -> tuple[int, ...]:
    """Quantiles of a log-normal length; its ends, which are 0 and infinite, stand for 1 in 10^4."""
    levels = [min(max(level, 1e-4), 1.0 - 1e-4) for level in QUANTILE_LEVELS]
    return tuple(round(median * math.exp(sigma * NORMAL.inv_cdf(level))) for level in levels)


def generate_workload(name: str, count: int, seed: int = 0) -> Workload:
    """`count` requests of a model in WORKLOAD_MODELS, all arriving at 0; the seed fixes them.

    Raises:
        ConfigError: there is no such model, or the count is below 1.
    """
    if name not in WORKLOAD_MODELS:
        raise ConfigError("workload", name, f"use one of {', '.join(WORKLOAD_MODELS)}")
    if count < 1:
        raise ConfigError("count", count, "give a whole number of at least 1")
    source = random.Random(seed)
    draws = (WORKLOAD_MODELS[name].draw(source) for _ in range(count))
    return Workload(name, tuple(WorkloadRequest(*lengths) for lengths in draws))


# Printed by benchmarks/fit_workloads.py, all but the last.
# fmt: off
WORKLOAD_MODELS: dict[str, LengthModel] = {
    # First turns of ShareGPT in SmolLM2 tokens, prompts under 1024.
    "sharegpt": LengthModel(
        (1, 1, 5, 7, 11, 15, 20, 28, 42, 71, 96, 134,
         208, 339, 431, 574, 709, 806, 911, 961, 999, 1008, 1022, 1022),
        (1, 4, 17, 35, 92, 147, 206, 258, 309, 368, 404, 451,
         513, 606, 675, 754, 821, 865, 921, 967, 1022, 1090, 3154, 35917),
        0.166,
    ),
    # Azure LLM inference trace 2023, conversations (CC-BY-4.0, Patel et al., Splitwise, ISCA 2024).
    "azure-conv": LengthModel(
        (2, 29, 181, 207, 387, 403, 703, 1020, 1071, 1130, 1189, 1315,
         1876, 2734, 4075, 4083, 4090, 4098, 4142, 4831, 5652, 6212, 7650, 14050),
        (7, 16, 41, 54, 77, 91, 103, 129, 177, 384, 395, 400,
         411, 424, 430, 451, 509, 540, 601, 643, 916, 954, 1000, 1000),
        0.073,
    ),
    # Azure LLM inference trace 2023, code (CC-BY-4.0, Patel et al., Splitwise, ISCA 2024).
    "azure-code": LengthModel(
        (3, 17, 75, 147, 386, 770, 1075, 1469, 1909, 2433, 2745, 3192,
         3919, 5186, 6097, 7302, 7435, 7436, 7436, 7436, 7436, 7437, 7437, 7437),
        (6, 6, 6, 7, 8, 9, 11, 13, 16, 20, 24, 29,
         39, 55, 69, 90, 128, 172, 252, 361, 666, 824, 1276, 1899),
        -0.021,
    ),
    # ServeGen (Apache-2.0), language m-large.
    "m-large": LengthModel(
        (15, 60, 64, 74, 151, 466, 561, 603, 762, 898, 1071, 1264,
         1822, 2371, 2392, 2403, 2607, 3243, 5089, 6865, 8970, 11907, 16129, 24230),
        (1, 1, 1, 1, 5, 12, 27, 52, 91, 151, 203, 368,
         429, 463, 485, 538, 634, 747, 873, 1011, 1422, 1832, 7089, 8192),
        0.136,
    ),
    # ServeGen (Apache-2.0), deepseek-r1, outputs cut to 8192.
    "reasoning": LengthModel(
        (4, 9, 13, 18, 29, 57, 112, 208, 265, 402, 474, 746,
         1167, 2098, 3686, 6368, 12415, 16065, 23232, 28298, 31834, 33369, 40442, 55954),
        (65, 141, 225, 290, 386, 466, 577, 776, 1096, 1357, 1486, 1659,
         2178, 3404, 4262, 5624, 7469, 8192, 8192, 8192, 8192, 8192, 8192, 8192),
        -0.379,
    ),
    # Not from data: prompts about 8000 tokens, outputs about 200.
    "long-document": LengthModel(
        lognormal_quantiles(8000, 0.25), lognormal_quantiles(200, 0.25), 0.0
    ),
}
# fmt: on
