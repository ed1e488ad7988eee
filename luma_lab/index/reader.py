"""How a walk gets its records: from a mapped file, or by asynchronous reads past the page cache."""

import ctypes
import errno
import mmap
import os
import platform
import sys
import weakref
from collections import deque

import numpy as np

from luma_lab.errors import NotSupported, StorageError, UnknownName
from luma_lab.index.rows import read_only
from luma_lab.kernels.aio import EVENT_WORDS, REQUEST_WORDS, Queue
from luma_lab.kernels.beam import Scratch

READERS = ("mmap", "aio")
# io_setup, io_destroy, io_getevents, io_submit
CALLS = {"x86_64": (206, 207, 208, 209), "aarch64": (0, 1, 4, 2)}
NO_WORDS = np.empty((0, REQUEST_WORDS), np.int64)
NO_QUEUE = Queue(0, 0, 0, 0, 0, 0, 0, NO_WORDS, NO_WORDS[:, 0].copy(), NO_WORDS)


def _library():
    library = ctypes.CDLL(None, use_errno=True)
    library.syscall.restype = ctypes.c_long
    locate = library["__errno_location"]
    locate.restype = ctypes.c_void_p
    return library, locate


def check_asynchronous():
    """Raise `NotSupported` unless this system is one whose asynchronous reads are known."""
    if sys.platform != "linux" or platform.machine() not in CALLS:
        raise NotSupported(
            f"reader='aio' on {sys.platform} {platform.machine()}: expected Linux on one of "
            f"{', '.join(CALLS)}; open the index with reader='mmap'"
        )


class MappedWalk:
    """What one walk at a time needs when the file is mapped.

    Parameters
    ----------
    file : luma_lab.index.sectors.NodeFile
    width : int
        Beam width it is good for.
    """

    def __init__(self, file, width):
        self.width = width
        self.data = file.mapped
        self.scratch = self._scratch(file.layout, NO_QUEUE)

    def _scratch(self, layout, queue):
        return Scratch(
            np.zeros(layout.rows, np.uint8),
            np.zeros(1, np.int32),
            np.empty(layout.max_degree, np.int32),
            np.empty(layout.dim, np.float32),
            *(np.empty(self.width, np.int64) for _ in range(4)),
            queue,
        )

    def for_this_thread(self):
        """Return the `Scratch` as the calling thread may use it."""
        return self.scratch


class AsynchronousWalk(MappedWalk):
    """What one walk at a time needs to read asynchronously: a context and a buffer on top.

    Raises
    ------
    StorageError
        The operating system refuses a context.
    """

    def __init__(self, file, width):
        self.width = width
        size = width * file.layout.block_bytes
        self._buffer = np.frombuffer(mmap.mmap(-1, size), np.uint8)  # starts at a page
        self.data = read_only(self._buffer)
        self._library, self._locate_errno = _library()
        setup, destroy, getevents, submit = CALLS[platform.machine()]
        context = ctypes.c_ulong(0)
        if self._library.syscall(setup, ctypes.c_uint(width), ctypes.byref(context)) != 0:
            number = ctypes.get_errno()
            hint = ""
            if number == errno.EAGAIN:
                hint = ": all of /proc/sys/fs/aio-max-nr is taken"
            raise StorageError(
                f"io_setup: {os.strerror(number)}{hint}; raise the limit or open the index with "
                "reader='mmap'"
            )
        weakref.finalize(self, self._library.syscall, destroy, ctypes.c_ulong(context.value))
        self._queue = Queue(
            ctypes.cast(self._library.syscall, ctypes.c_void_p).value,
            submit,
            getevents,
            0,
            context.value,
            file.descriptor,
            self._buffer.ctypes.data,
            np.zeros((width, REQUEST_WORDS), np.int64),
            np.zeros(width, np.int64),
            np.zeros((width, EVENT_WORDS), np.int64),
        )
        self.scratch = self._scratch(file.layout, self._queue)

    def for_this_thread(self):
        """Return the `Scratch` as the calling thread may use it: errno is a thread's own."""
        queue = self._queue._replace(errno_at=self._locate_errno())
        return self.scratch._replace(queue=queue)


class WalkPool:
    """Lends what walks need and keeps it; there are never more than ran at the same time."""

    def __init__(self, file, reader):
        self._file = file
        self._kind = AsynchronousWalk if reader == "aio" else MappedWalk
        self._free = deque()  # append and pop are atomic

    def take(self, width):
        """Return something free that is good for a beam of `width`."""
        try:
            walk = self._free.pop()
        except IndexError:
            return self._kind(self._file, width)
        return walk if walk.width >= width else self._kind(self._file, width)

    def give(self, walk):
        """Take back what :meth:`take` lent."""
        self._free.append(walk)

    def clear(self):
        """Forget what is free."""
        self._free.clear()


def check_reader(reader):
    """Return `reader` if it is one of `READERS` that works here, or raise."""
    if reader not in READERS:
        raise UnknownName("reader", reader, READERS)
    if reader == "aio":
        check_asynchronous()
    return reader
