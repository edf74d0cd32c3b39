"""Links between ranks as they were measured, and what of them a layout of stages uses."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from tdpipe.cost.collectives import Link


@dataclass(frozen=True, slots=True)
class PairTimes:
    """One direction between two ranks."""

    source: int
    target: int
    bytes_per_s: float
    latency_s: float


@dataclass(frozen=True, slots=True)
class MeasuredLinks:
    """Every ordered pair of ranks, and the all-reduce over all of them.

    Attributes:
        all_reduce_latency_s: of one of its 2 (ranks - 1) steps.
        all_reduce_bytes_per_s: its bus bandwidth, as nccl-tests counts it.
    """

    backend: str
    num_ranks: int
    pairs: tuple[PairTimes, ...]
    all_reduce_latency_s: float
    all_reduce_bytes_per_s: float

    def __post_init__(self) -> None:
        wanted = {(a, b) for a in range(self.num_ranks) for b in range(self.num_ranks) if a != b}
        if self.num_ranks < 2 or {(pair.source, pair.target) for pair in self.pairs} != wanted:
            raise ValueError("not each pair of two ranks or more")
        rates = [pair.bytes_per_s for pair in self.pairs] + [self.all_reduce_bytes_per_s]
        waits = [pair.latency_s for pair in self.pairs] + [self.all_reduce_latency_s]
        if min(rates) <= 0 or min(waits) < 0:
            raise ValueError("a rate or a latency that is none")

    def link(self, num_stages: int, ranks_per_stage: int) -> Link:
        """What joins the stages, and what the ranks of a stage; the slowest of each counts.

        Rank s * T + t is the t-th of stage s: stages hand on from first rank to first rank, the
        ranks of a stage sum in a ring. Only the all-reduce over all ranks was measured. One over
        fewer is taken to be as much better or worse as the slowest hop of its ring is.
        A layout of more ranks than were measured has the slowest link of all everywhere.
        """
        if num_stages * ranks_per_stage > self.num_ranks:
            any_two = [(pair.source, pair.target) for pair in self.pairs]
            rate, wait_s = self._slowest(any_two)
            return Link(rate, wait_s, self.all_reduce_bytes_per_s, self.all_reduce_latency_s)
        firsts = range(0, num_stages * ranks_per_stage, ranks_per_stage)
        stages = [range(first, first + ranks_per_stage) for first in firsts]
        rate, wait_s = self._slowest(pairwise(firsts))
        ring_rate, ring_wait_s = self._slowest(hop for stage in stages for hop in _ring(stage))
        whole_rate, whole_wait_s = self._slowest(_ring(range(self.num_ranks)))
        slower = ring_wait_s / whole_wait_s if whole_wait_s else 1.0
        return Link(
            bytes_per_s=rate,
            latency_s=wait_s,
            all_reduce_bytes_per_s=self.all_reduce_bytes_per_s * ring_rate / whole_rate,
            all_reduce_latency_s=self.all_reduce_latency_s * slower,
        )

    def _slowest(self, hops: Iterable[tuple[int, int]]) -> tuple[float, float]:
        """Least rate and longest latency of these (source, target); of all where there are none."""
        wanted = set(hops)
        used = [one for one in self.pairs if (one.source, one.target) in wanted] or self.pairs
        return min(one.bytes_per_s for one in used), max(one.latency_s for one in used)


def _ring(ranks: Sequence[int]) -> list[tuple[int, int]]:
    return [(rank, ranks[(i + 1) % len(ranks)]) for i, rank in enumerate(ranks) if len(ranks) > 1]
