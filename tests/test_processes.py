"""Several processes on one directory: no lock errors, one order, each sees the others at once."""

import threading
import time

import numpy as np
import pytest
from children import child, tell

from luma_lab.engine.lab import Lab
from luma_lab.errors import WaitTimeout

# Writes points, state and events under its own name, and transactions that count together.
WRITER = """
import sys, luma_lab as luma
path, name, count = sys.argv[1], sys.argv[2], int(sys.argv[3])
with luma.open(path) as lab:
    docs = lab.collection("docs")
    print("ready", flush=True)
    sys.stdin.readline()
    for i in range(count):
        kind = i % 4
        if kind == 0:
            lab.state[f"{name}{i}"] = i
        elif kind == 1:
            docs.upsert(f"{name}{i}", [i, len(name)])
        elif kind == 2:
            lab.events.publish("told", [name, i])
        else:
            with lab.transaction(timeout_ms=60_000) as tx:
                tx.state["n"] = tx.state["n"] + 1
    print("done", flush=True)
    sys.stdin.readline()
    print(len(docs), len(lab.state), lab.state["n"], lab.head, flush=True)
"""


def write_at_once(path, count):
    with Lab(path) as lab:
        docs = lab.create_collection("docs", 2, "l2")
        lab.state["n"] = 0
        start = lab.head
        followed = lab.events.follow(start, timeout=60)
        with child(WRITER, path, "a", count) as one, child(WRITER, path, "b", count) as two:
            assert [one.stdout.readline(), two.stdout.readline()] == ["ready\n", "ready\n"]
            for writer in (one, two):
                writer.stdin.write("go\n")
                writer.stdin.flush()
            offsets = [next(followed).offset for _ in range(2 * count)]
            assert [one.stdout.readline(), two.stdout.readline()] == ["done\n", "done\n"]
            quarter = count // 4
            seen = f"{2 * quarter} {2 * quarter + 1} {2 * quarter} {start + 2 * count}"
            assert tell(one, "look") == tell(two, "look") == seen
        assert offsets == list(range(start + 1, start + 2 * count + 1))
        assert (len(docs), lab.state["n"], lab.head) == (2 * quarter, 2 * quarter, offsets[-1])
        for name in ("a", "b"):
            told = [e.data for e in lab.events.read(types="told", limit=10**6)]
            assert [d for d in told if d[0] == name] == [[name, i] for i in range(2, count, 4)]
            for i in range(0, count, 4):
                assert lab.state[f"{name}{i}"] == i
        found = docs.search([0, 0], k=10**6)
        assert {h.id for h in found} == {f"{n}{i}" for n in "ab" for i in range(1, count, 4)}
        assert lab.verify().ok


@pytest.mark.timeout(120)
def test_two_processes_that_write_at_once_both_see_all_of_it(path):
    write_at_once(path, 300)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_two_processes_that_write_two_thousand_times_each_both_see_all_of_it(path):
    write_at_once(path, 2000)


def test_a_second_lab_sees_a_write_in_its_next_call(path):
    with Lab(path) as one, Lab(path) as two:
        here = one.create_collection("docs", 2, "l2")
        there = two.collection("docs")
        for n in range(60):
            offset = here.upsert("a", [n, n], {"n": n}).offset
            assert there.search([n, n], k=1)[0].meta == {"n": n}
            assert there.get("a").vector.tolist() == [n, n]
            assert there.info().live_count == len(there) == 1
            assert two.head == offset
            one.state["k"] = n
            assert two.state["k"] == n
            assert two.events.read(two.head - 1)[0].data["value"] == n
            two.state["k"] = -n
            assert one.state["k"] == -n
        here.delete("a")
        assert there.search([0, 0]) == []
        two.drop_collection("docs")
        assert one.collections() == []


def test_a_search_waits_for_the_offset_it_is_told(path):
    with Lab(path) as one, Lab(path) as two:
        here = one.create_collection("docs", 2, "l2")
        there = two.collection("docs")
        wanted = one.head + 1
        timer = threading.Timer(0.2, here.upsert, args=("a", [1, 1]))
        timer.start()
        assert [h.id for h in there.search([1, 1], min_offset=wanted)] == ["a"]
        timer.join()
        two.wait_for(wanted, 0)
        with pytest.raises(WaitTimeout, match=f"offset {wanted + 1}"):
            two.wait_for(wanted + 1, 0.05)
        assert two.wait_beyond(wanted, 0.05) is False
        assert two.wait_beyond(wanted - 1, 0.05) is True


ECHO = """
import sys, luma_lab as luma
lab = luma.open(sys.argv[1])
print("ready", flush=True)
for line in sys.stdin:
    print(lab.events.publish("ping", line.strip()).offset, flush=True)
"""


def test_events_of_another_process_reach_a_follower_that_waits(path):
    with Lab(path) as lab, child(ECHO, path) as other:
        assert other.stdout.readline() == "ready\n"
        followed = lab.events.follow("latest", types="ping", timeout=60)
        for n in range(20):
            offset = int(tell(other, n))
            event = next(followed)
            assert (event.offset, event.data) == (offset, str(n))


def test_a_follower_hears_of_another_process_within_a_second(path):
    # The time-out is the promise: a follower idle for a second would end.
    with Lab(path) as lab, child(ECHO, path) as other:
        assert other.stdout.readline() == "ready\n"
        for n in range(5):
            followed = lab.events.follow("latest", types="ping", timeout=1.0)
            offset = int(tell(other, n))
            assert [event.offset for event in _first(followed)] == [offset]


def _first(followed):
    for event in followed:
        return [event]
    return []


BUILDER = """
import sys, luma_lab as luma
with luma.open(sys.argv[1]) as lab:
    docs = lab.collection("docs")
    print("ready", flush=True)
    for line in sys.stdin:
        if line.startswith("build"):
            job = docs.build_index("vamana", max_degree=8, build_list_size=16)
            print(job.result(120)["fingerprint"], flush=True)
        else:
            docs.drop_index()
            print("dropped", flush=True)
"""


def test_an_index_built_or_dropped_by_another_process_is_used_or_left_at_once(path):
    vectors = np.random.default_rng(0).normal(size=(200, 4)).astype(np.float32)
    with Lab(path) as lab:
        docs = lab.create_collection("docs", 4, "l2")
        docs.upsert([str(i) for i in range(200)], vectors)
        docs.search(vectors[0])
        with child(BUILDER, path) as other:
            assert other.stdout.readline() == "ready\n"
            for turn in range(3):
                built = tell(other, "build")
                receipt = docs.search(vectors[0], explain=True).receipt
                assert (receipt["strategy"], receipt["fingerprint"]) == ("walk", built)
                assert docs.search(vectors[7], k=1)[0].id == "7"
                assert tell(other, "drop") == "dropped"
                assert docs.search(vectors[0], explain=True).receipt["strategy"] == "exact"
                docs.upsert(str(turn), vectors[turn])
        assert lab.jobs() == []


def test_a_killed_process_leaves_no_lock_behind(path):
    with Lab(path) as lab:
        lab.state["k"] = 0
        hold = (
            "import sys, time, luma_lab as luma\n"
            "lab = luma.open(sys.argv[1])\n"
            "with lab.transaction(timeout_ms=600000) as tx:\n"
            "    tx.state['k'] = 'never'\n"
            "    print('holding', flush=True)\n"
            "    time.sleep(600)\n"
        )
        with child(hold, path) as other:
            assert other.stdout.readline() == "holding\n"
            waiting = threading.Thread(target=lab.state.put, args=("j", 1))
            waiting.start()
            time.sleep(0.1)
            assert waiting.is_alive()
            assert lab.state["k"] == 0  # readers do not wait
        waiting.join(30)
        assert not waiting.is_alive()
        assert dict(lab.state) == {"k": 0, "j": 1}
