"""Passages: texts with a vector and metadata, as the points of one collection, searched in a call.

What ``/search`` and ``/search/ingest`` do. A passage is the point of the collection
``documents`` whose id is its number; content and metadata are the point's meta.
"""

from typing import Any, NamedTuple

from luma_lab.engine.fusion import Standing
from luma_lab.engine.refitting import FIRST_POINTS
from luma_lab.engine.stamps import LSA
from luma_lab.errors import (
    AlreadyExists,
    CollectionNotFound,
    Conflict,
    EmbedderMismatch,
    InvalidArgument,
    NotSupported,
    UnknownName,
)
from luma_lab.index.textquery import as_words

COLLECTION = "documents"
LSA_DIM = 256
MODES = ("vector", "text", "hybrid")
NO_EMBEDDER = (
    "a document without a vector needs an embedder, and none is set: send `vector`, or set "
    "EMBEDDER to 'lsa' or 'http'"
)
NOTHING_TO_SEARCH = (
    "a plain query needs a text index or an embedder, and there is none yet: send `vector`, set "
    "EMBEDDER to 'lsa' or 'http', or give the collection 'documents' text_fields"
)
GROUPINGS = (
    "group_id",
    "document_id",
    "filename",
    "category",
    "language",
    "status",
    "version",
)
VERSIONS = ("all", "latest")


class Passage(NamedTuple):
    """A found passage."""

    score: float
    id: int
    content: str
    metadata: dict[str, Any]
    branches: dict[str, Standing] | None = None


def ingest(lab, id, vector, content, metadata, *, embedder=None, language="en", dim=LSA_DIM):
    """Store a passage, or replace the one with its number; return the `WriteResult`.

    The first one creates the collection: with cosine, a text index of the contents, and the
    dimension of its vector or of the embedder.

    Parameters
    ----------
    vector : array of shape (dim,), or None
        None: the collection's embedder makes it of the content.
    embedder : embedder, "lsa" or None
        For a collection that has none yet, or whose embedder this process was not given.
    language : str
        Of the text index, for a collection to be created.
    dim : int
        Of an LSA, likewise.

    Raises
    ------
    InvalidArgument, DimensionMismatch
    NotSupported
        Neither a vector nor an embedder.
    EmbedderMismatch, Conflict
        The vectors that are there were made by something else.
    EmbedderUnavailable, EmbedderFailed
    """
    meta = {"content": content, "metadata": metadata}
    try:
        collection = lab.collection(COLLECTION)
    except CollectionNotFound:
        if vector is not None:
            dim = len(vector)
        elif embedder is None:
            raise NotSupported(NO_EMBEDDER) from None
        elif embedder != LSA:
            dim = embedder.dim
        try:
            collection = lab.create_collection(
                COLLECTION, dim, "cosine", text_fields=["content"], language=language
            )
        except AlreadyExists:  # another writer was first
            collection = lab.collection(COLLECTION)
    if vector is None:
        _give_embedder(collection, embedder)
    return collection.upsert(str(id), vector, meta)


def search(
    lab,
    query,
    vector,
    top_k,
    *,
    mode=None,
    embedder=None,
    filters=None,
    version="all",
    group_by=None,
    group_limit=1,
):
    """Return up to `top_k` `Passage`s, best first.

    Parameters
    ----------
    query : str
        Plain language: quotes and signs have no meaning of their own.
    vector : array of shape (dim,), or None
        None: the query is embedded by the collection's embedder.
    mode : {"vector", "text", "hybrid"}, optional
        Default: by vector where there is one or the embedder is fitted, else by words.
    embedder : embedder, "lsa" or None
        As in :func:`ingest`.
    filters : dict, optional
        ``category``, ``language`` (one, or a list of which one must match), ``status``.
    version : {"all", "latest"}
        "latest" keeps of each ``group_id`` the passage with the greatest ``processed_at``
        (missing: 0; of equals the better hit); those without a group stay.
    group_by : str, optional
        One of :data:`GROUPINGS`; groups come in the order of their best passage. Another name,
        or a missing field, makes each passage a group of its own.
    group_limit : int
        Passages of each group.

    Raises
    ------
    NotSupported
        What the mode needs is not there: an embedder, a text index.
    """
    if version not in VERSIONS:
        raise UnknownName("version_policy", version, VERSIONS)
    if mode is not None and mode not in MODES:
        raise UnknownName("mode", mode, MODES)
    if type(group_limit) is not int or group_limit < 0:
        raise InvalidArgument(f"group_limit is {group_limit!r}: expected an int of at least 0")
    try:
        collection = lab.collection(COLLECTION)
    except CollectionNotFound:
        if vector is None and embedder is None:
            raise NotSupported(NOTHING_TO_SEARCH) from None
        return []
    # Which passage is the latest, or how large a group is, only all that match can tell.
    whole = version == "latest" or group_by is not None
    k = max(1, len(collection)) if whole else top_k
    condition = _condition(filters or {})
    mode, vector = _way(collection, mode, query, vector, embedder)
    if mode == "vector":
        hits = collection.search(vector, k, filter=condition, exact=whole)
    elif mode == "text":
        hits = collection.search_text(as_words(query), k, filter=condition)
    else:
        hits = collection.search_hybrid(
            vector, as_words(query), k, filter=condition, candidates=k if whole else None
        )
    found = [
        Passage(
            hit.score,
            int(hit.id),
            hit.meta["content"],
            hit.meta["metadata"],
            getattr(hit, "branches", None),
        )
        for hit in hits
        if _is_passage(hit)
    ]
    if version == "latest":
        found = _latest(found)
    if group_by is not None:
        found = _grouped(found, group_by, group_limit)
    return found[:top_k]


def _way(collection, mode, query, vector, embedder):
    """Return (mode, vector or the text to embed) of a search."""
    if mode == "text" or vector is not None:
        return mode or "vector", vector
    info = collection.info()
    if info.embedder is not None:
        _give_embedder(collection, embedder)
        ready = collection.embedder is not None  # an LSA of too few texts is not fitted yet
    else:
        ready = False
    if mode == "hybrid":
        if not ready and info.text_fields is None:
            raise NotSupported(NOTHING_TO_SEARCH)
        return mode, None
    if ready:
        return "vector", query
    if mode == "vector":
        raise NotSupported(
            "mode 'vector' with a plain query needs an embedder that is fitted: set EMBEDDER, "
            f"and ingest at least {FIRST_POINTS} documents for 'lsa'; or send `vector`"
        )
    if info.text_fields is None:
        raise NotSupported(NOTHING_TO_SEARCH)
    return "text", None


def _give_embedder(collection, embedder):
    """See to it that the collection has an embedder, and that this process has it; or raise."""
    info = collection.info()
    if info.embedder is not None:
        try:
            collection.embedder  # noqa: B018
        except Conflict:
            if embedder in (None, LSA):
                raise NotSupported(
                    f"the documents' vectors are made by {info.embedder}: set EMBEDDER to 'http', "
                    "and EMBEDDER_URL and EMBEDDER_MODEL to where that is"
                ) from None
            collection.use_embedder(embedder)
        return
    if embedder is None:
        raise NotSupported(NO_EMBEDDER)
    if info.live_count and embedder == LSA:
        raise Conflict(
            "the documents' vectors were sent along so far, and those of EMBEDDER=lsa would not "
            "compare with them: send `vector`"
        )
    try:
        collection.use_embedder(embedder, fields=["content"])
    except EmbedderMismatch:
        raise
    except Conflict:  # another writer was first
        _give_embedder(collection, embedder)


def _condition(filters):
    parts = [{"content": {"$exists": True}}]
    for name in ("category", "language", "status"):
        value = filters.get(name)
        if value is not None:
            values = value if isinstance(value, list) else [value]
            parts.append({f"metadata.{name}": {"$in": values}})
    return {"$and": parts}


def _is_passage(hit):
    return (
        hit.id.isascii()
        and hit.id.isdigit()
        and isinstance(hit.meta.get("content"), str)
        and isinstance(hit.meta.get("metadata"), dict)
    )


def _latest(found):
    newest = {}
    for passage in found:
        group = _plain(passage, "group_id")
        if group is None:
            continue
        best = newest.get(group)
        if best is None or _processed_at(passage) > _processed_at(best):
            newest[group] = passage
    return [p for p in found if newest.get(_plain(p, "group_id"), p) is p]


def _plain(passage, name):
    """Return a field of the metadata, None where it is missing, a list or an object."""
    value = passage.metadata.get(name)
    return None if isinstance(value, (list, dict)) else value


def _processed_at(passage):
    value = passage.metadata.get("processed_at")
    return value if isinstance(value, (int, float)) else 0


def _grouped(found, group_by, group_limit):
    groups = {}
    for passage in found:
        value = _plain(passage, group_by) if group_by in GROUPINGS else None
        key = (passage.id,) if value is None else value
        groups.setdefault(key, []).append(passage)
    return [passage for group in groups.values() for passage in group[:group_limit]]
