"""``POST /v1/transaction``: operations of every engine in one commit."""

import re
from typing import Any

import msgspec

from luma_lab.engine.operations import MAX_OPERATIONS
from luma_lab.errors import InvalidArgument, LumaError
from luma_lab.service.documents import delete_document_body, document_body, put_document_body
from luma_lab.service.operation import Operation
from luma_lab.service.refusals import WrongShape
from luma_lab.service.sql import check_parameters, check_sql, exec_body
from luma_lab.service.state import TimeToLive, check_length, check_size, put_body
from luma_lab.service.vectors import VectorHandler

_POSITION = re.compile(r"operations\[(\d+)\]")


class StatePut(msgspec.Struct, tag_field="op", tag="state.put"):
    """Put a state key."""

    key: str
    value: Any
    ttl_ms: TimeToLive | None = None
    if_revision: int | None = None


class StateDelete(msgspec.Struct, tag_field="op", tag="state.delete"):
    """Delete a state key."""

    key: str
    if_revision: int | None = None


class DocPut(msgspec.Struct, tag_field="op", tag="doc.put"):
    """Put a document."""

    collection: str
    id: str
    doc: Any
    if_revision: int | None = None


class DocPatch(msgspec.Struct, tag_field="op", tag="doc.patch"):
    """Merge changes into a document."""

    collection: str
    id: str
    changes: Any


class DocDelete(msgspec.Struct, tag_field="op", tag="doc.delete"):
    """Delete a document."""

    collection: str
    id: str
    if_revision: int | None = None


class VectorAdd(msgspec.Struct, tag_field="op", tag="vector.add"):
    """Add a point."""

    collection: str
    id: str | int
    vector: list[float]
    meta: Any = None


class VectorUpsert(msgspec.Struct, tag_field="op", tag="vector.upsert"):
    """Upsert a point."""

    collection: str
    id: str | int
    vector: list[float]
    meta: Any = None


class VectorUpdate(msgspec.Struct, tag_field="op", tag="vector.update"):
    """Change a point; what is left out or null stays."""

    collection: str
    id: str | int
    vector: list[float] | None = None
    meta: Any = None


class VectorDelete(msgspec.Struct, tag_field="op", tag="vector.delete"):
    """Delete a point."""

    collection: str
    id: str | int


class SqlStatement(msgspec.Struct, tag_field="op", tag="sql"):
    """Run a statement."""

    sql: str
    params: list[Any] | None = None


class Publish(msgspec.Struct, tag_field="op", tag="publish"):
    """Append an event."""

    type: str
    data: Any
    key: str | None = None


Step = (
    StatePut
    | StateDelete
    | DocPut
    | DocPatch
    | DocDelete
    | VectorAdd
    | VectorUpsert
    | VectorUpdate
    | VectorDelete
    | SqlStatement
    | Publish
)


class TransactionRequest(msgspec.Struct):
    """Body of a transaction: at most 1,000 operations."""

    operations: list[Step]


class TransactionAnswer(msgspec.Struct):
    """The range of the log, and for each operation the body of its single route."""

    first_offset: int
    offset: int
    results: list[dict[str, Any]]


class TransactionHandler(VectorHandler):
    """POST /v1/transaction"""

    async def post(self):
        try:
            steps = (await self.read_json(TransactionRequest)).operations
        except WrongShape as error:
            position = _POSITION.match(error.field or "")
            if position is not None:
                error.index = int(position[1])
            raise
        if not steps:
            raise InvalidArgument("operations required: expected at least one")
        if len(steps) > MAX_OPERATIONS:
            raise InvalidArgument(f"too many operations: {len(steps)}, at most {MAX_OPERATIONS}")
        await self.answer(self._apply, steps)

    def _apply(self, steps):
        size = len(self.request.body)
        for index, step in enumerate(steps):
            try:
                self._check(step, size)
            except LumaError as error:
                error.index = index
                raise
        limits = self.limits
        applied = self.lab.apply(
            msgspec.to_builtins(steps),
            sql_timeout_ms=min(limits.sql_timeout_secs, limits.request_timeout_secs) * 1000,
        )
        return {
            "first_offset": applied.first_offset,
            "offset": applied.offset,
            "results": [
                _result_body(step, result)
                for step, result in zip(steps, applied.results, strict=True)
            ],
        }

    def _check(self, step, size):
        limits = self.limits
        if isinstance(step, (StatePut, StateDelete)):
            check_length("key", step.key, limits.max_key_len)
            self.access.check_key(step.key)
        elif isinstance(step, (DocPut, DocPatch, DocDelete)):
            check_length("collection", step.collection, limits.max_collection_len)
            check_length("id", step.id, limits.max_id_len)
            self.access.check_collection(step.collection)
        elif isinstance(step, SqlStatement):
            check_sql(self)
            check_parameters(step.params)
        elif isinstance(step, Publish):
            check_publish(self, step)
        else:
            self.check_name(step.collection)
            self.check_id(step.id)
            self.check_vector(getattr(step, "vector", None))
        for what in ("value", "doc", "changes", "meta", "data"):
            check_size(what, getattr(step, what, None), size, limits)


def check_publish(handler, request):
    """Raise unless this key may publish what a request says."""
    if request.key is not None:
        check_length("key", request.key, handler.limits.max_key_len)
        handler.access.check_key(request.key)
    else:
        handler.access.check_unscoped("events without a key")


def _result_body(step, result):
    if isinstance(step, StatePut):
        return {**put_body(step.key, result), "offset": result.offset}
    if isinstance(step, (StateDelete, DocDelete)):
        return delete_document_body(result)
    if isinstance(step, DocPut):
        return put_document_body(step.id, step.doc, result)
    if isinstance(step, DocPatch):
        return {**document_body(result), "offset": result.revision}
    if isinstance(step, VectorDelete):
        return {"deleted": True, "offset": result.offset}
    if isinstance(step, SqlStatement):
        return {**exec_body(result), "offset": result.offset}
    if isinstance(step, Publish):
        return {"offset": result.offset}
    return {"ok": True, "offset": result.offset}


operations = [
    Operation(
        "POST", "/v1/transaction", TransactionHandler,
        "Apply operations over every engine in one commit, or none of them.", "write",
        body=TransactionRequest, answer=TransactionAnswer, errors=(404, 409),
    ),
]  # fmt: skip
routes = [(r"/v1/transaction", TransactionHandler)]
