"""One run of jobs over the replicas: hands them out, takes results, moves what waits too long."""

import logging
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from tdpipe.core.errors import RequestRejected, StageFailed
from tdpipe.outputs import Job, JobResult, Progress
from tdpipe.replicas.assignment import Assignment, ReplicaQueue
from tdpipe.replicas.expected_work import ExpectedWork, prompt_tokens_about
from tdpipe.replicas.job_text import error_from, job_text
from tdpipe.replicas.messages import (
    Begin,
    Ended,
    EndJobs,
    Failed,
    FinishEarly,
    FromReplica,
    GivenBack,
    Jobs,
    Moment,
    RunEnded,
    SentJob,
    TakeBack,
    ToReplica,
)
from tdpipe.replicas.pool_progress import PoolProgress
from tdpipe.replicas.pool_summary import PoolSummary, ReplicaTotals

log = logging.getLogger("tdpipe")

# How long a wait may last before a signal's wish to finish is seen.
WAIT_S = 0.1
PROGRESS_INTERVAL_S = 0.2
# Jobs in a message: the first ones are to be on their way while others are read.
MESSAGE_JOBS = 64


class Replicas(Protocol):
    """What a run needs of the processes."""

    living: set[int]

    def send(self, replica: int, message: ToReplica) -> None:
        """Send a message."""
        ...

    def receive(self, limit_s: float) -> FromReplica | None:
        """The next message of a living replica, `Failed` once from each that is lost."""
        ...


@dataclass(frozen=True, slots=True)
class _OpenJob:
    """A job that is not done, as it is sent, again if its replica is lost."""

    key: object
    sent: SentJob


class PoolRun:
    """A run; iterate `results` once.

    Args:
        number: tells this run's messages from an earlier one's.
        windows: jobs that each replica may have outstanding.
        jobs: read on the thread that takes the results, as there is room for them.
    """

    def __init__(
        self,
        number: int,
        replicas: Replicas,
        windows: Sequence[int],
        jobs: Iterable[Job],
        on_progress: Callable[[Progress], None] | None = None,
    ) -> None:
        self.has_begun = False
        self.is_over = False
        self._number = number
        self._replicas = replicas
        self._assignment = Assignment(windows)
        for replica in set(range(len(windows))) - replicas.living:  # lost in an earlier run
            self._assignment.lost(replica)
        self._work = ExpectedWork()
        self._jobs = iter(jobs)
        self._on_progress = on_progress
        self._progress = PoolProgress()
        self._queues: list[ReplicaQueue | None] = [None] * len(windows)
        self._totals = [ReplicaTotals() for _ in windows]
        self._open: dict[int, _OpenJob] = {}
        self._num_jobs = self._num_failed = self._num_moved = 0
        self._num_finished = 0
        self._all_read = self._is_ending = self._is_cut = False
        self._failure: Exception | None = None
        self._grace_s: float | None = None
        self._has_ended: set[int] = set()
        self._started_s = self._latest_s = self._reported_s = 0.0

    def results(self) -> Iterator[JobResult]:
        """Outputs and errors, each as soon as it is known.

        Raises:
            StageFailed: no replica is left, and jobs are.
            KeyboardInterrupt: `finish_early` gave too little time.
        """
        if not self._replicas.living:
            raise StageFailed(0, "all replicas have failed")
        self._started_s = self._latest_s = time.monotonic()
        self._broadcast(Begin(self._number))
        self.has_begun = True
        while not (self._is_ending and self._replicas.living <= self._has_ended):
            if not self._is_ending:
                yield from self._read()
            message = self._replicas.receive(WAIT_S)
            if message is not None:
                yield from self._take(message)
            self._see_whether_to_end()
        if self._is_cut:
            raise KeyboardInterrupt
        self.is_over = True
        if self._failure is not None:
            raise self._failure

    def finish_early(self, grace_s: float) -> bool:
        """Have all replicas finish what decodes, for grace_s at most; from a signal handler too.

        Returns whether the run can: not before it has begun.
        """
        if self.has_begun and not self.is_over:
            self._grace_s = grace_s
            return True
        return False

    def summary(self) -> PoolSummary:
        """Figures of the run so far."""
        wall_s = self._latest_s - self._started_s
        return PoolSummary(tuple(self._totals), wall_s, self._num_failed, self._num_moved)

    # ---- jobs out

    def _read(self) -> Iterator[JobResult]:
        """Read and hand out as many jobs as the windows take; yields those that cannot run."""
        batches: dict[int, list[SentJob]] = {}
        self._hand_out(batches)
        while not self._all_read and self._assignment.has_room and self._grace_s is None:
            job = self._next_job()
            if job is not None:
                refused = self._add(job)
                if refused is not None:
                    yield refused
                self._hand_out(batches)
            if sum(map(len, batches.values())) >= MESSAGE_JOBS:
                self._send(batches)
        self._send(batches)

    def _next_job(self) -> Job | None:
        try:
            job = next(self._jobs, None)
        except Exception as error:  # raised when all that was read is done, as by LLM
            self._failure, job = error, None
        self._all_read = job is None
        return job

    def _add(self, job: Job) -> JobResult | None:
        """Take a job up, or its result where it has an error already."""
        number, self._num_jobs = self._num_jobs, self._num_jobs + 1
        place = number if job.place is None else job.place
        error = job.error
        if error is None:
            try:
                text = job_text(replace(job, place=place))
            except RequestRejected as refused:
                error = refused
        if error is not None:
            self._num_failed += 1
            self._num_finished += 1
            return JobResult(job.key, None, error)
        params = job.params
        prompt_tokens = prompt_tokens_about(job.prompt, job.messages)
        work = self._work.of(
            prompt_tokens, params.max_tokens, job.length_hint, params.n, not params.ignore_eos
        )
        self._open[number] = _OpenJob(job.key, SentJob(number, text))
        self._assignment.add(number, work)
        return None

    def _hand_out(self, batches: dict[int, list[SentJob]]) -> None:
        for replica, number in self._assignment.hand_out():
            batches.setdefault(replica, []).append(self._open[number].sent)

    def _send(self, batches: dict[int, list[SentJob]]) -> None:
        for replica, batch in batches.items():
            self._replicas.send(replica, Jobs(tuple(batch)))
        batches.clear()

    def _see_whether_to_end(self) -> None:
        if self._is_ending:
            return
        if self._grace_s is not None:
            self._is_ending = True
            self._broadcast(FinishEarly(self._grace_s))
        elif self._all_read and not self._assignment.num_open:
            self._is_ending = True
            self._broadcast(EndJobs())

    def _broadcast(self, message: ToReplica) -> None:
        for replica in sorted(self._replicas.living):
            self._replicas.send(replica, message)

    # ---- messages in

    def _take(self, message: FromReplica) -> Iterator[JobResult]:
        if isinstance(message, Failed):
            self._lose(message)
        elif isinstance(message, Ended | Moment | GivenBack | RunEnded):
            if message.run != self._number:
                return
            if isinstance(message, Ended):
                yield from self._ended(message)
            elif isinstance(message, Moment):
                self._look_at(message)
            elif isinstance(message, GivenBack):
                back = self._assignment.given_back(message.replica, message.numbers)
                self._num_moved += len(back)
            else:
                self._end_of(message)

    def _ended(self, message: Ended) -> Iterator[JobResult]:
        if not self._assignment.done(message.replica, message.number):
            return
        self._latest_s = time.monotonic()
        job, totals = self._open.pop(message.number), self._totals[message.replica]
        self._num_finished += 1
        if message.error is not None:
            self._num_failed += 1
            totals.num_failed += 1
            yield JobResult(job.key, None, error_from(message.error))
            return
        output = message.output
        assert output is not None
        for one in output.outputs:
            self._work.ended(len(one.token_ids))
            totals.output_tokens += len(one.token_ids)
        totals.num_requests += 1
        totals.prompt_tokens += len(output.prompt_token_ids)
        yield JobResult(job.key, replace(output, index=message.number), None)

    def _look_at(self, message: Moment) -> None:
        progress = message.progress
        self._progress.take(message.replica, progress)
        queue = ReplicaQueue(progress.num_requests, progress.num_waiting)
        self._queues[message.replica] = queue
        if self._all_read and not self._is_ending:
            move = self._assignment.to_move(self._queues)
            if move is not None:
                replica, numbers = move
                self._replicas.send(replica, TakeBack(tuple(numbers)))
        self._report()

    def _end_of(self, message: RunEnded) -> None:
        self._has_ended.add(message.replica)
        self._is_cut = self._is_cut or message.is_cut
        totals = self._totals[message.replica]
        totals.busy_s = message.busy_s
        totals.num_preemptions = message.num_preemptions
        totals.num_restarts = message.num_restarts

    def _lose(self, message: Failed) -> None:
        """Give a lost replica's jobs to the others. Raises its failure where it was the last."""
        back = self._assignment.lost(message.replica)
        failure = error_from(message.error)
        shown = failure.cause if isinstance(failure, StageFailed) else str(failure)
        self._totals[message.replica].lost = shown
        self._queues[message.replica] = None
        is_needed = self._assignment.num_open or not self._all_read
        if not self._replicas.living and is_needed:
            raise failure
        left = "are left" if self._is_ending else "go to the others"
        log.warning(
            "replica %d is lost: %s; its %d unfinished requests %s",
            message.replica,
            shown,
            len(back),
            left,
        )

    def _report(self) -> None:
        now_s = time.monotonic()
        if self._on_progress is None or now_s - self._reported_s < PROGRESS_INTERVAL_S:
            return
        self._reported_s = now_s
        self._on_progress(
            self._progress.moment(
                self._replicas.living,
                self._num_finished,
                self._num_failed,
                self._num_jobs,
                now_s - self._started_s,
            )
        )
