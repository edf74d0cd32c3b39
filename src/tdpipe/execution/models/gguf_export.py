"""Turns a GGUF file into a Hugging Face folder, once; everything else reads such folders.

Quantised tensors are dequantised to float32. Source of the tensor names and of the interleaved
rotary layout of llama files: the GGUF specification and llama.cpp's converter.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tdpipe.core.errors import ConfigError

ARCHITECTURES = {
    "llama": "LlamaForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
}
TENSORS = {
    "token_embd": "model.embed_tokens",
    "output_norm": "model.norm",
    "output": "lm_head",
}
LAYER_TENSORS = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
SPECIAL_TOKEN = 3  # of tokenizer.ggml.token_type: a control token
USER_TOKEN = 4


def export_gguf(path: Path, folder: Path) -> None:
    """Write config.json, model.safetensors and the tokenizer files of `path` into `folder`.

    Raises:
        ConfigError: not a GGUF file, or its architecture, tokenizer or a tensor is not supported.
    """
    from gguf import GGUFReader
    from safetensors.numpy import save_file

    try:
        reader = GGUFReader(path)
    except (OSError, ValueError) as error:
        raise ConfigError("model", str(path), f"not a readable GGUF file ({error})") from None
    fields = {name: field.contents() for name, field in reader.fields.items()}
    config = hf_config(fields, {tensor.name for tensor in reader.tensors})
    (folder / "config.json").write_text(json.dumps(config, indent=1))
    write_tokenizer(fields, folder)
    save_file(dict(_tensors(reader, config)), folder / "model.safetensors", {"format": "pt"})


def hf_config(fields: dict[str, Any], tensor_names: set[str]) -> dict[str, Any]:
    """The config.json that a GGUF file's metadata amounts to."""
    kind = fields.get("general.architecture")
    if kind not in ARCHITECTURES:
        raise ConfigError("architecture", kind, f"GGUF files of {', '.join(ARCHITECTURES)} work")
    assert isinstance(kind, str)

    def get(name: str, default: Any = None) -> Any:
        return fields.get(f"{kind}.{name}", default)

    heads, hidden = get("attention.head_count"), get("embedding_length")
    config = {
        "architectures": [ARCHITECTURES[kind]],
        "model_type": kind,
        "hidden_size": hidden,
        "intermediate_size": get("feed_forward_length"),
        "num_hidden_layers": get("block_count"),
        "num_attention_heads": heads,
        "num_key_value_heads": get("attention.head_count_kv", heads),
        "head_dim": get("attention.key_length", hidden // heads),
        "max_position_embeddings": get("context_length", 2048),
        "rms_norm_eps": float(get("attention.layer_norm_rms_epsilon", 1e-6)),
        "rope_theta": float(get("rope.freq_base", 10000.0)),
        "vocab_size": len(fields["tokenizer.ggml.tokens"]),
        "tie_word_embeddings": "output.weight" not in tensor_names,
        "bos_token_id": fields.get("tokenizer.ggml.bos_token_id"),
        "eos_token_id": fields.get("tokenizer.ggml.eos_token_id"),
        "hidden_act": "silu",
        "dtype": "float32",
    }
    scaling = get("rope.scaling.type", "none")
    if scaling == "linear":
        config["rope_scaling"] = {"rope_type": "linear", "factor": get("rope.scaling.factor")}
    elif scaling not in ("none", None) or "rope_freqs.weight" in tensor_names:
        fix = "in GGUF files only plain and linear rotary positions work; use safetensors"
        raise ConfigError("rope_scaling", scaling, fix)
    return config


def write_tokenizer(fields: dict[str, Any], folder: Path) -> None:
    """Write tokenizer.json and tokenizer_config.json of a byte-level BPE vocabulary."""
    from tokenizers import AddedToken, Tokenizer, decoders
    from tokenizers.models import BPE

    model = fields.get("tokenizer.ggml.model")
    if model != "gpt2":
        raise ConfigError("tokenizer.ggml.model", model, "only gpt2 (byte-level BPE) works")
    tokens: list[str] = fields["tokenizer.ggml.tokens"]
    kinds: list[int] = fields.get("tokenizer.ggml.token_type", [1] * len(tokens))
    merges = [tuple(merge.split(" ")) for merge in fields["tokenizer.ggml.merges"]]
    tokenizer = Tokenizer(BPE({text: i for i, text in enumerate(tokens)}, merges))
    tokenizer.pre_tokenizer = _pre_tokenizer(fields.get("tokenizer.ggml.pre", "default"))
    tokenizer.decoder = decoders.ByteLevel()
    marked = [(text, kind) for text, kind in zip(tokens, kinds, strict=True)]
    tokenizer.add_special_tokens(
        [
            AddedToken(text, special=True, normalized=False)
            for text, k in marked
            if k == SPECIAL_TOKEN
        ]
    )
    tokenizer.add_tokens(
        [AddedToken(text, special=False, normalized=False) for text, k in marked if k == USER_TOKEN]
    )
    tokenizer.save(str(folder / "tokenizer.json"))
    settings: dict[str, Any] = {"tokenizer_class": "PreTrainedTokenizerFast"}
    for name in ("bos", "eos", "unknown", "padding"):
        index = fields.get(f"tokenizer.ggml.{name}_token_id")
        short = {"unknown": "unk", "padding": "pad"}.get(name, name)
        if index is not None:
            settings[f"{short}_token"] = tokens[index]
    settings["add_bos_token"] = bool(fields.get("tokenizer.ggml.add_bos_token", False))
    settings["clean_up_tokenization_spaces"] = False
    settings["model_max_length"] = 10**9
    if "tokenizer.chat_template" in fields:
        settings["chat_template"] = fields["tokenizer.chat_template"]
    (folder / "tokenizer_config.json").write_text(json.dumps(settings, indent=1))


# Published splitting rules by the name that GGUF files give them.
_LLAMA3_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_QWEN2_SPLIT = _LLAMA3_SPLIT.replace(r"\p{N}{1,3}", r"\p{N}")


def _pre_tokenizer(name: str) -> Any:
    from tokenizers import Regex, pre_tokenizers

    plain = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    if name in ("gpt-2", "gpt2"):
        return plain
    if name == "smollm":
        digits = pre_tokenizers.Digits(individual_digits=True)
        return pre_tokenizers.Sequence([digits, plain])
    splits = {"llama-bpe": _LLAMA3_SPLIT, "llama3": _LLAMA3_SPLIT, "qwen2": _QWEN2_SPLIT}
    if name not in splits:
        fix = f"use one of gpt-2, smollm, {', '.join(splits)}, or safetensors with tokenizer.json"
        raise ConfigError("tokenizer.ggml.pre", name, fix)
    split = pre_tokenizers.Split(Regex(splits[name]), behavior="isolated")
    raw = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    return pre_tokenizers.Sequence([split, raw])


def _tensors(reader: Any, config: dict[str, Any]) -> Iterator[tuple[str, npt.NDArray[Any]]]:
    from gguf import dequantize

    heads, kv_heads = config["num_attention_heads"], config["num_key_value_heads"]
    for tensor in reader.tensors:
        array = dequantize(tensor.data, tensor.tensor_type).astype(np.float32)
        name = _hf_name(tensor.name)
        if config["model_type"] == "llama" and name.endswith("self_attn.q_proj.weight"):
            array = _uninterleave(array, heads)
        if config["model_type"] == "llama" and name.endswith("self_attn.k_proj.weight"):
            array = _uninterleave(array, kv_heads)
        yield name, np.ascontiguousarray(array)


def _uninterleave(weight: npt.NDArray[Any], num_heads: int) -> npt.NDArray[Any]:
    """Rows of each head from pairs (0, 1), (2, 3) ... to halves, as the decoder rotates them."""
    rows, columns = weight.shape
    pairs = weight.reshape(num_heads, rows // num_heads // 2, 2, columns)
    return pairs.swapaxes(1, 2).reshape(rows, columns)


def _hf_name(name: str) -> str:
    stem, _, leaf = name.rpartition(".")
    if stem in TENSORS:
        return f"{TENSORS[stem]}.{leaf}"
    parts = stem.split(".")
    if len(parts) == 3 and parts[0] == "blk" and parts[2] in LAYER_TENSORS:
        return f"model.layers.{parts[1]}.{LAYER_TENSORS[parts[2]]}.{leaf}"
    raise ConfigError("weights", name, "a tensor that a plain decoder does not have")
