"""A stage whose device computes by itself makes the tensors of the next batch meanwhile."""

from collections import deque

import pytest

from lone_stage import save_llama, stage_spec
from tdpipe.core.batch_plan import BatchPlan, Phase, SequenceSlice, SequenceStart
from tdpipe.core.sampling_params import SamplingParams
from tdpipe.execution import stage_session
from tdpipe.execution.models.decoder import StageModel
from tdpipe.execution.wire import (
    Allocate,
    Done,
    Ready,
    Reset,
    Run,
    Stop,
    decode_from_stage,
    encode,
)

PROMPTS = {1: (3, 4, 5), 2: tuple(range(20))}


def plans():
    """A prefill of each of two prompts, then a decode of both, which takes a new block for none."""
    starts = {
        request: SequenceStart(request, len(prompt), SamplingParams(max_tokens=4), 0, ())
        for request, prompt in PROMPTS.items()
    }
    prefills = [
        BatchPlan(
            request, Phase.PREFILL, 1,
            (SequenceSlice(request, 0, prompt, blocks, samples=True),), (starts[request],), (), "",
        )
        for (request, prompt), blocks in zip(PROMPTS.items(), [(2,), (3, 1)], strict=True)
    ]  # fmt: skip
    decodes = tuple(
        SequenceSlice(request, len(prompt), (7,), (), samples=True)
        for request, prompt in PROMPTS.items()
    )
    return [*prefills, BatchPlan(3, Phase.DECODE, 0, decodes, (), (), "")]


class FromEngine:
    """Messages that are there from the beginning, but for the last: it comes when waited for."""

    def __init__(self, *messages):
        self.messages = deque(encode(message) for message in messages)

    def recv(self):
        return self.messages.popleft()

    def poll(self, _):
        return len(self.messages) - 1


class ToEngine:
    def __init__(self, happened):
        self.happened, self.samples = happened, []

    def send(self, message):
        message = decode_from_stage(message)
        if isinstance(message, Done):
            self.happened.append(f"done {message.batch_id}")
            self.samples.append(message.samples)
        elif isinstance(message, Ready):
            self.happened.clear()


def run(folder, monkeypatch, prepares_ahead, fails=None):
    """What happened, in order, and the samples of each batch."""
    happened = []
    build, computes = stage_session.build_batch, StageModel.forward

    def build_batch(plan, *others):
        happened.append(f"tensors {plan.batch_id}")
        if plan.batch_id == fails:
            raise ValueError
        return build(plan, *others)

    def forward(*arguments):
        happened.append("layers")
        return computes(*arguments)

    monkeypatch.setattr(stage_session, "build_batch", build_batch)
    monkeypatch.setattr(StageModel, "forward", forward)
    monkeypatch.setattr(stage_session, "join_group", lambda *_: None)
    spec = stage_spec(folder)
    # Twice: what the first run left must not be taken for a batch of the second.
    runs = [message for _ in range(2) for message in (*map(Run, plans()), Reset())]
    to_engine = ToEngine(happened)
    session = stage_session.StageSession(spec, FromEngine(Allocate(8), *runs, Stop()), to_engine)
    session._prepares_ahead = prepares_ahead
    if fails:
        with pytest.raises(ValueError):
            session.run()
        assert session.batch_id == fails
    else:
        session.run()
    return happened, to_engine.samples


def test_tensors_are_made_while_the_batch_before_is_computed(tmp_path, monkeypatch):
    folder = save_llama(tmp_path)
    with monkeypatch.context() as patch:
        in_turn, want = run(folder, patch, prepares_ahead=False)
    assert in_turn == [
        "tensors 1", "layers", "done 1", "tensors 2", "layers", "done 2",
        "tensors 3", "layers", "done 3",
    ] * 2  # fmt: skip
    with monkeypatch.context() as patch:
        ahead, got = run(folder, patch, prepares_ahead=True)
    one_run = [
        "tensors 1", "layers", "tensors 2", "done 1", "layers", "tensors 3", "done 2",
        "layers", "done 3",
    ]  # fmt: skip
    assert ahead == one_run * 2
    assert got == want and [len(samples) for samples in got] == [1, 1, 2] * 2


def test_an_error_is_told_of_the_batch_whose_tensors_were_made(tmp_path, monkeypatch):
    happened, _ = run(save_llama(tmp_path), monkeypatch, prepares_ahead=True, fails=2)
    assert happened == ["tensors 1", "layers", "tensors 2"]
