"""Outputs equal transformers' token for token, whatever the stages, scheduler or preemption.

A sample of prompts and combinations; `make equality` runs each combination over all of the prompts.
"""

import pytest

from reference_answers import MODEL, NUM_TOKENS, differences
from tdpipe import LLM, SamplingParams

GREEDY = SamplingParams(temperature=0.0, max_tokens=NUM_TOKENS, ignore_eos=True)
SCHEDULERS = ("td-pipe", "pp-separate", "pp-hybrid", "adaptive")
SCARCE_SAMPLE = ("td-pipe", "pp-hybrid")
SAMPLE = {1: ("td-pipe",), 2: SCHEDULERS, 3: ("adaptive",)}
# 60 blocks of 16 tokens: about six of the requests fit at once.
SCARCE_BLOCKS = 60


def block_bytes(num_layers):
    return num_layers * 16 * 2 * 3 * 64 * 4


@pytest.mark.parametrize("num_stages", [1, 2, 3])
def test_all_schedulers_on_each_number_of_stages(num_stages, prompts, reference, pytestconfig):
    """One start per number of stages; the scheduler is changed between the runs."""
    takes_all = pytestconfig.getoption("all_prompts")
    with LLM(MODEL, pipeline_parallel_size=num_stages, kv_cache_memory="1GiB") as llm:
        for scheduler in SCHEDULERS if takes_all else SAMPLE[num_stages]:
            llm.use_scheduler(scheduler)
            wrong, ties = differences(llm.generate(prompts, GREEDY), reference)
            summary = llm.summary()
            print(f"{num_stages} stages, {scheduler}: {summary.num_requests} requests, ties {ties}")
            assert wrong == [] and len(ties) < 8
            assert summary.scheduler == scheduler and summary.num_preemptions == 0
            assert summary.output_tokens == len(prompts) * NUM_TOKENS


def test_with_preemption(prompts, reference, pytestconfig):
    """A KV cache for a few requests and forecasts that are far too low."""
    with LLM(
        MODEL,
        pipeline_parallel_size=2,
        partition=(16, 14),
        block_size=16,
        kv_cache_memory=SCARCE_BLOCKS * block_bytes(16),
        length_predictor="constant:8",
    ) as llm:
        takes_all = pytestconfig.getoption("all_prompts")
        for scheduler in SCHEDULERS if takes_all else SCARCE_SAMPLE:
            llm.use_scheduler(scheduler)
            wrong, ties = differences(llm.generate(prompts, GREEDY), reference)
            preemptions = llm.summary().num_preemptions
            print(f"{scheduler}: {preemptions} preemptions, ties {ties}")
            # adaptive lets requests wait for blocks before it preempts any.
            assert preemptions > 0 or scheduler == "adaptive"
            assert wrong == [] and len(ties) < 8
