"""Collections: named sets of points with one dimension and one metric."""

import time
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from luma_lab import codec
from luma_lab.engine import builds, planner, points
from luma_lab.engine.point_verbs import PointVerbs
from luma_lab.errors import InvalidArgument, LumaError
from luma_lab.store import mappings
from luma_lab.store.database import luma_errors
from luma_lab.types import Hit, Hits

RETRIES = 8


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
        if _dimensions(vector) == 2:
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

    @luma_errors
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
        _check_min_score(min_score)
        if min_offset is not None:
            self._parts.follower.wait_for(min_offset, self._parts.wait_secs)
        snapshot = self._parts.follower.snapshot(self.name)
        count = len(vectors) if _dimensions(vectors) != 0 else 1
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

    @luma_errors
    def _fetch(self, snapshot, rows, distances, k, include_vector):
        cosine = snapshot.row.metric == "cosine"
        hits = Hits()
        rows = [row for row in rows.tolist() if row >= 0]
        alive = mappings.read_points_at(self._connection(), snapshot.row.uid, rows)
        for row, distance in zip(rows, distances.tolist(), strict=False):
            point = alive.get(row)
            if point is None:
                continue
            score = (1.0 if cosine else 0.0) - distance
            vector = snapshot.vectors[row].copy() if include_vector else None
            hits.append(Hit(point.id, score, codec.decode(point.meta), vector))
        hits.sort(key=lambda hit: (-hit.score, hit.id))
        del hits[k:]
        return hits


def _dimensions(vectors):
    """Return the number of axes, or None when they are ragged: the check behind names that."""
    try:
        return np.ndim(vectors)
    except ValueError:
        return None


def _check_min_score(min_score):
    real = isinstance(min_score, (int, float, np.number)) and not isinstance(min_score, bool)
    if min_score is not None and not (real and min_score == min_score):
        raise InvalidArgument(f"min_score is {min_score!r}: expected a number")


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
