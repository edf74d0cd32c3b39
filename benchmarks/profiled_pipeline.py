"""A pipeline whose stages were just measured: runs workloads on it for real, and simulated.

What enters are requests of known length, what leaves are seconds of the run and of each stage.
"""

import sys
import time
from dataclasses import asdict, replace
from functools import partial
from typing import Any

from tdpipe.config.engine_config import EngineConfig
from tdpipe.control.arrivals import TimedRequest
from tdpipe.core.batch_plan import BatchPlan
from tdpipe.core.sampling_params import SamplingParams
from tdpipe.cost.cost_model import BatchLoad, plan_load
from tdpipe.execution.models.model_source import resolve_model
from tdpipe.execution.pipeline_executor import PipelineExecutor
from tdpipe.execution.stage_profiler import QUICK_GRID, ProfileGrid, profile_stages
from tdpipe.frontend.intake_forecasts import IntakeForecasts
from tdpipe.frontend.job_run import JobRun, RunParts
from tdpipe.frontend.pipeline_setup import resolve_setup
from tdpipe.outputs import Job
from tdpipe.policies.scheduler_registry import make_scheduler
from tdpipe.simulation.simulated_run import simulate
from tdpipe.simulation.workload import requests_of_lengths
from tdpipe.text.tokenizer import Tokenizer
from workload_lognormal import WorkItem

MODEL = "smollm2-135m-instruct"
Figures = dict[str, Any]
# Of each process: several pipelines are held at a time, and none of the workloads fills it.
KV_CACHE_MEMORY = "1GiB"
# Enough to simulate a few short requests.
SMOKE_GRID = replace(
    QUICK_GRID, prefill_tokens=(8, 64), pair_tokens=64, rows=4, decode_sequences=(1, 8),
    contexts=(16, 128), kv_sequences=8, link_tokens=16, rounds=1,
)  # fmt: skip


class RecordedLoads:
    """An executor that keeps the load of every batch of the run."""

    def __init__(self, executor: PipelineExecutor) -> None:
        self.loads: dict[int, BatchLoad] = {}
        self._executor = executor

    def submit(self, plan: BatchPlan) -> None:
        """Hand over a batch."""
        self.loads[plan.batch_id] = plan_load(plan)
        self._executor.submit(plan)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._executor, name)


class ProfiledPipeline:
    """Started stages; `profile` comes before runs.

    Args:
        config: of the engine; its scheduler counts nowhere.
        grid: what a profile measures.
    """

    def __init__(self, config: EngineConfig, grid: ProfileGrid) -> None:
        self.config = config
        self.source = resolve_model(config.model, config.load_format)
        self.tokenizer = Tokenizer(self.source.folder)
        self.setup = resolve_setup(self.config, self.source)
        self.executor = self.setup.executor(self.source.folder)
        self.grid = grid
        self.profiles: list[Figures] = []
        try:
            self.limits = self.setup.allocate(self.executor)
        except BaseException:
            self.executor.close()
            raise

    def profile(self, grid: ProfileGrid | None = None) -> None:
        """Measure the stages anew; runs and simulations use these times from now on."""
        started_s = time.monotonic()
        self.cost = profile_stages(self.executor, self.limits, self.setup.layers, grid or self.grid)
        took_s = time.monotonic() - started_s
        self.profiles.append({"took_s": took_s, **asdict(self.cost)})
        print(f"profiled in {took_s:.0f} s", file=sys.stderr)

    def run(self, scheduler: str, workload: list[WorkItem]) -> Figures:
        """A real run; seconds, and the busy time of the stages by what their batches held."""
        recorded = RecordedLoads(self.executor)
        parts = RunParts(
            executor=recorded,  # type: ignore[arg-type]
            limits=lambda: self.limits,
            scheduler=scheduler,
            new_policy=partial(make_scheduler, scheduler, self.cost),
            cost=self.cost,
            predictor=self.config.predictor(),
            forecasts=IntakeForecasts(),
            tokenizer=lambda: self.tokenizer,
            source=self.source,
            partition=self.setup.layers,
            seed=0,
            max_restarts=0,
            settings={},
        )
        cpu_s = time.process_time()
        run = JobRun(jobs_of(workload), parts)
        made = {result.key: len(result.output.outputs[0].token_ids) for result in run.results()}
        run.settle()
        assert made == {index: item.output_tokens for index, item in enumerate(workload)}
        summary = run.summary()
        return {
            "wall_s": summary.wall_s,
            "bound_s": summary.bound.seconds,
            "bound": summary.bound.name,
            "num_batches": summary.num_batches,
            "num_preemptions": summary.num_preemptions,
            "peak_kv_share": summary.peak_kv_share,
            "busy_shares": list(summary.stage_busy_shares),
            "engine_cpu_s": time.process_time() - cpu_s,
            "collective_share": summary.collective_share,
            "busy_s": self._busy_s(run.trace.spans, recorded.loads),
        }

    def simulated(self, scheduler: str, workload: list[WorkItem]) -> Figures:
        """The same requests over the simulated pipeline."""
        lengths = [(len(item.prompt), item.output_tokens) for item in workload]
        run = simulate(
            [TimedRequest(0.0, request) for request in requests_of_lengths(lengths)],
            make_scheduler(scheduler, self.cost),
            self.cost,
            self.limits,
            self.config.predictor(),
            engine_overhead_s=self.cost.engine_s,
        )
        return {
            "wall_s": run.makespan_s,
            "num_batches": run.num_batches,
            "busy_s": [share * run.makespan_s for share in run.busy_shares],
        }

    def _busy_s(self, spans: list[Any], loads: dict[int, BatchLoad]) -> list[Figures]:
        """For each stage and kind of batch: how many, seconds measured, and by the profile."""
        stages: list[Figures] = [{} for _ in range(self.limits.num_stages)]
        for span in spans:
            load = loads[span.batch_id]
            found = stages[span.stage].setdefault(
                kind_of(load), {"batches": 0, "measured_s": 0.0, "own_batches_s": 0.0}
            )
            found["batches"] += 1
            found["measured_s"] += span.end_s - span.start_s
            found["own_batches_s"] += self.cost.stage_time_s(span.stage, load)
        return stages


def layout_config(layout: str) -> EngineConfig:
    """The embedded model on CPU, in a layout such as PP2, TP2 or PP2xTP2."""
    sizes = {one[:2]: int(one[2:]) for one in layout.split("x")}
    return EngineConfig(
        MODEL,
        pipeline_parallel_size=sizes.get("PP", 1),
        tensor_parallel_size=sizes.get("TP", 1),
        dtype="float32",
        device="cpu",
        kv_cache_memory=KV_CACHE_MEMORY,
    )


def kind_of(load: BatchLoad) -> str:
    """What a batch holds."""
    if load.prefill_tokens and load.decode_sequences:
        return "mixed"
    return "prefill" if load.prefill_tokens else "decode"


def jobs_of(workload: list[WorkItem]) -> list[Job]:
    """Jobs that generate exactly their output tokens."""
    return [
        Job(
            index,
            item.prompt,
            None,
            SamplingParams(temperature=0.0, max_tokens=item.output_tokens, ignore_eos=True),
        )
        for index, item in enumerate(workload)
    ]
