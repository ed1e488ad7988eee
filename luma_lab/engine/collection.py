"""Collections: named sets of points with one dimension and one metric."""

from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import numpy as np

from luma_lab.engine import builds, embedding, points, refitting, searching, stamps
from luma_lab.engine.point_verbs import PointVerbs
from luma_lab.engine.stamps import StaleVectors
from luma_lab.errors import InvalidArgument, LumaError, UnknownName
from luma_lab.store import mappings
from luma_lab.store.database import luma_errors

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
    meta_indexes: tuple[str, ...] = ()


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
        group_by=None,
        group_limit=1,
        explain=False,
    ):
        """Find the `k` points nearest to `vector`.

        Parameters
        ----------
        vector : array of shape (dim,), or str
            A text is embedded by the collection's embedder.
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
        filter : dict or str, optional
            Only points whose meta matches, see `luma_lab.engine.filters`. There are always
            min(k, matches) hits.
        group_by : str, optional
            Dotted path into meta. `k` then counts groups of one value each, the best of each
            is a hit, and ``hits.groups`` holds up to `group_limit` of each. A point without
            the field is a group of its own.
        group_limit : int
        explain : bool
            Fill in ``hits.receipt``.

        Returns
        -------
        Hits
            Best first; score is cos, the inner product, or minus the squared distance.

        Raises
        ------
        CollectionNotFound, DimensionMismatch, InvalidArgument, InvalidFilter, CorruptStore
        NotSupported, EmbedderUnavailable, EmbedderFailed
            Of a text.
        """
        if type(vector) is not str and searching.dimensions(vector) == 2:
            raise InvalidArgument("search takes one vector of shape (dim,): use search_many")
        return self._searched(
            [vector],
            k,
            search_list_size=search_list_size,
            exact=exact,
            include_vector=include_vector,
            min_score=min_score,
            min_offset=min_offset,
            filter=filter,
            group_by=group_by,
            group_limit=group_limit,
            explain=explain,
        )[0]

    def search_many(self, vectors, k=10, *, threads=1, **options):
        """Find the `k` points nearest to each of many vectors; return a list of `Hits`.

        Parameters
        ----------
        vectors : array of shape (n, dim), or list of str
        threads : int
            Cores to search with; 0 means all.
        **options
            As in :meth:`search`.
        """
        return self._searched(vectors, k, threads=threads, **options)

    def use_embedder(self, embedder, *, fields=None, language=None, replace=False):
        """Have vectors made of texts: those of points written without one, and of queries.

        The collection is stamped with the embedder for good; another process, and another
        notebook, has to hand in the same one (but for ``"lsa"``, which is saved with it).

        Parameters
        ----------
        embedder : embedder, object with encode or embed, or str
            See `luma_lab.engine.embedders.as_embedder`. ``"lsa"`` learns from the collection's
            own texts: unasked once there are 50 points and whenever they have doubled, or by
            :meth:`fit_embedder`. Until then its vectors are zero.
        fields : list of str, optional
            Dotted paths of the texts in a point's meta. Needed the first time.
        language : str, optional
            Of ``"lsa"``: see `luma_lab.index.analyzer.Analyzer`; default "en".
        replace : bool
            The vectors were made by another model: embed every point anew.

        Returns
        -------
        Job or None
            Of embedding every point anew; vectors and stamp change in one commit at its end.

        Raises
        ------
        EmbedderMismatch
            The stamp names another model, or one of this name with other vectors.
        DimensionMismatch, InvalidArgument, UnknownName, NotSupported, Conflict
        EmbedderUnavailable, EmbedderFailed
        """
        return embedding.use(self._parts, self.name, embedder, fields, language, replace)

    def fit_embedder(self, kind="lsa", *, fields=None, language=None, replace=False):
        """Fit an LSA on the collection's texts and embed every point with it; return the `Job`.

        Parameters
        ----------
        kind : {"lsa"}
        fields, language, replace
            As in :meth:`use_embedder`.

        Raises
        ------
        UnknownName, InvalidArgument
        Conflict
            The vectors were made by something else and `replace` is not set.
        """
        if kind != stamps.LSA:
            raise UnknownName("embedder to fit", kind, (stamps.LSA,))
        return refitting.fit(self._parts, self.name, fields, language, replace)

    @property
    def embedder(self):
        """The embedder in use; None where none is set, or none is fitted yet."""
        return embedding.embedder_of(self._parts, self._parts.follower.row(self.name))

    def write_each(self, verb, items):
        """Apply items in one commit, see :meth:`PointVerbs.write_each`."""
        items = list(items)
        results = super().write_each(verb, items)
        for place, result in enumerate(results):
            if isinstance(result, StaleVectors):
                results[place] = self._again(partial(super().write_each, verb, [items[place]]))[0]
        return results

    def _searched(self, queries, k, **options):
        search = partial(searching.search, self._parts, self.name, k=k, **options)
        if type(queries) in (list, tuple) and queries and type(queries[0]) is str:
            return embedding.answer(self._parts, self.name, list(queries), search)
        return search(queries)

    def _write(self, verb, ids, vectors, metas):
        write = partial(super()._write, verb, ids, vectors, metas)
        return write() if vectors is not None else self._again(write)

    def _again(self, write):
        """Return what a write returns; embed anew where the embedder changed on the way."""
        for _ in range(RETRIES):
            try:
                return write()
            except StaleVectors:
                continue
        raise LumaError(f"the embedder of {self.name!r} changes too fast: try again")

    def _batch(self, row, verb, ids, vectors, metas):
        if vectors is not None or row.embedder is None:
            return super()._batch(row, verb, ids, vectors, metas)
        batch = points.check_batch(
            ids, None, metas, dim=row.dim, collection=self.name, keep_vectors=True
        )
        return embedding.fill(self._parts, row, batch)

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
            tuple(row.meta_indexes),
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
