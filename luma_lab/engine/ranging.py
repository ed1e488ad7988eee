"""All points that score enough: the index answers for its rows, the tail behind it is scanned.

The answer is that of one moment. Where points die between the look-up of the vectors and that of
the points, it is looked up again, at last among the points of one read transaction.
"""

import time
from typing import NamedTuple

import numpy as np

from luma_lab.codec import decode
from luma_lab.engine import filters, planner, points, searching
from luma_lab.engine.grouping import check_min_score
from luma_lab.engine.kinds import KINDS
from luma_lab.engine.point_cache import NO_LIMIT
from luma_lab.errors import CorruptStore, InvalidArgument, LumaError
from luma_lab.store import catalog, deadline, mappings
from luma_lab.store import log as event_log
from luma_lab.store.database import luma_errors
from luma_lab.store.nearest import NULL
from luma_lab.types import Hit, Hits

RETRIES = 8


class Asked(NamedTuple):
    """A range search, checked.

    Attributes
    ----------
    query : float32 array of shape (1, dim)
    min_score : float
    limit : int
    include_vector, exact : bool
    """

    query: np.ndarray
    min_score: float
    limit: int
    include_vector: bool
    exact: bool


def search_range(
    parts,
    name,
    vectors,
    min_score,
    *,
    limit=1000,
    filter=None,
    include_vector=False,
    explain=False,
    exact=False,
):
    """Return a list of the `Hits` of the one vector; see `Collection.search_range`."""
    if min_score is None:
        raise InvalidArgument("min_score is None: expected a number")
    check_min_score(min_score)
    if isinstance(limit, bool) or not isinstance(limit, (int, np.integer)) or limit < 1:
        raise InvalidArgument(f"limit is {limit!r}: expected an int of at least 1")
    tree = None if filter is None else filters.parse(filter)
    deadline.check()
    snapshot = parts.follower.snapshot(name)
    query = points.check_vectors(vectors, 1, snapshot.row.dim, name)
    asked = Asked(query, float(min_score), int(limit), include_vector, exact)
    answer = _unfiltered(parts, name, snapshot, asked) if tree is None else None
    if answer is None:
        answer = _filtered(parts, name, tree, asked)
    hits, found, snapshot, matches, times = answer
    hits.truncated = len(hits) > asked.limit
    del hits[asked.limit :]
    if explain:
        receipt = searching.receipt_of(snapshot, found, 0, 1, planner.NOTHING)
        own = {} if found.index is None else KINDS[found.index.kind].range_options(snapshot.row)
        receipt["params"] = {**own, "min_score": asked.min_score, "limit": asked.limit}
        receipt["matches"] = matches
        receipt["truncated"] = hits.truncated
        receipt["times_ms"] |= times
        hits.receipt = receipt
    return [hits]


def _unfiltered(parts, name, snapshot, asked):
    """Return hits, candidates, snapshot, matches and times; None where too much changes."""
    for attempt in range(RETRIES):
        if attempt:
            deadline.check()
            snapshot = parts.follower.snapshot(name)
        found = _find(snapshot, asked, None)
        begun = time.perf_counter()
        hits = _fetch(parts.database.reader, NO_LIMIT, snapshot, found, asked)
        if hits is not None:
            return hits, found, snapshot, None, {"plan": 0.0, "fetch": _since(begun)}
    return None


@luma_errors
def _filtered(parts, name, tree, asked):
    """Return what :func:`_unfiltered` does, as of a read transaction; tree None: all points."""
    connection = parts.database.reader()
    for _ in range(RETRIES):
        deadline.check()
        begun = time.perf_counter()
        connection.execute("BEGIN")
        try:
            row = catalog.require(connection, name)
            if tree is None:
                rows = np.asarray(mappings.live_rows(connection, row.uid), np.int64)
            else:
                rows = searching.matching_rows(parts, connection, row, tree)
            head = event_log.read_head(connection).offset
            snapshot = parts.follower.snapshot(name)
            if (snapshot.row.uid, snapshot.row.generation) != (row.uid, row.generation):
                continue  # dropped and created again, or compacted, a moment ago
            times = {"plan": _since(begun)}
            found = _find(snapshot, asked, rows)
            begun = time.perf_counter()
            hits = _fetch(lambda: connection, head, snapshot, found, asked)
            if hits is None:
                continue
            times["fetch"] = _since(begun)
            return hits, found, snapshot, None if tree is None else len(rows), times
        finally:
            connection.execute("COMMIT")
    raise LumaError(f"collection {name!r} changes too fast for a range search: try again")


def _find(snapshot, asked, rows):
    """Return the `planner.Candidates` that score enough, one more than the limit at most.

    rows : ascending int64 array or None
        Among these; None: among the live rows of the snapshot.
    """
    begun = time.perf_counter()
    best = _best(snapshot)
    # Scores are told apart in float64, so a little more than the radius is looked into.
    with np.errstate(over="ignore"):
        radius = np.nextafter(np.float32(best - asked.min_score), np.float32(np.inf))
    # One more than the limit tells whether there are more; more than there are is none.
    limit = min(asked.limit, len(snapshot.vectors)) + 1
    inside, filtered = snapshot.indexed_rows, rows is not None
    if not filtered and (snapshot.dead_indexed or snapshot.dead_tail):
        rows = np.flatnonzero(snapshot.live)
    near = _ask(snapshot, asked, radius, rows, limit)
    # A walk may have been given up, and then all rows compared after all.
    walked = near is not None and not near.scanned.all()
    strategy = planner.WORDS[snapshot.index.kind] if walked else "exact"
    start = 0 if near is None else inside
    behind = len(snapshot.vectors) - start if rows is None else len(rows) - _below(rows, start)
    parts = [] if near is None else [near]
    if behind or near is None:
        parts.append(_scan(snapshot, asked.query, radius, rows, limit, start))
        strategy += "+tail" if walked else ""
    if filtered:
        strategy = f"filter+{strategy}"
    distances = np.concatenate([part.distances for part in parts])
    found = np.concatenate([part.rows for part in parts])
    order = np.lexsort((found, distances))[:limit]
    order = order[best - distances[order].astype(np.float64) >= asked.min_score]
    return planner.Candidates(
        found[order][None],
        distances[order][None],
        strategy,
        None if near is None else near.stats,
        behind,
        _since(begun),
        snapshot.index if walked else None,  # what only scanned its rows was exact
    )


def _ask(snapshot, asked, radius, rows, limit):
    """Return what the index finds among its rows; None without one to ask."""
    index, inside = snapshot.index, snapshot.indexed_rows
    if index is None or inside == 0 or asked.exact:
        return None
    part = None if rows is None else rows[: _below(rows, inside)]
    options = KINDS[index.kind].range_options(snapshot.row)
    try:
        return index.index.search_range(asked.query, radius, rows=part, limit=limit, **options)
    except CorruptStore as error:
        index.lost(error)
        return None


def _scan(snapshot, query, radius, rows, limit, start):
    from luma_lab.index.ranging import exact_range

    among = {"start": start} if rows is None else {"rows": rows[_below(rows, start) :]}
    return exact_range(snapshot.vectors, query, radius, snapshot.row.metric, limit=limit, **among)


def _fetch(connection, newest, snapshot, found, asked):
    """Return the `Hits` of candidates, best first; None where a point is not there any more."""
    rows = found.rows[0].tolist()
    row = snapshot.row
    there = snapshot.points.find(connection, row.uid, row.generation, rows, newest)
    if len(there) < len(rows):
        return None
    best = _best(snapshot)
    ordered = sorted(
        (far, there[at][0], there[at][1], at)
        for far, at in zip(found.distances[0].tolist(), rows, strict=True)
    )
    vectors = snapshot.vectors
    return Hits(
        Hit(
            id,
            best - far,
            None if meta is NULL else decode(meta),
            vectors[at].copy() if asked.include_vector else None,
        )
        for far, id, meta, at in ordered
    )


def _best(snapshot):
    return 1.0 if snapshot.row.metric == "cosine" else 0.0


def _below(rows, row):
    return int(np.searchsorted(rows, row))


def _since(begun):
    return (time.perf_counter() - begun) * 1000
