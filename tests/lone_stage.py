"""What a test needs to run a StageSession in its own process, without an engine."""

from pathlib import Path
from typing import Any

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from tdpipe.execution.wire import StageSpec

HIDDEN = 64


def save_llama(folder: Path, num_layers: int = 2) -> Path:
    """A small model with random weights, always the same."""
    config = LlamaConfig(
        vocab_size=320, hidden_size=HIDDEN, intermediate_size=96, num_hidden_layers=num_layers,
        num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=256,
    )  # fmt: skip
    torch.manual_seed(0)
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


def stage_spec(folder: Path, **settings: Any) -> StageSpec:
    """Of the only stage of a model with two layers, on CPU, unless the settings say otherwise."""
    spec: dict[str, Any] = {
        "stage": 0, "num_stages": 1, "model_folder": str(folder), "first_layer": 0, "end_layer": 2,
        "dtype": "float32", "device": "cpu", "cores": (), "threads": torch.get_num_threads(),
        "block_size": 16, "max_model_len": 64, "memory_utilization": 0.5, "engine_address": "",
        "stage_address": "", "rendezvous": "", "folder": str(folder),
    }  # fmt: skip
    return StageSpec(**{**spec, **settings})
