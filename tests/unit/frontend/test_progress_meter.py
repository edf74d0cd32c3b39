"""Moments of simulated runs: figures agree with the engine, and cost no pass over the queue."""

from collections import OrderedDict

import pytest

from factories import make_control, make_cost, make_limits, make_new
from tdpipe.control.arrivals import ScheduledArrivals
from tdpipe.control.engine_loop import drive
from tdpipe.frontend.progress_meter import JobCounts, ProgressMeter, RecentRate
from tdpipe.prediction.constant import ConstantPredictor
from tdpipe.prediction.online import OnlinePredictor
from tdpipe.simulation.simulated_pipeline import SimulatedPipeline
from tdpipe.tracing.run_trace import RunTrace


class SeenOnlyFromOutside(OrderedDict):
    """A queue that counts as long, may be added to and taken from, but not gone through."""

    watched = False

    def __iter__(self):
        assert not self.watched, "a pass over all that wait"
        return super().__iter__()

    def values(self):
        assert not self.watched, "a pass over all that wait"
        return super().values()

    items = keys = values


def moments(num_requests=24, num_blocks=64, predictor=None, scheduler="td-pipe", num_stages=3):
    """(time, moment, control) of each round of a run whose requests end by their max_tokens."""
    limits = make_limits(num_stages, num_blocks)
    control = make_control(scheduler, limits, predictor)
    control.state.waiting = SeenOnlyFromOutside()
    cost = make_cost(num_stages)
    pipeline, meter = SimulatedPipeline(cost, keep_spans=True), ProgressMeter(cost)
    trace, num_output, num_finished = RunTrace(num_stages, num_blocks), 0, 0
    requests = [make_new(i, 40 + i, 20 + 5 * (i % 7)) for i in range(num_requests)]
    for events in drive(control, pipeline, ScheduledArrivals.all_at_once(requests), trace):
        num_output += len(events)
        num_finished += sum(event.finish_reason is not None for event in events)
        jobs = JobCounts(num_finished, 0, num_requests, 0, num_output, 0, ())
        control.state.waiting.watched = True
        moment = meter.moment(control, trace, pipeline.spans, jobs, pipeline.now_s())
        control.state.waiting.watched = False
        yield pipeline.now_s(), moment, control


def test_figures_agree_with_the_engine():
    for _, moment, control in moments():
        state = control.state
        assert (moment.num_waiting, moment.num_running) == (len(state.waiting), len(state.resident))
        assert {batch.batch_id for batch in moment.in_flight} == state.in_flight.keys()
        assert all(0 <= batch.stage < 3 for batch in moment.in_flight)
        stages = [batch.stage for batch in moment.in_flight]
        assert stages == sorted(stages, reverse=True)  # the oldest has come farthest
        assert len(moment.lane_sizes) <= 3 and len(moment.stage_busy_shares) == 3
        assert all(0 <= share <= 1 for share in moment.stage_busy_shares)
    assert moment.phase == "decode" and moment.prefilled_tokens == sum(range(40, 64))
    assert moment.recomputed_share == 0.0


@pytest.mark.parametrize("predictor", [None, ConstantPredictor(15), OnlinePredictor()])
def test_expected_tokens_are_those_of_the_unfinished(predictor):
    """Through admissions, preemptions, lessons and ends."""
    for _, _, control in moments(60, 24, predictor, "pp-hybrid"):
        state = control.state
        unfinished = [*state.waiting.values(), *state.resident.values()]
        expected = sum(one.revised_tokens or one.predicted_tokens for one in unfinished)
        assert control.forecasts.expected_tokens == expected
    assert control.state.num_preemptions and control.forecasts.expected_tokens == 0
    assert control.forecasts.log.num_requests == 60


def test_what_is_computed_again():
    *_, (_, moment, control) = moments(60, num_blocks=40, predictor=ConstantPredictor(2))
    assert moment.num_preemptions == control.state.num_preemptions > 0
    assert moment.prefilled_tokens == sum(range(40, 100)) + moment.recomputed_tokens
    assert 0 < moment.recomputed_share < 0.5


@pytest.mark.parametrize("scheduler", ["td-pipe", "adaptive", "pp-hybrid"])
def test_time_left_with_right_forecasts(scheduler):
    """In the middle of a run it is off by less than half."""
    told = [(now_s, moment.left_s) for now_s, moment, _ in moments(200, 400, scheduler=scheduler)]
    end_s = told[-1][0]
    middle = [(now_s, left) for now_s, left in told if 0.3 < now_s / end_s < 0.7]
    assert len(middle) > 20
    assert all(abs(left - (end_s - now_s)) < 0.5 * (end_s - now_s) for now_s, left in middle)


def test_rates_are_of_late():
    rate = RecentRate(10.0)
    assert rate.take(0.0, 0) == 0.0
    assert rate.take(5.0, 50) == 10.0
    for second in range(6, 30):
        latest = rate.take(second, 50 + 3 * (second - 5))
    assert latest == pytest.approx(3.0)
