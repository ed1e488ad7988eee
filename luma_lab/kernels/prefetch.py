"""The prefetch instruction, as something a kernel can call."""

from llvmlite import ir
from numba import types
from numba.core import cgutils, config
from numba.extending import intrinsic

from luma_lab.kernels.compile import kernel

CACHE_LINE_BYTES = 64
# Rows asked for before they are needed by what goes through rows in order.
AHEAD = 6
# LLVM's name of the second level of cache. The first can wait for two dozen lines, and the
# processor stands still when more are asked for; the second waits for many more. What comes
# from there costs a few nanoseconds, which a processor that looks ahead hides.
LEVEL_2 = 2

if config.DISABLE_JIT:

    def prefetch(address):
        """Do nothing: plain Python has no cache lines."""

else:

    @intrinsic
    def prefetch(typing_context, address):
        """Ask the processor to load the cache line at `address` (an integer) for reading."""

        def generate(context, builder, signature, arguments):
            byte_pointer = ir.IntType(8).as_pointer()
            word = ir.IntType(32)
            function = cgutils.get_or_insert_function(
                builder.module,
                ir.FunctionType(ir.VoidType(), [byte_pointer, word, word, word]),
                "llvm.prefetch.p0",
            )
            pointer = builder.inttoptr(arguments[0], byte_pointer)
            # read, so near, data cache
            builder.call(function, [pointer, word(0), word(LEVEL_2), word(1)])
            return context.get_dummy_value()

        return types.void(types.intp), generate


@kernel
def prefetch_span(address, size):
    """Prefetch every cache line of the `size` bytes at `address`."""
    for line in range(0, size, CACHE_LINE_BYTES):
        prefetch(address + line)


@kernel
def prefetch_row(address, size):
    """Prefetch every cache line that the `size` bytes at `address` touch, aligned or not."""
    start = address & -CACHE_LINE_BYTES
    for line in range(start, address + size, CACHE_LINE_BYTES):
        prefetch(line)
