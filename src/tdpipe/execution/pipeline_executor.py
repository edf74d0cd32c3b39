"""The real Executor: stage processes, fed ahead of time, never waited for.

engine  --Run-->  stage 0  --hidden-->  stage 1 ...  --hidden-->  last stage
   ^------------------------- Done(samples) -------------------------|
"""

import contextlib
import os
import tempfile
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import zmq

from tdpipe.core.batch_plan import BatchPlan, BatchResult
from tdpipe.core.errors import StageFailed
from tdpipe.execution.stage_launcher import StageProcesses
from tdpipe.execution.wire import (
    Allocate,
    Done,
    Failed,
    FromStage,
    Loaded,
    Ready,
    Reset,
    Run,
    StageSpec,
    Stop,
    ToStage,
    decode_from_stage,
    encode,
)
from tdpipe.tracing.trace_columns import SpanColumns
from tdpipe.tracing.trace_records import StageSpan

# How often a wait looks whether the stage processes are alive.
LIVENESS_S = 0.5
# What loading and meeting may take before a stage counts as hung.
START_LIMIT_S = 600.0


@dataclass(frozen=True, slots=True)
class PipelineSpec:
    """A pipeline to start: `layers` per stage, one device and set of cores each."""

    model_folder: Path
    layers: tuple[int, ...]
    dtype: str
    devices: tuple[str, ...]
    cores: tuple[tuple[int, ...], ...]
    block_size: int
    max_model_len: int
    memory_utilization: float = 0.9
    length_predictor: Path | None = None
    quantization: str | None = None


class PipelineExecutor:
    """Starts the stages at once and returns; `loaded` and `allocate` wait for them.

    Raises (all methods):
        StageFailed: a stage raised or ended; call `close` then.
    """

    def __init__(self, spec: PipelineSpec) -> None:
        self.num_stages = len(spec.layers)
        self.depth = self.num_stages + 1
        self.spans = SpanColumns()
        self._in_flight: deque[int] = deque()
        self._reports_due = 0  # every stage reports every batch, the last stage perhaps first
        self._results: deque[BatchResult] = deque()
        # Mode 0700: the sockets in it are nobody else's.
        self._temporary = tempfile.TemporaryDirectory(prefix="tdpipe-", ignore_cleanup_errors=True)
        self._folder = Path(self._temporary.name)
        self._context = zmq.Context()
        self._closed = False
        try:
            self._from_stages = self._bind(zmq.PULL, "engine")
            self._to_stages = [
                self._bind(zmq.PUSH, f"stage{stage}") for stage in range(self.num_stages)
            ]
            self._processes = StageProcesses(self._stage_specs(spec))
        except BaseException:
            self._context.destroy(linger=0)
            self._temporary.cleanup()
            raise

    # ---- start

    def loaded(self) -> list[Loaded]:
        """What each stage reports of its weights and memory, in order of stages."""
        reports = [message for message in self._gather(Loaded) if isinstance(message, Loaded)]
        return sorted(reports, key=lambda report: report.stage)

    def allocate(self, num_blocks: int) -> None:
        """Make the KV caches and connect the stages; returns when all can run batches."""
        self._broadcast(Allocate(num_blocks))
        self._gather(Ready)

    def begin_run(self) -> None:
        """Start a new run: sequences are forgotten, spans collected afresh."""
        assert not self._reports_due, self._reports_due
        self.spans = SpanColumns()
        self._broadcast(Reset())

    @property
    def pids(self) -> list[int]:
        """Process ids of the stages."""
        return self._processes.pids

    # ---- Executor

    def has_room(self) -> bool:
        return len(self._in_flight) < self.depth

    def now_s(self) -> float:
        return time.monotonic()

    def submit(self, plan: BatchPlan) -> None:
        self._in_flight.append(plan.batch_id)
        self._reports_due += self.num_stages
        self._broadcast(Run(plan))

    def wait(self, until_s: float | None) -> list[BatchResult]:
        """Results that have come, waiting for at least one until until_s."""
        while not self._results:
            left_s = LIVENESS_S if until_s is None else until_s - time.monotonic()
            if left_s <= 0 and not self._from_stages.poll(0):
                return []
            message = self._receive(min(max(left_s, 0.0), LIVENESS_S))
            if isinstance(message, Done):
                self._take(message)
        results = list(self._results)
        self._results.clear()
        return results

    def settle(self) -> None:
        """Wait until every stage has reported every batch, so that `spans` is complete."""
        while self._reports_due:
            message = self._receive(LIVENESS_S)
            if isinstance(message, Done):
                self._take(message)
        self._results.clear()

    def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        with contextlib.suppress(StageFailed):
            self._broadcast(Stop())
        self._processes.end()
        # One by one: when the interpreter shuts down the context has lost track of its sockets,
        # and would wait for ever for those that are open.
        for socket in (self._from_stages, *self._to_stages):
            socket.close(linger=0)
        self._context.term()
        self._temporary.cleanup()

    # ---- messages

    def _take(self, done: Done) -> None:
        self._reports_due -= 1
        self.spans.append(StageSpan(done.stage, done.batch_id, done.start_s, done.end_s))
        if done.stage == self.num_stages - 1:
            expected = self._in_flight.popleft()
            assert done.batch_id == expected, (done.batch_id, expected)
            self._results.append(BatchResult(done.batch_id, done.samples))

    def _broadcast(self, message: ToStage) -> None:
        data = encode(message)
        for socket in self._to_stages:
            try:
                socket.send(data, zmq.NOBLOCK)
            except zmq.Again:
                # A stage that is gone takes nothing; `check` in the next wait says which.
                self._processes.check()

    def _receive(self, limit_s: float) -> FromStage | None:
        """The next message, or None after limit_s. Raises StageFailed."""
        if not self._from_stages.poll(round(limit_s * 1000)):
            try:
                self._processes.check()
            except StageFailed as ended:
                raise self._explained(ended) from None
            return None
        message: FromStage = decode_from_stage(self._from_stages.recv())
        if isinstance(message, Failed):
            raise StageFailed(message.stage, message.cause, message.traceback)
        return message

    def _explained(self, ended: StageFailed) -> StageFailed:
        """Prefer a stage's own last words, which may arrive just after its end was seen."""
        while self._from_stages.poll(200):
            message = decode_from_stage(self._from_stages.recv())
            if isinstance(message, Failed):
                return StageFailed(message.stage, message.cause, message.traceback)
        return ended

    def _gather(self, kind: type[Loaded] | type[Ready]) -> list[FromStage]:
        """One message of this kind from each stage."""
        gathered: list[FromStage] = []
        deadline_s = time.monotonic() + START_LIMIT_S
        while len(gathered) < self.num_stages:
            message = self._receive(LIVENESS_S)
            if isinstance(message, kind):
                gathered.append(message)
            elif time.monotonic() > deadline_s:
                heard = {report.stage for report in gathered if isinstance(report, Loaded | Ready)}
                silent = min(set(range(self.num_stages)) - heard)
                raise StageFailed(silent, f"no answer in {START_LIMIT_S:.0f} s of starting")
        return gathered

    # ---- set-up

    def _bind(self, kind: int, name: str) -> "zmq.Socket[bytes]":
        socket = self._context.socket(kind)
        socket.bind(f"ipc://{self._folder / name}")
        return socket

    def _stage_specs(self, spec: PipelineSpec) -> list[StageSpec]:
        ends = [sum(spec.layers[: stage + 1]) for stage in range(self.num_stages)]
        return [
            StageSpec(
                stage=stage,
                num_stages=self.num_stages,
                model_folder=str(spec.model_folder),
                first_layer=ends[stage] - spec.layers[stage],
                end_layer=ends[stage],
                dtype=spec.dtype,
                device=spec.devices[stage],
                cores=spec.cores[stage],
                block_size=spec.block_size,
                max_model_len=spec.max_model_len,
                memory_utilization=spec.memory_utilization,
                engine_address=f"ipc://{self._folder / 'engine'}",
                stage_address=f"ipc://{self._folder / f'stage{stage}'}",
                rendezvous=str(self._folder / "rendezvous"),
                length_predictor=str(spec.length_predictor or ""),
                quantization=spec.quantization,
            )
            for stage in range(self.num_stages)
        ]


def assign_cores(num_stages: int, threads_per_stage: int = 1) -> tuple[tuple[int, ...], ...]:
    """Cores for each stage: its own where there are enough, else shared in turn."""
    usable: Sequence[int] = sorted(os.sched_getaffinity(0))
    count = num_stages * threads_per_stage
    turns = [usable[index % len(usable)] for index in range(count)]
    groups = [
        turns[stage * threads_per_stage : (stage + 1) * threads_per_stage]
        for stage in range(num_stages)
    ]
    return tuple(tuple(sorted(set(group))) for group in groups)
