"""Collections: named sets of points with one dimension and one metric."""

from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import numpy as np

from luma_lab import codec
from luma_lab.engine import builds, embedding, points, searching, texting
from luma_lab.engine.embedding_verbs import EmbeddingVerbs
from luma_lab.engine.text_settings import check_settings, field_languages, field_weights
from luma_lab.errors import InvalidArgument, LumaError
from luma_lab.store import catalog, mappings
from luma_lab.store.database import luma_errors
from luma_lab.types import WriteResult

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
    field_languages: dict[str, str] | None = None
    embedder: str | None = None


class VectorSnapshot(NamedTuple):
    """Live points at one offset: `vectors` is float32 of shape (len(ids), dim)."""

    ids: list[str]
    vectors: np.ndarray
    offset: int


class Collection(EmbeddingVerbs):
    """A collection of a lab; see :class:`PointVerbs` for reading and writing points.

    :class:`EmbeddingVerbs` has what makes vectors of texts, and hybrid search.

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

    def search_text(
        self,
        query,
        k=10,
        *,
        filter=None,
        min_score=None,
        min_offset=None,
        group_by=None,
        group_limit=1,
        facets=None,
        facet_size=10,
        sort=None,
        highlight=False,
        include_vector=False,
        explain=False,
    ):
        """Find the `k` points whose text fields match a query best, by BM25.

        Parameters
        ----------
        query : str
            Words, and the syntax of `luma_lab.index.textquery`. Without a word, or of stop words
            only, it finds nothing.
        k, filter, min_score, min_offset, group_by, group_limit, include_vector
            As in :meth:`search`; there are always min(k, matches) hits.
        facets : list of str, optional
            Dotted paths into meta: ``hits.facets`` tells of each how many of all matching points
            (that score at least `min_score`) have which value, the most frequent first. Each
            value of a list counts once, a missing field or null not at all.
        facet_size : int
            Values of each facet.
        sort : str, optional
            Dotted path into meta to order all matches by instead of by score; with a leading
            ``-`` descending. Numbers come before strings, strings before booleans, what has
            none of these last; equal ones are ordered by score.
        highlight : bool
            Put a `Snippet` of each text field on each hit, as ``hit.highlights``.
        explain : bool
            Fill in ``hits.receipt``, and ``hit.explanation`` of each hit.

        Returns
        -------
        Hits
            Best first; points of equal score in the order in which they were written.

        Raises
        ------
        CollectionNotFound, InvalidArgument, InvalidFilter, CorruptStore
        NotSupported
            The collection has no text fields.
        """
        return texting.search_text(
            self._parts,
            self.name,
            query,
            k,
            filter=filter,
            min_score=min_score,
            min_offset=min_offset,
            group_by=group_by,
            group_limit=group_limit,
            facets=facets,
            facet_size=facet_size,
            sort=sort,
            highlight=highlight,
            include_vector=include_vector,
            explain=explain,
        )

    def explain_text(self, query, id):
        """Return the `luma_lab.index.scoring.Explanation` of a point's score, in float64.

        Raises
        ------
        CollectionNotFound, PointNotFound, NotSupported, InvalidArgument
        """
        return texting.explain_text(self._parts, self.name, query, points.check_id(id))

    def analyze(self, text, field=None):
        """Return the tokens of a text: each word, its place, and the forms it is found by.

        Parameters
        ----------
        text : str
        field : str, optional
            The text field whose language is taken; by default the collection's.
        """
        return texting.analyze(self._parts, self.name, text, field)

    def set_text_fields(self, text_fields, language=None, **text_options):
        """Make the points searchable by words, or by other words than before.

        Parameters
        ----------
        text_fields : list of str, or dict of str to float or dict, or None
            Dotted paths into meta, with weights (default 1), at most 16. A field with a
            language of its own has ``{"weight": 2.0, "language": "es"}`` for its weight. A list
            in a meta counts as its strings; what is missing, or is no text, as an empty text.
            None: text search ends.
        language : str, default "en"
            A Snowball language ("en", "es", "de", ...), or "none" for words as they are.
        **text_options
            ``text_variant="lucene"``, ``k1=1.2``, ``b=0.75``, ``stop_words=False`` and
            ``text_positions=False`` (needed by phrases), as of `luma_lab.index.TextIndex`.

        Returns
        -------
        WriteResult
            The index is made by the next search.

        Raises
        ------
        CollectionNotFound, InvalidArgument, UnknownName
        """
        settings = check_settings(text_fields, language, **text_options)

        def operation(unit):
            row = catalog.require(unit.connection, self.name)
            catalog.set_text(unit.connection, row.uid, settings)
            data = codec.encode({"collection": self.name, "text": settings})
            return WriteResult(unit.append("index_tuned", collection=self.name, data=data), 1)

        return self._parts.writer.run(operation)

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
            field_weights(row.text) if row.text else None,
            row.text["language"] if row.text else None,
            field_languages(row.text) if row.text else None,
            row.embedder["fingerprint"] or row.embedder["name"] if row.embedder else None,
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

    def _searched(self, queries, k, **options):
        search = partial(searching.search, self._parts, self.name, k=k, **options)
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
