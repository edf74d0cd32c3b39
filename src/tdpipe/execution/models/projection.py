"""A matrix product with weights in the layout that the device multiplies fastest.

On CPU in float32, oneDNN multiplies weights that were reordered into its blocked layout faster than
torch multiplies plain ones, most of all for few rows. With int8 weights it multiplies integers
(AVX-512 VNNI where there is any), three times as many a second.
"""

from functools import cache

import torch
from torch import Tensor, nn
from torch.nn import functional

from tdpipe.execution.row_kernels import quantize_rows

# oneDNN chooses the layout for a number of rows; that of a decode batch serves all others as well.
TYPICAL_ROWS = 32
# Rows are quantized to whole numbers from -127 to 127, held as unsigned ones around 128.
LEVELS, ZERO_POINT = 127, 128


class Projection(nn.Module):
    """y = x @ weight.T + bias, weight [out, in]; `pack` reorders it once it is loaded."""

    def __init__(self, in_size: int, out_size: int, bias: bool = False) -> None:
        super().__init__()
        self.weight: Tensor = nn.Parameter(torch.empty(out_size, in_size))
        self.bias = nn.Parameter(torch.empty(out_size)) if bias else None
        self._packed: Tensor | None = None
        self._int8: tuple[Tensor, Tensor, Tensor] | None = None  # weights, scales, zero points

    def pack(self) -> None:
        """Reorder the weight where that helps; the plain one is dropped."""
        weight = self.weight
        if weight.device.type != "cpu" or weight.dtype != torch.float32 or not _can_pack():
            return
        self._packed = torch.ops.mkldnn._reorder_linear_weight(weight.detach(), TYPICAL_ROWS)
        del self.weight

    def quantize(self) -> int:
        """Round a float32 weight on CPU to int8, a scale for each output; returns its bytes."""
        weight = self.weight.detach()
        scales = (weight.abs().amax(dim=1) / weight_levels()).clamp_min(
            torch.finfo(torch.float32).tiny
        )
        rounded = (weight / scales[:, None]).round_().to(torch.int8)
        packed = torch.ops.onednn.qlinear_prepack(rounded, None)
        self._int8 = packed, scales, torch.zeros(len(weight), dtype=torch.int64)
        del self.weight
        return weight.numel() + scales.numel() * scales.element_size()

    def forward(self, x: Tensor) -> Tensor:
        """[rows, in] -> [rows, out]"""
        if self._int8 is not None:
            return self._forward_int8(x.contiguous(), *self._int8)
        if self._packed is None:
            return functional.linear(x, self.weight, self.bias)
        # "none" is the fused operation after the product, with its arguments behind.
        product: Tensor = torch.ops.mkldnn._linear_pointwise(
            x, self._packed, self.bias, "none", [], ""
        )
        return product

    def _forward_int8(self, x: Tensor, weight: Tensor, scales: Tensor, zeros: Tensor) -> Tensor:
        """Each row is scaled to -1 .. 1 by itself: what others are in the batch changes nothing."""
        rows, largest = torch.empty(x.shape, dtype=torch.uint8), torch.empty(len(x), 1)
        quantize_rows(x.numpy(), LEVELS, ZERO_POINT, rows.numpy(), largest.numpy())
        product = _multiply(rows, weight, scales, zeros)
        product.mul_(largest)
        return product if self.bias is None else product.add_(self.bias)


@cache
def weight_levels() -> int:
    """Weights are rounded to -levels .. levels.

    127; or 63 where the processor adds two products in 16 bits, which cannot hold those of larger
    weights with full rows (x86 before VNNI). oneDNN does not tell, so it is tried. Rows keep their
    levels: they hold numbers of more unlike sizes than a weight's output channel does.
    """
    size = 64
    weights = torch.full((size, size), LEVELS, dtype=torch.int8)
    rows = torch.full((size, size), LEVELS + ZERO_POINT, dtype=torch.uint8)
    packed = torch.ops.onednn.qlinear_prepack(weights, None)
    scales, zeros = torch.full((size,), 1 / LEVELS), torch.zeros(size, dtype=torch.int64)
    got = _multiply(rows, packed, scales, zeros)
    is_exact = bool(torch.allclose(got, torch.full_like(got, float(size))))
    return LEVELS if is_exact else LEVELS // 2


def _multiply(rows: Tensor, weight: Tensor, scales: Tensor, zeros: Tensor) -> Tensor:
    """Quantized rows times weights with a scale for each output."""
    product: Tensor = torch.ops.onednn.qlinear_pointwise(
        rows, 1 / LEVELS, ZERO_POINT, weight, scales, zeros, None, 1.0, 0, torch.float32,
        "none", [], "",
    )  # fmt: skip
    return product


def _can_pack() -> bool:
    built_in = bool(torch._C._has_mkldnn)
    return built_in and hasattr(torch.ops.mkldnn, "_reorder_linear_weight")
