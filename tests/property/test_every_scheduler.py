"""Every scheduler, driven through the engine over a fake executor with random workloads."""

from types import SimpleNamespace

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from factories import make_control, make_limits, make_new
from fakes import FakeExecutor, next_token
from random_limits import draw_limits
from tdpipe.control.arrivals import ScheduledArrivals, TimedRequest
from tdpipe.control.engine_loop import drive
from tdpipe.core.batch_plan import Phase
from tdpipe.core.request import FinishReason
from tdpipe.policies.scheduler_registry import SCHEDULERS
from tdpipe.prediction.constant import ConstantPredictor
from tdpipe.prediction.max_tokens import MaxTokensPredictor
from tdpipe.prediction.oracle import OraclePredictor

NUM_EXAMPLES = 100  # for each scheduler: a thousand workloads in all


@st.composite
def workloads(draw):
    """(limits, [(prompt, output, arrival)], predictor, abort at batch n or None)."""
    limits = draw_limits(draw, 4)
    longest = limits.max_model_len
    requests = []
    for _ in range(draw(st.integers(1, 14))):
        prompt = draw(st.integers(1, longest - 1))
        output = draw(st.integers(1, longest - prompt))
        arrival = draw(st.sampled_from([0.0, 0.0, 0.0, 2.5, 40.0]))
        requests.append((prompt, output, arrival))
    predictor = draw(
        st.sampled_from(
            [MaxTokensPredictor(), ConstantPredictor(7), OraclePredictor([9] * len(requests))]
        )
    )
    return limits, requests, predictor


def run(scheduler, workload):
    """Drive a workload to its end; returns (executor, tokens by request, finish counts)."""
    limits, requests, predictor = workload
    control = make_control(scheduler, limits, predictor)
    executor = FakeExecutor(limits.num_stages, limits.num_blocks, limits.block_size)

    def check_policy_writes_nothing(plan):
        control.check()

    executor.on_submit = check_policy_writes_nothing
    timed = [
        TimedRequest(arrival, make_new(index, prompt, output))
        for index, (prompt, output, arrival) in enumerate(requests)
    ]
    tokens: dict[int, list[int]] = {}
    finished: list[int] = []
    for events in drive(control, executor, ScheduledArrivals(timed)):
        control.check()
        for event in events:
            tokens.setdefault(event.request_id, []).append(event.sample.token_id)
            if event.finish_reason is not None:
                assert event.finish_reason is FinishReason.LENGTH
                finished.append(event.request_id)
    assert control.is_idle
    assert control.state.pool.num_free == limits.num_blocks
    return executor, tokens, finished


def check(scheduler, workload):
    executor, tokens, finished = run(scheduler, workload)
    _, requests, _ = workload
    assert sorted(finished) == list(range(len(requests)))
    for index, (prompt, output, _) in enumerate(requests):
        expected = [next_token(index, prompt + step) for step in range(output)]
        assert tokens[index] == expected
    if scheduler in ("td-pipe", "pp-separate"):
        assert Phase.MIXED not in executor.phases
    again, _, _ = run(scheduler, workload)
    assert again.log == executor.log


def scheduler_test(scheduler):
    @settings(
        max_examples=NUM_EXAMPLES,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=[HealthCheck.too_slow],
    )
    @given(workloads())
    def test(workload):
        check(scheduler, workload)

    return test


test_adaptive = scheduler_test("adaptive")
test_td_pipe = scheduler_test("td-pipe")
test_pp_separate = scheduler_test("pp-separate")
test_pp_hybrid = scheduler_test("pp-hybrid")
test_pp_hybrid_2048 = scheduler_test("pp-hybrid-2048")
test_pp_separate_unbalanced = scheduler_test("pp-separate-unbalanced")
test_pp_hybrid_unbalanced = scheduler_test("pp-hybrid-unbalanced")
test_token_throttling = scheduler_test("token-throttling")
test_td_pipe_occupancy = scheduler_test("td-pipe-occupancy")
test_td_pipe_no_stealing = scheduler_test("td-pipe-no-stealing")
test_td_pipe_finished = scheduler_test("td-pipe-finished")


def test_every_scheduler_has_a_property_test():
    tested = {name.removeprefix("test_").replace("_", "-") for name in globals()}
    assert set(SCHEDULERS) <= tested


def test_policies_do_not_write_to_the_state():
    """The state's repr, taken around every decision, is the same."""
    for scheduler in SCHEDULERS:
        control = make_control(scheduler, make_limits(num_blocks=12))
        inner = control.policy.plan

        def watched(state, now_s, inner=inner):
            before = repr(state)
            choice = inner(state, now_s)
            assert repr(state) == before
            return choice

        control.policy = SimpleNamespace(plan=watched)
        executor = FakeExecutor(2, 12, 16)
        source = ScheduledArrivals.all_at_once([make_new(i, 5 + 9 * i, 20 + i) for i in range(8)])
        for _ in drive(control, executor, source):
            pass
        assert control.state.num_finished == 8
