"""Attention over blocks that several sequences hold: as if each had computed all of its tokens."""

import pytest
import torch

from tdpipe.core.batch_plan import BatchPlan, Phase, SequenceSlice
from tdpipe.execution.attention.numba_attention import NumbaAttention
from tdpipe.execution.attention.torch_attention import TorchAttention
from tdpipe.execution.batch_tensors import build_batch
from tdpipe.execution.sequence_table import SequenceTable

BLOCK, HEADS, DIM = 4, 2, 16
CPU = torch.device("cpu")
COMMON = tuple(range(8))
FIRST, SECOND = (*COMMON, 10, 11, 12), (*COMMON, 20, 21)
# Two whole blocks and the first one's own third; then what only the second one computes.
FIRST_SLICE = SequenceSlice(0, 0, FIRST, (5, 2, 7), True)
SECOND_SLICE = SequenceSlice(1, 8, (20, 21), (5, 2, 9), True)


def plan(*slices, num_prefills):
    return BatchPlan(0, Phase.MIXED, num_prefills, slices, (), (), "")


class Stage:
    """Attention alone: queries, keys and values are looked up by token."""

    def __init__(self, backend):
        self.backend = backend()
        shape = (1, 10, BLOCK, HEADS, DIM, torch.float32, CPU)
        self.cache, self.table = backend.cache_class(*shape), SequenceTable(4)
        torch.manual_seed(0)
        self.query, self.key, self.value = torch.randn(3, 40, HEADS, DIM)

    def run(self, one):
        self.table.apply(one)
        batch = build_batch(one, self.table, BLOCK, CPU)
        rows = [part[batch.token_ids] for part in (self.query, self.key, self.value)]
        return self.backend.forward(0, *rows, self.cache, batch.attention, None)

    def wanted(self, tokens):
        """Of the last of these tokens."""
        ids = torch.tensor(tokens)
        query, keys, values = self.query[ids[-1:]], self.key[ids], self.value[ids]
        parts = [part.transpose(0, 1) for part in (query, keys, values)]
        return torch.nn.functional.scaled_dot_product_attention(*parts)[:, 0]


@pytest.mark.parametrize("backend", [TorchAttention, NumbaAttention])
@pytest.mark.parametrize("together", [True, False])
def test_prefill_and_decode(backend, together):
    stage = Stage(backend)
    if together:  # the blocks are computed by another slice of the same batch
        rows = stage.run(plan(FIRST_SLICE, SECOND_SLICE, num_prefills=2))
    else:
        stage.run(plan(FIRST_SLICE, num_prefills=1))
        rows = stage.run(plan(SECOND_SLICE, num_prefills=1))
    torch.testing.assert_close(rows[-2], stage.wanted(SECOND[:-1]), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(rows[-1], stage.wanted(SECOND), rtol=1e-5, atol=1e-5)
    decodes = SequenceSlice(0, 11, (30,), (), True), SequenceSlice(1, 10, (31,), (), True)
    first, second = stage.run(plan(*decodes, num_prefills=0))
    torch.testing.assert_close(first, stage.wanted((*FIRST, 30)), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(second, stage.wanted((*SECOND, 31)), rtol=1e-5, atol=1e-5)
