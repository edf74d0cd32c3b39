"""Arithmetic on single float32 numbers that vectorises, for compiled kernels."""

from collections.abc import Callable
from typing import Any

import numba
import numpy as np
from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic


@intrinsic  # type: ignore[untyped-decorator]
def _float_of_bits(typing: Any, bits: Any) -> tuple[Any, Callable[..., Any]]:
    """The float32 with these bits, given as int32."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.bitcast(arguments[0], ir.FloatType())

    return types.float32(types.int32), generate


@intrinsic  # type: ignore[untyped-decorator]
def _bits_of_float(typing: Any, number: Any) -> tuple[Any, Callable[..., Any]]:
    """The bits of a float32, as int32."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.bitcast(arguments[0], ir.IntType(32))

    return types.int32(types.float32), generate


@numba.njit(fastmath=True, cache=True, inline="always")  # type: ignore[untyped-decorator]
def rank_of(x: float) -> int:
    """A whole number that is greater for greater floats.

    The greatest of whole numbers is found many at a time; compilers do not dare that for floats.
    """
    bits = _bits_of_float(np.float32(x))
    return bits ^ ((bits >> np.int32(31)) & np.int32(0x7FFFFFFF))


@numba.njit(fastmath=True, cache=True, inline="always")  # type: ignore[untyped-decorator]
def float_of_rank(rank: int) -> float:
    """The float whose rank this is."""
    number = np.int32(rank)
    return _float_of_bits(np.int32(number ^ ((number >> np.int32(31)) & np.int32(0x7FFFFFFF))))


@numba.njit(fastmath=True, cache=True, error_model="numpy", inline="always")  # type: ignore[untyped-decorator]
def exp_of_negative(x: float) -> float:
    """e**x for x <= 0, to about 2e-7 relative; what e**-87 is below that.

    2**n * 2**f with f in [-0.5, 0.5] by a polynomial (Cephes expf); 2**n by its exponent's bits.
    """
    x = max(x, np.float32(-87.0))
    n = np.floor(x * np.float32(1.44269504) + np.float32(0.5))
    r = x - n * np.float32(0.693359375) + n * np.float32(2.12194440e-4)
    p = np.float32(1.9875691500e-4)
    p = p * r + np.float32(1.3981999507e-3)
    p = p * r + np.float32(8.3334519073e-3)
    p = p * r + np.float32(4.1665795894e-2)
    p = p * r + np.float32(1.6666665459e-1)
    p = p * r + np.float32(5.0000001201e-1)
    p = p * r * r + r + np.float32(1.0)
    return p * _float_of_bits(np.int32((np.int32(n) + np.int32(127)) << np.int32(23)))
