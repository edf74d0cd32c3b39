"""Arithmetic on single float32 numbers that vectorises, for compiled kernels."""

from collections.abc import Callable
from typing import Any

import numba
import numpy as np
from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic

from tdpipe.execution.vector_code import (
    EXP_POLYNOMIAL,
    EXPONENT_BIAS,
    LEAST_EXPONENT,
    LN2_HIGH,
    LN2_LOW,
    LOG2_E,
    MANTISSA_BITS,
)

# As float32 and int32: a wider constant would widen the sums that it is part of.
POLYNOMIAL = tuple(np.float32(factor) for factor in EXP_POLYNOMIAL)
LEAST, LOG2, LN2 = np.float32(LEAST_EXPONENT), np.float32(LOG2_E), np.float32(LN2_HIGH)
LN2_REST, BIAS, MANTISSA = np.float32(LN2_LOW), np.int32(EXPONENT_BIAS), np.int32(MANTISSA_BITS)


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
    """e**x for x <= 0, by the formula of VectorCode.exponential."""
    x = max(x, LEAST)
    n = np.floor(x * LOG2 + np.float32(0.5))
    r = x - n * LN2 - n * LN2_REST
    p = POLYNOMIAL[0]
    for factor in POLYNOMIAL[1:]:
        p = p * r + factor
    p = p * r * r + r + np.float32(1.0)
    return p * _float_of_bits(np.int32((np.int32(n) + BIAS) << MANTISSA))
