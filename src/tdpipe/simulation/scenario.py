"""A workload on a placement with the settings of the engine: everything but the scheduler.

A `Scenario` knows its limits and its lower bound, and runs under any scheduler by name. The
tensor-parallel schedulers (tp-separate, tp-hybrid) are for one stage that all devices share:
`for_scheduler` gives the scenario that a scheduler is meant for.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from tdpipe.core.block_pool import blocks_for
from tdpipe.core.errors import CapacityError, ConfigError
from tdpipe.core.limits import Limits
from tdpipe.core.tensor_shard import check_tensor_parallel
from tdpipe.cost.placement import UTILIZATION, Placement, place
from tdpipe.policies.scheduler_registry import SCHEDULERS, TENSOR_PARALLEL, make_scheduler
from tdpipe.simulation.lower_bound import LowerBound, lower_bound
from tdpipe.simulation.predictor_choice import check_predictor, make_predictor
from tdpipe.simulation.simulated_run import SimulatedRun, simulate
from tdpipe.simulation.workload import Workload, timed_requests_of
from tdpipe.simulation.workload_file import read_workload
from tdpipe.simulation.workload_models import WORKLOAD_MODELS, generate_workload

SCHEDULER_NAMES = (*SCHEDULERS, *TENSOR_PARALLEL)
DEFAULT_REQUESTS = 1000


@dataclass(frozen=True, slots=True)
class Scenario:
    """One simulated experiment.

    Attributes:
        placement: the model on its devices.
        workload: the requests.
        predictor: a length predictor by name (see predictor_choice).
        max_model_len: prompt and output tokens of a request; None for the workload's longest.
        utilization: share of a device's memory that weights, workspace and KV cache may fill.
        engine_overhead_s: time the engine takes for each batch.

    Raises:
        ConfigError: a setting is out of its range.
    """

    placement: Placement
    workload: Workload
    predictor: str = "noisy"
    block_size: int = 16
    max_num_seqs: int = 512
    max_model_len: int | None = None
    max_num_batched_tokens: int = 2048
    utilization: float = UTILIZATION
    engine_overhead_s: float = 0.0

    def __post_init__(self) -> None:
        check_predictor(self.predictor)
        for field in ("block_size", "max_num_seqs", "max_num_batched_tokens"):
            if getattr(self, field) < 1:
                raise ConfigError(field, getattr(self, field), "give a whole number of at least 1")
        if not 0 < self.utilization <= 1:
            raise ConfigError("utilization", self.utilization, "use a share above 0, up to 1")
        if not 0 <= self.engine_overhead_s < float("inf"):
            fix = "give 0 or more seconds"
            raise ConfigError("engine_overhead_s", self.engine_overhead_s, fix)
        if self.max_model_len is not None and self.max_model_len < self.longest_tokens:
            fix = f"the workload's longest request has {self.longest_tokens} tokens"
            raise ConfigError("max_model_len", self.max_model_len, fix)

    @property
    def longest_tokens(self) -> int:
        """Prompt and output tokens of the longest request."""
        return max(prompt + output for prompt, output in self.workload.lengths())

    def limits(self) -> Limits:
        """The limits of the engine.

        Raises:
            CapacityError: the weights, or the longest request, do not fit the devices.
        """
        num_blocks = self.placement.num_blocks(self.block_size, self.utilization)
        needed = blocks_for(self.longest_tokens, self.block_size)
        if needed > num_blocks:
            fix = (
                f"the KV cache of this layout holds {num_blocks * self.block_size} tokens: use "
                "more or larger devices, or leave such requests out"
            )
            raise CapacityError("longest request", f"{self.longest_tokens} tokens", fix)
        return Limits(
            num_stages=len(self.placement.layers),
            block_size=self.block_size,
            num_blocks=num_blocks,
            max_model_len=self.max_model_len or needed * self.block_size,
            max_num_seqs=self.max_num_seqs,
            max_num_batched_tokens=self.max_num_batched_tokens,
        )

    def bound(self) -> LowerBound:
        """The time that no scheduler can beat here."""
        return lower_bound(self.workload.lengths(), self.placement.cost(), self.limits().kv_tokens)

    def run(self, scheduler: str, keep_trace: bool = False) -> SimulatedRun:
        """Simulate the workload under a scheduler.

        Raises:
            ConfigError: there is no such scheduler or predictor, or it is for one stage only.
            CapacityError: the weights, or the longest request, do not fit the devices.
        """
        check_scheduler(scheduler)
        if scheduler in TENSOR_PARALLEL and len(self.placement.layers) > 1:
            fix = "it is for one stage, with all devices in tensor_parallel_size"
            raise ConfigError("scheduler", scheduler, fix)
        limits, cost = self.limits(), self.placement.cost()
        outputs = [output for _, output in self.workload.lengths()]
        run = simulate(
            timed_requests_of(self.workload),
            make_scheduler(scheduler, cost),
            cost,
            limits,
            make_predictor(self.predictor, outputs),
            self.engine_overhead_s,
            keep_trace,
            outputs,
        )
        if run.trace is not None:
            run.trace.settings.update(self.settings(), scheduler=scheduler)
        return run

    def for_scheduler(self, scheduler: str) -> "Scenario":
        """This scenario, on one stage if the scheduler is a tensor-parallel one.

        Raises:
            ConfigError: the model's heads cannot be shared by that many devices.
        """
        old = self.placement
        if scheduler not in TENSOR_PARALLEL or len(old.layers) == 1:
            return self
        check_tensor_parallel(old.shape, old.num_devices)
        placement = place(old.shape, old.device, 1, old.num_devices, old.value_bytes)
        return replace(self, placement=placement)

    def settings(self) -> dict[str, object]:
        """All settings as plain values, for results and traces."""
        place_ = self.placement
        return {
            "gpu": place_.device.name,
            "num_gpus": place_.num_devices,
            "pipeline_parallel_size": len(place_.layers),
            "tensor_parallel_size": place_.tensor_parallel,
            "layers": list(place_.layers),
            "value_bytes": place_.value_bytes,
            "workload": self.workload.name,
            "requests": len(self.workload.requests),
            "prompt_tokens": self.workload.prompt_tokens,
            "output_tokens": self.workload.output_tokens,
            "predictor": self.predictor,
            "block_size": self.block_size,
            "num_blocks": place_.num_blocks(self.block_size, self.utilization),
            "max_num_seqs": self.max_num_seqs,
            "max_model_len": self.limits().max_model_len,
            "max_num_batched_tokens": self.max_num_batched_tokens,
            "utilization": self.utilization,
            "engine_overhead_s": self.engine_overhead_s,
        }


def load_workload(name_or_path: str, num_requests: int | None = None, seed: int = 0) -> Workload:
    """A generator's workload by its name, or a file's, with all requests there at the start.

    `num_requests` of a file are drawn by the seed; None takes DEFAULT_REQUESTS of a generator, the
    whole of a file.

    Raises:
        ConfigError: no such generator or file, a broken file, or less than one request.
    """
    if num_requests is not None and num_requests < 1:
        raise ConfigError("requests", num_requests, "give a whole number of at least 1")
    if name_or_path in WORKLOAD_MODELS:
        return generate_workload(name_or_path, num_requests or DEFAULT_REQUESTS, seed)
    try:
        workload = read_workload(name_or_path).offline()
    except ConfigError as error:
        if error.fix != "there is no such file":
            raise
        fix = f"there is no such file; give a file, or one of {', '.join(WORKLOAD_MODELS)}"
        raise ConfigError("workload", name_or_path, fix) from None
    return workload if num_requests is None else workload.sample(num_requests, seed)


def check_scheduler(name: str) -> None:
    """Refuse an unknown scheduler.

    Raises:
        ConfigError: there is none of that name.
    """
    if name not in SCHEDULER_NAMES:
        raise ConfigError("scheduler", name, f"use one of {', '.join(SCHEDULER_NAMES)}")


def schedulers_named(text: str, default: Sequence[str] = SCHEDULER_NAMES) -> tuple[str, ...]:
    """The schedulers of a comma-separated list, each once; "all" means `default`.

    Raises:
        ConfigError: one of them does not exist, or there is none.
    """
    names = tuple(dict.fromkeys(part.strip() for part in text.split(",") if part.strip()))
    if names == ("all",):
        return tuple(default)
    if not names:
        raise ConfigError("schedulers", text, f"name one of {', '.join(SCHEDULER_NAMES)}")
    for name in names:
        check_scheduler(name)
    return names
