"""Arrays by their addresses, for kernels that are called often: an argument costs a call time.

An array that numba hands to a kernel takes it a quarter of a microsecond, and several cache
lines of what describes it. What stays the same from call to call comes as one array of numbers,
made by `addresses_of` and read by what is here. Who keeps such an array keeps those it names.
"""

import ctypes

import numpy as np
from numba import carray, types
from numba.core import cgutils, config
from numba.extending import intrinsic

from luma_lab.kernels.compile import kernel


def addresses_of(*values):
    """Return an int64 array: of each array its address, each number as it is."""
    return np.array(
        [v.ctypes.data if isinstance(v, np.ndarray) else v for v in values], dtype=np.int64
    )


if config.DISABLE_JIT:

    def pointer_to(address):
        """Return a pointer to what lies at an integer address."""
        return ctypes.c_void_p(int(address))

else:

    @intrinsic
    def pointer_to(typing_context, address):
        """Return a pointer to what lies at an integer address."""

        def generate(context, builder, signature, arguments):
            return builder.inttoptr(arguments[0], cgutils.voidptr_t)

        return types.voidptr(types.intp), generate


@kernel(inline=True)
def bytes_there(address, shape):
    """Return the uint8 array of a shape that starts at an address."""
    return carray(pointer_to(address), shape, np.uint8)


@kernel(inline=True)
def words_there(address, shape):
    """Return the int32 array of a shape that starts at an address."""
    return carray(pointer_to(address), shape, np.int32)


@kernel(inline=True)
def floats_there(address, shape):
    """Return the float32 array of a shape that starts at an address."""
    return carray(pointer_to(address), shape, np.float32)
