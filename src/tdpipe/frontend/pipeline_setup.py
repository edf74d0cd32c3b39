"""From settings to a starting pipeline: device, dtype, partition, stages, then memory."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

from tdpipe.config.engine_config import EngineConfig
from tdpipe.config.profile_file import ProfileKey
from tdpipe.config.stage_devices import cards_needed
from tdpipe.core.errors import ConfigError
from tdpipe.core.limits import Limits
from tdpipe.core.model_shape import ModelShape
from tdpipe.core.tensor_shard import check_tensor_parallel
from tdpipe.cost.cost_model import CostModel, plan_load, slowest_stage_time_s
from tdpipe.cost.hardware_catalogue import CPU_LINK, DEVICES, cpu_core
from tdpipe.cost.memory_check import Memory, check_memory, stage_weight_bytes
from tdpipe.cost.memory_plan import (
    block_bytes,
    fitting_model_len,
    num_kv_blocks,
    shared_kv_bytes,
)
from tdpipe.cost.partition import balanced_partition, checked_partition
from tdpipe.cost.roofline_cost import RooflineCost
from tdpipe.execution.local_site import LocalLauncher
from tdpipe.execution.models.model_source import ModelSource
from tdpipe.execution.pipeline_executor import PipelineExecutor, PipelineSpec, assign_cores
from tdpipe.execution.ray_cluster import RayCluster
from tdpipe.execution.ray_site import RayLauncher, RayPlan
from tdpipe.execution.stage_site import StageLauncher
from tdpipe.frontend.host_processor import cpu_vectors
from tdpipe.frontend.stage_profile_cache import load_cached_profile, profile_key
from tdpipe.policies.scheduler_registry import MIXES_PHASES

VALUE_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
# On CPU a cache beyond this is never the limit of the embedded models; memory is the user's.
CPU_KV_BYTES_LIMIT = 4 << 30
# A card that has not been profiled is taken for one with this ratio of arithmetic to bandwidth.
UNKNOWN_CARD = "L20"


@dataclass(frozen=True, slots=True)
class PipelineSetup:
    """Settings with every "auto" resolved.

    `memory_share` of the machine's free memory is this pipeline's, on CPU.
    """

    config: EngineConfig
    shape: ModelShape
    device: str
    dtype: str
    layers: tuple[int, ...]
    cost: CostModel
    model_limit: int
    cluster: RayCluster | None = None
    memory_share: float = 1.0

    @property
    def kv_dtype(self) -> str:
        """What keys and values are kept in."""
        return kv_dtype(self.config, self.dtype)

    @property
    def rounds_kv(self) -> bool:
        """Whether that is not what the model computes in."""
        return self.kv_dtype != self.dtype

    @property
    def graph_rows(self) -> int:
        """Sequences of the largest decode that stages record as a graph; 0 for none.

        Ranks that share a stage meet within its layers, in ways that are not all recordable.
        """
        config = self.config
        records = self.device == "cuda" and config.tensor_parallel_size == 1
        return config.max_num_seqs if records and not config.enforce_eager else 0

    def executor(self, folder: Path, length_predictor: Path | None = None) -> PipelineExecutor:
        """Start the stage processes; returns before they are up.

        Args:
            length_predictor: a file whose head the last stage forecasts lengths with.

        Raises:
            ConfigError: the Ray cluster has no room for them.
        """
        config = self.config
        return PipelineExecutor(
            PipelineSpec(
                model_folder=folder,
                layers=self.layers,
                dtype=self.dtype,
                block_size=config.block_size,
                max_model_len=config.max_model_len or self.model_limit,
                memory_utilization=config.gpu_memory_utilization,
                length_predictor=length_predictor,
                load_format=config.load_format,
                quantization=config.quantization,
                kv_cache_dtype=config.kv_cache_dtype,
                graph_rows=self.graph_rows,
                tensor_parallel_size=config.tensor_parallel_size,
            ),
            self._launcher(),
            lambda plan: slowest_stage_time_s(self.cost, plan_load(plan)),
        )

    def _launcher(self) -> StageLauncher:
        config = self.config
        stages, ranks, threads = (
            len(self.layers), config.tensor_parallel_size, config.threads_per_stage
        )  # fmt: skip
        if self.cluster is not None:
            plan = RayPlan(config.model, stages, ranks, threads, self.device, config.control_port)
            return RayLauncher(self.cluster, plan)
        on_cpu = self.device == "cpu"
        cores = assign_cores(stages * ranks, threads) if on_cpu else [()] * stages * ranks
        return LocalLauncher(self._devices(), cores, config.shares_devices())

    def _devices(self) -> tuple[str, ...]:
        """Of each process on this machine."""
        given = self.config.devices()
        if given is not None:
            return given
        num_ranks = len(self.layers) * self.config.tensor_parallel_size
        if self.device == "cpu":
            return ("cpu",) * num_ranks
        return tuple(f"cuda:{index}" for index in range(num_ranks))

    def allocate(self, executor: PipelineExecutor) -> Limits:
        """Wait for the weights, size the KV cache, have it made.

        Raises:
            CapacityError: the cache would not hold one request.
            StageFailed: a stage could not start.
        """
        config = self.config
        ranks = config.tensor_parallel_size
        of_ranks = [report.free_bytes for report in executor.loaded()]
        if self.device == "cuda" and self.cluster is None:
            held = [count for count in self.layers for _ in range(ranks)]
            of_ranks = shared_kv_bytes(self._devices(), held, of_ranks)
        free = [
            min(of_ranks[stage * ranks : (stage + 1) * ranks]) for stage in range(len(self.layers))
        ]
        if self.device == "cpu":
            free = [min(int(bytes_ * self.memory_share), CPU_KV_BYTES_LIMIT) for bytes_ in free]
        wanted = config.kv_bytes()
        kv_bytes = free if wanted is None else [wanted] * len(free)
        value_bytes = VALUE_BYTES[self.kv_dtype]
        num_blocks = num_kv_blocks(
            self.shape, self.layers, kv_bytes, config.block_size, value_bytes, ranks
        )
        model_len = self._model_len(num_blocks)
        executor.allocate(num_blocks)
        return Limits(
            num_stages=len(self.layers),
            block_size=config.block_size,
            num_blocks=num_blocks,
            max_model_len=model_len,
            max_num_seqs=config.max_num_seqs,
            max_num_batched_tokens=config.max_num_batched_tokens,
        )

    def check_memory(self) -> None:
        """Refuse weights and a KV memory that do not fit what is free here, before start.

        Raises:
            CapacityError: with what is needed and what to change.
        """
        if self.cluster is not None:
            return  # the memory is elsewhere: `allocate` finds what is free there
        value_bytes = VALUE_BYTES[self.dtype]
        layer_bytes = 1 if self.config.quantization else value_bytes
        ranks = self.config.tensor_parallel_size
        of_stages = stage_weight_bytes(self.shape, self.layers, layer_bytes, value_bytes)
        weights = [bytes_ // ranks for bytes_ in of_stages for _ in range(ranks)]
        if self.device == "cpu":
            available = int(psutil.virtual_memory().available * self.memory_share)
            memories = [Memory("this machine", available, tuple(range(len(weights))))]
        else:
            usable = [round(bytes_ * self.config.gpu_memory_utilization) for bytes_ in card_bytes()]
            memories = card_memories(self._devices(), usable)
        check_memory(weights, self.config.kv_bytes() or 0, memories, self.dtype)

    def check_kv_memory(self) -> None:
        """Refuse a KV memory that the user gave and that cannot hold one request, before start.

        Raises:
            CapacityError: as `allocate` would, only earlier.
        """
        wanted = self.config.kv_bytes()
        if wanted is not None:
            size, value_bytes = self.config.block_size, VALUE_BYTES[self.kv_dtype]
            largest, ranks = max(self.layers), self.config.tensor_parallel_size
            blocks = wanted // block_bytes(self.shape, largest, size, value_bytes, ranks)
            self._model_len(blocks)

    def _model_len(self, num_blocks: int) -> int:
        config = self.config
        return fitting_model_len(
            num_blocks, config.block_size, config.max_model_len, self.model_limit,
            config.kv_cache_memory,
        )  # fmt: skip


def resolve_setup(
    config: EngineConfig, source: ModelSource, memory_share: float = 1.0
) -> PipelineSetup:
    """Resolve device, dtype and partition for a model.

    Raises:
        ConfigError: a setting does not go with the model or the machine.
        CapacityError: kv_cache_memory is too small for one request.
    """
    shape = source.config.shape()
    model_limit = source.config.max_position_embeddings
    if config.max_model_len is not None and config.max_model_len > model_limit:
        fix = f"use at most {model_limit}, the model's limit"
        raise ConfigError("max_model_len", config.max_model_len, fix)
    num_stages, ranks = config.pipeline_parallel_size, config.tensor_parallel_size
    check_tensor_parallel(shape, ranks)
    cluster = None
    if config.distributed_executor_backend == "ray":
        cluster = RayCluster(config.ray_address)
        device = _cluster_device(cluster, config.device, num_stages * ranks)
    else:
        device = _device(config)
    dtype = config.dtype
    if dtype == "auto":
        dtype = "float32" if device == "cpu" else source.config.dtype or "bfloat16"
    if config.quantization and (device, dtype) != ("cpu", "float32"):
        fix = f"it is for float32 on CPU, not {dtype} on {device}; leave it out"
        raise ConfigError("quantization", config.quantization, fix)
    kept_in = kv_dtype(config, dtype)
    if kept_in != dtype and (device, dtype) != ("cpu", "float32"):
        fix = f"a type of its own is for float32 on CPU, not {dtype} on {device}; use auto"
        raise ConfigError("kv_cache_dtype", kept_in, fix)
    card, value_bytes, kv_bytes = DEVICES[UNKNOWN_CARD], VALUE_BYTES[dtype], VALUE_BYTES[kept_in]
    core = cpu_core(cpu_vectors(), config.quantization is not None)
    rates, link = (core, CPU_LINK) if device == "cpu" else (card.rates(), card.link)
    mixes = config.scheduler in MIXES_PHASES
    balanced = balanced_partition(
        shape, num_stages, rates, value_bytes, ranks, mixes_phases=mixes, kv_value_bytes=kv_bytes
    )
    given = config.layers()
    layers = checked_partition(given, shape.num_layers, num_stages) if given else balanced
    # Measured times where `tdpipe profile` has left them, else estimates.
    key = setup_key(config, source, dtype, device, layers)
    cost = load_cached_profile(key) or RooflineCost(
        shape, layers, rates, link, value_bytes, ranks, kv_bytes
    )
    setup = PipelineSetup(
        config, shape, device, dtype, layers, cost, model_limit, cluster, memory_share
    )
    setup.check_kv_memory()
    setup.check_memory()
    return setup


def setup_key(
    config: EngineConfig, source: ModelSource, dtype: str, device: str, layers: tuple[int, ...]
) -> ProfileKey:
    """What a profile of this setup holds for."""
    computes_in = f"{dtype}, {config.quantization} weights" if config.quantization else dtype
    if kv_dtype(config, dtype) != dtype:
        computes_in += f", {config.kv_cache_dtype} KV cache"
    threads, ranks = config.threads_per_stage, config.tensor_parallel_size
    devices = ",".join(config.devices() or (device,))
    return profile_key(source, computes_in, devices, layers, threads, ranks)


def kv_dtype(config: EngineConfig, dtype: str) -> str:
    """What keys and values of a model that computes in `dtype` are kept in."""
    return dtype if config.kv_cache_dtype == "auto" else config.kv_cache_dtype


def _device(config: EngineConfig) -> str:
    """cpu or cuda. torch is imported only where a card may be: it takes seconds."""
    devices = config.devices()
    wanted = config.device if devices is None else devices[0].partition(":")[0]
    num_stages, ranks = config.pipeline_parallel_size, config.tensor_parallel_size
    needed = num_stages * ranks if devices is None else cards_needed(devices)
    has_driver = any(Path(node).exists() for node in ("/dev/nvidiactl", "/dev/dxg"))
    if wanted == "cpu" or (wanted == "auto" and not has_driver):
        return "cpu"
    import torch

    num_cards = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if num_cards >= needed:
        return "cuda"
    if devices is not None:
        fix = f"there are {num_cards} CUDA devices; name those, several times if need be, or cpu"
        raise ConfigError("stage_devices", config.stage_devices, fix)
    if wanted == "cuda":
        shown = f"{num_stages} stages" + (f" of {ranks} ranks" if ranks > 1 else "")
        fix = f"there are {num_cards} CUDA devices for {shown}; use fewer, or cpu"
        raise ConfigError("device", wanted, fix)
    return "cpu"


def _cluster_device(cluster: RayCluster, wanted: str, num_ranks: int) -> str:
    """cpu or cuda; whether the places can be had is seen when they are asked for."""
    if wanted != "auto":
        return wanted
    return "cuda" if cluster.total("GPU") >= num_ranks else "cpu"


def card_memories(devices: Sequence[str], usable_bytes: Sequence[int]) -> list[Memory]:
    """The cards that processes are on, each with the processes that share it.

    Args:
        devices: of each process.
        usable_bytes: of each card of the machine.
    """
    sharing: dict[str, list[int]] = {}
    for rank, device in enumerate(devices):
        sharing.setdefault(device, []).append(rank)
    return [
        Memory(device, usable_bytes[int(device.partition(":")[2])], tuple(ranks))
        for device, ranks in sharing.items()
    ]


def card_bytes() -> list[int]:
    """Memory of each CUDA device, in all."""
    import torch

    count = torch.cuda.device_count()
    return [int(torch.cuda.get_device_properties(index).total_memory) for index in range(count)]
