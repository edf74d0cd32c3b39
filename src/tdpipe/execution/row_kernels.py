"""What a decoder does row by row between its matrix products, compiled for one CPU core.

One pass over memory each, where plain torch takes several; float32. models.core_layer uses them.
`fastmath` reorders sums, so results differ from torch's in the last bits.
"""

import numba
import numpy as np
import numpy.typing as npt

from tdpipe.execution.float_kernels import exp_of_negative, float_of_rank, rank_of

FloatArray = npt.NDArray[np.float32]
OPTIONS = {"fastmath": True, "cache": True, "error_model": "numpy", "boundscheck": False}


@numba.njit(**OPTIONS)  # type: ignore[untyped-decorator]
def rms_norm(x: FloatArray, weight: FloatArray, eps: float, output: FloatArray) -> None:
    """output = x / rms(x) * weight, for rows of x [rows, size]."""
    size = x.shape[1]
    for i in range(x.shape[0]):
        total = np.float32(0.0)
        for j in range(size):
            total += x[i, j] * x[i, j]
        scale = np.float32(1.0 / np.sqrt(total / np.float32(size) + np.float32(eps)))
        for j in range(size):
            output[i, j] = x[i, j] * scale * weight[j]


@numba.njit(**OPTIONS)  # type: ignore[untyped-decorator]
def add_rms_norm(
    x: FloatArray, added: FloatArray, weight: FloatArray, eps: float, output: FloatArray
) -> None:
    """x += added, then output = x / rms(x) * weight, for rows of [rows, size]."""
    size = x.shape[1]
    for i in range(x.shape[0]):
        total = np.float32(0.0)
        for j in range(size):
            x[i, j] += added[i, j]
            total += x[i, j] * x[i, j]
        scale = np.float32(1.0 / np.sqrt(total / np.float32(size) + np.float32(eps)))
        for j in range(size):
            output[i, j] = x[i, j] * scale * weight[j]


@numba.njit(**OPTIONS)  # type: ignore[untyped-decorator]
def rms_norm_heads(heads: FloatArray, first: int, end: int, weight: FloatArray, eps: float) -> None:
    """The same, in place, of each of some heads of [rows, heads, dim]: first .. end - 1."""
    for i in range(heads.shape[0]):
        rms_norm(heads[i, first:end], weight, eps, heads[i, first:end])


@numba.njit(**OPTIONS)  # type: ignore[untyped-decorator]
def silu_multiply(gate_up: FloatArray, output: FloatArray) -> None:
    """output [rows, inner] = silu(gate) * up, of gate_up [rows, 2 * inner]."""
    inner = output.shape[1]
    for i in range(output.shape[0]):
        for j in range(inner):
            gate = gate_up[i, j]
            power = exp_of_negative(-abs(gate))
            share = (np.float32(1.0) if gate >= 0 else power) / (np.float32(1.0) + power)
            output[i, j] = gate * share * gate_up[i, inner + j]


@numba.njit(**OPTIONS)  # type: ignore[untyped-decorator]
def rotate(heads: FloatArray, num_rotated: int, cos: FloatArray, sin: FloatArray) -> None:
    """Rotary embedding, in place, of the first heads of [rows, heads, dim], by [rows, dim / 2]."""
    half = cos.shape[1]
    for i in range(heads.shape[0]):
        for h in range(num_rotated):
            for d in range(half):
                real, imaginary = heads[i, h, d], heads[i, h, half + d]
                heads[i, h, d] = real * cos[i, d] - imaginary * sin[i, d]
                heads[i, h, half + d] = imaginary * cos[i, d] + real * sin[i, d]


@numba.njit(**OPTIONS)  # type: ignore[untyped-decorator]
def quantize_rows(
    x: FloatArray, levels: int, zero_point: int, output: npt.NDArray[np.uint8], largest: FloatArray
) -> None:
    """Each row of x [rows, size] as whole numbers zero_point +- levels, relative to its largest.

    largest [rows, 1] takes the greatest absolute value of each row, or a tiny one for zeros.
    """
    size = x.shape[1]
    for i in range(x.shape[0]):
        rank = np.int32(0)
        for j in range(size):
            rank = max(rank, rank_of(abs(x[i, j])))
        top = max(float_of_rank(rank), np.float32(1e-30))
        largest[i, 0] = top
        scale, middle = np.float32(levels) / top, np.float32(zero_point + 0.5)
        for j in range(size):
            # Of positive numbers, cutting off after adding a half rounds.
            output[i, j] = np.uint8(np.int32(x[i, j] * scale + middle))
