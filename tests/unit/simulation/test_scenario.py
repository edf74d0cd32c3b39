"""Scenarios: limits, bound and runs by scheduler name; workloads and predictors by theirs."""

from dataclasses import replace

import pytest

from tdpipe.core.errors import CapacityError, ConfigError
from tdpipe.cost.hardware_catalogue import GIB, find_device
from tdpipe.cost.model_catalogue import find_model
from tdpipe.cost.placement import place
from tdpipe.prediction.length_predictor import Prompt
from tdpipe.simulation.predictor_choice import make_predictor
from tdpipe.simulation.scenario import (
    DEFAULT_REQUESTS,
    SCHEDULER_NAMES,
    Scenario,
    load_workload,
    schedulers_named,
)
from tdpipe.simulation.workload import Workload, WorkloadRequest

LLAMA = find_model("llama-3.1-8b")
WORKLOAD = load_workload("sharegpt", 40)


def scenario(num_stages=2, workload=WORKLOAD, **settings):
    return Scenario(place(LLAMA, find_device("A10"), num_stages), workload, **settings)


def test_limits_hold_the_longest_request():
    limits = scenario().limits()
    longest = max(prompt + output for prompt, output in WORKLOAD.lengths())
    assert longest <= limits.max_model_len < longest + limits.block_size
    assert (limits.num_stages, limits.max_num_seqs) == (2, 512)
    assert scenario(max_model_len=8000).limits().max_model_len == 8000


@pytest.mark.parametrize("scheduler", ["td-pipe", "pp-hybrid", "pp-separate"])
def test_a_run_computes_everything_and_respects_the_bound(scheduler):
    one = scenario()
    run = one.run(scheduler)
    assert run.output_tokens == WORKLOAD.output_tokens
    assert run.makespan_s >= one.bound().seconds
    assert run.trace is None


def test_a_trace_carries_the_settings():
    trace = scenario().run("td-pipe", keep_trace=True).trace
    assert trace.settings["scheduler"] == "td-pipe" and trace.settings["layers"] == [17, 15]
    assert trace.batches and trace.spans


def test_engine_overhead_takes_time():
    slow = scenario(engine_overhead_s=0.2).run("pp-hybrid")
    assert slow.makespan_s > scenario().run("pp-hybrid").makespan_s


def test_tensor_parallel_schedulers_mean_one_stage():
    two = scenario()
    one = two.for_scheduler("tp-hybrid")
    assert one.placement.layers == (32,) and one.placement.tensor_parallel == 2
    assert two.for_scheduler("td-pipe") is two
    assert one.run("tp-hybrid").busy_shares[0] > 0.99
    with pytest.raises(ConfigError, match="for one stage"):
        two.run("tp-hybrid")
    three = scenario(num_stages=3).for_scheduler("tp-hybrid")  # which do not divide the heads
    assert three.placement.tensor_parallel == 3


def test_a_request_beyond_the_cache():
    one = scenario()
    kv_tokens = one.limits().kv_tokens
    huge = Workload("huge", (WorkloadRequest(kv_tokens, 10),))
    with pytest.raises(CapacityError, match=rf"{kv_tokens + 10} tokens.*holds {kv_tokens} tokens"):
        replace(one, workload=huge).limits()


def test_weights_beyond_the_memory():
    small = replace(find_device("A10"), memory_bytes=8 * GIB)
    with pytest.raises(CapacityError, match="the weights alone need"):
        Scenario(place(LLAMA, small, 1), WORKLOAD).run("td-pipe")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"block_size": 0}, "block_size=0"),
        ({"max_num_seqs": 0}, "max_num_seqs=0"),
        ({"max_num_batched_tokens": -1}, "max_num_batched_tokens=-1"),
        ({"max_model_len": 16}, "longest request has"),
        ({"utilization": 1.5}, "utilization=1.5"),
        ({"engine_overhead_s": -1.0}, "engine_overhead_s=-1.0"),
        ({"engine_overhead_s": float("nan")}, "engine_overhead_s=nan"),
    ],
)
def test_bad_settings(settings, message):
    with pytest.raises(ConfigError, match=message):
        scenario(**settings)


def test_schedulers_by_name():
    assert schedulers_named("td-pipe, pp-hybrid,td-pipe") == ("td-pipe", "pp-hybrid")
    assert schedulers_named("all") == SCHEDULER_NAMES
    for text in ("fifo", "", ","):
        with pytest.raises(ConfigError, match=r"schedulers?='"):
            schedulers_named(text)
    with pytest.raises(ConfigError, match="scheduler='fifo'"):
        scenario().run("fifo")


def test_workloads_by_name_and_file(tmp_path):
    assert len(load_workload("azure-conv").requests) == DEFAULT_REQUESTS
    file = tmp_path / "mine.csv"
    file.write_text("prompt_tokens,output_tokens,arrived_at\n8,4,0\n9,5,3\n10,6,7\n")
    whole = load_workload(str(file))
    assert whole.lengths() == [(8, 4), (9, 5), (10, 6)]
    assert {request.arrival_s for request in whole.requests} == {0.0}
    assert len(load_workload(str(file), 2).requests) == 2
    with pytest.raises(ConfigError, match="no such file; give a file, or one of sharegpt"):
        load_workload("shargpt")
    with pytest.raises(ConfigError, match="requests=0"):
        load_workload("sharegpt", 0)
    with pytest.raises(ConfigError, match="it is a folder"):
        load_workload(str(tmp_path))


OUTPUTS = [10, 20, 30, 40, 400]


def means(name):
    prompts = [Prompt(index, (0,), length) for index, length in enumerate(OUTPUTS)]
    return [forecast.mean_tokens for forecast in make_predictor(name, OUTPUTS).predict(prompts)]


def test_predictors_by_name():
    assert means("oracle") == means("max-tokens") == OUTPUTS
    assert means("constant") == [10, 20, 30, 40, 100]
    assert means("constant:25") == [10, 20, 25, 25, 25]
    assert means("noisy:1") != means("noisy:0")
    assert len(means("noisy")) == len(OUTPUTS)


@pytest.mark.parametrize(
    "name",
    ["crystal", "noisy:", "noisy:1.5", "noisy:x", "constant:0", "constant:nan", "oracle:1", ""],
)
def test_bad_predictors(name):
    with pytest.raises(ConfigError):
        make_predictor(name, OUTPUTS)
