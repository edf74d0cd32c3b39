"""The real Executor: stage processes, fed ahead of time, never waited for.

engine  --Run-->  stage 0  --hidden-->  stage 1 ...  --hidden-->  last stage
   ^------------------------- Done(samples) -------------------------|
"""

import logging
import os
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from math import inf
from pathlib import Path

from tdpipe.core.batch_plan import BatchPlan, BatchResult, Sample
from tdpipe.core.errors import ConfigError, FaultKind, StageFailed
from tdpipe.execution.stage_connection import StageConnection
from tdpipe.execution.stage_site import StageLauncher, StageSite
from tdpipe.execution.stage_watch import StageWatch
from tdpipe.execution.wire import (
    Alive,
    Allocate,
    Done,
    FromStage,
    Loaded,
    Ready,
    Reset,
    Run,
    StageSpec,
)
from tdpipe.tracing.trace_columns import SpanColumns
from tdpipe.tracing.trace_records import StageSpan

log = logging.getLogger("tdpipe")

# How often a wait looks whether the stage processes work.
LOOK_S = 0.25
# How long a stage may be idle with a batch to compute; on a card it waits for kernels to compile.
CPU_IDLE_S = 4.0
CARD_IDLE_S = 60.0
# What loading and meeting may take before a stage counts as hung.
START_LIMIT_S = 600.0


@dataclass(frozen=True, slots=True)
class PipelineSpec:
    """A pipeline to start: `layers` per stage; decodes of up to `graph_rows` are recorded."""

    model_folder: Path
    layers: tuple[int, ...]
    dtype: str
    block_size: int
    max_model_len: int
    memory_utilization: float = 0.9
    length_predictor: Path | None = None
    load_format: str = "auto"
    quantization: str | None = None
    kv_cache_dtype: str = "auto"
    graph_rows: int = 0
    tensor_parallel_size: int = 1


class PipelineExecutor:
    """Starts the stages at once and returns; `loaded` and `allocate` wait for them.

    Args:
        launcher: says where the processes run; it is closed with the executor.
        expected_s: seconds that a batch may take on the slowest stage, by the cost model; a batch
            that takes many times longer is overdue. Without it none is while its stage computes.

    Raises (all methods):
        StageFailed: a stage raised, ended, or no longer works; call `restart` or `close` then.
        ConfigError: (when made) there is no place for the processes.
    """

    _connection: StageConnection
    _watch: StageWatch

    def __init__(
        self,
        spec: PipelineSpec,
        launcher: StageLauncher,
        expected_s: Callable[[BatchPlan], float] = lambda plan: inf,
    ) -> None:
        self.num_stages = len(spec.layers)
        self._num_ranks = self.num_stages * spec.tensor_parallel_size
        self.depth = self.num_stages + 1
        self.spans = SpanColumns()
        self._spec = spec
        self._launcher = launcher
        self._expected_s = expected_s
        self._forecasts: dict[int, int] = {}  # request_id -> tokens, of samples to come
        self._num_blocks = 0
        self._looked_s = 0.0
        try:
            self._start()
        except BaseException:
            launcher.close()
            raise

    # ---- start

    def loaded(self) -> list[Loaded]:
        """What each process reports of its weights and memory, in order of ranks."""
        reports = [message for message in self._gather(Loaded) if isinstance(message, Loaded)]
        return sorted(reports, key=lambda report: report.rank)

    def allocate(self, num_blocks: int) -> None:
        """Make the KV caches and connect the stages; returns when all can run batches."""
        self._num_blocks = num_blocks
        self._connection.broadcast(Allocate(num_blocks))
        self._gather(Ready)
        self._connection.all_connected()
        self._watch.is_ready = True

    def restart(self) -> None:
        """End the stages at once and start new ones, with caches of the same size.

        What was on its way is lost; `spans` stay.
        """
        self._connection.close(at_once=True)
        try:
            self._start()
        except ConfigError as error:  # there was a place before
            raise StageFailed(0, f"no place to start again: {error}") from error
        self.loaded()
        self.allocate(self._num_blocks)

    def begin_run(self) -> None:
        """Start a new run: sequences are forgotten, spans collected afresh.

        Stages that have failed since the last run, or at its very end, are started anew.
        """
        assert self._has_failed or not self._reports_due, self._reports_due
        self.spans = SpanColumns()
        self._forecasts.clear()
        try:
            if self._has_failed:
                self.restart()
            self._connection.check()
            self._connection.broadcast(Reset())
        except StageFailed as failure:
            log.warning("between runs, %s; starting the stages again", failure.headline)
            self.restart()

    @property
    def pids(self) -> list[int]:
        """Process ids, in order of ranks."""
        return self._connection.pids

    # ---- Executor

    def has_room(self) -> bool:
        return len(self._in_flight) < self.depth

    def now_s(self) -> float:
        return time.monotonic()

    def submit(self, plan: BatchPlan) -> None:
        self._in_flight.append(plan.batch_id)
        self._reports_due += self._num_ranks
        self._watch.submitted(plan, self._expected_s(plan), time.monotonic())
        with self._noted():
            self._connection.broadcast(Run(plan))

    def wait(self, until_s: float | None) -> list[BatchResult]:
        """Results that have come, waiting for at least one until until_s."""
        while not self._results:
            left_s = LOOK_S if until_s is None else until_s - time.monotonic()
            message = self._receive(min(max(left_s, 0.0), LOOK_S))
            if isinstance(message, Done):
                self._take(message)
            elif message is None and left_s <= 0:
                return []
        results = list(self._results)
        self._results.clear()
        return results

    def settle(self) -> None:
        """Wait until every process has reported every batch, so that `spans` is complete."""
        while self._reports_due:
            message = self._receive(LOOK_S)
            if isinstance(message, Done):
                self._take(message)
        self._results.clear()

    def close(self) -> None:
        self._connection.close(at_once=self._has_failed)
        self._launcher.close()

    # ---- messages

    def _take(self, done: Done) -> None:
        self._reports_due -= 1
        self._watch.reported(done.rank, time.monotonic())
        stage, tensor_rank = divmod(done.rank, self._spec.tensor_parallel_size)
        if tensor_rank > 0:
            return
        ahead_s = self._connection.clock_ahead_s(done.rank)
        start_s, end_s = done.start_s - ahead_s, done.end_s - ahead_s
        span = StageSpan(stage, done.batch_id, start_s, end_s, done.collective_s)
        self.spans.append(span)
        self._forecasts |= done.forecasts
        if stage == self.num_stages - 1:
            expected = self._in_flight.popleft()
            assert done.batch_id == expected, (done.batch_id, expected)
            self._results.append(BatchResult(done.batch_id, self._with_forecasts(done.samples)))

    def _with_forecasts(self, samples: tuple[Sample, ...]) -> tuple[Sample, ...]:
        """The samples, with the forecasts that have come for their requests.

        Another stage's report may be overtaken by the last stage's: its forecast then goes with
        the request's next sample.
        """
        if not self._forecasts:
            return samples
        return tuple(
            one._replace(forecast_tokens=self._forecasts.pop(one.request_id))
            if one.request_id in self._forecasts
            else one
            for one in samples
        )

    def _receive(self, limit_s: float) -> FromStage | None:
        """The next message, or None after limit_s. Raises StageFailed."""
        with self._noted():
            message = self._connection.receive(limit_s)
            if message is not None:
                self._watch.heard(message.rank, time.monotonic())
            # Heartbeats of many stages may leave no moment without a message.
            if isinstance(message, Alive | None) and not self._connection.has_message():
                self._look()
            return message

    @contextmanager
    def _noted(self) -> Iterator[None]:
        """Remember a failure, and find the batch at which a stage died."""
        try:
            yield
        except StageFailed as failure:
            self._has_failed = True
            for message in self._connection.late:
                if isinstance(message, Done):
                    self._take(message)
            if failure.kind is FaultKind.DIED:
                rank = failure.stage * self._spec.tensor_parallel_size + failure.tensor_rank
                failure.batch_id = self._watch.batch_at(rank)
            raise

    def _look(self) -> None:
        """See whether the stages work, now and then; when no message waits."""
        now_s = time.monotonic()
        if now_s - self._looked_s < LOOK_S / 2:
            return
        self._looked_s = now_s
        self._connection.check()
        failure = self._watch.judge(self._connection.vitals(), now_s)
        if failure is not None:
            raise failure

    def _gather(self, kind: type[Loaded] | type[Ready]) -> list[FromStage]:
        """One message of this kind from each process."""
        gathered: list[FromStage] = []
        deadline_s = time.monotonic() + START_LIMIT_S
        while len(gathered) < self._num_ranks:
            message = self._receive(LOOK_S)
            if isinstance(message, kind):
                gathered.append(message)
            elif time.monotonic() > deadline_s:
                heard = {report.rank for report in gathered if isinstance(report, Loaded | Ready)}
                silent = min(set(range(self._num_ranks)) - heard)
                stage, rank = divmod(silent, self._spec.tensor_parallel_size)
                cause = f"no answer in {START_LIMIT_S:.0f} s of starting"
                raise StageFailed(stage, cause, kind=FaultKind.HUNG, tensor_rank=rank)
        return gathered

    # ---- set-up

    def _start(self) -> None:
        self._in_flight: deque[int] = deque()
        self._reports_due = 0  # every process reports every batch, the last stage perhaps first
        self._results: deque[BatchResult] = deque()
        self._has_failed = False
        self._connection = StageConnection(self._launcher, self._num_ranks, self._stage_specs)

    def _stage_specs(
        self, site: StageSite, engine_address: str, rank_addresses: list[str]
    ) -> list[StageSpec]:
        on_cpu = all(seat.device == "cpu" for seat in site.seats)
        ranks = self._spec.tensor_parallel_size
        self._watch = StageWatch(self.num_stages, CPU_IDLE_S if on_cpu else CARD_IDLE_S, ranks)
        spec = self._spec
        ends = [sum(spec.layers[: stage + 1]) for stage in range(self.num_stages)]
        places = [divmod(rank, spec.tensor_parallel_size) for rank in range(self._num_ranks)]
        return [
            StageSpec(
                stage=stage,
                num_stages=self.num_stages,
                model_folder=str(spec.model_folder),
                first_layer=ends[stage] - spec.layers[stage],
                end_layer=ends[stage],
                dtype=spec.dtype,
                **asdict(site.seats[rank]),
                block_size=spec.block_size,
                max_model_len=spec.max_model_len,
                memory_utilization=spec.memory_utilization,
                engine_address=engine_address,
                stage_address=rank_addresses[rank],
                rendezvous=site.rendezvous,
                keys=site.keys,
                length_predictor=str(spec.length_predictor or ""),
                load_format=spec.load_format,
                quantization=spec.quantization,
                kv_cache_dtype=spec.kv_cache_dtype,
                graph_rows=spec.graph_rows,
                tensor_rank=tensor_rank,
                tensor_parallel_size=spec.tensor_parallel_size,
            )
            for rank, (stage, tensor_rank) in enumerate(places)
        ]


def assign_cores(num_ranks: int, threads_per_rank: int = 1) -> tuple[tuple[int, ...], ...]:
    """Cores for each process: its own where there are enough, else shared in turn."""
    usable: Sequence[int] = sorted(os.sched_getaffinity(0))
    count = num_ranks * threads_per_rank
    turns = [usable[index % len(usable)] for index in range(count)]
    groups = [
        turns[rank * threads_per_rank : (rank + 1) * threads_per_rank] for rank in range(num_ranks)
    ]
    return tuple(tuple(sorted(set(group))) for group in groups)
