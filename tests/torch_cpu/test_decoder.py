"""The decoder against transformers: random-weight models of every family and RoPE kind."""

import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig, MistralConfig, Qwen2Config, Qwen3Config

from chain import Chain, relative_gap
from tdpipe.execution.attention.numba_attention import NumbaAttention
from tdpipe.execution.attention.torch_attention import TorchAttention
from tdpipe.execution.models import core_layer

SIZES = {
    "vocab_size": 320,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "pad_token_id": None,
    "bos_token_id": None,
    "eos_token_id": 1,
}


def rope(kind, **settings):
    return {"rope_parameters": {"rope_type": kind, "rope_theta": 10000.0, **settings}}


LLAMA3 = rope(
    "llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0,
    original_max_position_embeddings=64,
)  # fmt: skip
YARN = rope("yarn", factor=4.0, original_max_position_embeddings=64)
CONFIGS = {
    "llama": LlamaConfig(**SIZES),
    "llama-tied-bias": LlamaConfig(
        **SIZES, tie_word_embeddings=True, attention_bias=True, mlp_bias=True
    ),
    "llama3-rope": LlamaConfig(**SIZES, **LLAMA3),
    "linear-rope": LlamaConfig(**SIZES, **rope("linear", factor=2.0)),
    "yarn-rope": LlamaConfig(**SIZES, **YARN),
    "wide-heads": LlamaConfig(**SIZES, head_dim=32),
    "mistral-window": MistralConfig(**SIZES, sliding_window=17),
    "qwen2": Qwen2Config(**SIZES),
    "qwen2-window": Qwen2Config(
        **SIZES, use_sliding_window=True, sliding_window=9, max_window_layers=2
    ),
    "qwen3": Qwen3Config(**SIZES, head_dim=24, tie_word_embeddings=True),
}


@pytest.fixture(scope="module", params=CONFIGS)
def tiny(request, tmp_path_factory):
    """(folder, transformers model) of a random model, with weights large enough to matter."""
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(CONFIGS[request.param]).eval()
    for name, parameter in model.named_parameters():
        if "norm" in name or name.endswith("bias"):
            torch.nn.init.normal_(parameter, mean=0.5, std=0.3)
        else:
            torch.nn.init.normal_(parameter, std=0.2)
    folder = tmp_path_factory.mktemp(request.param)
    model.save_pretrained(folder, max_shard_size="200KB")
    return folder, model


@pytest.fixture(autouse=True)
def one_core():
    """As a stage on CPU has by default; kernels of our own multiply then."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def reference(model, tokens):
    with torch.inference_mode():
        return model(torch.tensor([tokens])).logits[0]


@pytest.mark.parametrize("layers", [[4], [3, 1], [1, 2, 1]])
@pytest.mark.parametrize("attention", [TorchAttention, NumbaAttention])
def test_prefill_chunks_and_decode_agree(tiny, layers, attention):
    """Two sequences: one whole, one in chunks beside it; then decodes of both together."""
    folder, model = tiny
    chain = Chain(folder, layers, attention)
    draw = torch.Generator().manual_seed(1)
    one = torch.randint(2, 320, (60,), generator=draw).tolist()
    two = torch.randint(2, 320, (41,), generator=draw).tolist()
    want_one, want_two = reference(model, one), reference(model, two)
    got = chain.step([(1, 0, one[:50]), (2, 0, two[:7])], 2)
    assert relative_gap(got[0], want_one[49]) < 1e-4
    got = chain.step([(2, 7, two[7:30]), (1, 50, one[50:51])], 1)  # a chunk beside a decode
    assert relative_gap(got[0], want_two[29]) < 1e-4
    assert relative_gap(got[1], want_one[50]) < 1e-4
    for step in range(8):
        got = chain.step(
            [
                (2, 30 + step, two[30 + step : 31 + step]),
                (1, 51 + step, one[51 + step : 52 + step]),
            ],
            0,
        )
        assert relative_gap(got[0], want_two[30 + step]) < 1e-4
        assert relative_gap(got[1], want_one[51 + step]) < 1e-4


def test_decodes_of_very_different_lengths(tiny):
    """More than one group of the reference attention, lengths from 1 to 60."""
    folder, model = tiny
    chain = Chain(folder, [4])
    draw = torch.Generator().manual_seed(2)
    prompts = [torch.randint(2, 320, (1 + 3 * i,), generator=draw).tolist() for i in range(20)]
    chain.step([(i, 0, tokens) for i, tokens in enumerate(prompts)], len(prompts))
    got = chain.step([(i, len(tokens), [5]) for i, tokens in enumerate(prompts)], 0)
    for row, tokens in zip(got, prompts, strict=True):
        assert relative_gap(row, reference(model, [*tokens, 5])[-1]) < 1e-4


def test_many_rows_in_parts(tiny, monkeypatch):
    monkeypatch.setattr(core_layer, "MLP_ROWS", 7)
    folder, model = tiny
    tokens = torch.randint(2, 320, (60,), generator=torch.Generator().manual_seed(3)).tolist()
    got = Chain(folder, [4], NumbaAttention).step([(1, 0, tokens)], 1)
    assert relative_gap(got[0], reference(model, tokens)[-1]) < 1e-4


@pytest.mark.parametrize("attention", [TorchAttention, NumbaAttention])
def test_several_cores(tiny, attention):
    torch.set_num_threads(2)
    folder, model = tiny
    chain = Chain(folder, [4], attention)
    got = chain.step([(1, 0, [5, 6, 7])], 1)
    assert relative_gap(got[0], reference(model, [5, 6, 7])[-1]) < 1e-4


def test_an_embedding_that_is_the_projection_is_held_once(tiny):
    folder, model = tiny
    [[stage]] = Chain(folder, [4]).models
    assert (stage.embedding is None) == model.config.tie_word_embeddings
    assert stage.weight_bytes == sum(one.numel() * 4 for one in model.parameters())


@pytest.mark.parametrize(("layers", "num_ranks"), [([4], 2), ([2, 2], 3), ([4], 4)])
@pytest.mark.parametrize("attention", [TorchAttention, NumbaAttention])
def test_ranks_that_share_a_stage(tiny, layers, num_ranks, attention):
    """4 heads, 2 KV heads: two ranks divide them, three do not, four share each KV head."""
    folder, model = tiny
    chain = Chain(folder, layers, attention, num_ranks)
    tokens = torch.randint(2, 320, (50,), generator=torch.Generator().manual_seed(4)).tolist()
    want = reference(model, tokens)
    assert relative_gap(chain.step([(1, 0, tokens[:40])], 1)[0], want[39]) < 1e-4
    for at in range(40, 44):
        got = chain.step([(1, at, [tokens[at]])], 0)
        assert relative_gap(got[0], want[at]) < 1e-4


def test_a_difference_would_be_seen(tiny):
    """The same comparison fails for other tokens: the tolerance is not blind."""
    folder, model = tiny
    got = Chain(folder, [4]).step([(1, 0, [5, 6, 7])], 1)
    assert relative_gap(got[0], reference(model, [6, 5, 7])[-1]) > 1e-3
