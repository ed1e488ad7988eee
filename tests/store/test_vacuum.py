"""VACUUM of the lab's file beside other processes: done, or left out with the reason."""

import apsw
import pytest
from children import child, tell

from luma_lab.store import database as module
from luma_lab.store.database import Database
from luma_lab.store.vacuum import LEAST_FREE_BYTES, vacuum

# Begins a transaction, says so, and ends it when it is told to.
HOLDER = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1], isolation_level=None)
connection.execute(sys.argv[2])
connection.execute("SELECT count(*) FROM luma_state").fetchall()
print("inside", flush=True)
input()
connection.execute("COMMIT")
connection.close()
print("outside", flush=True)
"""
SIZE = 3 * LEAST_FREE_BYTES


@pytest.fixture
def database(tmp_path):
    """A lab's database with free pages enough for VACUUM to be worth it, and one row."""
    database = Database(tmp_path / "lab")
    writer = database.connect(writes=True)
    insert = "INSERT INTO luma_state (key, revision, crc, value) VALUES (?, 1, 0, ?)"
    writer.execute(insert, ("gone", bytes(SIZE)))
    writer.execute(insert, ("kept", b"1"))
    writer.execute("DELETE FROM luma_state WHERE key='gone'")
    writer.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    writer.close()
    yield database
    database.close()


def keys(database):
    return database.reader().execute("SELECT key FROM luma_state").fetchall()


def test_free_pages_are_given_back(database):
    before = database.file.stat().st_size
    told = vacuum(database)
    assert told == {"bytes_freed": before - database.file.stat().st_size}
    assert told["bytes_freed"] > 0.9 * SIZE
    assert keys(database) == [("kept",)]


def test_another_process_that_keeps_writing_is_named_and_the_file_left_as_it_is(
    database, monkeypatch
):
    monkeypatch.setattr(module, "BUSY_LIMIT_SECS", 0.05)
    before = database.file.stat().st_size
    with child(HOLDER, database.file, "BEGIN IMMEDIATE") as holder:
        assert holder.stdout.readline() == "inside\n"
        told = vacuum(database)
        assert told == {"bytes_freed": 0, "kept": "another process was writing all the time"}
        assert database.file.stat().st_size == before and keys(database) == [("kept",)]
        assert tell(holder) == "outside"
    assert vacuum(database)["bytes_freed"] > 0.9 * SIZE


def test_behind_another_process_that_reads_the_space_comes_back_when_it_leaves(database):
    before = database.file.stat().st_size
    with child(HOLDER, database.file, "BEGIN") as holder:
        assert holder.stdout.readline() == "inside\n"
        assert vacuum(database) == {"bytes_freed": 0}
        assert keys(database) == [("kept",)]
        assert tell(holder) == "outside"
    database.connect(writes=True).wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_TRUNCATE)
    assert before - database.file.stat().st_size > 0.9 * SIZE


def test_a_table_without_a_key_of_its_own_keeps_the_file_as_it_is(database):
    writer = database.connect(writes=True)
    writer.execute("CREATE TABLE mine (a TEXT)")
    writer.close()
    told = vacuum(database)
    assert told["bytes_freed"] == 0 and "'mine' has no INTEGER PRIMARY KEY" in told["kept"]
