"""What a simulated run tells of each request, against times worked out by hand."""

from factories import make_limits
from tdpipe.control.arrivals import TimedRequest
from tdpipe.policies.hybrid_batching import HybridBatching
from tdpipe.prediction.max_tokens import MaxTokensPredictor
from tdpipe.simulation.simulated_run import TokenTimes, simulate
from tdpipe.simulation.workload import requests_of_lengths


class EveryBatchTakesOneSecond:
    num_stages = 1

    def stage_time_s(self, stage, load):
        return 1.0

    def transfer_time_s(self, num_tokens):
        return 0.0


def run(lengths, arrivals, **limits):
    requests = requests_of_lengths(lengths)
    timed = [TimedRequest(at, new) for at, new in zip(arrivals, requests, strict=True)]
    return simulate(
        timed,
        HybridBatching(),
        EveryBatchTakesOneSecond(),
        make_limits(num_stages=1, **limits),
        MaxTokensPredictor(),
    )


def test_token_times_are_those_of_the_batches():
    """A prefill alone, then two decodes; one token of a request is its first and its last."""
    done = run([(8, 3), (8, 1)], [0.0, 10.0])
    assert done.token_times == (TokenTimes(1.0, 3.0), TokenTimes(11.0, 11.0))
    assert done.makespan_s == 11.0


def test_token_times_keep_the_order_given():
    done = run([(8, 1), (8, 3)], [10.0, 0.0])
    assert done.token_times == (TokenTimes(11.0, 11.0), TokenTimes(1.0, 3.0))


def test_a_preemption_does_not_move_the_first_token():
    """Four blocks hold both prompts but not both answers: one request starts again."""
    done = run([(24, 20), (24, 20)], [0.0, 0.0], num_blocks=4)
    assert done.num_preemptions > 0
    firsts = [times.first_s for times in done.token_times]
    assert firsts == [1.0, 1.0]
    assert max(times.last_s for times in done.token_times) == done.makespan_s
