"""Points read for a search are checked; pages of rows stay small."""

import pytest

from luma_lab.errors import CorruptStore
from luma_lab.store import mappings, pages
from luma_lab.store.nearest import read_nearest


@pytest.fixture
def points(lab):
    docs = lab.create_collection("docs", 1, "l2")
    docs.upsert([f"p{i}" for i in range(1200)], [[i] for i in range(1200)], [{"n": "é"}] * 1200)
    docs.delete(["p7"])
    connection = lab._parts.writer.connection
    return lab, connection, docs._row().uid


def test_the_living_are_found_by_row(points):
    lab, connection, uid = points
    assert read_nearest(connection, uid, [3, 7, 5000], 0) == {3: ("p3", '{"n":"é"}', 5)}
    assert read_nearest(connection, uid, [], 0) == {}
    assert read_nearest(connection, uid, [3, 7], 1) == {}
    found = read_nearest(connection, uid, list(range(1200)), 0)
    assert len(found) == 1199
    for row, point in mappings.read_points_at(connection, uid, list(range(1200))).items():
        assert found[row] == (point.id, point.meta.decode(), point.revision)


@pytest.mark.parametrize("change", ["meta = '{}'", "id = 'other'", "revision = 6", "meta = x'00'"])
def test_a_damaged_point_is_named_and_not_answered(points, change):
    lab, connection, uid = points
    connection.execute(f"UPDATE luma_points SET {change} WHERE id = 'p3'")
    with pytest.raises(CorruptStore, match="does not match its checksum"):
        lab.collection("docs").search([3.0], 2)
    assert [hit.id for hit in lab.collection("docs").search([900.0], 1)] == ["p900"]


def test_a_page_holds_few_long_values_and_many_short_ones(lab):
    connection = lab._parts.writer.connection
    for i in range(600):
        lab.state[f"a{i:03}"] = i
    lab.state.put("b0", "gone", ttl_ms=1)
    for i in range(1, 10):
        lab.state[f"b{i}"] = "x" * (3 << 20)
    lab.state["c"] = "x" * (20 << 20)
    now = lab._parts.clock.now_ms() + 10
    assert pages.state_page(connection, "", None, now) == pages.PAGE
    assert pages.state_page(connection, "b", None, now) == 2
    assert pages.state_page(connection, "b", "b8", now) == 1
    assert pages.state_page(connection, "c", None, now) == 1
    assert pages.state_page(connection, "", "c", now) == 0
    lab.documents("d").put("one", "x" * (9 << 20))
    lab.documents("d").put("two", 1)
    assert pages.documents_page(connection, "d", "") == 1
    assert pages.documents_page(connection, "d", "one") == 1
    assert pages.points_page(connection, 1, "") == 0
