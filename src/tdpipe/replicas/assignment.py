"""Which replica gets which job: the one with the least expected work outstanding.

Not all is handed out at the start. A replica has a window, jobs that it may have outstanding at
most, and gets more as it ends some; so a slow one gets less. When nothing is left to hand out, a
replica has no job that waits, and one with more work outstanding does, some of those move
(`to_move`). That one has begun all of its jobs is not enough: engines with equally much to do begin
it sooner or later. What a replica has begun stays there: where all its jobs run at once, none can
be moved, and a slow replica is the last to end by what its last batch of requests takes.

Jobs go out in the order of the input. That two prompts begin alike is not looked at.
"""

from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

# A replica's engine decodes up to num_stages * max_num_seqs requests at once. Its scheduler chooses
# the next ones, and when to turn from decode to prefill, from those that wait; with three times as
# many waiting as run, the cache is filled again and again before the window has to be refilled.
WINDOW_ROUNDS = 4
MIN_WINDOW = 16
# Below the number of jobs that an engine reads ahead (frontend/job_intake), so that what is handed
# out is also in its queue.
MAX_WINDOW = 8192


def window_of(num_stages: int, max_num_seqs: int) -> int:
    """Jobs that a replica of these limits may have outstanding."""
    return min(MAX_WINDOW, max(MIN_WINDOW, WINDOW_ROUNDS * num_stages * max_num_seqs))


@dataclass(frozen=True, slots=True)
class ReplicaQueue:
    """What a replica last said of itself: jobs it has read in this run, requests that wait."""

    num_read: int
    num_waiting: int


@dataclass(frozen=True, slots=True)
class _Waiting:
    """A job that nobody has, and the replica that gave it up, which is not to get it again."""

    number: int
    work: float
    came_from: int | None = None


@dataclass(slots=True)
class _Share:
    """One replica's part; `outstanding` has the expected work of each job, in order of hand-out."""

    window: int
    outstanding: dict[int, float] = field(default_factory=dict)
    work: float = 0.0
    num_given: int = 0
    is_lost: bool = False

    @property
    def has_room(self) -> bool:
        return not self.is_lost and len(self.outstanding) < self.window


class Assignment:
    """Who has which job; jobs are numbers, replicas are places in `windows`.

    Args:
        windows: jobs that each replica may have outstanding.
    """

    def __init__(self, windows: Sequence[int]) -> None:
        self._shares = [_Share(window) for window in windows]
        self._pool: deque[_Waiting] = deque()  # not handed out
        self._asked_for: set[int] = set()  # jobs that moved, or had begun: they stay
        self._asked: set[int] = set()  # replicas that were asked and have not answered

    @property
    def has_room(self) -> bool:
        """Whether another job would be handed out at once."""
        return not self._pool and any(share.has_room for share in self._shares)

    @property
    def num_open(self) -> int:
        """Jobs that are not done."""
        return len(self._pool) + sum(len(share.outstanding) for share in self._shares)

    def outstanding(self, replica: int) -> list[int]:
        """The jobs that a replica has, in order of hand-out."""
        return list(self._shares[replica].outstanding)

    def add(self, number: int, work: float) -> None:
        """A new job and the work expected of it, in any unit, more than 0."""
        self._pool.append(_Waiting(number, work))

    def hand_out(self) -> list[tuple[int, int]]:
        """(replica, job) for each job that goes out now."""
        given: list[tuple[int, int]] = []
        while self._pool:
            open_ = [i for i, share in enumerate(self._shares) if share.has_room]
            if not open_:
                break
            job = self._pool.popleft()
            replica = min(open_, key=lambda i: (i == job.came_from, self._shares[i].work))
            share = self._shares[replica]
            share.outstanding[job.number] = job.work
            share.work += job.work
            share.num_given += 1
            given.append((replica, job.number))
        return given

    def done(self, replica: int, number: int) -> bool:
        """A job has ended there; False where it is no longer that replica's to end."""
        return self._take(replica, number) is not None

    def lost(self, replica: int) -> list[int]:
        """A replica is gone: its jobs are to be handed out again, before all others."""
        share = self._shares[replica]
        share.is_lost = True
        self._asked.discard(replica)
        return self._put_back(replica, list(share.outstanding), None)

    def given_back(self, replica: int, numbers: Iterable[int]) -> list[int]:
        """A replica has not begun these and gives them up: they are to be handed out again."""
        self._asked.discard(replica)
        return self._put_back(replica, numbers, replica)

    def to_move(self, queues: Sequence[ReplicaQueue | None]) -> tuple[int, list[int]] | None:
        """The replica to ask for jobs, and which; None when all is well.

        That is unless nothing is left to hand out, a replica has none that waits, and another does.
        The last ones handed out are asked for, until the work outstanding is as even as whole jobs
        make it. No job is asked for twice: it would have begun, or be one that moved already.

        Args:
            queues: what each replica said last; None where it has said nothing.
        """
        if self._pool or self._asked:
            return None
        dry = [i for i, queue in enumerate(queues) if self._is_dry(i, queue)]
        if not dry:
            return None
        waiting, replica = max(
            (queue.num_waiting, i)
            for i, queue in enumerate(queues)
            if queue is not None and not self._shares[i].is_lost
        )
        left = self._shares[replica].work
        even = (left + sum(self._shares[i].work for i in dry)) / (len(dry) + 1)
        wanted: list[int] = []
        for number, work in reversed(self._shares[replica].outstanding.items()):
            if len(wanted) >= waiting or left - work / 2 < even:
                break
            if number not in self._asked_for:
                wanted.append(number)
                left -= work
        if not wanted:
            return None
        self._asked.add(replica)
        self._asked_for.update(wanted)
        return replica, wanted

    # ---- details

    def _is_dry(self, replica: int, queue: ReplicaQueue | None) -> bool:
        share = self._shares[replica]
        if queue is None or not share.has_room or queue.num_waiting:
            return False
        return queue.num_read >= share.num_given  # what is on its way to it does not wait there yet

    def _take(self, replica: int, number: int) -> float | None:
        share = self._shares[replica]
        work = share.outstanding.pop(number, None)
        if work is not None:
            share.work = share.work - work if share.outstanding else 0.0
        return work

    def _put_back(self, replica: int, numbers: Iterable[int], came_from: int | None) -> list[int]:
        taken = [(number, self._take(replica, number)) for number in numbers]
        back = [_Waiting(number, work, came_from) for number, work in taken if work is not None]
        self._pool.extendleft(reversed(back))
        return [job.number for job in back]
