"""The virtual pipeline against times worked out by hand."""

import pytest

from factories import make_control, make_limits
from tdpipe.control.arrivals import ScheduledArrivals, TimedRequest
from tdpipe.control.engine_loop import drive
from tdpipe.core.batch_plan import BatchPlan, Phase, SequenceSlice
from tdpipe.simulation.simulated_pipeline import SimulatedPipeline
from tdpipe.simulation.workload import lognormal_lengths, requests_of_lengths


class TokensAreSeconds:
    """Stage 0: a second a token; stage 1: two; half a second on the link."""

    num_stages = 2

    def stage_time_s(self, stage, load):
        return load.num_tokens * (stage + 1)

    def transfer_time_s(self, num_tokens):
        return 0.5


def plan(batch_id, num_tokens):
    piece = SequenceSlice(batch_id, 0, tuple(range(num_tokens)), (), True)
    return BatchPlan(batch_id, Phase.PREFILL, 1, (piece,), (), (), "")


def test_times_of_two_batches():
    pipeline = SimulatedPipeline(TokensAreSeconds())
    pipeline.submit(plan(0, 2))
    pipeline.submit(plan(1, 1))
    spans = {(span.stage, span.batch_id): (span.start_s, span.end_s) for span in pipeline.spans}
    assert spans == {(0, 0): (0, 2), (1, 0): (2.5, 6.5), (0, 1): (2, 3), (1, 1): (6.5, 8.5)}
    assert pipeline.wait(1.0) == [] and pipeline.now_s() == 1.0
    assert pipeline.wait(None)[0].batch_id == 0 and pipeline.now_s() == 6.5
    assert pipeline.wait(None)[0].batch_id == 1 and pipeline.now_s() == 8.5


def test_depth_is_one_batch_per_stage_and_one_ahead():
    pipeline = SimulatedPipeline(TokensAreSeconds())
    for batch_id in range(3):
        assert pipeline.has_room()
        pipeline.submit(plan(batch_id, 1))
    assert not pipeline.has_room()


@pytest.mark.parametrize("scheduler", ["td-pipe", "pp-separate", "pp-hybrid"])
def test_a_workload_runs_to_its_end_and_late_requests_wait(scheduler):
    lengths = lognormal_lengths(40, 50, 30, seed=3)
    control = make_control(scheduler, make_limits(num_blocks=400))
    pipeline = SimulatedPipeline(TokensAreSeconds())
    timed = [
        TimedRequest(100.0 * (index % 2), request)
        for index, request in enumerate(requests_of_lengths(lengths))
    ]
    tokens = [0] * len(lengths)
    for events in drive(control, pipeline, ScheduledArrivals(timed)):
        for event in events:
            tokens[event.request_id] += 1
    assert tokens == [output for _, output in lengths]
    assert pipeline.now_s() > 100


def test_overhead_delays_the_first_stage():
    pipeline = SimulatedPipeline(TokensAreSeconds(), engine_overhead_s=3.0)
    pipeline.submit(plan(0, 1))
    assert pipeline.spans[0].start_s == 3.0
