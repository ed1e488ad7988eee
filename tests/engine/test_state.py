"""State: revisions that never come back, time to live, compare-and-set, a mapping like a dict."""

import threading
import time
from collections.abc import MutableMapping

import pytest
import zict
from hypothesis import given, settings
from hypothesis import strategies as st

from luma_lab.engine.lab import Lab
from luma_lab.engine.state import CACHE_FROM_BYTES
from luma_lab.errors import InvalidArgument, LumaError, RevisionConflict

LARGE = "x" * (4 * CACHE_FROM_BYTES)


def test_a_put_gives_a_revision_that_is_the_offset_of_its_event(lab):
    result = lab.state.put("k", {"a": [1, None]})
    item = lab.state.item("k")
    assert (item.key, item.value, item.revision, item.expires_at_ms) == (
        "k", {"a": [1, None]}, result.revision, None,
    )  # fmt: skip
    [event] = lab.events.read(types="state_updated")
    assert event.offset == result.offset == result.revision
    assert event.data == {
        "key": "k", "revision": result.revision, "value": {"a": [1, None]}, "expires_at_ms": None,
    }  # fmt: skip


def test_compare_and_set_writes_only_at_the_revision_it_names(lab):
    first = lab.state.put("k", 1).revision
    with pytest.raises(RevisionConflict, match=f"'k' is at revision {first}, expected 99"):
        lab.state.put("k", 2, if_revision=99)
    assert lab.state["k"] == 1
    second = lab.state.put("k", 2, if_revision=first).revision
    with pytest.raises(RevisionConflict):
        lab.state.put("k", 3, if_revision=first)
    with pytest.raises(RevisionConflict):
        lab.state.delete("k", if_revision=first)
    assert lab.state["k"] == 2
    assert lab.state.delete("k", if_revision=second).count == 1


def test_if_revision_0_creates_only_what_is_not_there(lab):
    revision = lab.state.put("k", 1, if_revision=0).revision
    with pytest.raises(RevisionConflict, match=f"is at revision {revision}, expected 0"):
        lab.state.put("k", 2, if_revision=0)
    with pytest.raises(RevisionConflict, match="does not exist, expected 5"):
        lab.state.put("other", 2, if_revision=5)
    assert "other" not in lab.state


def test_an_expired_key_counts_as_missing_for_compare_and_set(lab, clock):
    old = lab.state.put("k", 1, ttl_ms=100).revision
    clock.advance(100)
    with pytest.raises(RevisionConflict, match="does not exist"):
        lab.state.put("k", 2, if_revision=old)
    assert lab.state.put("k", 2, if_revision=0).revision > old


def test_of_many_threads_that_compare_and_set_each_increment_counts_once(lab):
    lab.state["n"] = 0

    def add():
        for _ in range(20):
            while True:
                item = lab.state.item("n")
                try:
                    lab.state.put("n", item.value + 1, if_revision=item.revision)
                    break
                except RevisionConflict:
                    continue

    threads = [threading.Thread(target=add) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert lab.state["n"] == 80


def test_revisions_never_come_back_after_a_delete_or_an_expiry(lab, clock):
    seen = []
    for _ in range(3):
        seen.append(lab.state.put("k", 1, ttl_ms=10).revision)
        lab.state.delete("k")
        seen.append(lab.state.put("k", 1, ttl_ms=10).revision)
        clock.advance(10)
        lab._upkeep.sweep()
    assert seen == sorted(set(seen))


def test_an_expired_key_is_hidden_from_every_read_before_the_sweep_runs(lab, clock, monkeypatch):
    monkeypatch.setattr(lab._upkeep, "sweep", lambda: 0)
    expires = lab.state.put("gone", LARGE, ttl_ms=1000).expires_at_ms
    assert expires == clock.now_ms() + 1000
    lab.state["stays"] = 1
    clock.advance(999)
    assert lab.state["gone"] == LARGE
    clock.advance(1)
    assert "gone" not in lab.state
    assert lab.state.get("gone", "default") == "default"
    assert lab.state.item("gone") is None
    with pytest.raises(KeyError):
        lab.state["gone"]
    with pytest.raises(KeyError):
        del lab.state["gone"]
    assert list(lab.state) == ["stays"]
    assert [i.key for i in lab.state.scan()] == ["stays"]
    assert len(lab.state) == 1
    assert lab.state.delete("gone").count == 0
    assert lab.events.read(types="state_deleted") == []


def test_the_sweep_deletes_what_expired_and_tells_why(lab, clock):
    for i in range(5):
        lab.state.put(f"k{i}", i, ttl_ms=100 * (i + 1))
    clock.advance(300)
    lab._upkeep.sweep()
    # The lab's own thread may have swept before us; either way each key is told of once.
    events = lab.events.read(types={"state_deleted"})
    assert [(e.key, e.data) for e in events] == [
        (f"k{i}", {"key": f"k{i}", "reason": "ttl"}) for i in range(3)
    ]
    assert sorted(lab.state) == ["k3", "k4"]
    assert lab._upkeep.sweep() == 0


def test_the_sweep_runs_by_itself(lab, clock):
    lab.state.put("k", 1, ttl_ms=5)
    clock.advance(5)
    followed = lab.events.follow("earliest", types={"state_deleted"}, timeout=20)
    assert next(followed).data == {"key": "k", "reason": "ttl"}


def test_a_put_without_ttl_clears_the_limit_and_one_with_ttl_renews_it(lab, clock):
    lab.state.put("a", 1, ttl_ms=100)
    lab.state.put("a", 2)
    lab.state.put("b", 1, ttl_ms=100)
    clock.advance(60)
    lab.state.put("b", 2, ttl_ms=100)
    clock.advance(60)
    lab._upkeep.sweep()
    assert dict(lab.state) == {"a": 2, "b": 2}
    clock.advance(40)
    assert dict(lab.state) == {"a": 2}


def test_an_explicit_delete_tells_its_reason_and_a_missing_key_tells_nothing(lab):
    lab.state["k"] = 1
    head = lab.head
    result = lab.state.delete("k")
    assert (result.count, result.offset) == (1, head + 1)
    again = lab.state.delete("k")
    assert (again.count, again.offset) == (0, head + 1)
    [event] = lab.events.read(since=head)
    assert (event.type, event.data) == ("state_deleted", {"key": "k", "reason": "explicit"})


@pytest.mark.parametrize(
    ("call", "word"),
    [
        (lambda s: s.put("", 1), "empty"),
        (lambda s: s.put("k" * 513, 1), "513 bytes, at most 512"),
        (lambda s: s.put("é" * 257, 1), "514 bytes"),
        (lambda s: s.put("\ud800", 1), "Unicode"),
        (lambda s: s.put(7, 1), "int"),
        (lambda s: s.put("k", float("nan")), "nan"),
        (lambda s: s.put("k", 2**64), str(2**64)),
        (lambda s: s.put("k", {1: 2}), "1"),
        (lambda s: s.put("k", object()), "object"),
        (lambda s: s.put("k", 1, ttl_ms=0), "ttl_ms is 0"),
        (lambda s: s.put("k", 1, ttl_ms=-1), "ttl_ms is -1"),
        (lambda s: s.put("k", 1, ttl_ms=1.5), "ttl_ms is 1.5"),
        (lambda s: s.put("k", 1, ttl_ms=True), "ttl_ms is True"),
        (lambda s: s.put("k", 1, ttl_ms=1 << 60), str(1 << 60)),
        (lambda s: s.put("k", 1, if_revision=-1), "if_revision is -1"),
        (lambda s: s.put("k", 1, if_revision="1"), "if_revision is '1'"),
        (lambda s: s.delete(""), "empty"),
        (lambda s: s.delete("k", if_revision=-2), "-2"),
        (lambda s: s.get("k" * 513), "513"),
        (lambda s: s.item(b"k"), "bytes"),
        (lambda s: 5 in s, "int"),
        (lambda s: s.scan("k" * 513), "prefix too long: 513"),
        (lambda s: s.scan(after="k" * 513), "after too long: 513"),
        (lambda s: s.scan(limit=-1), "limit is -1"),
        (lambda s: s.scan(limit="9"), "limit is '9'"),
        (lambda s: s.scan(3), "int"),
        (lambda s: s.put_each([{"value": 1}], atomic=True), "key"),
        (lambda s: s.put_each([{"key": "k"}], atomic=True), "value"),
    ],
)
def test_bad_input_is_named_and_changes_nothing(lab, call, word):
    lab.state["k0"] = 0
    head = lab.head
    with pytest.raises(InvalidArgument) as caught:
        call(lab.state)
    assert word in str(caught.value)
    assert lab.head == head
    assert dict(lab.state) == {"k0": 0}


def test_a_key_of_512_bytes_is_allowed(lab):
    lab.state["é" * 256] = 1
    assert lab.state["é" * 256] == 1


def test_state_is_a_mutable_mapping(lab):
    state, oracle = lab.state, {}
    assert isinstance(state, MutableMapping)
    for mapping in (state, oracle):
        mapping.update({"b": 1, "a": [2], "c": None})
        assert mapping.setdefault("a", 5) == [2]
        assert mapping.setdefault("d", 6) == 6
        assert mapping.pop("b") == 1
        assert mapping.pop("b", "none") == "none"
        with pytest.raises(KeyError):
            mapping.pop("b")
        with pytest.raises(KeyError):
            mapping["b"]
        with pytest.raises(KeyError):
            del mapping["b"]
        assert len(mapping) == 3
        assert mapping.get("c", 1) is None
        assert "c" in mapping
        assert sorted(mapping.items()) == [("a", [2]), ("c", None), ("d", 6)]
    assert dict(state) == oracle
    assert state == oracle
    state.clear()
    assert not state
    with pytest.raises(KeyError):
        state.popitem()


def test_iteration_pages_through_many_keys_in_byte_order(lab):
    keys = [f"{i:04}" for i in range(1300)]
    lab.state.put_each([{"key": key, "value": 0} for key in reversed(keys)])
    assert list(lab.state) == keys


@settings(max_examples=25, deadline=None)
@given(st.lists(st.text("abé\U00010000", max_size=3).filter(bool), max_size=20), st.integers(1, 5))
def test_paging_by_the_last_key_visits_every_key_once(keys, limit):
    with Lab(":memory:") as lab:
        lab.state.put_each([{"key": key, "value": key} for key in keys])
        seen, after = [], None
        while page := lab.state.scan(after=after, limit=limit):
            assert len(page) <= limit
            seen += [item.key for item in page]
            after = seen[-1]
        assert seen == sorted(set(keys), key=str.encode)


def test_a_limit_of_0_gives_nothing(lab):
    lab.state["k"] = 1
    assert lab.state.scan(limit=0) == []


def test_put_each_for_itself_keeps_the_good_and_explains_the_bad(lab):
    lab.state["taken"] = 1
    results = lab.state.put_each(
        [
            {"key": "a", "value": 1, "ttl_ms": 50},
            {"key": "taken", "value": 2, "if_revision": 0},
            {"key": "", "value": 3},
            {"key": "b", "value": float("inf")},
            {"key": "a", "value": 4, "if_revision": lab.head + 1},
            {"key": "c", "value": 5},
        ]
    )
    assert [type(r).__name__ for r in results] == [
        "WriteResult", "RevisionConflict", "InvalidArgument", "InvalidArgument", "WriteResult",
        "WriteResult",
    ]  # fmt: skip
    assert dict(lab.state) == {"a": 4, "c": 5, "taken": 1}


@pytest.mark.parametrize(
    "bad", [{"key": "", "value": 1}, {"key": "x", "value": 1, "if_revision": 9}]
)
def test_put_each_atomic_is_all_or_nothing_and_names_the_position(lab, bad):
    lab.state["x"] = 0
    head = lab.head
    with pytest.raises(LumaError) as caught:
        lab.state.put_each([{"key": "a", "value": 1}, bad, {"key": "c", "value": 2}], atomic=True)
    assert caught.value.index == 1
    assert lab.head == head
    assert dict(lab.state) == {"x": 0}


def test_a_returned_value_is_the_callers_own(lab):
    for value in ({"list": [1]}, {"list": [1], "large": LARGE}):
        lab.state["k"] = value
        lab.state["k"]["list"].append(2)
        lab.state.get("k")["list"].append(2)
        lab.state.item("k").value["list"].append(2)
        lab.state.scan()[0].value["list"].append(2)
        value["list"].append(3)
        assert lab.state["k"]["list"] == [1]


def test_large_values_read_through_the_cache_follow_a_second_lab(path):
    with Lab(path) as one, Lab(path) as two:
        for turn in range(20):
            one.state["k"] = [turn, LARGE]
            assert two.state["k"] == [turn, LARGE]
            assert two.state["k"] == [turn, LARGE]
            two.state["k"] = [-turn, LARGE]
            assert one.state["k"] == [-turn, LARGE]
        del one.state["k"]
        assert "k" not in two.state
        assert two.state.get("k") is None
        one.state["k"] = LARGE
        assert two.state["k"] == LARGE


def test_zict_composes_over_state(lab):
    codes = zict.Func(lambda n: {"n": n}, lambda v: v["n"], lab.state)
    cached = zict.Cache(codes, zict.LRU(10, {}))
    cached["a"] = 1
    cached["b"] = 2
    assert (cached["a"], codes["b"]) == (1, 2)
    assert lab.state["a"] == {"n": 1}
    del cached["a"]
    assert "a" not in lab.state
    assert dict(cached) == {"b": 2}
    buffer = zict.Buffer({}, lab.state, n=1)
    buffer["x"] = 1
    buffer["y"] = 2
    buffer["z"] = 3
    assert set(lab.state) == {"b", "x", "y"}  # the slow side; z is in the fast one
    assert sorted(buffer) == ["b", "x", "y", "z"]
    assert buffer["x"] == 1


def test_a_reader_never_sees_a_large_value_torn_while_it_is_rewritten(lab):
    lab.state["k"] = ["0" * 9000] * 2
    stop = threading.Event()
    torn = []

    def read():
        while not stop.is_set():
            left, right = lab.state["k"]
            if left != right:
                torn.append((left[0], right[0]))

    threads = [threading.Thread(target=read) for _ in range(2)]
    for thread in threads:
        thread.start()
    until = time.monotonic() + 1
    turn = 0
    while time.monotonic() < until:
        turn += 1
        lab.state["k"] = [str(turn % 10) * 9000] * 2
    stop.set()
    for thread in threads:
        thread.join()
    assert torn == []
    assert turn > 1
