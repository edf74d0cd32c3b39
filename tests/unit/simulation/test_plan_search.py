"""Plans: every layout that fits is judged, the fastest is simulated and comes first."""

from dataclasses import replace

import pytest

from tdpipe.core.errors import CapacityError, ConfigError
from tdpipe.cost.hardware_catalogue import GIB, find_device
from tdpipe.cost.model_catalogue import find_model
from tdpipe.cost.placement import place
from tdpipe.simulation.layouts import layout_name, layouts, schedulers_for
from tdpipe.simulation.plan import Basis, PlanQuestion
from tdpipe.simulation.plan_memory import needed_bytes
from tdpipe.simulation.plan_reason import plan_name, reasons
from tdpipe.simulation.plan_search import PlanSearch, shortened, simulated_steps
from tdpipe.simulation.scenario import load_workload
from tdpipe.simulation.workload import Workload, WorkloadRequest

LLAMA, A10 = find_model("llama-3.1-8b"), find_device("A10")
WORKLOAD = load_workload("sharegpt", 40)
QUESTION = PlanQuestion(LLAMA, A10, WORKLOAD, ("pp-hybrid", "tp-hybrid"))


def test_layouts_are_those_that_the_heads_and_layers_allow():
    names = [layout_name(one) for one in layouts(LLAMA, A10, 4)]
    assert names == ["TP1", "PP2", "PP3", "PP4", "TP2", "PP2xTP2", "TP4"]
    nine_heads = find_model("smollm2-135m")
    assert {one.tensor_parallel for one in layouts(nine_heads, A10, 8)} == {1}


def test_each_kind_of_batching_once():
    one, two = place(LLAMA, A10, 1, 2), place(LLAMA, A10, 2)
    names = ("td-pipe", "pp-hybrid", "tp-hybrid")
    assert schedulers_for(one, names) == ["td-pipe", "tp-hybrid"]
    assert schedulers_for(two, names) == ["td-pipe", "pp-hybrid"]
    assert schedulers_for(one, ("pp-hybrid",)) == ["pp-hybrid"]


def test_the_ranking():
    told = []
    ranking = PlanSearch(QUESTION, told.append).ranking(4)
    simulated = [plan for plan in ranking if plan.basis is Basis.SIMULATED]
    assert ranking[0].basis is Basis.SIMULATED and len(told) == len(simulated)
    assert ranking[0].makespan_s == min(plan.makespan_s for plan in simulated)
    assert ranking[: len(simulated)] == simulated  # those known by their bound come last
    # Whoever was given up could not have won.
    for plan in ranking[len(simulated) :]:
        assert plan.run is None and plan.makespan_s >= ranking[0].makespan_s
    assert {layout_name(plan.scenario.placement) for plan in ranking} >= {"TP1", "PP4", "PP2xTP2"}


def test_the_best_is_what_trying_everything_finds():
    best = PlanSearch(QUESTION).ranking(2)[0]
    times_s = []
    for placement in layouts(LLAMA, A10, 2):
        one = QUESTION.scenario(placement, WORKLOAD)
        names = schedulers_for(placement, QUESTION.schedulers)
        times_s += [one.run(name).makespan_s for name in names]
    assert best.makespan_s <= min(times_s)


def test_a_layer_is_moved_for_the_best_pipeline():
    # Two stages are all that this model's heads and the memory allow.
    small, odd = replace(A10, memory_bytes=13 * GIB), replace(LLAMA, num_heads=33)
    question = replace(QUESTION, schedulers=("pp-hybrid",), device=small, shape=odd)
    plans = PlanSearch(question).ranking(2)
    balanced = place(odd, small, 2).layers
    assert {plan.basis for plan in plans} == {Basis.SIMULATED}
    lasts = {plan.scenario.placement.layers[-1] for plan in plans}
    assert lasts == {balanced[-1] - 1, balanced[-1], balanced[-1] + 1}


def test_the_best_pipeline_is_tried_with_pp_hybrid_too():
    question = PlanQuestion(LLAMA, find_device("L20"), load_workload("azure-code", 60))
    ranking = PlanSearch(question).ranking(4)
    tried = [plan for plan in ranking if plan.scheduler == "pp-hybrid"]
    assert len(tried) == 1 and len(tried[0].scenario.placement.layers) > 1
    others = [plan for plan in ranking if plan.basis is Basis.SIMULATED and plan not in tried]
    assert any(plan.scenario.placement == tried[0].scenario.placement for plan in others)


def test_a_large_workload_is_judged_by_a_sample():
    question = replace(QUESTION, schedulers=("td-pipe", "pp-hybrid", "pp-separate"))
    search = PlanSearch(question, sample_steps=4000, final_steps=10_000)
    assert simulated_steps(search.workload) <= 1.5 * 10_000
    ranking = search.ranking(2, finalists=1)
    assert ranking[0].basis is Basis.SIMULATED
    assert {plan.basis for plan in ranking} >= {Basis.ESTIMATED}
    for plan in ranking:
        assert plan.makespan_s >= plan.bound.seconds
        assert plan.scenario.workload is search.workload


def test_the_longest_request_must_fit_even_if_it_is_not_simulated():
    requests = (*WORKLOAD.requests, WorkloadRequest(250_000, 4))
    question = replace(QUESTION, workload=Workload("with a long one", requests))
    with pytest.raises(CapacityError, match="a request of 250004 tokens"):
        PlanSearch(question, final_steps=100).ranking(2)


def test_nothing_is_simulated_twice():
    told = []
    search = PlanSearch(QUESTION, told.append)
    first = search.ranking(2)
    count = len(told)
    assert search.ranking(2) == first and len(told) == count


def test_shortened():
    assert shortened(WORKLOAD, 1e9) is WORKLOAD
    assert len(shortened(WORKLOAD, 1).requests) == 1


def test_reasons_are_figures_of_both():
    ranking = PlanSearch(QUESTION).ranking(4)
    best, last = ranking[0], ranking[-1]
    assert plan_name(best).startswith(layout_name(best.scenario.placement))
    assert reasons(best, best) == []
    found = reasons(best, last) + reasons(last, best)
    assert found and all("instead of" in line for line in found)


def test_all_reduces_take_a_share_of_tensor_parallel_time_only():
    plans = {layout_name(p.scenario.placement): p for p in PlanSearch(QUESTION).ranking(4) if p.run}
    assert 0.05 < plans["TP4"].communication_share < 0.9
    for name, plan in plans.items():
        assert ("TP" in name and name != "TP1") == (plan.communication_share > 0)


def test_nothing_fits():
    question = replace(QUESTION, shape=find_model("llama-3.1-70b"))
    with pytest.raises(
        CapacityError, match=r"2 x A10.*need \d+\.\d GiB.*: 7 such devices would do"
    ):
        PlanSearch(question).ranking(2)
    enough = [one for one in layouts(question.shape, A10, 7) if one.num_devices == 7]
    needed = min(needed_bytes(question.scenario(one, WORKLOAD)) for one in enough)
    assert needed <= A10.memory_bytes
    PlanSearch(question).ranking(7)


def test_nothing_would_ever_fit():
    question = replace(QUESTION, device=replace(A10, memory_bytes=1 * GIB))
    with pytest.raises(CapacityError, match="not even 64 would do"):
        PlanSearch(question).ranking(1)


def test_unusable_questions():
    for count in (0, 65):
        with pytest.raises(ConfigError, match=f"num_gpus={count}"):
            PlanSearch(QUESTION).ranking(count)
    only_tensor_parallel = replace(QUESTION, schedulers=("tp-hybrid",))
    assert all(
        len(plan.scenario.placement.layers) == 1
        for plan in PlanSearch(only_tensor_parallel).ranking(2)
    )
    nine_heads = replace(
        only_tensor_parallel,
        shape=replace(find_model("llama-3.1-70b"), num_heads=63),
    )
    with pytest.raises(ConfigError, match="for one stage"):
        PlanSearch(nine_heads).ranking(64)


def test_several_at_a_time_find_a_plan_that_is_as_good():
    told = []
    one, two = PlanSearch(QUESTION).ranking(4), PlanSearch(QUESTION, told.append, 2).ranking(4)
    assert two[0].makespan_s <= one[0].makespan_s
    simulated = {(p.scenario.placement, p.scheduler): p.run for p in two if p.run}
    for plan in one:
        run = simulated.get((plan.scenario.placement, plan.scheduler))
        assert run is None or plan.run is None or run == plan.run
    assert len(told) == len(set(told))
