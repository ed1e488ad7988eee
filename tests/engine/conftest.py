"""What the tests of collections and of SQL start from."""

import pytest


@pytest.fixture
def sql(lab):
    lab.sql.execute("CREATE TABLE t (id TEXT PRIMARY KEY, n INTEGER CHECK (n < 1000))")
    lab.sql.execute("INSERT INTO t VALUES ('a', 1), ('b', 2), ('c', 3)")
    docs = lab.create_collection("docs", 2, "l2")
    docs.upsert(["a", "b", "z"], [[1, 0], [0, 1], [5, 5]], [{"x": 1}, {"x": 2}, {"x": 3}])
    lab.state["key"] = {"v": 1}
    lab.state.put("short", 1, ttl_ms=1000)
    lab.documents("notes").put("n1", {"q": 1})
    return lab.sql


@pytest.fixture
def docs(lab):
    docs = lab.create_collection("docs", 3, "l2")
    docs.upsert(["a", "b"], [[1, 0, 0], [0, 1, 0]], [{"n": 1}, None])
    return docs
