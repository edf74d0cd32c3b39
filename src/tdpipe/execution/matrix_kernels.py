"""Products of a few rows with a matrix of weights, compiled for one CPU core; float32.

A decode batch has tens of rows, and its product takes about as long as reading the weights from
memory. Libraries do the one after the other; here the weights of the next outputs are fetched while
those at hand are multiplied, from the first row to the last. Weights lie in panels, in the order in
which they are read: PANEL outputs side by side for each input.

Every output is the sum over its inputs in their order, whatever other rows there are.
"""

from collections.abc import Callable
from typing import Any

import numba
import numpy as np
import numpy.typing as npt
from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

from tdpipe.execution.huge_pages import own_pages
from tdpipe.execution.vector_code import FLOAT, INT64, VectorCode, register_floats, sums_at_once

FloatArray = npt.NDArray[np.float32]

# Two registers of outputs, so that a row's input is spread once for both.
PANEL = 2 * register_floats()
MOST_ROWS = sums_at_once(PANEL)
LINE_BYTES, FLOAT_BYTES = 64, 4
# Inputs that are read for every panel, so many at a time that they stay in a second-level cache;
# but not so few rows that weights are read again more often than memory gives them.
INPUTS_AT_ONCE, LEAST_AT_ONCE = 1 << 16, 24


def to_panels(weight: FloatArray) -> FloatArray:
    """Weights [outputs, inputs] as [panels, inputs, PANEL]; outputs are filled up with zeros."""
    outputs, inputs = weight.shape
    count, left = divmod(outputs, PANEL)
    panels: FloatArray = own_pages((count + bool(left), inputs, PANEL), np.float32)
    whole = weight[: count * PANEL].reshape(count, PANEL, inputs)
    panels[:count] = whole.transpose(0, 2, 1)
    if left:
        panels[count, :, :left] = weight[count * PANEL :].T
    return panels


@intrinsic  # type: ignore[untyped-decorator]
def _multiply_panel(
    typing: Any, num_rows: Any, size: Any, x: Any, x_at: Any, panels: Any, panel_at: Any,
    ahead: Any, ahead_at: Any, ahead_step: Any, bias: Any, bias_at: Any, output: Any,
    output_at: Any, output_size: Any,
) -> tuple[Any, Callable[..., Any]]:  # fmt: skip
    """output [num_rows, PANEL] = bias + x [num_rows, size] x a panel [size, PANEL].

    Places count from the begin of their arrays, all flat. With each input, what a panel has for one
    is fetched of `ahead`, ahead_step bytes on each time.
    """

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        emit = VectorCode(context, builder, signature, arguments)
        x_place, panel, ahead_place, bias_place, output_place = (
            emit.address(which) for which in (2, 4, 6, 9, 11)
        )
        ahead_place = builder.bitcast(ahead_place, ir.IntType(8).as_pointer())
        num_inputs, step, stride = (arguments[which] for which in (1, 8, 13))
        for count in emit.cases(arguments[0], range(1, MOST_ROWS + 1)):
            rows = [
                builder.gep(x_place, [builder.mul(num_inputs, INT64(row))]) for row in range(count)
            ]
            sums = [cgutils.alloca_once(builder, ir.VectorType(FLOAT, PANEL)) for _ in rows]
            first = emit.load(bias_place, 0, PANEL)
            for total in sums:
                builder.store(first, total)
            with cgutils.for_range(builder, num_inputs) as loop:
                lines = builder.gep(ahead_place, [builder.mul(loop.index, step)])
                for offset in range(0, PANEL * FLOAT_BYTES, LINE_BYTES):
                    emit.fetch(lines, offset)
                at = builder.mul(loop.index, INT64(PANEL))
                weights = emit.load(builder.gep(panel, [at]), 0, PANEL)
                for row, total in zip(rows, sums, strict=True):
                    factor = emit.load_spread(builder.gep(row, [loop.index]), 0, PANEL)
                    builder.store(emit.multiply_add(builder.load(total), weights, factor), total)
            for row, total in enumerate(sums):
                to = builder.gep(output_place, [builder.mul(stride, INT64(row))])
                emit.store(builder.load(total), to, 0)
        return context.get_dummy_value()

    kinds = (
        num_rows, size, x, x_at, panels, panel_at, ahead, ahead_at, ahead_step, bias, bias_at,
        output, output_at, output_size,
    )  # fmt: skip
    return types.void(*kinds), generate


@numba.njit(fastmath=True, cache=True, error_model="numpy", boundscheck=False)  # type: ignore[untyped-decorator]
def multiply(x: FloatArray, panels: FloatArray, bias: FloatArray, output: FloatArray) -> None:
    """output [rows, outputs] = x [rows, inputs] x panels [panels, inputs, PANEL] + bias.

    bias [panels * PANEL]; all contiguous.
    """
    num_rows, size = x.shape
    num_outputs = output.shape[1]
    flat_x, flat_output, flat_panels = x.ravel(), output.ravel(), panels.ravel()
    edge = np.empty(MOST_ROWS * PANEL, np.float32)  # takes what is beyond the last output
    at_once = max(LEAST_AT_ONCE, INPUTS_AT_ONCE // size)
    for first in range(0, num_rows, at_once):
        rows = min(at_once, num_rows - first)
        tiles = -(-rows // MOST_ROWS)
        # All tiles together fetch the next panel once.
        step = -(-PANEL * FLOAT_BYTES // tiles)
        for panel in range(panels.shape[0]):
            panel_at, column = panel * size * PANEL, panel * PANEL
            row = first
            for tile in range(tiles):
                count = (first + rows - row + tiles - tile - 1) // (tiles - tile)
                ahead_at = panel_at + size * PANEL + tile * size * step // FLOAT_BYTES
                if column + PANEL <= num_outputs:
                    _multiply_panel(
                        count, size, flat_x, row * size, flat_panels, panel_at, flat_panels,
                        ahead_at, step, bias, column, flat_output, row * num_outputs + column,
                        num_outputs,
                    )  # fmt: skip
                else:
                    _multiply_panel(
                        count, size, flat_x, row * size, flat_panels, panel_at, flat_panels,
                        ahead_at, step, bias, column, edge, 0, PANEL,
                    )  # fmt: skip
                    for i in range(count):
                        for j in range(num_outputs - column):
                            output[row + i, column + j] = edge[i * PANEL + j]
                row += count
