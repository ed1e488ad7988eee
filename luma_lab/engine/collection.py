"""Collections: named sets of points with one dimension and one metric."""

from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import numpy as np

from luma_lab.engine import builds, compaction, embedding, ranging, searching
from luma_lab.engine.embedding_verbs import EmbeddingVerbs
from luma_lab.engine.index_files import kind_of
from luma_lab.engine.text_settings import field_languages, field_weights
from luma_lab.engine.text_verbs import TextVerbs
from luma_lab.errors import InvalidArgument, LumaError
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
    text_fields: dict[str, float] | None = None
    language: str | None = None
    embedder: str | None = None
    field_languages: dict[str, str] | None = None


class VectorSnapshot(NamedTuple):
    """Live points at one offset: `vectors` is float32 of shape (len(ids), dim)."""

    ids: list[str]
    vectors: np.ndarray
    offset: int


class Collection(EmbeddingVerbs, TextVerbs):
    """A collection of a lab; see :class:`PointVerbs` for reading and writing points.

    :class:`EmbeddingVerbs` has what makes vectors of texts, and hybrid search,
    :class:`TextVerbs` what searches them by words.

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
    ):
        """Find the `k` points nearest to `vector`.

        Parameters
        ----------
        vector : array of shape (dim,), or str
            A text is embedded by the collection's embedder.
        k : int
            At least 1; more than there are points gives what there is.
        search_list_size : int, optional
            L of a graph walk: larger finds more, slower. Default: the collection's own.
        nprobe : int, optional
            Cells of an "ivf" index to look into. Default: the collection's own.
        rerank : int, optional
            How many rows of those cells are measured exactly at most, at least `k`. What does
            not fit the index in use has no effect.
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
        if (
            filter is None
            and group_by is None
            and min_offset is None
            and min_score is None
            and nprobe is None
            and rerank is None
            and not (exact or explain or include_vector)
        ):
            hits = searching.quick(self._parts, self.name, vector, k, search_list_size)
            if hits is not None:
                return hits
        if type(vector) is not str and searching.dimensions(vector) == 2:
            raise InvalidArgument("search takes one vector of shape (dim,): use search_many")
        return self._searched(
            [vector],
            k,
            search_list_size=search_list_size,
            nprobe=nprobe,
            rerank=rerank,
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

    def search_range(
        self,
        vector,
        min_score,
        *,
        limit=1000,
        filter=None,
        include_vector=False,
        explain=False,
        exact=False,
    ):
        """Find all points that score at least `min_score`, best first.

        Parameters
        ----------
        vector : array of shape (dim,), or str
            A text is embedded by the collection's embedder.
        min_score : float
            As scores are in :meth:`search`: under "l2" at most 0.
        limit : int
            The most hits, the best ones; ``hits.truncated`` tells whether there are more.
        filter : dict or str, optional
            Only points whose meta matches.
        include_vector : bool
            Put each point's vector on its hit.
        explain : bool
            Fill in ``hits.receipt``.
        exact : bool
            Scan everything. So does every search without an index, and one that would find so
            much that a scan is cheaper; else a few points may be missed.

        Returns
        -------
        Hits

        Raises
        ------
        CollectionNotFound, DimensionMismatch, InvalidArgument, InvalidFilter, CorruptStore
        NotSupported, EmbedderUnavailable, EmbedderFailed
            Of a text.
        """
        if type(vector) is not str and searching.dimensions(vector) == 2:
            raise InvalidArgument("search_range takes one vector of shape (dim,)")
        return self._answered(
            [vector],
            partial(
                ranging.search_range,
                self._parts,
                self.name,
                min_score=min_score,
                limit=limit,
                filter=filter,
                include_vector=include_vector,
                explain=explain,
                exact=exact,
            ),
        )[0]

    def info(self):
        """Return the `CollectionInfo`."""
        row = self._parts.follower.row(self.name)
        matrix = self._matrices.of(row.uid, row.generation, row.dim)
        size = matrix.path.stat().st_size if matrix.path.exists() else 0
        return CollectionInfo(
            row.name,
            row.dim,
            row.metric,
            kind_of(row.index_name) if row.index_name else "flat",
            row.live,
            row.rows,
            row.rows - row.live,
            row.upserts,
            size,
            self._parts.follower.head.offset,
            row.created_at_ms,
            row.updated_at_ms,
            tuple(row.meta_indexes),
            field_weights(row.text) if row.text else None,
            row.text["language"] if row.text else None,
            row.embedder["fingerprint"] or row.embedder["name"] if row.embedder else None,
            field_languages(row.text) if row.text else None,
        )

    @luma_errors
    def snapshot(self):
        """Return a `VectorSnapshot` of the live points, copied."""
        for _ in range(RETRIES):
            seen = self._parts.follower.snapshot(self.name)
            with self._reading() as (connection, row):
                places = mappings.ids_by_row(connection, seen.row.uid)
            rows = np.fromiter((row for row, _ in places), np.int64, len(places))
            same = (row.uid, row.generation) == (seen.row.uid, seen.row.generation)
            if same and np.array_equal(rows, np.flatnonzero(seen.live)):
                return VectorSnapshot([id for _, id in places], seen.vectors[rows], seen.offset)
        raise LumaError(f"collection {self.name!r} changes too fast for a snapshot: try again")

    def build_index(self, kind="auto", **params):
        """Start building an index over the present rows; return its `Job`.

        Parameters
        ----------
        kind : {"auto", "flat", "vamana", "ivf", "diskann"}
            "auto" is the kind the collection was created with, or one by rows, memory and
            metric: see `luma_lab.engine.choosing`.
        **params
            ``threads`` of the build, and what the kind takes. "vamana": ``max_degree``,
            ``build_list_size``, ``alpha``, ``seed``, and ``search_list_size`` for searches.
            "ivf": ``nlist``, ``seed``, and ``nprobe``, ``rerank`` for searches. "diskann": as
            "vamana", with ``search_memory_bytes`` and ``build_memory_bytes``, and
            ``beam_width`` for searches. "auto" takes what fits the kind it stands for.

        Raises
        ------
        UnknownName, InvalidArgument
        """
        return builds.start(self._parts, self.name, kind, params)

    def tune_index(self, *, kind=None, **params):
        """Store index parameters without rebuilding; those of searches work at once.

        Parameters
        ----------
        kind : str, optional
            The index kind they are for; by default that in use, else the collection's.
        """
        return builds.store_params(self._parts, self.name, params, kind)

    def drop_index(self):
        """Go back to exact search until a build is asked for; the index directory is removed."""
        return builds.drop(self._parts, self.name)

    def index_status(self):
        """Return a dict that tells which index answers, over which rows, how large, and why."""
        return builds.status(self._parts, self.name)

    def compact(self):
        """Start giving back the space of dead rows; return the `Job`.

        Searches and writes go on; see `luma_lab.engine.compaction`.
        """
        return compaction.start(self._parts, self.name)

    def _searched(self, queries, k, **options):
        search = partial(searching.search, self._parts, self.name, k=k, **options)
        return self._answered(queries, search)

    def _answered(self, queries, search):
        if type(queries) in (list, tuple) and queries and type(queries[0]) is str:
            return embedding.answer(self._parts, self.name, list(queries), search)
        return search(queries)

    def __len__(self):
        return self._row().live

    def __repr__(self):
        info = self.info()
        return (
            f"Collection({self.name!r}, dim={info.dim}, metric={info.metric!r}, "
            f"points={info.live_count}, index={info.index!r})"
        )
