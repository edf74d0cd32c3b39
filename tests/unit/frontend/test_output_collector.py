"""What a run finished, for its share of the bound: completions with the tokens they really have."""

from types import SimpleNamespace

from tdpipe.control.control_plane import OutputEvent
from tdpipe.core.batch_plan import Sample
from tdpipe.core.request import FinishReason
from tdpipe.core.sampling_params import SamplingParams
from tdpipe.frontend.job_intake import AcceptedJob
from tdpipe.frontend.output_collector import OutputCollector
from tdpipe.outputs import Job

TOKENIZER = SimpleNamespace(decode=lambda ids, skip_special_tokens=True: "")


def collector_of(*jobs):
    """A collector of jobs of (prompt tokens, completions), and their first request ids."""
    accepted, first = {}, 0
    for index, (num_prompt, n) in enumerate(jobs):
        job = Job(index, None, None, SamplingParams(n=n, max_tokens=9))
        one = AcceptedJob(index, job, tuple(range(num_prompt)), first)
        accepted.update((first + number, one) for number in range(n))
        first += n
    return OutputCollector(accepted, TOKENIZER, SimpleNamespace(), (2,))


def give(collector, request_id, num_tokens, reason):
    for index in range(num_tokens):
        ended = reason if index == num_tokens - 1 else None
        collector.take(OutputEvent(request_id, Sample(request_id, 5), ended))


def test_lengths_are_those_of_finished_requests():
    collector = collector_of((7, 2), (3, 1), (4, 1))
    give(collector, 1, 3, FinishReason.STOP)
    give(collector, 0, 8, None)
    collector.take(OutputEvent(0, Sample(0, 5), FinishReason.LENGTH, cached_tokens=4))
    assert list(collector.cached_tokens) == [0, 4]
    give(collector, 2, 4, None)  # still running
    collector.take(OutputEvent(3, None, FinishReason.ABORT))
    assert collector.lengths() == [(7, 3), (7, 9)]
    give(collector, 2, 1, FinishReason.ABORT)
    assert collector.lengths() == [(7, 3), (7, 9)]
