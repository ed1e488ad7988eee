"""The time, as something a kernel can ask for."""

import time

from llvmlite import ir
from numba import types
from numba.core import cgutils, config
from numba.extending import intrinsic

# Column of `counts` that a search in memory, which reads nothing from disk, has free for the
# nanoseconds of its second look.
RERANK_NS = 2

if config.DISABLE_JIT:
    nanoseconds = time.monotonic_ns

else:

    @intrinsic
    def nanoseconds(typing_context):
        """Return nanoseconds of a clock that only runs forward: int64."""

        def generate(context, builder, signature, arguments):
            word, long = ir.IntType(32), ir.IntType(64)
            clock = cgutils.get_or_insert_function(
                builder.module,
                ir.FunctionType(word, [word, long.as_pointer()]),
                "clock_gettime",
            )
            told = cgutils.alloca_once(builder, ir.ArrayType(long, 2))
            first = builder.bitcast(told, long.as_pointer())
            builder.call(clock, [word(time.CLOCK_MONOTONIC), first])
            seconds = builder.load(first)
            rest = builder.load(builder.gep(first, [word(1)]))
            return builder.add(builder.mul(seconds, long(10**9)), rest)

        return types.int64(), generate
