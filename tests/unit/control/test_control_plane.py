"""Requests in, plans and events out: limits, ends, aborts, preemption."""

import pytest

from factories import make_control, make_limits, make_new
from fakes import FakeExecutor
from tdpipe.control.arrivals import ScheduledArrivals
from tdpipe.control.engine_loop import drive
from tdpipe.core.batch_plan import BatchResult, Sample
from tdpipe.core.errors import RequestRejected
from tdpipe.core.request import FinishReason


def step(control, *tokens):
    """One plan and its result; tokens in slice order of the sampling slices."""
    plan = control.next_plan(0.0)
    ids = [piece.request_id for piece in plan.slices if piece.samples]
    samples = tuple(Sample(i, token) for i, token in zip(ids, tokens, strict=True))
    return plan, control.complete(BatchResult(plan.batch_id, samples))


@pytest.mark.parametrize(
    ("num_prompt", "max_tokens", "field"),
    [(0, 4, "prompt"), (64, 1, "prompt"), (70, 1, "prompt"), (60, 5, "max_tokens")],
)
def test_beyond_the_limits_is_refused(num_prompt, max_tokens, field):
    control = make_control(limits=make_limits(max_model_len=64))
    with pytest.raises(RequestRejected) as caught:
        control.add([make_new(0, num_prompt, max_tokens)])
    assert caught.value.field == field
    assert control.is_idle


def test_the_cache_limits_a_request_too():
    control = make_control(limits=make_limits(num_blocks=2))
    with pytest.raises(RequestRejected, match="KV cache 32"):
        control.add([make_new(0, 30, 3)])
    control.add([make_new(0, 30, 2)])


def test_no_max_tokens_means_the_rest_of_the_context():
    control = make_control(limits=make_limits(max_model_len=64))
    control.add([make_new(0, 60, None)])
    assert next(iter(control.state.waiting.values())).max_tokens == 4


def test_end_of_text_stops_unless_ignored():
    control = make_control()
    control.add([make_new(0, ignore_eos=False), make_new(1)])
    _, events = step(control, 2, 2)
    assert [event.finish_reason for event in events] == [FinishReason.STOP, None]


def test_min_tokens_outlasts_end_of_text():
    control = make_control()
    control.add([make_new(0, ignore_eos=False, min_tokens=2)])
    assert step(control, 2)[1][0].finish_reason is None
    assert step(control, 2)[1][0].finish_reason is FinishReason.STOP


def test_stop_token_ids_work_with_ignore_eos():
    control = make_control()
    control.add([make_new(0, stop_token_ids=(77,))])
    assert step(control, 77)[1][0].finish_reason is FinishReason.STOP


def test_length():
    control = make_control()
    control.add([make_new(0, max_tokens=2)])
    assert step(control, 5)[1][0].finish_reason is None
    assert step(control, 5)[1][0].finish_reason is FinishReason.LENGTH
    assert control.is_idle


class StopAfterTwo:
    def __init__(self):
        self.seen = []

    def finished(self, request):
        self.seen.append(len(request.output_token_ids))
        return len(request.output_token_ids) == 2

    def forget(self, request_id):
        pass


def test_stop_condition_is_asked_for_each_token():
    condition = StopAfterTwo()
    control = make_control(stop_condition=condition)
    control.add([make_new(0, max_tokens=9, stop=("x",))])
    step(control, 5)
    assert step(control, 5)[1][0].finish_reason is FinishReason.STOP
    assert condition.seen == [1, 2]


def test_abort_waiting_resident_and_in_flight():
    control = make_control(limits=make_limits(max_num_seqs=1, num_stages=1))
    control.add([make_new(0), make_new(1)])
    assert control.abort(1).finish_reason is FinishReason.ABORT
    plan = control.next_plan(0.0)
    assert control.abort(0) is None  # its batch is on the way
    events = control.complete(BatchResult(plan.batch_id, (Sample(0, 5),)))
    assert [event.finish_reason for event in events] == [None, FinishReason.ABORT]
    assert control.is_idle and control.state.pool.num_used == 0
    assert control.abort(9) is None


def test_preempted_request_is_recomputed_with_its_output():
    control = make_control("pp-separate", make_limits(num_blocks=2, num_stages=1))
    control.add([make_new(0, 14, 10), make_new(1, 15, 10)])
    plans = [step(control, 50, 51)[0]]
    while control.state.num_preemptions == 0:
        plan = control.next_plan(0.0)
        ids = [piece.request_id for piece in plan.slices]
        control.complete(BatchResult(plan.batch_id, tuple(Sample(i, 60 + i) for i in ids)))
        plans.append(plan)
    victim = next(iter(control.state.waiting.values()))
    assert victim.request_id == 1 and victim.output_token_ids == [51, 61]
    assert plans[-1].released == (1,)
    while not any(piece.request_id == 1 for piece in plans[-1].slices):
        plan = control.next_plan(0.0)
        samples = tuple(Sample(piece.request_id, 60) for piece in plan.slices)
        control.complete(BatchResult(plan.batch_id, samples))
        plans.append(plan)
    again = plans[-1]
    assert again.slices[0].token_ids == (*range(100, 115), 51, 61)
    assert again.starts[0].num_prompt_tokens == 15


def test_events_come_after_the_next_batch_is_submitted():
    control = make_control(limits=make_limits(num_stages=1))
    executor = FakeExecutor(1, 64, 16)
    source = ScheduledArrivals.all_at_once([make_new(0, max_tokens=3)])
    in_flight = [len(executor.queue) for _ in drive(control, executor, source)]
    assert in_flight == [1, 1, 0]
