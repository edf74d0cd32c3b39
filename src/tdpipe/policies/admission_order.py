"""Which waiting request comes next: the end of a run must not wait for one.

Two wishes conflict. The cache is used best if requests of all lengths are in it at any time: alike
ones that come together grow together and leave together. The run ends soonest if long requests
start early: what starts when fewer rounds are left than it needs keeps the pipeline open alone. So
requests are kept in classes of about equal predicted length, and every class is spread evenly over
the rounds in which its requests may yet start. A class whose time is over goes before all others.

Forecasts are wrong, and any request may turn out to be the longest. The fewer start late, the less
likely one of those does. So classes are parted by prompts, too: requests with long prompts fill the
pipeline at its end for as long as several with short ones, at the risk of one.
"""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from math import log2
from typing import NamedTuple

from tdpipe.core.engine_state import EngineState
from tdpipe.core.request import Request
from tdpipe.policies.length_survival import class_of


class ClassKey(NamedTuple):
    """Of a class of requests.

    Attributes:
        forecast: number of the predicted length (length_survival.class_of).
        prompt: doublings of the prompt's length, rounded down.
    """

    forecast: int
    prompt: int


def key_of(request: Request) -> ClassKey:
    """The class that a request belongs to."""
    prompt = int(log2(max(1, len(request.prompt_token_ids))))
    return ClassKey(class_of(request.predicted_tokens), prompt)


@dataclass(slots=True)
class Sums:
    """Over waiting requests."""

    number: int = 0
    prompt_tokens: int = 0
    forecast_tokens: int = 0
    max_tokens: int = 0

    @property
    def mean_prompt_tokens(self) -> float:
        return self.prompt_tokens / max(1, self.number)

    @property
    def mean_max_tokens(self) -> float:
        return self.max_tokens / max(1, self.number)

    def count(self, request: Request, sign: int) -> None:
        """Add a request, or take it out."""
        self.number += sign
        self.prompt_tokens += sign * len(request.prompt_token_ids)
        self.forecast_tokens += sign * request.unrevised_remaining
        self.max_tokens += sign * request.max_tokens

    def add(self, other: "Sums") -> None:
        self.number += other.number
        self.prompt_tokens += other.prompt_tokens
        self.forecast_tokens += other.forecast_tokens
        self.max_tokens += other.max_tokens


@dataclass(slots=True)
class LengthClass:
    """Waiting requests of about equal predicted length, in order of arrival, preempted ones first.

    Attributes:
        due: when the next one is due, in rounds; only the order among classes counts.
        stride: rounds between two.
        time_left: rounds until all of the class should have started; negative if they are late.
        sums: over the members.
    """

    due: float
    stride: float = 1.0
    time_left: float = 0.0
    members: deque[Request] = field(default_factory=deque)
    sums: Sums = field(default_factory=Sums)

    def urgency(self) -> tuple[float, float, float]:
        """Sorts classes: those that are late, the latest first; then those due first."""
        return min(0.0, self.time_left), self.due, self.time_left


class AdmissionOrder:
    """The waiting requests by class; follows the state's queue.

    Attributes:
        classes: by what their requests have in common.
    """

    def __init__(self) -> None:
        self.classes: dict[ClassKey, LengthClass] = {}
        self._known: set[int] = set()

    def follow(self, state: EngineState) -> None:
        """Take in the requests that came to the queue since the last call."""
        fresh: list[int] = []
        # Arrivals join at the end of the queue, preempted requests at its front.
        for ids in (reversed(state.waiting), iter(state.waiting)):
            for request_id in ids:
                if request_id in self._known:
                    break
                self._known.add(request_id)
                fresh.append(request_id)
        for request_id in sorted(fresh):
            request = state.waiting[request_id]
            if not request.num_preemptions:
                self._class_of(request).members.append(request)
        for request_id in sorted(fresh, reverse=True):
            request = state.waiting[request_id]
            if request.num_preemptions:  # it came before all that wait
                self._class_of(request).members.appendleft(request)

    def spread(self, rounds_left: float, rounds_needed: Callable[[int, Sums], float]) -> None:
        """Set the pace of every class.

        Args:
            rounds_left: until the run ends.
            rounds_needed: so long before the end must the requests of a class have started; called
                with the number of their forecast.
        """
        for key, one in self.classes.items():
            one.time_left = rounds_left - rounds_needed(key.forecast, one.sums)
            one.stride = max(1.0, one.time_left) / max(1, len(one.members))

    def by_forecast(self) -> dict[int, Sums]:
        """Sums over all that wait, by the number of their forecast."""
        found: dict[int, Sums] = {}
        for key, one in self.classes.items():
            found.setdefault(key.forecast, Sums()).add(one.sums)
        return found

    def heads(self, state: EngineState) -> list[Request]:
        """The first waiting request of each class, in order of preference."""
        self.drop_aborted(state)
        in_order = sorted(self.classes.values(), key=LengthClass.urgency)
        return [one.members[0] for one in in_order if one.members]

    def drop_aborted(self, state: EngineState) -> None:
        """Leave out requests at the heads of their classes that no longer wait."""
        for one in self.classes.values():
            while one.members and one.members[0].request_id not in state.waiting:
                self._drop(one, one.members[0])

    def take(self, request: Request) -> None:
        """`request`, the head of its class, is admitted now."""
        one = self.classes[key_of(request)]
        assert one.members[0] is request, (one.members[0], request)
        one.due += one.stride
        self._drop(one, request)

    def _class_of(self, request: Request) -> LengthClass:
        """The class that the request is to join, with the request in its sums."""
        key = key_of(request)
        if key not in self.classes:
            due = min((one.due for one in self.classes.values()), default=0.0)
            self.classes[key] = LengthClass(due)
        self.classes[key].sums.count(request, 1)
        return self.classes[key]

    def _drop(self, one: LengthClass, request: Request) -> None:
        one.members.popleft()
        one.sums.count(request, -1)
        # Should it be preempted, it comes back as a new one.
        self._known.discard(request.request_id)
