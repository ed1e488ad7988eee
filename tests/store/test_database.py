"""The lab's one file: recognised, refused by name, created once, migrated after a backup."""

import contextlib
import os
import threading

import apsw
import pytest
from children import child

from luma_lab.errors import (
    CorruptStore,
    LumaError,
    NewerFormat,
    NotALab,
    StorageError,
    StoreClosed,
)
from luma_lab.store import database as module
from luma_lab.store.database import Database
from luma_lab.store.schema import APPLICATION_ID, FORMAT_VERSION


def make(path):
    Database(path).close()


def tables(path):
    connection = apsw.Connection(str(path / "luma.db"))
    try:
        return {name for (name,) in connection.execute("SELECT name FROM sqlite_schema")}
    finally:
        connection.close()


def test_a_new_lab_says_what_it_is_and_syncs_every_commit(tmp_path):
    database = Database(tmp_path / "deep" / "lab")
    connection = database.connect(writes=True)
    assert connection.pragma("application_id") == APPLICATION_ID
    assert connection.pragma("user_version") == FORMAT_VERSION
    assert connection.pragma("journal_mode") == "wal"
    assert connection.pragma("synchronous") == 2  # FULL
    database.close()


def test_a_reading_connection_can_not_write(tmp_path):
    database = Database(tmp_path / "lab")
    with pytest.raises(apsw.ReadOnlyError):
        database.reader().execute("DELETE FROM luma_log")
    database.close()


def test_a_directory_that_holds_other_things_is_refused_and_left_alone(tmp_path):
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(NotALab, match=r"thesis\.txt"):
        Database(tmp_path)
    assert [f.name for f in tmp_path.iterdir()] == ["thesis.txt"]


def test_hidden_files_and_lost_and_found_do_not_make_a_directory_full(tmp_path):
    (tmp_path / ".DS_Store").write_text("")
    (tmp_path / "lost+found").mkdir()
    make(tmp_path)
    assert "luma_log" in tables(tmp_path)


def test_a_file_where_a_directory_should_be_is_refused(tmp_path):
    (tmp_path / "lab").write_text("mine")
    with pytest.raises(NotALab, match="is a file"):
        Database(tmp_path / "lab")
    with pytest.raises(StorageError):
        Database(tmp_path / "lab" / "below")
    assert (tmp_path / "lab").read_text() == "mine"


def test_another_programs_sqlite_file_is_refused_and_left_alone(tmp_path):
    connection = apsw.Connection(str(tmp_path / "luma.db"))
    connection.execute("CREATE TABLE theirs (x); INSERT INTO theirs VALUES (1)")
    connection.close()
    before = (tmp_path / "luma.db").read_bytes()
    with pytest.raises(NotALab, match="another program"):
        Database(tmp_path)
    assert (tmp_path / "luma.db").read_bytes() == before
    connection = apsw.Connection(str(tmp_path / "luma.db"))
    connection.execute("PRAGMA application_id = 77; DROP TABLE theirs")
    connection.close()
    with pytest.raises(NotALab, match="another program"):
        Database(tmp_path)


@pytest.mark.parametrize("content", [b"hello " * 2000, b"SQLite format 3\0" + b"\xff" * 8000])
def test_a_file_that_is_no_database_is_named_as_damaged(tmp_path, content):
    (tmp_path / "luma.db").write_bytes(content)
    with pytest.raises(CorruptStore, match=r"luma\.db"):
        Database(tmp_path)


def test_an_empty_file_left_by_a_crash_before_the_first_commit_becomes_a_lab(tmp_path):
    (tmp_path / "luma.db").write_bytes(b"")
    make(tmp_path)
    assert "luma_log" in tables(tmp_path)


def test_a_newer_format_is_refused_with_both_numbers(tmp_path):
    make(tmp_path / "lab")
    connection = apsw.Connection(str(tmp_path / "lab" / "luma.db"))
    connection.execute(f"PRAGMA user_version = {FORMAT_VERSION + 1}")
    connection.close()
    with pytest.raises(NewerFormat, match=f"format {FORMAT_VERSION + 1}.*up to {FORMAT_VERSION}"):
        Database(tmp_path / "lab")


def with_newer_program(monkeypatch, migrate, steps=1):
    monkeypatch.setattr(module, "FORMAT_VERSION", FORMAT_VERSION + steps)
    monkeypatch.setattr(module, "MIGRATIONS", migrate)


def test_an_older_format_is_backed_up_and_then_migrated(tmp_path, monkeypatch):
    make(tmp_path / "lab")
    with_newer_program(
        monkeypatch,
        {
            FORMAT_VERSION: lambda c: c.execute("CREATE TABLE luma_new (x)"),
            FORMAT_VERSION + 1: lambda c: c.execute("INSERT INTO luma_new VALUES (5)"),
        },
        steps=2,
    )
    database = Database(tmp_path / "lab")
    assert database.reader().execute("SELECT x FROM luma_new").get == 5
    assert database.reader().pragma("user_version") == FORMAT_VERSION + 2
    database.close()
    copy = apsw.Connection(str(tmp_path / "lab" / f"luma-format{FORMAT_VERSION}.backup.db"))
    assert copy.pragma("user_version") == FORMAT_VERSION
    assert copy.execute("SELECT count(*) FROM luma_head").get == 1
    assert copy.execute("SELECT count(*) FROM sqlite_schema WHERE name='luma_new'").get == 0
    copy.close()
    make(tmp_path / "lab")  # and opens again without a second migration


def test_a_migration_that_fails_leaves_the_old_format_whole(tmp_path, monkeypatch):
    make(tmp_path / "lab")

    def half(connection):
        connection.execute("CREATE TABLE luma_new (x)")
        connection.execute("SELECT * FROM nowhere")

    with monkeypatch.context() as newer:
        with_newer_program(newer, {FORMAT_VERSION: half})
        with pytest.raises(LumaError, match="nowhere"):
            Database(tmp_path / "lab")
    assert "luma_new" not in tables(tmp_path / "lab")
    make(tmp_path / "lab")


def test_a_format_from_which_no_way_leads_is_refused_without_a_change(tmp_path, monkeypatch):
    make(tmp_path / "lab")
    with_newer_program(monkeypatch, {FORMAT_VERSION + 1: lambda c: None}, steps=2)
    with pytest.raises(NotALab, match=f"no way leads from {FORMAT_VERSION}"):
        Database(tmp_path / "lab")
    assert not list((tmp_path / "lab").glob("*.backup.db"))


@pytest.mark.parametrize("kind", ["nfs4", "cifs", "fuse.sshfs"])
def test_a_network_file_system_is_refused_by_name(tmp_path, monkeypatch, kind):
    monkeypatch.setattr(module, "file_system_type", lambda path: kind)
    with pytest.raises(NotALab, match=f"network file system \\({kind}\\)"):
        Database(tmp_path / "lab")
    assert not (tmp_path / "lab").exists()


def test_threads_that_create_one_lab_at_once_all_get_it(tmp_path):
    for turn in range(10):
        path = tmp_path / f"lab{turn}"
        start = threading.Barrier(6)
        errors = []

        def create(path=path, start=start, errors=errors):
            start.wait()
            try:
                make(path)
            except Exception as error:
                errors.append(error)

        threads = [threading.Thread(target=create) for _ in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert errors == []
        connection = apsw.Connection(str(path / "luma.db"))
        assert connection.execute("SELECT count(*) FROM luma_head").get == 1
        connection.close()


def test_processes_that_create_one_lab_at_once_all_get_it(tmp_path):
    script = (
        "import sys; from luma_lab.store.database import Database\n"
        "print('ready', flush=True); sys.stdin.readline()\n"
        "[Database(f'{sys.argv[1]}/lab{i}').close() for i in range(8)]"
    )
    with contextlib.ExitStack() as stack:
        processes = [stack.enter_context(child(script, tmp_path)) for _ in range(3)]
        for process in processes:
            assert process.stdout.readline() == "ready\n"
        for process in processes:
            process.stdin.write("go\n")
            process.stdin.flush()
        assert [process.wait(60) for process in processes] == [0, 0, 0]


def test_a_closed_database_refuses_and_may_be_closed_twice(tmp_path):
    database = Database(tmp_path / "lab")
    database.reader()
    database.close()
    database.close()
    with pytest.raises(StoreClosed, match="open it again"):
        database.reader()


def test_connections_of_finished_threads_are_given_back(tmp_path):
    database = Database(tmp_path / "lab")

    def read():
        assert database.reader().execute("SELECT count(*) FROM luma_log").get == 0

    read()
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(30):
        thread = threading.Thread(target=read)
        thread.start()
        thread.join()
    assert len(os.listdir("/proc/self/fd")) <= before + 4
    database.close()
