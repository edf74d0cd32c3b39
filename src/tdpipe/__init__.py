"""tdpipe: high-throughput offline LLM inference over temporally-disaggregated pipelines."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tdpipe.core.errors import (
        CapacityError,
        ConfigError,
        RequestFailed,
        RequestRejected,
        StageFailed,
        TdpipeError,
    )
    from tdpipe.core.sampling_params import SamplingParams
    from tdpipe.llm import LLM
    from tdpipe.outputs import CompletionOutput, RequestOutput

__version__ = "0.1.0"

_HOME = {
    "LLM": "tdpipe.llm",
    "SamplingParams": "tdpipe.core.sampling_params",
    "RequestOutput": "tdpipe.outputs",
    "CompletionOutput": "tdpipe.outputs",
    "TdpipeError": "tdpipe.core.errors",
    "ConfigError": "tdpipe.core.errors",
    "RequestRejected": "tdpipe.core.errors",
    "RequestFailed": "tdpipe.core.errors",
    "CapacityError": "tdpipe.core.errors",
    "StageFailed": "tdpipe.core.errors",
}

__all__ = [
    "LLM",
    "CapacityError",
    "CompletionOutput",
    "ConfigError",
    "RequestFailed",
    "RequestOutput",
    "RequestRejected",
    "SamplingParams",
    "StageFailed",
    "TdpipeError",
    "__version__",
]


def __getattr__(name: str) -> object:
    # Lazy, so that stage processes and `tdpipe --help` load only what they use.
    if name not in _HOME:
        raise AttributeError(f"module 'tdpipe' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOME[name]), name)
