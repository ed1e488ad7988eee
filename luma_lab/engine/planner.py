"""How a search runs: the index walks its rows, the tail behind it is scanned exactly, merged.

Distances of both parts are on one scale, so the best k of the union are the answer.
"""

import time
from typing import NamedTuple

import numpy as np

DEFAULT_LIST_SIZE = 64
SCANNED_ROWS = 256  # matching rows that are compared exactly in less time than plans are made


class Candidates(NamedTuple):
    """Best rows per query with the work it took.

    Attributes
    ----------
    rows : int64 array of shape (n_queries, k), padded with -1
    distances : float32 array of shape (n_queries, k), ascending
    strategy : {"exact", "walk", "walk+tail"}, behind "filter+" where rows were given
        Then also "scan", of the index's codes.
    hops, comparisons : int64 arrays of shape (n_queries,)
    walk_ms : float
    """

    rows: np.ndarray
    distances: np.ndarray
    strategy: str
    hops: np.ndarray
    comparisons: np.ndarray
    walk_ms: float


def find_candidates(snapshot, queries, k, *, search_list_size=None, exact=False, threads=1):
    """Return the `Candidates` nearest to each query among the live rows of a snapshot.

    Parameters
    ----------
    queries : float32 array of shape (n_queries, dim), or (dim,) for one
    """
    started = time.perf_counter()
    total = len(snapshot.vectors)
    metric = snapshot.row.metric
    walks = snapshot.index is not None and not exact and snapshot.indexed_rows > 0
    start = snapshot.indexed_rows if walks else 0
    dead = snapshot.dead_tail if walks else snapshot.dead_tail + snapshot.dead_indexed
    rows = distances = None
    if walks:
        size = search_list_size or snapshot.row.params.get("search_list_size", DEFAULT_LIST_SIZE)
        mask = snapshot.live[:start] if snapshot.dead_indexed else None
        found = snapshot.index.search(
            queries, k=k, search_list_size=max(size, k), threads=threads, mask=mask
        )
        rows, distances = found.rows, found.distances
        hops, comparisons = found.stats.hops, found.stats.comparisons
    else:
        hops = comparisons = np.zeros(len(np.atleast_2d(queries)), np.int64)
    if start < total or rows is None:
        from luma_lab.index.flat import exact_search

        tail = exact_search(
            snapshot.vectors,
            queries,
            k,
            metric,
            mask=snapshot.live if dead else None,
            threads=threads,
            start=start,
            stop=total,
        )
        comparisons = comparisons + (total - start - dead)
        rows, distances = tail if rows is None else _merge((rows, distances), tail, k)
    strategy = "exact" if not walks else "walk+tail" if start < total else "walk"
    elapsed = (time.perf_counter() - started) * 1000
    return Candidates(rows, distances, strategy, hops, comparisons, elapsed)


def find_among(snapshot, queries, k, rows, *, search_list_size=None, exact=False, threads=1):
    """Return the `Candidates` nearest to each query among the given rows of a snapshot.

    Few rows are scanned exactly. Of more the index itself chooses between a scan of their codes
    and a walk; it answers as many as there are.

    Parameters
    ----------
    rows : ascending int64 array
    """
    started = time.perf_counter()
    inside = int(np.searchsorted(rows, snapshot.indexed_rows))
    if snapshot.index is None or exact or inside <= SCANNED_ROWS:
        return _scan_rows(snapshot, queries, k, rows, threads, started, "filter+exact")
    size = search_list_size or snapshot.row.params.get("search_list_size", DEFAULT_LIST_SIZE)
    # The very array where it can be: the index knows it again.
    part = rows if inside == len(rows) else rows[:inside]
    found = snapshot.index.search(
        queries, k=k, search_list_size=max(size, k), threads=threads, rows=part
    )
    merged, distances = found.rows, found.distances
    comparisons = found.stats.comparisons.astype(np.int64)
    strategy = "filter+walk" if found.stats.hops.any() else "filter+scan"
    if inside < len(rows):
        tail = _scan(snapshot, queries, k, rows[inside:], threads)
        merged, distances = _merge((merged, distances), tail, k)
        comparisons = comparisons + (len(rows) - inside)
        strategy += "+tail"
    elapsed = (time.perf_counter() - started) * 1000
    return Candidates(merged, distances, strategy, found.stats.hops, comparisons, elapsed)


def _scan_rows(snapshot, queries, k, rows, threads, started, strategy):
    found, distances = _scan(snapshot, queries, k, rows, threads)
    nothing = np.zeros(len(found), np.int64)
    elapsed = (time.perf_counter() - started) * 1000
    return Candidates(found, distances, strategy, nothing, nothing + len(rows), elapsed)


def _scan(snapshot, queries, k, rows, threads):
    from luma_lab.index.flat import exact_search

    metric = snapshot.row.metric
    return exact_search(snapshot.vectors, queries, k, metric, rows=rows, threads=threads)


def _merge(left, right, k):
    rows = np.concatenate([left[0], right[0]], axis=1)
    distances = np.concatenate([left[1], right[1]], axis=1)
    order = np.argsort(distances, axis=1, kind="stable")[:, :k]
    return np.take_along_axis(rows, order, axis=1), np.take_along_axis(distances, order, axis=1)
