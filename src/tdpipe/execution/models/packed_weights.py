"""Weights of a projection in the layouts that CPUs multiply fastest.

A stage with one core has kernels of its own. With several, oneDNN multiplies weights that it
reordered.
"""

from functools import cache
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from tdpipe.execution import int8_kernels, matrix_kernels
from tdpipe.execution.row_kernels import FloatArray, quantize_rows

# oneDNN chooses the layout for a number of rows; that of a decode batch serves all others as well.
TYPICAL_ROWS = 32
# Rows are quantized to whole numbers from -127 to 127, held as unsigned ones around 128.
LEVELS, ZERO_POINT = 127, 128
LEAST_SCALE = torch.finfo(torch.float32).tiny


class PackedWeights(Protocol):
    """A matrix of weights, and perhaps a bias, in some layout."""

    def multiply(self, x: FloatArray) -> FloatArray:
        """[rows, in] -> [rows, out], both contiguous."""
        ...


def pack(weight: Tensor, bias: Tensor | None) -> PackedWeights | None:
    """Weights [out, in] as this device multiplies them fastest; None means as they are."""
    if weight.device.type != "cpu" or weight.dtype != torch.float32:
        return None
    if torch.get_num_threads() == 1:
        return FloatPanels(weight, bias)
    return ReorderedWeights(weight, bias) if _can_reorder() else None


def quantize(weight: Tensor, bias: Tensor | None) -> PackedWeights:
    """Float32 weights [out, in] on CPU, rounded to int8 with a scale for each output."""
    levels = weight_levels()
    scales = (weight.abs().amax(dim=1) / levels).clamp_min(LEAST_SCALE)
    rounded = (weight / scales[:, None]).round_().to(torch.int8)
    fits_kernels = int8_kernels.is_available() and levels <= int8_kernels.MOST_WEIGHT
    if torch.get_num_threads() == 1 and fits_kernels:
        return Int8Panels(rounded, scales, bias)
    return ReorderedInt8(rounded, scales, bias)


class FloatPanels:
    """Weights for the compiled kernel of one core."""

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        self._panels = matrix_kernels.to_panels(weight.numpy())
        num_filled = len(self._panels) * matrix_kernels.PANEL
        self._bias, self._num_outputs = _filled(bias, num_filled), len(weight)

    def multiply(self, x: FloatArray) -> FloatArray:
        output = np.empty((len(x), self._num_outputs), np.float32)
        matrix_kernels.multiply(x, self._panels, self._bias, output)
        return output

    def weight_rows(self, outputs: Tensor) -> Tensor:
        """The weights [n, in] of outputs [n]."""
        panel, column = np.divmod(outputs.numpy(), matrix_kernels.PANEL)
        return torch.from_numpy(self._panels[panel, :, column])


class ReorderedWeights:
    """Weights in a blocked layout of oneDNN."""

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        self._weight = torch.ops.mkldnn._reorder_linear_weight(weight, TYPICAL_ROWS)
        self._bias = bias

    def multiply(self, x: FloatArray) -> FloatArray:
        # "none" is the fused operation after the product, with its arguments behind.
        product: Tensor = torch.ops.mkldnn._linear_pointwise(
            torch.from_numpy(x), self._weight, self._bias, "none", [], ""
        )
        return product.numpy()


class Int8Panels:
    """Rounded weights for the compiled kernel of one core."""

    def __init__(self, rounded: Tensor, scales: Tensor, bias: Tensor | None) -> None:
        self._panels = int8_kernels.to_int8_panels(rounded.numpy())
        self._row_size = self._panels.shape[1] * int8_kernels.INPUTS
        num_filled = len(self._panels) * int8_kernels.PANEL
        # What the rows' zero point adds to each output.
        self._offsets = np.zeros(num_filled, np.int32)
        self._offsets[: len(rounded)] = ZERO_POINT * rounded.sum(dim=1, dtype=torch.int32).numpy()
        self._scales = _filled(scales / LEVELS, num_filled)
        self._bias, self._num_outputs = _filled(bias, num_filled), len(rounded)

    def multiply(self, x: FloatArray) -> FloatArray:
        rows, largest = _quantized(x, self._row_size)
        output = np.empty((len(x), self._num_outputs), np.float32)
        int8_kernels.multiply_int8(
            rows, largest, self._panels, self._offsets, self._scales, self._bias, output
        )
        return output


class ReorderedInt8:
    """Rounded weights in a layout of oneDNN."""

    def __init__(self, rounded: Tensor, scales: Tensor, bias: Tensor | None) -> None:
        self._weight = torch.ops.onednn.qlinear_prepack(rounded, None)
        self._scales, self._bias = scales, bias
        self._zeros = torch.zeros(len(rounded), dtype=torch.int64)

    def multiply(self, x: FloatArray) -> FloatArray:
        rows, largest = _quantized(x, x.shape[1])
        product = _multiply_reordered(
            torch.from_numpy(rows), self._weight, self._scales, self._zeros
        )
        product.mul_(torch.from_numpy(largest))
        if self._bias is not None:
            product.add_(self._bias)
        return product.numpy()


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
    got = _multiply_reordered(rows, packed, scales, zeros)
    is_exact = bool(torch.allclose(got, torch.full_like(got, float(size))))
    return LEVELS if is_exact else LEVELS // 2


def _quantized(x: FloatArray, row_size: int) -> tuple[npt.NDArray[np.uint8], FloatArray]:
    """Rows of x [rows, in] as bytes [rows, row_size], and their largest numbers [rows, 1].

    Each is scaled to -1 .. 1 by itself: what others are in the batch changes nothing. What is
    beyond its inputs meets weights of zero.
    """
    rows, largest = np.empty((len(x), row_size), np.uint8), np.empty((len(x), 1), np.float32)
    quantize_rows(x, LEVELS, ZERO_POINT, rows, largest)
    return rows, largest


def _multiply_reordered(rows: Tensor, weight: Tensor, scales: Tensor, zeros: Tensor) -> Tensor:
    """Quantized rows times weights with a scale for each output."""
    product: Tensor = torch.ops.onednn.qlinear_pointwise(
        rows, 1 / LEVELS, ZERO_POINT, weight, scales, zeros, None, 1.0, 0, torch.float32,
        "none", [], "",
    )  # fmt: skip
    return product


def _filled(values: Tensor | None, size: int) -> FloatArray:
    """The values with zeros behind."""
    filled = np.zeros(size, np.float32)
    if values is not None:
        filled[: len(values)] = values.numpy()
    return filled


def _can_reorder() -> bool:
    built_in = bool(torch._C._has_mkldnn)
    return built_in and hasattr(torch.ops.mkldnn, "_reorder_linear_weight")
