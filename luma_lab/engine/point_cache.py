"""Points that searches answered with, kept in memory: id and meta by matrix row.

A row of the matrix is one point's for as long as its generation lasts; only its meta changes,
and that it died. Both are told by the log, which moves the view and forgets the row here. So an
entry says what the table held at every offset from the entry's revision to the view's.
"""

import sys
import threading
import weakref

from luma_lab.store.database import luma_errors
from luma_lab.store.nearest import NULL, read_nearest

LIMIT_BYTES = 64 << 20  # of all collections of a lab together
LONGEST_META = 1 << 16  # characters; longer ones are read each time
LONG_META = 1 << 12  # characters that take longer to decode than to find
# What an entry takes beside its texts: a tuple, two ints, a place in a dict.
ENTRY_BYTES = 230
NO_LIMIT = float("inf")


class PointCaches:
    """Makes the caches of a lab's collections, which share `limit_bytes`.

    Entries are young or old. Young ones that fill half of the limit become the old ones, and the
    old ones go, but for those found again meanwhile.
    """

    def __init__(self, limit_bytes=LIMIT_BYTES):
        self.lock = threading.Lock()
        self._half = limit_bytes // 2
        self._young_bytes = 0
        self._caches = weakref.WeakSet()

    def make(self, offset):
        """Return an empty `PointCache` of a view as of `offset`."""
        cache = PointCache(self, offset)
        with self.lock:
            self._caches.add(cache)
        return cache

    def spend(self, size):
        """Count `size` bytes of young entries; under the lock."""
        self._young_bytes += size
        if self._young_bytes > self._half:
            for cache in self._caches:
                cache.old, cache.young = cache.young, {}
            self._young_bytes = 0

    @property
    def memory_bytes(self):
        """Bytes of all entries, about; at most the limit and one entry."""
        with self.lock:
            return sum(
                _size(entry)
                for cache in self._caches
                for entries in (cache.young, cache.old)
                for entry in entries.values()
            )


class PointCache:
    """What is known of the points of one view: a dict from row to (id, meta as text, revision).

    Attributes
    ----------
    young, old : dict
        Reading `young` needs no lock.
    has_long : bool
        Whether a meta of more than `LONG_META` characters was read.
    """

    __slots__ = ("__weakref__", "_changed", "_shared", "has_long", "old", "young")

    def __init__(self, shared, offset):
        self.young, self.old = {}, {}
        self.has_long = False
        self._shared = shared
        self._changed = offset  # of the last change to a row that was there

    def forget(self, row, offset):
        """Drop the entry of a row that changed or died at `offset`."""
        with self._shared.lock:
            self._changed = offset
            self.young.pop(row, None)
            self.old.pop(row, None)

    def clear(self):
        """Drop every entry."""
        with self._shared.lock:
            self.young, self.old = {}, {}

    @luma_errors
    def find(self, connection, uid, generation, rows, newest=NO_LIMIT):
        """Return a dict from row to (id, meta as JSON text, revision), of `rows` that live.

        Parameters
        ----------
        connection : callable
            Returns the connection to read with what is not known.
        newest : int
            The offset that the connection's read transaction sees; without one, each read sees
            the last commit.

        Raises
        ------
        CorruptStore, StoreClosed, WaitTimeout
        """
        found, missing = {}, []
        with self._shared.lock:
            changed, young, old = self._changed, self.young, self.old
            for row in rows:
                entry = young.get(row)
                if entry is None:
                    entry = old.pop(row, None)
                    if entry is not None:
                        young[row] = entry
                        self._shared.spend(_size(entry))
                        young, old = self.young, self.old
                if entry is None or entry[2] > newest:
                    missing.append(row)
                else:
                    found[row] = entry
        if not missing:
            return found
        read = read_nearest(connection(), uid, missing, generation)
        found |= read
        self.has_long = self.has_long or any(len(e[1]) > LONG_META for e in read.values())
        with self._shared.lock:
            # What was read before a change that the view has seen by now may be outdated.
            if self._changed == changed and newest >= changed:
                for row, entry in read.items():
                    if len(entry[1]) <= LONGEST_META:
                        self.young[row] = entry
                        self._shared.spend(_size(entry))
        return found


def _size(entry):
    id, meta, _ = entry
    return ENTRY_BYTES + sys.getsizeof(id) + (0 if meta is NULL else sys.getsizeof(meta))
