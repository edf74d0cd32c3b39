"""TritonAttention against TorchAttention, run by test_triton_attention.py in a process of its own.

In Triton's interpreter where TRITON_INTERPRET=1 is set, otherwise on a CUDA device.
"""

import math
from dataclasses import dataclass

import pytest
import torch
import triton

from tdpipe.core.batch_plan import BatchPlan, Phase, SequenceSlice
from tdpipe.execution.attention import triton_attention
from tdpipe.execution.attention.torch_attention import TorchAttention
from tdpipe.execution.attention.triton_attention import TritonAttention
from tdpipe.execution.batch_tensors import build_batch
from tdpipe.execution.kv_cache import KVCache
from tdpipe.execution.sequence_table import SequenceTable

CPU = torch.device("cpu")
DEVICE = CPU if triton.knobs.runtime.interpret else torch.device("cuda")
FLOAT32, HALF, BRAIN = torch.float32, torch.float16, torch.bfloat16
TOLERANCE = {FLOAT32: 1e-5, HALF: 1e-3, BRAIN: 1e-2}
FEW, MANY = 1, 4096  # multiprocessors: one split of each context, as many as pay


@dataclass(frozen=True)
class Case:
    """A batch and the shape of the model it is for; prefills are (earlier, new) tokens."""

    head_dim: int
    group: int
    block_size: int
    prefills: tuple[tuple[int, int], ...] = ()
    decodes: tuple[int, ...] = ()
    window: int | None = None
    kv_heads: int = 2
    dtype: torch.dtype = FLOAT32
    multiprocessors: int = FEW

    @property
    def pieces(self) -> list[tuple[int, int]]:
        """(earlier, new) tokens of every slice, prefills first."""
        return [*self.prefills, *((length - 1, 1) for length in self.decodes)]


class Batch:
    """A case's tensors, in scattered blocks; unused slots hold NaN, or zeros for the reference."""

    def __init__(self, case: Case) -> None:
        torch.manual_seed(0)
        self.case = case
        ends = [earlier + new for earlier, new in case.pieces]
        needed = [-(-end // case.block_size) for end in ends]
        # Two blocks more than used; each sequence takes those that a shuffle gives it.
        self.num_blocks = sum(needed) + 2
        blocks = torch.randperm(self.num_blocks).tolist()
        slices = []
        for request, (earlier, new) in enumerate(case.pieces):
            own = tuple(blocks.pop() for _ in range(needed[request]))
            slices.append(SequenceSlice(request, earlier, (0,) * new, own, True))
        self.plan = BatchPlan(0, Phase.MIXED, len(case.prefills), tuple(slices), (), (), "")
        self.table = SequenceTable(max(needed) + 1)
        self.table.apply(self.plan)
        self.earlier_slots = self._slots([earlier for earlier, _ in case.pieces])
        self.used_slots = self._slots(ends)
        shape = (2, len(self.earlier_slots), case.kv_heads, case.head_dim)
        self.earlier = torch.randn(shape).to(case.dtype)
        self.sizes = [case.head_dim * case.kv_heads * count for count in (case.group, 1, 1)]
        num_tokens = sum(new for _, new in case.pieces)
        self.fused = torch.randn(num_tokens, sum(self.sizes)).to(case.dtype)

    def _slots(self, ends: list[int]) -> torch.Tensor:
        size = self.case.block_size
        slots = [
            int(self.table.row(request)[at // size]) * size + at % size
            for request, end in enumerate(ends)
            for at in range(end)
        ]
        return torch.tensor(slots, dtype=torch.long)

    def run(self, backend, dtype, device, unused):
        """Output of layer 1 of 2, and the cache [2 for keys and values, layers, ...], on CPU."""
        case = self.case
        cache = KVCache(
            2, self.num_blocks, case.block_size, case.kv_heads, case.head_dim, dtype, device
        )
        cache.keys.fill_(unused)
        cache.values.fill_(unused)
        cache.write(1, self.earlier_slots.to(device), *self.earlier.to(device, dtype))
        meta = build_batch(self.plan, self.table, case.block_size, device).attention
        # Views of one tensor, as the decoder's fused projection makes them.
        parts = self.fused.to(device, dtype).split(self.sizes, dim=-1)
        rows = [part.unflatten(-1, (-1, case.head_dim)) for part in parts]
        output = backend.forward(1, *rows, cache, meta, case.window)
        return output.cpu(), torch.stack([cache.keys, cache.values]).cpu()


# Between them: every head_dim, group and block size; contexts of 1, at and across borders of
# blocks, tiles (64 or 32 tokens in float32) and splits; more splits than a context has tiles.
CASES = {
    "decodes": Case(64, 3, 16, decodes=(1, 15, 16, 17, 63, 64, 65, 130)),
    "decodes-in-splits": Case(
        64, 1, 32, decodes=(1, 64, 65, 300, 600), kv_heads=1, multiprocessors=MANY
    ),
    "decodes-wide": Case(128, 8, 16, decodes=(31, 32, 33, 70), kv_heads=1),
    "decodes-odd": Case(96, 5, 32, decodes=(5, 40), kv_heads=1),
    "decodes-three-kv-heads": Case(80, 2, 16, decodes=(20, 129), kv_heads=3),
    "decodes-window": Case(64, 4, 16, decodes=(1, 9, 40, 41, 42, 150), window=40, kv_heads=1),
    "decodes-window-1": Case(64, 1, 16, decodes=(1, 2, 33), window=1),
    "decodes-window-in-splits": Case(
        80, 2, 16, decodes=(3, 257, 700), window=300, kv_heads=1, multiprocessors=MANY
    ),
    "prompt": Case(64, 1, 16, prefills=((0, 1), (0, 64), (0, 65))),
    "prompts": Case(80, 6, 32, prefills=((0, 5), (0, 33), (0, 66)), kv_heads=1),
    "chunks": Case(96, 2, 16, prefills=((16, 1), (0, 3), (33, 40))),
    "chunks-wide": Case(128, 4, 32, prefills=((31, 33), (5, 2)), kv_heads=1),
    "chunks-window": Case(64, 2, 16, prefills=((100, 70), (0, 90), (3, 4)), window=20, kv_heads=1),
    "prompt-window-1": Case(64, 1, 16, prefills=((0, 70),), window=1),
    "mixed": Case(64, 7, 16, prefills=((0, 20), (30, 35)), decodes=(1, 17, 66), kv_heads=1),
    "mixed-window": Case(
        96, 8, 32, prefills=((0, 40), (50, 9)), decodes=(1, 64), window=33, kv_heads=1
    ),
    "bfloat16": Case(
        128, 4, 16, prefills=((0, 20), (60, 10)), decodes=(1, 100), kv_heads=1, dtype=BRAIN
    ),
    "bfloat16-in-splits": Case(
        64, 3, 16, decodes=(7, 520), kv_heads=1, dtype=BRAIN, multiprocessors=MANY
    ),
    "float16": Case(
        80, 2, 32, prefills=((0, 20), (60, 10)), decodes=(1, 100), kv_heads=1, dtype=HALF
    ),
    "float16-window": Case(
        96, 3, 16, prefills=((70, 9),), decodes=(90,), window=25, kv_heads=1, dtype=HALF
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_against_torch(name):
    case = CASES[name]
    batch = Batch(case)
    # In float32 of the same numbers, so that only the kernels' rounding is left to tolerate.
    want, want_cache = batch.run(TorchAttention(), FLOAT32, CPU, unused=0.0)
    backend = TritonAttention(case.multiprocessors)
    got, cache = batch.run(backend, case.dtype, DEVICE, unused=math.nan)
    assert got.dtype == case.dtype and got.is_contiguous()
    tolerance = TOLERANCE[case.dtype]
    torch.testing.assert_close(got.float(), want, rtol=tolerance, atol=tolerance)

    used = batch.used_slots
    assert torch.equal(cache[:, 1, :, used].float(), want_cache[:, 1, :, used])
    cache[:, 1, :, used] = math.nan
    assert cache.isnan().all(), "written outside the batch's slots"


@pytest.mark.parametrize(
    ("name", "splits"),
    [
        ("decodes", 1),
        ("decodes-in-splits", 4),
        ("decodes-window-in-splits", 2),
        ("bfloat16-in-splits", 4),
    ],
)
def test_the_cases_have_the_splits_they_say(name, splits, monkeypatch):
    counted = []
    original = triton_attention.num_splits

    def count(*arguments):
        counted.append(original(*arguments))
        return counted[-1]

    monkeypatch.setattr(triton_attention, "num_splits", count)
    case = CASES[name]
    Batch(case).run(TritonAttention(case.multiprocessors), case.dtype, DEVICE, unused=math.nan)
    assert counted == [splits]


def test_the_cases_cover_the_shapes():
    assert {case.head_dim for case in CASES.values()} == {64, 80, 96, 128}
    assert {case.group for case in CASES.values()} == set(range(1, 9))
    assert {case.block_size for case in CASES.values()} == {16, 32}


def test_tiles_are_made_once_a_batch(monkeypatch):
    made = []
    original = triton_attention.prefill_tiles

    def make(*arguments):
        made.append(original(*arguments))
        return made[-1]

    monkeypatch.setattr(triton_attention, "prefill_tiles", make)
    case = CASES["chunks"]
    Batch(case).run(Twice(), case.dtype, DEVICE, unused=math.nan)
    assert len(made) == 1


class Twice:
    """A backend that attends in both layers, as a model would."""

    def forward(self, layer, *arguments):
        backend = TritonAttention(FEW)
        backend.forward(0, *arguments)
        return backend.forward(layer, *arguments)
