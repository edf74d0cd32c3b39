"""The settings of one engine, as the user gives them and checked one by one."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from tdpipe.config.memory_size import parse_memory_size
from tdpipe.config.stage_devices import parse_stage_devices
from tdpipe.core.errors import ConfigError
from tdpipe.policies.scheduler_registry import SCHEDULERS, TENSOR_PARALLEL
from tdpipe.prediction.constant import ConstantPredictor
from tdpipe.prediction.length_predictor import LengthPredictor
from tdpipe.prediction.max_tokens import MaxTokensPredictor
from tdpipe.prediction.online import OnlinePredictor

DTYPES = ("auto", "float32", "bfloat16", "float16")
DEVICES = ("auto", "cpu", "cuda")
QUANTIZATIONS = ("int8",)
LOAD_FORMATS = ("auto", "dummy")
HIGHEST_PORT = 65535
BACKENDS = ("mp", "ray")
PREDICTOR_SUFFIX = ".safetensors"


@dataclass(frozen=True, slots=True)
class EngineConfig:
    """Settings of an engine; names as vLLM's where the meaning is the same.

    Attributes:
        model: a local Hugging Face folder, a .gguf file, a hub name, or an embedded model's name.
        pipeline_parallel_size: stages, one process and device (or CPU core) each.
        tensor_parallel_size: processes and devices (or CPU cores) that share each stage.
        scheduler: a name of policies/scheduler_registry.
        dtype: of weights, activations and KV cache; auto is float32 on CPU and the model's own
            (bfloat16 if it names none) on CUDA.
        kv_cache_dtype: that keys and values are kept in; auto keeps them in `dtype`. float16 and
            bfloat16 take half the memory of float32, on CPU; attention is computed in float32 then.
        device: auto takes CUDA where there is a card for every stage, else CPU.
        stage_devices: of each process, "cuda:0,cuda:0" or ["cuda:0", "cuda:0"]; None gives each a
            card or cores of its own. Stages on a device that is named twice share its memory, and
            hidden states go from stage to stage through host memory then.
        kv_cache_memory: bytes of KV cache in each process, or a size such as "1GiB"; None takes a
            share of what is free.
        gpu_memory_utilization: share of each card that weights and KV cache may fill.
        max_model_len: prompt and output tokens of a request, at most; None is the model's limit,
            or what the KV cache holds if that is less.
        partition: layers per stage, "16,14" or [16, 14]; None balances them by estimated time.
        length_predictor: a file of `tdpipe lengths train`, online, max-tokens, constant:N, or an
            object with `predict`; auto takes the file that was trained for the model, else online.
        load_format: auto reads the model's weights; dummy makes random ones of the same shapes, for
            measurements without a checkpoint: the folder needs a config.json and a tokenizer.
        quantization: int8 rounds the weights to one byte each, a scale for each output channel,
            and activations row by row; float32 on CPU only. None computes in `dtype`.
        enforce_eager: on CUDA launch the kernels of decodes one by one, instead of recording them
            as graphs before the first run: slower, but ready sooner.
        block_size: tokens in a KV block.
        max_num_seqs: sequences in a batch, at most.
        max_num_batched_tokens: tokens of several prompts in a batch, at most.
        enable_prefix_caching: compute blocks of tokens that several prompts begin with once.
        threads_per_stage: CPU cores of each process, when the device is the CPU.
        distributed_executor_backend: where the processes run: mp on this machine, ray on the nodes
            of a Ray cluster, all ranks of a stage on one.
        ray_address: of the cluster: auto for the running one, HOST:PORT, or None: as RAY_ADDRESS
            says, else the running one, else one that is started on this machine.
        control_port: with ray, the first of 1 + P x T ports on which the engine listens to the
            stages, to them alone; 0 takes free ones.
        max_restarts: how often in a run failed stages are started again; 0 ends the run at once.
        seed: from which the requests that set no seed of their own get theirs.

    Raises:
        ConfigError: a value cannot be used; names the field, the value and the fix.
    """

    model: str
    pipeline_parallel_size: int = 1
    tensor_parallel_size: int = 1
    scheduler: str = "adaptive"
    dtype: str = "auto"
    kv_cache_dtype: str = "auto"
    device: str = "auto"
    stage_devices: str | Sequence[str] | None = None
    kv_cache_memory: int | str | None = None
    gpu_memory_utilization: float = 0.9
    max_model_len: int | None = None
    partition: str | Sequence[int] | None = None
    length_predictor: "str | LengthPredictor" = field(default="auto")
    load_format: str = "auto"
    quantization: str | None = None
    enforce_eager: bool = False
    block_size: int = 16
    max_num_seqs: int = 256
    max_num_batched_tokens: int = 2048
    enable_prefix_caching: bool = True
    threads_per_stage: int = 1
    distributed_executor_backend: str = "mp"
    ray_address: str | None = None
    control_port: int = 0
    max_restarts: int = 3
    seed: int = 0

    def __post_init__(self) -> None:
        if not isinstance(self.model, str) or not self.model:
            raise ConfigError("model", self.model, "name a folder, a .gguf file or a model")
        for name in (
            "pipeline_parallel_size",
            "tensor_parallel_size",
            "block_size",
            "max_num_seqs",
            "max_num_batched_tokens",
            "threads_per_stage",
        ):
            _require_count(name, getattr(self, name))
        _require_count("max_restarts", self.max_restarts, least=0)
        _require_count("control_port", self.control_port, least=0)
        if self.max_model_len is not None:
            _require_count("max_model_len", self.max_model_len, least=2)
        _require_choice("scheduler", self.scheduler, (*SCHEDULERS, *TENSOR_PARALLEL))
        if self.scheduler in TENSOR_PARALLEL and self.pipeline_parallel_size > 1:
            fix = (
                "it is for one stage: set pipeline_parallel_size to 1, tensor_parallel_size higher"
            )
            raise ConfigError("scheduler", self.scheduler, fix)
        _require_choice("dtype", self.dtype, DTYPES)
        _require_choice("kv_cache_dtype", self.kv_cache_dtype, DTYPES)
        _require_choice("device", self.device, DEVICES)
        _require_choice("load_format", self.load_format, LOAD_FORMATS)
        self._check_backend()
        self._check_stage_devices()
        if self.quantization is not None:
            _require_choice("quantization", self.quantization, QUANTIZATIONS)
        for name in ("enable_prefix_caching", "enforce_eager"):
            if not isinstance(getattr(self, name), bool):
                raise ConfigError(name, getattr(self, name), "use True or False")
        share = self.gpu_memory_utilization
        if isinstance(share, bool) or not isinstance(share, (int, float)) or not 0 < share <= 1:
            raise ConfigError("gpu_memory_utilization", share, "use more than 0, up to 1")
        if isinstance(self.seed, bool) or not isinstance(self.seed, int):
            raise ConfigError("seed", self.seed, "use a whole number")
        self.kv_bytes()
        self.layers()
        self.predictor()

    def _check_backend(self) -> None:
        backend = self.distributed_executor_backend
        _require_choice("distributed_executor_backend", backend, BACKENDS)
        for name in ("ray_address", "control_port"):
            if getattr(self, name) and backend != "ray":
                fix = "it is for distributed_executor_backend='ray': set that too, or leave it out"
                raise ConfigError(name, getattr(self, name), fix)
        last = self.control_port + self.pipeline_parallel_size * self.tensor_parallel_size
        if last > HIGHEST_PORT:
            fix = f"the last port would be {last}: use one that leaves room below {HIGHEST_PORT}"
            raise ConfigError("control_port", self.control_port, fix)

    def _check_stage_devices(self) -> None:
        devices, given = self.devices(), self.stage_devices
        if devices is None:
            return
        kind = devices[0].partition(":")[0]
        if self.device not in ("auto", kind):
            fix = f"stage_devices names {devices[0]}: leave one of the two out"
            raise ConfigError("device", self.device, fix)
        if self.distributed_executor_backend == "ray":
            fix = "on a Ray cluster stages are put where there is room: leave it out"
            raise ConfigError("stage_devices", given, fix)
        if kind == "cuda" and self.tensor_parallel_size > 1 and self.shares_devices():
            fix = "ranks that share a stage need a card each: name each card once"
            raise ConfigError("stage_devices", given, fix)

    def devices(self) -> tuple[str, ...] | None:
        """`stage_devices`, one for each process; None where they are not given."""
        if self.stage_devices is None:
            return None
        num_ranks = self.pipeline_parallel_size * self.tensor_parallel_size
        return parse_stage_devices(self.stage_devices, num_ranks)

    def shares_devices(self) -> bool:
        """Whether `stage_devices` names a device twice."""
        devices = self.devices() or ()
        return len(set(devices)) < len(devices)

    def kv_bytes(self) -> int | None:
        """`kv_cache_memory` in bytes."""
        if self.kv_cache_memory is None:
            return None
        return parse_memory_size("kv_cache_memory", self.kv_cache_memory)

    def layers(self) -> tuple[int, ...] | None:
        """`partition` as numbers."""
        if self.partition is None:
            return None
        parts = self.partition.split(",") if isinstance(self.partition, str) else self.partition
        try:
            return tuple(int(part) for part in parts)
        except (TypeError, ValueError):
            fix = "give layers per stage, as 16,14"
            raise ConfigError("partition", self.partition, fix) from None

    def predictor(self) -> LengthPredictor:
        """The engine's own predictor: a new one as named, or the object itself.

        Where a file's predictor forecasts requests before they come, this one is asked for none.
        """
        name = self.length_predictor
        if not isinstance(name, str):
            if not hasattr(name, "predict"):
                fix = "give an object with predict(prompts), or a name"
                raise ConfigError("length_predictor", name, fix)
            return name
        if name in ("auto", "online") or self.predictor_file() is not None:
            return OnlinePredictor()
        kind, _, argument = name.partition(":")
        if kind == "max-tokens" and not argument:
            return MaxTokensPredictor()
        if kind == "constant" and (argument or "128").isdigit():
            return ConstantPredictor(int(argument or "128"))
        fix = "use auto, online, max-tokens, constant:N, or a file of `tdpipe lengths train`"
        raise ConfigError("length_predictor", name, fix)

    def predictor_file(self) -> Path | None:
        """The file that `length_predictor` names, if it names one."""
        name = self.length_predictor
        if not isinstance(name, str):
            return None
        path = Path(name).expanduser()
        return path if path.suffix == PREDICTOR_SUFFIX or path.is_file() else None

    def recorded(self) -> dict[str, object]:
        """The settings as plain values, for traces and results."""
        values = asdict(self)
        predictor = self.length_predictor
        if not isinstance(predictor, str):
            values["length_predictor"] = type(predictor).__name__
        return values


def _require_count(name: str, value: object, least: int = 1) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ConfigError(name, value, f"use a whole number, {least} or more")


def _require_choice(name: str, value: object, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise ConfigError(name, value, f"use one of {', '.join(choices)}")
