"""Products of a few rows with a matrix of int8 weights, compiled for one CPU core.

As execution.matrix_kernels, with panels of bytes: for INPUTS inputs at a time, those of each of
PANEL outputs side by side. The processor multiplies unsigned bytes with signed ones. With AVX-512
VNNI it adds four products to a sum of 32 bits at once. With AVX2 it adds two in 16 bits, so that
weights must lie in -63 .. 63 for them to fit, then two such sums in 32.
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

FEATURES = get_host_cpu_features()
HAS_VNNI = bool(FEATURES.get("avx512vnni"))
MOST_WEIGHT = 127 if HAS_VNNI else 63  # either sign
INPUTS, NUM_REGISTERS = 4, 2
REGISTER_OUTPUTS = 16 if HAS_VNNI else 8
PANEL = REGISTER_OUTPUTS * NUM_REGISTERS
GROUP_BYTES = PANEL * INPUTS
# Sums of so many rows, the weights and what lies between fit the registers. AVX-512 has room for
# more, but some builds of that were a third slower (AMD Zen 4), and none was faster by much.
MOST_ROWS = 8 if HAS_VNNI else 5
BYTES_AT_ONCE = 1 << 17  # rows that stay in a second-level cache
BYTE, SHORT = ir.IntType(8), ir.IntType(16)
SUMS = ir.VectorType(INT32, REGISTER_OUTPUTS)


def is_available() -> bool:
    """Whether this processor has the instructions."""
    return HAS_VNNI or bool(FEATURES.get("avx2"))


def to_int8_panels(weight: Int8Array) -> Int8Array:
    """Weights [outputs, inputs] as [panels, inputs / INPUTS, PANEL, INPUTS], filled with zeros."""
    outputs, inputs = weight.shape
    panels, groups = -(-outputs // PANEL), -(-inputs // INPUTS)
    filled = np.zeros((panels * PANEL, groups * INPUTS), np.int8)
    filled[:outputs, :inputs] = weight
    kept: Int8Array = own_pages((panels, groups, PANEL, INPUTS), np.int8)
    kept[:] = filled.reshape(panels, PANEL, groups, INPUTS).transpose(0, 2, 1, 3)
    return kept


def _add_fours(builder: Any, total: Any, left: Any, right: Any) -> Any:
    """total + products of left's unsigned bytes with right's signed ones, four neighbours each.

    All are registers of SUMS.
    """
    module = builder.module
    if HAS_VNNI:
        kind = ir.FunctionType(SUMS, [SUMS, SUMS, SUMS])
        add = cgutils.get_or_insert_function(module, kind, "llvm.x86.avx512.vpdpbusd.512")
        return builder.call(add, [total, left, right])
    of_bytes = ir.VectorType(BYTE, REGISTER_OUTPUTS * INPUTS)
    of_shorts = ir.VectorType(SHORT, REGISTER_OUTPUTS * INPUTS // 2)
    kind = ir.FunctionType(of_shorts, [of_bytes, of_bytes])
    add_pairs = cgutils.get_or_insert_function(module, kind, "llvm.x86.avx2.pmadd.ub.sw")
    kind = ir.FunctionType(SUMS, [of_shorts, of_shorts])
    add_fours = cgutils.get_or_insert_function(module, kind, "llvm.x86.avx2.pmadd.wd")
    as_bytes = (builder.bitcast(one, of_bytes) for one in (left, right))
    ones = ir.Constant(of_shorts, [1] * of_shorts.count)
    return builder.add(total, builder.call(add_fours, [builder.call(add_pairs, as_bytes), ones]))


@intrinsic  # type: ignore[untyped-decorator]
def _multiply_panel(
    typing: Any, num_rows: Any, groups: Any, x: Any, x_at: Any, panels: Any, panel_at: Any,
    ahead: Any, ahead_at: Any, ahead_step: Any, output: Any, output_at: Any,
) -> tuple[Any, Callable[..., Any]]:  # fmt: skip
    """output [num_rows, PANEL] = x [num_rows, groups * INPUTS] x a panel [groups, PANEL, INPUTS].

    Places count from the begin of their arrays, all flat. With each group of inputs, what a panel
    has for one is fetched of `ahead`, ahead_step bytes on each time.
    """

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        emit = VectorCode(context, builder, signature, arguments)
        x_place, panel, ahead_place, output_place = (emit.address(which) for which in (2, 4, 6, 9))
        num_groups, step = arguments[1], arguments[8]
        stride = builder.mul(num_groups, INT64(INPUTS))
        for count in emit.cases(arguments[0], range(1, MOST_ROWS + 1)):
            rows = [builder.gep(x_place, [builder.mul(stride, INT64(row))]) for row in range(count)]
            places = [(row, register) for row in range(count) for register in range(NUM_REGISTERS)]
            sums = {place: cgutils.alloca_once(builder, SUMS) for place in places}
            for total in sums.values():
                builder.store(ir.Constant(SUMS, [0] * REGISTER_OUTPUTS), total)
            with cgutils.for_range(builder, num_groups) as loop:
                lines = builder.gep(ahead_place, [builder.mul(loop.index, step)])
                emit.fetch_all(lines, 0, GROUP_BYTES, in_line=LINE_BYTES)
                group = builder.gep(panel, [builder.mul(loop.index, INT64(GROUP_BYTES))])
                group = builder.bitcast(group, INT32.as_pointer())
                weights = [
                    emit.load(group, register * REGISTER_OUTPUTS, REGISTER_OUTPUTS, INT32)
                    for register in range(NUM_REGISTERS)
                ]
                input_at = builder.mul(loop.index, INT64(INPUTS))
                inputs = [
                    emit.load_spread(builder.gep(row, [input_at]), 0, REGISTER_OUTPUTS, INT32)
                    for row in rows
                ]
                for (row, register), total in sums.items():
                    added = _add_fours(builder, builder.load(total), inputs[row], weights[register])
                    builder.store(added, total)
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
        step = -(-GROUP_BYTES // tiles)  # all tiles together fetch the next panel once
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
