"""Lanes: which resident requests travel together through the pipeline during a decode phase."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field


@dataclass(slots=True)
class Lanes:
    """P decode batches and the requests withheld between them, as request ids.

    `batches[i]` is lane i as last submitted or dealt; within a lane the oldest come first.
    """

    batches: list[list[int]] = field(default_factory=list)
    withheld: list[int] = field(default_factory=list)

    @property
    def num_requests(self) -> int:
        return sum(map(len, self.batches)) + len(self.withheld)


def deal(request_ids: Sequence[int], num_lanes: int) -> Lanes:
    """Deal requests, oldest first, into equal lanes (sizes differ by one at most).

    The newest come into the last lane: their prefill is the last to return, and the other lanes
    already keep the pipeline busy by then.
    """
    share, extra = divmod(len(request_ids), num_lanes)
    batches: list[list[int]] = []
    start = 0
    for lane in range(num_lanes):
        stop = start + share + (lane < extra)
        batches.append(list(request_ids[start:stop]))
        start = stop
    return Lanes(batches)


def keep_only(lane: Iterable[int], resident: Iterable[int]) -> list[int]:
    """The lane without requests that finished or were preempted."""
    alive = resident if isinstance(resident, (dict, set)) else set(resident)
    return [request_id for request_id in lane if request_id in alive]
