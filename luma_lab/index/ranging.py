"""All rows within a radius: the exact scan, and what answers of every length are put into."""

import itertools
import numbers
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from luma_lab.errors import InvalidArgument
from luma_lab.index.protocol import (
    MAX_ROWS,
    as_queries,
    check_ascending,
    check_integer,
    check_mask,
    check_matrix,
    check_metric,
    check_threads,
)
from luma_lab.index.rows import METRIC_CODES, query_rows, read_only
from luma_lab.kernels.ranging import scan_range
from luma_lab.types import RangeNeighbors

LEAST_SHARE = 4096  # rows that are worth a thread
MOST_PLACES = 1 << 24  # kept at a time for the nearest ones of queries with a limit
ROW_MASK, SIGN_FLIP = 0xFFFFFFFF, np.int32(0x7FFFFFFF)
NO_ROWS = read_only(np.empty(0, np.int64))
NO_KEYS = np.empty(0, np.int64)


def check_radius(radius):
    """Return the largest float32 that is not above `radius`, a number; infinity is one."""
    if isinstance(radius, bool) or not isinstance(radius, numbers.Real) or radius != radius:
        raise InvalidArgument(f"radius={radius!r}: expected a number")
    try:
        wide = float(radius)
    except OverflowError:
        raise InvalidArgument("radius is an int too large for a float: use infinity") from None
    with np.errstate(over="ignore"):
        rounded = np.float32(wide)
    if float(rounded) > wide:
        rounded = np.nextafter(rounded, np.float32(-np.inf))
    return rounded


def check_limit(limit):
    """Return `limit` as an int, 0 where there is none; raise `InvalidArgument` below 1."""
    return 0 if limit is None else check_integer("limit", limit, 1, MAX_ROWS)


def choose(mask, rows, total):
    """Return what was given of both as ascending row numbers, or None; raise on both."""
    if mask is None:
        return None if rows is None else check_ascending(rows, total)
    if rows is not None:
        raise InvalidArgument("mask and rows are both given: expected at most one")
    return np.flatnonzero(check_mask(mask, total))


def exact_range(
    matrix, queries, radius, metric, *, rows=None, limit=None, threads=1, start=0, stop=None
):
    """Find all rows of a plain matrix within `radius` of each query, exactly.

    Parameters
    ----------
    matrix : C-contiguous float32 array of shape (n, dim)
        As in :func:`luma_lab.index.exact_search`.
    queries : array of shape (dim,) or (n_queries, dim)
    radius : float
        In the distances users see; rows at just this distance are within.
    rows : ascending int64 array of row numbers without repeats, optional
        Only these rows are looked at.
    limit : int, optional
        The most rows a query gets; the nearest ones.
    start, stop : int
        Only rows of this range are looked at; not together with `rows`.

    Returns
    -------
    RangeNeighbors
        Its stats are None.

    Raises
    ------
    InvalidArgument, DimensionMismatch, UnknownName
    """
    check_metric(metric)
    start, stop = check_matrix(matrix, start, stop)
    if rows is not None:
        if (start, stop) != (0, len(matrix)):
            raise InvalidArgument("rows and a range are both given: expected at most one")
        rows = check_ascending(rows, len(matrix))
    queries = query_rows(as_queries(queries, matrix.shape[1]), metric, matrix.shape[1])
    radius, limit, threads = check_radius(radius), check_limit(limit), check_threads(threads)
    found = scan_within(matrix, queries, radius, metric, rows, limit, threads, start, stop)
    return answer_of(found, limit, None)


def scan_within(matrix, queries, radius, metric, chosen, limit, threads, start=0, stop=None):
    """Scan as :func:`exact_range` does, on arguments that were checked.

    Parameters
    ----------
    queries : float32 array of shape (n_queries, dim), of length one under "cosine"
    radius : float32
    chosen : int64 array or None
    limit : int
        0: none.

    Returns
    -------
    list of int64 arrays, one a query
        Keys in any order, see `kernels.topk`; with a limit some more than it at most.
    """
    matrix, queries = read_only(matrix), read_only(queries)
    use_chosen = chosen is not None
    stop = len(matrix) if stop is None else stop
    if use_chosen:
        chosen, start, stop = read_only(chosen), 0, len(chosen)
    else:
        chosen = NO_ROWS
    code = METRIC_CODES[metric]
    count, span = len(queries), stop - start
    threads = max(1, min(threads, max(count, span // LEAST_SHARE)))
    parts = threads if count < threads else 1
    group = max(1, -(-count // threads) if parts == 1 else count)
    if limit:
        group = min(group, max(1, MOST_PLACES // max(1, min(limit, span))))
    cuts = [start + span * i // parts for i in range(parts + 1)]
    jobs = [(first, a, b) for first in range(0, count, group) for a, b in itertools.pairwise(cuts)]

    def run(first, a, b):
        some = queries[first : first + group]
        sizes = np.empty(len(some), np.int64)
        keys = scan_range(some, matrix, chosen, use_chosen, a, b, code, radius, limit, sizes)
        return np.split(keys, np.cumsum(sizes)[:-1])

    if threads == 1:
        done = [run(*job) for job in jobs]
    else:
        with ThreadPoolExecutor(threads) as pool:
            done = list(pool.map(lambda job: run(*job), jobs))
    found = []
    for at in range(0, len(done), parts):
        same = done[at : at + parts]
        found += (
            same[0] if parts == 1 else [np.concatenate(keys) for keys in zip(*same, strict=True)]
        )
    return found


def marked(places, count):
    """Return a bool array of shape (count,) that is True at `places`."""
    marks = np.zeros(count, np.bool_)
    marks[places] = True
    return marks


def split_keys(keys, sizes):
    """Return the keys of each query as a list, None where its size is -1: it was given up."""
    parts = np.split(keys, np.cumsum(np.maximum(sizes, 0))[:-1])
    return [None if size < 0 else some for size, some in zip(sizes, parts, strict=True)]


def shared_by(threads, count, run):
    """Return the lists ``run(a, b)`` joined, which threads make of parts of `count` queries."""
    threads = min(threads, count)
    if threads <= 1:
        return run(0, count) if count else []
    cuts = [count * i // threads for i in range(threads + 1)]
    with ThreadPoolExecutor(threads) as pool:
        jobs = [pool.submit(run, a, b) for a, b in itertools.pairwise(cuts)]
        return [keys for job in jobs for keys in job.result()]


def fill(found, scan):
    """Put the keys that ``scan(numbers of queries)`` gives where there are none in `found`.

    Returns
    -------
    bool array of shape (n_queries,)
        Which queries were scanned.
    """
    pending = [i for i, keys in enumerate(found) if keys is None]
    if pending:
        for i, keys in zip(pending, scan(pending), strict=True):
            found[i] = keys
    return marked(pending, len(found))


def answer_of(found, limit, stats):
    """Return the `RangeNeighbors` of each query's keys, which are sorted in place."""
    for i, keys in enumerate(found):
        keys.sort()
        if limit and len(keys) > limit:
            found[i] = keys[:limit]
    limits = np.zeros(len(found) + 1, np.int64)
    np.cumsum([len(keys) for keys in found], out=limits[1:])
    keys = np.concatenate(found) if found else NO_KEYS
    ordered = (keys >> 32).astype(np.int32)
    distances = (ordered ^ ((ordered >> 31) & SIGN_FLIP)).view(np.float32)
    return RangeNeighbors(limits, (keys & ROW_MASK) >> 1, distances, stats)
