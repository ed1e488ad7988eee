"""How a search is answered: plan, candidates, fetch, filter, group, receipt.

A filtered search reads which rows match, and later the points it answers with, in one read
transaction that began before the vectors were looked up; points that are kept in memory count only
as of that transaction. So every hit satisfies the filter with the very meta it is returned with,
and no match is lost to a write in between.
"""

import functools
import time
from operator import lt

import numpy as np

from luma_lab.codec import decode
from luma_lab.engine import filters, kinds, meta_indexes, planner, points
from luma_lab.engine.grouping import Grouping, above, check_k, check_min_score
from luma_lab.engine.point_cache import NO_LIMIT
from luma_lab.errors import LumaError
from luma_lab.store import catalog, deadline, mappings
from luma_lab.store import log as event_log
from luma_lab.store.database import luma_errors
from luma_lab.store.nearest import NULL
from luma_lab.types import LARGEST_SQUARE, Hit, Hits

RETRIES = 8
FLOAT32, FLOAT64 = np.dtype(np.float32), np.dtype(np.float64)
WIDEN = 4
# What takes as long as so many components of rows a walk compares: a place of its list beside
# these, and a point that is read from the database and sent.
PLACE_FLOATS, HIT_FLOATS = 512, 2048


def quick(parts, name, vector, k, search_list_size=None, *, most=None, made=None):
    """Return the `Hits` of a search without other options, or None: :func:`search` must look.

    For what nearly every search is: one good vector, and nothing to be done but to walk a graph.

    Parameters
    ----------
    most : int, optional
        Also None where walk and hits cost more, in components, where the collection's metas take
        long to decode, or where anything has to be read or compiled before.
    made : callable, optional
        As in :func:`search`.
    """
    if type(vector) is list:
        vector = _as_float32(vector)
    if type(k) is not int or type(vector) is not np.ndarray:
        return None
    deadline.check()
    follower = parts.follower
    snapshot = follower.snapshot(name) if most is None else follower.ready(name)
    if snapshot is None:
        return None
    index, row = snapshot.index, snapshot.row
    if (
        index is None
        or index.kind != "vamana"
        or snapshot.dead_indexed
        or snapshot.indexed_rows != len(snapshot.vectors)
        or not 0 < k <= snapshot.live_count
        or vector.shape != (row.dim,)
        or vector.dtype is not FLOAT32
    ):
        return None
    asked = planner.NOTHING
    if search_list_size is not None:
        kinds.check_list_size(search_list_size, k)
        asked = {"search_list_size": search_list_size}
    options = kinds.KINDS["vamana"].options(row, asked, k)
    if most is not None:
        cost = options["search_list_size"] * (row.dim + PLACE_FLOATS) + k * HIT_FLOATS
        if cost > most or not index.has_walked or snapshot.points.has_long:
            return None
    try:
        found = index.search(vector, k, **options)
    except LumaError:
        return None  # for search to say in its own words
    index.has_walked = True
    rows, distances = found.rows[0].tolist(), found.distances[0].tolist()
    hits = _fetch(made, False, parts.database.reader, NO_LIMIT, snapshot, rows, distances)
    # A point that died between the walk and the fetch leaves a hole: look again.
    return hits if len(hits) == k else None


def _as_float32(numbers):
    """Return a list of floats as a float32 array, or None of anything else."""
    try:
        array = np.array(numbers)
    except ValueError:
        return None
    if array.dtype is not FLOAT64:
        return None
    with np.errstate(over="ignore"):  # what overflows becomes infinity, which no walk takes
        return array.astype(FLOAT32)


def search(
    parts,
    name,
    vectors,
    k,
    *,
    search_list_size=None,
    nprobe=None,
    rerank=None,
    exact=False,
    include_vector=False,
    min_score=None,
    min_offset=None,
    filter=None,
    group_by=None,
    group_limit=1,
    explain=False,
    threads=1,
    made=None,
):
    """Return a list of `Hits`, one for each vector; see `Collection.search`.

    Parameters
    ----------
    made : callable, optional
        ``made(points, scores)`` returns the list that stands for the `Hits` of a search without
        groups or vectors; points are tuples that begin with id and meta as JSON text.
    """
    k = check_k(k)
    if search_list_size is not None:
        kinds.check_list_size(search_list_size, k)
    if nprobe is not None or rerank is not None:
        kinds.check_count("nprobe", nprobe, 1, kinds.MOST_ROWS)
        kinds.check_count("rerank", rerank, k, kinds.MOST_ROWS)
    if min_score is not None:
        check_min_score(min_score)
    tree = None if filter is None else filters.parse(filter)
    groups = None if group_by is None else Grouping(group_by, group_limit)
    if min_offset is not None:
        parts.follower.wait_for(min_offset, parts.wait_secs)
    snapshot = parts.follower.snapshot(name)
    queries = _one_query(vectors, snapshot.row.dim)
    if queries is None:
        count = len(vectors) if dimensions(vectors) != 0 else 1
        if count == 0:
            return []
        queries = points.check_vectors(vectors, count, snapshot.row.dim, name)
    fetch = functools.partial(_fetch, made, include_vector)
    asked = planner.NOTHING
    if search_list_size or nprobe or rerank:
        asked = {"search_list_size": search_list_size, "nprobe": nprobe, "rerank": rerank}
    options = {"asked": asked, "exact": exact, "threads": threads}
    if tree is None:
        answers, found, snapshot, fetch_ms = _unfiltered(
            parts, name, snapshot, queries, k, options, fetch, groups
        )
        matches, plan_ms = None, 0.0
    else:
        answers, found, snapshot, fetch_ms, matches, plan_ms = _filtered(
            parts, name, tree, queries, k, options, fetch, groups
        )
    if min_score is not None:
        answers = [above(hits, min_score) for hits in answers]
    if explain:
        for i, hits in enumerate(answers):
            receipt = receipt_of(snapshot, found, i, k, asked)
            receipt["matches"] = matches
            receipt["times_ms"] |= {
                "plan": plan_ms / len(answers),
                "fetch": fetch_ms / len(answers),
            }
            hits.receipt = receipt
    return answers


def matching_rows(parts, connection, row, tree):
    """Return the ascending int64 array of the matrix rows whose points match a filter.

    Parameters
    ----------
    connection : apsw.Connection
        Inside the read transaction that read the catalog row `row`.
    """
    condition, bindings = meta_indexes.where_points(tree, row)
    # No two states of a collection have the same three counters: writes count up `upserts`,
    # deletes count down `live` in between.
    place = (row.uid, row.generation, row.rows, row.live, row.upserts, condition, tuple(bindings))
    cached = parts.masks.get(place)
    if cached is None:
        found = mappings.rows_where(connection, condition, bindings)
        cached = np.fromiter(found, np.int64)
        cached.sort()
        cached.setflags(write=False)
        parts.masks[place] = cached
    return cached


def dimensions(vectors):
    """Return the number of axes, or None when they are ragged: the check behind names that."""
    if type(vectors) is np.ndarray:
        return vectors.ndim
    try:
        return np.ndim(vectors)
    except ValueError:
        return None


def _one_query(vectors, dim):
    """Return one good float32 vector as it is, of shape (dim,), or None: look closer."""
    if type(vectors) is not list or len(vectors) != 1:
        return None
    vector = vectors[0]
    if type(vector) is not np.ndarray or vector.dtype != np.float32 or vector.shape != (dim,):
        return None
    if not vector.flags.c_contiguous:
        vector = vector.copy()
    return vector if _wide_square()(vector) <= LARGEST_SQUARE else None


@functools.cache
def _wide_square():
    from luma_lab.kernels.distance import wide_square

    return wide_square


def _unfiltered(parts, name, snapshot, queries, k, options, fetch, groups):
    for attempt in range(RETRIES + 1):
        deadline.check()
        wanted = _wanted(k, attempt, groups, max(1, snapshot.live_count))
        found = planner.find_candidates(snapshot, queries, wanted, **options)
        fetch_started = time.perf_counter()
        answers = [
            fetch(parts.database.reader, NO_LIMIT, snapshot, rows, distances)
            for rows, distances in zip(found.rows.tolist(), found.distances.tolist(), strict=True)
        ]
        # A point that died between the walk and the fetch leaves a hole, a compaction leaves
        # nothing but holes: look again.
        whole = all(len(a) >= min(k, snapshot.live_count) for a in answers)
        if groups is not None:
            full = sum(map(len, answers)) == np.count_nonzero(found.rows >= 0)
            answers = [groups(hits, k) for hits in answers]
            whole = (full and wanted >= snapshot.live_count) or groups.are_full(answers, k)
        if whole or (attempt == RETRIES and groups is None):
            break
        snapshot = parts.follower.snapshot(name)
    if groups is None:
        for hits in answers:
            del hits[k:]
    return answers, found, snapshot, (time.perf_counter() - fetch_started) * 1000


@luma_errors
def _filtered(parts, name, tree, queries, k, options, fetch, groups):
    connection = parts.database.reader()
    for _ in range(RETRIES):
        started = time.perf_counter()
        connection.execute("BEGIN")
        try:
            row = catalog.require(connection, name)
            rows = matching_rows(parts, connection, row, tree)
            head = event_log.read_head(connection).offset
            snapshot = parts.follower.snapshot(name)
            if (snapshot.row.uid, snapshot.row.generation) != (row.uid, row.generation):
                continue  # dropped and created again, or compacted, a moment ago
            plan_ms = (time.perf_counter() - started) * 1000
            attempt = 0
            while True:
                deadline.check()
                wanted = _wanted(k, attempt, groups, max(1, len(rows)))
                found = planner.find_among(snapshot, queries, wanted, rows, **options)
                fetch_started = time.perf_counter()
                answers = [
                    fetch(lambda: connection, head, snapshot, r, d)
                    for r, d in zip(found.rows.tolist(), found.distances.tolist(), strict=True)
                ]
                if groups is None:
                    for hits in answers:
                        del hits[k:]
                    break
                answers = [groups(hits, k) for hits in answers]
                if wanted >= len(rows) or groups.are_full(answers, k):
                    break
                attempt += 1
            fetch_ms = (time.perf_counter() - fetch_started) * 1000
            return answers, found, snapshot, fetch_ms, len(rows), plan_ms
        finally:
            connection.execute("COMMIT")
    raise LumaError(f"collection {name!r} changes too fast for a filtered search: try again")


def _wanted(k, attempt, groups, most):
    """Return how many candidates to look for at an attempt."""
    if groups is None:
        return min(k + WIDEN * attempt * k, most)
    return min(k * groups.limit * WIDEN ** (attempt + 1), most)


def _fetch(made, include_vector, connection, newest, snapshot, rows, distances):
    best = 1.0 if snapshot.row.metric == "cosine" else 0.0
    if rows and rows[-1] < 0:
        rows = [row for row in rows if row >= 0]
    points, is_whole = _points(snapshot, connection, newest, rows)
    # Ascending without ties and all alive, as nearly always: nothing to sort.
    if include_vector or not is_whole or not all(map(lt, distances, distances[1 : len(rows)])):
        found = [
            (distance, point[0], point, row)
            for point, distance, row in zip(points, distances, rows, strict=False)
            if point is not None
        ]
        found.sort()
        distances = [distance for distance, *_ in found]
        points, rows = [point for *_, point, _ in found], [row for *_, row in found]
    if made is not None:
        return made(points, [best - far for far in distances[: len(points)]])
    scored = zip(points, distances, strict=False)
    if not include_vector:
        return Hits(
            [
                Hit(id, best - far, None if meta is NULL else decode(meta))
                for (id, meta, _), far in scored
            ]
        )
    vectors = snapshot.vectors
    return Hits(
        Hit(id, best - far, None if meta is NULL else decode(meta), vectors[row].copy())
        for ((id, meta, _), far), row in zip(scored, rows, strict=True)
    )


def _points(snapshot, connection, newest, rows):
    """Return (id, meta as JSON text, revision) of each row, and whether none has died since.

    The dead are None.
    """
    if newest is NO_LIMIT:
        known = snapshot.points.young
        try:
            return [known[row] for row in rows], True
        except KeyError:
            pass
    found = snapshot.points.find(
        connection, snapshot.row.uid, snapshot.row.generation, rows, newest
    )
    return [found.get(row) for row in rows], len(found) == len(rows)


def receipt_of(snapshot, found, i, k, asked):
    """Return the receipt of the `i`-th query of what the planner found in a snapshot.

    Parameters
    ----------
    asked : dict
        Options of the search, None where the index's own hold.
    """
    index = None if found.index is None else snapshot.index
    rerank_ms = found.count("rerank_nanoseconds", i) / 1e6
    params = {"k": k}
    if index is not None:
        params |= kinds.KINDS[index.kind].options(snapshot.row, asked, k)
    return {
        "strategy": found.strategy,
        "exact": index is None,
        "kind": "flat" if index is None else index.kind,
        "hops": found.count("hops", i),
        "comparisons": found.count("comparisons", i) + found.scanned,
        "reads": found.count("reads", i),
        "cache_hits": found.count("cache_hits", i),
        "candidates": int((found.rows[i] >= 0).sum()),
        "matches": None,
        "params": params,
        "fingerprint": None if index is None else index.fingerprint,
        "offset": snapshot.offset,
        "times_ms": {
            "plan": 0.0,
            "walk": max(0.0, found.elapsed_ms - rerank_ms),
            "rerank": rerank_ms,
            "fetch": 0.0,
        },
    }
