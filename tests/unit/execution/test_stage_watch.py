"""Which stage no longer works, by a clock of our own."""

from types import SimpleNamespace

import pytest

from tdpipe.core.batch_plan import Phase
from tdpipe.core.errors import FaultKind
from tdpipe.execution.stage_watch import StageWatch, Vitals


class Pipeline:
    """Stages that live as told, looked at every quarter of a second."""

    def __init__(self, num_stages=2, idle_limit_s=4.0, ranks=1):
        self.watch = StageWatch(num_stages, idle_limit_s, ranks)
        self.watch.is_ready = True
        self.now_s = 100.0
        self.cpu_s = [1.0] * num_stages * ranks
        self.busy = [False] * num_stages * ranks
        self.stopped = [False] * num_stages * ranks
        self.beats = [True] * num_stages * ranks
        self.runnable = [False] * num_stages * ranks
        self.num_batches = 0

    def submit(self, phase=Phase.DECODE, expected_s=0.01):
        plan = SimpleNamespace(batch_id=self.num_batches + 70, phase=phase)
        self.watch.submitted(plan, expected_s, self.now_s)
        self.num_batches += 1

    def report(self, *stages):
        for stage in stages:
            self.watch.reported(stage, self.now_s)

    def run(self, limit_s):
        """(failure, seconds until it was seen) or (None, limit_s)."""
        start_s = self.now_s
        while self.now_s - start_s < limit_s:
            self.now_s += 0.25
            for stage, beats in enumerate(self.beats):
                self.cpu_s[stage] += 0.25 * self.busy[stage]
                if beats and not self.stopped[stage] and self.now_s % 1 == 0:
                    self.watch.heard(stage, self.now_s)
            told = zip(self.stopped, self.cpu_s, self.runnable, strict=True)
            vitals = [Vitals(*one) for one in told]
            failure = self.watch.judge(vitals, self.now_s)
            if failure is not None:
                return failure, self.now_s - start_s
        return None, limit_s


def test_an_idle_pipeline_is_well():
    assert Pipeline().run(1000)[0] is None


@pytest.mark.parametrize("stage", [0, 1])
def test_a_stopped_stage_is_frozen_also_while_it_starts(stage):
    for is_ready in (True, False):
        pipeline = Pipeline()
        pipeline.watch.is_ready = is_ready
        pipeline.run(3)
        pipeline.stopped[stage] = True
        failure, took_s = pipeline.run(60)
        assert (failure.stage, failure.kind) == (stage, FaultKind.FROZEN) and took_s <= 1.25


def test_a_stop_for_a_moment_is_no_fault():
    pipeline = Pipeline()
    for _ in range(10):
        pipeline.stopped[0] = True
        assert pipeline.run(0.5)[0] is None
        pipeline.stopped[0] = False
        assert pipeline.run(0.5)[0] is None


def test_silence_is_a_fault_unless_the_process_works_or_starts():
    pipeline = Pipeline()
    pipeline.run(3)
    pipeline.beats[1] = False
    failure, took_s = pipeline.run(60)
    assert (failure.stage, failure.kind) == (1, FaultKind.HUNG) and 3 <= took_s < 5
    assert "no sign of life" in failure.cause
    pipeline = Pipeline()
    pipeline.beats[1], pipeline.busy[1] = False, True
    assert pipeline.run(60)[0] is None
    pipeline = Pipeline()
    pipeline.watch.is_ready, pipeline.beats[1] = False, False
    assert pipeline.run(60)[0] is None


@pytest.mark.parametrize("stage", [0, 1, 2])
def test_the_stage_that_leaves_its_batch_lying_is_found(stage):
    pipeline = Pipeline(3)
    for _ in range(4):
        pipeline.submit()
    for other in range(stage):
        pipeline.report(*[other] * 4)
    pipeline.report(stage)
    failure, took_s = pipeline.run(60)
    assert (failure.stage, failure.kind) == (stage, FaultKind.HUNG)
    assert failure.batch_id == 71 and 3.5 < took_s < 5


def test_a_busy_stage_has_the_time_that_the_cost_model_gives():
    pipeline = Pipeline(1)
    pipeline.busy[0] = True
    pipeline.submit(expected_s=0.01)
    assert pipeline.run(18)[0] is None  # the first of its phase
    pipeline.report(0)
    pipeline.submit(expected_s=0.01)
    failure, took_s = pipeline.run(100)
    assert failure.kind is FaultKind.HUNG and "overdue" in failure.cause and took_s < 5
    pipeline = Pipeline(1)
    pipeline.busy[0] = True
    pipeline.submit()
    pipeline.report(0)
    pipeline.submit(expected_s=1.0)
    failure, took_s = pipeline.run(100)
    assert 19 < took_s < 21


def test_a_first_batch_may_take_longer_but_not_for_ever():
    pipeline = Pipeline(1)
    pipeline.busy[0] = True
    pipeline.submit()
    failure, took_s = pipeline.run(100)
    assert failure.kind is FaultKind.HUNG and 19 < took_s < 21


def test_an_idle_process_on_a_card_may_wait_for_it():
    pipeline = Pipeline(1, idle_limit_s=60.0)
    pipeline.submit()
    assert pipeline.run(50)[0] is None
    assert pipeline.run(60)[0] is not None


def test_a_pause_of_the_engine_is_not_held_against_the_stages():
    pipeline = Pipeline()
    pipeline.submit()
    pipeline.run(1)
    pipeline.now_s += 3600
    assert pipeline.run(1)[0] is None
    pipeline.report(0, 1)
    assert pipeline.run(30)[0] is None


def test_the_last_stage_may_be_heard_first():
    pipeline = Pipeline()
    pipeline.submit()
    pipeline.submit()
    pipeline.report(1)
    assert pipeline.watch.batch_at(1) is None and pipeline.watch.batch_at(0) == 70
    pipeline.report(0, 0)
    assert pipeline.watch.batch_at(0) is None and pipeline.watch.batch_at(1) == 71


def test_a_rank_that_hangs_while_the_others_of_its_stage_wait_for_it():
    """The second stage's second one: its first rank spins until the sum is there."""
    pipeline = Pipeline(ranks=2)
    for phase in (Phase.DECODE, Phase.DECODE):
        pipeline.submit(phase)
    pipeline.report(0, 1, 2, 3)
    pipeline.run(1)
    pipeline.report(0, 1)
    pipeline.busy[2] = True
    failure, _ = pipeline.run(60)
    assert (failure.stage, failure.tensor_rank, failure.kind) == (1, 1, FaultKind.HUNG)
    assert failure.batch_id == 71 and "stage 1 failed at tensor rank 1" in failure.headline


def test_a_rank_may_wait_for_a_mate_that_computes():
    """The one that waits naps."""
    pipeline = Pipeline(1, ranks=3)
    pipeline.submit()
    pipeline.busy[1] = True
    assert pipeline.run(14)[0] is None
    pipeline.busy[1] = False
    failure, took_s = pipeline.run(60)
    assert failure.kind is FaultKind.HUNG and 3.5 < took_s < 5


def test_a_process_that_waits_for_a_core_is_not_idle():
    pipeline = Pipeline(1)
    pipeline.submit()
    pipeline.runnable[0] = True
    assert pipeline.run(18)[0] is None
    pipeline.runnable[0] = False
    assert pipeline.run(60)[0].kind is FaultKind.HUNG


def test_a_batch_is_with_the_next_stage_once_the_first_rank_has_handed_it_on():
    pipeline = Pipeline(ranks=2)
    pipeline.submit()
    assert [pipeline.watch.batch_at(rank) for rank in range(4)] == [70, 70, None, None]
    pipeline.report(1)
    assert [pipeline.watch.batch_at(rank) for rank in range(4)] == [70, None, None, None]
    pipeline.report(0)
    assert [pipeline.watch.batch_at(rank) for rank in range(4)] == [None, None, 70, 70]
