"""The front end of several engines: what LLM is for one, as far as a batch run needs it."""

import json
import os
from collections.abc import Callable, Generator, Iterable
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tdpipe.config.engine_config import EngineConfig
from tdpipe.config.stage_devices import cards_needed
from tdpipe.core.errors import ConfigError, StageFailed
from tdpipe.execution.models.model_source import resolve_model
from tdpipe.llm import make_config
from tdpipe.outputs import Job, JobResult, Progress
from tdpipe.replicas.job_text import error_from, job_text
from tdpipe.replicas.machine_shares import card_groups, core_groups, visible_cards
from tdpipe.replicas.messages import Check, Checked, Described, Failed, Ready, ReplicaSpec
from tdpipe.replicas.pool_run import PoolRun
from tdpipe.replicas.pool_summary import PoolSummary
from tdpipe.replicas.replica_processes import ReplicaProcesses

WAIT_S = 0.25


class ReplicaPool:
    """A model in `replicas` engines, each a process with stages of its own.

    Jobs are shared among them by expected work (assignment). Results do not depend on which replica
    a job runs at, nor on how many there are. A replica that is lost is not started again: its jobs
    go to the others. The replicas start in the background; the first run waits for them. Use it as
    a context manager or call `close`: either ends all processes.

    Args:
        model: see EngineConfig, as for all settings in `settings`; they are those of each replica.
        replicas: how many.
        timeline: file for a Chrome trace of the latest run; each replica writes its own, with its
            number in the name ("run.replica0.json").

    Raises:
        ConfigError: a setting cannot be used, or there are not enough cards.
        CapacityError: the KV memory is too small for one request.
        StageFailed: (from any run) all replicas have failed; the pool is closed then.
    """

    def __init__(
        self,
        model: str,
        *,
        replicas: int,
        timeline: str | Path | None = None,
        **settings: Any,
    ) -> None:
        self._processes: ReplicaProcesses | None = None
        if isinstance(replicas, bool) or not isinstance(replicas, int) or replicas < 1:
            raise ConfigError("replicas", replicas, "use a whole number, 1 or more")
        self.config = make_config(model, settings)
        self.num_replicas = replicas
        self._described: dict[int, Described] = {}
        self._windows: dict[int, int] = {}
        self._num_runs = 0
        self._open_run: PoolRun | None = None
        self._last_run: PoolRun | None = None
        # What must be fetched or exported first is, once.
        resolve_model(model, self.config.load_format)
        texts = [
            _settings_text(
                model, self._own_settings(settings, i), timeline and timeline_of(timeline, i)
            )
            for i in range(replicas)
        ]
        cores, environments = _machine_shares(self.config, replicas)

        def specs(folder: Path) -> list[ReplicaSpec]:
            return [
                ReplicaSpec(
                    replica=i,
                    num_replicas=replicas,
                    settings=texts[i],
                    cores=cores[i],
                    pool_address=f"ipc://{folder / 'pool'}",
                    replica_address=f"ipc://{folder / f'replica{i}'}",
                )
                for i in range(replicas)
            ]

        self._processes = ReplicaProcesses(specs, environments)
        self._wait_for(self._described)

    def _own_settings(self, settings: dict[str, Any], replica: int) -> dict[str, Any]:
        """The settings of one replica: on a cluster each has ports of its own."""
        config = self.config
        if config.distributed_executor_backend != "ray":
            return settings
        if config.ray_address is None:
            fix = "each replica would start a cluster: give auto or HOST:PORT of a running one"
            raise ConfigError("ray_address", None, fix)
        if not config.control_port:
            return settings
        num_ports = 1 + config.pipeline_parallel_size * config.tensor_parallel_size
        return {**settings, "control_port": config.control_port + replica * num_ports}

    @property
    def partition(self) -> tuple[int, ...]:
        """Layers per stage of each replica."""
        return self._described[0].layers

    @property
    def pids(self) -> list[int]:
        """Process ids of all replicas, those that were lost too."""
        return self._alive().pids

    # ---- runs

    def submit_iter(
        self, jobs: Iterable[Job], on_progress: Callable[[Progress], None] | None = None
    ) -> Generator[JobResult, None, None]:
        """Run jobs, read lazily; yields each job's output or error as it ends.

        Whoever does not take all results closes the pool with the iterator.
        """
        self.wait_until_ready()
        processes = self._alive()
        windows = [self._windows[replica] for replica in range(self.num_replicas)]
        self._num_runs += 1
        run = PoolRun(self._num_runs, processes, windows, jobs, on_progress)
        self._open_run = self._last_run = run
        try:
            yield from run.results()
        finally:
            self._open_run = None
            if not run.is_over:
                self.close()

    def finish_early(self, grace_s: float = 0.0) -> bool:
        """Let the present run finish what decodes, for grace_s at most; from a signal handler too.

        The run's results end then, without those of the jobs that were left. False when there is
        no run that decodes.
        """
        return self._open_run is not None and self._open_run.finish_early(grace_s)

    def check(self, job: Job) -> None:
        """Whether a job could run, by a replica's word; waits for the stages, runs nothing.

        Raises:
            RequestRejected: it cannot.
        """
        self.wait_until_ready()
        if job.error is not None:
            raise job.error
        processes, text = self._alive(), job_text(job)
        while processes.living:
            asked = min(processes.living)
            processes.send(asked, Check(text))
            while asked in processes.living:
                message = processes.receive(WAIT_S)
                if isinstance(message, Checked):
                    if message.error is not None:
                        raise error_from(message.error)
                    return
        self.close()
        raise StageFailed(0, "all replicas have failed")

    def result_settings(self) -> dict[str, object]:
        """What results depend on beside the jobs: as LLM's, whatever the number of replicas."""
        settings: dict[str, object] = json.loads(self._described[0].result_settings)
        return settings

    def record(self) -> None:
        """None: the traces stay with the replicas, which write them as `timeline`."""

    def figures(self) -> dict[str, Any] | None:
        """The summary as plain values, for logs; None before any run."""
        if self._last_run is None:
            return None
        summary = self.summary()
        return {**asdict(summary), "output_tokens_per_s": summary.output_tokens_per_s}

    def summary(self) -> PoolSummary:
        """Figures of the latest run."""
        assert self._last_run is not None, "no run yet"
        return self._last_run.summary()

    # ---- life cycle

    def wait_until_ready(self) -> None:
        """Wait until every replica's stages can run batches."""
        self._wait_for(self._windows)
        self._alive().remove_folder()

    def close(self) -> None:
        """End all processes; may be called twice."""
        if self._processes is not None:
            self._processes.close()
            self._processes = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def __del__(self) -> None:
        self.close()

    # ---- details

    def _alive(self) -> ReplicaProcesses:
        if self._processes is None:
            raise StageFailed(0, "the replicas are closed; make a new ReplicaPool")
        return self._processes

    def _wait_for(self, told: dict[int, Any]) -> None:
        """Wait until all replicas have told this. Raises what keeps one from starting."""
        processes = self._alive()
        try:
            while len(told) < self.num_replicas:
                message = processes.receive(WAIT_S)
                if isinstance(message, Described):
                    self._described[message.replica] = message
                elif isinstance(message, Ready):
                    self._windows[message.replica] = message.window
                elif isinstance(message, Failed):
                    raise error_from(message.error)
        except BaseException:
            self.close()
            raise


def _machine_shares(
    config: EngineConfig, replicas: int
) -> tuple[list[tuple[int, ...]], list[dict[str, str]]]:
    """Cores of each replica, and what its environment says of its cards."""
    if config.distributed_executor_backend == "ray":
        return [()] * replicas, [{} for _ in range(replicas)]  # the cluster shares out its nodes
    needed = num_ranks = config.pipeline_parallel_size * config.tensor_parallel_size
    device, devices = config.device, config.devices()
    if devices is not None:  # each replica counts its own cards from 0
        device, needed = devices[0].partition(":")[0], cards_needed(devices)
    cards = card_groups(visible_cards(device), replicas, needed, device)
    if cards is not None:
        return [()] * replicas, [{"CUDA_VISIBLE_DEVICES": ",".join(group)} for group in cards]
    usable = sorted(os.sched_getaffinity(0))
    cores = core_groups(usable, replicas, num_ranks * config.threads_per_stage)
    return cores, [{} for _ in range(replicas)]


def timeline_of(timeline: str | Path, replica: int) -> str:
    """The file of one replica's trace."""
    path = Path(timeline)
    return str(path.with_name(f"{path.stem}.replica{replica}{path.suffix}"))


def _settings_text(model: str, settings: dict[str, Any], timeline: str | Path | None) -> str:
    """Arguments of LLM as JSON. Raises ConfigError for what is no plain value."""
    for name, value in settings.items():
        try:
            json.dumps(value)
        except (TypeError, ValueError):
            fix = "replicas are other processes: give a name, a file, text or numbers"
            raise ConfigError(name, value, fix) from None
    return json.dumps({"model": model, "timeline": timeline, **settings})
