"""The users' own SQL: plain SQLite where it may, one log with the rest."""

import sqlite3
import threading

import numpy as np
import pytest
from sql_contents import ENDLESS, contents

from luma_lab.errors import InvalidArgument, SqlError, SqlTimeout

QUERIES = [
    "SELECT * FROM t ORDER BY id",
    "  -- a comment first\n SELECT n, count(*) FROM t GROUP BY n % 2 ORDER BY 1;  ",
    "WITH x(a) AS (VALUES (1), (2)) SELECT a * 2 AS twice FROM x /* and one behind */",
    "VALUES (1, 'x', NULL, 2.5), (2, 'y', x'00ff', -1)",
    "SELECT t.id, u.id FROM t, t AS u WHERE t.n < u.n ORDER BY 1, 2",
    "WITH luma_x AS (SELECT 1 AS one) SELECT * FROM luma_x",
    "SELECT json_extract('{\"a\": [1, 2]}', '$.a[1]'), upper('é'), 7 / 2",
    "SELECT id FROM t WHERE n > 99",
]


@pytest.mark.parametrize("query", QUERIES)
def test_a_query_answers_as_sqlite_does(sql, query):
    other = sqlite3.connect(":memory:")
    other.execute("CREATE TABLE t (id TEXT PRIMARY KEY, n INTEGER)")
    other.execute("INSERT INTO t VALUES ('a', 1), ('b', 2), ('c', 3)")
    cursor = other.execute(query)
    wanted = cursor.fetchall()
    rows = sql(query)
    assert rows.rows == wanted
    assert len(rows.columns) == len(cursor.description) == len(set(rows.columns))
    assert not rows.truncated


def test_whoever_renames_columns_of_an_answer_renames_no_others(sql):
    for _ in range(4):
        rows = sql("SELECT id, n FROM t")
        assert rows.columns == ["id", "n"]
        rows.columns[0] = "renamed"
        rows.columns.append("more")
    assert sql("SELECT id, n FROM t", max_rows=1).columns == ["id", "n"]


def test_rows_are_dicts_tuples_and_a_frame(sql):
    rows = sql("SELECT id, n, n AS n, n FROM t ORDER BY id")
    assert rows.columns == ["id", "n", "n_2", "n_3"]
    assert rows[0] == {"id": "a", "n": 1, "n_2": 1, "n_3": 1} == next(iter(rows))
    assert len(rows) == 3 and len(rows[1:]) == 2
    assert rows.to_pandas().shape == (3, 4)
    assert "<th>n_2</th>" in rows._repr_html_() and "3 x" in repr(rows)


def test_parameters_by_place_and_by_name(sql):
    assert sql("SELECT ?, ?, ?", (True, b"\0", 1.5)).rows == [(1, b"\0", 1.5)]
    assert sql("SELECT :a, :b", {"a": None, "b": 2**63 - 1}).rows == [(None, 2**63 - 1)]
    vector = np.array([1, 2], dtype=np.float64)
    assert sql("SELECT ?", (vector,)).rows == [(vector.astype("<f4").tobytes(),)]
    assert sql("SELECT ?", (np.int64(3),)).rows == [(3,)]


@pytest.mark.parametrize(
    "params", [([1],), ({"a": 1},), (2**63,), (object(),), ("\ud800",), 5, "abc", (1, 2), ()]
)
def test_parameters_that_do_not_fit_are_refused(sql, params):
    with pytest.raises(SqlError):
        sql("SELECT ?", params)


def test_caps_cut_the_answer_and_say_so(sql):
    endless = ENDLESS + "SELECT i, 'xxxxxxxxxx' FROM n"
    rows = sql(endless, max_rows=7)
    assert len(rows) == 7 and rows.truncated
    rows = sql(endless, max_bytes=1800)
    assert len(rows) == 100 and rows.truncated
    assert not sql("SELECT * FROM t", max_rows=3).truncated


def test_a_query_that_would_run_for_ever_is_stopped_and_the_next_one_works(sql):
    with pytest.raises(SqlTimeout):
        sql(ENDLESS + "SELECT max(i) FROM n", timeout_ms=50)
    with pytest.raises(SqlTimeout):
        sql(
            "SELECT count(*) FROM state(''), state(''), (" + ENDLESS + "SELECT i FROM n)",
            timeout_ms=50,
        )
    assert sql("SELECT 1").rows == [(1,)]


def test_a_write_goes_on_while_a_query_runs(sql, lab):
    stopped = []

    def run():
        try:
            sql(ENDLESS + "SELECT max(i) FROM n", timeout_ms=1500)
        except SqlTimeout:
            stopped.append(True)

    thread = threading.Thread(target=run)
    thread.start()
    for i in range(4):
        lab.state[f"w{i}"] = i
        lab.sql.execute("INSERT INTO t VALUES (?, ?)", (f"w{i}", i))
    assert thread.is_alive(), "the query had to be running all the while"
    thread.join()
    assert stopped == [True]


def test_each_statement_leaves_one_event_without_its_text(sql, lab):
    before = lab.head
    result = sql.execute("UPDATE t SET n = n + ? WHERE n > 1", (10,))
    assert (result.count, result.offset) == (2, before + 1)
    event = lab.events.read(since=before)[0]
    assert (event.type, event.data) == ("sql_executed", {"rows_affected": 2})
    results = sql.execute_many([("DELETE FROM t WHERE id='a'", ()), ("DELETE FROM t", None)])
    assert [r.count for r in results] == [1, 2]


def test_definitions_affect_no_rows_and_work(sql):
    for text in (
        "CREATE TABLE u (k INTEGER PRIMARY KEY AUTOINCREMENT, v)",
        "CREATE TABLE IF NOT EXISTS u (k)",
        "CREATE INDEX u_v ON u (v)",
        "CREATE VIEW w AS SELECT * FROM u",
        "CREATE TRIGGER r AFTER INSERT ON u BEGIN UPDATE t SET n = n + 1; END",
        "ALTER TABLE u ADD COLUMN x DEFAULT 5",
        "ALTER TABLE u RENAME COLUMN x TO y",
        "CREATE VIRTUAL TABLE f USING fts5(body)",
        "CREATE VIRTUAL TABLE r USING rtree(id, low, high)",
        "CREATE TABLE copy AS SELECT * FROM t",
    ):
        assert sql.execute(text).count == 0, text
    assert sql.execute("INSERT INTO u (v) VALUES ('new')").count == 1
    assert sql("SELECT k, v, y FROM w").rows == [(1, "new", 5)]
    assert sql("SELECT sum(n) FROM t").rows == [(9,)]
    assert sql.execute("INSERT INTO f VALUES ('hello world')").count == 1
    assert sql("SELECT body FROM f WHERE f MATCH 'world'").rows == [("hello world",)]
    for text in (
        "ALTER TABLE u RENAME TO renamed",
        "DROP VIEW w",
        "DROP TABLE renamed",
        "DROP TABLE f",
    ):
        sql.execute(text)


def test_a_batch_is_one_transaction(sql, lab):
    before = contents(lab)
    with pytest.raises(SqlError) as caught:
        sql.execute_many(
            [("INSERT INTO t VALUES ('new', 1)", ()), ("INSERT INTO t VALUES ('a', 1)", ())]
        )
    assert caught.value.index == 1
    assert contents(lab) == before
    with pytest.raises(InvalidArgument):
        sql.execute_many([])
