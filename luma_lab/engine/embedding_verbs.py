"""What joins texts and vectors in a collection: its embedder, and search by both."""

from functools import partial

from luma_lab.engine import embedding, hybrid, points, refitting, stamps
from luma_lab.engine.point_verbs import PointVerbs
from luma_lab.engine.stamps import StaleVectors
from luma_lab.errors import LumaError, UnknownName

RETRIES = 8


class EmbeddingVerbs(PointVerbs):
    """Verbs of points that make the vectors left out, those of the embedder, hybrid search."""

    _parts = None

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
            Dotted paths of the texts in a point's meta. Default: the collection's text fields.
        language : str, optional
            Of ``"lsa"``: see `luma_lab.index.analyzer.Analyzer`. Default: that of the text
            fields, or "en".
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
        """The embedder in use; None where none is set, or none is fitted yet.

        Raises `Conflict` where this process was not given the one of the stamp.
        """
        parts = self._parts
        return self._again(lambda: embedding.embedder_of(parts, parts.follower.row(self.name)))

    def search_hybrid(
        self,
        vector=None,
        text=None,
        k=10,
        *,
        fusion="rrf",
        rrf_k=60,
        weights=None,
        candidates=None,
        filter=None,
        rerank=None,
        group_by=None,
        group_limit=1,
        min_offset=None,
        include_vector=False,
        explain=False,
    ):
        """Find the `k` points that a vector and a text together find best.

        Parameters
        ----------
        vector : array of shape (dim,), optional
            Left out, the text is embedded where the collection has a fitted embedder.
        text : str, optional
            As in :meth:`search_text`, where the collection has text fields (of plain language
            `luma_lab.index.textquery.as_words` takes the signs). At least one of the two is
            needed; with only one branch to be had that one alone answers.
        fusion : {"rrf", "weighted", "distribution"}, or dict with method, k, weights
            See `luma_lab.engine.fusion`.
        rrf_k : float
            The larger, the less the first ranks stand out; for ``"rrf"``.
        weights : dict, optional
            Of the branches: ``{"vector": 1, "text": 1}``. What only a branch of weight 0 finds
            is left out.
        candidates : int, optional
            How deep each branch looks; by default 100, or 4 times `k` where that is more.
        rerank : callable, optional
            ``rerank(text, hits) -> scores`` puts all fused candidates in a new order.
        k, filter, group_by, group_limit, min_offset, include_vector, explain
            As in :meth:`search`. There are always min(k, matches) hits, where what either branch
            finds is a match.

        Returns
        -------
        Hits
            Of `luma_lab.engine.hybrid.HybridHit`, best first, equal ones by id: each with
            ``branches``, its rank, score and weight in ``"vector"`` and ``"text"``.

        Raises
        ------
        CollectionNotFound, DimensionMismatch, InvalidArgument, InvalidFilter, UnknownName
        NotSupported
            A text alone, and the collection has neither text fields nor an embedder.
        EmbedderUnavailable, EmbedderFailed, CorruptStore
        """
        return hybrid.search_hybrid(
            self._parts,
            self.name,
            vector,
            text,
            k,
            fusion=fusion,
            rrf_k=rrf_k,
            weights=weights,
            candidates=candidates,
            filter=filter,
            rerank=rerank,
            group_by=group_by,
            group_limit=group_limit,
            min_offset=min_offset,
            include_vector=include_vector,
            explain=explain,
        )

    def write_each(self, verb, items):
        """Apply items in one commit, see :meth:`PointVerbs.write_each`."""
        items = list(items)
        results = super().write_each(verb, items)
        for place, result in enumerate(results):
            if isinstance(result, StaleVectors):
                results[place] = self._again(partial(super().write_each, verb, [items[place]]))[0]
        return results

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
