"""Lists of operations over every engine, as one commit: what ``POST /v1/transaction`` does.

Unlike ``lab.transaction()`` nothing is interactive, so the writer is held only while it works,
and lists without SQL share a commit with whatever else waits.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

from luma_lab import codec
from luma_lab.engine import documents, points, sql, state
from luma_lab.engine.events import check_event, publish_event
from luma_lab.engine.points import KEEP
from luma_lab.errors import InvalidArgument, LumaError, PointNotFound, UnknownName
from luma_lab.store import catalog

MAX_OPERATIONS = 1000


class Applied(NamedTuple):
    """What a list did: its range of the log, and one result for each operation.

    A result is a `WriteResult`, for ``doc.patch`` the `Document`. A list that wrote nothing has
    the head of the log for both offsets.
    """

    first_offset: int
    offset: int
    results: list[Any]


class _Step(NamedTuple):
    work: Callable
    is_sql: bool = False


def apply_operations(parts, operations, *, sql_timeout_ms=sql.EXECUTE_TIMEOUT_MS):
    """Apply a list of operations, all or none; return an `Applied`.

    Parameters
    ----------
    parts : luma_lab.engine.lab.Parts
    operations : list of dict
        At most 1,000, each with ``op`` and the fields of contract 3.10: ``state.put``,
        ``state.delete``, ``doc.put``, ``doc.patch``, ``doc.delete``, ``vector.add``,
        ``vector.upsert``, ``vector.update``, ``vector.delete``, ``sql``, ``publish``.

    Raises
    ------
    LumaError
        Whatever the failing operation raises, with its position as ``.index``.
    """
    if not isinstance(operations, list) or not operations:
        raise InvalidArgument("operations required: expected a list of at least one")
    if len(operations) > MAX_OPERATIONS:
        raise InvalidArgument(f"too many operations: {len(operations)}, at most {MAX_OPERATIONS}")
    steps = []
    for index, fields in enumerate(operations):
        with _at(index):
            steps.append(_prepare(fields, sql_timeout_ms))

    def run(unit):
        first = unit.head.next_offset
        results = []
        for index, step in enumerate(steps):
            with _at(index):
                results.append(step.work(unit))
        return Applied(min(first, unit.head.offset), unit.head.offset, results)

    return parts.writer.run(run, alone=any(step.is_sql for step in steps))


class _at:
    """Marks an error of the block with the position of its operation."""

    def __init__(self, index):
        self._index = index

    def __enter__(self):
        return self

    def __exit__(self, kind, error, trace):
        if isinstance(error, LumaError):
            error.index = self._index


def _prepare(fields, sql_timeout_ms):
    if not isinstance(fields, dict):
        raise InvalidArgument(f"an operation is a {type(fields).__name__}: expected a dict")
    name = fields.get("op")
    if not isinstance(name, str) or name not in _PREPARE:
        raise UnknownName("operation", name, _PREPARE)
    needed, allowed, prepare = _PREPARE[name]
    missing = [field for field in needed if field not in fields]
    if missing:
        raise InvalidArgument(f"the operation {name!r} has no {missing[0]!r}")
    given = {field: fields[field] for field in (*needed, *allowed) if field in fields}
    if name == "sql":
        return _Step(prepare(**given, timeout_ms=sql_timeout_ms), is_sql=True)
    return _Step(prepare(**given))


def _state_put(key, value, ttl_ms=None, if_revision=None):
    return state.checked_put(key, value, ttl_ms, if_revision)


def _state_delete(key, if_revision=None):
    state.check_key(key)
    state.check_revision(if_revision)
    return partial(state.delete_entry, key=key, if_revision=if_revision)


def _doc_put(collection, id, doc, if_revision=None):
    state.check_key(collection, "collection")
    id = points.check_id(id)
    state.check_revision(if_revision)
    data = codec.encode(doc, f"document {id!r}")
    return partial(
        documents.put_document, name=collection, id=id, doc=data, if_revision=if_revision
    )


def _doc_patch(collection, id, changes):
    state.check_key(collection, "collection")
    codec.encode(changes, "changes")
    return partial(
        documents.patch_document, name=collection, id=points.check_id(id), changes=changes
    )


def _doc_delete(collection, id, if_revision=None):
    state.check_key(collection, "collection")
    state.check_revision(if_revision)
    return partial(
        documents.delete_document,
        name=collection,
        id=points.check_id(id),
        if_revision=if_revision,
    )


def _vector_write(verb, collection, id, vector=None, meta=None):
    id = points.check_id(id)
    if verb == "update":
        meta = KEEP if meta is None else meta
    elif vector is None:
        raise InvalidArgument(f"the operation 'vector.{verb}' has no 'vector'")
    codec.encode(None if meta is KEEP else meta, "meta")

    def work(unit):
        row = catalog.require(unit.connection, collection)
        batch = points.check_batch(
            id, vector, meta, dim=row.dim, collection=collection, keep_vectors=verb == "update"
        )
        return points.write_points(unit, collection, batch, verb)

    return work


def _vector_delete(collection, id):
    id = points.check_id(id)

    def work(unit):
        result = points.delete_points(unit, collection, [id])
        if not result.count:
            raise PointNotFound(collection, id)
        return result

    return work


def _sql(sql, params=(), *, timeout_ms):
    from luma_lab.engine.sql import checked_statement, run_statements

    statement = checked_statement(sql, params)
    return lambda unit: run_statements(unit, [statement], timeout_ms)[0]


def _publish(type, data=None, key=None):
    return partial(publish_event, type=type, key=key, data=check_event(type, data, key))


# Name to the fields it needs, the fields it may have, and what checks them.
_PREPARE = {
    "state.put": (("key", "value"), ("ttl_ms", "if_revision"), _state_put),
    "state.delete": (("key",), ("if_revision",), _state_delete),
    "doc.put": (("collection", "id", "doc"), ("if_revision",), _doc_put),
    "doc.patch": (("collection", "id", "changes"), (), _doc_patch),
    "doc.delete": (("collection", "id"), ("if_revision",), _doc_delete),
    "vector.delete": (("collection", "id"), (), _vector_delete),
    "sql": (("sql",), ("params",), _sql),
    "publish": (("type",), ("data", "key"), _publish),
    **{
        f"vector.{verb}": (
            ("collection", "id"),
            ("vector", "meta"),
            partial(_vector_write, verb),
        )
        for verb in ("add", "upsert", "update")
    },
}
