"""``search`` and ``search_batch`` of a collection: JSON, or raw float32 with a query string."""

from typing import Any

import msgspec
import numpy as np

from luma_lab import codec
from luma_lab.errors import DimensionMismatch, InvalidArgument, InvalidFilter
from luma_lab.service.documents import check_filter
from luma_lab.service.operation import Operation, Parameter
from luma_lab.service.vectors import COLLECTION, PATH, PointQuery, VectorHandler

BINARY = "application/octet-stream"
MORE_THAN_A_WALK = (
    "filter", "nprobe", "rerank", "exact", "include_vector", "min_score", "group_by", "explain",
)  # fmt: skip


class SearchParams(msgspec.Struct):
    """Parameters of one search."""

    search_list_size: int | None = None
    nprobe: int | None = None
    rerank: int | None = None


class SearchOptions(PointQuery, kw_only=True):
    """What both searches share."""

    include_meta: bool = False
    exact: bool = False
    min_score: float | None = None
    params: SearchParams | None = None


class SearchRequest(SearchOptions, kw_only=True):
    """Body of search."""

    vector: list[float]


class BatchRequest(SearchOptions, kw_only=True):
    """Body of search_batch."""

    vectors: list[list[float]]


class HitAnswer(msgspec.Struct, omit_defaults=True):
    """A hit; `meta` is null unless asked for."""

    id: str
    score: float
    meta: Any
    vector: list[float] | msgspec.UnsetType = msgspec.UNSET


class GroupAnswer(msgspec.Struct):
    """The best hits with one value of the field."""

    key: Any
    hits: list[HitAnswer]


class SearchAnswer(msgspec.Struct, omit_defaults=True):
    """Hits, best first."""

    hits: list[HitAnswer]
    groups: list[GroupAnswer] | msgspec.UnsetType = msgspec.UNSET
    receipt: dict[str, Any] | msgspec.UnsetType = msgspec.UNSET


class BatchAnswer(msgspec.Struct):
    """One answer for each vector."""

    results: list[SearchAnswer]


class SearchHandler(VectorHandler):
    """POST /v1/vector/{collection}/search"""

    async def post(self, name):
        self.check_name(name)
        if self.media_type == BINARY:
            request, vectors = self._binary_options(), None
        else:
            request = await self.read_json(SearchRequest)
            vectors = [request.vector]
        options = self.check_options(request)
        await self.wait_for(request.min_offset)
        hits = self._quick(name, request, options, vectors)
        if hits is not None:
            self.finish(msgspec.json.encode(answer_body(hits, request)))
            return

        def search():
            collection = self.collection(name)
            sent = self.decode_vectors(collection) if vectors is None else vectors
            if len(sent) != 1:
                raise InvalidArgument(f"the body holds {len(sent)} vectors: expected one")
            self.check_vector(sent[0])
            return answer_body(collection.search(sent[0], request.k, **options), request)

        await self.answer(search)

    def _quick(self, name, request, options, vectors):
        """Return the hits of a search that is not worth another thread, or None."""
        if any(options[n] is not None and options[n] is not False for n in MORE_THAN_A_WALK):
            return None
        body, size = self.request.body, options["search_list_size"]
        if vectors is None and len(body) % 4:
            return None
        vector = np.frombuffer(body, "<f4") if vectors is None else vectors[0]
        return self.lab.quick_search(name, vector, request.k, search_list_size=size)

    def check_options(self, request):
        """Return the keywords of `Collection.search`; raise on what can't be had."""
        params = request.params or SearchParams()
        self.check_counts(request)
        check_filter(request.filters)
        return {
            "filter": request.filters,
            "search_list_size": params.search_list_size,
            "nprobe": params.nprobe,
            "rerank": params.rerank,
            "exact": request.exact,
            "include_vector": request.include_vector,
            "min_score": request.min_score,
            "group_by": request.group_by,
            "group_limit": 1 if request.group_limit is None else request.group_limit,
            "explain": request.explain,
        }

    def decode_vectors(self, collection):
        """Return the body as a float32 array of shape (n, dim)."""
        return decode_floats(self.request.body, collection)

    def _binary_options(self):
        fields = {"k": self.query_int("k")}
        if fields["k"] is None:
            raise InvalidArgument("query parameter k is missing: expected how many hits")
        for name in ("include_meta", "include_vector", "explain", "exact"):
            fields[name] = self.query_bool(name)
        for name in ("min_offset", "group_limit"):
            fields[name] = self.query_int(name)
        fields["group_by"] = self.query_text("group_by")
        fields["params"] = SearchParams(
            *(self.query_int(name) for name in SearchParams.__struct_fields__)
        )
        fields["filters"] = _filter_text(self.query_text("filters"))
        fields["min_score"] = _number("min_score", self.query_text("min_score"))
        return SearchOptions(**fields)


class SearchBatchHandler(SearchHandler):
    """POST /v1/vector/{collection}/search_batch"""

    async def post(self, name):
        self.check_name(name)
        if self.media_type == BINARY:
            request, vectors = self._binary_options(), None
        else:
            request = await self.read_json(BatchRequest)
            vectors = request.vectors
            limit = self.limits.max_vector_batch
            if len(vectors) > limit:
                raise InvalidArgument(f"too many vectors: {len(vectors)}, at most {limit}")
        options = self.check_options(request)
        await self.wait_for(request.min_offset)

        def search():
            collection = self.collection(name)
            sent = self.decode_vectors(collection) if vectors is None else vectors
            if not len(sent):
                raise InvalidArgument("vectors required: expected at least one")
            for index, vector in enumerate(vectors or ()):
                self.check_vector(vector)
                self.check_dimension(vector, collection, f" (vectors[{index}])")
            found = collection.search_many(sent, request.k, **options)
            return {"results": [answer_body(hits, request) for hits in found]}

        await self.answer(search)


def decode_floats(body, collection, count=None):
    """Return little-endian float32 bytes as an array of shape (n, dim).

    Raises
    ------
    DimensionMismatch
        The bytes are no whole number of the collection's vectors.
    """
    dim = collection.dim
    if len(body) % (4 * dim) or (count is not None and len(body) != count * 4 * dim):
        raise DimensionMismatch(
            len(body) / 4 if len(body) % 4 else len(body) // 4,
            dim,
            f"collection {collection.name!r} (little-endian float32, one vector after the other)",
        )
    return np.frombuffer(body, "<f4").reshape(-1, dim)


def hit_body(hit, request):
    """Return the JSON object of a hit."""
    body = {
        "id": hit.id,
        "score": float(hit.score),
        "meta": hit.meta if request.include_meta else None,
    }
    if request.include_vector:
        body["vector"] = codec.float_list(hit.vector)
    return body


def answer_body(hits, request, hit_body=hit_body):
    """Return the JSON object of one search's `Hits`."""
    body = {"hits": [hit_body(hit, request) for hit in hits]}
    if hits.groups is not None:
        body["groups"] = [
            {"key": group.key, "hits": [hit_body(hit, request) for hit in group.hits]}
            for group in hits.groups
        ]
    if request.explain:
        body["receipt"] = hits.receipt
    return body


def _number(name, text):
    if text is None:
        return None
    try:
        return msgspec.json.decode(text, type=float)
    except msgspec.DecodeError:
        raise InvalidArgument(f"{name} is {text!r}: expected a number as in JSON") from None


def _filter_text(text):
    if text is None or not text.lstrip().startswith("{"):
        return text
    try:
        return msgspec.json.decode(text)
    except msgspec.DecodeError as error:
        raise InvalidFilter(f"filters is no valid JSON: {error}") from None


_QUERY = tuple(
    Parameter(name, kind, f"With a binary body: {about}")
    for name, kind, about in (
        ("k", int, "how many hits; required then."),
        ("filters", str, "an expression, or an object as JSON."),
        ("include_meta", bool, "put metas on the hits."),
        ("include_vector", bool, "put vectors on the hits."),
        ("exact", bool, "scan everything."),
        ("explain", bool, "add the receipt."),
        ("min_score", float, "leave out hits that score less."),
        ("min_offset", int, "wait until this offset is readable."),
        ("search_list_size", int, "L of a graph walk."),
        ("nprobe", int, "cells to look into."),
        ("rerank", int, "rows of them measured exactly at most."),
        ("group_by", str, "dotted path into meta."),
        ("group_limit", int, "hits of each group."),
    )
)
_MEDIA = ((BINARY, "n x dim little-endian float32; the other fields in the query string."),)
operations = [
    Operation(
        "POST", PATH + "/search", SearchHandler, "Find the k nearest points.",
        body=SearchRequest, media=_MEDIA, answer=SearchAnswer, parameters=_QUERY,
        errors=(404, 501),
    ),
    Operation(
        "POST", PATH + "/search_batch", SearchBatchHandler, "Search for many vectors at once.",
        body=BatchRequest, media=_MEDIA, answer=BatchAnswer, parameters=_QUERY,
        errors=(404, 501),
    ),
]  # fmt: skip
routes = [
    (COLLECTION + r"/search", SearchHandler),
    (COLLECTION + r"/search_batch", SearchBatchHandler),
]
