"""Stages that share a device hand over through host memory, and answer as one stage does."""

import pytest

from tdpipe import LLM, SamplingParams
from tdpipe.core.errors import ConfigError
from tiny_model import write_tiny_model

PARAMS = SamplingParams(temperature=0.0, max_tokens=16, ignore_eos=True)
PROMPTS = [list(range(20 + 7 * i, 50 + 40 * i)) for i in range(6)]
SETTINGS = {"load_format": "dummy", "kv_cache_memory": "64MiB"}


@pytest.fixture(scope="module")
def weightless(tmp_path_factory):
    """A model's folder without its weights: random ones are made."""
    folder = write_tiny_model(tmp_path_factory.mktemp("weightless"))
    (folder / "model.safetensors").unlink()
    return str(folder)


def answers(llm):
    return [output.outputs[0].token_ids for output in llm.generate(PROMPTS, PARAMS)]


def test_answers_are_those_of_one_stage(weightless):
    with LLM(weightless, **SETTINGS) as llm:
        alone = answers(llm)
        assert llm.result_settings()["load_format"] == "dummy"
    with LLM(weightless, pipeline_parallel_size=3, stage_devices="cpu,cpu,cpu", **SETTINGS) as llm:
        assert answers(llm) == alone
        assert llm.summary().num_restarts == 0
    assert len({token for tokens in alone for token in tokens}) > 6


def test_cards_that_are_not_there(weightless):
    with pytest.raises(ConfigError, match=r"stage_devices='cuda:9,cuda:9': there are \d CUDA dev"):
        LLM(weightless, pipeline_parallel_size=2, stage_devices="cuda:9,cuda:9", **SETTINGS)
