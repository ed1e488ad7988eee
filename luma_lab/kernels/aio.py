"""Asynchronous reads from a kernel: Linux's own calls io_submit and io_getevents.

The C library wraps neither, so both go through its function ``syscall``, whose address comes as
an argument: an address that is part of the code could not be kept between processes.

Shared conventions
------------------
queue   `Queue`, for one walk at a time; its place i reads into bytes i * block_bytes and
        following of a buffer that starts at a multiple of 4096
done    int64 (width,); per place WAITING, or what the read answered: bytes, or minus errno
"""

import ctypes
from typing import NamedTuple

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import config
from numba.extending import intrinsic

from luma_lab.kernels.compile import kernel
from luma_lab.kernels.int8 import load_int32

WAITING = np.int64(1 << 62)
ARGUMENTS = 6
INTERRUPTED, AGAIN = 4, 11  # errno values of Linux, the same on all architectures
PREAD = 0
REQUEST_WORDS, EVENT_WORDS = 8, 4  # of struct iocb and struct io_event, in int64

if config.DISABLE_JIT:

    def call_function(address, a, b, c, d, e, f):
        """Call the C function at an integer address."""
        made = ctypes.CFUNCTYPE(*[ctypes.c_int64] * (ARGUMENTS + 1))
        return made(int(address))(*map(int, (a, b, c, d, e, f)))

else:

    @intrinsic
    def call_function(typing_context, address, a, b, c, d, e, f):
        """Call the C function at an integer address with six int64: it takes what it wants.

        Returns its int64.
        """

        def generate(context, builder, signature, arguments):
            word = ir.IntType(64)
            kind = ir.FunctionType(word, [word] * ARGUMENTS)
            return builder.call(
                builder.inttoptr(arguments[0], kind.as_pointer()), list(arguments[1:])
            )

        return types.int64(types.int64, *[types.int64] * ARGUMENTS), generate


class Queue(NamedTuple):
    """A queue of reads; `context` 0 stands for none.

    requests (width, 8), pointers (width,) and events (width, 4) are int64 scratch that the
    kernel of the operating system reads and writes.
    """

    syscall: int
    submit: int
    getevents: int
    errno_at: int
    context: int
    descriptor: int
    buffer: int
    requests: np.ndarray
    pointers: np.ndarray
    events: np.ndarray


@kernel
def request_read(queue, place, offset, size):
    """Write down that `place` shall read `size` bytes from byte `offset`; see `submit_reads`."""
    request = queue.requests[place]
    request[0] = place
    request[1] = 0
    request[2] = PREAD | (queue.descriptor << 32)
    request[3] = queue.buffer + place * size
    request[4] = size
    request[5] = offset
    request[6] = 0
    request[7] = 0
    queue.pointers[place] = queue.requests.ctypes.data + place * REQUEST_WORDS * 8


@kernel
def under_way(done, count):
    """Return how many of done[:count] are WAITING."""
    waiting = 0
    for place in range(count):
        if done[place] == WAITING:
            waiting += 1
    return waiting


@kernel
def collect(queue, least, count, done):
    """Wait until `least` of the first `count` reads under way have ended; return 0 or an errno."""
    while True:
        answer = call_function(
            queue.syscall, queue.getevents, queue.context, least, under_way(done, count),
            queue.events.ctypes.data, 0,
        )  # fmt: skip
        if answer < 0:
            errno = np.int64(load_int32(queue.errno_at))
            if errno == INTERRUPTED:
                continue
            return errno
        for i in range(answer):
            done[queue.events[i, 0]] = queue.events[i, 2]
        return 0


@kernel
def submit_reads(queue, count, done):
    """Start the first `count` requests; return 0, or the errno that kept some from starting."""
    for place in range(count):
        done[place] = 0
    started = 0
    while started < count:
        answer = call_function(
            queue.syscall, queue.submit, queue.context, count - started,
            queue.pointers.ctypes.data + 8 * started, 0, 0,
        )  # fmt: skip
        if answer > 0:
            for place in range(started, started + answer):
                done[place] = WAITING
            started += answer
            continue
        errno = np.int64(load_int32(queue.errno_at)) if answer < 0 else np.int64(AGAIN)
        # When something comes back there is room again.
        if errno == AGAIN and under_way(done, started) > 0:
            errno = collect(queue, 1, started, done)
            if errno == 0:
                continue
        if errno != INTERRUPTED:
            return errno
    return 0


@kernel
def wait_for_reads(queue, count, done):
    """Wait until all of the first `count` requests are read; return 0 or an errno.

    All at once: to be woken for each costs more than what could be done in between.
    """
    waiting = under_way(done, count)
    while waiting > 0:
        errno = collect(queue, waiting, count, done)
        if errno != 0:
            return errno
        waiting = under_way(done, count)
    return 0
