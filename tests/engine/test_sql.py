"""The users' own SQL: plain SQLite where it may, refused where it must, one log with the rest."""

import contextlib
import sqlite3
import threading

import numpy as np
import pytest
from children import child

from luma_lab.engine.lab import Lab
from luma_lab.errors import InvalidArgument, LumaError, SqlError, SqlTimeout, TransactionTimeout

ENDLESS = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) "


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


def contents(lab):
    """Return everything a refused statement must leave as it is."""
    connection = lab._parts.database.reader()
    names = connection.execute("SELECT name, sql FROM sqlite_schema ORDER BY name").fetchall()
    tables = [n for n, s in names if s and s.startswith("CREATE TABLE")]
    return names, {t: connection.execute(f'SELECT * FROM "{t}"').fetchall() for t in tables}


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
            sql(ENDLESS + "SELECT max(i) FROM n", timeout_ms=3000)
        except SqlTimeout:
            stopped.append(True)

    thread = threading.Thread(target=run)
    thread.start()
    for i in range(20):
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


ATTACKS = [
    # the tables of the house
    "INSERT INTO luma_log VALUES (1, 1, 'x', NULL, NULL, '1', 1)",
    "UPDATE luma_head SET next_offset = 1",
    "DELETE FROM luma_state",
    'DELETE FROM "luma_state"',
    "DELETE FROM [LUMA_State]",
    "DELETE FROM `luma_points`",
    "DELETE FROM main.luma_points",
    "DROP TABLE luma_log",
    "DROP INDEX luma_points_id",
    "CREATE INDEX mine ON luma_points (meta)",
    "ALTER TABLE luma_state RENAME TO gone",
    "ALTER TABLE luma_state ADD COLUMN x",
    "CREATE TRIGGER r AFTER INSERT ON luma_state BEGIN SELECT 1; END",
    "INSERT INTO t SELECT key, 1 FROM luma_state",
    "UPDATE t SET n = (SELECT count(*) FROM luma_log)",
    "DELETE FROM t WHERE id IN (SELECT key FROM luma_state)",
    "INSERT INTO t VALUES ('x', 1) ON CONFLICT DO UPDATE SET n = (SELECT 1 FROM luma_log)",
    "REPLACE INTO luma_leases VALUES ('a', 'b', 1)",
    "DELETE FROM sqlite_sequence",
    "UPDATE sqlite_schema SET sql = 'x'",
    "INSERT INTO sqlite_master VALUES ('table', 'x', 'x', 0, 'x')",
    # names of the house
    "CREATE TABLE luma_mine (a)",
    "CREATE TABLE Luma_Mine (a)",
    "CREATE VIEW state AS SELECT 1",
    "CREATE TABLE vector_search (a)",
    "ALTER TABLE t RENAME TO luma_t",
    "ALTER TABLE t RENAME TO points",
    "CREATE TABLE sqlite_x (a)",
    "CREATE VIRTUAL TABLE luma USING fts5(a)",
    "CREATE TABLE g (a, b AS (luma_json_equal(a, a)))",
    "CREATE INDEX gi ON t (luma_json_equal(id, id))",
    "CREATE VIEW w AS SELECT * FROM luma_state",
    "CREATE VIEW w AS SELECT * FROM t WHERE id IN (SELECT key FROM [Luma_State])",
    'CREATE VIEW w AS SELECT 1 FROM main."luma_log"',
    "CREATE VIEW w AS /* ' */ SELECT * FROM luma_state -- '",
    "CREATE TRIGGER r AFTER INSERT ON t BEGIN DELETE FROM luma_state; END",
    "CREATE TRIGGER r AFTER INSERT ON t WHEN EXISTS (SELECT 1 FROM luma_log) BEGIN SELECT 1; END",
    "CREATE VIRTUAL TABLE f USING fts5(value, content='luma_state')",
    "CREATE VIRTUAL TABLE f USING fts5(value, content=luma_state, content_rowid=id)",
    "CREATE TABLE q (a REFERENCES luma_state (id))",
    "ALTER TABLE t ADD COLUMN luma_x",
    # what only the house does
    "PRAGMA user_version = 9",
    "PRAGMA journal_mode = DELETE",
    "PRAGMA writable_schema = 1",
    "ATTACH 'other.db' AS other",
    "DETACH main",
    "BEGIN",
    "COMMIT",
    "ROLLBACK",
    "SAVEPOINT s",
    "RELEASE operation",
    "ROLLBACK TO operation",
    "VACUUM",
    "VACUUM INTO 'copy.db'",
    "ANALYZE",
    "CREATE VIRTUAL TABLE v USING dbstat",
    "CREATE VIRTUAL TABLE v USING vector_search",
    # temporary objects that could shadow
    "CREATE TEMP TABLE q (a)",
    "CREATE TEMP VIEW luma_state AS SELECT 1",
    "CREATE TABLE temp.q (a)",
    "CREATE TEMP TRIGGER q AFTER INSERT ON t BEGIN SELECT 1; END",
    # more than one, or none
    "INSERT INTO t VALUES ('x', 1); DELETE FROM t",
    "INSERT INTO t VALUES ('x', 1); -- ; \n DROP TABLE t",
    "",
    " ; -- nothing\n",
    "SELECT 1",
    "EXPLAIN DELETE FROM t",
    # endings of the transaction
    "INSERT OR ROLLBACK INTO t VALUES ('a', 1)",
    "INSERT INTO t SELECT load_extension('x'), 1",
    "INSERT INTO t VALUES (zeroblob(900000000), 1)",
    "INSERT INTO t VALUES ('a\0b', 1)",
]


@pytest.mark.parametrize("attack", ATTACKS)
def test_an_attack_on_the_store_is_refused_and_changes_nothing(sql, lab, attack):
    before = contents(lab)
    with pytest.raises((SqlError, InvalidArgument)) as caught:
        sql.execute(attack)
    assert str(caught.value)
    assert contents(lab) == before
    assert lab.verify().ok
    with pytest.raises((SqlError, InvalidArgument)), lab.transaction() as tx:
        tx.state["beside"] = 1
        tx.sql.execute(attack)
    assert contents(lab) == before
    sql.execute("INSERT INTO t VALUES ('after', 1)")


def test_a_trigger_of_a_user_can_not_reach_the_store(sql, lab):
    """Nor one that an earlier version let in."""
    connection = lab._parts.writer.connection
    text = "CREATE TRIGGER r AFTER INSERT ON t BEGIN DELETE FROM luma_state; END"
    connection.execute(text)
    before = contents(lab)
    with pytest.raises(SqlError, match="luma_state"):
        sql.execute("INSERT INTO t VALUES ('fires', 1)")
    assert contents(lab) == before


SPYING = [
    "SELECT * FROM luma_state",
    "SELECT count(*) FROM luma_log",
    "WITH points AS (SELECT * FROM luma_log) SELECT * FROM points",
    "SELECT * FROM (SELECT * FROM luma_log) AS points",
    "SELECT (SELECT value FROM luma_state LIMIT 1)",
    "SELECT 1 WHERE EXISTS (SELECT 1 FROM luma_leases)",
    "SELECT * FROM dbstat",
    "SELECT * FROM sqlite_dbpage",
    "SELECT * FROM pragma_table_info('luma_state')",
    "SELECT * FROM pragma_database_list",
    "PRAGMA database_list",
    "SELECT load_extension('x')",
    "SELECT luma_json_equal('x', 'y')",
    "ATTACH 'keys.db' AS keys",
    "SELECT * FROM keys",
    "INSERT INTO t VALUES ('x', 1)",
    "DELETE FROM t RETURNING id",
    "CREATE TEMP TABLE q AS SELECT 1",
    "DROP TABLE t",
    "BEGIN IMMEDIATE",
    "PRAGMA query_only = 0",
    "VACUUM INTO 'copy.db'",
    "EXPLAIN INSERT INTO t VALUES ('x', 1)",
    "SELECT 1; SELECT 2",
    "SELECT zeroblob(100000000)",
    "SELECT CAST(x'ff' AS TEXT)",
    "SELECT * FROM vector_search('docs', '[1, 0]')",
    "SELECT * FROM vector_search('docs', '[1, 0]', 'many')",
    "SELECT * FROM vector_search('docs', 'no vector', 3)",
    "SELECT * FROM vector_search('nope', '[1, 0]', 3)",
    "SELECT * FROM vector_search('docs', '[1, 0, 0]', 3)",
    "SELECT * FROM vector_search('docs', '[1, 0]', 3, '{\"$x\": 1}')",
    "SELECT * FROM vector_search('docs', '[1, 0]', 3, 'x = 1; DROP TABLE t')",
    "SELECT * FROM documents(5)",
    "SELECT * FROM events(-1)",
    "SELECT * FROM nope",
    "SELEC 1",
]


@pytest.mark.parametrize("attack", SPYING)
def test_a_query_can_neither_change_nor_see_what_is_the_house_s(sql, lab, attack):
    before = contents(lab)
    with pytest.raises(LumaError) as caught:
        sql(attack)
    assert str(caught.value)
    assert contents(lab) == before


def test_the_words_of_the_original_refuse_a_write_in_a_query(sql):
    for text in ("INSERT INTO t VALUES ('x', 1)", "DROP TABLE t", "PRAGMA x"):
        with pytest.raises(InvalidArgument, match="only accepts SELECT statements"):
            sql(text)


class TestTableFunctions:
    def test_a_vector_search_joins_with_a_table(self, sql, lab):
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

    def test_a_filter_inside_is_not_a_where_after_it(self, sql):
        inside = "SELECT id FROM vector_search('docs', '[1, 0]', 1, ?)"
        assert sql(inside, ('{"x": 3}',)).rows == [("z",)]
        assert sql(inside, ("x = 3",)).rows == [("z",)]
        after = (
            "SELECT id FROM vector_search('docs', '[1, 0]', 1) WHERE json_extract(meta, '$.x') = 3"
        )
        assert sql(after).rows == []

    def test_arguments_may_come_from_another_table(self, sql, lab):
        lab.sql.execute("CREATE TABLE q (name TEXT, v TEXT)")
        lab.sql.execute("INSERT INTO q VALUES ('one', '[1, 0]'), ('two', '[5, 4]')")
        rows = sql("SELECT q.name, s.id FROM q, vector_search('docs', q.v, 1) AS s ORDER BY 1")
        assert rows.rows == [("one", "a"), ("two", "z")]

    def test_state_hides_what_is_expired_and_seeks_keys(self, sql, lab, clock):
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

    def test_documents_points_collections_and_events(self, sql, lab):
        assert sql("SELECT id, json_extract(doc, '$.q') FROM documents('notes')").rows == [
            ("n1", 1)
        ]
        assert sql("SELECT doc FROM documents('notes') WHERE id = 'n1'").rows == [('{"q":1}',)]
        assert sql("SELECT * FROM documents('none')").rows == []
        assert sql("SELECT id FROM points WHERE collection = 'docs' ORDER BY id").rows == [
            ("a",), ("b",), ("z",),
        ]  # fmt: skip
        assert sql("SELECT meta FROM points WHERE collection = 'docs' AND id = 'b'").rows == [
            ('{"x":2}',)
        ]
        assert sql("SELECT name, dim, metric, points FROM collections").rows == [
            ("docs", 2, "l2", 3)
        ]
        rows = sql('SELECT "offset", type, data FROM events(2, 5)').rows
        assert [(e.offset, e.type) for e in lab.events.read(since=2, limit=3)] == [
            r[:2] for r in rows
        ]

    def test_one_query_sees_one_moment(self, sql, lab):
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


class TestTransactions:
    def test_a_transaction_sees_its_own_rows_and_the_others_do_not(self, sql, lab):
        with lab.transaction() as tx:
            tx.sql.execute("DELETE FROM t")
            tx.state["new"] = 1
            tx.documents("notes").put("n2", 2)
            assert tx.sql("SELECT count(*) FROM t").rows == [(0,)]
            assert sql("SELECT count(*) FROM t").rows == [(3,)]
            assert tx.sql("SELECT key FROM state('new')").rows == [("new",)]
            assert tx.sql("SELECT id FROM documents('notes')").rows == [("n1",), ("n2",)]
        assert sql("SELECT count(*) FROM t").rows == [(0,)]

    def test_a_refused_statement_leaves_the_rest_of_its_transaction(self, sql, lab):
        with lab.transaction() as tx:
            tx.sql.execute("INSERT INTO t VALUES ('x', 1)")
            with pytest.raises(SqlError):
                tx.sql.execute("INSERT INTO t VALUES ('y', 1), ('x', 2)")
            tx.state["x"] = 1
        assert sql("SELECT id FROM t WHERE id IN ('x', 'y')").rows == [("x",)]

    def test_a_statement_that_rolls_back_undoes_everything(self, sql, lab):
        before = contents(lab)
        with pytest.raises(LumaError), lab.transaction() as tx:
            tx.state["x"] = 1
            with contextlib.suppress(SqlError):
                tx.sql.execute("INSERT OR ROLLBACK INTO t VALUES ('a', 1)")
            tx.state["y"] = 1
        assert contents(lab) == before
        lab.state["works"] = 1

    def test_neighbours_of_a_rollback_are_unharmed(self, sql, lab):
        before = lab.head
        writer = lab._parts.writer
        inside, leave = threading.Event(), threading.Event()

        def hold(unit):
            inside.set()
            leave.wait(10)

        writer.submit(hold)
        inside.wait(10)
        answers = []

        def run(call, *args):
            try:
                answers.append(call(*args))
            except LumaError as error:
                answers.append(error)

        calls = [(lab.state.put, f"n{i}", i) for i in range(4)]
        calls.insert(2, (sql.execute, "INSERT OR ROLLBACK INTO t VALUES ('a', 1)"))
        threads = [threading.Thread(target=run, args=call) for call in calls]
        for thread in threads:
            thread.start()
        leave.set()
        for thread in threads:
            thread.join()
        assert sum(isinstance(a, SqlError) for a in answers) == 1
        assert [lab.state[f"n{i}"] for i in range(4)] == [0, 1, 2, 3]
        assert lab.head == before + 4

    def test_a_runaway_statement_ends_with_nothing_changed(self, sql, lab):
        before = contents(lab)
        with pytest.raises(SqlTimeout):
            sql.execute("INSERT INTO t " + ENDLESS + "SELECT 'r' || i, 1 FROM n", timeout_ms=100)
        assert contents(lab) == before
        with pytest.raises((SqlTimeout, TransactionTimeout)), lab.transaction(timeout_ms=300) as tx:
            tx.sql.execute("INSERT INTO t " + ENDLESS + "SELECT 'r' || i, 1 FROM n", timeout_ms=100)
        assert contents(lab) == before


BUSY = """
import sys, luma_lab as luma
lab = luma.open(sys.argv[1])
for i in range(int(sys.argv[3])):
    lab.sql.execute("INSERT INTO t VALUES (?, ?)", (f"{sys.argv[2]}-{i}", i))
    lab.state[f"{sys.argv[2]}-{i}"] = i
    with lab.transaction() as tx:
        tx.sql.execute("UPDATE c SET n = n + 1")
        tx.state["last"] = sys.argv[2]
lab.close()
print("done")
"""


def test_six_processes_write_at_once_and_none_is_turned_away(path):
    turns = 40
    with Lab(path) as lab:
        lab.sql.execute("CREATE TABLE t (id TEXT PRIMARY KEY, n INTEGER)")
        lab.sql.execute("CREATE TABLE c (n INTEGER)")
        lab.sql.execute("INSERT INTO c VALUES (0)")
    with contextlib.ExitStack() as stack:
        writers = [stack.enter_context(child(BUSY, path, f"p{i}", turns)) for i in range(6)]
        assert [w.stdout.read() for w in writers] == ["done\n"] * 6
    with Lab(path) as lab:
        assert lab.sql("SELECT count(*) FROM t").rows == [(6 * turns,)]
        assert lab.sql("SELECT n FROM c").rows == [(6 * turns,)]
        assert len(lab.state) == 6 * turns + 1
        assert lab.verify().ok
