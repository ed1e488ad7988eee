"""Scratch arrays of graph walks, lent to one thread at a time."""

import contextlib
from collections import deque

import numpy as np

from luma_lab.kernels.addresses import addresses_of


class Scratch:
    """What one walk at a time needs on a graph of `n` nodes: visit stamps and short lists.

    prepared : uint8 array of shape (query_bytes,)
        Room for a query or row as codes are measured from; zero.
    point : float32 array of shape (2, dim)
    addresses : int64 array
        Where all of these are, for `kernels.codewalk.search_addresses`.
    """

    __slots__ = ("addresses", "epoch", "fresh", "point", "prepared", "seen")

    def __init__(self, n, degree, query_bytes=0, dim=0):
        self.seen = np.zeros(n, np.uint8)
        self.epoch = np.zeros(1, np.int32)
        self.fresh = np.empty(max(1, degree), np.int32)
        self.prepared = np.zeros(query_bytes, np.uint8)
        self.point = np.empty((2, dim), np.float32)
        self.addresses = addresses_of(
            self.fresh, len(self.fresh), self.seen, n, self.epoch, self.point, dim, self.prepared,
            query_bytes,
        )  # fmt: skip


class ScratchPool:
    """Lends `Scratch`es and keeps them, so that small searches do not allocate n-sized arrays.

    There are never more than walks that ran at the same time. Thread-safe.
    """

    def __init__(self, n, degree, query_bytes=0, dim=0):
        self._sizes = n, degree, query_bytes, dim
        self._free = deque()  # append and pop are atomic

    @contextlib.contextmanager
    def lend(self):
        """Lend a `Scratch` for the time of the block."""
        scratch = self.take()
        try:
            yield scratch
        finally:
            self.give(scratch)

    def take(self):
        """Return a free `Scratch`, a new one if there is none."""
        try:
            return self._free.pop()
        except IndexError:
            return Scratch(*self._sizes)

    def give(self, scratch):
        """Take back what :meth:`take` lent."""
        self._free.append(scratch)

    def __reduce__(self):
        return ScratchPool, self._sizes
