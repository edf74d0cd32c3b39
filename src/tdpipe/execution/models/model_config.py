"""A model's architecture, read from a Hugging Face config.json."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tdpipe.core.errors import ConfigError
from tdpipe.core.model_shape import ModelShape

SUPPORTED = {
    "LlamaForCausalLM": "llama",
    "MistralForCausalLM": "mistral",
    "Qwen2ForCausalLM": "qwen2",
    "Qwen3ForCausalLM": "qwen3",
}
DTYPES = ("float32", "bfloat16", "float16")


@dataclass(frozen=True, slots=True)
class RopeConfig:
    """Rotary position settings: the kind of scaling, the base, and the kind's own numbers."""

    kind: str
    theta: float
    settings: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """A decoder's sizes and variations.

    Attributes:
        attention_bias, output_bias, mlp_bias: whether the q/k/v, output and MLP projections have
            a bias.
        query_key_norm: RMS norm on each query and key head (Qwen3).
        windows: per layer, how many tokens back attention sees; None means all.
        dtype: the checkpoint's own, or None if it names none.
    """

    architecture: str
    num_layers: int
    hidden_size: int
    intermediate_size: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    vocab_size: int
    max_position_embeddings: int
    rms_norm_eps: float
    rope: RopeConfig
    tie_word_embeddings: bool
    attention_bias: bool
    output_bias: bool
    mlp_bias: bool
    query_key_norm: bool
    windows: tuple[int | None, ...]
    eos_token_ids: tuple[int, ...]
    dtype: str | None

    @classmethod
    def from_hf(cls, config: Mapping[str, Any]) -> "ModelConfig":
        """Read a config.json (transformers 4 or 5).

        Raises:
            ConfigError: the architecture or one of its variations is not supported.
        """
        family = _family(config)
        hidden, heads = _need(config, "hidden_size"), _need(config, "num_attention_heads")
        num_layers = _need(config, "num_hidden_layers")
        qkv_bias = family == "qwen2" or bool(config.get("attention_bias", False))
        return cls(
            architecture=family,
            num_layers=num_layers,
            hidden_size=hidden,
            intermediate_size=_need(config, "intermediate_size"),
            num_heads=heads,
            num_kv_heads=config.get("num_key_value_heads") or heads,
            head_dim=config.get("head_dim") or hidden // heads,
            vocab_size=_need(config, "vocab_size"),
            max_position_embeddings=config.get("max_position_embeddings", 2048),
            rms_norm_eps=config.get("rms_norm_eps", 1e-6),
            rope=_rope(config),
            tie_word_embeddings=bool(config.get("tie_word_embeddings", False)),
            attention_bias=qkv_bias,
            output_bias=family in ("llama", "qwen3") and bool(config.get("attention_bias", False)),
            mlp_bias=family == "llama" and bool(config.get("mlp_bias", False)),
            query_key_norm=family == "qwen3",
            windows=_windows(config, family, num_layers),
            eos_token_ids=token_ids(config.get("eos_token_id")),
            dtype=_dtype(config),
        )

    def shape(self) -> ModelShape:
        """The sizes that time and memory estimates need."""
        return ModelShape(
            num_layers=self.num_layers,
            hidden_size=self.hidden_size,
            intermediate_size=self.intermediate_size,
            num_heads=self.num_heads,
            num_kv_heads=self.num_kv_heads,
            head_dim=self.head_dim,
            vocab_size=self.vocab_size,
            tie_word_embeddings=self.tie_word_embeddings,
        )


def token_ids(value: int | list[int] | None) -> tuple[int, ...]:
    """Hugging Face's "one id, several, or none" as a tuple."""
    if value is None:
        return ()
    return tuple(value) if isinstance(value, (list, tuple)) else (value,)


def _family(config: Mapping[str, Any]) -> str:
    names = config.get("architectures") or []
    family = next((SUPPORTED[name] for name in names if name in SUPPORTED), None)
    if family is None:
        shown = ", ".join(names) or str(config.get("model_type", "none named"))
        raise ConfigError("architecture", shown, f"use one of {', '.join(SUPPORTED)}")
    if config.get("hidden_act", "silu") != "silu":
        raise ConfigError("hidden_act", config["hidden_act"], "only silu is supported")
    if config.get("quantization_config"):
        method = config["quantization_config"].get("quant_method", "unknown")
        fix = "quantized safetensors are not supported; use float weights or a GGUF file"
        raise ConfigError("quantization_config", method, fix)
    return family


def _need(config: Mapping[str, Any], name: str) -> int:
    value = config.get(name)
    if not isinstance(value, int):
        raise ConfigError(f"config.json {name}", value, "the model's config must give a number")
    return value


def _rope(config: Mapping[str, Any]) -> RopeConfig:
    """transformers 5 has rope_parameters, 4 had rope_theta and rope_scaling."""
    settings = dict(config.get("rope_parameters") or config.get("rope_scaling") or {})
    kind = settings.get("rope_type") or settings.get("type") or "default"
    theta = settings.get("rope_theta") or config.get("rope_theta") or 10000.0
    return RopeConfig(kind, float(theta), settings)


def _windows(config: Mapping[str, Any], family: str, num_layers: int) -> tuple[int | None, ...]:
    window = config.get("sliding_window")
    if not window or family == "llama":
        return (None,) * num_layers
    if family == "mistral":
        return (window,) * num_layers
    if config.get("layer_types"):
        kinds = config["layer_types"]
        return tuple(window if kind == "sliding_attention" else None for kind in kinds)
    if not config.get("use_sliding_window", False):
        return (None,) * num_layers
    first = config.get("max_window_layers", num_layers)
    return tuple(window if layer >= first else None for layer in range(num_layers))


def _dtype(config: Mapping[str, Any]) -> str | None:
    name = config.get("dtype") or config.get("torch_dtype")
    return name if name in DTYPES else None
