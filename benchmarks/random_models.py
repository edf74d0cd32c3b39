"""Model folders without weights, for load_format="dummy": shapes of known models, and a tiny one.

Prompts and answers are token ids; the tokenizer only has to give each of them some text.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, models

from tdpipe.core.model_shape import ModelShape
from tdpipe.cost.model_catalogue import MODELS

TINY = ModelShape(4, 64, 128, 4, 2, 16, 512, False)


@dataclass(frozen=True)
class RandomModel:
    """What a config.json says beside the shape."""

    shape: ModelShape
    architecture: str
    max_position_embeddings: int
    rope_theta: float


# From the published config.json of each; Qwen2 has biases in the projections to queries, keys and
# values.
RANDOM_MODELS = {
    "llama-2-13b": RandomModel(MODELS["llama-2-13b"], "LlamaForCausalLM", 4096, 1e4),
    "qwen2.5-32b": RandomModel(MODELS["qwen2.5-32b"], "Qwen2ForCausalLM", 32768, 1e6),
    "tiny": RandomModel(TINY, "Qwen2ForCausalLM", 2048, 1e4),
}


def write_random_model(folder: Path, name: str) -> Path:
    """A Hugging Face folder of a model in RANDOM_MODELS, without weights; returns the folder."""
    model = RANDOM_MODELS[name]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(_config(model)))
    words = {f"t{index}": index for index in range(model.shape.vocab_size)}
    Tokenizer(models.WordLevel(words, "t0")).save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text("{}")
    return folder


def _config(model: RandomModel) -> dict[str, Any]:
    shape = model.shape
    return {
        "architectures": [model.architecture],
        "num_hidden_layers": shape.num_layers,
        "hidden_size": shape.hidden_size,
        "intermediate_size": shape.intermediate_size,
        "num_attention_heads": shape.num_heads,
        "num_key_value_heads": shape.num_kv_heads,
        "head_dim": shape.head_dim,
        "vocab_size": shape.vocab_size,
        "tie_word_embeddings": shape.tie_word_embeddings,
        "max_position_embeddings": model.max_position_embeddings,
        "rope_theta": model.rope_theta,
        "rms_norm_eps": 1e-5,
        "dtype": "bfloat16",
    }
