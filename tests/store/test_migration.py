"""A lab of an older format opens: backed up beside itself, then migrated, losing nothing."""

import apsw
import pytest

from luma_lab.engine.lab import Lab
from luma_lab.errors import NewerFormat
from luma_lab.store import database

NEW_IN_2 = """
DROP TABLE luma_documents;
DROP TABLE luma_consumers;
ALTER TABLE luma_collections DROP COLUMN meta_indexes;
PRAGMA user_version=1;
"""


@pytest.fixture
def format_1(path):
    with Lab(path) as lab:
        lab.state["k"] = {"a": 1}
        lab.create_collection("docs", 2).upsert(["a", "b"], [[1, 0], [0, 1]], [{"n": 1}, None])
        lab.events.publish("said", 1)
        before = lab.events.read()
    connection = apsw.Connection(str(path / database.FILE_NAME))
    for view in [
        v for (v,) in connection.execute("SELECT name FROM sqlite_schema WHERE type='view'")
    ]:
        connection.execute(f"DROP VIEW {view}")
    connection.execute(NEW_IN_2).fetchall()
    connection.close()
    return path, before


def test_a_lab_of_format_1_is_migrated_with_everything_in_it(format_1):
    path, before = format_1
    with Lab(path) as lab:
        assert lab.events.read() == before
        assert lab.state["k"] == {"a": 1}
        assert [h.id for h in lab.collection("docs").search([1, 0.1], k=2)] == ["a", "b"]
        lab.documents("notes").put("n", {"x": 1})
        assert lab.documents("notes").get("n").doc == {"x": 1}
        assert lab.verify().ok
    schema = "SELECT type, name, sql FROM sqlite_schema ORDER BY name"
    with Lab(path.parent / "fresh") as fresh:
        wanted = fresh._parts.database.reader().execute(schema).fetchall()
    connection = apsw.Connection(str(path / database.FILE_NAME), flags=apsw.SQLITE_OPEN_READONLY)
    found = connection.execute(schema).fetchall()
    connection.close()
    assert {(kind, name) for kind, name, _ in found} == {(kind, name) for kind, name, _ in wanted}


def test_the_backup_is_the_lab_as_it_was(format_1):
    path, _ = format_1
    with Lab(path):
        pass
    copy = apsw.Connection(str(path / "luma-format1.backup.db"))
    assert copy.pragma("user_version") == 1
    assert copy.execute("SELECT count(*) FROM luma_state").get == 1
    copy.close()


def test_a_lab_of_a_newer_format_is_refused_and_untouched(path):
    with Lab(path):
        pass
    connection = apsw.Connection(str(path / database.FILE_NAME))
    connection.execute(f"PRAGMA user_version={database.FORMAT_VERSION + 1}").fetchall()
    connection.close()
    with pytest.raises(NewerFormat, match="upgrade luma_lab"):
        Lab(path)
