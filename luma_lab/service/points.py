"""``/v1/vector/{collection}/…``: the points of a collection, one by one and in batches."""

from typing import Any

import msgspec

from luma_lab import codec
from luma_lab.engine.points import KEEP
from luma_lab.errors import InvalidArgument, LumaError, PointNotFound
from luma_lab.service.base import item_error
from luma_lab.service.state import check_size
from luma_lab.service.vectors import COLLECTION, VectorHandler


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


class PointHandler(VectorHandler):
    """What the routes of points share."""

    def check_point(self, point):
        """Return the id of a point request after checking it against the limits."""
        id = self.check_id(point.id)
        self.check_vector(point.vector)
        check_size("meta", point.meta, len(self.request.body), self.limits)
        return id

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
        points = (await self.read_json(BatchRequest)).items
        _check_count("items", len(points), self.limits.max_vector_batch)

        def write():
            items = [(str(p.id), p.vector, p.meta, self._objection(p)) for p in points]
            return self.write_each(name, "upsert", items, "upserted")

        await self.answer(write)

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
        _check_count("ids", len(ids), self.limits.max_vector_batch)
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


def _check_count(what, count, limit):
    if not count:
        raise InvalidArgument(f"{what} required: expected at least one")
    if count > limit:
        raise InvalidArgument(f"too many {what}: {count}, at most {limit}")


routes = [
    (COLLECTION + r"/add", AddHandler),
    (COLLECTION + r"/upsert", UpsertHandler),
    (COLLECTION + r"/upsert_batch", UpsertBatchHandler),
    (COLLECTION + r"/update", UpdateHandler),
    (COLLECTION + r"/delete", DeleteHandler),
    (COLLECTION + r"/delete_batch", DeleteBatchHandler),
    (COLLECTION + r"/get", GetHandler),
]
