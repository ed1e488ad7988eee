"""Many points at once: pages, counts, deletes by filter, NDJSON and binary upserts."""

from typing import Any

import msgspec

from luma_lab import codec
from luma_lab.errors import InvalidArgument
from luma_lab.service.documents import check_filter
from luma_lab.service.lines import read_lines
from luma_lab.service.operation import Operation, Parameter
from luma_lab.service.points import BulkAnswer, PointHandler, check_count
from luma_lab.service.queries import BINARY, decode_floats
from luma_lab.service.refusals import UnsupportedMediaType
from luma_lab.service.vectors import COLLECTION, PATH

SCROLL_LIMIT = 100
MAX_SCROLL = 1000


class ScrollRequest(msgspec.Struct):
    """Body of scroll."""

    after: str | None = None
    limit: int = SCROLL_LIMIT
    filters: Any = None
    include_vector: bool = False
    min_offset: int | None = None


class ScrollPoint(msgspec.Struct, omit_defaults=True):
    """A point; its vector only when asked for."""

    id: str
    meta: Any
    vector: list[float] | msgspec.UnsetType = msgspec.UNSET


class ScrollAnswer(msgspec.Struct):
    """A page in byte order of id; `next` is the `after` of the next one."""

    points: list[ScrollPoint]
    next: str | None


class GetBatchRequest(msgspec.Struct):
    """Body of get_batch."""

    ids: list[str | int]
    min_offset: int | None = None


class FullPoint(msgspec.Struct):
    """A point."""

    id: str
    vector: list[float]
    meta: Any


class GetBatchAnswer(msgspec.Struct):
    """The points in the order asked for, null where there is none."""

    points: list[FullPoint | None]


class FilterRequest(msgspec.Struct):
    """A filter: an object or an expression."""

    filters: Any = None


class CountRequest(FilterRequest):
    """Body of count."""

    min_offset: int | None = None


class CountAnswer(msgspec.Struct):
    """How many points match."""

    count: int


class DeleteWhereAnswer(msgspec.Struct):
    """How many points were deleted."""

    deleted: int
    offset: int


class BinaryItem(msgspec.Struct):
    """One line behind the vectors of a binary upsert."""

    id: str | int
    meta: Any = None


class ScrollHandler(PointHandler):
    """POST /v1/vector/{collection}/scroll"""

    async def post(self, name):
        self.check_name(name)
        request = await self.read_json(ScrollRequest)
        check_filter(request.filters)
        if request.limit < 1:
            raise InvalidArgument(f"limit is {request.limit}: expected at least 1")
        limit = min(request.limit, MAX_SCROLL)
        await self.wait_for(request.min_offset)

        def scroll():
            points, following = self.collection(name).scroll(
                request.after, limit, filter=request.filters
            )
            bodies = [{"id": p.id, "meta": p.meta} for p in points]
            if request.include_vector:
                for body, point in zip(bodies, points, strict=True):
                    body["vector"] = codec.float_list(point.vector)
            return {"points": bodies, "next": following}

        await self.answer(scroll)


class GetBatchHandler(PointHandler):
    """POST /v1/vector/{collection}/get_batch"""

    async def post(self, name):
        self.check_name(name)
        request = await self.read_json(GetBatchRequest)
        check_count("ids", len(request.ids), self.limits.max_vector_batch)
        ids = [self.check_id(id) for id in request.ids]
        await self.wait_for(request.min_offset)

        def read():
            return {
                "points": [
                    p and {"id": p.id, "vector": codec.float_list(p.vector), "meta": p.meta}
                    for p in self.collection(name).get_many(ids)
                ]
            }

        await self.answer(read)


class CountHandler(PointHandler):
    """POST /v1/vector/{collection}/count"""

    async def post(self, name):
        self.check_name(name)
        request = await self.read_json(CountRequest)
        check_filter(request.filters)
        await self.wait_for(request.min_offset)
        await self.answer(lambda: {"count": self.collection(name).count(request.filters)})


class DeleteWhereHandler(PointHandler):
    """POST /v1/vector/{collection}/delete_where"""

    async def post(self, name):
        self.check_name(name)
        request = await self.read_json(FilterRequest)
        check_filter(request.filters)
        if not request.filters:
            raise InvalidArgument(
                "filters required: an empty filter would delete every point; drop the collection "
                "to do that"
            )

        def delete():
            result = self.collection(name).delete(filter=request.filters)
            return {"deleted": result.count, "offset": result.offset}

        await self.answer(delete)


class UpsertBinaryHandler(PointHandler):
    """POST /v1/vector/{collection}/upsert_binary?n=N: vectors, then a line for each."""

    async def post(self, name):
        self.check_name(name)
        if self.media_type != BINARY:
            raise UnsupportedMediaType(f"content type {self.media_type!r}: expected {BINARY}")
        count = self.query_int("n")
        if not count:
            raise InvalidArgument("query parameter n is missing or 0: expected how many points")
        body = self.request.body

        def write():
            collection = self.collection(name)
            size = count * 4 * collection.dim
            if len(body) < size:
                raise InvalidArgument(
                    f"the body has {len(body)} bytes: {count} vectors of {collection.dim} "
                    f"components are {size}, and {count} lines follow them"
                )
            vectors = decode_floats(body[:size], collection)
            items = read_lines(body[size:], BinaryItem)
            if len(items) != count:
                raise InvalidArgument(f"{len(items)} lines behind {count} vectors")
            return self.write_all(collection, items, vectors)

        await self.answer(write)


operations = [
    Operation(
        "POST", PATH + "/scroll", ScrollHandler, "Page through the points in byte order of id.",
        body=ScrollRequest, answer=ScrollAnswer, errors=(404,),
    ),
    Operation(
        "POST", PATH + "/get_batch", GetBatchHandler, "Read many points by id.",
        body=GetBatchRequest, answer=GetBatchAnswer, errors=(404,),
    ),
    Operation(
        "POST", PATH + "/count", CountHandler, "Count the points that match a filter.",
        body=CountRequest, answer=CountAnswer, errors=(404,),
    ),
    Operation(
        "POST", PATH + "/delete_where", DeleteWhereHandler,
        "Delete the points that match a filter.", "write",
        body=FilterRequest, answer=DeleteWhereAnswer, errors=(404,),
    ),
    Operation(
        "POST", PATH + "/upsert_binary", UpsertBinaryHandler,
        "Upsert many points, all or nothing, from raw float32.", "write",
        media=(
            (BINARY, "n x dim little-endian float32, then n lines of JSON with `id` and `meta`."),
        ),
        answer=BulkAnswer, errors=(404,),
        parameters=(Parameter("n", int, "How many points.", required=True),),
    ),
]  # fmt: skip
routes = [
    (COLLECTION + r"/scroll", ScrollHandler),
    (COLLECTION + r"/get_batch", GetBatchHandler),
    (COLLECTION + r"/count", CountHandler),
    (COLLECTION + r"/delete_where", DeleteWhereHandler),
    (COLLECTION + r"/upsert_binary", UpsertBinaryHandler),
]
