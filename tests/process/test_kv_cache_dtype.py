"""Stages with a cache of halves: the same tokens by any scheduler."""

import pytest

from tdpipe import LLM, SamplingParams
from tiny_model import write_tiny_model

PARAMS = SamplingParams(temperature=0.0, max_tokens=16, ignore_eos=True)
PROMPTS = [list(range(20 + 7 * i, 50 + 40 * i)) for i in range(6)]
SETTINGS = {"kv_cache_memory": "2MiB", "load_format": "dummy", "block_size": 16}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return str(write_tiny_model(tmp_path_factory.mktemp("model")))


def answers(llm):
    return [output.outputs[0].token_ids for output in llm.generate(PROMPTS, PARAMS)]


def test_tokens_are_those_of_any_scheduler(folder):
    with LLM(folder, **SETTINGS) as llm:
        exact, blocks = answers(llm), llm.wait_until_ready().num_blocks
        assert llm.result_settings()["kv_cache_dtype"] is None
    # Small batches: prompts are cut and begin while others decode.
    with LLM(folder, kv_cache_dtype="bfloat16", max_num_batched_tokens=64, **SETTINGS) as llm:
        assert llm.result_settings()["kv_cache_dtype"] == "bfloat16"
        assert llm.wait_until_ready().num_blocks == 2 * blocks
        first = answers(llm)
        assert first != exact  # it is rounded
        for name in ("td-pipe", "pp-hybrid"):
            llm.use_scheduler(name)
            assert answers(llm) == first
