"""Lists of operations: each kind does what its single verb does; one that fails undoes all."""

import pytest

from luma_lab.engine.operations import MAX_OPERATIONS
from luma_lab.errors import (
    AlreadyExists,
    CollectionNotFound,
    DimensionMismatch,
    DocumentNotFound,
    InvalidArgument,
    PointNotFound,
    RevisionConflict,
    SqlError,
    SqlTimeout,
    UnknownName,
)

FIRST = {"op": "state.put", "key": "first", "value": 1}


@pytest.fixture
def docs(lab):
    docs = lab.create_collection("docs", 2, "l2")
    docs.upsert("a", [1, 2], {"n": 1})
    lab.state.put("k", "old")
    lab.documents("notes").put("d", {"x": 1, "y": 2})
    lab.sql.execute("CREATE TABLE t (a NOT NULL)")
    return docs


def everything(lab):
    docs = lab.collection("docs")
    return (
        [(p.id, p.vector.tolist(), p.meta) for p in docs.scroll(limit=100)[0]],
        [(i.key, i.value, i.revision, i.expires_at_ms) for i in lab.state.scan()],
        [(d.id, d.doc, d.revision) for d in lab.documents("notes").find(limit=100)],
        lab.sql("SELECT a FROM t").rows,
        lab.head,
    )


def one(lab, **operation):
    """Apply one operation and return its result and the events it left."""
    before = lab.head
    applied = lab.apply([operation])
    return applied.results[0], lab.events.read(before)


def test_state_put_writes_value_time_to_live_and_revision(lab, docs, clock):
    result, [event] = one(lab, op="state.put", key="k", value=[1], ttl_ms=50)
    assert result.offset == result.revision == event.offset == lab.head
    assert result.expires_at_ms == clock.now_ms() + 50
    assert lab.state.item("k").value == [1]
    assert (event.type, event.key) == ("state_updated", "k")
    result, _ = one(lab, op="state.put", key="k", value=2, if_revision=result.revision)
    assert lab.state.item("k").expires_at_ms is None
    one(lab, op="state.put", key="new", value=None, if_revision=0)
    assert lab.state["new"] is None


def test_state_delete_counts_what_was_there(lab, docs):
    revision = lab.state.item("k").revision
    result, [event] = one(lab, op="state.delete", key="k", if_revision=revision)
    assert result.count == 1 and event.type == "state_deleted" and "k" not in lab.state
    result, events = one(lab, op="state.delete", key="k")
    assert (result.count, result.offset, events) == (0, lab.head, [])


def test_doc_put_patch_and_delete(lab, docs):
    notes = lab.documents("notes")
    result, [event] = one(lab, op="doc.put", collection="notes", id="e", doc=[1], if_revision=0)
    assert notes.get("e").doc == [1] and notes.get("e").revision == result.revision
    assert (event.collection, event.data["id"]) == ("notes", "e")
    found, [event] = one(
        lab, op="doc.patch", collection="notes", id="d", changes={"x": None, "z": 3}
    )
    assert (found.doc, found.revision) == ({"y": 2, "z": 3}, event.offset)
    result, [event] = one(lab, op="doc.delete", collection="notes", id="d")
    assert result.count == 1 and notes.get("d") is None and event.type == "state_deleted"
    result, events = one(lab, op="doc.delete", collection="notes", id="d")
    assert (result.count, events) == (0, [])


def test_vector_add_upsert_update_and_delete(lab, docs):
    one(lab, op="vector.add", collection="docs", id="b", vector=[3, 4], meta={"m": 1})
    assert docs.get("b").vector.tolist() == [3, 4]
    _, [event] = one(lab, op="vector.upsert", collection="docs", id="b", vector=[5, 6])
    assert (docs.get("b").meta, event.type) == (None, "vector_upserted")
    one(lab, op="vector.update", collection="docs", id="a", vector=[7, 8])
    assert (docs.get("a").vector.tolist(), docs.get("a").meta) == ([7, 8], {"n": 1})
    one(lab, op="vector.update", collection="docs", id="a", meta={"n": 2})
    assert (docs.get("a").vector.tolist(), docs.get("a").meta) == ([7, 8], {"n": 2})
    one(lab, op="vector.update", collection="docs", id="a", vector=None, meta=None)
    assert (docs.get("a").vector.tolist(), docs.get("a").meta) == ([7, 8], {"n": 2})
    result, [event] = one(lab, op="vector.delete", collection="docs", id="a")
    assert result.count == 1 and docs.get("a") is None and event.type == "vector_deleted"


def test_a_number_is_an_id_too(lab, docs):
    one(lab, op="vector.add", collection="docs", id=7, vector=[0, 0])
    assert docs.get("7") is not None
    one(lab, op="vector.delete", collection="docs", id=7)
    assert docs.get("7") is None


def test_sql_tells_how_many_rows(lab, docs):
    result, [event] = one(lab, op="sql", sql="INSERT INTO t VALUES (?), (?)", params=[1, "b"])
    assert (result.count, event.type, event.data) == (2, "sql_executed", {"rows_affected": 2})
    assert lab.sql("SELECT a FROM t").rows == [(1,), ("b",)]


def test_publish_appends_the_event(lab, docs):
    result, [event] = one(lab, op="publish", type="told", data={"a": 1}, key="k")
    assert (event.offset, event.type, event.key, event.data) == (
        result.offset, "told", "k", {"a": 1},
    )  # fmt: skip
    _, [event] = one(lab, op="publish", type="told")
    assert (event.key, event.data) == (None, None)


def test_later_operations_see_earlier_ones_and_the_range_is_told(lab, docs):
    head = lab.head
    applied = lab.apply([
        {"op": "state.put", "key": "n", "value": 1, "if_revision": 0},
        {"op": "state.put", "key": "n", "value": 2, "if_revision": head + 1},
        {"op": "vector.add", "collection": "docs", "id": "b", "vector": [0, 0]},
        {"op": "vector.update", "collection": "docs", "id": "b", "meta": 5},
        {"op": "vector.delete", "collection": "docs", "id": "b"},
        {"op": "vector.add", "collection": "docs", "id": "b", "vector": [1, 1]},
        {"op": "doc.put", "collection": "notes", "id": "e", "doc": {}},
        {"op": "doc.patch", "collection": "notes", "id": "e", "changes": {"v": 1}},
        {"op": "state.delete", "key": "nothing"},
    ])  # fmt: skip
    assert (applied.first_offset, applied.offset) == (head + 1, head + 8)
    assert [r.offset for r in applied.results if hasattr(r, "offset")] == [
        *range(head + 1, head + 8), head + 8,
    ]  # fmt: skip
    assert lab.state["n"] == 2 and docs.get("b").vector.tolist() == [1, 1]
    assert lab.documents("notes").get("e").doc == {"v": 1}


def test_a_list_that_writes_nothing_has_the_head_for_both_offsets(lab, docs):
    applied = lab.apply([{"op": "state.delete", "key": "nothing"}])
    assert (applied.first_offset, applied.offset) == (lab.head, lab.head)


DOC = {"op": "doc.put", "collection": "notes", "id": "e", "doc": 1}
POINT = {"op": "vector.upsert", "collection": "docs", "id": "b", "vector": [1, 2]}
FAILING = [
    ({"op": "state.put", "key": "k", "value": 1, "if_revision": 0}, RevisionConflict, "revision"),
    ({"op": "state.put", "key": "", "value": 1}, InvalidArgument, "key"),
    ({"op": "state.put", "key": "x" * 513, "value": 1}, InvalidArgument, "key too long"),
    ({"op": "state.put", "key": "x", "value": {1, 2}}, InvalidArgument, "set"),
    ({"op": "state.put", "key": "x", "value": float("nan")}, InvalidArgument, "nan"),
    ({"op": "state.put", "key": "x", "value": 1, "ttl_ms": 0}, InvalidArgument, "ttl_ms"),
    ({"op": "state.put", "key": "x", "value": 1, "if_revision": -1}, InvalidArgument, "revision"),
    ({"op": "state.put", "key": "x"}, InvalidArgument, "has no 'value'"),
    ({"op": "state.delete", "key": "k", "if_revision": 10**9}, RevisionConflict, "revision"),
    ({"op": "state.delete"}, InvalidArgument, "has no 'key'"),
    ({**DOC, "id": "d", "if_revision": 0}, RevisionConflict, "revision"),
    ({**DOC, "doc": 10**40}, InvalidArgument, "64 bits"),
    ({**DOC, "collection": ""}, InvalidArgument, "collection"),
    ({**DOC, "op": "doc.patch", "changes": {}}, DocumentNotFound, "document not found"),
    ({**DOC, "op": "doc.patch"}, InvalidArgument, "has no 'changes'"),
    ({**DOC, "op": "doc.delete", "id": "d", "if_revision": 10**9}, RevisionConflict, "revision"),
    ({**POINT, "op": "vector.add", "id": "a"}, AlreadyExists, "already exists"),
    ({**POINT, "vector": [1]}, DimensionMismatch, "dimension"),
    ({**POINT, "vector": [1, float("inf")]}, InvalidArgument, "inf"),
    ({**POINT, "vector": None}, InvalidArgument, "has no 'vector'"),
    ({**POINT, "id": 1.5}, InvalidArgument, "id"),
    ({**POINT, "meta": object()}, InvalidArgument, "object"),
    ({**POINT, "collection": "none"}, CollectionNotFound, "collection not found"),
    ({**POINT, "op": "vector.update", "id": "none"}, PointNotFound, "id not found"),
    ({**POINT, "op": "vector.delete", "id": "none"}, PointNotFound, "id not found"),
    ({"op": "sql", "sql": "INSERT INTO t VALUES (NULL)"}, SqlError, "NOT NULL"),
    ({"op": "sql", "sql": "INSERT OR ROLLBACK INTO t VALUES (NULL)"}, SqlError, "NOT NULL"),
    ({"op": "sql", "sql": "SELECT 1"}, InvalidArgument, "changes nothing"),
    ({"op": "sql", "sql": "DELETE FROM luma_state"}, SqlError, "luma_state"),
    ({"op": "sql", "sql": "INSERT INTO t VALUES (?)", "params": []}, SqlError, "parameter"),
    ({"op": "publish", "type": "state_mine"}, InvalidArgument, "reserved"),
    ({"op": "publish", "type": "1"}, InvalidArgument, "event type"),
    ({"op": "publish", "type": "told", "key": "x" * 513}, InvalidArgument, "key too long"),
    ({"op": "publish"}, InvalidArgument, "has no 'type'"),
    ({"op": "state.pot"}, UnknownName, "did you mean 'state.put'"),
    ({"op": None}, UnknownName, "operation"),
    ({}, UnknownName, "operation"),
    (5, InvalidArgument, "expected a dict"),
    (None, InvalidArgument, "expected a dict"),
]


@pytest.mark.parametrize(("bad", "kind", "words"), FAILING)
@pytest.mark.parametrize("at", [0, 2])
def test_one_that_fails_is_named_by_its_index_and_undoes_all(lab, docs, bad, kind, words, at):
    before = everything(lab)
    good = [FIRST, {**POINT, "id": "z"}, {"op": "publish", "type": "told"}]
    good.insert(at, bad)
    with pytest.raises(kind, match=words) as caught:
        lab.apply(good)
    assert caught.value.index == at
    assert everything(lab) == before
    lab.apply([FIRST])
    assert lab.head == before[-1] + 1, "no offset was lost"


@pytest.mark.parametrize("operations", [[], None, (FIRST,), {"op": "publish"}, "x"])
def test_what_is_no_list_of_operations_is_refused(lab, operations):
    with pytest.raises(InvalidArgument, match="operations required"):
        lab.apply(operations)
    assert lab.head == 0


def test_a_list_holds_at_most_a_thousand(lab):
    with pytest.raises(InvalidArgument, match="too many operations: 1001, at most 1000"):
        lab.apply([FIRST] * (MAX_OPERATIONS + 1))
    assert lab.head == 0
    assert lab.apply([FIRST] * MAX_OPERATIONS).offset == MAX_OPERATIONS


def test_unknown_fields_are_passed_over(lab):
    lab.apply([{**FIRST, "colour": "red"}])
    assert lab.state["first"] == 1


def test_a_statement_that_runs_on_is_stopped_and_all_is_undone(lab, docs):
    before = everything(lab)
    endless = (
        "INSERT INTO t WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) "
        "SELECT max(i) FROM n"
    )
    with pytest.raises(SqlTimeout) as caught:
        lab.apply([FIRST, {"op": "sql", "sql": endless}], sql_timeout_ms=50)
    assert caught.value.index == 1
    assert everything(lab) == before


@pytest.mark.parametrize("name", [["x"], {}, 1, None, "state.putt"])
def test_what_is_no_name_of_an_operation_is_refused(lab, docs, name):
    before = everything(lab)
    with pytest.raises(UnknownName) as refused:
        lab.apply([FIRST, {"op": name, "key": "k"}])
    assert refused.value.index == 1 and everything(lab) == before
