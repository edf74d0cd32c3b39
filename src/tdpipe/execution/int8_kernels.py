"""Products of a few rows with a matrix of int8 weights, compiled for one CPU core with AVX2.

As execution.matrix_kernels, with panels of bytes: for INPUTS inputs at a time, those of each of
PANEL outputs side by side. The processor multiplies unsigned bytes with signed ones and adds two
products in 16 bits, so that weights must lie in -63 .. 63 for the sum to fit; then two such sums
in 32.
"""

from collections.abc import Callable
from typing import Any

import numba
import numpy as np
import numpy.typing as npt
from llvmlite import ir
from llvmlite.binding import get_host_cpu_features
from numba.core import cgutils, types
from numba.extending import intrinsic

from tdpipe.execution.huge_pages import own_pages
from tdpipe.execution.matrix_kernels import LEAST_AT_ONCE, LINE_BYTES, FloatArray
from tdpipe.execution.vector_code import INT32, INT64, VectorCode

Int8Array = npt.NDArray[np.int8]
UInt8Array = npt.NDArray[np.uint8]
Int32Array = npt.NDArray[np.int32]

INPUTS, REGISTER_OUTPUTS, NUM_REGISTERS = 4, 8, 2
PANEL = REGISTER_OUTPUTS * NUM_REGISTERS
# Sums of 5 rows, the weights and what lies between fit 16 registers.
MOST_ROWS = 5
BYTES_AT_ONCE = 1 << 18  # rows that stay in a second-level cache
BYTE, SHORT = ir.IntType(8), ir.IntType(16)


def is_available() -> bool:
    """Whether this processor has the instructions."""
    return bool(get_host_cpu_features().get("avx2"))


def to_int8_panels(weight: Int8Array) -> Int8Array:
    """Weights [outputs, inputs] as [panels, inputs / INPUTS, PANEL, INPUTS], filled with zeros."""
    outputs, inputs = weight.shape
    panels, groups = -(-outputs // PANEL), -(-inputs // INPUTS)
    filled = np.zeros((panels * PANEL, groups * INPUTS), np.int8)
    filled[:outputs, :inputs] = weight
    kept: Int8Array = own_pages((panels, groups, PANEL, INPUTS), np.int8)
    kept[:] = filled.reshape(panels, PANEL, groups, INPUTS).transpose(0, 2, 1, 3)
    return kept


def _add_fours(builder: Any, left: Any, right: Any) -> Any:
    """Products of unsigned bytes with signed ones, the sums of four neighbours each."""
    module, width = builder.module, REGISTER_OUTPUTS * INPUTS
    of_bytes, of_shorts = ir.VectorType(BYTE, width), ir.VectorType(SHORT, width // 2)
    of_sums = ir.VectorType(INT32, REGISTER_OUTPUTS)
    kind = ir.FunctionType(of_shorts, [of_bytes, of_bytes])
    add_pairs = cgutils.get_or_insert_function(module, kind, "llvm.x86.avx2.pmadd.ub.sw")
    kind = ir.FunctionType(of_sums, [of_shorts, of_shorts])
    add_fours = cgutils.get_or_insert_function(module, kind, "llvm.x86.avx2.pmadd.wd")
    pairs = builder.call(add_pairs, [builder.bitcast(left, of_bytes), right])
    return builder.call(add_fours, [pairs, ir.Constant(of_shorts, [1] * (width // 2))])


@intrinsic  # type: ignore[untyped-decorator]
def _multiply_panel(
    typing: Any, num_rows: Any, groups: Any, x: Any, x_at: Any, panels: Any, panel_at: Any,
    ahead: Any, ahead_at: Any, ahead_step: Any, output: Any, output_at: Any,
) -> tuple[Any, Callable[..., Any]]:  # fmt: skip
    """output [num_rows, PANEL] = x [num_rows, groups * INPUTS] x a panel [groups, PANEL, INPUTS].

    Places count from the begin of their arrays, all flat. With each group of inputs a line of
    `ahead` is fetched, ahead_step bytes on each time.
    """

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        emit = VectorCode(context, builder, signature, arguments)
        x_place, panel, ahead_place, output_place = (emit.address(which) for which in (2, 4, 6, 9))
        num_groups, step = arguments[1], arguments[8]
        width, of_sums = REGISTER_OUTPUTS * INPUTS, ir.VectorType(INT32, REGISTER_OUTPUTS)
        stride = builder.mul(num_groups, INT64(INPUTS))
        for count in emit.cases(arguments[0], range(1, MOST_ROWS + 1)):
            rows = [builder.gep(x_place, [builder.mul(stride, INT64(row))]) for row in range(count)]
            places = [(row, register) for row in range(count) for register in range(NUM_REGISTERS)]
            sums = {place: cgutils.alloca_once(builder, of_sums) for place in places}
            for total in sums.values():
                builder.store(ir.Constant(of_sums, [0] * REGISTER_OUTPUTS), total)
            with cgutils.for_range(builder, num_groups) as loop:
                emit.fetch(builder.gep(ahead_place, [builder.mul(loop.index, step)]), 0)
                group = builder.gep(panel, [builder.mul(loop.index, INT64(PANEL * INPUTS))])
                weights = [
                    emit.load(group, register * width, width, BYTE)
                    for register in range(NUM_REGISTERS)
                ]
                input_at = builder.mul(loop.index, INT64(INPUTS))
                inputs = [
                    emit.load_spread(builder.gep(row, [input_at]), 0, REGISTER_OUTPUTS, INT32)
                    for row in rows
                ]
                for (row, register), total in sums.items():
                    product = _add_fours(builder, inputs[row], weights[register])
                    builder.store(builder.add(builder.load(total), product), total)
            for (row, register), total in sums.items():
                at = row * PANEL + register * REGISTER_OUTPUTS
                emit.store(builder.load(total), output_place, at)
        return context.get_dummy_value()

    kinds = (
        num_rows, groups, x, x_at, panels, panel_at, ahead, ahead_at, ahead_step, output, output_at
    )  # fmt: skip
    return types.void(*kinds), generate


@numba.njit(fastmath=True, cache=True, error_model="numpy", boundscheck=False)  # type: ignore[untyped-decorator]
def multiply_int8(
    x: UInt8Array, row_scales: FloatArray, panels: Int8Array, offsets: Int32Array,
    scales: FloatArray, bias: FloatArray, output: FloatArray,
) -> None:  # fmt: skip
    """output [rows, outputs] = (x @ panels - offsets) * scales * row_scales + bias.

    x [rows, inputs filled up to whole groups], row_scales [rows, 1], panels as of `to_int8_panels`;
    offsets, scales and bias [panels * PANEL]; all contiguous.
    """
    num_rows, num_outputs = output.shape
    groups = panels.shape[1]
    row_bytes, panel_bytes = groups * INPUTS, groups * INPUTS * PANEL
    flat_x, flat_panels = x.ravel(), panels.ravel()
    sums = np.empty(MOST_ROWS * PANEL, np.int32)
    at_once = max(LEAST_AT_ONCE, BYTES_AT_ONCE // row_bytes)
    for first in range(0, num_rows, at_once):
        rows = min(at_once, num_rows - first)
        tiles = -(-rows // MOST_ROWS)
        step = -(-LINE_BYTES // tiles)  # all tiles together fetch the next panel once
        for panel in range(panels.shape[0]):
            panel_at, column = panel * panel_bytes, panel * PANEL
            width = min(PANEL, num_outputs - column)
            row = first
            for tile in range(tiles):
                count = (first + rows - row + tiles - tile - 1) // (tiles - tile)
                _multiply_panel(
                    count, groups, flat_x, row * row_bytes, flat_panels, panel_at, flat_panels,
                    panel_at + panel_bytes + tile * groups * step, step, sums, 0,
                )  # fmt: skip
                for i in range(count):
                    row_scale = row_scales[row + i, 0]
                    for j in range(width):
                        whole = np.float32(sums[i * PANEL + j] - offsets[column + j])
                        scaled = whole * scales[column + j] * row_scale
                        output[row + i, column + j] = scaled + bias[column + j]
                row += count
