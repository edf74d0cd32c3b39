"""Which waiting request comes next, by predicted length: the end of a run must not wait for one.

A request that needs about as many rounds as are left is critical: started later, it alone would
keep the pipeline open. Critical requests come first, the longest before all others. The rest has
time; there the shortest come first, because a short forecast that proves wrong is noticed after
few tokens, while there is still time, and because they leave the cache soon.

Requests are kept in classes of about equal predicted length, each in order of arrival, so that one
that fits the memory is found without looking at all of them.
"""

from collections import deque
from collections.abc import Iterator
from math import log2

from tdpipe.core.engine_state import EngineState
from tdpipe.core.request import Request

CLASSES_PER_DOUBLING = 2


class AdmissionOrder:
    """The waiting requests in classes; follows the state's queue.

    Attributes:
        critical_tokens: predicted length from which a request is critical.
        expected_tokens: tokens that all requests in the classes are expected to generate.
    """

    def __init__(self) -> None:
        self.critical_tokens = 1.0
        self.expected_tokens = 0
        self._classes: dict[int, deque[Request]] = {}
        self._keys: list[int] = []  # of the classes, rising
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
            self._put(state.waiting[request_id])

    def heads(self, state: EngineState) -> Iterator[Request]:
        """The first waiting request of each class, in order of preference."""
        for key in self._preferred_keys():
            members = self._classes[key]
            while members and members[0].request_id not in state.waiting:
                self._drop(members.popleft())  # aborted
            if members:
                yield members[0]

    def take(self, request: Request) -> None:
        """`request`, the head of its class, is admitted now."""
        head = self._classes[_class_of(request.predicted_tokens)].popleft()
        assert head is request, (head, request)
        self._drop(request)

    def _preferred_keys(self) -> list[int]:
        critical = _class_of(self.critical_tokens)
        first = [key for key in reversed(self._keys) if key >= critical]
        return first + [key for key in self._keys if key < critical]

    def _put(self, request: Request) -> None:
        key = _class_of(request.predicted_tokens)
        if key not in self._classes:
            self._classes[key] = deque()
            self._keys = sorted(self._classes)
        self._classes[key].append(request)
        self.expected_tokens += request.predicted_remaining

    def _drop(self, request: Request) -> None:
        self.expected_tokens -= request.predicted_remaining
        # Should it be preempted, it comes back as a new one.
        self._known.discard(request.request_id)


def _class_of(num_tokens: float) -> int:
    return int(CLASSES_PER_DOUBLING * log2(max(1.0, num_tokens)))
