"""No statement outlives its time limit by much, or takes the memory of the process with it."""

import time

import apsw
import pytest

from luma_lab.errors import InvalidArgument, LumaError, SqlError, SqlTimeout

LIMIT_MS = 200
# What is refused for its size is refused before it runs: a limit of time has no part in it.
AMPLE_MS = 20_000
# Of this process, so that it does not matter what else the machine does.
CPU_SECS = 5.0
ENDLESS = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) "
MEBI = 1 << 20
LONG = "a" * (10 * MEBI)
NUMBERS = "[" + ",".join(["1"] * (4 * MEBI)) + "]"


def repeated(expression, count, separator=", "):
    return separator.join([expression] * count)


def doubling(levels, select):
    """Return common table expressions, each of which names the one before it several times."""
    parts = ", ".join(f"a{i} AS ({select.format(i - 1)})" for i in range(1, levels))
    return f"WITH a0 AS (SELECT 1 AS x), {parts} SELECT x FROM a{levels - 1}"


# Each either takes for ever, or far too much memory, in an SQLite without limits.
NASTY = {
    "trim": ("SELECT trim(?, ?)", ("a" * 50_000, "b" * 50_000 + "a"), SqlError),
    "ltrim": ("SELECT ltrim(?, ?)", ("a" * 50_000, "b" * 50_000 + "a"), SqlError),
    "rtrim": ("SELECT rtrim(?, ?)", ("a" * 50_000, "b" * 50_000 + "a"), SqlError),
    "many trims": (
        "SELECT " + repeated("trim(?1, ?2)", 1500), ("a" * 8000, "b" * 8000 + "a"), SqlTimeout,
    ),
    "replace": ("SELECT replace(?, ?, 'b')", ("a" * MEBI, "a" * 500_000), SqlError),
    "replace grows": ("SELECT replace(?, 'a', ?)", ("a" * 9000, "b" * 9000), SqlError),
    "instr": ("SELECT instr(?, ?)", ("a" * MEBI, "a" * 500_000 + "b"), SqlError),
    "instr of blobs": ("SELECT instr(?, ?)", (b"a" * MEBI, b"a" * 500_000 + b"b"), SqlError),
    "unhex": ("SELECT unhex(?, ?)", ("z" * 90_000, "y" * 90_000 + "z"), SqlError),
    "like": ("SELECT ? LIKE ?", (LONG, "%" + "a" * 60 + "b"), SqlError),
    "like, long pattern": ("SELECT 'x' LIKE ?", ("%" + "a" * 900 + "b",), SqlError),
    "like, row by row": (
        ENDLESS + "SELECT count(*) FROM n WHERE ? LIKE ('%' || ? || i)",
        ("a" * 900_000, "a" * 50), SqlTimeout,
    ),
    "glob": ("SELECT ? GLOB ?", (LONG, "*" + "[ab]" * 15 + "c"), SqlError),
    "json_patch": ("SELECT json_patch(?, ?)", ("{}", "{}"), SqlError),
    "jsonb_patch": ("SELECT jsonb_patch(?, ?)", ("{}", "{}"), SqlError),
    "json paths": (
        "SELECT json_extract(?1, " + repeated("'$[#-1]'", 126) + ")",
        ("[" + "1," * 2_000_000 + "1]",), SqlError,
    ),
    "json inserts": (
        "SELECT json_insert(?1, " + repeated("'$[#]', 1", 60) + ")", (NUMBERS,), SqlError,
    ),
    "json, row by row": (
        ENDLESS + "SELECT count(json_pretty(?1 || i || ']')) FROM n "
        "WHERE json_valid(?1 || i || ']')",
        ("[" + "1," * 50_000,), SqlTimeout,
    ),
    "json pretty": ("SELECT " + repeated("json_pretty(?1)", 500), (NUMBERS,), SqlError),
    "json_each": (
        "SELECT count(*) FROM json_each(?1) AS a, json_each(?1) AS b",
        ("[" + "1," * 50_000 + "1]",), SqlTimeout,
    ),
    "json_group_array": (ENDLESS + "SELECT json_group_array(i) FROM n", (), (SqlTimeout, SqlError)),
    "json_group_object": (
        ENDLESS + "SELECT json_group_object(i, 'xxxxxxxx' || i) FROM n", (), (SqlTimeout, SqlError),
    ),
    "group_concat": (
        ENDLESS + "SELECT group_concat('xxxxxxxxxxxxxxxxxxxxxxxx' || i) FROM n", (),
        (SqlTimeout, SqlError),
    ),
    "string_agg over a window": (
        ENDLESS + "SELECT max(length(s)) FROM (SELECT string_agg(hex(i), ',') "
        "OVER (ORDER BY i ROWS 100000 PRECEDING) AS s FROM (SELECT i FROM n LIMIT 1000000))", (),
        (SqlTimeout, SqlError),
    ),
    "median": (ENDLESS + "SELECT median(i % 1000) FROM n", (), SqlTimeout),
    "hex": ("SELECT hex(?)", (LONG,), SqlError),
    "hex of hex": ("SELECT " + "hex(" * 30 + "'x'" + ")" * 30, (), SqlError),
    "hex, row by row": (ENDLESS + "SELECT count(hex(?1 || i)) FROM n", (LONG[:MEBI],), SqlTimeout),
    "quote": ("SELECT " + repeated("quote(?1)", 1000), (LONG,), SqlError),
    "upper": ("SELECT " + repeated("upper(?1)", 1900), (LONG,), SqlError),
    "printf": ("SELECT printf('%*d', 500000000, 1)", (), SqlError),
    "format": ("SELECT format('%.900000000d', 1)", (), SqlError),
    "printf, many": ("SELECT " + repeated("printf('%9000000d', 1)", 1900), (), SqlError),
    "strftime": ("SELECT strftime(?, 'now')", ("%f" * 8_000_000,), SqlError),
    "char": ("SELECT char(" + repeated("65", 900) + ")", (), SqlError),
    "concat": ("SELECT " + repeated("?1", 300, " || "), (LONG,), SqlError),
    "concat()": ("SELECT concat(" + repeated("?1", 100) + ")", (LONG,), SqlError),
    "zeroblobs": ("SELECT " + repeated("zeroblob(30000000)", 60), (), SqlError),
    "zeroblobs within bounds": (
        "SELECT " + repeated("zeroblob(8000000)", 1900), (), SqlError,
    ),
    "zeroblobs for ever": (ENDLESS + "SELECT zeroblob(100000) FROM n", (), SqlTimeout),
    "randomblobs": ("SELECT " + repeated("randomblob(9000000)", 1900), (), SqlError),
    "values in a subquery": (
        "SELECT max(" + ", ".join(f"length(c{i})" for i in range(120)) + ") FROM (SELECT "
        + ", ".join(f"?1 || {i} AS c{i}" for i in range(120)) + " LIMIT 1 OFFSET 0)",
        (LONG,), SqlError,
    ),
    "a parameter many times": ("SELECT " + repeated("?1", 1900), (LONG,), SqlError),
    "a literal many times": (
        f"WITH a AS MATERIALIZED (SELECT '{'x' * 900_000}' AS x) SELECT "
        + repeated("json_valid(x)", 1900) + " FROM a", (), SqlError,
    ),
    "an expression doubled": (
        doubling(40, "SELECT x + x AS x FROM a{}"), (), (SqlError, SqlTimeout),
    ),
    "an expression a hundredfold": (
        doubling(5, "SELECT " + repeated("x", 150, " + ") + " AS x FROM a{}"), (),
        (SqlError, SqlTimeout),
    ),
    "an expression thousandfold": (
        doubling(4, "SELECT max(" + repeated("x", 120) + ") + max(" + repeated("x", 120)
                 + ") AS x FROM a{}"), (), (SqlError, SqlTimeout),
    ),
    "a union doubled": (
        doubling(40, "SELECT x FROM a{0} UNION ALL SELECT x FROM a{0}"), (), SqlError,
    ),
    "a join doubled": (doubling(40, "SELECT p.x FROM a{0} AS p, a{0} AS q"), (), SqlError),
    "windows": (
        "SELECT " + ", ".join(f"sum(n) OVER (ORDER BY id ROWS {i} PRECEDING)" for i in range(1900))
        + " FROM t", (), (SqlError, SqlTimeout),
    ),
    "a long list": (f"SELECT n IN ({repeated('1', 400_000)}) FROM t", (), SqlError),
    "a cross join": (
        "WITH k(i) AS MATERIALIZED (" + ENDLESS + "SELECT i FROM n LIMIT 3000) "
        "SELECT count(*) FROM k AS a, k AS b, k AS c", (), SqlTimeout,
    ),
    "a sort": (ENDLESS + "SELECT i, hex(i) FROM n ORDER BY -i", (), SqlTimeout),
    "a sort of long values": (
        ENDLESS + "SELECT i, zeroblob(1000000) AS z FROM n ORDER BY z, -i", (), SqlTimeout,
    ),
    "a distinct": (ENDLESS + "SELECT DISTINCT i % 100 FROM n", (), SqlTimeout),
    "a table function": (
        "SELECT count(*) FROM events, events AS f, events AS g, (" + ENDLESS + "SELECT i FROM n)",
        (), SqlTimeout,
    ),
    "searches": (
        "SELECT count(*) FROM (" + ENDLESS + "SELECT i FROM n), vector_search('docs', '[1, 0]', 2)",
        (), SqlTimeout,
    ),
}  # fmt: skip


@pytest.fixture
def sql(lab):
    lab.sql.execute("CREATE TABLE t (id TEXT PRIMARY KEY, n INTEGER)")
    lab.sql.execute("INSERT INTO t VALUES ('a', 1), ('b', 2), ('c', 3)")
    docs = lab.create_collection("docs", 2, "l2")
    docs.upsert(["a", "b"], [[1, 0], [0, 1]])
    docs.search([1, 0], k=2)  # so that no kernel is compiled while a limit runs
    return lab.sql


@pytest.mark.parametrize("name", NASTY)
def test_a_nasty_query_is_ended_in_time(sql, name):
    text, params, error = NASTY[name]
    began = time.process_time()
    with pytest.raises(error):
        sql(text, params, timeout_ms=AMPLE_MS if error is SqlError else LIMIT_MS)
    assert time.process_time() - began < CPU_SECS
    assert sql("SELECT count(*) FROM t").rows == [(3,)]


@pytest.mark.parametrize("name", NASTY)
def test_a_nasty_statement_is_ended_in_time_and_the_writer_goes_on(sql, lab, name):
    text, params, _ = NASTY[name]
    began = time.process_time()
    with pytest.raises(LumaError):
        sql.execute(f"CREATE TABLE made AS {text}", params, timeout_ms=LIMIT_MS)
    assert time.process_time() - began < CPU_SECS
    lab.state["after"] = 1
    assert sql("SELECT name FROM sqlite_schema WHERE name = 'made'").rows == []


@pytest.mark.parametrize("cap", ["timeout_ms", "max_rows", "max_bytes"])
@pytest.mark.parametrize("value", ["a", 1.5, True, 0, -1, [1]])
def test_a_cap_that_is_no_positive_int_is_refused(sql, cap, value):
    with pytest.raises(InvalidArgument, match=f"{cap} is"):
        sql("SELECT 1", **{cap: value})


def test_two_thousand_equal_column_names_become_different_ones_at_once(sql):
    rows = sql("SELECT " + repeated("1 AS a", 1999) + ", 2 AS a_2", timeout_ms=5000)
    assert len(set(rows.columns)) == 2000
    assert rows.columns[:3] == ["a", "a_2", "a_3"]


def test_text_functions_answer_as_sqlite_does(sql):
    """Users' indexes may hold their values, and connections without the bounds read those."""
    plain = apsw.Connection(":memory:")
    values = [None, "", "xxabcxx", "äöxä", "x", 17, 2.5, 1e300, b"xx\0ab", "a\0b"]
    calls = [f"{name}(?1, ?2)" for name in ("trim", "ltrim", "rtrim", "instr")]
    calls += ["replace(?1, ?2, 'ü')", "replace(?1, 'x', ?2)"]
    for call in calls:
        text = f"SELECT CAST({call} AS BLOB), typeof({call})"
        for first in values:
            for second in values:
                pair = (first, second)
                assert sql(text, pair).rows == plain.execute(text, pair).fetchall(), (call, pair)
    assert sql("SELECT unhex('61-62', '-'), unhex('6g', '-')").rows == [(b"ab", None)]


def test_long_values_are_stored_and_read(sql):
    sql.execute("CREATE TABLE images (id INTEGER PRIMARY KEY, name TEXT, data BLOB)")
    image = bytes(12 << 20)
    sql.execute("INSERT INTO images VALUES (?, ?, ?)", (1, "one", image))
    assert sql("SELECT data FROM images WHERE id = ?", (1,)).rows == [(image,)]
    assert sql("SELECT * FROM images").rows == [(1, "one", image)]
    assert sql("SELECT name, length(data) FROM images").rows == [("one", len(image))]
    with pytest.raises(SqlError, match="at most .* bytes"):
        sql("SELECT hex(data), hex(data) FROM images")
    many = ", ".join(f"({i}, 'n' || ?, json(?))" for i in range(2, 500))
    params = [x for i in range(2, 500) for x in (i, '{"a": [1, 2]}')]
    assert sql.execute(f"INSERT INTO images VALUES {many}", params).count == 498
    assert sql("SELECT sum(json_extract(data, '$.a[1]')) FROM images WHERE id > 1").rows == [(996,)]


def test_a_view_that_grows_later_is_measured_anew(sql):
    sql.execute("CREATE VIEW v AS SELECT n AS x FROM t")
    text = "SELECT * FROM v WHERE length(?) > 0"
    for _ in range(3):
        assert len(sql(text, ("a" * 1_000_000,))) == 3
    sql.execute("DROP VIEW v")
    sql.execute("CREATE VIEW v AS SELECT " + ", ".join(f"n + {i} AS c{i}" for i in range(1990))
                + " FROM t")  # fmt: skip
    for _ in range(3):
        with pytest.raises(SqlError, match="at most"):
            sql(text, ("a" * 1_000_000,))
    rows = sql("SELECT * FROM v")
    assert len(rows.columns) == 1990


def test_a_kept_query_answers_with_new_columns_when_its_table_has_them(sql):
    for _ in range(4):
        assert sql("SELECT * FROM t WHERE id = ?", ("a",)).rows == [("a", 1)]
    sql.execute("ALTER TABLE t ADD COLUMN z DEFAULT 9")
    for _ in range(4):
        rows = sql("SELECT * FROM t WHERE id = ?", ("a",))
        assert (rows.rows, rows.columns) == ([("a", 1, 9)], ["id", "n", "z"])
    sql.execute("DROP TABLE t")
    with pytest.raises(SqlError, match="no such table"):
        sql("SELECT * FROM t WHERE id = ?", ("a",))


def test_preparing_leaves_the_memory_of_the_process_unbounded_again(sql):
    before = apsw.hard_heap_limit(-1)
    assert before == 0
    with pytest.raises(SqlError, match="too large for memory"):
        sql(NASTY["an expression doubled"][0])
    assert apsw.hard_heap_limit(-1) == before
    sql("SELECT count(*) FROM (SELECT id FROM t UNION SELECT id FROM t)")
    assert apsw.hard_heap_limit(-1) == before


def test_an_expression_multiplied_by_views_is_refused(sql):
    sql.execute("CREATE VIEW v0 AS SELECT n AS x FROM t")
    for i in range(1, 40):
        sql.execute(f"CREATE VIEW v{i} AS SELECT x + x AS x FROM v{i - 1}")
    with pytest.raises(SqlError, match="too large for memory"):
        sql("SELECT x FROM v39")
    assert len(sql("SELECT x FROM v5")) == 3


def test_a_statement_is_stopped_when_sql_takes_the_memory_of_the_process(sql, monkeypatch):
    monkeypatch.setattr(
        "luma_lab.engine.sql_guard.MAX_MEMORY_BYTES", apsw.memory_used() + (8 << 20)
    )
    with pytest.raises(SqlError, match="MiB of memory"):
        sql(ENDLESS + "SELECT median(i) FROM n", timeout_ms=20_000)
    monkeypatch.undo()
    assert sql("SELECT count(*) FROM t").rows == [(3,)]
