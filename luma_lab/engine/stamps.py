"""The stamp of a collection: which embedder makes its vectors, of which texts of a point.

It stands in the catalog and is checked by every write, inside its transaction: vectors of two
models never come to lie in one collection unseen, and no text changes without its vector.
"""

from typing import NamedTuple

from luma_lab.engine import text_settings
from luma_lab.errors import Conflict, InvalidArgument

LSA = "lsa"  # made here, of the collection's own texts
GIVEN = "given"  # an object of the caller's


class Stamp(NamedTuple):
    """Who makes a collection's vectors.

    Attributes
    ----------
    kind : {"lsa", "given"}
    name, fingerprint : str
        Of the embedder; an LSA that is not fitted yet has no fingerprint.
    fields : list of str
        Dotted paths of the texts in a point's meta.
    serial : int
        Offset of the event that set it: no two stamps share one.
    probe : list of float
        Of a given embedder, see `luma_lab.engine.embedders.probe_of`.
    language, directory, fitted_on
        Of an LSA: its language, where it is saved, of how many points it was made.
    """

    kind: str
    name: str
    fingerprint: str | None
    fields: list[str]
    serial: int = 0
    probe: list[float] | None = None
    language: str | None = None
    directory: str | None = None
    fitted_on: int = 0


class StaleVectors(Conflict):
    """The embedder changed between making vectors and writing them: make them anew."""


def stamp_of(row):
    """Return the `Stamp` of a catalog row, or None."""
    return None if row.embedder is None else Stamp(**row.embedder)


class Texts:
    """Takes the text to embed out of a point's meta: that of all its fields, a line each.

    Parameters
    ----------
    fields : list of str
    """

    def __init__(self, fields):
        self._texts = text_settings.Texts({"fields": [(field, 1.0) for field in fields]})

    def of(self, meta):
        """Return the text in a meta (JSON bytes or text); empty where there is none."""
        return "\n".join(text for text in self._texts.of(meta).values() if text.strip())


def check_write(row, batch, old):
    """Raise unless a batch's vectors may go into the collection of a catalog row.

    Parameters
    ----------
    batch : luma_lab.engine.points.Batch
    old : dict of str to luma_lab.store.mappings.PointRow
        The points of the batch that are there.

    Raises
    ------
    StaleVectors
        Made by an embedder that is no longer the collection's.
    InvalidArgument
        Vectors where an LSA makes them, or another text without its vector.
    """
    stamp = stamp_of(row)
    if batch.embedded is not None:
        if stamp is None or stamp.serial != batch.embedded:
            raise StaleVectors(f"the embedder of collection {row.name!r} has changed meanwhile")
        return
    if batch.vectors is not None:
        if stamp.kind == LSA:
            raise InvalidArgument(
                f"the vectors of collection {row.name!r} are made of its texts by {stamp.name}, "
                "and those of another model do not compare with them: leave out the vector"
            )
        return
    texts = Texts(stamp.fields)
    for id, meta in zip(batch.ids, batch.metas, strict=True):
        if meta is not None and texts.of(meta) != texts.of(old[id].meta):
            raise InvalidArgument(
                f"the text of point {id!r} would change without its vector, which "
                f"{stamp.name} makes: "
                + (
                    "write it outside the transaction"
                    if stamp.kind == LSA
                    else "give the vector too, or call use_embedder first"
                )
            )
