"""The compiled row kernels against torch."""

import numpy as np
import torch
from torch.nn.functional import rms_norm as torch_rms_norm
from torch.nn.functional import silu

from tdpipe.execution.float_kernels import float_of_rank, rank_of
from tdpipe.execution.row_kernels import quantize_rows, rms_norm, rotate, silu_multiply


def test_rms_norm():
    x, weight, output = torch.randn(7, 96), torch.randn(96), torch.empty(7, 96)
    rms_norm(x.numpy(), weight.numpy(), 1e-5, output.numpy())
    torch.testing.assert_close(output, torch_rms_norm(x, (96,), weight, 1e-5))


def test_silu_multiply_also_of_large_numbers():
    gate = torch.cat([torch.randn(50), torch.tensor([0.0, -0.0, 90.0, -90.0, 1e30, -1e30])])
    gate, up = gate.expand(3, -1).contiguous(), torch.randn(3, 56)
    output = torch.empty(3, 56)
    silu_multiply(torch.cat([gate, up], dim=1).numpy(), output.numpy())
    torch.testing.assert_close(output, silu(gate) * up, rtol=1e-5, atol=1e-6)


def test_rotation_of_a_part_of_a_row():
    wide, angles = torch.randn(5, 4 * 16 + 8), torch.randn(5, 8)
    heads, output = wide[:, :64].unflatten(1, (4, 16)), torch.empty(5, 4, 16)
    rotate(heads.numpy(), angles.cos().numpy(), angles.sin().numpy(), output.numpy())
    turned = torch.view_as_complex(torch.stack(heads.chunk(2, dim=-1), dim=-1))
    turned = turned * torch.polar(torch.ones(5, 1, 8), angles[:, None])
    torch.testing.assert_close(output, torch.cat([turned.real, turned.imag], dim=-1))


def test_quantized_rows():
    x = torch.tensor([[1.0, -2.0, 0.5, 0.0], [0.0, 0.0, 0.0, 0.0], [-1e-6, 1e-6, 3e-7, 0.0]])
    rows, largest = torch.empty(3, 4, dtype=torch.uint8), torch.empty(3, 1)
    quantize_rows(x.numpy(), 127, 128, rows.numpy(), largest.numpy())
    assert largest[0] == 2 and largest[2] == 1e-6 and 0 < largest[1] < 1e-20
    # 127 / 2 = 63.5: 63.5 and 31.75 round to 64 and 32.
    assert rows.tolist() == [[192, 1, 160, 128], [128] * 4, [1, 255, 166, 128]]


def test_ranks_order_floats():
    numbers = np.array([-3e38, -2.5, -1e-30, -0.0, 0.0, 1e-30, 7.0, 3e38], np.float32)
    ranks = [rank_of(number) for number in numbers]
    assert ranks == sorted(ranks)
    assert [float_of_rank(rank) for rank in ranks] == numbers.tolist()
