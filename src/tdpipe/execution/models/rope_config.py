"""Rotary position settings, read from a Hugging Face config.json. Knows numbers, not tensors."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tdpipe.core.errors import ConfigError

# Kind -> the numbers that it cannot do without.
REQUIRED: dict[str, tuple[str, ...]] = {
    "default": (),
    "linear": ("factor",),
    "dynamic": (),
    "llama3": (
        "factor",
        "low_freq_factor",
        "high_freq_factor",
        "original_max_position_embeddings",
    ),
    "yarn": ("factor", "original_max_position_embeddings"),
}


@dataclass(frozen=True, slots=True)
class RopeConfig:
    """Rotary position settings: the kind of scaling, the base, and the kind's own numbers."""

    kind: str
    theta: float
    settings: Mapping[str, Any]


def read_rope(config: Mapping[str, Any], max_positions: int) -> RopeConfig:
    """The settings of a config.json: transformers 5 has rope_parameters, 4 had rope_theta and
    rope_scaling.

    Raises:
        ConfigError: the kind is not supported, lacks a number, or turns a part of a head only.
    """
    settings = dict(config.get("rope_parameters") or config.get("rope_scaling") or {})
    kind = settings.get("rope_type") or settings.get("type") or "default"
    if any(isinstance(value, dict) for value in settings.values()):
        fix = "only one set of rotary settings for all layers is supported"
        raise ConfigError("rope_parameters", settings, fix)
    if kind not in REQUIRED:
        raise ConfigError("rope_scaling", kind, f"use one of {', '.join(REQUIRED)}")
    share = settings.get("partial_rotary_factor", config.get("partial_rotary_factor"))
    if share not in (None, 1, 1.0):
        raise ConfigError("partial_rotary_factor", share, "only whole heads (1.0) are supported")
    original = config.get("original_max_position_embeddings")
    if original is not None:
        settings["original_max_position_embeddings"] = original
    elif settings.get("original_max_position_embeddings") is None:
        settings["original_max_position_embeddings"] = max_positions
    if kind == "yarn" and settings.get("factor") is None:
        settings["factor"] = max_positions / settings["original_max_position_embeddings"]
    theta = settings.get("rope_theta") or config.get("rope_theta") or 10000.0
    _require_positive(kind, {**settings, "rope_theta": theta})
    return RopeConfig(kind, float(theta), settings)


def _require_positive(kind: str, settings: Mapping[str, Any]) -> None:
    for name in ("rope_theta", *REQUIRED[kind]):
        value = settings.get(name)
        if isinstance(value, bool) or not isinstance(value, (int, float)) or value <= 0:
            fix = f"{kind} rotary scaling needs a number above 0"
            raise ConfigError(f"rope_parameters {name}", value, fix)
