"""Passages: texts with a vector and metadata, as the points of one collection, searched in a call.

What ``/search`` and ``/search/ingest`` do. A passage is the point of the collection
``documents`` whose id is its number; content and metadata are the point's meta.
"""

from typing import Any, NamedTuple

from luma_lab.errors import AlreadyExists, CollectionNotFound, InvalidArgument, UnknownName

COLLECTION = "documents"
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


def ingest(lab, id, vector, content, metadata):
    """Store a passage, or replace the one with its number; return the `WriteResult`.

    The first one creates the collection, with cosine and the dimension of its vector.

    Raises
    ------
    InvalidArgument, DimensionMismatch
    """
    meta = {"content": content, "metadata": metadata}
    try:
        collection = lab.collection(COLLECTION)
    except CollectionNotFound:
        try:
            collection = lab.create_collection(COLLECTION, len(vector), "cosine")
        except AlreadyExists:  # another writer was first
            collection = lab.collection(COLLECTION)
    return collection.upsert(str(id), vector, meta)


def search(lab, vector, top_k, *, filters=None, version="all", group_by=None, group_limit=1):
    """Return up to `top_k` `Passage`s, best first.

    Parameters
    ----------
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
    """
    if version not in VERSIONS:
        raise UnknownName("version_policy", version, VERSIONS)
    if type(group_limit) is not int or group_limit < 0:
        raise InvalidArgument(f"group_limit is {group_limit!r}: expected an int of at least 0")
    try:
        collection = lab.collection(COLLECTION)
    except CollectionNotFound:
        return []
    # Which passage is the latest, or how large a group is, only all that match can tell.
    whole = version == "latest" or group_by is not None
    k = max(1, len(collection)) if whole else top_k
    hits = collection.search(vector, k, filter=_condition(filters or {}), exact=whole)
    found = [
        Passage(hit.score, int(hit.id), hit.meta["content"], hit.meta["metadata"])
        for hit in hits
        if _is_passage(hit)
    ]
    if version == "latest":
        found = _latest(found)
    if group_by is not None:
        found = _grouped(found, group_by, group_limit)
    return found[:top_k]


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
        group = passage.metadata.get("group_id")
        if group is None:
            continue
        best = newest.get(group)
        if best is None or _processed_at(passage) > _processed_at(best):
            newest[group] = passage
    return [p for p in found if newest.get(p.metadata.get("group_id"), p) is p]


def _processed_at(passage):
    return passage.metadata.get("processed_at") or 0


def _grouped(found, group_by, group_limit):
    groups = {}
    for passage in found:
        value = passage.metadata.get(group_by) if group_by in GROUPINGS else None
        key = (passage.id,) if value is None else value
        groups.setdefault(key, []).append(passage)
    return [passage for group in groups.values() for passage in group[:group_limit]]
