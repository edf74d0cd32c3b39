"""Recorded decodes of a stage against others, run by test_decode_graphs.py in its own process.

In Triton's interpreter where TRITON_INTERPRET=1 is set, otherwise as graphs on a CUDA device.
"""

import pytest
import torch
import triton

from lone_stage import HIDDEN, save_llama, stage_spec
from tdpipe.core.batch_plan import BatchPlan, Phase, SequenceSlice
from tdpipe.execution import stage_session
from tdpipe.execution.attention.triton_attention import TritonAttention
from tdpipe.execution.batch_tensors import build_batch
from tdpipe.execution.decode_graphs import CudaGraphRecorder

INTERPRETED = triton.knobs.runtime.interpret
BLOCK_SIZE, NUM_BLOCKS, MAX_ROWS = 16, 24, 6


class Repeater:
    """A GraphRecorder without a card: launches again by calling again. Both note the sizes."""

    def __init__(self):
        self.recorded, self.replayed = [], []
        self._graphs = None if INTERPRETED else CudaGraphRecorder()

    def record(self, function):
        [size] = function.args
        self.recorded.append(size)
        if self._graphs is not None:
            launch = self._graphs.record(function)
        else:
            function()
            launch = function

        def replay():
            self.replayed.append(size)
            launch()

        return replay


class ToEngine:
    def send(self, message):
        pass


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_llama(tmp_path_factory.mktemp("model"), num_layers=4)


@pytest.fixture
def recorder(monkeypatch):
    made = Repeater()
    monkeypatch.setattr(stage_session, "CudaGraphRecorder", lambda: made)
    monkeypatch.setattr(stage_session, "join_group", lambda *_: None)
    if INTERPRETED:
        monkeypatch.setattr(stage_session, "choose_attention", lambda *_: TritonAttention(1))
    return made


def started(folder, stage, graph_rows):
    """A stage of two, with two layers, as it is when it is ready."""
    spec = stage_spec(
        folder, stage=stage, num_stages=2, first_layer=2 * stage, end_layer=2 * stage + 2,
        device="cpu" if INTERPRETED else "cuda:0", block_size=BLOCK_SIZE, graph_rows=graph_rows,
    )  # fmt: skip
    session = stage_session.StageSession(spec, None, ToEngine())
    session._load()
    session._allocate(NUM_BLOCKS)
    return session


def computed(session, steps):
    """Hidden states of batches, each (tokens of its prompts by request, requests that decode)."""
    results, lengths = [], {}
    blocks = list(range(1, NUM_BLOCKS))
    generator = torch.Generator().manual_seed(0)
    for prompts, decodes in steps:
        pieces = [(request, 0, count) for request, count in prompts.items()]
        pieces += [(request, lengths[request], 1) for request in decodes]
        slices = []
        for request, start, count in pieces:
            needed = -(-(start + count) // BLOCK_SIZE) - -(-start // BLOCK_SIZE)
            own = tuple(blocks.pop(len(blocks) // 2) for _ in range(needed))
            slices.append(SequenceSlice(request, start, (start % 7,) * count, own, True))
            lengths[request] = start + count
        plan = BatchPlan(0, Phase.MIXED, len(prompts), tuple(slices), (), (), "")
        session.table.apply(plan)
        batch = build_batch(plan, session.table, BLOCK_SIZE, session.device)
        given = batch.token_ids
        if not session.links.is_first:
            shape = (plan.num_tokens, HIDDEN)
            given = torch.randn(shape, generator=generator).to(session.device, session.dtype)
        results.append(session._hidden(given, batch))
    return results


# Three prompts; decodes that fill a size, that leave rows over where others were just before, that
# cross into a new block.
STEPS = [
    ({1: 5, 2: 16, 3: 31}, []),
    ({}, [1, 2, 3]),
    ({}, [3]),
    ({4: 20, 5: 2}, [1, 2]),
    ({}, [5, 1, 4, 2, 3]),
    ({}, [2, 4]),
    ({6: 3, 7: 3}, []),
    ({}, [7, 6, 5, 4, 3, 2, 1]),
    ({}, [1, 2, 3, 5, 6, 7]),
    ({}, [1, 2, 3, 5, 6]),
]
# Of 3, 1, 5, 2, 6 and 5 decodes; the one of 7 is more than is recorded.
SIZES = [4, 1, 6, 2, 6, 6]


@pytest.mark.parametrize("stage", [0, 1])
def test_recorded_decodes_equal_the_others(stage, folder, recorder):
    with torch.inference_mode():
        plain, session = started(folder, stage, 0), started(folder, stage, MAX_ROWS)
        assert plain.graphs is None and recorder.recorded == [6, 4, 2, 1]
        assert not recorder.replayed
        want, got = computed(plain, STEPS), computed(session, STEPS)
    assert recorder.replayed == SIZES
    # Compared when all are computed: what a batch gave is not overwritten by the next.
    for one, other in zip(want, got, strict=True):
        torch.testing.assert_close(other, one, rtol=1e-5, atol=1e-5)
    for name in ("keys", "values"):
        cache, of_plain = getattr(session.kv_cache, name), getattr(plain.kv_cache, name)
        torch.testing.assert_close(cache, of_plain, rtol=1e-5, atol=1e-5)
        # Padding leaves nothing anywhere: what no batch wrote is as it was.
        assert torch.equal(cache == 0, of_plain == 0) and (cache == 0).any()


def test_a_backend_that_is_not_recorded(folder, recorder, monkeypatch):
    monkeypatch.setattr(TritonAttention, "is_recorded", False)
    with torch.inference_mode():
        assert started(folder, 0, MAX_ROWS).graphs is None
    assert not recorder.recorded
