"""Ranks that share a stage: outputs as of one process alone, also after one of them is killed."""

import os
import signal
from dataclasses import replace

import pytest

from reference_answers import FEW_TOKENS, MODEL, differences, shortened
from tdpipe import LLM, SamplingParams
from tdpipe.core.errors import ConfigError
from tiny_model import write_tiny_model

LAYOUTS = {(1, 2): "tp-separate", (2, 2): "adaptive", (1, 3): "tp-hybrid"}
PARAMS = SamplingParams(temperature=0.0, max_tokens=24, ignore_eos=True)
PROMPTS = [list(range(20 + 7 * i, 60 + 19 * i)) for i in range(6)]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """A random model of 4 heads and 2 KV heads: three ranks do not divide them."""
    return str(write_tiny_model(tmp_path_factory.mktemp("tiny")))


@pytest.fixture(scope="module")
def alone(tiny):
    with LLM(tiny, kv_cache_memory="64MiB") as llm:
        return answers(llm)


def answers(llm):
    return [output.outputs[0].token_ids for output in llm.generate(PROMPTS, PARAMS)]


@pytest.mark.parametrize(("stages", "ranks"), LAYOUTS)
def test_the_embedded_model(stages, ranks, prompts, reference):
    """9 heads and 3 KV heads: 6 and 3 on two ranks, 3 each on three."""
    greedy = SamplingParams(temperature=0.0, max_tokens=FEW_TOKENS, ignore_eos=True)
    with LLM(
        MODEL,
        pipeline_parallel_size=stages,
        tensor_parallel_size=ranks,
        scheduler=LAYOUTS[stages, ranks],
        kv_cache_memory="256MiB",
    ) as llm:
        wrong, ties = differences(llm.generate(prompts, greedy), shortened(reference, FEW_TOKENS))
        assert len(llm.pids) == stages * ranks
        summary = llm.summary()
    print(f"{stages} stages of {ranks} ranks: {summary.num_requests} requests, ties {ties}")
    assert wrong == [] and len(ties) < max(2, len(prompts) / 8)


@pytest.mark.parametrize(("stages", "ranks"), [*LAYOUTS, (1, 4)])
def test_random_weights(tiny, alone, stages, ranks):
    with LLM(
        tiny,
        pipeline_parallel_size=stages,
        tensor_parallel_size=ranks,
        kv_cache_memory="64MiB",
    ) as llm:
        assert answers(llm) == alone


def test_through_sockets(tiny, alone, monkeypatch):
    """As ranks on several machines, or on a processor that reorders its stores."""
    monkeypatch.setenv("TDPIPE_RANK_SOCKETS", "1")
    with LLM(tiny, tensor_parallel_size=3, kv_cache_memory="64MiB") as llm:
        assert answers(llm) == alone


def test_a_killed_rank(tiny, alone):
    """The first stage's second process, while requests decode: the first of them is short."""
    params = [replace(PARAMS, max_tokens=4), *[PARAMS] * (len(PROMPTS) - 1)]
    with LLM(
        tiny, pipeline_parallel_size=2, tensor_parallel_size=2, kv_cache_memory="64MiB"
    ) as llm:
        results = llm.generate_iter(PROMPTS, params)
        first = next(results)
        old = llm.pids
        os.kill(old[1], signal.SIGKILL)
        found = {output.index: output.outputs[0].token_ids for output in [first, *results]}
        assert first.index == 0 and found[0] == alone[0][:4]
        assert [found[i] for i in range(1, len(PROMPTS))] == alone[1:]
        assert llm.summary().num_restarts == 1 and not set(llm.pids) & set(old)


def test_more_ranks_than_heads(tiny):
    with pytest.raises(ConfigError, match="tensor_parallel_size=5: use 1 to 4, the model's att"):
        LLM(tiny, tensor_parallel_size=5)


@pytest.mark.parametrize("scheduler", ["tp-separate", "tp-hybrid"])
def test_tensor_parallel_schedulers_are_for_one_stage(tiny, scheduler):
    with pytest.raises(ConfigError, match=f"scheduler='{scheduler}': it is for one stage"):
        LLM(tiny, scheduler=scheduler, pipeline_parallel_size=2)
