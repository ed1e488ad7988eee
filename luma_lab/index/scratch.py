"""Scratch arrays of graph walks, lent to one thread at a time."""

import contextlib
from collections import deque

import numpy as np


class Scratch:
    """What one walk at a time needs on a graph of `n` nodes: visit stamps and a short list."""

    __slots__ = ("epoch", "fresh", "seen")

    def __init__(self, n, degree):
        self.seen = np.zeros(n, np.int32)
        self.epoch = np.zeros(1, np.int32)
        self.fresh = np.empty(max(1, degree), np.int32)


class ScratchPool:
    """Lends `Scratch`es and keeps them, so that small searches do not allocate n-sized arrays.

    There are never more than walks that ran at the same time. Thread-safe.
    """

    def __init__(self, n, degree):
        self._n, self._degree = n, degree
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
            return Scratch(self._n, self._degree)

    def give(self, scratch):
        """Take back what :meth:`take` lent."""
        self._free.append(scratch)

    def __reduce__(self):
        return ScratchPool, (self._n, self._degree)
