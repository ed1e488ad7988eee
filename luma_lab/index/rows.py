"""Rows as the kernels like them: aligned to cache lines, padded, read-only."""

import numpy as np

from luma_lab.kernels.distance import COSINE, DOT, L2, prepare_rows
from luma_lab.kernels.prefetch import CACHE_LINE_BYTES

METRIC_CODES = {"l2": L2, "dot": DOT, "cosine": COSINE}
LINE_FLOATS = CACHE_LINE_BYTES // 4
ROOM_SHARE = 8  # of its size an array grows by at least, so that growing costs little a row


def read_only(array):
    """Return a read-only plain view: kernels see one type, whether in memory or mapped."""
    view = array.view(np.ndarray)
    view.flags.writeable = False
    return view


def kept(array, given):
    """Return `array`, made from what a caller gave, in a form the caller can't change.

    A read-only array is taken at its word and not copied.
    """
    return read_only(array.copy() if is_copied(array, given) else array)


def is_copied(array, given):
    """Return whether :func:`kept` copies."""
    shared = array is given or array.base is not None
    return shared and array.flags.writeable


def aligned_empty(shape, dtype):
    """Return an uninitialised C-contiguous array that starts at a cache line."""
    dtype = np.dtype(dtype)
    size = int(np.prod(shape)) * dtype.itemsize
    buffer = np.empty(size + CACHE_LINE_BYTES, np.uint8)
    start = -buffer.ctypes.data % CACHE_LINE_BYTES
    return buffer[start : start + size].view(dtype).reshape(shape)


class Growing:
    """An array whose rows can be written and whose end moves, with room behind it.

    Views handed out before stay valid: they keep the old rows when the array has to move.

    Parameters
    ----------
    rows : array of shape (n, ...)
        Copied at the first write unless `owned`.
    """

    def __init__(self, rows, owned=False):
        self._rows = rows
        self._owned = owned

    @property
    def room(self):
        """Rows there is memory for."""
        return len(self._rows)

    @property
    def nbytes(self):
        """Bytes held, the room included."""
        return self._rows.nbytes

    def leave(self):
        """Move at the next write, whatever the room: views handed out so far see none of it."""
        self._owned = False

    def put(self, places, values, total):
        """Write `values` at row numbers `places` and return the first `total` rows, writable."""
        rows = self._rows
        if not self._owned or total > len(rows):
            room = total if total <= len(rows) else max(total, len(rows) + len(rows) // ROOM_SHARE)
            self._rows = aligned_empty((room, *rows.shape[1:]), rows.dtype)
            self._rows[: len(rows)] = rows[:room]
            self._owned = True
        self._rows[places] = values
        return self._rows[:total]


def graph_stride(dim):
    """Return the floats of a graph row: whole cache lines."""
    return -(-dim // LINE_FLOATS) * LINE_FLOATS


def graph_rows(vectors, metric):
    """Return (n, dim) float32 vectors as graph rows (n, stride), of length one for "cosine"."""
    padded = aligned_empty((len(vectors), graph_stride(vectors.shape[1])), np.float32)
    prepare_rows(read_only(vectors), metric == "cosine", padded)
    return read_only(padded)


def query_rows(queries, metric, stride):
    """Return (n_queries, dim) float32 queries as rows (n_queries, stride), read-only."""
    if metric != "cosine" and queries.shape[1] == stride:
        return read_only(queries)
    padded = np.empty((len(queries), stride), np.float32)
    prepare_rows(read_only(queries), metric == "cosine", padded)
    return read_only(padded)
