"""A full disk: the write is refused, nothing of it is kept, and the lab goes on afterwards."""

import threading
import time

import numpy as np
import pytest
from disk_doubles import FullDisk

from luma_lab.engine.lab import Lab
from luma_lab.errors import InvalidArgument, StorageError, StoreFull

VECTORS = np.random.default_rng(0).normal(size=(5000, 8)).astype(np.float32)


def contents(lab):
    docs = lab.collection("docs")
    points, _ = docs.scroll(limit=6000)
    return {p.id: (p.vector.tolist(), p.meta) for p in points}, dict(lab.state), lab.head


def limit_pages(lab, more):
    """Let the database grow by `more` pages only; return what lifts the limit."""
    connection = lab._parts.writer.connection
    pages = connection.pragma("page_count")
    connection.pragma("max_page_count", pages + more)
    return lambda: connection.pragma("max_page_count", 1 << 30)


def in_one_group(lab, calls):
    """Run writes in threads of their own so that all of them land in one commit."""
    writer = lab._parts.writer
    threads = [threading.Thread(target=call) for call in calls]
    with writer._lock:
        writer.submit(lambda unit: None)
        while writer._queue.qsize():  # the writer took it and now waits for the lock
            time.sleep(0.001)
        for thread in threads:
            thread.start()
        while writer._queue.qsize() < len(threads):
            time.sleep(0.001)
    for thread in threads:
        thread.join(60)


@pytest.mark.parametrize("good", range(4))
def test_an_upsert_that_meets_a_full_disk_at_any_call_leaves_nothing(path, good):
    disk = FullDisk()
    with Lab(path, disk=disk) as lab:
        docs = lab.create_collection("docs", 8, "l2")
        docs.upsert(["a", "b"], VECTORS[:2])
        before = contents(lab)
        ids = [f"p{i}" for i in range(4990)]
        disk.good, disk.writes = good, 0
        try:
            docs.upsert(ids, VECTORS[:4990])
        except StoreFull as error:
            assert "nothing was kept" in str(error)
            assert contents(lab) == before
        else:
            assert disk.writes <= good
            assert len(docs) == 4992
        disk.good = None
        assert docs.search(VECTORS[0], k=1)[0].score == 0
        docs.upsert(ids, VECTORS[:4990])
        lab.state["k"] = 1
        assert len(docs) == 4992
        assert docs.get("p77").vector.tobytes() == VECTORS[77].tobytes()
        assert lab.verify().ok
    with Lab(path) as lab:
        assert len(lab.collection("docs")) == 4992
        assert lab.verify().ok


def test_the_upsert_above_makes_three_calls_that_can_fail(path):
    disk = FullDisk()
    with Lab(path, disk=disk) as lab:
        docs = lab.create_collection("docs", 8)
        docs.upsert(["a", "b"], VECTORS[:2])
        disk.writes = 0
        docs.upsert([f"p{i}" for i in range(4990)], VECTORS[:4990])
        assert disk.writes == 3  # extend, write, sync


@pytest.mark.parametrize("more", [0, 1, 2, 3, 5, 8])
def test_a_database_that_can_not_grow_refuses_by_name_and_recovers(path, more):
    with Lab(path) as lab:
        docs = lab.create_collection("docs", 8, "l2")
        docs.upsert("a", VECTORS[0], {"text": "x"})
        lab.state["k"] = "small"
        before = contents(lab)
        lift = limit_pages(lab, more)
        big = "x" * 60_000
        for write in (
            lambda: lab.state.put("big", big),
            lambda: docs.upsert("b", VECTORS[1], {"text": big}),
            lambda: lab.events.publish("big", big),
            lambda: docs.upsert([f"p{i}" for i in range(1000)], VECTORS[:1000]),
        ):
            with pytest.raises(StoreFull, match=r"no space left for .*luma\.db"):
                write()
            assert contents(lab) == before
        assert lab.state["k"] == "small"
        assert docs.search(VECTORS[0], k=1)[0].id == "a"
        lift()
        lab.state["big"] = big
        docs.upsert([f"p{i}" for i in range(1000)], VECTORS[:1000])
        assert len(docs) == 1001
        assert lab.verify().ok


def test_in_a_group_of_writes_only_the_one_that_does_not_fit_fails(path):
    with Lab(path) as lab:
        docs = lab.create_collection("docs", 8, "l2")
        lab.state["k"] = 0
        results = {}

        def put(name, call):
            try:
                results[name] = call()
            except Exception as error:
                results[name] = error

        writes = {f"n{i}": (lambda i=i: lab.state.put(f"n{i}", i)) for i in range(6)}
        writes["big"] = lambda: lab.state.put("big", "x" * 400_000)
        writes["point"] = lambda: docs.upsert("a", VECTORS[0])
        writes["bad"] = lambda: lab.state.put("k", 1, if_revision=99)
        writes["event"] = lambda: lab.events.publish("told")
        lift = limit_pages(lab, 40)
        in_one_group(lab, [lambda item=item: put(*item) for item in writes.items()])
        failed = {name for name, result in results.items() if isinstance(result, Exception)}
        assert failed == {"big", "bad"}
        assert isinstance(results["big"], StoreFull)
        assert dict(lab.state) == {"k": 0, **{f"n{i}": i for i in range(6)}}
        assert docs.get("a").vector.tobytes() == VECTORS[0].tobytes()
        offsets = sorted(r.offset for name, r in results.items() if name not in failed)
        assert offsets == list(range(3, 11))
        assert [e.offset for e in lab.events.read()] == list(range(1, 11))
        lift()
        lab.state["big"] = "x" * 400_000
        assert lab.verify().ok


def test_a_group_whose_sync_fails_once_is_tried_again_one_by_one(path):
    disk = FullDisk()
    with Lab(path, disk=disk) as lab:
        docs = lab.create_collection("docs", 8, "l2")
        docs.upsert("first", VECTORS[0])
        real, calls = disk.sync, []

        def sync(descriptor):
            calls.append(descriptor)
            if len(calls) == 1:
                raise StorageError("Input/output error: matrix")
            real(descriptor)

        disk.sync = sync
        futures = []
        in_one_group(
            lab,
            [lambda i=i: futures.append(docs.upsert(f"p{i}", VECTORS[i])) for i in range(5)],
        )
        assert (len(futures), len(calls)) == (5, 6)
        for i in range(5):
            assert docs.get(f"p{i}").vector.tobytes() == VECTORS[i].tobytes()
        assert lab.verify().ok


def test_a_sync_that_fails_refuses_a_lonely_write(path):
    disk = FullDisk()
    with Lab(path, disk=disk) as lab:
        docs = lab.create_collection("docs", 8, "l2")
        docs.upsert("first", VECTORS[0])
        before = contents(lab)

        def sync(descriptor):
            raise StorageError("Input/output error: matrix")

        disk.sync = sync
        with pytest.raises(StorageError, match="Input/output error"):
            docs.upsert("second", VECTORS[1])
        assert contents(lab) == before
        with pytest.raises(StorageError), lab.transaction() as tx:
            tx.state["k"] = 1
            tx.collection("docs").upsert("second", VECTORS[1])
        assert contents(lab) == before
        del disk.sync
        docs.upsert("second", VECTORS[1])
        assert lab.verify().ok


@pytest.mark.parametrize("more", [0, 2, 6])
def test_a_transaction_that_meets_a_full_disk_is_undone_whole_even_if_it_looks_away(path, more):
    with Lab(path) as lab:
        docs = lab.create_collection("docs", 8, "l2")
        lab.state["k"] = "before"
        before = contents(lab)
        lift = limit_pages(lab, more)
        with pytest.raises(StoreFull), lab.transaction() as tx:
            tx.state["k"] = "inside"
            tx.collection("docs").upsert([f"p{i}" for i in range(1500)], VECTORS[:1500])
        assert contents(lab) == before
        # caught inside: what did not fit leaves no trace, the rest is kept whole or not at all
        kept = False
        try:
            with lab.transaction() as tx:
                tx.state["k"] = "inside"
                with pytest.raises(StoreFull):
                    tx.state["big"] = "x" * 300_000
                tx.state["j"] = "later"
            kept = True
        except (StorageError, InvalidArgument):
            pass
        after = contents(lab)
        if kept:
            assert after == ({}, {"k": "inside", "j": "later"}, before[2] + 2)
        else:
            assert after == before
        lift()
        docs.upsert("a", VECTORS[0])
        lab.state["big"] = "x" * 300_000
        assert [e.offset for e in lab.events.read()] == list(range(1, lab.head + 1))
        assert lab.verify().ok


def test_an_index_that_does_not_fit_on_disk_fails_its_job_and_leaves_no_folder(path):
    with Lab(path) as lab:
        docs = lab.create_collection("docs", 8, "l2")
        docs.upsert([f"p{i}" for i in range(100)], VECTORS[:100])
        from luma_lab.index import VamanaIndex

        def save(index, path, **options):
            (path / "part").write_bytes(b"half")
            raise StoreFull("no space left writing part: free some and try again")

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(VamanaIndex, "save", save)
            job = docs.build_index("vamana", max_degree=8, build_list_size=16)
            with pytest.raises(StoreFull):
                job.result(60)
        assert list(path.glob("collections/*/index/*")) == []
        assert docs.index_status()["kind"] == "flat"
        assert docs.search(VECTORS[3], k=1)[0].id == "p3"
        docs.build_index("vamana", max_degree=8, build_list_size=16).result(60)


def test_a_collection_whose_first_write_met_a_full_disk_is_usable_later(path):
    disk = FullDisk(good=0)
    with Lab(path, disk=disk) as lab:
        docs = lab.create_collection("docs", 8, "l2")
        with pytest.raises(StoreFull):
            docs.upsert("a", VECTORS[0])
        assert (len(docs), docs.search(VECTORS[0]), docs.get("a")) == (0, [], None)
    with Lab(path) as lab:
        docs = lab.collection("docs")
        docs.upsert("a", VECTORS[0])
        assert docs.search(VECTORS[0])[0].id == "a"
        assert lab.verify().ok
