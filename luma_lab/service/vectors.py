"""``/v1/vector``: collections and search."""

import re
from typing import Any, Literal

import msgspec

from luma_lab import codec
from luma_lab.errors import InvalidArgument, NotSupported
from luma_lab.service.base import BaseHandler
from luma_lab.service.state import check_length

NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9_.-]*")
COLLECTION = r"/v1/vector/([^/]+)"
MATRIX_FILES = 1  # per collection; the original counts its segments here


class CreateRequest(msgspec.Struct):
    """Body of POST /v1/vector/{collection}."""

    dim: int
    metric: Literal["cosine", "dot", "l2"]
    index: Literal["auto", "flat", "ivf", "vamana", "diskann"] = "auto"
    params: dict[str, Any] | None = None
    text_fields: Any = None
    language: Any = None
    meta_indexes: Any = None


class SearchParams(msgspec.Struct):
    """Parameters of one search."""

    search_list_size: int | None = None
    nprobe: Any = None
    rerank: Any = None


class SearchRequest(msgspec.Struct):
    """Body of search."""

    vector: list[float]
    k: int
    filters: Any = None
    include_meta: bool = False
    include_vector: bool = False
    explain: bool = False
    exact: bool = False
    min_score: float | None = None
    min_offset: int | None = None
    params: SearchParams | None = None
    group_by: Any = None
    group_limit: Any = None


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


class CollectionsHandler(BaseHandler):
    """GET /v1/vector"""

    async def get(self):
        await self.wait_for(self.query_int("min_offset"))
        await self.answer(
            lambda: {"collections": [_summary(c.info()) for c in self.lab.collections()]}
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
        for field in ("text_fields", "language", "meta_indexes"):
            if getattr(request, field) is not None:
                raise NotSupported(f"the field {field!r} is not supported yet")
        limit = self.limits.max_vector_dim
        if not 1 <= request.dim <= limit:
            raise InvalidArgument(f"invalid dim: {request.dim}, expected 1 to {limit}")

        def create():
            self.lab.create_collection(
                name, request.dim, request.metric, index=request.index, params=request.params
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


class SearchHandler(VectorHandler):
    """POST /v1/vector/{collection}/search"""

    async def post(self, name):
        self.check_name(name)
        request = await self.read_json(SearchRequest)
        params = request.params or SearchParams()
        for field, value in (
            ("filters", request.filters),
            ("group_by", request.group_by),
            ("group_limit", request.group_limit),
            ("params.nprobe", params.nprobe),
            ("params.rerank", params.rerank),
        ):
            if value is not None:
                raise NotSupported(f"the field {field!r} is not supported yet")
        if not 1 <= request.k <= self.limits.max_k:
            raise InvalidArgument(f"invalid k: {request.k}, expected 1 to {self.limits.max_k}")
        self.check_vector(request.vector)
        await self.wait_for(request.min_offset)

        def search():
            hits = self.collection(name).search(
                request.vector,
                request.k,
                search_list_size=params.search_list_size,
                exact=request.exact,
                include_vector=request.include_vector,
                min_score=request.min_score,
                explain=request.explain,
            )
            body = {"hits": [_hit_body(hit, request) for hit in hits]}
            if request.explain:
                body["receipt"] = hits.receipt
            return body

        await self.answer(search)


def _hit_body(hit, request):
    body = {
        "id": hit.id,
        "score": float(hit.score),
        "meta": hit.meta if request.include_meta else None,
    }
    if request.include_vector:
        body["vector"] = codec.float_list(hit.vector)
    return body


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
    }


routes = [
    (r"/v1/vector", CollectionsHandler),
    (COLLECTION, CollectionHandler),
    (COLLECTION + r"/search", SearchHandler),
]
