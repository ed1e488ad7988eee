"""``/v1/vector/{collection}/…``: the points of a collection, one by one and in batches."""

from typing import Any

import msgspec

from luma_lab import codec
from luma_lab.engine.points import KEEP
from luma_lab.errors import InvalidArgument, LumaError, PointNotFound
from luma_lab.service.lines import read_lines, with_line
from luma_lab.service.operation import MIN_OFFSET, Operation, Parameter
from luma_lab.service.state import ItemError, check_size
from luma_lab.service.statuses import item_error
from luma_lab.service.vectors import COLLECTION, PATH, VectorHandler

NDJSON = "application/x-ndjson"


class PointRequest(msgspec.Struct):
    """A point to add or upsert."""

    id: str | int
    vector: list[float]
    meta: Any = None


class UpdateRequest(msgspec.Struct):
    """A change of a point; what is left out or null stays."""

    id: str | int
    vector: list[float] | None = None
    meta: Any = None


class BatchRequest(msgspec.Struct):
    """Body of upsert_batch."""

    items: list[PointRequest]


class DeleteRequest(msgspec.Struct):
    """Body of delete."""

    id: str | int


class DeleteBatchRequest(msgspec.Struct):
    """Body of delete_batch."""

    ids: list[str | int]


class WriteAnswer(msgspec.Struct):
    """Done."""

    ok: bool
    offset: int


class DeleteAnswer(msgspec.Struct):
    """Deleted."""

    deleted: bool
    offset: int


class PointResult(msgspec.Struct, omit_defaults=True):
    """What became of one item: "upserted", "deleted", or "error" with the error."""

    status: str
    id: str
    error: ItemError | msgspec.UnsetType = msgspec.UNSET


class BatchAnswer(msgspec.Struct):
    """One result for each item, in order."""

    results: list[PointResult]
    offset: int


class BulkAnswer(msgspec.Struct):
    """How many points were written."""

    count: int
    offset: int


class GetAnswer(msgspec.Struct):
    """A point."""

    id: str
    vector: list[float]
    meta: Any


class PointHandler(VectorHandler):
    """What the routes of points share."""

    def check_point(self, point):
        """Return the id of a point request after checking it against the limits."""
        id = self.check_id(point.id)
        self.check_vector(point.vector)
        check_size("meta", point.meta, len(self.request.body), self.limits)
        return id

    def write_all(self, collection, items, vectors):
        """Upsert items all or nothing and return the body of the answer; blocking."""
        size, ids = len(self.request.body), []
        for index, item in enumerate(items):
            ids.append(with_line(index, self.check_id, item.id))
            with_line(index, check_size, "meta", item.meta, size, self.limits)
        result = collection.upsert(ids, vectors, [item.meta for item in items])
        return {"count": result.count, "offset": result.offset}

    def write_each(self, name, verb, items, done):
        """Apply checked items in one commit and return the body of the answer; blocking.

        Parameters
        ----------
        items : list of (id, vector, meta, LumaError or None)
            Those with an error are not tried.
        done : str
            The status of an item that worked.
        """
        collection = self.collection(name)
        results = [error for *_, error in items]
        accepted = [i for i, error in enumerate(results) if error is None]
        written = collection.write_each(verb, [items[i][:3] for i in accepted]) if accepted else []
        for i, result in zip(accepted, written, strict=True):
            results[i] = result
        bodies = [
            self._result_body(id, result, done)
            for (id, *_), result in zip(items, results, strict=True)
        ]
        offsets = [result.offset for result in results if not isinstance(result, LumaError)]
        return {"results": bodies, "offset": max(offsets, default=self.lab.head)}

    def _result_body(self, id, result, done):
        if isinstance(result, LumaError):
            error = item_error(result, str(self.lab.path))
            return {"status": "error", "id": id, "error": error}
        return {"status": done, "id": id}


class AddHandler(PointHandler):
    """POST /v1/vector/{collection}/add"""

    verb = "add"

    async def post(self, name):
        self.check_name(name)
        point = await self.read_json(PointRequest)

        def write():
            id = self.check_point(point)
            result = getattr(self.collection(name), self.verb)(id, point.vector, point.meta)
            return {"ok": True, "offset": result.offset}

        await self.answer(write)


class UpsertHandler(AddHandler):
    """POST /v1/vector/{collection}/upsert"""

    verb = "upsert"


class UpdateHandler(PointHandler):
    """POST /v1/vector/{collection}/update"""

    async def post(self, name):
        self.check_name(name)
        point = await self.read_json(UpdateRequest)

        def write():
            id = self.check_point(point)
            meta = KEEP if point.meta is None else point.meta
            result = self.collection(name).update(id, point.vector, meta)
            return {"ok": True, "offset": result.offset}

        await self.answer(write)


class DeleteHandler(PointHandler):
    """POST /v1/vector/{collection}/delete"""

    async def post(self, name):
        self.check_name(name)
        request = await self.read_json(DeleteRequest)

        def write():
            id = self.check_id(request.id)
            result = self.collection(name).delete(id)
            if not result.count:
                raise PointNotFound(name, id)
            return {"deleted": True, "offset": result.offset}

        await self.answer(write)


class UpsertBatchHandler(PointHandler):
    """POST /v1/vector/{collection}/upsert_batch: each item for itself, in one commit."""

    async def post(self, name):
        self.check_name(name)
        if self.media_type == NDJSON:
            await self.answer(self._write_lines, name)
            return
        points = (await self.read_json(BatchRequest)).items
        check_count("items", len(points), self.limits.max_vector_batch)

        def write():
            items = [(str(p.id), p.vector, p.meta, self._objection(p)) for p in points]
            return self.write_each(name, "upsert", items, "upserted")

        await self.answer(write)

    def _write_lines(self, name):
        items = read_lines(self.request.body, PointRequest)
        collection = self.collection(name)
        for index, item in enumerate(items):
            with_line(index, self.check_vector, item.vector)
            self.check_dimension(item.vector, collection, f" (line {index + 1})")
        return self.write_all(collection, items, [item.vector for item in items])

    def _objection(self, point):
        try:
            self.check_point(point)
        except LumaError as error:
            return error
        return None


class DeleteBatchHandler(PointHandler):
    """POST /v1/vector/{collection}/delete_batch: each id for itself, in one commit."""

    async def post(self, name):
        self.check_name(name)
        ids = (await self.read_json(DeleteBatchRequest)).ids
        check_count("ids", len(ids), self.limits.max_vector_batch)
        items = [(str(id), None, None, self._objection(id)) for id in ids]
        await self.answer(lambda: self.write_each(name, "delete", items, "deleted"))

    def _objection(self, id):
        try:
            self.check_id(id)
        except LumaError as error:
            return error
        return None


class GetHandler(PointHandler):
    """GET /v1/vector/{collection}/get?id="""

    async def get(self, name):
        self.check_name(name)
        id = self.query_text("id")
        if id is None:
            raise InvalidArgument("query parameter id is missing: expected the id of a point")
        self.check_id(id)
        await self.wait_for(self.query_int("min_offset"))

        def read():
            point = self.collection(name).get(id)
            if point is None:
                raise PointNotFound(name, id)
            return {"id": point.id, "vector": codec.float_list(point.vector), "meta": point.meta}

        await self.answer(read)


def check_count(what, count, limit):
    """Raise `InvalidArgument` unless there is at least one and not more than `limit`."""
    if not count:
        raise InvalidArgument(f"{what} required: expected at least one")
    if count > limit:
        raise InvalidArgument(f"too many {what}: {count}, at most {limit}")


operations = [
    Operation(
        "POST", PATH + "/add", AddHandler, "Add a point whose id is new.", "write",
        body=PointRequest, answer=WriteAnswer, errors=(404, 409),
    ),
    Operation(
        "POST", PATH + "/upsert", UpsertHandler, "Add a point, or replace the one with its id.",
        "write", body=PointRequest, answer=WriteAnswer, errors=(404,),
    ),
    Operation(
        "POST", PATH + "/upsert_batch", UpsertBatchHandler,
        "Upsert many points, each for itself in one commit; as lines: all or nothing.", "write",
        body=BatchRequest, media=((NDJSON, "One point a line; the answer is {count, offset}."),),
        answer=BatchAnswer | BulkAnswer, errors=(404,),
    ),
    Operation(
        "POST", PATH + "/update", UpdateHandler, "Change a point; what is left out stays.",
        "write", body=UpdateRequest, answer=WriteAnswer, errors=(404,),
    ),
    Operation(
        "POST", PATH + "/delete", DeleteHandler, "Delete a point.", "write",
        body=DeleteRequest, answer=DeleteAnswer, errors=(404,),
    ),
    Operation(
        "POST", PATH + "/delete_batch", DeleteBatchHandler,
        "Delete many points, each for itself in one commit.", "write",
        body=DeleteBatchRequest, answer=BatchAnswer, errors=(404,),
    ),
    Operation(
        "GET", PATH + "/get", GetHandler, "Read a point.", answer=GetAnswer, errors=(404,),
        parameters=(Parameter("id", str, "The point's id.", required=True), MIN_OFFSET),
    ),
]  # fmt: skip
routes = [
    (COLLECTION + r"/add", AddHandler),
    (COLLECTION + r"/upsert", UpsertHandler),
    (COLLECTION + r"/upsert_batch", UpsertBatchHandler),
    (COLLECTION + r"/update", UpdateHandler),
    (COLLECTION + r"/delete", DeleteHandler),
    (COLLECTION + r"/delete_batch", DeleteBatchHandler),
    (COLLECTION + r"/get", GetHandler),
]
