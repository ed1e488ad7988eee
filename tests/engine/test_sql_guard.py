"""What users may not do in SQL: every way to the tables of the house is closed."""

import pytest
from sql_contents import contents

from luma_lab.errors import InvalidArgument, LumaError, SqlError

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


def test_a_query_let_through_before_is_judged_again_when_its_names_change(sql, lab):
    text = "SELECT * FROM shown"
    sql.execute("CREATE TABLE shown AS SELECT id FROM t")
    for _ in range(4):
        assert len(sql(text)) == 3
    sql.execute("DROP TABLE shown")
    lab._parts.writer.connection.execute("CREATE VIEW shown AS SELECT key FROM luma_state")
    for _ in range(4):
        with pytest.raises(SqlError, match="luma_state|prohibited"):
            sql(text)


def test_a_text_of_the_house_is_refused_though_sqlite_has_it_prepared(sql):
    for _ in range(3):
        assert sql("SELECT revision FROM state WHERE key = 'key'").rows
    text = "SELECT key, revision, expires_at_ms, value, crc FROM luma_state WHERE key=?"
    for _ in range(3):
        with pytest.raises(SqlError):
            sql(text, ("key",))


def test_names_like_the_house_s_are_free_in_texts_and_comments(sql):
    sql.execute("CREATE VIEW w AS SELECT id /* not luma_state */ FROM t WHERE id LIKE 'luma_%'")
    assert sql("SELECT * FROM w").rows == []
    sql.execute("CREATE TABLE my_luma_notes (lumax)")
