"""What every vector index offers, and the argument checks they share.

Checked once at the door; nothing below asks again. Free of numba, so that whoever only writes
vectors does not pay for importing it.
"""

import functools
import numbers
import os
from typing import Protocol

import numpy as np

from luma_lab.errors import DimensionMismatch, InvalidArgument, UnknownName
from luma_lab.types import LARGEST_SQUARE, METRICS, CodedStats, Neighbors, SearchStats

CHECK_ROWS = 4096
MAX_ROWS = 2**31 - 1
MAX_DIM = 65536
FLOAT32 = np.dtype(np.float32)


class VectorIndex(Protocol):
    """A nearest-neighbour index over rows of float32 vectors."""

    dim: int
    metric: str

    def build(self, vectors, progress=False) -> "VectorIndex": ...

    def search(self, queries, k=10, *, threads=1, mask=None) -> Neighbors: ...

    def save(self, path) -> None: ...

    @property
    def fingerprint(self) -> str: ...

    @property
    def memory_bytes(self) -> int: ...

    @property
    def disk_bytes(self) -> int: ...

    @property
    def total_rows(self) -> int: ...

    def __len__(self) -> int: ...


def as_vectors(vectors, dim, what="vectors"):
    """Return `vectors` as a C-contiguous float32 array of shape (n, dim), copied only if needed.

    Raises
    ------
    DimensionMismatch
        Another number of components than `dim`.
    InvalidArgument
        Not a two-dimensional array of real numbers, or a row (named) with NaN, infinity or a
        length whose square float32 can't hold.
    """
    array = _as_array(vectors, what)
    if array.ndim == 1 and array.size == 0:
        array = array.reshape(0, dim)
    if array.ndim != 2:
        raise InvalidArgument(f"{what} have shape {array.shape}: expected (n, {dim})")
    return _checked(array, dim, what)


def one_query(queries, dim):
    """Return a read-only float32 view (1, dim) of a query, or None where it takes more than that.

    Nobody has looked for NaN, infinity or a length beyond `LARGEST_SQUARE` in it.
    """
    if (
        type(queries) is not np.ndarray
        or queries.dtype is not FLOAT32
        or queries.shape != (dim,)
        or not queries.flags.c_contiguous
    ):
        return None
    view = queries.reshape(1, dim)
    view.flags.writeable = False  # kernels are compiled for one type, which is this
    return view


def as_queries(queries, dim):
    """Return one query (dim,) or many (n_queries, dim) as :func:`as_vectors` does, always 2-D."""
    if (
        type(queries) is np.ndarray
        and queries.dtype == np.float32
        and queries.shape == (dim,)
        and queries.flags.c_contiguous
        and _wide_square()(queries) <= LARGEST_SQUARE
    ):
        return queries.reshape(1, dim)  # the commonest case by far
    array = _as_array(queries, "queries")
    if array.ndim == 1:
        array = array.reshape(1, -1) if array.size else array.reshape(0, dim)
    if array.ndim != 2:
        raise InvalidArgument(
            f"queries have shape {array.shape}: expected ({dim},) or (n_queries, {dim})"
        )
    return _checked(array, dim, "queries")


@functools.cache
def _wide_square():
    from luma_lab.kernels.distance import wide_square

    return wide_square


def _as_array(values, what):
    if type(values) is np.ndarray and values.dtype == np.float32:
        return values
    try:
        array = np.asarray(values)
    except ValueError as error:
        raise InvalidArgument(f"{what} are no array: {error}") from None
    if array.dtype.kind not in "fiu" and array.size:
        raise InvalidArgument(f"{what} have dtype {array.dtype}: expected real numbers")
    return array


def _checked(array, dim, what):
    if array.shape[1] != dim:
        raise DimensionMismatch(array.shape[1], dim)
    if array.dtype != np.float32 or not array.flags.c_contiguous:
        with np.errstate(over="ignore"):  # what overflows float32 becomes inf and is named below
            array = np.ascontiguousarray(array, dtype=np.float32)
    with np.errstate(over="ignore", invalid="ignore"):
        for start in range(0, len(array), CHECK_ROWS):
            block = array[start : start + CHECK_ROWS]
            flat = block.reshape(-1)
            # One fast sum clears nearly every block; the slow look only finds whom to name.
            if not np.dot(flat, flat) <= LARGEST_SQUARE:
                _refuse_bad_row(block, start, what)
    return array


def _refuse_bad_row(block, start, what):
    finite = np.isfinite(block).all(axis=1)
    if not finite.all():
        row = start + int(np.argmin(finite))
        raise InvalidArgument(f"{what}: row {row} holds NaN or infinity; expected finite numbers")
    squares = np.einsum("ij,ij->i", block, block, dtype=np.float64)
    if squares.max() > LARGEST_SQUARE:
        row = start + int(squares.argmax())
        raise InvalidArgument(
            f"{what}: row {row} has squared length {squares.max():.3g}; "
            f"expected at most {LARGEST_SQUARE:.0e}, so that distances fit float32"
        )


def check_integer(name, value, low, high=None):
    """Return `value` as an int in [low, high], or raise `InvalidArgument` naming it."""
    if type(value) is not int:
        if isinstance(value, bool) or not isinstance(value, numbers.Integral):
            raise InvalidArgument(f"{name}={value!r}: expected an integer")
        value = int(value)
    if value < low or (high is not None and value > high):
        limits = f"at least {low}" if high is None else f"from {low} to {high}"
        raise InvalidArgument(f"{name}={value}: expected an integer {limits}")
    return value


def check_dim(dim):
    """Return `dim` as an int from 1 to `MAX_DIM`, or raise `InvalidArgument`."""
    return check_integer("dim", dim, 1, MAX_DIM)


def check_k(k):
    """Return `k` as an int of at least 1, or raise `InvalidArgument`."""
    return check_integer("k", k, 1, MAX_ROWS)


def check_metric(metric):
    """Return `metric` if it is one of `types.METRICS`, else raise `UnknownName`."""
    if metric not in METRICS:
        raise UnknownName("metric", metric, METRICS)
    return metric


def check_matrix(matrix, start, stop):
    """Return which rows of a plain matrix are looked at, start and stop; None stands for its end.

    Raises
    ------
    InvalidArgument
        It is no C-contiguous float32 array (n, dim), or they are not 0 <= start <= stop <= n.
    """
    if matrix.dtype != np.float32 or matrix.ndim != 2 or not matrix.flags.c_contiguous:
        raise InvalidArgument(
            f"matrix has dtype {matrix.dtype} and shape {matrix.shape}: "
            "expected a C-contiguous float32 array of shape (n, dim)"
        )
    total = len(matrix)
    start = check_integer("start", start, 0, total)
    stop = total if stop is None else check_integer("stop", stop, start, total)
    return start, stop


def check_threads(threads):
    """Return how many threads to use; 0 stands for all the process may run on."""
    threads = check_integer("threads", threads, 0, 4096)
    if threads:
        return threads
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # not on macOS
        return os.cpu_count() or 1


def check_mask(mask, total_rows):
    """Return `mask` as a C-contiguous bool array of shape (total_rows,), or raise."""
    array = np.asarray(mask)
    if array.dtype != np.bool_ or array.shape != (total_rows,):
        raise InvalidArgument(
            f"mask has dtype {array.dtype} and shape {array.shape}: "
            f"expected bool and ({total_rows},), one entry a row"
        )
    return np.ascontiguousarray(array)


def as_mask(mask, rows, total_rows):
    """Return the mask of what was given, a mask or ascending row numbers; raise on both."""
    if rows is None:
        return check_mask(mask, total_rows)
    if mask is not None:
        raise InvalidArgument("mask and rows are both given: expected at most one")
    made = np.zeros(total_rows, bool)
    made[check_ascending(rows, total_rows)] = True
    return made


def check_ascending(rows, total):
    """Return ascending row numbers below `total` as a contiguous int64 array, or raise."""
    array = np.asarray(rows)
    if array.ndim != 1 or (array.size and array.dtype.kind not in "iu"):
        raise InvalidArgument(
            f"rows have dtype {array.dtype} and shape {array.shape}: expected integers, (m,)"
        )
    array = np.ascontiguousarray(array, np.int64)
    if array.size and (array[0] < 0 or array[-1] >= total or (array[1:] <= array[:-1]).any()):
        raise InvalidArgument(f"rows: expected ascending numbers from 0 to {total - 1}")
    return array


def check_live_rows(rows, live):
    """Return row numbers as an int64 array; raise `InvalidArgument` unless all live, each once."""
    array = np.atleast_1d(np.asarray(rows))
    if array.ndim != 1 or (array.size and array.dtype.kind not in "iu"):
        raise InvalidArgument(
            f"rows have dtype {array.dtype} and shape {array.shape}: expected integers, (m,)"
        )
    array = array.astype(np.int64)
    outside = array[(array < 0) | (array >= len(live))]
    gone = outside if outside.size else array[~live[array]]
    if gone.size:
        raise InvalidArgument(f"row {gone[0]} is not there: expected the number of a live row")
    if len(np.unique(array)) != len(array):
        raise InvalidArgument("a row is named twice: expected row numbers without repeats")
    return array


def stats_in_memory(counts, quantizer):
    """Return the stats of a search in memory from its counts (n_queries, 4)."""
    if quantizer is not None:
        return CodedStats(counts)
    hops, comparisons, *_ = counts.T
    return SearchStats(hops, comparisons, np.zeros(len(counts), np.int64))
