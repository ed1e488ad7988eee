"""The log: offsets that never come back, entries that are checked, a known past that is cut."""

import apsw
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from luma_lab.errors import CorruptStore
from luma_lab.store import log
from luma_lab.store.database import Database, immediate


@pytest.fixture
def database(tmp_path):
    database = Database(tmp_path / "lab")
    yield database
    database.close()


@pytest.fixture
def connection(database):
    return database.connect(writes=True)


def write(connection, count, *, ts_ms=1000, size=10):
    with immediate(connection):
        head = log.read_head(connection)
        head.last_ts_ms = ts_ms
        data = b'"' + b"x" * (size - 2) + b'"'
        offsets = [log.append(connection, head, "told", "k", None, data) for _ in range(count)]
        log.write_head(connection, head)
    return offsets


def cut(connection, first):
    with immediate(connection):
        head = log.read_head(connection)
        gone = log.truncate(connection, head, first)
        log.write_head(connection, head)
    return gone


def test_the_first_offset_is_1_and_an_empty_log_has_offset_0(connection):
    assert log.read_head(connection).offset == 0
    assert write(connection, 3) == [1, 2, 3]


def test_offsets_go_on_after_retention_emptied_the_log_and_the_lab_was_reopened(tmp_path):
    database = Database(tmp_path / "lab")
    connection = database.connect(writes=True)
    write(connection, 5)
    assert cut(connection, 6) == 5
    assert log.read(connection, 0, 10) == []
    database.close()
    database = Database(tmp_path / "lab")
    connection = database.connect(writes=True)
    head = log.read_head(connection)
    assert (head.offset, head.first_offset) == (5, 6)
    assert write(connection, 1) == [6]
    database.close()


def test_many_appended_at_once_get_the_offsets_that_one_by_one_would(connection):
    with immediate(connection):
        head = log.read_head(connection)
        head.last_ts_ms = 7
        assert log.append_many(connection, head, "told", "c", [b"1", b"2", b"3"]) == 1
        assert log.append(connection, head, "told", None, None, b"4") == 4
        log.write_head(connection, head)
    assert [(e.offset, e.data) for e in log.read(connection, 0, 9)] == [
        (1, b"1"), (2, b"2"), (3, b"3"), (4, b"4"),
    ]  # fmt: skip
    assert head.log_bytes == 4 + 4 * log.ROW_OVERHEAD_BYTES


def test_a_page_starts_behind_the_offset_asked_for_and_ends_at_the_limit(connection):
    write(connection, 9)
    assert [e.offset for e in log.read(connection, 4, 3)] == [5, 6, 7]
    assert log.read(connection, 9, 3) == []


def test_a_restore_starts_an_epoch_whose_offsets_were_never_given_out(connection):
    write(connection, 3)
    with immediate(connection):
        head = log.read_head(connection)
        log.start_epoch(head)
        log.write_head(connection, head)
    assert write(connection, 2) == [1 << 32, (1 << 32) + 1]
    with immediate(connection):
        head = log.read_head(connection)
        log.start_epoch(head)
        log.write_head(connection, head)
    assert head.epoch == 2
    assert write(connection, 1) == [2 << 32]


@pytest.mark.parametrize(
    "change",
    [
        "data = CAST('{\"a\":2}' AS BLOB)",
        "ts_ms = ts_ms + 1",
        "type = 'tolds'",
        "key = 'j'",
        "key = NULL",
        "collection = 'c'",
        "crc = crc + 1",
        "offset = 7",
    ],
)
def test_an_entry_with_one_changed_column_is_never_served(connection, change):
    write(connection, 3)
    connection.execute(f"UPDATE luma_log SET {change} WHERE offset = 2")
    with pytest.raises(CorruptStore, match=r"log entry [27] does not match"):
        log.read(connection, 0, 10)
    assert [e.offset for e in log.read(connection, 0, 1)] == [1]


def test_cutting_twice_at_one_place_or_before_it_changes_nothing(connection):
    write(connection, 5)
    assert cut(connection, 3) == 2
    assert cut(connection, 3) == 0
    assert cut(connection, 1) == 0
    head = log.read_head(connection)
    assert (head.first_offset, head.offset) == (3, 5)
    assert head.log_bytes == 3 * (10 + log.ROW_OVERHEAD_BYTES)


def test_cutting_beyond_the_head_keeps_the_next_offset(connection):
    write(connection, 5)
    cut(connection, 99)
    assert log.read_head(connection).first_offset == 6
    assert log.read_head(connection).log_bytes == 0
    assert write(connection, 1) == [6]


@settings(max_examples=40, deadline=None)
@given(
    sizes=st.lists(st.integers(2, 60), max_size=12),
    ages=st.lists(st.integers(0, 50), min_size=12, max_size=12),
    max_events=st.integers(0, 14),
    max_bytes=st.integers(0, 1200),
    max_age_ms=st.integers(0, 300),
)
def test_retention_keeps_the_longest_end_of_the_log_that_all_three_limits_allow(
    sizes, ages, max_events, max_bytes, max_age_ms
):
    # Oracle: try every first offset on plain lists and take the lowest that fits.
    now_ms = 1000
    stamps, at = [], 700
    for step in ages[: len(sizes)]:
        at = min(now_ms, at + step)
        stamps.append(at)
    connection = apsw.Connection(":memory:")
    connection.execute("CREATE TABLE luma_log (offset INTEGER PRIMARY KEY, ts_ms, type, key, "
                       "collection, data, crc)")  # fmt: skip
    head = log.Head(0, 1, 1, 0, 0)
    for stamp, size in zip(stamps, sizes, strict=True):
        head.last_ts_ms = stamp
        log.append(connection, head, "told", None, None, b"x" * size)
    first = log.retained_from(
        connection,
        head,
        now_ms=now_ms,
        max_age_ms=max_age_ms,
        max_events=max_events,
        max_bytes=max_bytes,
    )

    def fits(first):
        kept = list(zip(stamps, sizes, strict=True))[first - 1 :]
        return (
            len(kept) <= max_events
            and sum(size + log.ROW_OVERHEAD_BYTES for _, size in kept) <= max_bytes
            and all(stamp >= now_ms - max_age_ms for stamp, _ in kept)
        )

    assert first == next(f for f in range(1, len(sizes) + 2) if fits(f))
