"""What a replica does: an LLM fed with the jobs that the main process sends."""

import json
import logging
import os
import threading
import time
import traceback
from contextlib import closing
from queue import SimpleQueue
from types import TracebackType
from typing import Self

from tdpipe.core.errors import TdpipeError
from tdpipe.frontend.job_feed import JobFeed
from tdpipe.llm import LLM
from tdpipe.outputs import Progress
from tdpipe.replicas.assignment import window_of
from tdpipe.replicas.job_text import error_text, job_from
from tdpipe.replicas.messages import (
    Begin,
    Check,
    Checked,
    Described,
    Ended,
    EndJobs,
    FinishEarly,
    GivenBack,
    Jobs,
    Moment,
    Ready,
    ReplicaSpec,
    RunEnded,
    Said,
    Stop,
    TakeBack,
    ToReplica,
)
from tdpipe.replicas.replica_link import ReplicaLink

# How long a run that was just begun may take until it can be ended early.
BEGIN_LIMIT_S = 10.0


class ReplicaSession:
    """One engine, from its start to its end.

    A thread receives messages: it feeds the engine's intake and passes requests to end on. Runs and
    checks are done, and results sent, on the thread that calls `serve`.

    Raises:
        ConfigError, CapacityError: as LLM.
    """

    def __init__(self, spec: ReplicaSpec, link: ReplicaLink) -> None:
        self._replica = spec.replica
        self._link = link
        self._commands: SimpleQueue[tuple[Begin, JobFeed] | Check | Stop] = SimpleQueue()
        self._feed = JobFeed()
        self._run = 0
        self._is_busy = True  # starting, or in a run
        # The engine's warnings are shown by the main process, which knows what is on the screen.
        logging.getLogger("tdpipe").addHandler(_Forwarding(spec.replica, link))
        logging.getLogger("tdpipe").propagate = False
        settings = json.loads(spec.settings)
        self._llm = LLM(**settings, memory_share=1 / spec.num_replicas)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._llm.close()

    def serve(self) -> None:
        """Start the engine and run what comes, until told to stop.

        Raises:
            StageFailed: the engine gave up.
        """
        llm, replica = self._llm, self._replica
        described = json.dumps(llm.result_settings())
        self._link.send(Described(replica, llm.partition, described))
        threading.Thread(target=self._receive, name="replica-messages", daemon=True).start()
        limits = llm.wait_until_ready()
        self._is_busy = False
        self._link.send(Ready(replica, window_of(limits.num_stages, limits.max_num_seqs)))
        while not isinstance(command := self._commands.get(), Stop):
            if isinstance(command, Check):
                self._check(command)
            else:
                self._run_jobs(*command)

    # ---- the thread that receives

    def _receive(self) -> None:
        try:
            while True:
                self._take(self._link.receive())
        except BaseException:  # without messages the replica is of no use
            traceback.print_exc()
            os._exit(1)

    def _take(self, message: ToReplica) -> None:
        if isinstance(message, Jobs):
            for sent in message.jobs:
                self._feed.put(job_from(sent.text, sent.number))
        elif isinstance(message, EndJobs):
            self._feed.end()
        elif isinstance(message, TakeBack):
            self._take_back(message)
        elif isinstance(message, FinishEarly):
            self._finish_early(message)
        elif isinstance(message, Begin):
            self._feed = JobFeed()
            self._commands.put((message, self._feed))
        else:
            if isinstance(message, Stop) and self._is_busy:
                os._exit(0)  # the stages see it and leave, as when this process is killed
            self._commands.put(message)

    def _take_back(self, message: TakeBack) -> None:
        run = self._run

        def send(numbers: list[object]) -> None:
            given = tuple(number for number in numbers if isinstance(number, int))
            self._link.send(GivenBack(self._replica, run, given))

        if not self._llm.take_back(frozenset(message.numbers), send):
            send([])

    def _finish_early(self, message: FinishEarly) -> None:
        deadline_s = time.monotonic() + BEGIN_LIMIT_S
        # The run may just be beginning; one that has ended has nothing to finish.
        while not self._llm.finish_early(message.grace_s) and time.monotonic() < deadline_s:
            time.sleep(0.01)

    # ---- runs

    def _run_jobs(self, begin: Begin, feed: JobFeed) -> None:
        self._run, self._is_busy = begin.run, True
        is_cut = False
        try:
            with closing(self._llm.submit_iter(feed, self._show)) as results:
                for result in results:
                    assert isinstance(result.key, int), result.key
                    error = None if result.error is None else error_text(result.error)
                    self._link.send(
                        Ended(self._replica, begin.run, result.key, result.output, error)
                    )
        except KeyboardInterrupt:  # the grace is over
            is_cut = True
        self._is_busy = False
        self._link.send(self._end_of_run(begin.run, is_cut))

    def _show(self, progress: Progress) -> None:
        self._link.send(Moment(self._replica, self._run, progress))

    def _end_of_run(self, run: int, is_cut: bool) -> RunEnded:
        record = self._llm.record()
        if record is None:  # no batch was run
            return RunEnded(self._replica, run, is_cut)
        summary = record.summary
        shares = summary.stage_busy_shares
        return RunEnded(
            self._replica,
            run,
            is_cut,
            busy_s=summary.wall_s * sum(shares) / len(shares),
            num_preemptions=summary.num_preemptions,
            num_restarts=summary.num_restarts,
        )

    def _check(self, check: Check) -> None:
        error: str | None = None
        try:
            self._llm.check(job_from(check.text, 0))
        except TdpipeError as refused:
            error = error_text(refused)
        self._link.send(Checked(self._replica, error))


class _Forwarding(logging.Handler):
    """Sends warnings to the main process."""

    def __init__(self, replica: int, link: ReplicaLink) -> None:
        super().__init__(logging.WARNING)
        self._replica = replica
        self._link = link

    def emit(self, record: logging.LogRecord) -> None:
        """Send one."""
        self._link.send(Said(self._replica, record.getMessage()))
