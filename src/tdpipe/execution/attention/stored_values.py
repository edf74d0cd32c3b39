"""Keys and values as the cache holds them, for compiled kernels: float32, or halves as their bits.

The compiler of the kernels has neither half type, so a cache of float16 comes to them as uint16 and
one of bfloat16 as int16: the element type alone says what the bits mean. Kernels compute in
float32.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic

from tdpipe.execution.vector_code import FLOAT, INT32, VectorCode

StoredArray = npt.NDArray[np.float32] | npt.NDArray[np.uint16] | npt.NDArray[np.int16]

INT16, HALF = ir.IntType(16), ir.HalfType()
# The float16 that is furthest from zero.
LARGEST_HALF = 65504.0
# A bfloat16 is the upper half of a float32.
UPPER, BELOW_A_HALF, QUIET_NAN = 16, 0x7FFF, 0x7FC0
LINE_BYTES = 64


def values_in_line(array: Any) -> int:
    """How many elements of an array of this type a cache line holds."""
    return LINE_BYTES * 8 // int(array.dtype.bitwidth)


def load_stored(emit: VectorCode, array: Any, address: Any, offset: int, width: int) -> Any:
    """`width` elements of an array of this type, from `offset` on, as float32."""
    if array.dtype == types.float32:
        return emit.load(address, offset, width)
    if array.dtype == types.uint16:
        return emit.builder.fpext(
            emit.load(address, offset, width, HALF), ir.VectorType(FLOAT, width)
        )
    kind = ir.VectorType(INT32, width)
    bits = emit.builder.zext(emit.load(address, offset, width, INT16), kind)
    shifted = emit.builder.shl(bits, ir.Constant(kind, [UPPER] * width))
    return emit.builder.bitcast(shifted, ir.VectorType(FLOAT, width))


@intrinsic  # type: ignore[untyped-decorator]
def as_stored(typing: Any, number: Any, array: Any) -> tuple[Any, Callable[..., Any]]:
    """A float32 as an element of the array, rounded to the nearest, to even between two.

    What is beyond the largest float16 becomes that: an infinite key times a zero is no number, and
    would outlive any weight. No number stays none; for callers without fast arithmetic.
    """
    write = {types.float32: _as_it_is, types.uint16: _half_bits, types.int16: _bfloat_bits}

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return write[array.dtype](builder, arguments[0])

    return array.dtype(types.float32, array), generate


def _as_it_is(builder: Any, number: Any) -> Any:
    return number


def _half_bits(builder: Any, number: Any) -> Any:
    for sign, relation in ((1.0, ">"), (-1.0, "<")):
        limit = ir.Constant(FLOAT, sign * LARGEST_HALF)
        is_beyond = builder.fcmp_ordered(relation, number, limit)
        number = builder.select(is_beyond, limit, number)
    return builder.bitcast(builder.fptrunc(number, HALF), INT16)


def _bfloat_bits(builder: Any, number: Any) -> Any:
    bits = builder.bitcast(number, INT32)
    upper = builder.lshr(bits, INT32(UPPER))
    to_even = builder.add(builder.and_(upper, INT32(1)), INT32(BELOW_A_HALF))
    rounded = builder.trunc(builder.lshr(builder.add(bits, to_even), INT32(UPPER)), INT16)
    is_none = builder.fcmp_unordered("uno", number, number)
    return builder.select(is_none, INT16(QUIET_NAN), rounded)
