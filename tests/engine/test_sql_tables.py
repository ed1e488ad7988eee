"""Table functions: what the engine holds, as tables of SQL."""

import threading

import numpy as np


def test_a_vector_search_joins_with_a_table(sql, lab):
    query = (
        "SELECT v.id, v.rank, t.n, json_extract(v.meta, '$.x') AS x, v.score "
        "FROM vector_search('docs', ?, ?) AS v JOIN t ON t.id = v.id ORDER BY v.rank"
    )
    wanted = [("a", 1, 1, 1, 0.0), ("b", 2, 2, 2, -2.0)]
    assert sql(query, (np.array([1, 0]), 3)).rows == wanted
    assert sql(query, ("[1, 0]", 3)).rows == wanted
    assert sql(query, ("[1, 0]", 1)).rows == wanted[:1]
    plan = [row["detail"] for row in sql("EXPLAIN QUERY PLAN " + query, ("[1, 0]", 3))]
    assert any("v VIRTUAL TABLE" in line for line in plan)
    assert any("SEARCH t USING INDEX" in line for line in plan)


def test_a_filter_inside_is_not_a_where_after_it(sql):
    inside = "SELECT id FROM vector_search('docs', '[1, 0]', 1, ?)"
    assert sql(inside, ('{"x": 3}',)).rows == [("z",)]
    assert sql(inside, ("x = 3",)).rows == [("z",)]
    after = "SELECT id FROM vector_search('docs', '[1, 0]', 1) WHERE json_extract(meta, '$.x') = 3"
    assert sql(after).rows == []


def test_arguments_may_come_from_another_table(sql, lab):
    lab.sql.execute("CREATE TABLE q (name TEXT, v TEXT)")
    lab.sql.execute("INSERT INTO q VALUES ('one', '[1, 0]'), ('two', '[5, 4]')")
    rows = sql("SELECT q.name, s.id FROM q, vector_search('docs', q.v, 1) AS s ORDER BY 1")
    assert rows.rows == [("one", "a"), ("two", "z")]


def test_state_hides_what_is_expired_and_seeks_keys(sql, lab, clock):
    text = "SELECT key, json_extract(value, '$.v') AS v FROM state('') ORDER BY key"
    assert sql(text).rows == [("key", 1), ("short", None)]
    clock.advance(2000)
    assert sql(text).rows == [("key", 1)]
    assert sql("SELECT revision FROM state WHERE key = 'key'").rows == [
        (lab.state.item("key").revision,)
    ]
    assert sql("SELECT * FROM state('k') WHERE key = 'short'").rows == []
    for i in range(1200):
        lab.state[f"many{i:04}"] = i
    assert sql("SELECT count(*), sum(value) FROM state('many')").rows == [(1200, 719400)]


def test_documents_points_collections_and_events(sql, lab):
    assert sql("SELECT id, json_extract(doc, '$.q') FROM documents('notes')").rows == [("n1", 1)]
    assert sql("SELECT doc FROM documents('notes') WHERE id = 'n1'").rows == [('{"q":1}',)]
    assert sql("SELECT * FROM documents('none')").rows == []
    assert sql("SELECT id FROM points WHERE collection = 'docs' ORDER BY id").rows == [
        ("a",), ("b",), ("z",),
    ]  # fmt: skip
    assert sql("SELECT meta FROM points WHERE collection = 'docs' AND id = 'b'").rows == [
        ('{"x":2}',)
    ]
    assert sql("SELECT name, dim, metric, points FROM collections").rows == [("docs", 2, "l2", 3)]
    rows = sql('SELECT "offset", type, data FROM events(2, 5)').rows
    assert [(e.offset, e.type) for e in lab.events.read(since=2, limit=3)] == [r[:2] for r in rows]


def test_one_query_sees_one_moment(sql, lab):
    """A state key and a row that always change together are never seen apart."""
    sql.execute("INSERT INTO t VALUES ('pair', 0)")
    lab.state["pair"] = 0
    stop = threading.Event()

    def change():
        n = 0
        while not stop.is_set():
            n = (n + 1) % 900
            with lab.transaction() as tx:
                tx.state["pair"] = n
                tx.documents("notes").put("pair", n)
                tx.sql.execute("UPDATE t SET n = ? WHERE id = 'pair'", (n,))

    thread = threading.Thread(target=change)
    thread.start()
    try:
        for _ in range(100):
            (row,) = sql(
                "SELECT (SELECT value FROM state WHERE key = 'pair') + 0 AS s, n, "
                "(SELECT doc FROM documents('notes') WHERE id = 'pair') + 0 AS d "
                "FROM t WHERE id = 'pair'"
            ).rows
            assert row[0] == row[1] and row[2] in (row[1], None)
    finally:
        stop.set()
        thread.join()


def test_a_value_too_long_for_the_statement_is_skipped_and_its_size_told(sql, lab):
    long = "x" * (18 << 20)
    lab.state["long"] = long
    lab.documents("notes").put("n2", long)
    docs = lab.collection("docs")
    docs.upsert(["y"], [[9, 9]], [{"long": long}])
    lab.events.publish("big", long)
    size = len(long) + 2
    assert sql("SELECT key, value IS NULL, bytes FROM state('') WHERE key <> 'short'").rows == [
        ("key", 0, 7), ("long", 1, size),
    ]  # fmt: skip
    assert sql("SELECT value, bytes FROM state WHERE key = 'long'").rows == [(None, size)]
    assert sql("SELECT id, doc, bytes FROM documents('notes')").rows == [
        ("n1", '{"q":1}', 7), ("n2", None, size),
    ]  # fmt: skip
    found = sql("SELECT id, bytes FROM points WHERE collection = 'docs' AND meta IS NULL").rows
    assert found == [("y", size + len('{"long":}'))]
    assert sql("SELECT data, bytes FROM events WHERE type = 'big'").rows == [(None, size)]
    assert sql("SELECT id, meta FROM vector_search('docs', '[9, 9]', 1)").rows == [("y", None)]
    with lab.transaction() as tx:
        assert tx.sql("SELECT value, bytes FROM state('long')").rows == [(None, size)]
    lab.state["medium"] = long[: 10 << 20]
    assert sql("SELECT length(value) FROM state WHERE key = 'medium'").rows == [((10 << 20) + 2,)]


def test_many_long_values_are_read_a_few_at_a_time(sql, lab):
    for i in range(30):
        lab.state[f"many{i:02}"] = "x" * (1 << 20)
    assert sql("SELECT count(*), sum(length(value)) FROM state('many')").rows == [
        (30, 30 * ((1 << 20) + 2))
    ]
    assert sql("SELECT key FROM state('many') LIMIT 1 OFFSET 29").rows == [("many29",)]


def test_table_functions_alone_see_one_moment_too(sql, lab):
    lab.state["a"] = lab.state["b"] = 0
    stop = threading.Event()

    def change():
        n = 0
        while not stop.is_set():
            n += 1
            with lab.transaction() as tx:
                tx.state["a"] = tx.state["b"] = n

    thread = threading.Thread(target=change)
    thread.start()
    try:
        for _ in range(200):
            ((a, b),) = sql(
                "SELECT a.value, b.value FROM state AS a, state AS b "
                "WHERE a.key = 'a' AND b.key = 'b'"
            ).rows
            assert a == b
    finally:
        stop.set()
        thread.join()


def test_rank_orders_without_a_sort_and_backwards_with_one(sql):
    text = "SELECT id, rank FROM vector_search('docs', '[1, 0]', 3) ORDER BY rank"
    assert sql(text).rows == [("a", 1), ("b", 2), ("z", 3)]
    assert sql(text + " DESC").rows == [("z", 3), ("b", 2), ("a", 1)]
    plan = [row["detail"] for row in sql("EXPLAIN QUERY PLAN " + text)]
    assert not any("ORDER BY" in line for line in plan)
    assert sql(text + " LIMIT 1 OFFSET 1").rows == [("b", 2)]
    assert sql("SELECT rowid, collection, k FROM vector_search('docs', '[1, 0]', 2)").rows == [
        (0, "docs", 2), (1, "docs", 2),
    ]  # fmt: skip
