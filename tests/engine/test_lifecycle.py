"""Opening, closing, forking: a lab that is gone says so in every call, and harms nobody."""

import os
import threading
import time

import numpy as np
import pytest
from children import child

import luma_lab as luma
from luma_lab.engine import upkeep
from luma_lab.engine.lab import Lab
from luma_lab.engine.refitting import lease_of
from luma_lab.errors import LumaError, StoreClosed
from luma_lab.store import leases


def fill(lab):
    docs = lab.create_collection("docs", 2, "l2")
    docs.upsert(["a", "b"], [[1, 0], [0, 1]])
    lab.state["k"] = "value"
    return docs


def calls(lab, docs):
    """Return every public call of a lab and its parts, by name."""
    return {
        "head": lambda: lab.head,
        "first_offset": lambda: lab.first_offset,
        "epoch": lambda: lab.epoch,
        "create_collection": lambda: lab.create_collection("new", 2),
        "collection": lambda: lab.collection("docs"),
        "collections": lambda: lab.collections(),
        "drop_collection": lambda: lab.drop_collection("docs"),
        "transaction": lambda: lab.transaction().__enter__(),
        "wait_for": lambda: lab.wait_for(1, 0.1),
        "wait_beyond": lambda: lab.wait_beyond(10**9, 0.1),
        "on_commit": lambda: lab.on_commit(print),
        "job": lambda: lab.job("x"),
        "jobs": lambda: lab.jobs(),
        "verify": lambda: lab.verify(),
        "state get": lambda: lab.state.get("k"),
        "state item": lambda: lab.state.item("k"),
        "state []": lambda: lab.state["k"],
        "state in": lambda: "k" in lab.state,
        "state len": lambda: len(lab.state),
        "state iter": lambda: list(lab.state),
        "state scan": lambda: lab.state.scan(),
        "state put": lambda: lab.state.put("k", 1),
        "state delete": lambda: lab.state.delete("k"),
        "state put_each": lambda: lab.state.put_each([{"key": "k", "value": 1}]),
        "events publish": lambda: lab.events.publish("x"),
        "events read": lambda: lab.events.read(),
        "events frames": lambda: lab.events.read_frames(0),
        "events follow latest": lambda: lab.events.follow("latest", timeout=0.1),
        "dim": lambda: docs.dim,
        "metric": lambda: docs.metric,
        "upsert": lambda: docs.upsert("a", [0, 0]),
        "add": lambda: docs.add("z", [0, 0]),
        "update": lambda: docs.update("a", [0, 0]),
        "delete": lambda: docs.delete("a"),
        "write_each": lambda: docs.write_each("upsert", [("a", [0, 0], None)]),
        "get": lambda: docs.get("a"),
        "get_many": lambda: docs.get_many(["a"]),
        "scroll": lambda: docs.scroll(),
        "contains": lambda: "a" in docs,
        "len": lambda: len(docs),
        "info": lambda: docs.info(),
        "search": lambda: docs.search([1, 0]),
        "search_many": lambda: docs.search_many([[1, 0]]),
        "snapshot": lambda: docs.snapshot(),
        "build_index": lambda: docs.build_index("vamana").result(60),
        "tune_index": lambda: docs.tune_index(search_list_size=99),
        "drop_index": lambda: docs.drop_index(),
        "index_status": lambda: docs.index_status(),
    }


def not_refused(lab, docs):
    """Return the names of the calls that do anything but raise StoreClosed."""
    wrong = {}
    for name, call in calls(lab, docs).items():
        try:
            wrong[name] = repr(call())
        except StoreClosed as error:
            if "open it again" not in str(error):
                wrong[name] = str(error)
        except BaseException as error:
            wrong[name] = repr(error)
    return wrong


def test_every_call_after_close_says_that_the_lab_is_closed(path):
    lab = Lab(path)
    docs = fill(lab)
    docs.search([1, 0])
    lab.close()
    lab.close()
    assert not_refused(lab, docs) == {}
    assert "closed" in repr(lab)
    with Lab(path) as again:
        assert again.state["k"] == "value"
        assert len(again.collection("docs")) == 2


def test_every_call_in_a_forked_child_is_refused_and_the_parent_goes_on(path):
    with Lab(path) as lab:
        docs = fill(lab)
        docs.search([1, 0])
        head = lab.head
        read, write = os.pipe()
        pid = os.fork()
        if pid == 0:
            status = b"crashed"
            try:
                wrong = not_refused(lab, docs)
                repr(lab)
                lab.close()
                with Lab(path) as own:
                    own.state["child"] = own.collection("docs").search([1, 0])[0].id
                status = repr(wrong).encode()
            except BaseException as error:
                status = repr(error).encode()
            finally:
                os.write(write, status)
                os._exit(0)
        os.close(write)
        with os.fdopen(read, "rb") as pipe:
            answer = pipe.read()
        os.waitpid(pid, 0)
        assert answer == b"{}"
        assert lab.state["child"] == "a"
        assert lab.head == head + 1
        docs.upsert("c", [5, 5])
        assert [h.id for h in docs.search([5, 5], k=1)] == ["c"]
        assert lab.verify().ok


def test_a_fork_inside_a_transaction_leaves_it_to_the_parent(path):
    with Lab(path) as lab:
        docs = fill(lab)
        with lab.transaction(timeout_ms=60_000) as tx:
            tx.state["k"] = "parent"
            inside = tx.collection("docs")
            pid = os.fork()
            if pid == 0:
                refused = 0
                for call in (
                    lambda: tx.state.put("k", "child"),
                    lambda: tx.state.get("k"),
                    lambda: inside.upsert("x", [1, 1]),
                    lambda: tx.__exit__(None, None, None),
                ):
                    try:
                        call()
                    except StoreClosed:
                        refused += 1
                os._exit(refused)
            _, status = os.waitpid(pid, 0)
            assert os.waitstatus_to_exitcode(status) == 4
            inside.upsert("y", [2, 2])
        assert lab.state["k"] == "parent"
        assert sorted(p.id for p in docs.scroll()[0]) == ["a", "b", "y"]
        assert lab.verify().ok


def test_a_forked_child_that_ends_does_not_take_the_lab_in_memory_with_it():
    script = (
        "import os, sys, luma_lab as luma\n"
        "lab = luma.open(':memory:')\n"
        "lab.state['k'] = 1\n"
        "child = os.fork()\n"
        "if child == 0:\n"
        "    sys.exit(0)\n"
        "os.waitpid(child, 0)\n"
        "assert lab.path.exists(), 'gone'\n"
        "lab.create_collection('c', 2).upsert('a', [1, 2])\n"
        "path = lab.path\n"
        "assert lab.collection('c').search([1, 2])[0].id == 'a'\n"
        "del lab\n"
        "print(path)\n"
    )
    with child(script) as process:
        path = process.stdout.read().strip()
        assert process.wait(60) == 0
    assert path
    assert not os.path.exists(path), "a lab in memory was left behind"


def test_what_is_queued_when_the_lab_closes_is_finished_or_refused_never_left_hanging(path):
    for _ in range(5):
        lab = Lab(path)
        docs = lab.collection("docs") if lab.collections() else fill(lab)
        ends = []
        kept = [0]

        def write(lab=lab, ends=ends, kept=kept):
            try:
                while True:
                    lab.state.put("n", kept[-1] + 1)
                    kept.append(kept[-1] + 1)
            except Exception as error:
                ends.append(error)

        def read(call, ends=ends):
            try:
                while True:
                    call()
            except Exception as error:
                ends.append(error)

        threads = [threading.Thread(target=write, daemon=True)]
        for call in (
            lambda lab=lab: list(lab.state),
            lambda lab=lab: lab.events.read(limit=20),
            lambda docs=docs: docs.search([1, 0]),
            lambda docs=docs: docs.scroll(),
            lambda docs=docs: docs.snapshot(),
        ):
            threads.append(threading.Thread(target=read, args=(call,), daemon=True))
        for thread in threads:
            thread.start()
        time.sleep(0.05)
        lab.close()
        for thread in threads:
            thread.join(30)
        assert not any(thread.is_alive() for thread in threads)
        assert [type(e) for e in ends] == [StoreClosed] * len(threads), ends
        with Lab(path) as again:
            assert again.state["n"] >= kept[-1]


def test_a_lab_in_memory_leaves_nothing_behind():
    with luma.open(":memory:") as lab:
        fill(lab)
        path = lab.path
        assert path.is_dir()
    assert not path.exists()


def test_everything_is_there_after_reopening(path):
    vectors = np.random.default_rng(0).normal(size=(1500, 3)).astype(np.float32)
    with Lab(path) as lab:
        docs = lab.create_collection("docs", 3, "l2")
        docs.upsert([str(i) for i in range(1500)], vectors, list(range(1500)))
        docs.delete([str(i) for i in range(0, 1500, 7)])
        docs.upsert("x", [9, 9, 9], {"k": [1]})
        lab.state["k"] = {"deep": [1, 2]}
        lab.events.publish("told", 5)
        before = (
            docs.search(vectors[3], k=50), docs.info(), dict(lab.state), lab.events.read(limit=9999)
        )  # fmt: skip
    with Lab(path) as lab:
        docs = lab.collection("docs")
        after = (
            docs.search(vectors[3], k=50), docs.info(), dict(lab.state), lab.events.read(limit=9999)
        )  # fmt: skip
        assert after == before
        assert lab.verify().ok


def test_what_a_dead_process_had_under_lease_is_removed_once_the_lease_is_over(
    path, clock, monkeypatch
):
    monkeypatch.setattr(upkeep, "ORPHANS_AFTER_SECS", 3600.0)
    with Lab(path, clock=clock) as lab:
        fill(lab)
        uid = lab._parts.follower.row("docs").uid

        def die(unit):
            leases.take(unit.connection, f"build:{uid}", "dead", unit.now_ms)
            leases.take(unit.connection, lease_of(uid), "dead", unit.now_ms)

        lab._parts.writer.run(die)
    home = path / "collections" / str(uid)
    left = [home / "index" / "vamana-99", home / "embedder-99", home / "vectors-99.f32"]
    for directory in left[:2]:
        directory.mkdir(parents=True)
        (directory / "part.npy").write_bytes(b"half")
    left[2].write_bytes(b"half")
    with Lab(path, clock=clock) as lab:
        assert all(file.exists() for file in left)
        clock.advance(leases.LEASE_MS + 1)
        monkeypatch.setattr(upkeep, "ORPHANS_AFTER_SECS", 0.0)
        limit = time.monotonic() + 20
        while any(file.exists() for file in left) and time.monotonic() < limit:
            time.sleep(0.01)
        assert not any(file.exists() for file in left)
        assert [hit.id for hit in lab.collection("docs").search([0, 1], k=2)] == ["b", "a"]
        assert lab.verify().ok


def test_opening_what_is_no_lab_raises_an_error_of_ours(tmp_path):
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(LumaError, match=r"thesis\.txt"):
        luma.open(tmp_path)


def test_two_threads_may_close_at_once(path):
    lab = Lab(path)
    threads = [threading.Thread(target=lab.close) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert not any(t.is_alive() for t in threads)


def test_a_cancelled_future_takes_no_neighbour_with_it(lab):
    with lab.transaction() as tx:
        futures = _submit_elsewhere(lab, 5)
        assert futures[2].cancel()
        tx.events.publish("first")
    assert [f.result(10) for f in futures if not f.cancelled()] == [2, 3, 4, 5]
    assert [e.data for e in lab.events.read(types="n")] == [0, 1, 3, 4]
    assert lab.events.publish("alive").offset == 6


def _submit_elsewhere(lab, count):
    futures = []

    def submit():
        for i in range(count):
            futures.append(
                lab._parts.writer.submit(lambda unit, i=i: unit.append("n", data=b"%d" % i))
            )

    thread = threading.Thread(target=submit)
    thread.start()
    thread.join()
    return futures
