"""What a collection has besides the verbs of points: an embedder that makes their vectors."""

from functools import partial

from luma_lab.engine import embedding, points, refitting, stamps
from luma_lab.engine.point_verbs import PointVerbs
from luma_lab.engine.stamps import StaleVectors
from luma_lab.errors import LumaError, UnknownName

RETRIES = 8


class EmbeddingVerbs(PointVerbs):
    """Verbs of points that make the vectors left out, and those that set the embedder."""

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
