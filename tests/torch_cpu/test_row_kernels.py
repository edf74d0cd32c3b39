"""The compiled row kernels against torch."""

import numpy as np
import torch
from torch.nn.functional import rms_norm as torch_rms_norm
from torch.nn.functional import silu

from tdpipe.execution.float_kernels import float_of_rank, rank_of
from tdpipe.execution.row_kernels import (
    add_rms_norm,
    quantize_rows,
    rms_norm,
    rotate,
    silu_multiply,
)


def test_rms_norm():
    x, weight, output = torch.randn(7, 96), torch.randn(96), torch.empty(7, 96)
    rms_norm(x.numpy(), weight.numpy(), 1e-5, output.numpy())
    torch.testing.assert_close(output, torch_rms_norm(x, (96,), weight, 1e-5))


def test_rms_norm_of_a_sum():
    x, added, weight, output = *torch.randn(2, 7, 96), torch.randn(96), torch.empty(7, 96)
    total = x + added
    add_rms_norm(x.numpy(), added.numpy(), weight.numpy(), 1e-5, output.numpy())
    assert x.equal(total)
    torch.testing.assert_close(output, torch_rms_norm(total, (96,), weight, 1e-5))


def test_silu_multiply_also_of_large_numbers():
    gate = torch.cat([torch.randn(50), torch.tensor([0.0, -0.0, 90.0, -90.0, 1e30, -1e30])])
    gate, up = gate.expand(3, -1).contiguous(), torch.randn(3, 56)
    output = torch.empty(3, 56)
    silu_multiply(torch.cat([gate, up], dim=1).numpy(), output.numpy())
    torch.testing.assert_close(output, silu(gate) * up, rtol=1e-5, atol=1e-6)


def test_rotation_of_the_first_heads():
    heads, angles = torch.randn(5, 6, 16), torch.randn(5, 8)
    rotated = heads.clone()
    rotate(rotated.numpy(), 4, angles.cos().numpy(), angles.sin().numpy())
    turned = torch.view_as_complex(torch.stack(heads[:, :4].chunk(2, dim=-1), dim=-1))
    turned = turned * torch.polar(torch.ones(5, 1, 8), angles[:, None])
    torch.testing.assert_close(rotated[:, :4], torch.cat([turned.real, turned.imag], dim=-1))
    assert rotated[:, 4:].equal(heads[:, 4:])


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
