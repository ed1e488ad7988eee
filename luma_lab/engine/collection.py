"""Collections: named sets of points with one dimension and one metric."""

import time
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import numpy as np

from luma_lab import codec
from luma_lab.engine import builds, planner, points
from luma_lab.engine.points import KEEP
from luma_lab.errors import InvalidArgument, LumaError
from luma_lab.store import catalog, mappings
from luma_lab.types import Hit, Hits, Point

RETRIES = 8
SCROLL_LIMIT = 100


@dataclass(frozen=True)
class CollectionInfo:
    """Counters of a collection; sizes in bytes, times in ms since 1970."""

    name: str
    dim: int
    metric: str
    index: str
    live_count: int
    total_rows: int
    deleted_count: int
    upsert_count: int
    file_bytes: int
    applied_offset: int
    created_at_ms: int
    updated_at_ms: int


class VectorSnapshot(NamedTuple):
    """Live points at one offset: `vectors` is float32 of shape (len(ids), dim)."""

    ids: list[str]
    vectors: np.ndarray
    offset: int


class PointVerbs:
    """Reading and writing points by id, on a lab or inside a transaction.

    Parameters
    ----------
    name : str
    apply : callable
        Runs an operation on a write transaction and returns its result.
    connection : callable
        Returns the connection to read with.
    matrices : luma_lab.engine.views.Matrices
    """

    def __init__(self, name, apply, connection, matrices):
        self.name = name
        self._apply = apply
        self._connection = connection
        self._matrices = matrices

    @property
    def dim(self):
        """Components per vector."""
        return self._row().dim

    @property
    def metric(self):
        """The metric, one of ``"cosine" "dot" "l2"``."""
        return self._row().metric

    def upsert(self, ids, vectors, metas=None):
        """Insert points, or replace those whose id is there.

        Parameters
        ----------
        ids : str, int, or sequence of them
            Each once. One id takes a vector of shape (dim,) and one meta.
        vectors : array of shape (n, dim)
            Anything `numpy.asarray` takes; stored as float32 exactly as sent.
        metas : sequence of JSON values, optional

        Returns
        -------
        WriteResult
            `offset` of the last of n events, `count` n.

        Raises
        ------
        InvalidArgument, DimensionMismatch
            Naming the position or id; the whole batch is refused.
        """
        return self._write("upsert", ids, vectors, metas)

    def add(self, ids, vectors, metas=None):
        """Insert points; raise `AlreadyExists` if an id is there. See :meth:`upsert`."""
        return self._write("add", ids, vectors, metas)

    def update(self, ids, vectors=None, metas=KEEP):
        """Change points that are there; what is left out stays. See :meth:`upsert`.

        Raises
        ------
        PointNotFound
            An id is not there; nothing is changed.
        """
        return self._write("update", ids, vectors, metas)

    def delete(self, ids):
        """Delete points by id (one or many); the result's `count` tells how many were there."""
        return self._apply(partial(points.delete_points, name=self.name, ids=_id_list(ids)))

    def write_each(self, verb, items):
        """Apply items in one commit, in order, each for itself.

        Parameters
        ----------
        verb : {"upsert", "add", "update", "delete"}
        items : list of (id, vector or None, meta or KEEP)

        Returns
        -------
        list of WriteResult or LumaError
        """
        row = self._row()
        batches = []
        for id, vector, meta in items:
            try:
                if verb == "delete":
                    batches.append(points.Batch([points.check_id(id)], None, []))
                else:
                    batches.append(self._batch(row, verb, id, vector, meta))
            except LumaError as error:
                batches.append(error)
        return self._apply(partial(points.write_each, name=self.name, items=batches, verb=verb))

    def get(self, id):
        """Return the `Point` called `id`, or None."""
        return self.get_many([id])[0]

    def get_many(self, ids):
        """Return a list with the `Point` or None of each id, in order."""
        ids = _id_list(ids)
        with self._reading() as (connection, row):
            found = [mappings.read_point(connection, row.uid, id) for id in ids]
            return [None if p is None else self._point(row, p) for p in found]

    def scroll(self, after=None, limit=SCROLL_LIMIT):
        """Return (points, next): a page in byte order of id, and the `after` of the next page.

        Parameters
        ----------
        after : str, optional
            Only ids beyond this one.
        limit : int

        Returns
        -------
        points : list of Point
        next : str or None
            None when this was the last page.
        """
        if type(limit) is not int or limit < 1:
            raise InvalidArgument(f"limit is {limit!r}: expected an int of at least 1")
        after = "" if after is None else points.check_id(after)
        with self._reading() as (connection, row):
            found = mappings.scan_points(connection, row.uid, after, limit + 1)
            page = [self._point(row, p) for p in found[:limit]]
        return page, page[-1].id if len(found) > limit else None

    def __contains__(self, id):
        row = self._row()
        return mappings.find_row(self._connection(), row.uid, points.check_id(id)) is not None

    def _write(self, verb, ids, vectors, metas):
        batch = self._batch(self._row(), verb, ids, vectors, metas)
        return self._apply(partial(points.write_points, name=self.name, batch=batch, verb=verb))

    def _batch(self, row, verb, ids, vectors, metas):
        return points.check_batch(
            ids,
            vectors,
            metas,
            dim=row.dim,
            collection=self.name,
            keep_vectors=verb == "update",
        )

    def _row(self):
        return catalog.require(self._connection(), self.name)

    def _reading(self):
        return _Reading(self._connection(), self.name)

    def _point(self, row, found):
        vector = self._matrices.of(row.uid, row.generation, row.dim).read(found.row)
        return Point(found.id, vector, codec.decode(found.meta))


class Collection(PointVerbs):
    """A collection of a lab; see :class:`PointVerbs` for reading and writing points.

    Thread-safe. Every search sees every write acknowledged before it began, in any process.
    """

    def __init__(self, name, lab_parts):
        parts = lab_parts
        super().__init__(name, parts.writer.run, parts.database.reader, parts.matrices)
        self._parts = parts

    def search(
        self,
        vector,
        k=10,
        *,
        search_list_size=None,
        exact=False,
        include_vector=False,
        min_score=None,
        min_offset=None,
        filter=None,
        explain=False,
    ):
        """Find the `k` points nearest to `vector`.

        Parameters
        ----------
        vector : array of shape (dim,)
        k : int
            At least 1; more than there are points gives what there is.
        search_list_size : int, optional
            L of the graph walk: larger finds more, slower. Default: the collection's own.
        exact : bool
            Scan everything instead of walking an index.
        include_vector : bool
            Put each point's vector on its hit.
        min_score : float, optional
            Leave out hits that score less.
        min_offset : int, optional
            Wait until this offset is readable.
        explain : bool
            Fill in ``hits.receipt``.

        Returns
        -------
        Hits
            Best first; score is cos, the inner product, or minus the squared distance.

        Raises
        ------
        CollectionNotFound, DimensionMismatch, InvalidArgument, CorruptStore
        """
        if np.ndim(vector) == 2:
            raise InvalidArgument("search takes one vector of shape (dim,): use search_many")
        return self._search(
            [vector],
            k,
            search_list_size=search_list_size,
            exact=exact,
            include_vector=include_vector,
            min_score=min_score,
            min_offset=min_offset,
            filter=filter,
            explain=explain,
        )[0]

    def search_many(self, vectors, k=10, *, threads=1, **options):
        """Find the `k` points nearest to each of many vectors; return a list of `Hits`.

        Parameters
        ----------
        vectors : array of shape (n, dim)
        threads : int
            Cores to search with; 0 means all.
        **options
            As in :meth:`search`.
        """
        return self._search(vectors, k, threads=threads, **options)

    def info(self):
        """Return the `CollectionInfo`."""
        row = self._parts.follower.row(self.name)
        matrix = self._matrices.of(row.uid, row.generation, row.dim)
        size = matrix.path.stat().st_size if matrix.path.exists() else 0
        return CollectionInfo(
            row.name,
            row.dim,
            row.metric,
            row.index_name.rsplit("-", 1)[0] if row.index_name else "flat",
            row.live,
            row.rows,
            row.rows - row.live,
            row.upserts,
            size,
            self._parts.follower.head.offset,
            row.created_at_ms,
            row.updated_at_ms,
        )

    def snapshot(self):
        """Return a `VectorSnapshot` of the live points, copied."""
        for _ in range(RETRIES):
            seen = self._parts.follower.snapshot(self.name)
            places = mappings.ids_by_row(self._connection(), seen.row.uid)
            rows = np.fromiter((row for row, _ in places), np.int64, len(places))
            if np.array_equal(rows, np.flatnonzero(seen.live)):
                return VectorSnapshot([id for _, id in places], seen.vectors[rows], seen.offset)
        raise LumaError(f"collection {self.name!r} changes too fast for a snapshot: try again")

    def build_index(self, kind="auto", **params):
        """Start building an index over the present rows; return its `Job`.

        Parameters
        ----------
        kind : {"auto", "flat", "vamana"}
            "auto" is exact search below 10,000 rows, a Vamana graph from there on.
        **params
            ``max_degree``, ``build_list_size``, ``alpha``, ``seed``, ``threads`` of the build,
            ``search_list_size`` for later searches.

        Raises
        ------
        UnknownName, InvalidArgument, NotSupported
        """
        return builds.start(self._parts, self.name, kind, params)

    def tune_index(self, **params):
        """Store index parameters without rebuilding; ``search_list_size`` works at once."""
        return builds.store_params(self._parts, self.name, params)

    def drop_index(self):
        """Go back to exact search; the index directory is removed."""
        return builds.drop(self._parts, self.name)

    def index_status(self):
        """Return a dict that tells which index answers, over which rows, how large it is."""
        return builds.status(self._parts, self.name)

    def __len__(self):
        return self._row().live

    def __repr__(self):
        info = self.info()
        return (
            f"Collection({self.name!r}, dim={info.dim}, metric={info.metric!r}, "
            f"points={info.live_count}, index={info.index!r})"
        )

    def _search(
        self,
        vectors,
        k,
        *,
        search_list_size=None,
        exact=False,
        include_vector=False,
        min_score=None,
        min_offset=None,
        filter=None,
        explain=False,
        threads=1,
    ):
        if filter is not None:
            builds.refuse("filter", "filters come with the convergent core")
        if isinstance(k, bool) or not isinstance(k, (int, np.integer)) or k < 1:
            raise InvalidArgument(f"invalid k: {k!r}: expected an int of at least 1")
        builds.check_list_size(search_list_size, k)
        if min_offset is not None:
            self._parts.follower.wait_for(min_offset, self._parts.wait_secs)
        snapshot = self._parts.follower.snapshot(self.name)
        count = len(vectors)
        if count == 0:
            return []
        queries = points.check_vectors(vectors, count, snapshot.row.dim, self.name)
        for attempt in range(RETRIES + 1):
            wanted = min(int(k) + 4 * attempt * int(k), max(1, snapshot.live_count))
            found = planner.find_candidates(
                snapshot,
                queries,
                wanted,
                search_list_size=search_list_size,
                exact=exact,
                threads=threads,
            )
            fetch_started = time.perf_counter()
            answers = [
                self._fetch(snapshot, rows, distances, k, include_vector)
                for rows, distances in zip(found.rows, found.distances, strict=True)
            ]
            # A point that died between the walk and the fetch leaves a hole: look again.
            if all(len(a) >= min(k, snapshot.live_count) for a in answers):
                break
            snapshot = self._parts.follower.snapshot(self.name)
        fetch_ms = (time.perf_counter() - fetch_started) * 1000
        if min_score is not None:
            answers = [Hits(h for h in hits if h.score >= min_score) for hits in answers]
        if explain:
            for i, hits in enumerate(answers):
                hits.receipt = _receipt(snapshot, found, i, fetch_ms, k, search_list_size)
        return answers

    def _fetch(self, snapshot, rows, distances, k, include_vector):
        connection = self._connection()
        uid = snapshot.row.uid
        cosine = snapshot.row.metric == "cosine"
        hits = Hits()
        for row, distance in zip(rows.tolist(), distances.tolist(), strict=True):
            if row < 0:
                break
            point = mappings.read_point_at(connection, uid, row)
            if point is None:
                continue
            score = 1.0 - distance if cosine else -distance
            vector = snapshot.vectors[row].copy() if include_vector else None
            hits.append(Hit(point.id, score, codec.decode(point.meta), vector))
        hits.sort(key=lambda hit: (-hit.score, hit.id))
        del hits[k:]
        return hits


class _Reading:
    """A read transaction with the collection's catalog row."""

    def __init__(self, connection, name):
        self._connection, self._name = connection, name
        self._ours = not connection.in_transaction

    def __enter__(self):
        if self._ours:
            self._connection.execute("BEGIN")
        try:
            return self._connection, catalog.require(self._connection, self._name)
        except BaseException:
            self.__exit__()
            raise

    def __exit__(self, *_):
        if self._ours:
            self._connection.execute("COMMIT")


def _id_list(ids):
    if isinstance(ids, (str, int, np.integer)):
        ids = [ids]
    return [points.check_id(id) for id in ids]


def _receipt(snapshot, found, i, fetch_ms, k, search_list_size):
    index = snapshot.index if found.strategy != "exact" else None
    size = search_list_size or snapshot.row.params.get(
        "search_list_size", planner.DEFAULT_LIST_SIZE
    )
    return {
        "strategy": found.strategy,
        "exact": found.strategy == "exact",
        "kind": "flat" if index is None else snapshot.index_name.rsplit("-", 1)[0],
        "hops": int(found.hops[i]),
        "comparisons": int(found.comparisons[i]),
        "reads": 0,
        "cache_hits": 0,
        "candidates": int((found.rows[i] >= 0).sum()),
        "matches": None,
        "params": {"k": int(k)} if index is None else {"k": int(k), "search_list_size": size},
        "fingerprint": None if index is None else index.fingerprint,
        "offset": snapshot.offset,
        "times_ms": {"plan": 0.0, "walk": found.walk_ms, "rerank": 0.0, "fetch": fetch_ms},
    }
