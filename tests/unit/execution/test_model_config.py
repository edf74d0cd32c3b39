"""What a config.json may say, and the one-line errors when it says something else."""

import pytest

from tdpipe.core.errors import ConfigError
from tdpipe.execution.models.model_config import ModelConfig

LLAMA = {
    "architectures": ["LlamaForCausalLM"], "hidden_size": 32, "intermediate_size": 48,
    "num_hidden_layers": 3, "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 64,
    "max_position_embeddings": 4096,
}  # fmt: skip
QWEN = {**LLAMA, "architectures": ["Qwen2ForCausalLM"], "sliding_window": 100}
LLAMA3 = {
    "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 1024,
}  # fmt: skip


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"num_hidden_layers": 0}, "config.json num_hidden_layers"),
        ({"vocab_size": True}, "config.json vocab_size"),
        ({"num_key_value_heads": 3}, "config.json num_key_value_heads"),
        ({"head_dim": 7}, "config.json head_dim"),
        ({"hidden_size": 2}, "config.json head_dim"),
        ({"dtype": "int8"}, "config.json dtype"),
        ({"rope_scaling": {"rope_type": "spiral"}}, "rope_scaling"),
        ({"rope_scaling": {"rope_type": "linear"}}, "rope_parameters factor"),
        ({"rope_scaling": {**LLAMA3, "low_freq_factor": 0}}, "rope_parameters low_freq_factor"),
        ({"rope_theta": -1.0}, "rope_parameters rope_theta"),
        ({"partial_rotary_factor": 0.5}, "partial_rotary_factor"),
        ({"rope_parameters": {"full_attention": {"rope_theta": 1.0}}}, "rope_parameters"),
    ],
)
def test_refused(change, field):
    with pytest.raises(ConfigError) as caught:
        ModelConfig.from_hf({**LLAMA, **change})
    assert caught.value.field == field and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("change", "windows"),
    [
        ({}, (None, None, None)),
        ({"use_sliding_window": True, "max_window_layers": 1}, (None, 100, 100)),
        (
            {
                "use_sliding_window": True,
                "layer_types": ["full_attention", "sliding_attention", "full_attention"],
            },
            (None, 100, None),
        ),
        ({"architectures": ["MistralForCausalLM"]}, (100, 100, 100)),
        ({"architectures": ["LlamaForCausalLM"]}, (None, None, None)),
    ],
)
def test_sliding_windows(change, windows):
    assert ModelConfig.from_hf({**QWEN, **change}).windows == windows


def test_layer_types_must_fit_the_layers():
    config = {**QWEN, "use_sliding_window": True, "layer_types": ["full_attention"]}
    with pytest.raises(ConfigError, match="layer_types"):
        ModelConfig.from_hf(config)


def test_yarn_factor_from_the_lengths():
    yarn = {"rope_type": "yarn", "original_max_position_embeddings": 1024}
    rope = ModelConfig.from_hf({**LLAMA, "rope_parameters": yarn}).rope
    assert (rope.kind, rope.settings["factor"]) == ("yarn", 4.0)


def test_dtype_with_its_prefix():
    assert ModelConfig.from_hf({**LLAMA, "torch_dtype": "torch.bfloat16"}).dtype == "bfloat16"
