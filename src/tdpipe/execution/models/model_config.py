"""A model's architecture, read from a Hugging Face config.json."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tdpipe.core.errors import ConfigError
from tdpipe.core.model_shape import ModelShape
from tdpipe.execution.models.rope_config import RopeConfig, read_rope

SUPPORTED = {
    "LlamaForCausalLM": "llama",
    "MistralForCausalLM": "mistral",
    "Qwen2ForCausalLM": "qwen2",
    "Qwen3ForCausalLM": "qwen3",
}
DTYPES = ("float32", "bfloat16", "float16")


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
        num_layers = _need(config, "num_hidden_layers")
        heads, kv_heads, head_dim = _heads(config)
        max_positions = _optional(config, "max_position_embeddings") or 2048
        qkv_bias = family == "qwen2" or bool(config.get("attention_bias", False))
        return cls(
            architecture=family,
            num_layers=num_layers,
            hidden_size=_need(config, "hidden_size"),
            intermediate_size=_need(config, "intermediate_size"),
            num_heads=heads,
            num_kv_heads=kv_heads,
            head_dim=head_dim,
            vocab_size=_need(config, "vocab_size"),
            max_position_embeddings=max_positions,
            rms_norm_eps=config.get("rms_norm_eps", 1e-6),
            rope=read_rope(config, max_positions),
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
    names = [str(name) for name in config.get("architectures") or []]
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


def _optional(config: Mapping[str, Any], name: str) -> int | None:
    value = config.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or value <= 0:
        fix = "the model's config must give a whole number above 0"
        raise ConfigError(f"config.json {name}", value, fix)
    return value


def _need(config: Mapping[str, Any], name: str) -> int:
    value = _optional(config, name)
    if value is None:
        fix = "the model's config must give a whole number above 0"
        raise ConfigError(f"config.json {name}", value, fix)
    return value


def _heads(config: Mapping[str, Any]) -> tuple[int, int, int]:
    """Heads, KV heads and head size, which must fit together."""
    heads = _need(config, "num_attention_heads")
    kv_heads = _optional(config, "num_key_value_heads") or heads
    if heads % kv_heads:
        fix = f"it must divide num_attention_heads={heads}"
        raise ConfigError("config.json num_key_value_heads", kv_heads, fix)
    head_dim = _optional(config, "head_dim") or _need(config, "hidden_size") // heads
    if head_dim == 0 or head_dim % 2:
        fix = "a head's size must be even, for rotary positions"
        raise ConfigError("config.json head_dim", head_dim, fix)
    return heads, kv_heads, head_dim


def _windows(config: Mapping[str, Any], family: str, num_layers: int) -> tuple[int | None, ...]:
    window = _optional(config, "sliding_window") if config.get("sliding_window") else None
    # transformers drops the window of a Qwen model without use_sliding_window, whatever its layers.
    if family == "llama" or (family != "mistral" and not config.get("use_sliding_window", False)):
        window = None
    if window is None or family == "mistral":
        return (window,) * num_layers
    kinds = config.get("layer_types")
    if not kinds:
        first = config.get("max_window_layers", 28)  # transformers' default
        return tuple(window if layer >= first else None for layer in range(num_layers))
    if len(kinds) != num_layers or not set(kinds) <= {"full_attention", "sliding_attention"}:
        fix = f"give full_attention or sliding_attention for each of {num_layers} layers"
        raise ConfigError("config.json layer_types", kinds, fix)
    return tuple(window if kind == "sliding_attention" else None for kind in kinds)


def _dtype(config: Mapping[str, Any]) -> str | None:
    name = config.get("dtype") or config.get("torch_dtype")
    if name is None:
        return None
    short = str(name).removeprefix("torch.")
    if short not in DTYPES:
        raise ConfigError("config.json dtype", name, f"weights must be {', '.join(DTYPES)}")
    return short
