"""What a collection has for texts: search by words, and what says which texts there are."""

from luma_lab import codec
from luma_lab.engine import points, texting
from luma_lab.engine.text_settings import check_settings
from luma_lab.store import catalog
from luma_lab.types import WriteResult


class TextVerbs:
    """Search of a collection by words."""

    name = _parts = None

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
