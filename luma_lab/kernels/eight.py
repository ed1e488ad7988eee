"""Eight bytes of a text at a time, in one integer: loaded, told apart, lower-cased.

The first byte is the lowest one, as little-endian processors load it. A mark is the high bit of
a byte. Integers come and go as int64, for numba makes a float of int64 and uint64 together; sums
are of uint64, for the compiler takes it that those of int64 do not overflow.
"""

import ctypes

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import config
from numba.extending import intrinsic

from luma_lab.kernels.compile import kernel

ONES = 0x0101010101010101
LOW_BITS = np.uint64(ONES * 0x7F)
HIGH_BITS = np.uint64(ONES * 0x80)
CASE_BITS = np.uint64(ONES * 0x20)
# Added to a byte below 128 they set its high bit if it is at least, or behind, what they name.
FROM_A = np.uint64(ONES * (0x80 - ord("a")))
BEHIND_Z = np.uint64(ONES * (0x80 - ord("z") - 1))
FROM_0 = np.uint64(ONES * (0x80 - ord("0")))
BEHIND_9 = np.uint64(ONES * (0x80 - ord("9") - 1))
CASE_SHIFT = np.uint64(2)

if config.DISABLE_JIT:

    def load_eight(address):
        """Return the int64 at `address`, an integer."""
        return np.int64(ctypes.c_int64.from_address(int(address)).value)

    def store_eight(address, value):
        """Write an int64 at `address`, an integer."""
        ctypes.c_int64.from_address(int(address)).value = int(value)

    def first_mark(marks):
        """Return in which byte the first mark is, 8 if there is none."""
        marks = int(marks)
        return ((marks & -marks).bit_length() - 1) >> 3 if marks else 8

else:

    @intrinsic
    def load_eight(typing_context, address):
        """Return the int64 at `address`, an integer; eight bytes have to be there."""

        def generate(context, builder, signature, arguments):
            pointer = builder.inttoptr(arguments[0], ir.IntType(64).as_pointer())
            return builder.load(pointer, align=1)

        return types.int64(types.intp), generate

    @intrinsic
    def store_eight(typing_context, address, value):
        """Write an int64 at `address`, an integer; eight bytes have to be there."""

        def generate(context, builder, signature, arguments):
            pointer = builder.inttoptr(arguments[0], ir.IntType(64).as_pointer())
            builder.store(arguments[1], pointer, align=1)
            return context.get_dummy_value()

        return types.void(types.intp, types.int64), generate

    @intrinsic
    def first_mark(typing_context, marks):
        """Return in which byte the first mark is, 8 if there is none."""

        def generate(context, builder, signature, arguments):
            zeros = builder.cttz(arguments[0], ir.Constant(ir.IntType(1), 0))
            return builder.lshr(zeros, ir.Constant(ir.IntType(64), 3))

        return types.int64(types.int64), generate


@kernel(inline=True)
def letter_marks(eight):
    """Mark the ASCII letters."""
    eight = np.uint64(eight)
    low = (eight & LOW_BITS) | CASE_BITS
    return np.int64((low + FROM_A) & ~(low + BEHIND_Z) & ~eight & HIGH_BITS)


@kernel(inline=True)
def digit_marks(eight):
    """Mark the ASCII digits."""
    eight = np.uint64(eight)
    low = eight & LOW_BITS
    return np.int64((low + FROM_0) & ~(low + BEHIND_9) & ~eight & HIGH_BITS)


@kernel(inline=True)
def foreign_marks(eight):
    """Mark the bytes that are not ASCII."""
    return np.int64(np.uint64(eight) & HIGH_BITS)


@kernel(inline=True)
def other_marks(marks):
    """Mark the bytes that are not marked."""
    return np.int64(~np.uint64(marks) & HIGH_BITS)


@kernel(inline=True)
def lower(eight, letters):
    """Return the bytes with the letters marked in lower case."""
    return eight | np.int64((np.uint64(letters) >> CASE_SHIFT) & CASE_BITS)


@kernel(inline=True)
def first_bytes(eight, count):
    """Return the first `count` (0 to 8) bytes, the others 0."""
    if count == 8:
        return eight
    return eight & ~(np.int64(-1) << (count << 3))
