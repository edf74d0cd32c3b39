"""One run of jobs over a pipeline: intake, engine loop, outputs, figures."""

import logging
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass

from tdpipe.control.control_plane import ControlPlane, OutputEvent
from tdpipe.control.engine_loop import drive
from tdpipe.control.fault_recovery import FaultRecovery
from tdpipe.core.errors import StageFailed, TdpipeError
from tdpipe.core.limits import Limits
from tdpipe.cost.cost_model import CostModel
from tdpipe.cost.profiled_cost import ProfiledCost
from tdpipe.execution.models.model_source import ModelSource
from tdpipe.execution.pipeline_executor import PipelineExecutor
from tdpipe.frontend.intake_forecasts import IntakeForecasts
from tdpipe.frontend.job_intake import AcceptedJob, JobIntake
from tdpipe.frontend.output_collector import OutputCollector
from tdpipe.frontend.progress_meter import JobCounts, ProgressMeter
from tdpipe.outputs import Job, JobResult, Progress, StreamUpdate
from tdpipe.policies.policy import Policy
from tdpipe.prediction.length_predictor import LengthPredictor
from tdpipe.reporting.run_record import RunRecord
from tdpipe.reporting.run_summary import RunBound, RunSummary, RunTotals, summarize
from tdpipe.simulation.lower_bound import lower_bound
from tdpipe.text.detokenizer import IncrementalDetokenizer
from tdpipe.text.stop_strings import StopStringChecker
from tdpipe.text.tokenizer import Tokenizer
from tdpipe.tracing.run_trace import RunTrace

PROGRESS_INTERVAL_S = 0.2
# Told the keys of the jobs that were given up.
TakenBack = Callable[[list[object]], None]

log = logging.getLogger("tdpipe")


@dataclass(frozen=True, slots=True)
class RunParts:
    """What a run is made of; `limits` waits for the stages.

    `forecasts` tells lengths as requests are read; `predictor` is asked where it tells none.
    """

    executor: PipelineExecutor
    limits: Callable[[], Limits]
    scheduler: str
    new_policy: Callable[[], Policy]
    cost: CostModel
    predictor: LengthPredictor
    forecasts: IntakeForecasts
    tokenizer: Callable[[], Tokenizer]
    source: ModelSource
    partition: tuple[int, ...]
    seed: int
    max_restarts: int
    settings: dict[str, object]
    prefix_caching: bool = False


class JobRun:
    """A run; iterate `results` or `stream` once, then `settle`."""

    def __init__(
        self,
        jobs: Iterable[Job],
        parts: RunParts,
        on_progress: Callable[[Progress], None] | None = None,
    ) -> None:
        self.trace: RunTrace | None = None
        self._parts = parts
        self._on_progress = on_progress
        self._meter = ProgressMeter(parts.cost) if on_progress is not None else None
        self._num_failed = 0
        self._wall_s = 0.0
        self._reported_s = 0.0
        self._end_by_s: float | None = None
        self._control: ControlPlane | None = None
        self._recovery: FaultRecovery | None = None
        self._collector: OutputCollector | None = None
        self._take_backs: deque[tuple[Collection[object], TakenBack]] = deque()
        self._intake = JobIntake(
            jobs,
            parts.tokenizer,
            parts.source.config.vocab_size,
            parts.source.end_token_ids,
            parts.seed,
            parts.forecasts,
        )

    def results(self) -> Iterator[JobResult]:
        """Outputs and errors, each as soon as it is known."""
        for events in self._rounds():
            yield from self._rejected()
            for event in events:
                done = self._collect(event)
                if done is not None:
                    yield done
            self._give_back()
            self._report_progress()
        yield from self._rejected()
        if self._intake.failure is not None:
            raise self._intake.failure

    def stream(self) -> Iterator[StreamUpdate]:
        """Text of the single job as it comes. Raises the job's own error."""
        text = IncrementalDetokenizer(self._parts.tokenizer())
        shown, held_back = 0, ""
        for events in self._rounds():
            for event in events:
                if event.error is not None:
                    raise event.error
                new_text = text.append([event.sample.token_id]) if event.sample else ""
                stop, done = self._stop_strings(event), self._collect(event)
                if done is None:
                    # What may be the beginning of a stop string is not shown yet.
                    pending = held_back + new_text
                    visible = len(pending) - max(map(len, stop), default=1) + 1
                    delta, held_back = pending[: max(0, visible)], pending[max(0, visible) :]
                    shown += len(delta)
                    yield StreamUpdate(delta, finished=False)
                    continue
                assert done.output is not None
                # The final text is cut at a stop string or without the ending token.
                yield StreamUpdate(done.output.outputs[0].text[shown:], True, done.output)
        for result in self._rejected():
            assert result.error is not None
            raise result.error

    def finish_early(self, grace_s: float) -> bool:
        """Finish what decodes, for grace_s at most, and leave the rest; from any thread.

        Returns whether the run can: not before it has begun. `results` ends early then, or raises
        KeyboardInterrupt when the time is up.
        """
        if self._control is None:
            return False
        self._end_by_s = self._parts.executor.now_s() + grace_s
        self._intake.stop()
        return True

    def take_back(self, keys: Collection[object], on_taken: TakenBack) -> None:
        """Give up those jobs of these keys that have not begun; from any thread.

        They end without a result. `on_taken` is called on the thread that takes the results.
        """
        self._take_backs.append((keys, on_taken))

    def settle(self) -> None:
        """End the run: no more jobs are read, batches still in flight are waited for."""
        self._intake.cancel()
        try:
            self._parts.executor.settle()
        except StageFailed as failure:  # nothing of this run is missing; the next one restarts
            log.warning("at the end of the run, %s", failure.headline)
        self._keep_spans()

    def stop_reading(self) -> None:
        """End the run of an executor that is gone."""
        self._intake.cancel()
        self._keep_spans()

    def summary(self) -> RunSummary:
        """Figures of the run so far."""
        assert self._control is not None and self._collector is not None
        assert self.trace is not None and self._recovery is not None
        totals = RunTotals(
            scheduler=self._parts.scheduler,
            partition=self._parts.partition,
            num_requests=self._collector.num_finished,
            num_failed=self._num_failed,
            prompt_tokens=self._collector.num_prompt_tokens,
            requested_tokens=sum(self._collector.prompt_tokens),
            cached_tokens=sum(self._collector.cached_tokens),
            output_tokens=self._collector.num_output_tokens,
            num_preemptions=self._control.state.num_preemptions,
            peak_kv_blocks=self._control.state.pool.peak_used,
            wall_s=self._wall_s,
            bound=self._bound(),
            recomputed_tokens=self._control.state.num_recomputed_tokens,
            num_restarts=self._recovery.num_restarts,
        )
        return summarize(self.trace, totals)

    def record(self) -> RunRecord | None:
        """What a report is made of; None where no batch was run yet."""
        if self.trace is None or not self.trace.batches:
            return None
        self._keep_spans()
        return RunRecord(self.trace, self.summary())

    # ---- details

    def _bound(self) -> RunBound | None:
        """The least time for what is finished; in time linear in the requests."""
        assert self._control is not None and self._collector is not None
        if not self._collector.prompt_tokens:
            return None
        cost, collector = self._parts.cost, self._collector
        kv_tokens = self._control.limits.kv_tokens
        bound = lower_bound(collector.lengths(), cost, kv_tokens, collector.cached_tokens)
        return RunBound(bound.seconds, bound.name, not isinstance(cost, ProfiledCost))

    def _stop_strings(self, event: OutputEvent) -> tuple[str, ...]:
        return self._intake.accepted[event.request_id].job.params.stop

    def _keep_spans(self) -> None:
        if self.trace is not None:
            self.trace.spans = self._parts.executor.spans

    def _rounds(self) -> Iterator[list[OutputEvent]]:
        """Drive the pipeline; one list of events per round of results."""
        parts = self._parts
        limits = parts.limits()
        checker = StopStringChecker(parts.tokenizer())
        self._control = ControlPlane(
            limits,
            parts.new_policy(),
            parts.predictor,
            checker,
            prefix_caching=parts.prefix_caching,
        )
        self._recovery = FaultRecovery(
            self._control, parts.executor.restart, parts.new_policy, parts.max_restarts, log.warning
        )
        self._collector = OutputCollector(
            self._intake.accepted, parts.tokenizer(), checker, parts.source.end_token_ids
        )
        self.trace = RunTrace(limits.num_stages, limits.num_blocks, settings=dict(parts.settings))
        self.trace.forecasts = self._control.forecasts.log
        parts.executor.begin_run()
        self._intake.open(limits)
        started_s = parts.executor.now_s()
        arrivals = self._intake.arrivals
        for events in drive(self._control, parts.executor, arrivals, self.trace, self._recovery):
            self._wall_s = parts.executor.now_s() - started_s
            yield events
            if self._end_by_s is not None:
                self._control.withdraw_waiting()
                if parts.executor.now_s() > self._end_by_s:
                    raise KeyboardInterrupt
        self._control.check()

    def _collect(self, event: OutputEvent) -> JobResult | None:
        assert self._collector is not None
        if event.error is not None:
            return self._given_up(event.request_id, event.error)
        done = self._collector.take(event)
        if done is None:
            return None
        accepted, output = done
        self._intake.ended(accepted)
        return JobResult(accepted.job.key, output, None)

    def _given_up(self, request_id: int, error: TdpipeError) -> JobResult | None:
        """The result of a job of which one completion cannot be had: the others end too."""
        assert self._collector is not None and self._control is not None
        accepted = self._collector.drop(request_id)
        if accepted is None:
            return None
        for number in range(accepted.job.params.n):
            self._control.abort(accepted.first_request_id + number)
        self._num_failed += 1
        self._intake.ended(accepted)
        return JobResult(accepted.job.key, None, error)

    def _give_back(self) -> None:
        while self._take_backs:
            keys, on_taken = self._take_backs.popleft()
            found = [one for one in list(self._intake.accepted.values()) if one.job.key in keys]
            jobs = {one.first_request_id: one for one in found}.values()
            on_taken([one.job.key for one in jobs if self._withdraw(one)])

    def _withdraw(self, accepted: AcceptedJob) -> bool:
        """Forget a job; False if a request of it has begun."""
        assert self._collector is not None and self._control is not None
        first, waiting = accepted.first_request_id, self._control.state.waiting
        ids = range(first, first + accepted.job.params.n)
        if any(i not in waiting or waiting[i].num_preemptions for i in ids):
            return False
        for request_id in ids:
            self._control.abort(request_id)
        self._collector.drop(first)
        self._intake.ended(accepted)
        return True

    def _rejected(self) -> Iterator[JobResult]:
        while self._intake.rejected:
            rejected = self._intake.rejected.popleft()
            self._num_failed += 1
            self._intake.ended(rejected)
            yield JobResult(rejected.job.key, None, rejected.error)

    def _report_progress(self) -> None:
        due_s = self._reported_s + PROGRESS_INTERVAL_S
        if self._on_progress is None or self._meter is None or self._wall_s < due_s:
            return
        self._reported_s = self._wall_s
        assert self.trace is not None and self._control is not None
        spans, jobs = self._parts.executor.spans, self._job_counts()
        self._on_progress(self._meter.moment(self._control, self.trace, spans, jobs, self._wall_s))

    def _job_counts(self) -> JobCounts:
        assert self._collector is not None and self._recovery is not None
        return JobCounts(
            num_finished=self._collector.num_finished + self._num_failed,
            num_failed=self._num_failed,
            num_requests=self._intake.num_jobs,
            num_prompt_tokens=self._collector.num_prompt_tokens,
            num_output_tokens=self._collector.num_output_tokens,
            entered_prompt_tokens=self._collector.num_entered_tokens,
            ended=tuple(self._collector.ended.items()),
            num_restarts=self._recovery.num_restarts,
        )
