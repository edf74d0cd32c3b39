"""A measured time against a count of tokens: enters a few points, leaves seconds for any count."""

from bisect import bisect_left
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import accumulate, pairwise
from math import inf

from tdpipe.core.errors import ConfigError

# The slope beyond the last point is taken over the last quarter of the range: two neighbouring
# points of a dense table differ by noise alone.
TAIL_SHARE = 0.75


@dataclass(frozen=True, slots=True)
class ProfileTable:
    """Points (tokens, seconds), straight lines between them.

    Below the first point the time is the first point's: a batch of few tokens costs the read of
    the weights. Beyond the last point it goes on with the slope at the end, never downwards.

    Raises:
        ConfigError: no points, counts that do not increase, or a time that is none.
    """

    tokens: tuple[int, ...]
    seconds: tuple[float, ...]

    def __post_init__(self) -> None:
        tokens, seconds = self.tokens, self.seconds
        if not tokens or len(tokens) != len(seconds):
            fix = "give one time for each count of tokens, and at least one"
            raise ConfigError("profile", f"{len(tokens)} counts, {len(seconds)} times", fix)
        if any(isinstance(one, bool) or not isinstance(one, int) or one < 0 for one in tokens):
            raise ConfigError("profile.tokens", tokens, "use whole numbers, 0 or more")
        if any(left >= right for left, right in pairwise(tokens)):
            raise ConfigError("profile.tokens", tokens, "sort the counts, each one once")
        for time_s in seconds:
            require_seconds("profile.seconds", time_s)

    def time_s(self, num_tokens: int) -> float:
        """Seconds for num_tokens."""
        tokens, seconds = self.tokens, self.seconds
        right = bisect_left(tokens, num_tokens)
        if right == 0:
            return seconds[0]
        if right == len(tokens):
            return seconds[-1] + (num_tokens - tokens[-1]) * self._tail_slope_s()
        share = (num_tokens - tokens[right - 1]) / (tokens[right] - tokens[right - 1])
        return seconds[right - 1] + share * (seconds[right] - seconds[right - 1])

    def scaled(self, factor: float) -> "ProfileTable":
        """The same points with every time multiplied by factor."""
        return ProfileTable(self.tokens, tuple(time_s * factor for time_s in self.seconds))

    def _tail_slope_s(self) -> float:
        tokens, seconds = self.tokens, self.seconds
        if len(tokens) == 1:
            return 0.0
        inside = bisect_left(tokens, TAIL_SHARE * tokens[-1])
        from_point = min(inside, len(tokens) - 2)
        rise_s = seconds[-1] - seconds[from_point]
        return max(0.0, rise_s / (tokens[-1] - tokens[from_point]))


def rising(points: Mapping[int, float]) -> ProfileTable:
    """A table in which more work never takes less time: what does was disturbed, and is cut."""
    counts = sorted(points)
    lowest_above = accumulate((points[count] for count in reversed(counts)), min)
    return ProfileTable(tuple(counts), tuple(reversed(list(lowest_above))))


def require_seconds(field: str, value: float) -> None:
    """Refuse what is not a finite time of 0 s or more.

    Raises:
        ConfigError: the value is negative, not finite or not a number.
    """
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number or not 0 <= value < inf:  # also refuses NaN
        raise ConfigError(field, value, "use seconds, 0 or more")
