"""Events: every change told once, in order, as it was sent; gaps are told too."""

import threading
import time

import numpy as np
import pytest

from luma_lab.engine.lab import Lab
from luma_lab.engine.upkeep import Retention
from luma_lab.errors import InvalidArgument, LumaError


@pytest.fixture
def docs(lab):
    return lab.create_collection("docs", 2, "l2")


def test_every_kind_of_change_is_told_with_what_was_sent(lab, docs, clock):
    docs.add("a", [0.1, -2.5], {"n": 1})
    clock.advance(7)
    docs.upsert("a", [1, 2], {"n": 2})
    docs.update("a", metas={"n": 3})
    docs.update("a", [3, 4])
    docs.delete("a")
    lab.state["k"] = [1]
    del lab.state["k"]
    lab.events.publish("saved", {"x": None}, key="user:1")
    docs.tune_index(search_list_size=20)
    lab.drop_collection("docs")
    told = [(e.type, e.key, e.collection) for e in lab.events.read()]
    assert told == [
        ("vector_collection_created", None, "docs"),
        ("vector_added", None, "docs"),
        ("vector_upserted", None, "docs"),
        ("vector_updated", None, "docs"),
        ("vector_updated", None, "docs"),
        ("vector_deleted", None, "docs"),
        ("state_updated", "k", None),
        ("state_deleted", "k", None),
        ("saved", "user:1", None),
        ("index_tuned", None, "docs"),
        ("vector_collection_dropped", None, "docs"),
    ]
    assert [e.offset for e in lab.events.read()] == list(range(1, 12))
    assert lab.events.read()[8].data == {"x": None}


def test_a_point_event_shows_the_vector_as_it_was_sent(lab, docs, clock):
    docs.upsert("é", [0.1, 1e-30], {"n": [1]})
    docs.update("é", metas=None)
    docs.upsert("é", [7, 8])
    created, first, second, third = lab.events.read()
    assert first.data == {
        "collection": "docs", "id": "é", "vector": [0.1, 1e-30], "meta": {"n": [1]},
    }  # fmt: skip
    assert second.data == {"collection": "docs", "id": "é", "vector": [0.1, 1e-30], "meta": None}
    assert third.data["vector"] == [7, 8]
    assert created.ts_ms == first.ts_ms == clock.now_ms()


def test_the_vector_of_a_dropped_collection_is_null_and_marked_superseded(lab, docs):
    docs.upsert(["a", "b"], [[1, 2], [3, 4]], [{"n": 1}, None])
    docs.delete("b")
    lab.drop_collection("docs")
    again = lab.create_collection("docs", 3, "l2")
    again.upsert("a", [9, 9, 9])
    events = lab.events.read(types={"vector_upserted", "vector_deleted"})
    assert [e.data for e in events] == [
        {"collection": "docs", "id": "a", "vector": None, "meta": {"n": 1}, "superseded": True},
        {"collection": "docs", "id": "b", "vector": None, "meta": None, "superseded": True},
        {"collection": "docs", "id": "b"},
        {"collection": "docs", "id": "a", "vector": [9, 9, 9], "meta": None},
    ]


def test_reading_starts_behind_since_and_ends_at_the_limit(lab):
    for i in range(2500):
        lab._parts.writer.submit(lambda unit, i=i: unit.append("n", data=b"%d" % i))
    lab.events.publish("last")
    assert [e.offset for e in lab.events.read(10, limit=3)] == [11, 12, 13]
    assert len(lab.events.read(limit=2300)) == 2300
    assert [e.data for e in lab.events.read(limit=10_000)][:-1] == list(range(2500))
    assert lab.events.read(lab.head) == []
    assert lab.events.read("latest") == []
    assert lab.events.read("earliest", limit=1)[0].offset == 1


def test_filters_take_types_key_prefixes_and_collections_together(lab, docs):
    lab.create_collection("other", 2)
    for key in ("user:1", "user:2", "usual", "é"):
        lab.state[key] = 1
        lab.events.publish("seen", key=key)
    lab.events.publish("seen")
    docs.upsert("a", [1, 2])
    lab.collection("other").upsert("a", [1, 2])

    def read(**filters):
        return [(e.type, e.key, e.collection) for e in lab.events.read(**filters)]

    every = read()
    assert read(types="seen") == [e for e in every if e[0] == "seen"]
    assert read(types=["seen", "state_updated"]) == [
        e for e in every if e[0] in ("seen", "state_updated")
    ]
    assert read(key_prefix="user:") == [e for e in every if (e[1] or "").startswith("user:")]
    assert read(key_prefix="") == [e for e in every if e[1] is not None]
    assert read(collection="docs") == [e for e in every if e[2] == "docs"]
    assert read(types={"seen"}, key_prefix="us") == [
        e for e in every if e[0] == "seen" and (e[1] or "").startswith("us")
    ]
    assert read(types=()) == []
    assert len(read(types="seen", limit=2)) == 2


@pytest.mark.parametrize(
    ("call", "word"),
    [
        (lambda e: e.read(-1), "-1"),
        (lambda e: e.read("sometime"), "'sometime'"),
        (lambda e: e.read(1.5), "1.5"),
        (lambda e: e.read(True), "True"),
        (lambda e: e.read(None), "None"),
        (lambda e: e.read(limit=0), "limit is 0"),
        (lambda e: e.read(limit="9"), "limit is '9'"),
        (lambda e: e.read(types=5), "types"),
        (lambda e: e.read(key_prefix=5), "key_prefix"),
        (lambda e: e.read(collection=5), "collection"),
        (lambda e: e.follow("sometime"), "'sometime'"),
        (lambda e: e.follow(timeout="long"), "timeout"),
        (lambda e: e.publish(""), "''"),
        (lambda e: e.publish("1st"), "'1st'"),
        (lambda e: e.publish("a b"), "'a b'"),
        (lambda e: e.publish("a\n"), r"'a\n'"),
        (lambda e: e.publish("x" * 65), "x" * 65),
        (lambda e: e.publish(5), "5"),
        (lambda e: e.publish("state_mine"), "reserved"),
        (lambda e: e.publish("vector_mine"), "reserved"),
        (lambda e: e.publish("index_mine"), "reserved"),
        (lambda e: e.publish("job_mine"), "reserved"),
        (lambda e: e.publish("gap"), "reserved"),
        (lambda e: e.publish("restored"), "reserved"),
        (lambda e: e.publish("ok", float("nan")), "nan"),
        (lambda e: e.publish("ok", {1: 1}), "1"),
        (lambda e: e.publish("ok", key=""), "empty"),
        (lambda e: e.publish("ok", key="k" * 513), "513"),
        (lambda e: e.publish("ok", key=5), "int"),
    ],
)
def test_bad_input_is_named_and_nothing_is_published(lab, call, word):
    lab.events.publish("first", key="k")
    with pytest.raises(InvalidArgument) as caught:
        call(lab.events)
    assert word in str(caught.value)
    assert lab.head == 1


def test_a_gap_tells_which_entries_retention_took(lab):
    for _ in range(10):
        lab.events.publish("n")
    lab._upkeep._retention = Retention(events=4)
    assert lab._upkeep.trim() == 6
    assert (lab.first_offset, lab.head) == (7, 10)
    gap, *rest = lab.events.read(2)
    assert (gap.type, gap.offset) == ("gap", 6)
    assert gap.data == {
        "from_offset": 3, "to_offset": 6, "dropped": 4, "exact": True, "reason": "truncated",
    }  # fmt: skip
    assert [e.offset for e in rest] == [7, 8, 9, 10]
    assert [e.offset for e in lab.events.read(6)] == [7, 8, 9, 10]
    assert [e.offset for e in lab.events.read("earliest")] == [7, 8, 9, 10]
    assert [e.type for e in lab.events.read(0, types={"none"})] == ["gap"]


def test_a_log_trimmed_to_nothing_gives_a_gap_up_to_the_head(lab):
    for _ in range(3):
        lab.events.publish("n")
    lab._upkeep._retention = Retention(events=0)
    lab._upkeep.trim()
    [gap] = lab.events.read(0)
    assert (gap.offset, gap.data["dropped"]) == (3, 3)
    assert lab.events.read(3) == []
    assert lab.events.publish("n").offset == 4
    assert [e.offset for e in lab.events.read(3)] == [4]


def test_an_offset_beyond_the_head_gives_a_gap_and_then_goes_on(lab):
    lab.events.publish("n")
    [gap] = lab.events.read(50)
    assert (gap.type, gap.offset) == ("gap", 1)
    assert gap.data == {
        "from_offset": 50, "to_offset": 1, "dropped": 0, "exact": True, "reason": "ahead",
    }  # fmt: skip
    followed = lab.events.follow(50, timeout=10)
    assert next(followed).type == "gap"
    lab.events.publish("next")
    assert next(followed).offset == 2


def test_trimming_changes_no_answer_and_no_stored_value(lab, docs):
    docs.upsert(["a", "b"], [[1, 0], [0, 1]], [{"n": 1}, {"n": 2}])
    lab.state["k"] = 1
    before = docs.search([1, 0]), docs.get_many(["a", "b"])[0].meta, dict(lab.state)
    lab._upkeep._retention = Retention(events=0)
    lab._upkeep.trim()
    docs.upsert("c", [5, 5])
    docs.delete("c")
    lab._upkeep.trim()
    assert (docs.search([1, 0]), docs.get("a").meta, dict(lab.state)) == before
    assert lab.verify().ok


def test_a_second_lab_that_slept_through_a_trim_answers_right(path):
    with Lab(path) as one, Lab(path) as two:
        docs = one.create_collection("docs", 2, "l2")
        docs.upsert("a", [1, 0])
        assert [h.id for h in two.collection("docs").search([1, 0])] == ["a"]
        with two._parts.follower._lock:  # two's follower sleeps
            docs.upsert("b", [0, 1])
            docs.delete("a")
            one._upkeep._retention = Retention(events=0)
            one._upkeep.trim()
            docs.upsert("c", [2, 2])
        assert sorted(h.id for h in two.collection("docs").search([1, 0])) == ["b", "c"]


def test_following_latest_tells_only_what_comes_after_the_call(lab):
    lab.events.publish("before")
    followed = lab.events.follow(timeout=10)
    lab.events.publish("after", 1)
    assert next(followed).type == "after"


def test_following_ends_after_idle_seconds_and_at_close(path):
    with Lab(path) as lab:
        lab.events.publish("n")
        assert [e.type for e in lab.events.follow("earliest", timeout=0)] == ["n"]
        assert [e.type for e in lab.events.follow("earliest", timeout=0.05)] == ["n"]
        assert list(lab.events.follow("earliest", types={"m"}, timeout=0.05)) == []
        seen = []
        follower = threading.Thread(
            target=lambda: seen.extend(e.type for e in lab.events.follow("earliest"))
        )
        follower.start()
        while not seen:
            time.sleep(0.01)
    follower.join(10)
    assert not follower.is_alive()
    assert seen == ["n"]


def test_followers_get_each_event_once_and_in_order_while_many_write(lab, docs):
    writers, each = 4, 60
    total = writers * each
    seen = [[] for _ in range(3)]

    def follow(into, since):
        for event in lab.events.follow(since, types={"told", "state_updated", "vector_upserted"}):
            into.append(event.offset)
            if len(into) == total:
                return

    followers = [
        threading.Thread(target=follow, args=(into, since), daemon=True)
        for into, since in zip(seen, ("earliest", lab.head, 0), strict=True)
    ]
    written = [[] for _ in range(writers)]

    def write(w):
        for i in range(each):
            if i % 3 == 0:
                written[w].append(lab.events.publish("told", [w, i]).offset)
            elif i % 3 == 1:
                written[w].append(lab.state.put(f"k{w}", i).offset)
            else:
                written[w].append(docs.upsert(f"p{w}", [w, i]).offset)

    threads = [threading.Thread(target=write, args=(w,)) for w in range(writers)]
    for thread in followers + threads:
        thread.start()
    for thread in threads:
        thread.join()
    for follower in followers:
        follower.join(30)
        assert not follower.is_alive()
    wanted = sorted(offset for offsets in written for offset in offsets)
    assert len(set(wanted)) == total
    assert all(offsets == sorted(offsets) for offsets in written)
    assert seen == [wanted] * 3


def test_a_callback_hears_of_commits_until_it_unsubscribes(lab):
    heard = threading.Event()
    unsubscribe = lab.on_commit(heard.set)
    lab.events.publish("n")
    assert heard.wait(10)
    unsubscribe()
    unsubscribe()
    heard.clear()
    lab.events.publish("n")
    lab.wait_for(2, 10)
    time.sleep(0.05)
    assert not heard.is_set()


def test_a_callback_that_fails_takes_no_other_with_it(lab, caplog):
    heard = threading.Event()

    def fail():
        raise ZeroDivisionError

    lab.on_commit(fail)
    lab.on_commit(heard.set)
    lab.events.publish("n")
    assert heard.wait(10)
    assert lab.events.publish("n").offset == 2
    assert "a subscriber failed" in caplog.text


def test_times_never_run_backwards_even_when_the_clock_does(lab, clock):
    lab.events.publish("n")
    clock.advance(-5000)
    lab.events.publish("n")
    clock.advance(9000)
    lab.events.publish("n")
    stamps = [e.ts_ms for e in lab.events.read()]
    assert stamps == sorted(stamps)


def test_events_of_one_collection_are_still_told_when_another_lost_its_vectors(path):
    with Lab(path) as lab:
        for name in ("sound", "hurt"):
            lab.create_collection(name, 2).upsert("a", [1, 2])
        hurt = lab._parts.follower.row("hurt").uid
    next((path / "collections" / str(hurt)).glob("*.f32")).unlink()
    with Lab(path) as lab:
        sound, lost = lab.events.read(types={"vector_upserted"})
        assert sound.data["vector"] == [1, 2]
        assert lost.data["vector"] is None
        assert lost.data["corrupt"] is True
        assert np.array_equal(lab.collection("sound").get("a").vector, [1, 2])
        with pytest.raises(LumaError):
            lab.collection("hurt").get("a")
