"""``/v1/vector``: collections and search."""

import re
from typing import Any, Literal

import msgspec

from luma_lab.errors import DimensionMismatch, InvalidArgument
from luma_lab.service.base import BaseHandler
from luma_lab.service.operation import MIN_OFFSET, Operation
from luma_lab.service.state import check_length

NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9_.-]*")
COLLECTION = r"/v1/vector/([^/]+)"
TEXT_OPTIONS = (
    "text_fields", "language", "text_variant", "k1", "b", "stop_words", "text_positions",
)  # fmt: skip
MATRIX_FILES = 1  # per collection; the original counts its segments here


class TextField(msgspec.Struct):
    """A text field with a language of its own."""

    weight: float = 1.0
    language: str | None = None


class CreateRequest(msgspec.Struct):
    """Body of POST /v1/vector/{collection}."""

    dim: int
    metric: Literal["cosine", "dot", "l2"]
    index: Literal["auto", "flat", "ivf", "vamana", "diskann"] = "auto"
    params: dict[str, Any] | None = None
    text_fields: list[str] | dict[str, float | TextField] | None = None
    language: str | None = None
    meta_indexes: list[str] | None = None
    text_variant: str | None = None
    k1: float | None = None
    b: float | None = None
    stop_words: bool | None = None
    text_positions: bool | None = None


class CreateAnswer(msgspec.Struct):
    """The collection as it was created."""

    collection: str
    dim: int
    metric: str
    offset: int


class DropAnswer(msgspec.Struct):
    """The collection is gone."""

    dropped: bool
    offset: int


class Summary(msgspec.Struct):
    """A collection in the list; sizes in bytes, times in ms since 1970."""

    collection: str
    dim: int
    metric: str
    index: str
    live_count: int
    total_records: int
    upsert_count: int
    file_len: int
    applied_offset: int
    created_at_ms: int
    updated_at_ms: int
    segments: int
    deleted_count: int
    meta_indexes: list[str]
    text_fields: dict[str, float] | None
    language: str | None
    field_languages: dict[str, str] | None
    embedder: str | None


class ListAnswer(msgspec.Struct):
    """The collections, by name."""

    collections: list[Summary]


class Manifest(msgspec.Struct):
    """What a collection was created with."""

    collection: str
    dim: int
    metric: str
    created_at_ms: int
    updated_at_ms: int


class DetailAnswer(msgspec.Struct):
    """A collection in full."""

    collection: str
    dim: int
    metric: str
    created_at_ms: int
    updated_at_ms: int
    count: int
    index: str
    manifest: Manifest
    notes: str | None
    segments: int
    deleted: int
    meta_indexes: list[str]
    text_fields: dict[str, float] | None
    language: str | None
    field_languages: dict[str, str] | None
    embedder: str | None


class PointQuery(msgspec.Struct, kw_only=True):
    """What every search of points takes; a filter is an object or an expression."""

    k: int
    filters: Any = None
    include_vector: bool = False
    explain: bool = False
    min_offset: int | None = None
    group_by: str | None = None
    group_limit: int | None = None


class VectorHandler(BaseHandler):
    """What the routes of one collection share."""

    def collection(self, name):
        """Return the collection called `name`; blocking."""
        return self.lab.collection(name)

    def check_name(self, name):
        """Raise `InvalidArgument` unless `name` may name a collection."""
        check_length("collection", name, self.limits.max_collection_len)
        if not NAME.fullmatch(name):
            raise InvalidArgument(
                f"invalid collection name {name!r}: expected 1 to "
                f"{self.limits.max_collection_len} of A-Z a-z 0-9 _ . -, not starting with a dot"
            )
        self.access.check_collection(name)

    def check_id(self, id):
        """Return an id as text; raise `InvalidArgument` when it is too long or empty."""
        text = str(id)
        if not text:
            raise InvalidArgument("id is empty: expected at least one character")
        check_length("id", text, self.limits.max_id_len)
        return text

    def check_vector(self, vector):
        """Raise `InvalidArgument` when a vector is longer than any collection's may be."""
        limit = self.limits.max_vector_dim
        if vector is not None and len(vector) > limit:
            raise InvalidArgument(f"vector too large: {len(vector)} components, at most {limit}")

    def check_counts(self, request):
        """Raise `InvalidArgument` when a `PointQuery` asks for more hits than one may."""
        most = self.limits.max_k
        if not 1 <= request.k <= most:
            raise InvalidArgument(f"invalid k: {request.k}, expected 1 to {most}")
        if request.group_limit is not None and request.group_limit > most:
            raise InvalidArgument(f"invalid group_limit: {request.group_limit}, at most {most}")

    def check_dimension(self, vector, collection, place=""):
        """Raise `DimensionMismatch` unless a vector of many fits; `place` says which it is."""
        if len(vector) != collection.dim:
            raise DimensionMismatch(
                len(vector), collection.dim, f"collection {collection.name!r}{place}"
            )


class CollectionsHandler(BaseHandler):
    """GET /v1/vector"""

    async def get(self):
        await self.wait_for(self.query_int("min_offset"))
        sees = self.access.sees_collection
        await self.answer(
            lambda: {
                "collections": [_summary(c.info()) for c in self.lab.collections() if sees(c.name)]
            }
        )


class CollectionHandler(VectorHandler):
    """GET, POST, DELETE /v1/vector/{collection}"""

    async def get(self, name):
        self.check_name(name)
        await self.wait_for(self.query_int("min_offset"))
        await self.answer(lambda: _detail(self.collection(name).info()))

    async def post(self, name):
        """Create."""
        self.check_name(name)
        request = await self.read_json(CreateRequest)
        limit = self.limits.max_vector_dim
        if not 1 <= request.dim <= limit:
            raise InvalidArgument(f"invalid dim: {request.dim}, expected 1 to {limit}")

        def create():
            self.lab.create_collection(
                name,
                request.dim,
                request.metric,
                index=request.index,
                params=request.params,
                meta_indexes=request.meta_indexes or (),
                **{o: msgspec.to_builtins(getattr(request, o)) for o in TEXT_OPTIONS},
            )
            return {
                "collection": name,
                "dim": request.dim,
                "metric": request.metric,
                "offset": self.lab.head,
            }

        await self.answer(create)

    async def delete(self, name):
        """Drop."""
        self.check_name(name)
        await self.answer(
            lambda: {"dropped": True, "offset": self.lab.drop_collection(name).offset}
        )


def _summary(info):
    return {
        "collection": info.name,
        "dim": info.dim,
        "metric": info.metric,
        "index": info.index,
        "live_count": info.live_count,
        "total_records": info.total_rows,
        "upsert_count": info.upsert_count,
        "file_len": info.file_bytes,
        "applied_offset": info.applied_offset,
        "created_at_ms": info.created_at_ms,
        "updated_at_ms": info.updated_at_ms,
        "segments": MATRIX_FILES,
        "deleted_count": info.deleted_count,
        **_declared(info),
    }


def _detail(info):
    manifest = {
        "collection": info.name,
        "dim": info.dim,
        "metric": info.metric,
        "created_at_ms": info.created_at_ms,
        "updated_at_ms": info.updated_at_ms,
    }
    return {
        **manifest,
        "count": info.live_count,
        "index": info.index,
        "manifest": manifest,
        "notes": None,
        "segments": MATRIX_FILES,
        "deleted": info.deleted_count,
        **_declared(info),
    }


def _declared(info):
    return {
        "meta_indexes": list(info.meta_indexes),
        "text_fields": info.text_fields,
        "language": info.language,
        "field_languages": info.field_languages,
        "embedder": info.embedder,
    }


PATH = "/v1/vector/{collection}"
operations = [
    Operation(
        "GET", "/v1/vector", CollectionsHandler, "List the collections.",
        answer=ListAnswer, parameters=(MIN_OFFSET,),
    ),
    Operation(
        "GET", PATH, CollectionHandler, "Describe a collection.",
        answer=DetailAnswer, parameters=(MIN_OFFSET,), errors=(404,),
    ),
    Operation(
        "POST", PATH, CollectionHandler, "Create a collection.", "write",
        body=CreateRequest, answer=CreateAnswer, errors=(409, 501),
    ),
    Operation(
        "DELETE", PATH, CollectionHandler, "Drop a collection.", "write",
        answer=DropAnswer, errors=(404,),
    ),
]  # fmt: skip
routes = [
    (r"/v1/vector", CollectionsHandler),
    (COLLECTION, CollectionHandler),
]
