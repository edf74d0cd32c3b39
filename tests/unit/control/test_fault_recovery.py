"""Runs whose stages fail: the same tokens as without, suspects tried alone, the guilty given up."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from factories import make_control, make_cost, make_limits, make_new
from fakes import FakeExecutor, next_token
from tdpipe.control.arrivals import ScheduledArrivals, TimedRequest
from tdpipe.control.engine_loop import drive
from tdpipe.control.fault_recovery import FaultRecovery
from tdpipe.core.errors import FaultKind, RequestFailed, StageFailed
from tdpipe.core.request import FinishReason
from tdpipe.policies.scheduler_registry import SCHEDULERS, make_scheduler


class FaultyExecutor(FakeExecutor):
    """Fails at given calls, by a fault from outside, and at batches with a poisonous request."""

    def __init__(self, limits, fault_calls=(), poison=None, kind=FaultKind.RAISED):
        super().__init__(limits.num_stages, limits.num_blocks, limits.block_size)
        self.fault_calls = set(fault_calls)
        self.fault_kind = FaultKind.DIED
        self.restart_faults = 0
        self.poison, self.kind = poison, kind
        self.num_calls = 0
        self.num_restarts = 0
        self.trials = []

    def _fail_if_it_is_time(self):
        self.num_calls += 1
        if self.num_calls in self.fault_calls:
            batch_id = self.queue[0].batch_id if self.queue else None
            raise StageFailed(0, "killed", kind=self.fault_kind, batch_id=batch_id)

    def submit(self, plan):
        if plan.reason == "suspect alone":
            assert len(plan.slices) == 1 and not self.queue
            assert plan.num_tokens <= self.most_tokens
            self.trials.append(plan.slices[0].request_id)
        super().submit(plan)
        self._fail_if_it_is_time()

    most_tokens = 1 << 20

    def wait(self, until_s):
        if self.queue:
            self._fail_if_it_is_time()
            if self.poison in {piece.request_id for piece in self.queue[0].slices}:
                batch_id = self.queue[0].batch_id
                raise StageFailed(1, "poisoned", kind=self.kind, batch_id=batch_id)
        return super().wait(until_s)

    def restart(self):
        self.num_restarts += 1
        if self.restart_faults:
            self.restart_faults -= 1
            raise StageFailed(0, "no memory")
        super().restart()


def run(scheduler, limits, requests, executor, max_restarts=1000):
    """(tokens by request, finish reasons, errors, warnings, recovery) of a run to its end."""
    control = make_control(scheduler, limits)
    warnings = []

    def new_policy():
        return make_scheduler(scheduler, make_cost(limits.num_stages))

    executor.on_submit = lambda plan: control.check()
    executor.most_tokens = limits.max_num_batched_tokens
    recovery = FaultRecovery(control, executor.restart, new_policy, max_restarts, warnings.append)
    tokens, reasons, errors = {}, {}, {}
    timed = [TimedRequest(at, make_new(i, p, n)) for i, (p, n, at) in enumerate(requests)]
    for events in drive(control, executor, ScheduledArrivals(timed), recovery=recovery):
        control.check()
        for event in events:
            if event.sample is not None:
                tokens.setdefault(event.request_id, []).append(event.sample.token_id)
            if event.error is not None:
                errors[event.request_id] = event.error
            if event.finish_reason is not None:
                assert event.request_id not in reasons
                reasons[event.request_id] = event.finish_reason
    assert control.is_idle and control.state.pool.num_free == limits.num_blocks
    return tokens, reasons, errors, warnings, recovery


def expected(requests):
    return {
        i: [next_token(i, p + step) for step in range(n)] for i, (p, n, _) in enumerate(requests)
    }


@st.composite
def faulty_runs(draw):
    limits = make_limits(
        num_stages=draw(st.integers(1, 3)),
        num_blocks=draw(st.integers(5, 20)),
        max_model_len=60,
        max_num_batched_tokens=draw(st.sampled_from([8, 64, 2048])),
    )
    size = st.tuples(st.integers(1, 40), st.integers(1, 20), st.sampled_from([0.0, 0.0, 9.0]))
    requests = draw(st.lists(size, min_size=1, max_size=10))
    fault_calls = draw(st.lists(st.integers(1, 120), max_size=6))
    return limits, requests, fault_calls, draw(st.sampled_from(list(FaultKind)))


@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_faults_change_no_token(scheduler):
    @settings(max_examples=40, derandomize=True, database=None)
    @given(faulty_runs())
    def check(case):
        limits, requests, fault_calls, kind = case
        executor = FaultyExecutor(limits, fault_calls)
        executor.fault_kind = kind
        tokens, reasons, errors, _, _ = run(scheduler, limits, requests, executor)
        whole = expected(requests)
        assert set(reasons) == set(whole)
        assert all(tokens.get(i) == whole[i] for i in whole if i not in errors)
        # Faults from outside that hit one trial after another look like a request's own.
        assert len(errors) * 2 <= executor.num_restarts

    check()


REQUESTS = [(10 + 3 * i, 12 + i, 0.0) for i in range(8)]


@pytest.mark.parametrize("scheduler", ["adaptive", "td-pipe", "pp-hybrid"])
@pytest.mark.parametrize(
    ("kind", "failures"), [(FaultKind.RAISED, 2), (FaultKind.DIED, 3), (FaultKind.HUNG, 3)]
)
def test_a_request_that_makes_stages_fail_is_given_up(scheduler, kind, failures):
    limits = make_limits(max_num_batched_tokens=16)
    executor = FaultyExecutor(limits, poison=5, kind=kind)
    tokens, reasons, errors, warnings, recovery = run(scheduler, limits, REQUESTS, executor, 3)
    assert list(errors) == [5] and isinstance(errors[5], RequestFailed)
    assert str(errors[5]).startswith(f"given up: the stages failed {failures} times")
    assert "stage 1: poisoned" in str(errors[5]) and "\n" not in str(errors[5])
    assert recovery.num_restarts == executor.num_restarts == failures
    assert len(warnings) == failures + 1 and "starting the stages again" in warnings[0]
    assert {i for i, reason in reasons.items() if reason is FinishReason.ABORT} == {5}
    assert all(tokens[i] == expected(REQUESTS)[i] for i in range(8) if i != 5)


def test_every_poisonous_request_is_found_and_costs_no_restart_of_the_others():
    class ManyPoisons(FaultyExecutor):
        def wait(self, until_s):
            ids = {piece.request_id for piece in self.queue[0].slices} if self.queue else set()
            self.poison = min(ids & {1, 4, 6}, default=None)
            return super().wait(until_s)

    limits = make_limits()
    _, _, errors, _, recovery = run("td-pipe", limits, REQUESTS, ManyPoisons(limits), 2)
    assert set(errors) == {1, 4, 6}
    assert recovery.num_restarts > 3


def test_stages_that_fail_at_everything_end_the_run():
    class AllPoisons(FaultyExecutor):
        def wait(self, until_s):
            self.poison = self.queue[0].slices[0].request_id if self.queue else None
            return super().wait(until_s)

    limits = make_limits()
    executor = AllPoisons(limits)
    with pytest.raises(StageFailed, match="poisoned"):
        run("td-pipe", limits, REQUESTS, executor, 2)
    assert executor.num_restarts == 3


def test_those_who_pass_their_trial_go_on():
    limits = make_limits()
    executor = FaultyExecutor(limits, fault_calls=[9])
    executor.fault_kind = FaultKind.RAISED
    tokens, _, errors, _, recovery = run("pp-hybrid", limits, REQUESTS, executor, 1)
    assert not errors and recovery.num_restarts == 1 and tokens == expected(REQUESTS)
    assert len(executor.trials) == len(set(executor.trials)) > 1


def test_one_kill_or_freezes_bring_nobody_under_suspicion():
    limits = make_limits()
    for kind, calls in ((FaultKind.DIED, [9]), (FaultKind.FROZEN, [9, 20, 31])):
        executor = FaultyExecutor(limits, fault_calls=calls)
        executor.fault_kind = kind
        tokens, _, errors, _, recovery = run("pp-hybrid", limits, REQUESTS, executor, 3)
        assert not errors and not executor.trials and recovery.num_restarts == len(calls)
        assert tokens == expected(REQUESTS)


def test_too_many_faults_end_the_run():
    limits = make_limits()
    executor = FaultyExecutor(limits, fault_calls=[5, 10, 15])
    executor.fault_kind = FaultKind.FROZEN
    with pytest.raises(StageFailed, match="killed"):
        run("td-pipe", limits, REQUESTS, executor, 2)
    assert executor.num_restarts == 2
    with pytest.raises(StageFailed, match="killed"):
        run("td-pipe", limits, REQUESTS, FaultyExecutor(limits, [5]), 0)


def test_a_failed_restart_counts():
    limits = make_limits()
    executor = FaultyExecutor(limits, [5])
    executor.restart_faults = 2
    assert not run("td-pipe", limits, REQUESTS, executor, 3)[2]
    executor = FaultyExecutor(limits, [5])
    executor.restart_faults = 3
    with pytest.raises(StageFailed, match="no memory"):
        run("td-pipe", limits, REQUESTS, executor, 3)


def test_an_abort_that_waited_for_its_batch_ends_with_the_batch():
    control = make_control()
    control.add([make_new(0), make_new(1)])
    control.next_plan(0.0)
    assert control.abort(1) is None
    events = control.recover(make_scheduler("td-pipe", make_cost()))
    assert [(one.request_id, one.finish_reason) for one in events] == [(1, FinishReason.ABORT)]
    assert list(control.state.waiting) == [0]
    plan = control.next_plan(0.0)
    assert plan.released == () and plan.starts[0].request_id == 0
