"""How texts become a collection's vectors: its embedder, asked by searches and by writes."""

import logging

import numpy as np

from luma_lab import codec
from luma_lab.engine import points
from luma_lab.engine.embedders import as_embedder, probe_of, same_probe
from luma_lab.engine.stamps import GIVEN, LSA, StaleVectors, Stamp, Texts, stamp_of
from luma_lab.engine.text_settings import field_weights
from luma_lab.errors import (
    Conflict,
    CorruptStore,
    DimensionMismatch,
    EmbedderMismatch,
    InvalidArgument,
    LumaError,
    NotSupported,
    StorageError,
)
from luma_lab.store import catalog, embeddings

RETRIES = 16
CACHE_BYTES = 256 << 20
log = logging.getLogger(__name__)


def embedder_of(parts, row):
    """Return the live embedder of a catalog row; None where there is none, or none fitted yet.

    Raises
    ------
    Conflict
        The collection's embedder was not handed to this process.
    EmbedderMismatch, CorruptStore
    """
    stamp = stamp_of(row)
    if stamp is None:
        return None
    if stamp.kind == LSA:
        return None if stamp.directory is None else _load(parts, row, stamp)
    embedder = parts.embedders.get(row.uid)
    if embedder is None:
        raise Conflict(
            f"the vectors of collection {row.name!r} are made by {stamp.fingerprint}, which "
            "this process was not given: call use_embedder with it"
        )
    if embedder.fingerprint != stamp.fingerprint:
        raise EmbedderMismatch(row.name, stamp.fingerprint, embedder.fingerprint)
    return embedder


def embed(parts, embedder, texts):
    """Return the vectors of texts, from the store where an endpoint made them before.

    Raises
    ------
    InvalidArgument
        The calling thread writes, and the embedder could keep all other writes waiting.
    """
    if parts.writer.is_held_here and not getattr(embedder, "local", False):
        raise InvalidArgument(
            f"{embedder.name} is not asked for vectors inside a write, which would keep all "
            "others waiting: embed before it, and pass the vector"
        )
    if not getattr(embedder, "cacheable", False) or not texts:
        return embedder.embed(texts)
    # Names are shared by models of other vectors, which a probe tells apart.
    if getattr(embedder, "probe", None) is None:
        embedder.probe = probe_of(embedder)
    model = f"{embedder.fingerprint}/{embedder.probe}"
    keys = [embeddings.key_of(model, text) for text in texts]
    found = embeddings.read(parts.database.reader(), dict.fromkeys(keys), embedder.dim)
    missing = {k: t for k, t in zip(keys, texts, strict=True) if k not in found}
    if missing:
        made = embedder.embed(list(missing.values()))
        new = dict(zip(missing, made, strict=True))
        found |= new
        try:
            parts.writer.run(lambda unit: embeddings.write(unit.connection, new, CACHE_BYTES))
        except StorageError as error:  # the vectors are good all the same
            log.warning("%d vectors of %s were not cached: %s", len(new), embedder.name, error)
    return np.stack([found[key] for key in keys]).astype(np.float32, copy=False)


def answer(parts, name, texts, search):
    """Return ``search(vectors)`` for the vectors of texts under the collection's embedder.

    Whoever re-embeds the collection meanwhile makes it search again: a query never meets
    vectors of another model.

    Raises
    ------
    NotSupported
        The collection has no embedder.
    Conflict
        Its embedder is not fitted yet, or was not handed to this process.
    """
    for text in texts:
        if not isinstance(text, str):
            raise InvalidArgument(f"a query is a {type(text).__name__}: expected a text")
    for _ in range(RETRIES):
        row = parts.follower.row(name)
        try:
            embedder = embedder_of(parts, row)
        except StaleVectors:
            continue
        if embedder is None:
            raise _unsearchable(row)
        found = search(embed(parts, embedder, texts))
        if _serial(parts.follower.row(name)) == _serial(row):
            return found
    raise LumaError(f"the embedder of collection {name!r} changes too fast: try again")


def can_embed(parts, name):
    """Return whether a collection has an embedder that is fitted.

    Raises
    ------
    CollectionNotFound
    Conflict
        It has one that was not handed to this process.
    """
    row = parts.follower.row(name)
    stamp = stamp_of(row)
    if stamp is None or (stamp.kind == LSA and stamp.directory is None):
        return False
    if stamp.kind == GIVEN:
        embedder_of(parts, row)
    return True


def fill(parts, row, batch):
    """Return a batch of metas with the vectors of their texts.

    Parameters
    ----------
    row : luma_lab.store.catalog.CollectionRow
        With a stamp.
    batch : luma_lab.engine.points.Batch
        Checked, without vectors.

    Raises
    ------
    InvalidArgument
        A point has no text, and its embedder no vector for nothing.
    """
    stamp = stamp_of(row)
    if any(meta is None for meta in batch.metas):
        if all(meta is None for meta in batch.metas):
            return batch
        raise InvalidArgument(
            "some metas of the batch are kept and some are not: their vectors follow their texts, "
            "so write the kept ones apart"
        )
    texts = [Texts(stamp.fields).of(meta) for meta in batch.metas]
    return batch._replace(vectors=_vectors(parts, row, batch.ids, texts), embedded=stamp.serial)


def use(parts, name, thing, fields, language, replace):
    """Make something the embedder of a collection; see `Collection.use_embedder`."""
    from luma_lab.engine import refitting

    row = parts.follower.row(name)
    stamp = stamp_of(row)
    if thing == LSA:
        made = lsa_stamp(row, fields, language)
        if stamp is None and not row.live:
            _set(parts, row, made)
        elif stamp is None or stamp.kind != LSA:
            return refitting.fit(parts, name, fields, language, replace)
        elif (stamp.fields, stamp.language) != (made.fields, made.language):
            return refitting.fit(parts, name, fields, language, replace=True)
        return None
    embedder = as_embedder(thing)
    if embedder.dim != row.dim:
        raise DimensionMismatch(embedder.dim, row.dim, f"collection {name!r}")
    fields = check_fields(row, fields)
    made = Stamp(GIVEN, embedder.name, embedder.fingerprint, fields, probe=probe_of(embedder))
    if getattr(embedder, "cacheable", False):
        embedder.probe = made.probe
    if stamp is None:
        _set(parts, row, made)
    elif stamp.fingerprint != made.fingerprint or not same_probe(stamp.probe or [], made.probe):
        if not replace:
            same = " (of the same name, with other vectors)"
            actual = made.fingerprint + (same if stamp.fingerprint == made.fingerprint else "")
            raise EmbedderMismatch(name, stamp.fingerprint or stamp.name, actual)
        return refitting.replace(parts, name, embedder, made)
    elif stamp.fields != fields:
        if not replace:
            raise Conflict(
                f"the vectors of collection {name!r} are of the fields {stamp.fields}, not "
                f"{fields}: leave out fields, or embed all points anew with replace=True"
            )
        return refitting.replace(parts, name, embedder, made)
    parts.embedders[row.uid] = embedder
    return None


def check_fields(row, fields):
    """Return the fields to embed: those asked for, of the stamp, of text search; or raise."""
    if fields is None:
        stamp = stamp_of(row)
        if stamp is None and row.text is not None:
            return list(field_weights(row.text))
        if stamp is None:
            raise InvalidArgument(
                f"fields is missing: which texts of a point of {row.name!r} are embedded? "
                "Expected dotted paths into meta, such as ['text']"
            )
        return stamp.fields
    if isinstance(fields, str) or not isinstance(fields, (list, tuple)) or not fields:
        raise InvalidArgument(f"fields is {fields!r}: expected a list of dotted paths into meta")
    for field in fields:
        if not isinstance(field, str):
            raise InvalidArgument(f"fields holds {field!r}: expected dotted paths into meta")
    Texts(fields)
    return list(fields)


def lsa_stamp(row, fields, language):
    """Return the stamp of an LSA that is still to be fitted."""
    from luma_lab.engine.embedders_lsa import LsaEmbedder

    old = stamp_of(row)
    if language is None:
        language = (old and old.language) or (row.text and row.text["language"]) or "en"
    embedder = LsaEmbedder(row.dim, language)
    return Stamp(LSA, embedder.name, None, check_fields(row, fields), language=embedder.language)


def set_stamp(unit, row, stamp):
    """Store a stamp inside a write transaction, with its event; return it with its serial."""
    shown = {"collection": row.name, "embedder": stamp.name, "fingerprint": stamp.fingerprint}
    offset = unit.append("vector_embedder_changed", collection=row.name, data=codec.encode(shown))
    stamp = stamp._replace(serial=offset)
    catalog.set_embedder(unit.connection, row.uid, stamp._asdict())
    return stamp


def _set(parts, row, stamp):
    def operation(unit):
        now = catalog.require(unit.connection, row.name)
        if now.uid != row.uid or _serial(now) != _serial(row):
            raise Conflict(f"collection {row.name!r} was given another embedder meanwhile")
        set_stamp(unit, now, stamp)

    parts.writer.run(operation)


def _vectors(parts, row, ids, texts):
    stamp = stamp_of(row)
    embedder = embedder_of(parts, row)
    if embedder is None:  # not fitted yet: the fit will embed them
        return np.zeros((len(texts), row.dim), np.float32)
    if stamp.kind != LSA:
        for id, text in zip(ids, texts, strict=True):
            if not text:
                raise InvalidArgument(
                    f"point {id!r} has neither a vector nor a text in {', '.join(stamp.fields)}"
                )
    vectors = embed(parts, embedder, texts)
    return points.check_vectors(vectors, len(ids), row.dim, row.name)


def _load(parts, row, stamp):
    from luma_lab.engine.embedders_lsa import LsaEmbedder

    held = parts.embedders.get(row.uid)
    if held is None or held.fingerprint != stamp.fingerprint:
        try:
            held = LsaEmbedder.load(parts.matrices.directory(row.uid) / stamp.directory)
        except (CorruptStore, OSError):
            if _serial(parts.follower.row(row.name)) != stamp.serial:
                raise StaleVectors("another process fitted it anew and removed the old") from None
            raise
        parts.embedders[row.uid] = held
    return held


def _unsearchable(row):
    if row.embedder is None:
        return NotSupported(
            f"searching collection {row.name!r} by a text needs an embedder: call use_embedder "
            "or fit_embedder, or search its words with search_text"
        )
    return Conflict(
        f"the embedder of collection {row.name!r} is not fitted yet: call fit_embedder, or "
        "search its words with search_text"
    )


def _serial(row):
    return None if row.embedder is None else row.embedder["serial"]
