"""Inter-batch work stealing: keep the P decode batches equal while their requests finish.

Paper 3.4. The engine sees one batch at a time, the one just back; the sizes it knows of the others
are those they were submitted with. A batch above the average leaves its surplus behind (withheld,
newest first), one below it is topped up from what others left. Stealing moves metadata only: every
stage holds every request's KV.
"""

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Shares:
    """A lane after stealing, and what is withheld for lanes that return later."""

    lane: tuple[int, ...]
    withheld: tuple[int, ...]


Balance = Callable[[list[int], list[int], list[int], int], Shares]


def steal(lane: list[int], withheld: list[int], sizes: list[int], index: int) -> Shares:
    """Balance the lane `index`, just back with its finished requests already dropped.

    Args:
        lane: the requests of the lane that go on, oldest first.
        withheld: the requests that other lanes left behind, oldest first.
        sizes: latest known size of every lane; sizes[index] may still count finished requests.

    The average is rounded up, so that the last few requests are never all withheld.
    """
    total = sum(sizes) - sizes[index] + len(lane) + len(withheld)
    target = -(-total // len(sizes))
    if len(lane) >= target:
        return Shares(tuple(lane[:target]), tuple(withheld) + tuple(lane[target:]))
    taken = target - len(lane)
    return Shares(tuple(lane) + tuple(withheld[:taken]), tuple(withheld[taken:]))


def keep(lane: list[int], withheld: list[int], sizes: list[int], index: int) -> Shares:
    """Ablation: no stealing; every lane goes on with what is left of it."""
    return Shares((*lane, *withheld), ())
