"""Emits vector instructions for compiled kernels, where compilers do not find them by themselves.

The vectors are LLVM's own types, which fit any processor. For intrinsics of numba; a method emits
code for what its arguments will be.
"""

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
from llvmlite import ir
from llvmlite.binding import get_host_cpu_features
from numba.core import cgutils

FLOAT, INT32, INT64 = ir.FloatType(), ir.IntType(32), ir.IntType(64)
FAST = ("fast",)
# e**f for f in [-0.5, 0.5] is 1 + f + f^2 x these, highest power first (Cephes expf).
EXP_POLYNOMIAL = (
    1.9875691500e-4,
    1.3981999507e-3,
    8.3334519073e-3,
    4.1665795894e-2,
    1.6666665459e-1,
    5.0000001201e-1,
)
LN2_HIGH, LN2_LOW, LOG2_E = 0.693359375, -2.12194440e-4, 1.44269504
LEAST_EXPONENT, EXPONENT_BIAS, MANTISSA_BITS = -87.0, 127, 23
LINE_FLOATS = 16  # of a cache line
TO_SECOND_LEVEL = 2  # of the cache, as `llvm.prefetch` counts
# Vector registers that are left to operands while sums are in the others; and beyond so many sums
# nothing is gained.
OPERANDS, MOST_SUMS = 4, 12


def register_floats() -> int:
    """Floats that a vector register of this machine holds."""
    return 16 if _has_avx512() else 8


def sums_at_once(width: int) -> int:
    """Sums of `width` floats that this machine's registers hold while products are added to them.

    One more, and each addition goes through memory.
    """
    registers = 32 if _has_avx512() else 16
    return max(1, min(MOST_SUMS, (registers - OPERANDS) // -(-width // register_floats())))


def _has_avx512() -> bool:
    return bool(get_host_cpu_features().get("avx512f"))


class VectorCode:
    """Loads, stores and arithmetic on vectors of floats at fixed offsets from addresses."""

    def __init__(self, context: Any, builder: Any, signature: Any, arguments: Any) -> None:
        self.builder = builder
        self._context, self._signature, self._arguments = context, signature, arguments

    def address(self, which: int) -> Any:
        """Of element arguments[which + 1] of the array arguments[which]."""
        kind, value = self._signature.args[which], self._arguments[which]
        array = cgutils.create_struct_proxy(kind)(self._context, self.builder, value)
        return self.builder.gep(array.data, [self._arguments[which + 1]])

    def load(self, address: Any, offset: int, width: int, kind: Any = FLOAT) -> Any:
        """`width` floats, or others, from `offset` on."""
        loaded = self.builder.load(self._vector_at(address, offset, ir.VectorType(kind, width)))
        loaded.align = 1
        return loaded

    def store(self, value: Any, address: Any, offset: int) -> None:
        """A vector to `offset` and on."""
        stored = self.builder.store(value, self._vector_at(address, offset, value.type))
        stored.align = 1

    def cases(self, value: Any, numbers: Iterable[int]) -> Iterator[int]:
        """What is emitted between two of these numbers runs where the value is the first."""
        done = self.builder.append_basic_block("done")
        choice = self.builder.switch(value, done)
        for number in numbers:
            block = self.builder.append_basic_block(f"case_{number}")
            choice.add_case(value.type(number), block)
            self.builder.position_at_end(block)
            yield number
            self.builder.branch(done)
        self.builder.position_at_end(done)

    def fetch(self, address: Any, offset: int) -> None:
        """Have the cache line of the float at `offset` brought near: it is read soon."""
        byte_at = self.builder.bitcast(self._at(address, offset), ir.IntType(8).as_pointer())
        flags = [INT32(0), INT32(TO_SECOND_LEVEL), INT32(1)]  # to be read, and it is data
        kind = ir.FunctionType(ir.VoidType(), [byte_at.type, INT32, INT32, INT32])
        name = "llvm.prefetch.p0"
        fetch = cgutils.get_or_insert_function(self.builder.module, kind, name)
        self.builder.call(fetch, [byte_at, *flags])

    def fetch_all(self, address: Any, offset: int, count: int, in_line: int = LINE_FLOATS) -> None:
        """Have the lines of so many numbers brought near, from `offset` on; one line at least.

        `in_line` of them fill a line.
        """
        for line in range(0, max(1, count), in_line):
            self.fetch(address, offset + line)

    def spread(self, scalar: Any, width: int) -> Any:
        """`width` times the scalar."""
        kind = ir.VectorType(scalar.type, width)
        nothing, first = ir.Constant(kind, ir.Undefined), ir.Constant(INT32, 0)
        one = self.builder.insert_element(nothing, scalar, first)
        mask = ir.Constant(ir.VectorType(INT32, width), [0] * width)
        return self.builder.shuffle_vector(one, nothing, mask)

    def load_spread(self, address: Any, offset: int, width: int, kind: Any = FLOAT) -> Any:
        """`width` times the float, or another number, at `offset`."""
        place = self.builder.bitcast(self._at(address, offset), kind.as_pointer())
        loaded = self.builder.load(place)
        loaded.align = 1
        return self.spread(loaded, width)

    def multiply_add(self, total: Any, left: Any, right: Any) -> Any:
        """total + left * right, rounded once where the processor can."""
        product = self.builder.fmul(left, right, flags=FAST)
        return self.builder.fadd(total, product, flags=FAST)

    def any_above(self, values: Any, limit: Any) -> Any:
        """Whether one of the values is above that of its place in `limit`."""
        above = self.builder.fcmp_ordered(">", values, limit)
        bits = ir.IntType(above.type.count)
        return self.builder.icmp_unsigned("!=", self.builder.bitcast(above, bits), bits(0))

    def exponential(self, power: Any) -> Any:
        """e**power, to about 2e-7 relative, for powers up to 88; what e**-87 is below that.

        2**n * e**f with f in [-0.5, 0.5] by a polynomial; 2**n by its exponent's bits.
        """
        build, count = self.builder, power.type.count
        least = self._constant(LEAST_EXPONENT, count)
        power = build.select(build.fcmp_ordered(">", power, least, flags=FAST), power, least)
        whole = self._rounded(build.fmul(power, self._constant(LOG2_E, count), flags=FAST))
        rest = self.multiply_add(power, whole, self._constant(-LN2_HIGH, count))
        rest = self.multiply_add(rest, whole, self._constant(-LN2_LOW, count))
        total = self._constant(EXP_POLYNOMIAL[0], count)
        for factor in EXP_POLYNOMIAL[1:]:
            total = self.multiply_add(self._constant(factor, count), total, rest)
        linear = build.fadd(rest, self._constant(1.0, count), flags=FAST)
        total = self.multiply_add(linear, build.fmul(total, rest, flags=FAST), rest)
        kind = ir.VectorType(INT32, count)
        exponent = build.add(build.fptosi(whole, kind), ir.Constant(kind, [EXPONENT_BIAS] * count))
        bits = build.shl(exponent, ir.Constant(kind, [MANTISSA_BITS] * count))
        return build.fmul(total, build.bitcast(bits, total.type), flags=FAST)

    def _rounded(self, values: Any) -> Any:
        """The whole numbers nearest to the values."""
        half = self._constant(0.5, values.type.count)
        kind = ir.FunctionType(values.type, [values.type])
        name = f"llvm.floor.v{values.type.count}f32"
        floor = cgutils.get_or_insert_function(self.builder.module, kind, name)
        return self.builder.call(floor, [self.builder.fadd(values, half, flags=FAST)])

    def _constant(self, number: float, width: int) -> Any:
        return ir.Constant(ir.VectorType(FLOAT, width), [float(np.float32(number))] * width)

    def _at(self, address: Any, offset: int) -> Any:
        return self.builder.gep(address, [ir.Constant(INT64, offset)])

    def _vector_at(self, address: Any, offset: int, kind: Any) -> Any:
        return self.builder.bitcast(self._at(address, offset), kind.as_pointer())
