"""Every scheduler over prompts with common beginnings: the same outputs, and no block is lost."""

from dataclasses import replace
from functools import partial

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from factories import make_control, make_cost, make_new
from fakes import PagedExecutor, continuation
from random_limits import draw_limits
from tdpipe.control.arrivals import ScheduledArrivals, TimedRequest
from tdpipe.control.engine_loop import drive
from tdpipe.control.fault_recovery import FaultRecovery
from tdpipe.core.limits import Limits
from tdpipe.core.request import FinishReason
from tdpipe.policies.scheduler_registry import SCHEDULERS, make_scheduler

NUM_EXAMPLES = 40  # for each scheduler
HEADERS = [tuple((kind + at * at) % 3 for at in range(60)) for kind in (0, 0, 1, 2)]


@st.composite
def workloads(draw):
    """(limits, requests with their arrivals, (round, request) to abort)."""
    limits = draw_limits(draw, 3)
    longest = limits.max_model_len
    requests = []
    for index in range(draw(st.integers(1, 14))):
        length = draw(st.integers(1, longest - 1))
        output = draw(st.integers(1, longest - length))
        common = draw(st.integers(0, length))
        tail = tuple(10 + (index + at) % 20 for at in range(length - common))
        prompt = draw(st.sampled_from(HEADERS))[:common] + tail
        penalty = draw(st.sampled_from([1.0, 1.0, 1.0, 1.2]))
        new = replace(
            make_new(index, 1, output, repetition_penalty=penalty), prompt_token_ids=prompt
        )
        requests.append(TimedRequest(draw(st.sampled_from([0.0, 0.0, 0.0, 2.5, 40.0])), new))
    aborts = draw(st.dictionaries(st.integers(0, 30), st.integers(0, 13), max_size=3))
    return limits, requests, aborts


def run(scheduler, limits, requests, aborts=None, sharing=True, faults_at=()):
    """Drive the requests to their ends; returns (executor, tokens by request, aborted requests)."""
    control = make_control(scheduler, limits, prefix_caching=sharing)
    executor = PagedExecutor(limits.num_stages, limits.num_blocks, limits.block_size)
    executor.on_submit = lambda plan: control.check()
    executor.faults_at = set(faults_at)
    policy = partial(make_scheduler, scheduler, make_cost(limits.num_stages))
    recovery = FaultRecovery(control, executor.restart, policy, 1000, lambda message: None)
    tokens = {timed.request.request_id: [] for timed in requests}
    ends = {}

    def note(event):
        if event.sample is not None:
            tokens[event.request_id].append(event.sample.token_id)
        if event.finish_reason is not None:
            ends[event.request_id] = event.finish_reason

    rounds = drive(control, executor, ScheduledArrivals(requests), recovery=recovery)
    for number, events in enumerate(rounds):
        for event in events:
            note(event)
        aborted = control.abort(aborts[number]) if aborts and number in aborts else None
        if aborted is not None:
            note(aborted)
        control.check()
    assert control.is_idle and control.state.pool.num_free == limits.num_blocks
    assert len(ends) == len(requests)
    return executor, tokens, {key for key, end in ends.items() if end is FinishReason.ABORT}


@pytest.mark.parametrize("scheduler", SCHEDULERS)
@settings(
    max_examples=NUM_EXAMPLES,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.too_slow],
)
@given(workload=workloads())
def test_outputs_are_those_of_each_prompt(scheduler, workload):
    limits, requests, aborts = workload
    _, tokens, aborted = run(scheduler, limits, requests, aborts)
    for timed in requests:
        new = timed.request
        expected = continuation(new.prompt_token_ids, new.params.max_tokens)
        got = tokens[new.request_id]
        assert got == (expected[: len(got)] if new.request_id in aborted else expected)


@pytest.mark.parametrize("scheduler", SCHEDULERS)
@settings(max_examples=12, derandomize=True, database=None)
@given(workload=workloads(), faults_at=st.sets(st.integers(1, 30), max_size=2))
def test_outputs_are_the_same_when_stages_fail(scheduler, workload, faults_at):
    limits, requests, _ = workload
    _, tokens, _ = run(scheduler, limits, requests, faults_at=faults_at)
    for timed in requests:
        new = timed.request
        expected = continuation(new.prompt_token_ids, new.params.max_tokens)
        assert tokens[new.request_id] == expected


@pytest.mark.parametrize("scheduler", SCHEDULERS)
@settings(max_examples=12, derandomize=True, database=None)
@given(workload=workloads())
def test_unlike_prompts_are_scheduled_as_without(scheduler, workload):
    limits, requests, _ = workload
    unlike = []
    for index, timed in enumerate(requests):
        prompt = (100 + index, *timed.request.prompt_token_ids[1:])
        unlike.append(replace(timed, request=replace(timed.request, prompt_token_ids=prompt)))
    logs = [run(scheduler, limits, unlike, sharing=sharing)[0].log for sharing in (True, False)]
    assert logs[0] == logs[1]


@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_a_header_is_computed_once(scheduler):
    limits = Limits(num_stages=2, block_size=4, num_blocks=200, max_model_len=64)
    prompts = [(*HEADERS[0][:24], 10 + index, 11) for index in range(20)]
    requests = [
        TimedRequest(0.0, replace(make_new(index, 1, 3), prompt_token_ids=prompt))
        for index, prompt in enumerate(prompts)
    ]
    executor, _, _ = run(scheduler, limits, requests)
    # The header, then of each request two prompt tokens and two of the three outputs.
    assert executor.num_computed == 24 + 20 * (2 + 2)
