"""Names to folders and configurations, and the errors on the way."""

import json
import os
import time

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig

from chain import Chain
from tdpipe.core.errors import ConfigError
from tdpipe.execution.models import model_source
from tdpipe.execution.models.model_config import ModelConfig
from tdpipe.execution.models.model_source import exported, load_config, resolve_model

EMBEDDED = "smollm2-135m-instruct"
TINY = {
    "architectures": ["LlamaForCausalLM"], "hidden_size": 32, "intermediate_size": 48,
    "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 64,
}  # fmt: skip


def test_embedded_model():
    source = resolve_model(EMBEDDED)
    shape = source.config.shape()
    assert (shape.num_layers, shape.hidden_size, shape.vocab_size) == (30, 576, 49152)
    assert source.config.tie_word_embeddings and source.end_token_ids == (2,)
    assert source.config.rope.theta == 100000.0


def test_second_resolve_is_quick():
    resolve_model(EMBEDDED)
    started_s = time.perf_counter()
    resolve_model(EMBEDDED)
    assert time.perf_counter() - started_s < 0.5


def test_exported_tokenizer_splits_as_the_original():
    """Digits one by one, contractions, spaces and chat markers (ids from the GGUF vocabulary)."""
    tokenizer = AutoTokenizer.from_pretrained(resolve_model(EMBEDDED).folder)
    assert tokenizer.tokenize("It's 1234") == ["It", "'s", "Ġ", "1", "2", "3", "4"]
    assert tokenizer.encode("<|im_start|>") == [1]
    text = "Grüße, 世界! def f(x):\n\treturn x**2  # naïve"
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_incomplete_export_is_made_again(monkeypatch, tmp_path):
    path = model_source._embedded_file(EMBEDDED)
    folder = exported(path)
    config = folder / "config.json"
    whole = config.read_text()
    config.write_text(whole[:-5])
    made = []

    def fake_export(source, target):
        made.append(source)
        for file in folder.iterdir():
            if file.name not in ("complete.json", "config.json"):
                os.link(file, target / file.name)
        (target / "config.json").write_text(whole)

    monkeypatch.setattr(model_source, "export_gguf", fake_export)
    assert exported(path) == folder
    assert made == [path] and config.read_text() == whole
    exported(path)
    assert len(made) == 1


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("no-such-model", "use a local folder, a .gguf file, a hub name"),
        ("missing.gguf", "there is no such file"),
        ("", "use a local folder"),
    ],
)
def test_unknown_models(name, message):
    with pytest.raises(ConfigError, match=message) as caught:
        resolve_model(name)
    assert caught.value.field == "model"


def test_hub_name_without_network(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(ConfigError, match="the hub did not give it"):
        resolve_model("nobody/nothing-here-at-all")


def test_folder_without_config(tmp_path):
    with pytest.raises(ConfigError, match=r"no config\.json"):
        resolve_model(str(tmp_path))


def test_broken_config(tmp_path):
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ConfigError, match="not valid JSON"):
        load_config(tmp_path)


def test_file_that_is_no_gguf(tmp_path, monkeypatch):
    monkeypatch.setenv("TDPIPE_CACHE", str(tmp_path / "cache"))
    path = tmp_path / "x.gguf"
    path.write_bytes(b"not a model")
    with pytest.raises(ConfigError, match="not a readable GGUF file"):
        resolve_model(str(path))
    assert [p for p in (tmp_path / "cache/gguf").iterdir() if p.is_dir()] == []


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"architectures": ["GPT2LMHeadModel"]}, "architecture"),
        ({"architectures": []}, "architecture"),
        ({"hidden_act": "gelu"}, "hidden_act"),
        ({"quantization_config": {"quant_method": "awq"}}, "quantization_config"),
        ({"hidden_size": None}, "config.json hidden_size"),
    ],
)
def test_unsupported_configs(change, field):
    with pytest.raises(ConfigError) as caught:
        ModelConfig.from_hf({**TINY, **change})
    assert caught.value.field == field
    if field == "architecture":
        assert "Qwen3ForCausalLM" in caught.value.fix


def test_old_rope_keys():
    config = {**TINY, "rope_theta": 500.0, "rope_scaling": {"type": "linear", "factor": 2.0}}
    rope = ModelConfig.from_hf(config).rope
    assert (rope.kind, rope.theta, rope.settings["factor"]) == ("linear", 500.0, 2.0)


@pytest.fixture
def tiny_folder(tmp_path):
    config = LlamaConfig(**{k: v for k, v in TINY.items() if k != "architectures"})
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
    return tmp_path


def test_unsupported_rope_kind(tiny_folder):
    path = tiny_folder / "config.json"
    config = json.loads(path.read_text())
    config["rope_parameters"] = {"rope_type": "spiral", "rope_theta": 1.0}
    path.write_text(json.dumps(config))
    with pytest.raises(ConfigError, match="use one of default, linear"):
        Chain(tiny_folder, [2])


def test_missing_and_misshapen_tensors(tiny_folder):
    path = tiny_folder / "model.safetensors"
    tensors = load_file(path)
    name = "model.layers.1.self_attn.k_proj.weight"
    save_file({key: value for key, value in tensors.items() if key != name}, path)
    with pytest.raises(ConfigError, match=name):
        Chain(tiny_folder, [1, 1])
    save_file({**tensors, name: torch.zeros(3, 32)}, path)
    with pytest.raises(ConfigError, match="implies"):
        Chain(tiny_folder, [1, 1])
    path.unlink()
    with pytest.raises(ConfigError, match="safetensors"):
        Chain(tiny_folder, [1, 1])


def test_damaged_files(tiny_folder):
    path = tiny_folder / "model.safetensors"
    # Copies: what load_file returns is mapped from the file that is cut off below.
    whole = {key: value.to(torch.int32) for key, value in load_file(path).items()}
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(ConfigError, match="download the model again"):
        Chain(tiny_folder, [2])
    save_file(whole, path)
    with pytest.raises(ConfigError, match=r"torch\.int32; only float32"):
        Chain(tiny_folder, [2])
    index = tiny_folder / "model.safetensors.index.json"
    index.write_text("[]")
    with pytest.raises(ConfigError, match="not a readable index"):
        Chain(tiny_folder, [2])
    index.write_text(json.dumps({"weight_map": {"x": "absent.safetensors"}}))
    with pytest.raises(ConfigError, match=r"absent\.safetensors"):
        Chain(tiny_folder, [2])


def test_a_stage_loads_only_its_layers(tiny_folder):
    whole, parts = Chain(tiny_folder, [2]), Chain(tiny_folder, [1, 1])
    sizes = [model.weight_bytes for model in parts.models[0]]
    assert sum(sizes) == whole.models[0][0].weight_bytes
    assert max(sizes) < 0.7 * sum(sizes)
