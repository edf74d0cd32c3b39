"""Finds the stage that no longer works: frozen, silent, or too long at a batch. Pure: no clock.

Times count only while the engine looks: after a pause of the engine itself (its user's code ran, it
was stopped) the stages' messages still wait to be read, and nobody is judged by that pause.
"""

from collections import deque
from dataclasses import dataclass, field

from tdpipe.core.batch_plan import BatchPlan, Phase
from tdpipe.core.errors import FaultKind, StageFailed

# Time between two looks that counts, at most.
LONGEST_LOOK_S = 1.0
# A stage that stays stopped for so long is frozen; less is somebody looking at it.
FROZEN_S = 0.75
# Without a heartbeat and without using its processor a stage has hung after this.
SILENCE_S = 4.0
# While it starts, a stage may be silent for long: imports and weights.
START_SILENCE_S = 120.0
# The first batches may find kernels to compile that the warm-up did not.
FIRST_BATCHES_S = 20.0
# How many times longer than the cost model expects a batch may take.
OVERDUE_FACTOR = 20.0
# A process that uses less of a core than this is idle.
IDLE_SHARE = 0.1


@dataclass(frozen=True, slots=True)
class Vitals:
    """What the system says of a process.

    Attributes:
        cpu_s: processor time so far.
        is_runnable: it computes, or would if others left it a core.
    """

    is_stopped: bool
    cpu_s: float
    is_runnable: bool = False


@dataclass(slots=True)
class _Rank:
    """Times are on the watch's own clock."""

    heard_s: float = 0.0
    reported_s: float = 0.0
    stopped_s: float | None = None  # since when it is stopped
    active_s: float = 0.0  # when it was last seen to use its processor
    cpu_s: float = 0.0
    looked_s: float = 0.0
    num_reported: int = 0
    seen: set[Phase] = field(default_factory=set)  # phases of the batches it has reported


@dataclass(frozen=True, slots=True)
class _Batch:
    batch_id: int
    phase: Phase
    submitted_s: float
    limit_s: float


class StageWatch:
    """Follows the processes of one start of the pipeline, by rank.

    Args:
        ranks_per_stage: processes that share a stage, one rank after the other.
        idle_limit_s: how long a stage may leave a batch that it has lying while it is idle; a card
            computes and compiles while its process waits.
    """

    def __init__(self, num_stages: int, idle_limit_s: float, ranks_per_stage: int = 1) -> None:
        self.is_ready = False
        self._ranks_per_stage = ranks_per_stage
        self._idle_limit_s = idle_limit_s
        self._first_limit_s = max(idle_limit_s, FIRST_BATCHES_S)
        self._ranks = [_Rank() for _ in range(num_stages * ranks_per_stage)]
        self._batches: deque[_Batch] = deque()  # those that not all have reported
        self._num_left = 0  # batches that all have reported
        self._clock_s = 0.0
        self._ticked_s: float | None = None

    # ---- what happens

    def submitted(self, plan: BatchPlan, expected_s: float, now_s: float) -> None:
        """A batch is sent; expected_s is what it may take on the slowest stage."""
        limit_s = OVERDUE_FACTOR * expected_s
        self._batches.append(_Batch(plan.batch_id, plan.phase, self._tick(now_s), limit_s))

    def heard(self, rank: int, now_s: float) -> None:
        """Any message of a process has come."""
        self._ranks[rank].heard_s = self._tick(now_s)

    def reported(self, rank: int, now_s: float) -> None:
        """A process reports the oldest batch that it has not reported yet."""
        one = self._ranks[rank]
        batch = self._batches[one.num_reported - self._num_left]
        one.num_reported += 1
        one.reported_s = self._tick(now_s)
        one.seen.add(batch.phase)
        while self._batches and all(r.num_reported > self._num_left for r in self._ranks):
            self._batches.popleft()
            self._num_left += 1

    # ---- what it means

    def batch_at(self, rank: int) -> int | None:
        """The batch that a process may have begun and has not reported."""
        batch = self._batch_at(rank)
        return batch.batch_id if batch is not None else None

    def judge(self, vitals: list[Vitals], now_s: float) -> StageFailed | None:
        """The failure that shows now; call it only when all messages that came have been taken."""
        clock_s = self._tick(now_s)
        for one, vital in zip(self._ranks, vitals, strict=True):
            _follow(one, vital, clock_s)
        for rank, one in enumerate(self._ranks):
            found = self._frozen(one) or self._silent(one) or self._overdue(rank)
            if found is not None:
                kind, cause = found
                if kind is FaultKind.HUNG:
                    rank = self._least_active(rank)
                stage, tensor_rank = divmod(rank, self._ranks_per_stage)
                batch_id = self.batch_at(rank)
                return StageFailed(
                    stage, cause, kind=kind, batch_id=batch_id, tensor_rank=tensor_rank
                )
        return None

    # ---- details

    def _tick(self, now_s: float) -> float:
        if self._ticked_s is not None:
            self._clock_s += max(0.0, min(now_s - self._ticked_s, LONGEST_LOOK_S))
        self._ticked_s = now_s
        return self._clock_s

    def _least_active(self, rank: int) -> int:
        """Of the processes of a stage the one that hangs: the others wait for it, and spin."""
        first = rank - rank % self._ranks_per_stage
        mates = self._mates(rank)
        return first + min(range(len(mates)), key=lambda place: mates[place].active_s)

    def _mates(self, rank: int) -> list[_Rank]:
        """The processes of a stage, this one among them."""
        first = rank - rank % self._ranks_per_stage
        return self._ranks[first : first + self._ranks_per_stage]

    def _before(self, rank: int) -> _Rank | None:
        """The process that hands batches to this one's stage; None for the first stage."""
        stage = rank // self._ranks_per_stage
        return self._ranks[(stage - 1) * self._ranks_per_stage] if stage else None

    def _batch_at(self, rank: int) -> _Batch | None:
        number, giver = self._ranks[rank].num_reported, self._before(rank)
        has_come = giver is None or giver.num_reported > number
        place = number - self._num_left
        return self._batches[place] if has_come and place < len(self._batches) else None

    def _frozen(self, one: _Rank) -> tuple[FaultKind, str] | None:
        if one.stopped_s is None or self._clock_s - one.stopped_s < FROZEN_S:
            return None
        return FaultKind.FROZEN, "its process is stopped (SIGSTOP)"

    def _silent(self, one: _Rank) -> tuple[FaultKind, str] | None:
        limit_s = SILENCE_S if self.is_ready else START_SILENCE_S
        silent_s = self._clock_s - max(one.heard_s, one.active_s)
        if silent_s < limit_s:
            return None
        return FaultKind.HUNG, f"no sign of life for {silent_s:.0f} s"

    def _overdue(self, rank: int) -> tuple[FaultKind, str] | None:
        batch, one, giver = self._batch_at(rank), self._ranks[rank], self._before(rank)
        if batch is None:
            return None
        before = giver.reported_s if giver is not None else 0.0
        due_s = self._clock_s - max(batch.submitted_s, one.reported_s, before)
        least_s = self._idle_limit_s if batch.phase in one.seen else self._first_limit_s
        if due_s > max(least_s, batch.limit_s):
            return FaultKind.HUNG, f"its batch is overdue: {due_s:.0f} s"
        # While one rank of a stage works, or waits for a core, the others wait for its sums.
        idle_s = min(due_s, self._clock_s - max(other.active_s for other in self._mates(rank)))
        if idle_s > self._idle_limit_s:
            return FaultKind.HUNG, f"it has been idle for {idle_s:.0f} s with a batch to compute"
        return None


def _follow(one: _Rank, vital: Vitals, clock_s: float) -> None:
    """Note what the system says of a process since the last look."""
    if not vital.is_stopped:
        one.stopped_s = None
    elif one.stopped_s is None:
        one.stopped_s = clock_s
    has_computed = vital.cpu_s - one.cpu_s > IDLE_SHARE * (clock_s - one.looked_s)
    if has_computed or vital.is_runnable:
        one.active_s = clock_s
    one.cpu_s, one.looked_s = vital.cpu_s, clock_s
