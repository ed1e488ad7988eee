"""Full-text and R*Tree tables of users: made, filled and read beside the engine."""

import pytest

from luma_lab.engine.lab import Lab
from luma_lab.errors import LumaError, SqlError

BOXES = "SELECT id FROM boxes WHERE low <= ? AND high >= ? ORDER BY id"


@pytest.fixture
def sql(lab):
    lab.state["key"] = "a secret"
    lab.sql.execute("CREATE VIRTUAL TABLE boxes USING rtree(id, low, high)")
    lab.sql.execute("INSERT INTO boxes VALUES (1, 0, 10), (2, 5, 15), (3, 20, 30)")
    lab.sql.execute("CREATE VIRTUAL TABLE pages USING fts5(title, body, tokenize = 'porter')")
    lab.sql.execute(
        "INSERT INTO pages VALUES ('one', 'the quick brown fox'), ('two', 'a lazy dog')"
    )
    return lab.sql


def test_an_rtree_is_read_by_queries(sql, lab):
    for _ in range(3):
        assert sql(BOXES, (7, 7)).rows == [(1,), (2,)]
    assert sql("SELECT count(*), max(high) FROM boxes").rows == [(3, 30.0)]
    sql.execute("UPDATE boxes SET high = 40 WHERE id = 3")
    sql.execute("DELETE FROM boxes WHERE id = 1")
    assert sql(BOXES, (35, 35)).rows == [(3,)]
    with lab.transaction() as tx:
        tx.sql.execute("INSERT INTO boxes VALUES (4, 100, 200)")
        assert tx.sql(BOXES, (150, 150)).rows == [(4,)]
        assert sql(BOXES, (150, 150)).rows == []


def test_an_rtree_is_read_when_the_lab_is_opened_again(path):
    with Lab(path) as lab:
        lab.sql.execute("CREATE VIRTUAL TABLE boxes USING rtree(id, low, high)")
        lab.sql.execute("INSERT INTO boxes VALUES (1, 0, 10)")
    with Lab(path) as lab:
        assert lab.sql(BOXES, (5, 5)).rows == [(1,)]


@pytest.mark.parametrize(
    "text",
    [
        "INSERT INTO boxes VALUES (9, 0, 1)",
        "DELETE FROM boxes",
        "INSERT INTO boxes_node VALUES (9, x'00')",
        "UPDATE boxes_rowid SET nodeno = 5",
        "DELETE FROM boxes_parent",
        "DELETE FROM pages",
        "INSERT INTO pages (pages) VALUES ('rebuild')",
        "DELETE FROM pages_data",
    ],
)
def test_a_query_does_not_write_to_them(sql, text):
    with pytest.raises(LumaError):
        sql(text)
    assert sql("SELECT count(*) FROM boxes").rows == [(3,)]
    assert sql("SELECT count(*) FROM pages").rows == [(2,)]


def test_a_full_text_table_is_searched_by_queries(sql, lab):
    query = "SELECT title FROM pages WHERE pages MATCH ? ORDER BY rank"
    for _ in range(3):
        assert sql(query, ("foxes",)).rows == [("one",)]
    assert sql(query, ("quick AND dog",)).rows == []
    assert sql("SELECT highlight(pages, 1, '<', '>') FROM pages('lazy')").rows == [
        ("a <lazy> dog",)
    ]
    assert sql("SELECT bm25(pages) < 0 FROM pages('fox')").rows == [(1,)]
    with pytest.raises(SqlError, match="snippet"):
        sql("SELECT snippet(pages, 1, '', '', '...', 2) FROM pages('fox')")
    sql.execute("INSERT INTO pages (pages) VALUES ('optimize')")
    sql.execute("UPDATE pages SET body = 'no animal' WHERE title = 'two'")
    assert sql(query, ("dog",)).rows == []
    assert sql(query, ("animal",)).rows == [("two",)]
    with pytest.raises(SqlError, match="unterminated string"):
        sql(query, ('"',))
    sql.execute("DROP TABLE pages")
    assert lab.verify().ok


def test_full_text_over_a_table_of_the_user_s(sql):
    sql.execute("CREATE TABLE notes (id INTEGER PRIMARY KEY, body TEXT)")
    sql.execute("CREATE VIRTUAL TABLE found USING fts5(body, content='notes', content_rowid='id')")
    sql.execute(
        "CREATE TRIGGER notes_in AFTER INSERT ON notes BEGIN "
        "INSERT INTO found (rowid, body) VALUES (new.id, new.body); END"
    )
    sql.execute("INSERT INTO notes VALUES (7, 'hello world')")
    assert sql("SELECT rowid, body FROM found('world')").rows == [(7, "hello world")]


def test_a_full_text_table_of_an_earlier_version_does_not_read_the_house_s(sql, lab):
    connection = lab._parts.writer.connection
    connection.execute(
        "CREATE VIRTUAL TABLE spy USING fts5(key, value, content='luma_state', content_rowid='id')"
    )
    connection.execute("INSERT INTO spy (spy) VALUES ('rebuild')")
    for text in ("SELECT * FROM spy", "SELECT value FROM spy('key')"):
        with pytest.raises(LumaError, match="not authorized|prohibited|refused"):
            sql(text)
