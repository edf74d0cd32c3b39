"""A model of random weights that runs fast, with the embedded model's tokenizer and template."""

import json
from pathlib import Path

import torch
from safetensors.torch import save_file

from tdpipe.execution.models.model_source import resolve_model

TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja")
SIZES = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 2048,
}


def write_tiny_model(folder: Path, seed: int = 0) -> Path:
    """A Hugging Face folder of a Llama of 3 million weights; returns the folder."""
    known = resolve_model("smollm2-135m-instruct").folder
    config = json.loads((known / "config.json").read_text())
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps({**config, **SIZES}))
    for name in TOKENIZER_FILES:
        if (known / name).exists():
            (folder / name).write_bytes((known / name).read_bytes())
    save_file(_weights(config["vocab_size"], seed), folder / "model.safetensors")
    return folder


def _weights(vocab_size: int, seed: int) -> dict[str, torch.Tensor]:
    draw = torch.Generator().manual_seed(seed)
    hidden, inner, head = SIZES["hidden_size"], SIZES["intermediate_size"], SIZES["head_dim"]
    queries, keys = head * SIZES["num_attention_heads"], head * SIZES["num_key_value_heads"]
    shapes = {
        "self_attn.q_proj": (queries, hidden),
        "self_attn.k_proj": (keys, hidden),
        "self_attn.v_proj": (keys, hidden),
        "self_attn.o_proj": (hidden, queries),
        "mlp.gate_proj": (inner, hidden),
        "mlp.up_proj": (inner, hidden),
        "mlp.down_proj": (hidden, inner),
    }
    weights = {
        "model.embed_tokens.weight": torch.randn(vocab_size, hidden, generator=draw),
        "model.norm.weight": torch.ones(hidden),
    }
    for layer in range(SIZES["num_hidden_layers"]):
        for name, shape in shapes.items():
            # Scaled so that activations keep their size through the layers.
            scale = shape[1] ** -0.5
            key = f"model.layers.{layer}.{name}.weight"
            weights[key] = torch.randn(shape, generator=draw) * scale
        for norm in ("input_layernorm", "post_attention_layernorm"):
            weights[f"model.layers.{layer}.{norm}.weight"] = torch.ones(hidden)
    return weights
