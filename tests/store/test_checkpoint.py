"""The write-ahead log stays bounded, also behind readers that never pause."""

import os
import threading

import pytest

from luma_lab.store.checkpoint import Checkpoints
from luma_lab.store.database import Database

LIMIT = 200_000


@pytest.fixture
def database(tmp_path):
    database = Database(tmp_path / "lab")
    yield database
    database.close()


def write(connection, count=50):
    for i in range(count):
        connection.execute(
            "INSERT OR REPLACE INTO luma_state (key, revision, crc, value) VALUES (?, 1, 0, ?)",
            (f"k{i}", os.urandom(8000)),
        )


def test_a_log_under_its_limit_is_left_alone(database):
    writer = database.connect(writes=True)
    write(writer, 2)
    checkpoints = Checkpoints(database, LIMIT)
    size = checkpoints.size
    assert 0 < size < LIMIT
    assert checkpoints.bound()
    assert checkpoints.size == size


def test_a_reader_inside_is_waited_for_and_then_the_log_begins_anew(database):
    writer, reader = database.connect(writes=True), database.connect()
    checkpoints = Checkpoints(database, LIMIT)
    reader.execute("BEGIN")
    assert reader.execute("SELECT count(*) FROM luma_state").get == 0
    write(writer)
    assert checkpoints.size > LIMIT
    assert not checkpoints.bound()
    assert checkpoints.size > LIMIT
    assert reader.execute("SELECT count(*) FROM luma_state").get == 0  # its snapshot still stands
    reader.execute("COMMIT")
    assert checkpoints.bound()
    assert checkpoints.size == 0
    assert reader.execute("SELECT count(*) FROM luma_state").get == 50


def test_overlapping_readers_do_not_let_the_log_grow_for_ever(database):
    writer, checkpoints, stop = database.connect(writes=True), Checkpoints(database, LIMIT), []

    def read():
        reader = database.connect()
        while not stop:
            reader.execute("SELECT count(*) FROM luma_state a, luma_state b").fetchall()

    threads = [threading.Thread(target=read) for _ in range(4)]
    for thread in threads:
        thread.start()
    try:
        sizes = []
        for _ in range(12):
            write(writer)
            checkpoints.bound()
            sizes.append(checkpoints.size)
    finally:
        stop.append(True)
        for thread in threads:
            thread.join()
    assert min(sizes) == 0
