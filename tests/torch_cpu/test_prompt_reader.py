"""Which samples are the first after a prompt, and what the head says of them."""

import torch

from tdpipe.core.batch_plan import BatchPlan, Phase, SequenceSlice, SequenceStart
from tdpipe.core.sampling_params import SamplingParams
from tdpipe.execution.prompt_reader import NO_LIMIT, PromptEnd, PromptReader


class SumOfState:
    depth = 1

    def forecast_means(self, hidden, limits):
        return [min(int(row.sum()), limit) for row, limit in zip(hidden, limits, strict=True)]


def start(request_id, num_prompt, max_tokens=16):
    return SequenceStart(request_id, num_prompt, SamplingParams(max_tokens=max_tokens), 0, ())


def piece(request_id, begin, num_tokens, samples=True):
    return SequenceSlice(request_id, begin, (7,) * num_tokens, (), samples)


def plan(slices, starts=(), released=()):
    return BatchPlan(0, Phase.MIXED, 0, tuple(slices), tuple(starts), tuple(released), "")


def test_each_prompt_is_read_once_at_its_end():
    reader = PromptReader(SumOfState())
    starts = [start(1, 4, 700), start(2, 6, None)]
    begun = plan([piece(1, 0, 4), piece(2, 0, 3, samples=False)], starts)
    assert reader.ends(begun) == [PromptEnd(0, 1, 700)]
    assert reader.ends(plan([piece(1, 4, 1), piece(2, 3, 3)])) == [PromptEnd(1, 2, NO_LIMIT)]
    assert reader.ends(plan([piece(1, 5, 1), piece(2, 6, 1)])) == []


def test_a_preempted_request_is_not_read_again():
    reader = PromptReader(SumOfState())
    assert reader.ends(plan([piece(1, 0, 4)], [start(1, 4)])) == [PromptEnd(0, 1, 16)]
    # Prompt and two outputs are computed anew.
    assert reader.ends(plan([piece(1, 0, 6)], [start(1, 4)], released=[1])) == []


def test_forecasts_are_by_request():
    reader = PromptReader(SumOfState())
    ends = [PromptEnd(1, 20, 700), PromptEnd(2, 30, 9)]
    assert reader.read(ends, torch.full((2, 4), 8.0)) == {20: 32, 30: 9}
