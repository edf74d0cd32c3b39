"""Engine settings as command-line options, shared by all commands that start one."""

import argparse
from typing import Any

from tdpipe.config.engine_config import (
    BACKENDS,
    DEVICES,
    DTYPES,
    LOAD_FORMATS,
    QUANTIZATIONS,
    EngineConfig,
)
from tdpipe.policies.scheduler_registry import SCHEDULERS, TENSOR_PARALLEL

DEFAULT_MODEL = "smollm2-135m-instruct"


def add_engine_options(parser: argparse.ArgumentParser) -> None:
    """Add one option per setting of EngineConfig; absent ones keep its defaults."""
    group = parser.add_argument_group("engine")
    group.add_argument(
        "--model",
        default=DEFAULT_MODEL,
        help=f"local folder, .gguf file, hub name, or {DEFAULT_MODEL} (default, embedded)",
    )
    group.add_argument(
        "-p", "--pipeline-parallel-size", type=int, help="stages (default 1)", metavar="P"
    )
    group.add_argument(
        "-t",
        "--tensor-parallel-size",
        type=int,
        help="processes that share each stage (default 1)",
        metavar="T",
    )
    names = ", ".join((*SCHEDULERS, *TENSOR_PARALLEL))
    group.add_argument("--scheduler", help=f"one of {names} (default adaptive)")
    group.add_argument("--dtype", help=f"one of {', '.join(DTYPES)}")
    add_kv_cache_dtype(group)
    add_load_format(group)
    group.add_argument(
        "--quantization", help=f"of the weights, on CPU: {', '.join(QUANTIZATIONS)} (default none)"
    )
    group.add_argument("--device", help=f"one of {', '.join(DEVICES)}")
    add_stage_devices(group)
    group.add_argument("--kv-cache-memory", help="per process, such as 512MiB", metavar="SIZE")
    group.add_argument(
        "--gpu-memory-utilization", type=float, help="share of each card (default 0.9)"
    )
    group.add_argument("--max-model-len", type=int, help="prompt + output tokens, at most")
    group.add_argument("--partition", help="layers per stage, such as 16,14")
    group.add_argument(
        "--length-predictor",
        help="auto (default: the one trained for the model, else online), online, max-tokens, "
        "constant:N, or a file of `tdpipe lengths train`",
    )
    add_enforce_eager(group)
    group.add_argument("--block-size", type=int, help="tokens in a KV block (default 16)")
    group.add_argument("--max-num-seqs", type=int, help="sequences in a batch (default 256)")
    group.add_argument(
        "--max-num-batched-tokens", type=int, help="prompt tokens in a batch (default 2048)"
    )
    group.add_argument(
        "--enable-prefix-caching",
        action=argparse.BooleanOptionalAction,
        help="compute what prompts begin with in common once (default on)",
    )
    group.add_argument("--threads-per-stage", type=int, help="CPU cores a process (default 1)")
    group.add_argument(
        "--max-restarts", type=int, help="times a run survives failed stages (default 3)"
    )
    group.add_argument("--engine-seed", type=int, help="seed of requests without one (default 0)")
    add_places(group)
    group.add_argument("--timeline", help="write a Chrome/Perfetto trace here", metavar="FILE")


def add_kv_cache_dtype(group: "argparse._ActionsContainer") -> None:
    """Add the option that says what keys and values are kept in."""
    group.add_argument(
        "--kv-cache-dtype",
        help=f"of keys and values, one of {', '.join(DTYPES)}: that of the model (default), or a "
        "half type beside float32 on CPU",
    )


def add_load_format(group: "argparse._ActionsContainer") -> None:
    """Add the option that says where the weights come from."""
    group.add_argument(
        "--load-format",
        help=f"of the weights, one of {', '.join(LOAD_FORMATS)}: the model's (default), or random",
    )


def add_enforce_eager(group: "argparse._ActionsContainer") -> None:
    """Add the option that turns CUDA graphs off."""
    group.add_argument(
        "--enforce-eager",
        action="store_true",
        default=None,
        help="on CUDA, launch the kernels of decodes one by one instead of as recorded graphs",
    )


def add_stage_devices(group: "argparse._ActionsContainer") -> None:
    """Add the option that puts the stages on devices by name."""
    group.add_argument(
        "--stage-devices",
        help="of each process, such as cuda:0,cuda:0 (default: a card or cores each)",
        metavar="DEVICES",
    )


def add_places(group: "argparse._ActionsContainer") -> None:
    """Add the options that say where the processes run."""
    group.add_argument(
        "--backend",
        "--distributed-executor-backend",
        dest="distributed_executor_backend",
        help=f"where the stages run, one of {', '.join(BACKENDS)}: this machine (default), a Ray "
        "cluster's nodes",
    )
    group.add_argument(
        "--address",
        "--ray-address",
        dest="ray_address",
        help="of the Ray cluster: auto for the running one, or HOST:PORT",
    )
    group.add_argument(
        "--control-port",
        type=int,
        help="with ray, the first port for stages to reach the engine at (default: any)",
        metavar="PORT",
    )


def engine_settings(arguments: argparse.Namespace) -> dict[str, Any]:
    """Keyword arguments for LLM: the settings that were given, and the timeline."""
    settings = {
        name: getattr(arguments, name)
        for name in EngineConfig.__dataclass_fields__
        if name not in ("model", "seed") and getattr(arguments, name, None) is not None
    }
    if arguments.engine_seed is not None:
        settings["seed"] = arguments.engine_seed
    return {**settings, "timeline": arguments.timeline}
