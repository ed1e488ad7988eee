import pytest
from hypothesis import given
from hypothesis import strategies as st

from luma_lab.service.access import ANYONE
from luma_lab.service.events import Filter
from luma_lab.service.feed import WireFrame
from luma_lab.store import log as event_log


def write(server, count, start=0):
    for i in range(start, start + count):
        server.lab.state.put(f"k{i}", i)


def cut(server, first_offset):
    """Do what retention does."""

    def operation(unit):
        event_log.truncate(unit.connection, unit.head, first_offset)

    server.lab._parts.writer.run(operation)


@pytest.mark.parametrize(("query", "exact"), [("", True), ("&types=state_updated", False)])
def test_truncated_history_is_declared_then_the_rest_follows(server, query, exact):
    write(server, 10)
    cut(server, 7)
    with server.stream(f"/v1/stream?since=2{query}") as stream:
        gap, following = stream.frames(2)
    assert gap["event"] == "gap" and gap["id"] == 6
    assert gap["data"] == {
        "from_offset": 3,
        "to_offset": 6,
        "dropped": 4,
        "exact": exact,
        "reason": "truncated",
    }
    assert following["id"] == 7


def test_earliest_and_what_is_still_kept_declare_no_gap(server):
    write(server, 10)
    cut(server, 7)
    for query in ("since=earliest", "since=6", "since=8"):
        with server.stream(f"/v1/stream?{query}") as stream:
            assert stream.frame()["event"] == "state_updated"


def test_history_cut_away_entirely_is_declared_up_to_the_head(server):
    write(server, 10)
    cut(server, 11)
    with server.stream() as stream:
        assert stream.frame()["data"]["to_offset"] == 10
        write(server, 1)
        assert stream.frame()["id"] == 11


def test_a_reader_beyond_the_head_is_moved_back_then_goes_live(server):
    write(server, 3)
    with server.stream("/v1/stream", {"Last-Event-ID": "500"}) as stream:
        gap = stream.frame()
        assert gap["event"] == "gap" and gap["id"] == 3
        data = gap["data"]
        assert (data["from_offset"], data["to_offset"]) == (500, 3)
        assert (data["dropped"], data["reason"]) == (0, "ahead")
        write(server, 1, start=3)
        assert stream.frame()["id"] == 4


def test_a_gap_that_grew_while_a_page_was_cached_is_declared_whole(server):
    write(server, 10)
    cut(server, 3)
    with server.stream() as stream:
        assert stream.frame()["data"]["to_offset"] == 2
    cut(server, 6)
    with server.stream() as stream:
        assert stream.frame()["data"]["to_offset"] == 5


EVENTS = st.lists(
    st.tuples(
        st.sampled_from(["state_updated", "state_deleted", "vector_added", "saved", "gap"]),
        st.none() | st.text("ab:", max_size=3),
        st.none() | st.sampled_from(["docs", "more"]),
    )
)


@given(
    EVENTS,
    st.none() | st.lists(st.sampled_from(["state_updated", "saved", "none", " saved"])),
    st.none() | st.text("ab:", max_size=2),
    st.none() | st.sampled_from(["docs", "other"]),
)
def test_a_filter_is_the_conjunction_of_its_parts(events, types, key_prefix, collection):
    frames = [
        WireFrame(i, kind, key, name, b"%d;" % i) for i, (kind, key, name) in enumerate(events)
    ]
    wanted = {t.strip() for t in types or ()}
    expected = [
        b"%d;" % i
        for i, (kind, key, name) in enumerate(events)
        if kind == "gap"
        or (
            (not wanted or kind in wanted)
            and (not key_prefix or (key is not None and key.startswith(key_prefix)))
            and (not collection or name == collection)
        )
    ]
    chosen = Filter(None if types is None else ",".join(types), key_prefix, collection, ANYONE)
    assert chosen.select(frames) == b"".join(expected)
