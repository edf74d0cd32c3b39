"""Projections: plain, reordered and in int8."""

import pytest
import torch

from tdpipe.execution.models.packed_weights import weight_levels
from tdpipe.execution.models.projection import Projection


def make_projection(bias):
    torch.manual_seed(0)
    projection = Projection(48, 40, bias).requires_grad_(False)
    for parameter in projection.parameters():
        parameter.normal_()
    return projection


@pytest.fixture(params=[1, 2])
def cores(request):
    """One core has a kernel of its own, several share a library's."""
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


@torch.inference_mode()
def test_packing_changes_nothing(cores):
    for bias in (False, True):
        projection, x = make_projection(bias), torch.randn(5, 48)
        want = projection(x)
        projection.pack()
        assert not hasattr(projection, "weight")
        torch.testing.assert_close(projection(x), want, rtol=1e-5, atol=1e-5)


@torch.inference_mode()
def test_weights_are_given_back():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    projection, outputs = make_projection(False), torch.tensor([39, 0, 0, 17])
    want = projection.weight[outputs].clone()
    assert not projection.can_embed
    projection.pack()
    assert projection.can_embed and projection.weight_rows(outputs).equal(want)
    torch.set_num_threads(before)


@torch.inference_mode()
def test_int8_rounds_weights_and_rows(cores):
    for bias in (False, True):
        projection, x = (
            make_projection(bias),
            torch.randn(5, 48) * torch.logspace(-3, 3, 5)[:, None],
        )
        want, weight = projection(x), projection.weight.clone()
        assert projection.quantize() == 40 * 48 + 40 * 4
        assert not hasattr(projection, "weight")
        # Rounded by hand: so many levels on either side of 0, for each row and each output.
        scale = weight.abs().amax(1) / weight_levels()
        row_scale = x.abs().amax(1, keepdim=True) / 127
        rounded, rows = (weight / scale[:, None]).round(), (x / row_scale).round()
        by_hand = (rows @ rounded.T) * scale * row_scale
        got = projection(x) - (projection.bias if bias else 0)
        torch.testing.assert_close(got, by_hand, rtol=1e-3, atol=1e-4 * float(x.abs().max()))
        assert (projection(x) - want).norm() < 0.02 * want.norm()


@torch.inference_mode()
def test_the_largest_numbers_are_multiplied_right(cores):
    """Where sums of two products are cut off at 16 bits, weights have fewer levels."""
    assert weight_levels() in (127, 63)
    projection = Projection(64, 64).requires_grad_(False)
    projection.weight.fill_(1.0)
    projection.quantize()
    for number in (1.0, -1.0):
        torch.testing.assert_close(
            projection(torch.full((8, 64), number)), torch.full((8, 64), 64 * number)
        )


@torch.inference_mode()
def test_int8_rows_do_not_depend_on_each_other(cores):
    projection, x = make_projection(False), torch.randn(9, 48)
    projection.quantize()
    together = projection(torch.cat([x, 1000 * x]))
    assert together[:9].equal(projection(x)) and together[3:4].equal(projection(x[3:4]))


@torch.inference_mode()
def test_int8_of_nothing(cores):
    projection = make_projection(False)
    projection.weight[3] = 0.0
    projection.quantize()
    assert projection(torch.zeros(2, 48)).equal(torch.zeros(2, 40))
    assert projection(torch.ones(1, 48))[0, 3] == 0
