"""Which sizes of decodes are recorded; what they give, in Triton's interpreter or on a card."""

import pytest
import torch

from tdpipe.execution.decode_graphs import ladder
from triton_process import run_cases

pytest.importorskip("triton")


@pytest.mark.parametrize(
    ("max_rows", "sizes"),
    [
        (1, (1,)),
        (6, (1, 2, 4, 6)),
        (8, (1, 2, 4, 8)),
        (40, (1, 2, 4, 8, 16, 32, 40)),
        (170, (1, 2, 4, 8, *range(16, 129, 16), 160, 170)),
        (256, (1, 2, 4, 8, *range(16, 129, 16), 160, 192, 224, 256)),
    ],
)
def test_ladder(max_rows, sizes):
    assert ladder(max_rows) == sizes


def test_results_without_a_card():
    run_cases("graph_cases.py", TRITON_INTERPRET="1", OMP_NUM_THREADS="1")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_results_on_a_card():
    run_cases("graph_cases.py")
