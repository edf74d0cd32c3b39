"""A whole run over replicas that are not there: only what they say is."""

import json
from collections import deque

import pytest

from tdpipe.core.errors import ReplicaFailed, RequestRejected, StageFailed
from tdpipe.core.sampling_params import SamplingParams
from tdpipe.outputs import CompletionOutput, Job, Progress, RequestOutput
from tdpipe.replicas.job_text import error_text
from tdpipe.replicas.messages import (
    Begin,
    Ended,
    EndJobs,
    Failed,
    FinishEarly,
    GivenBack,
    Jobs,
    Moment,
    RunEnded,
    TakeBack,
)
from tdpipe.replicas.pool_run import PoolRun

KILLED = error_text(ReplicaFailed(1, "its process was killed"))


class FakeReplicas:
    """Replica r ends a job in each of its turns, begun one by one in order; it has one every
    periods[r] receives. After lost_at[r] jobs it is lost, also where it has only just got one.
    """

    def __init__(self, periods, lost_at=()):
        self.living = set(range(len(periods)))
        self.periods, self.lost_at = periods, dict(lost_at)
        self.queues = [deque() for _ in periods]
        self.done = [[] for _ in periods]
        self.read = [0 for _ in periods]
        self.most = [0 for _ in periods]
        self.mail = deque()
        self.texts = {}
        self.turn = 0

    def send(self, replica, message):
        assert replica in self.living
        if isinstance(message, Jobs):
            self.queues[replica].extend(one.number for one in message.jobs)
            self.texts.update((one.number, json.loads(one.text)) for one in message.jobs)
            self.read[replica] += len(message.jobs)
            self.most[replica] = max(self.most[replica], len(self.queues[replica]))
        elif isinstance(message, TakeBack):
            begun = list(self.queues[replica])[:1]
            back = [n for n in message.numbers if n in self.queues[replica] and n not in begun]
            for number in back:
                self.queues[replica].remove(number)
            self.mail.append(GivenBack(replica, 1, tuple(back)))
        elif isinstance(message, EndJobs | FinishEarly):
            grace_s = getattr(message, "grace_s", 0.0)
            self.mail.append(RunEnded(replica, 1, is_cut=grace_s < 0, busy_s=1.0))
        else:
            assert message == Begin(1)

    def receive(self, limit_s):
        self.turn += 1
        assert self.turn < 20_000, "stuck"
        if not self.mail:
            for replica in sorted(self.living):
                if self.turn % self.periods[replica] == 0:
                    self.work(replica)
        return self.mail.popleft() if self.mail else None

    def work(self, replica):
        if len(self.done[replica]) >= self.lost_at.get(replica, 10**9):
            self.living.discard(replica)
            self.mail.append(Failed(replica, KILLED))
            return
        if self.queues[replica]:
            number = self.queues[replica].popleft()
            self.done[replica].append(number)
            completion = CompletionOutput(0, f"text {number}", [1, 2], "stop")
            self.mail.append(Ended(replica, 1, number, RequestOutput(0, [9], [completion]), None))
        waiting = max(0, len(self.queues[replica]) - 1)
        moment = Progress(0, self.read[replica], 0, 0, "", 0.0, 0.0, num_waiting=waiting)
        self.mail.append(Moment(replica, 1, moment))


def jobs(count, read=None):
    for number in range(count):
        if read is not None:
            read.append(number)
        yield Job(f"job {number}", "prompt", None, SamplingParams())


def run(replicas, source, windows=None, **options):
    windows = windows or [16] * len(replicas.periods)
    pool_run = PoolRun(1, replicas, windows, source, **options)
    return pool_run, list(pool_run.results())


def texts(results):
    return {result.key: result.output.outputs[0].text for result in results}


WHOLE = {f"job {number}": f"text {number}" for number in range(100)}


def test_all_jobs_with_their_places_and_keys():
    replicas, read = FakeReplicas([1, 1]), []
    source = jobs(100, read)
    pool_run = PoolRun(1, replicas, [16, 16], source)
    results = pool_run.results()
    first = next(results)
    assert len(read) <= 33  # what the windows hold
    rest = list(results)
    assert texts([first, *rest]) == WHOLE and len(rest) == 99
    assert {replicas.texts[n]["place"] for n in range(100)} == set(range(100))
    assert {result.output.index for result in [first, *rest]} == set(range(100))
    assert max(replicas.most) <= 16
    summary = pool_run.summary()
    assert (summary.num_requests, summary.output_tokens, summary.prompt_tokens) == (100, 200, 100)
    assert [one.num_requests for one in summary.replicas] == list(map(len, replicas.done))
    assert "requests     100 finished\n" in str(summary) and "replica 1    " in str(summary)


def test_a_slow_replica_gets_less_and_does_not_end_last():
    replicas = FakeReplicas([1, 8])
    pool_run, results = run(replicas, jobs(100))
    assert texts(results) == WHOLE
    fast, slow = map(len, replicas.done)
    assert fast > 5 * slow
    assert pool_run.summary().num_moved > 0
    # Without moving, the slow one would have kept its window of 16 to the end.
    assert slow < 16


def test_a_lost_replicas_jobs_are_done_by_the_other(caplog):
    replicas = FakeReplicas([1, 1], {0: 7})
    pool_run, results = run(replicas, jobs(100))
    assert texts(results) == WHOLE and len(results) == 100
    assert len(replicas.done[0]) == 7 and len(replicas.done[1]) == 93
    assert "replica 0 is lost: its process was killed" in caplog.text
    assert "lost: its process was killed" in str(pool_run.summary())


def test_all_replicas_are_lost():
    replicas, found = FakeReplicas([1, 1], {0: 7, 1: 20}), []
    pool_run = PoolRun(1, replicas, [16, 16], jobs(100))
    with pytest.raises(StageFailed, match="replica 1 failed: its process was killed"):
        iter_into(pool_run.results(), found)
    assert len(found) == 27 and not pool_run.is_over


def iter_into(results, found):
    for result in results:
        found.append(result)


def test_a_replica_that_was_lost_before_gets_nothing():
    replicas = FakeReplicas([1, 1])
    replicas.living.discard(0)
    assert texts(run(replicas, jobs(100))[1]) == WHOLE
    replicas.living.clear()
    with pytest.raises(StageFailed, match="all replicas have failed"):
        run(replicas, jobs(1))


def test_finishing_early_leaves_the_rest():
    replicas = FakeReplicas([1, 1])
    pool_run = PoolRun(1, replicas, [16, 16], jobs(100))
    assert not pool_run.finish_early(5.0)  # not begun
    results = pool_run.results()
    found = [next(results) for _ in range(10)]
    assert pool_run.finish_early(5.0)
    found += results
    assert 10 <= len(found) < 20 and pool_run.is_over


def test_too_little_time_to_finish():
    replicas = FakeReplicas([1, 1])
    pool_run = PoolRun(1, replicas, [16, 16], jobs(100))
    results = pool_run.results()
    next(results)
    pool_run.finish_early(-1.0)
    with pytest.raises(KeyboardInterrupt):
        list(results)
    assert not pool_run.is_over  # its engines are closed


def test_jobs_that_cannot_run_and_an_input_that_fails():
    bad = RequestRejected("line", "{", "not valid JSON")

    def source():
        yield Job("bad", None, None, SamplingParams(), error=bad)
        yield Job("odd", {1}, None, SamplingParams())
        yield Job("good", "x", None, SamplingParams())
        raise OSError("the disk is gone")

    found = []
    with pytest.raises(OSError, match="the disk is gone"):
        iter_into(PoolRun(1, FakeReplicas([1]), [16], source()).results(), found)
    assert [result.key for result in found] == ["bad", "odd", "good"]
    assert found[0].error is bad and isinstance(found[1].error, RequestRejected)
    assert found[2].output.index == 2


def test_progress_is_of_all_replicas(monkeypatch):
    monkeypatch.setattr("tdpipe.replicas.pool_run.PROGRESS_INTERVAL_S", -1.0)
    moments = []
    run(FakeReplicas([1, 1]), jobs(100), on_progress=moments.append)
    assert moments[-1].num_finished == 100 == moments[-1].num_requests
    assert max(moment.num_waiting for moment in moments) > 15  # more than one replica's
    finished = [moment.num_finished for moment in moments]
    assert finished == sorted(finished)


def test_nothing_to_run():
    assert run(FakeReplicas([1, 1]), jobs(0))[1] == []
