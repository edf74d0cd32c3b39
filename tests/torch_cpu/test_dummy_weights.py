"""Random weights: the same on any partition and number of ranks, finite, and each its own."""

import json

import pytest
import torch

from chain import Chain
from tdpipe.core.errors import ConfigError
from tdpipe.core.tensor_shard import tensor_shards
from tdpipe.execution.attention.torch_attention import TorchAttention
from tdpipe.execution.models.decoder import StageModel
from tdpipe.execution.models.model_config import ModelConfig
from tdpipe.execution.models.model_source import resolve_model
from tdpipe.execution.tensor_ranks import TensorRanks

CPU = torch.device("cpu")
CONFIG = {
    "architectures": ["Qwen2ForCausalLM"], "vocab_size": 50, "hidden_size": 32,
    "intermediate_size": 48, "num_hidden_layers": 3, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 512,
}  # fmt: skip


@pytest.fixture
def folder(tmp_path):
    """A model of which there is nothing but its configuration."""
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    return tmp_path


def loaded(folder, first, end, ranks=None):
    config = ModelConfig.from_hf(CONFIG)
    model = StageModel(
        config, first, end, is_first=first == 0, is_last=end == 3, dtype=torch.bfloat16,
        device=CPU, max_model_len=64, ranks=ranks,
    )  # fmt: skip
    model.load(folder, "dummy")
    return model


def test_any_partition_has_the_same_weights(folder):
    whole, second = loaded(folder, 0, 3), loaded(folder, 1, 3)
    for name, weight in second.layers[0].named_parameters():
        assert torch.equal(weight, dict(whole.layers[1].named_parameters())[name])
        assert weight.isfinite().all()
    assert torch.equal(second.projection.weight, whole.projection.weight)
    assert whole.weight_bytes == sum(p.numel() * 2 for p in whole.parameters()) + 50 * 32 * 2


def test_each_layer_and_part_has_its_own(folder):
    model = loaded(folder, 0, 3)
    first, second = (layer.attention.qkv.weight for layer in model.layers[:2])
    assert not torch.equal(first, second) and not torch.equal(first[:16], first[16:32])
    assert torch.equal(model.norm.weight, torch.ones(32, dtype=torch.bfloat16))
    # Of variance 1 / columns, so that what a product gives is as large as what it was given.
    assert 0.8 < float(first.float().std() * 32**0.5) < 1.2
    assert model.layers[0].attention.qkv.bias.abs().max() > 0


def test_ranks_hold_parts_of_the_same_weights(folder):
    whole = loaded(folder, 0, 3)
    shards = tensor_shards(ModelConfig.from_hf(CONFIG).shape(), 2)
    parts = [loaded(folder, 0, 3, TensorRanks(shards, rank)) for rank in range(2)]
    down = torch.cat([part.layers[2].mlp.down.weight for part in parts], dim=1)
    assert torch.equal(down, whole.layers[2].mlp.down.weight)


def test_logits_are_finite_and_not_all_alike(folder, monkeypatch):
    real = StageModel.load
    monkeypatch.setattr(StageModel, "load", lambda model, path: real(model, path, "dummy"))
    logits = Chain(folder, [2, 1], TorchAttention).step([(0, 0, [1, 2, 3]), (1, 0, [4])], 2)
    assert logits.isfinite().all() and 0.1 < float(logits.std()) < 10


def test_only_a_dummy_needs_no_weights(folder):
    assert resolve_model(str(folder), "dummy").config.num_layers == 3
    with pytest.raises(ConfigError, match=r"no \*.safetensors in the folder"):
        StageModel(
            ModelConfig.from_hf(CONFIG), 0, 3, is_first=True, is_last=True, dtype=torch.float32,
            device=CPU,
        ).load(folder)  # fmt: skip
