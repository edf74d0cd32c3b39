"""Rotary position embeddings and their scaling kinds.

Sources: RoFormer (arXiv:2104.09864); linear scaling by position interpolation (arXiv:2306.15595);
YaRN (arXiv:2309.00071); the frequency-dependent scaling of the Llama 3.1 model card. Angles and
half-rotation pairing are those of Hugging Face transformers.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from tdpipe.execution.models.model_config import ModelConfig
from tdpipe.execution.models.rope_config import RopeConfig


def rope_tables(config: ModelConfig, num_positions: int) -> tuple[Tensor, Tensor]:
    """Cosines and sines [num_positions, head_dim / 2], float32."""
    frequencies, factor = _FREQUENCIES[config.rope.kind](config, config.rope)
    angles = torch.outer(torch.arange(num_positions, dtype=torch.float32), frequencies)
    return angles.cos() * factor, angles.sin() * factor


def apply_rope(heads: Tensor, num_rotated: int, cos: Tensor, sin: Tensor) -> Tensor:
    """The first of heads [tokens, heads, head_dim], rotated by cos, sin [tokens, head_dim / 2].

    The second half of a head is the imaginary part of the first (transformers' pairing).
    """
    cos, sin = cos.unsqueeze(1), sin.unsqueeze(1)  # the same for all heads
    real, imaginary = heads[:, :num_rotated].chunk(2, dim=-1)
    return torch.cat((real * cos - imaginary * sin, imaginary * cos + real * sin), dim=-1)


def _base(config: ModelConfig, theta: float) -> Tensor:
    exponents = torch.arange(0, config.head_dim, 2, dtype=torch.int64).float() / config.head_dim
    return 1.0 / (theta**exponents)


def _default(config: ModelConfig, rope: RopeConfig) -> tuple[Tensor, float]:
    return _base(config, rope.theta), 1.0


def _linear(config: ModelConfig, rope: RopeConfig) -> tuple[Tensor, float]:
    return _base(config, rope.theta) / rope.settings["factor"], 1.0


def _llama3(config: ModelConfig, rope: RopeConfig) -> tuple[Tensor, float]:
    """Long wavelengths are stretched by factor, short ones kept, those between blended."""
    settings = rope.settings
    base = _base(config, rope.theta)
    original = settings["original_max_position_embeddings"]
    low, high = settings["low_freq_factor"], settings["high_freq_factor"]
    wavelengths = 2 * math.pi / base
    blend = ((original / wavelengths - low) / (high - low)).clamp(0.0, 1.0)
    return (1 - blend) * base / settings["factor"] + blend * base, 1.0


def _yarn(config: ModelConfig, rope: RopeConfig) -> tuple[Tensor, float]:
    settings, dim = rope.settings, config.head_dim
    factor = settings["factor"]
    original = settings["original_max_position_embeddings"]
    base = _base(config, rope.theta)

    def dimension_of(rotations: float) -> float:
        """The (fractional) pair of a head that turns `rotations` times over the context."""
        turns = math.log(original / (rotations * 2 * math.pi))
        return dim * turns / (2 * math.log(rope.theta))

    low = dimension_of(settings.get("beta_fast") or 32)
    high = dimension_of(settings.get("beta_slow") or 1)
    if settings.get("truncate", True):
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, dim - 1)
    if low == high:
        high += 0.001
    ramp = ((torch.arange(dim // 2, dtype=torch.float32) - low) / (high - low)).clamp(0, 1)
    return base / factor * ramp + base * (1 - ramp), _yarn_attention(settings, factor)


def _yarn_attention(settings: Mapping[str, Any], factor: float) -> float:
    def magnitude(scale: float) -> float:
        return 0.1 * scale * math.log(factor) + 1.0 if factor > 1 else 1.0

    if settings.get("attention_factor") is not None:
        return float(settings["attention_factor"])
    if settings.get("mscale") and settings.get("mscale_all_dim"):
        return magnitude(settings["mscale"]) / magnitude(settings["mscale_all_dim"])
    return magnitude(1.0)


_FREQUENCIES: dict[str, Callable[[ModelConfig, RopeConfig], tuple[Tensor, float]]] = {
    "default": _default,
    "linear": _linear,
    # Dynamic scaling changes nothing up to the trained context, and max_model_len ends there.
    "dynamic": _default,
    "llama3": _llama3,
    "yarn": _yarn,
}
