"""How a search runs: the index walks its rows, the tail behind it is scanned exactly, merged.

Distances of both parts are on one scale, so the best k of the union are the answer.
"""

import time
from typing import Any, NamedTuple

import numpy as np

from luma_lab.engine.kinds import KINDS
from luma_lab.errors import CorruptStore

WORDS = {"vamana": "walk", "diskann": "walk", "ivf": "probe"}
NOTHING = {}
SCANNED_ROWS = 256  # matching rows that are compared exactly in less time than plans are made


class Candidates(NamedTuple):
    """Best rows per query with the work it took.

    Attributes
    ----------
    rows : int64 array of shape (n_queries, k), padded with -1
    distances : float32 array of shape (n_queries, k), ascending
    strategy : {"exact", "walk", "walk+tail"}, behind "filter+" where rows were given
        Then also "scan", of the index's codes. A walk of cells is a "probe".
    stats : luma_lab.types.SearchStats, CodedStats, DiskStats or None
        What the index counted.
    scanned : int
        Rows that were compared exactly without it.
    elapsed_ms : float
        For one of the queries, on average.
    index : luma_lab.engine.kinds.Attached or None
        What was asked; None where all was scanned.
    """

    rows: np.ndarray
    distances: np.ndarray
    strategy: str
    stats: Any
    scanned: int
    elapsed_ms: float
    index: Any

    def count(self, name, i):
        """Return a count of the index's stats for query `i`, 0 where there is none."""
        counted = getattr(self.stats, name, None)
        return 0 if counted is None else int(counted[i])


def find_candidates(snapshot, queries, k, *, asked=None, exact=False, threads=1):
    """Return the `Candidates` nearest to each query among the live rows of a snapshot.

    Parameters
    ----------
    queries : float32 array of shape (n_queries, dim), or (dim,) for one
    asked : dict, optional
        Search parameters by name, None for the collection's own; the index takes what fits it.
    """
    started = time.perf_counter()
    total = len(snapshot.vectors)
    found = None
    if snapshot.index is not None and not exact and snapshot.indexed_rows > 0:
        mask = snapshot.live[: snapshot.indexed_rows] if snapshot.dead_indexed else None
        found = _ask(snapshot, queries, k, asked, threads, mask=mask)
        snapshot.index.has_walked |= found is not None
    start = 0 if found is None else snapshot.indexed_rows
    dead = snapshot.dead_tail + (snapshot.dead_indexed if found is None else 0)
    rows = distances = stats = None
    scanned = 0
    if found is not None:
        rows, distances, stats = found
    if start < total or rows is None:
        from luma_lab.index.flat import exact_search

        tail = exact_search(
            snapshot.vectors,
            queries,
            k,
            snapshot.row.metric,
            mask=snapshot.live if dead else None,
            threads=threads,
            start=start,
            stop=total,
        )
        scanned = total - start - dead
        rows, distances = tail if rows is None else _merge((rows, distances), tail, k)
    strategy = "exact" if found is None else WORDS[snapshot.index.kind]
    if found is not None and start < total:
        strategy += "+tail"
    elapsed = _each(started, len(rows))
    index = None if found is None else snapshot.index
    return Candidates(rows, distances, strategy, stats, scanned, elapsed, index)


def find_among(snapshot, queries, k, rows, *, asked=None, exact=False, threads=1):
    """Return the `Candidates` nearest to each query among the given rows of a snapshot.

    Few rows are scanned exactly. Of more the index itself chooses between a scan of their codes
    and a walk; it answers as many as there are.

    Parameters
    ----------
    rows : ascending int64 array
    """
    started = time.perf_counter()
    inside = int(np.searchsorted(rows, snapshot.indexed_rows))
    # The very array where it can be: the index knows it again.
    part = rows if inside == len(rows) else rows[:inside]
    found = None
    if snapshot.index is not None and not exact and inside > SCANNED_ROWS:
        found = _ask(snapshot, queries, k, asked, threads, rows=part)
    if found is None:
        return _scan_rows(snapshot, queries, k, rows, threads, started)
    merged, distances, stats = found
    strategy = "filter+" + (WORDS[snapshot.index.kind] if stats.hops.any() else "scan")
    if inside < len(rows):
        tail = _scan(snapshot, queries, k, rows[inside:], threads)
        merged, distances = _merge((merged, distances), tail, k)
        strategy += "+tail"
    elapsed = _each(started, len(merged))
    behind = len(rows) - inside
    return Candidates(merged, distances, strategy, stats, behind, elapsed, snapshot.index)


def _ask(snapshot, queries, k, asked, threads, **among):
    """Return what the index finds, or None where it turns out to be damaged."""
    index = snapshot.index
    options = KINDS[index.kind].options(snapshot.row, asked or NOTHING, k)
    try:
        return index.search(queries, k=k, threads=threads, **options, **among)
    except CorruptStore as error:
        index.lost(error)
        return None


def _each(started, count):
    """Return the milliseconds since `started` that fall to each of `count` queries."""
    return (time.perf_counter() - started) * 1000 / max(1, count)


def _scan_rows(snapshot, queries, k, rows, threads, started):
    found, distances = _scan(snapshot, queries, k, rows, threads)
    elapsed = _each(started, len(found))
    return Candidates(found, distances, "filter+exact", None, len(rows), elapsed, None)


def _scan(snapshot, queries, k, rows, threads):
    from luma_lab.index.flat import exact_search

    metric = snapshot.row.metric
    return exact_search(snapshot.vectors, queries, k, metric, rows=rows, threads=threads)


def _merge(left, right, k):
    rows = np.concatenate([left[0], right[0]], axis=1)
    distances = np.concatenate([left[1], right[1]], axis=1)
    order = np.argsort(distances, axis=1, kind="stable")[:, :k]
    return np.take_along_axis(rows, order, axis=1), np.take_along_axis(distances, order, axis=1)
