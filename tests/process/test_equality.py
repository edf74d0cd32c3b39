"""Outputs equal transformers' token for token, whatever the stages, scheduler or preemption.

A sample of prompts and combinations; `make equality` runs each combination over all of the prompts.
"""

import pytest

from reference_answers import MODEL, differences
from tdpipe import LLM, SamplingParams

SCHEDULERS = ("td-pipe", "pp-separate", "pp-hybrid", "adaptive")
SCARCE_SAMPLE = ("td-pipe", "pp-hybrid")
SAMPLE = {1: ("td-pipe",), 2: SCHEDULERS, 3: ("adaptive",)}
# Blocks of 16 tokens: of all prompts about six fit at once, of the sample about four.
ALL_BLOCKS, SAMPLE_BLOCKS = 60, 26


def block_bytes(num_layers):
    return num_layers * 16 * 2 * 3 * 64 * 4


@pytest.fixture
def greedy(num_tokens):
    return SamplingParams(temperature=0.0, max_tokens=num_tokens, ignore_eos=True)


def few(ties, prompts):
    """Few of the answers leave the reference, and those at ties."""
    return len(ties) < max(2, len(prompts) / 8)


@pytest.mark.parametrize("num_stages", [1, 2, 3])
def test_all_schedulers_on_each_number_of_stages(
    num_stages, prompts, reference, greedy, pytestconfig
):
    """One start per number of stages; the scheduler is changed between the runs."""
    takes_all = pytestconfig.getoption("all_prompts")
    with LLM(MODEL, pipeline_parallel_size=num_stages, kv_cache_memory="1GiB") as llm:
        for scheduler in SCHEDULERS if takes_all else SAMPLE[num_stages]:
            llm.use_scheduler(scheduler)
            wrong, ties = differences(llm.generate(prompts, greedy), reference)
            summary = llm.summary()
            print(f"{num_stages} stages, {scheduler}: {summary.num_requests} requests, ties {ties}")
            assert wrong == [] and few(ties, prompts)
            assert summary.scheduler == scheduler and summary.num_preemptions == 0
            assert summary.output_tokens == len(prompts) * greedy.max_tokens


def test_with_preemption(prompts, reference, greedy, pytestconfig):
    """A KV cache for a few requests and forecasts that are far too low."""
    takes_all = pytestconfig.getoption("all_prompts")
    num_blocks = ALL_BLOCKS if takes_all else SAMPLE_BLOCKS
    with LLM(
        MODEL,
        pipeline_parallel_size=2,
        partition=(16, 14),
        block_size=16,
        kv_cache_memory=num_blocks * block_bytes(16),
        length_predictor="constant:8",
    ) as llm:
        for scheduler in SCHEDULERS if takes_all else SCARCE_SAMPLE:
            llm.use_scheduler(scheduler)
            wrong, ties = differences(llm.generate(prompts, greedy), reference)
            preemptions = llm.summary().num_preemptions
            print(f"{scheduler}: {preemptions} preemptions, ties {ties}")
            # adaptive lets requests wait for blocks before it preempts any.
            assert preemptions > 0 or scheduler == "adaptive"
            assert wrong == [] and few(ties, prompts)
