"""Where requests come from: all at once, at given times, or from a thread that tokenises."""

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

from tdpipe.control.control_plane import NewRequest


class Arrivals(Protocol):
    """A source of requests on the executor's clock."""

    def take(self, now_s: float) -> list[NewRequest]:
        """The requests that have arrived by now_s, each once, in order."""
        ...

    def next_s(self, now_s: float) -> float | None:
        """When to look again; None when nothing more will come."""
        ...


@dataclass(frozen=True, slots=True)
class TimedRequest:
    """A request and its time of arrival in seconds."""

    arrival_s: float
    request: NewRequest


class ScheduledArrivals:
    """Requests at given times; offline jobs have them all at time 0."""

    def __init__(self, requests: Iterable[TimedRequest]) -> None:
        self._coming = deque(sorted(requests, key=lambda timed: timed.arrival_s))

    @classmethod
    def all_at_once(cls, requests: Iterable[NewRequest]) -> "ScheduledArrivals":
        """An offline job: everything arrives before the first decision."""
        return cls(TimedRequest(0.0, request) for request in requests)

    def take(self, now_s: float) -> list[NewRequest]:
        taken: list[NewRequest] = []
        while self._coming and self._coming[0].arrival_s <= now_s:
            taken.append(self._coming.popleft().request)
        return taken

    def next_s(self, now_s: float) -> float | None:
        return self._coming[0].arrival_s if self._coming else None


class QueuedArrivals:
    """Requests that another thread hands over while the engine runs.

    `put` and `end` are for that thread, `take` and `next_s` for the engine's.
    """

    POLL_S = 0.005

    def __init__(self) -> None:
        self._queue: deque[NewRequest] = deque()
        self._ended = False

    def put(self, request: NewRequest) -> None:
        """Hand over one request."""
        self._queue.append(request)

    def end(self) -> None:
        """Say that no more will come."""
        self._ended = True

    def take(self, now_s: float) -> list[NewRequest]:
        taken: list[NewRequest] = []
        while self._queue:
            taken.append(self._queue.popleft())
        return taken

    def next_s(self, now_s: float) -> float | None:
        if self._queue:
            return now_s
        return None if self._ended else now_s + self.POLL_S
