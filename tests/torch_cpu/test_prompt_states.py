"""States of prompts between layers, against those of transformers."""

import numpy as np
import pytest
import torch

from reference_answers import MODEL
from tdpipe.core.errors import ConfigError
from tdpipe.execution import prompt_states as prompt_reading
from tdpipe.execution.models.model_source import resolve_model
from tdpipe.execution.prompt_states import prompt_states


@pytest.fixture(scope="module")
def source():
    return resolve_model(MODEL)


def test_states_are_those_of_transformers(source):
    from transformers import LlamaModel

    model = LlamaModel.from_pretrained(source.folder, dtype=torch.float32)
    prompts = [[1, 20, 300 + i] * (1 + 4 * i) + [7] for i in range(4)]
    seen = []
    depths = [1, 19, 30]
    states = prompt_states(source.folder, prompts, depths, on_progress=seen.append)
    assert states.shape == (4, 3, source.config.hidden_size) and seen == [4]
    for prompt, of_prompt in zip(prompts, states, strict=True):
        for depth, state in zip(depths, of_prompt, strict=True):
            wanted = residual(model, prompt, depth)
            wanted /= np.sqrt((wanted**2).mean())
            assert np.abs(state - wanted).max() / np.abs(wanted).max() < 1e-4


def residual(model, prompt, depth):
    """What the layer of that number gives for a prompt's last token, [hidden]."""
    seen = []
    layer = model.layers[depth - 1]
    hook = layer.register_forward_hook(lambda _, __, output: seen.append(output))
    with torch.inference_mode():
        model(torch.tensor([prompt]))
    hook.remove()
    (output,) = seen
    return (output[0] if isinstance(output, tuple) else output)[0, -1].numpy()


def test_states_in_several_batches(source, monkeypatch):
    """Blocks are used again, and a prompt may be longer than a batch."""
    monkeypatch.setattr(prompt_reading, "BATCH_TOKENS", 32)
    long = [5, 9] * 24
    together = prompt_states(source.folder, [[1, 2, 3], long, [4] * 40], [30])
    alone = prompt_states(source.folder, [[1, 2, 3]], [30])
    assert together[0] == pytest.approx(alone[0], abs=1e-4, rel=1e-3)
    assert np.isfinite(together).all()


def test_prompts_that_have_no_state(source):
    assert prompt_states(source.folder, [], [1, 2]).shape == (0, 2, source.config.hidden_size)
    config = source.config
    for bad in ([], [1] * (config.max_position_embeddings + 1), [config.vocab_size], [-1]):
        with pytest.raises(ConfigError, match=r"prompts\[1\]="):
            prompt_states(source.folder, [[1], bad], [1])
