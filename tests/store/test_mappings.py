"""Tables from names to bytes: scans against a sorted dict, checksums on every row."""

import apsw
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from luma_lab.errors import CorruptStore
from luma_lab.store import mappings
from luma_lab.store.mappings import PointRow, StateRow
from luma_lab.store.schema import SCHEMA

# Few letters, so that prefixes meet; and the corners where code points, UTF-8 and the hole of
# the surrogates could disagree.
LETTERS = "ab\x00\x7f\x80é\ud7ff\ue000\uffff\U00010000\U0010ffff"
KEYS = st.text(LETTERS, max_size=4)


@pytest.fixture
def connection():
    connection = apsw.Connection(":memory:")
    connection.execute(SCHEMA)
    return connection


def fresh():
    connection = apsw.Connection(":memory:")
    connection.execute(SCHEMA)
    return connection


@settings(max_examples=150, deadline=None)
@given(
    st.dictionaries(KEYS.filter(bool), st.none() | st.integers(1, 20), max_size=12),
    KEYS,
    st.none() | KEYS,
    st.integers(1, 13),
    st.integers(0, 20),
)
@example({"\U0010ffffa": None, "\U0010ffff": None}, "\U0010ffff", None, 9, 0)
@example({"\ud7ffz": None, "\ue000": None, "\ud7ff": None}, "\ud7ff", None, 9, 0)
@example({"a": None, "b": None}, "a", "b", 9, 0)
@example({"a": None, "ab": None}, "ab", "a", 9, 0)
def test_a_scan_gives_what_sorting_a_dict_by_utf8_would(entries, prefix, after, limit, now_ms):
    connection = fresh()
    for revision, (key, expires) in enumerate(entries.items(), 1):
        mappings.write_states(connection, [StateRow(key, revision, expires, b"1")])
    wanted = [
        key
        for key in sorted(entries, key=str.encode)
        if key.startswith(prefix)
        and (after is None or key.encode() > after.encode())
        and (entries[key] is None or entries[key] > now_ms)
    ][:limit]
    found = mappings.scan_state(connection, prefix, after, limit, now_ms)
    assert [row.key for row in found] == wanted
    assert mappings.count_state(connection, now_ms) == sum(
        expires is None or expires > now_ms for expires in entries.values()
    )


@settings(max_examples=60, deadline=None)
@given(st.lists(KEYS.filter(bool), unique=True, max_size=9), KEYS, st.integers(1, 10))
def test_points_are_scrolled_in_byte_order_of_id(ids, after, limit):
    connection = fresh()
    points = [PointRow(row, id, row + 1, b"null") for row, id in enumerate(ids)]
    mappings.write_points(connection, 1, points)
    mappings.write_points(connection, 2, points)
    wanted = [id for id in sorted(ids, key=str.encode) if id.encode() > after.encode()][:limit]
    assert [p.id for p in mappings.scan_points(connection, 1, after, limit)] == wanted


def test_a_put_replaces_everything_about_the_key(connection):
    mappings.write_states(connection, [StateRow("k", 1, 500, b"1")])
    mappings.write_states(connection, [StateRow("k", 2, None, b"2")])
    assert mappings.read_state(connection, "k") == StateRow("k", 2, None, b"2")
    assert mappings.read_state_head(connection, "k") == (2, None)
    mappings.delete_state(connection, "k")
    assert mappings.read_state(connection, "k") is None


def test_expired_keys_come_oldest_first_up_to_the_limit(connection):
    assert mappings.next_expiry(connection) is None
    for key, expires in {"a": 30, "b": 10, "c": 20, "d": None, "e": 40}.items():
        mappings.write_states(connection, [StateRow(key, 1, expires, b"1")])
    assert mappings.next_expiry(connection) == 10
    assert mappings.expired_keys(connection, 30, 10) == ["b", "c", "a"]
    assert mappings.expired_keys(connection, 30, 2) == ["b", "c"]


@pytest.mark.parametrize(
    "change",
    ["value = CAST('2' AS BLOB)", "revision = 9", "expires_at_ms = 7", "crc = crc + 1",
     "key = 'l'"],
)  # fmt: skip
def test_a_state_row_with_one_changed_column_is_never_served(connection, change):
    mappings.write_states(connection, [StateRow("k", 1, None, b"1")])
    assert list(mappings.all_state(connection)) == [("k", True)]
    connection.execute(f"UPDATE luma_state SET {change}")
    key = connection.execute("SELECT key FROM luma_state").get
    with pytest.raises(CorruptStore, match=f"state entry '{key}'"):
        mappings.read_state(connection, key)
    with pytest.raises(CorruptStore):
        mappings.scan_state(connection, "", None, 5, 0)
    assert list(mappings.all_state(connection)) == [(key, False)]


@pytest.mark.parametrize(
    "change",
    ["meta = CAST('2' AS BLOB)", "revision = 9", "crc = crc + 1", "id = 'q'",
     "point = point + 1"],
)  # fmt: skip
def test_a_point_row_with_one_changed_column_is_never_served(connection, change):
    mappings.write_points(connection, 3, [PointRow(0, "p", 1, b"1")])
    connection.execute(f"UPDATE luma_points SET {change}")
    id = connection.execute("SELECT id FROM luma_points").get
    with pytest.raises(CorruptStore, match=f"point '{id}'"):
        mappings.read_point(connection, 3, id)
    with pytest.raises(CorruptStore):
        mappings.scan_points(connection, 3, "", 5)
    assert list(mappings.all_points(connection)) == [(3, id, False)]


def test_rows_of_neighbouring_collections_do_not_mix(connection):
    top = (1 << 32) - 1
    mappings.write_points(connection, 1, [PointRow(0, "a", 1, b"1"), PointRow(top, "b", 2, b"2")])
    mappings.write_points(connection, 2, [PointRow(0, "a", 3, b"3")])
    assert mappings.live_rows(connection, 1) == [0, top]
    assert mappings.ids_by_row(connection, 1) == [(0, "a"), (top, "b")]
    assert mappings.live_rows(connection, 2) == [0]
    mappings.delete_points(connection, 1, [top])
    assert mappings.read_points_at(connection, 1, [top]) == {}
    assert mappings.read_points_at(connection, 2, [0, 5])[0].meta == b"3"
    assert mappings.find_row(connection, 2, "a") == 0
    assert mappings.find_row(connection, 2, "b") is None
