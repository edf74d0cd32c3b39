"""The end of a run: how many requests are still alive in the rounds after the last prompt.

Lengths are given as groups of alike requests, the few longest in groups of their own: they decide
how long the run goes on in batches that are too small for their weights.

The w waiting prompts are let in over R rounds, those of a group evenly; the first one starts after
R / w, so starts span S = R - R / w rounds. One of length l that starts r rounds before the last one
goes on for l - r rounds after it. So min(l, S) / S of a group are left then, and they end evenly
over the rounds from l - min(l, S) to l.
"""

from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import NamedTuple

# Ends that stand for those of a group.
PARTS = 4


class Group(NamedTuple):
    """Requests of about the same number of tokens to come."""

    number: int
    tokens: float


def grouped(longest_first: Iterable[Group]) -> list[Group]:
    """Groups of 1, 2, 4, ... requests with their mean, the longest first."""
    found: list[Group] = []
    size, number, total = 1, 0, 0.0
    for group in longest_first:
        left = group.number
        while left:
            taken = min(left, size - number)
            left, number, total = left - taken, number + taken, total + taken * group.tokens
            if number == size:
                found.append(Group(number, total / number))
                size, number, total = 2 * size, 0, 0.0
    if number:
        found.append(Group(number, total / number))
    return found


def tail(
    resident: Iterable[Group], waiting: Sequence[Group], prompt_rounds: float
) -> list[tuple[float, float]]:
    """The rounds after the last prompt, from the last ones on: how many, with how many alive.

    Args:
        resident, waiting: requests by tokens to come; a token takes a round.
        prompt_rounds: R.
    """
    ends = [(tokens - prompt_rounds, float(number)) for number, tokens in resident]
    span = prompt_rounds - prompt_rounds / max(1, sum(group.number for group in waiting))
    for number, tokens in waiting:
        late = min(tokens, span)
        share = number / PARTS * (late / span if span else 1.0)
        ends += [(tokens - (part + 0.5) / PARTS * late, share) for part in range(PARTS)]
    ends.sort(reverse=True)
    ends.append((0.0, 0.0))
    found, alive = [], 0.0
    for (end, ending), (earlier, _) in pairwise(ends):
        if end <= 0:
            break
        alive += ending
        found.append((end - max(0.0, earlier), alive))
    return found
