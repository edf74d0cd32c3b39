"""Brings a run back after a stage failed: new stages, all requests queued again, suspects found.

Who is under suspicion: the requests of the batch at which the stage failed.

* A stage that *raised* did so for the batch: its requests are tried alone right after the restart.
* A stage that *died or hung* may have been killed from outside, at any batch. Its requests are only
  marked; those marked twice are tried alone.
* A *frozen* stage, and one that was *cut off*, say nothing about any request.

A request on trial whose own batch fails in the same way once more is given up. The failures that
it is marked with are explained then and do not count towards max_restarts; the last one not before
another batch has been completed, for stages that fail at everything are no request's fault.
"""

from collections import defaultdict
from collections.abc import Callable

from tdpipe.control.control_plane import ControlPlane, OutputEvent
from tdpipe.core.errors import FaultKind, RequestFailed, StageFailed
from tdpipe.policies.policy import Policy

# Failures of a kind at batches with a request until it is tried alone; one more on trial convicts.
SUSPICIOUS = {FaultKind.RAISED: 1, FaultKind.DIED: 2, FaultKind.HUNG: 2}


class FaultRecovery:
    """The faults of one run.

    Args:
        restart: ends the stages and starts new ones; may raise StageFailed.
        new_policy: the scheduler, made anew.
        max_restarts: failures without explanation until the run ends.
        warn: told of every failure in one line.
    """

    def __init__(
        self,
        control: ControlPlane,
        restart: Callable[[], None],
        new_policy: Callable[[], Policy],
        max_restarts: int,
        warn: Callable[[str], None],
    ) -> None:
        self.num_restarts = 0
        self._control = control
        self._restart = restart
        self._new_policy = new_policy
        self._max_restarts = max_restarts
        self._warn = warn
        self._num_failures = 0
        self._unexplained: set[int] = set()  # numbers of failures
        self._explained_if_well: set[int] = set()  # if a batch has been completed since
        self._num_completed = 0
        # Of requests: the failures, by number, at batches with them.
        self._marks: defaultdict[int, dict[int, FaultKind]] = defaultdict(dict)

    def recover(self, failure: StageFailed) -> list[OutputEvent]:
        """Start again after a failure; the events of requests that ended with it.

        Raises:
            StageFailed: the failure, if it is one too many.
        """
        if self._control.num_completed_batches > self._num_completed:
            self._num_completed = self._control.num_completed_batches
            self._unexplained -= self._explained_if_well
        self._count(failure)
        batch = self._batch(failure)
        for request_id in batch:
            self._marks[request_id][self._num_failures] = failure.kind
        guilty = self._guilty(failure, batch)
        if guilty is not None:
            self._unexplained -= self._marks[guilty].keys() - {self._num_failures}
            self._explained_if_well.add(self._num_failures)
        suspects = self._suspects(failure, batch)
        self._start_again(failure)
        events = self._control.recover(self._new_policy(), suspects)
        if guilty is not None:
            events += self._give_up(guilty, failure)
        return events

    # ---- details

    def _count(self, failure: StageFailed) -> None:
        self._num_failures += 1
        self._unexplained.add(self._num_failures)

    def _batch(self, failure: StageFailed) -> list[int]:
        """The requests that the failure may be due to."""
        if failure.batch_id is None or failure.kind not in SUSPICIOUS:
            return []
        plan = self._control.state.in_flight.get(failure.batch_id)
        return [piece.request_id for piece in plan.slices] if plan is not None else []

    def _guilty(self, failure: StageFailed, batch: list[int]) -> int | None:
        """The request on trial, if its own batch failed as those before."""
        on_trial = self._control.trials.current
        if on_trial is None or on_trial not in batch:
            return None
        return on_trial if self._count_of(on_trial, failure) > SUSPICIOUS[failure.kind] else None

    def _count_of(self, request_id: int, failure: StageFailed) -> int:
        """How many failures of that kind a request is marked with."""
        return list(self._marks[request_id].values()).count(failure.kind)

    def _suspects(self, failure: StageFailed, batch: list[int]) -> list[int]:
        """Whom to try alone: those whose trial has not ended, and who comes under suspicion now."""
        fresh = [one for one in batch if self._count_of(one, failure) >= SUSPICIOUS[failure.kind]]
        return list(dict.fromkeys([*self._control.trials.untried, *fresh]))

    def _start_again(self, failure: StageFailed) -> None:
        """Restart until it succeeds, which each failed attempt makes less likely to go on."""
        while True:
            if len(self._unexplained) > self._max_restarts:
                raise failure
            self._warn(f"{failure.headline}; starting the stages again")
            self.num_restarts += 1
            try:
                self._restart()
                return
            except StageFailed as again:
                failure = again
                self._count(failure)

    def _give_up(self, request_id: int, failure: StageFailed) -> list[OutputEvent]:
        """End a request whose own batch failed."""
        event = self._control.abort(request_id)
        if event is None:
            return []
        error = RequestFailed(len(self._marks[request_id]), failure)
        self._warn(f"a request is {error}")
        return [event._replace(error=error)]
