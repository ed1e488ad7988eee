"""Compaction: dead rows go, nothing else does, whoever reads, writes or dies meanwhile."""

import json
import threading

import apsw
import numpy as np
import pytest
from children import child
from disk_doubles import FullDisk

from luma_lab.engine import builds, compaction
from luma_lab.engine.lab import Lab
from luma_lab.errors import (
    Cancelled,
    CollectionNotFound,
    Conflict,
    CorruptStore,
    LeaseHeld,
    LumaError,
    StoreFull,
)
from luma_lab.store import catalog, moving

DIM = 20
PARAMS = {
    "vamana": {"max_degree": 8, "build_list_size": 16},
    "ivf": {"nlist": 8, "nprobe": 8},
    "diskann": {"max_degree": 8, "build_list_size": 16},
}


def vectors(count, seed=0):
    return np.random.default_rng(seed).normal(size=(count, DIM)).astype(np.float32)


def fill(lab, count=400, name="docs", **options):
    docs = lab.create_collection(name, DIM, "l2", **options)
    docs.upsert([f"p{i}" for i in range(count)], vectors(count), [{"n": i} for i in range(count)])
    return docs


def thin(docs, count=400):
    """Let every second point die, by deletes and by updates; return what lives."""
    docs.delete([f"p{i}" for i in range(0, count, 4)])
    moved = range(2, count, 4)
    docs.upsert([f"p{i}" for i in moved], vectors(count, 1)[list(moved)], [{"m": i} for i in moved])
    return everything(docs)


def everything(docs):
    page, after = docs.scroll(limit=10_000)
    assert after is None
    return {p.id: (p.vector.tolist(), p.meta) for p in page}


def files(lab):
    [home] = lab.path.glob("collections/*")
    return sorted(p.name for p in home.iterdir() if p.name != "index")


def indexes(lab):
    return sorted(p.name for p in lab.path.glob("collections/*/index/*"))


def row_of(docs):
    return catalog.require(docs._parts.database.reader(), docs.name)


def check(lab, docs, points):
    """Everything a lab shows of a collection agrees with a dict, by every way of asking."""
    assert everything(docs) == points
    assert len(docs) == len(points) == docs.count()
    queries = vectors(5, seed=9)
    ids = list(points)
    rows = np.array([points[id][0] for id in ids], np.float32).reshape(-1, DIM)
    for query in queries:
        scores = -((rows - query) ** 2).sum(axis=1)
        wanted = sorted(scores, reverse=True)[:7]
        for hits in (
            docs.search(query, k=7, exact=True),
            docs.search(query, k=7, exact=True, filter="n >= 0 OR m >= 0"),
        ):
            assert np.allclose([h.score for h in hits], wanted, rtol=1e-4)
            assert all(h.meta == points[h.id][1] for h in hits)
    found = docs.search(queries[0], k=len(points) + 5, search_list_size=2000, nprobe=100)
    assert {h.id for h in found} == points.keys()
    assert {p.id for p in docs.get_many(ids[:20])} == set(ids[:20])
    report = lab.verify()
    assert report.ok, report


def test_dead_rows_go_and_every_point_stays(lab):
    docs = fill(lab)
    points = thin(docs)
    before = docs.info()
    assert (before.total_rows, before.deleted_count) == (500, 200)
    result = docs.compact().result(60)
    assert (result["rows_before"], result["rows"], result["generation"]) == (500, 300, 1)
    info = docs.info()
    assert (info.total_rows, info.deleted_count, info.live_count) == (300, 0, 300)
    assert info.upsert_count == before.upsert_count
    assert files(lab) == ["moved-1.npy", "vectors-1.f32"]
    [event] = lab.events.read(types="vector_collection_compacted")
    assert event.data == {
        "collection": "docs", "generation": 1, "rows_before": 500, "rows": 300}  # fmt: skip
    check(lab, docs, points)
    # and it goes on: what comes and dies after lands in the new file, and can go again
    docs.upsert(["new"], vectors(1, 7), [{"n": 0}])
    docs.delete("p1")
    points = everything(docs)
    assert docs.compact().result(60)["generation"] == 2
    assert files(lab) == ["moved-2.npy", "vectors-2.f32"]
    check(lab, docs, points)


def test_space_is_given_back(lab):
    docs = lab.create_collection("docs", 512, "l2")
    docs.upsert(list(range(2000)), np.ones((2000, 512)))
    docs.delete(list(range(1900)))
    freed = docs.compact().result(60)["bytes_freed"]
    assert freed > 1900 * 512 * 4 * 0.9
    assert docs.info().file_bytes < 200 * 512 * 4


def test_without_dead_rows_nothing_is_done(lab):
    docs = fill(lab, 10)
    head = lab.head
    result = docs.compact().result(60)
    assert (result["rows"], result["generation"], result["index"]) == (10, 0, None)
    assert files(lab) == ["vectors-0.f32"]
    assert lab.events.read(head, types="vector_collection_compacted") == []


def test_a_collection_of_which_everything_died_is_empty_and_can_be_filled_again(lab):
    docs = fill(lab, 300)
    docs.build_index("vamana", **PARAMS["vamana"]).result(60)
    docs.delete([f"p{i}" for i in range(300)])
    assert docs.compact().result(60)["rows"] == 0
    assert docs.search(vectors(1)[0]) == []
    assert (indexes(lab), docs.index_status()["kind"]) == ([], "flat")
    docs.upsert("a", vectors(1)[0], {"n": 1})
    check(lab, docs, everything(docs))


def test_the_map_tells_where_each_row_went(lab):
    docs = fill(lab, 100)
    docs.delete([f"p{i}" for i in range(0, 100, 3)])
    old = docs._parts.follower.snapshot("docs")
    docs.compact().result(60)
    moved = compaction.read_moved(docs._parts, row_of(docs))
    new = docs._parts.follower.snapshot("docs")
    assert np.array_equal(moved >= 0, old.live)
    assert np.array_equal(new.vectors[moved[old.live]], old.vectors[old.live])
    (lab.path / "collections" / "1" / "moved-1.npy").write_bytes(b"x")
    assert compaction.read_moved(docs._parts, row_of(docs)) is None


@pytest.mark.parametrize("kind", ["vamana", "ivf", "diskann"])
def test_an_index_goes_along(lab, kind):
    docs = fill(lab, 600)
    docs.build_index(kind, **PARAMS[kind]).result(120)
    docs.upsert([f"t{i}" for i in range(50)], vectors(50, 2), [{"n": 1}] * 50)
    points = thin(docs, 600)
    [old] = indexes(lab)
    result = docs.compact().result(120)
    assert result["index"] == ("rebuilt" if kind == "diskann" else "rewritten")
    [new] = indexes(lab)
    assert new != old
    status = docs.index_status()
    assert (status["kind"], status["available"]) == (kind, True)
    assert (status["points"], status["indexed_points"]) == (500, 300)
    check(lab, docs, points)
    ids = list(points)
    queries = np.array([points[id][0] for id in ids], np.float32)
    found = docs.search_many(queries, k=1, search_list_size=64)
    assert np.mean([hits[0].id == id for hits, id in zip(found, ids, strict=True)]) > 0.98
    with Lab(lab.path) as other:  # and the directory holds what the memory held
        assert other.collection("docs").index_status()["fingerprint"] == status["fingerprint"]
        assert other.jobs() == []


def test_an_index_with_most_rows_gone_is_built_anew(lab):
    docs = fill(lab, 600)
    docs.build_index("vamana", **PARAMS["vamana"]).result(120)
    docs.delete([f"p{i}" for i in range(400)])
    assert docs.compact().result(120)["index"] == "rebuilt"
    check(lab, docs, everything(docs))


class Pause:
    """Stops a compaction in a phase until it is told to go on."""

    def __init__(self, monkeypatch, phase):
        self.reached, self.go = threading.Event(), threading.Event()
        original = getattr(compaction._Compaction, phase)

        def wait(made, *args):
            self.reached.set()
            assert self.go.wait(60)
            return original(made, *args)

        monkeypatch.setattr(compaction._Compaction, phase, wait)


@pytest.mark.parametrize("phase", ["_check_source", "_renew_index", "_switch", "_finish"])
@pytest.mark.parametrize("few", [1, 10_000])
def test_writes_and_searches_go_on_in_every_phase(lab, monkeypatch, phase, few):
    monkeypatch.setattr(compaction, "FEW_BEHIND", few)
    docs = fill(lab)
    docs.build_index("vamana", **PARAMS["vamana"]).result(60)
    points = thin(docs)
    held = docs._parts.follower.snapshot("docs")
    vectors_before, live_before = held.vectors.copy(), held.live.copy()
    pause = Pause(monkeypatch, phase)
    job = docs.compact()
    assert pause.reached.wait(60)
    if phase == "_switch":  # inside the write transaction writes wait
        written = threading.Thread(target=lambda: docs.upsert("late", vectors(1, 5)[0], {"n": 5}))
        written.start()
        assert everything(docs) == points
        assert docs.search(vectors(1)[0], k=3) == docs.search(vectors(1)[0], k=3)
        pause.go.set()
        written.join()
    else:
        docs.upsert([f"late{i}" for i in range(30)], vectors(30, 5), [{"n": 5}] * 30)
        docs.upsert("p1", vectors(1, 6)[0], {"n": 6})
        docs.update("p3", metas={"n": "three"})
        docs.delete(["p5", "p7", "late3"])
        docs.upsert("p5", vectors(1, 8)[0], {"n": 8})
        assert docs.search(vectors(1, 6)[0], k=1)[0].id == "p1"
        docs.update("p3", metas={"n": 33})
        pause.go.set()
    points = everything(docs)
    job.result(60)
    assert np.array_equal(held.vectors, vectors_before)
    assert np.array_equal(held.live, live_before)
    check(lab, docs, points)


def test_frames_of_rows_that_were_compacted_away_say_so(lab):
    docs = fill(lab, 3)
    docs.upsert("p0", vectors(1, 4)[0], {"n": 0})
    docs.compact().result(60)
    docs.upsert("p9", vectors(1, 5)[0])
    told = [e.data for e in lab.events.read(types={"vector_upserted"})]
    assert [d["vector"] for d in told[:-1]] == [None] * 4
    assert all(d["superseded"] for d in told[:-1])
    assert "superseded" not in told[-1]
    assert np.allclose(told[-1]["vector"], vectors(1, 5)[0])


def test_two_labs_on_one_directory_see_one_compaction(path):
    with Lab(path) as one, Lab(path) as two:
        docs = fill(one)
        other = two.collection("docs")
        held = two._parts.follower.snapshot("docs")
        before = held.vectors.copy()
        points = thin(docs)
        assert other.compact().result(60)["rows"] == 300
        assert np.array_equal(held.vectors, before)
        check(one, docs, points)
        check(two, other, points)
        docs.upsert("x", vectors(1, 3)[0], {"n": 1})
        other.upsert("y", vectors(1, 4)[0], {"n": 1})
        assert everything(docs) == everything(other)
        assert one.verify().ok


def test_a_read_that_began_before_another_process_compacted_is_begun_again(path, monkeypatch):
    with Lab(path) as one, Lab(path) as two:
        docs = fill(one)
        points = thin(docs)
        other = two.collection("docs")
        checked = two._parts.matrices.checked

        def compact_first(connection, row):
            if row.generation == 0:
                docs.compact().result(60)
            return checked(connection, row)

        monkeypatch.setattr(two._parts.matrices, "checked", compact_first)
        assert {p.id for p in other.get_many(list(points))} == points.keys()
        assert everything(other) == points


@pytest.mark.parametrize("options", [{}, {"filter": "n >= 0 OR m >= 0"}, {"group_by": "n"}])
def test_a_search_whose_rows_moved_before_they_were_fetched_looks_again(lab, monkeypatch, options):
    from luma_lab.engine import searching

    docs = fill(lab)
    points = thin(docs)
    fetch = searching._fetch
    compacted = []

    def compact_first(*args):
        if not compacted:
            compacted.append(docs.compact().result(60))
        return fetch(*args)

    monkeypatch.setattr(searching, "_fetch", compact_first)
    hits = docs.search(vectors(1, 3)[0], k=10, **options)
    monkeypatch.undo()
    assert len(compacted) == 1
    assert hits == docs.search(vectors(1, 3)[0], k=10, **options)
    assert len(hits) == 10
    assert all(hit.meta == points[hit.id][1] for hit in hits)


@pytest.mark.parametrize("meanwhile", ["dropped", "dropped and made again", "index dropped"])
def test_what_is_dropped_meanwhile_stays_dropped(lab, monkeypatch, meanwhile):
    docs = fill(lab)
    docs.build_index("vamana", **PARAMS["vamana"]).result(60)
    thin(docs)
    pause = Pause(monkeypatch, "_catch_up")
    job = docs.compact()
    assert pause.reached.wait(60)
    if meanwhile == "index dropped":
        docs.drop_index()
        pause.go.set()
        assert job.result(60)["index"] is None
        check(lab, docs, everything(docs))
        assert indexes(lab) == []
        return
    lab.drop_collection("docs")
    if meanwhile == "dropped and made again":
        fill(lab, 5)
    pause.go.set()
    with pytest.raises((Conflict, CollectionNotFound)):
        job.result(60)
    assert indexes(lab) == []
    if meanwhile == "dropped and made again":
        check(lab, docs, everything(docs))
    assert lab.verify().ok


def expire_leases(lab):
    lab._parts.writer.run(lambda u: u.connection.execute("UPDATE luma_leases SET expires_at_ms=1"))


def test_one_that_lost_its_file_while_its_lease_had_lapsed_gives_up(path, monkeypatch):
    with Lab(path) as lab:
        docs = fill(lab)
        points = thin(docs)
        pause = Pause(monkeypatch, "_sync")
        job = docs.compact()
        assert pause.reached.wait(60)
        expire_leases(lab)
        with Lab(path):  # takes what nobody holds for a leftover
            assert files(lab) == ["vectors-0.f32"]
        pause.go.set()
        with pytest.raises(Conflict, match="removed by another process"):
            job.result(60)
        check(lab, docs, points)
    with Lab(path) as lab:
        check(lab, lab.collection("docs"), points)


def test_one_that_lost_its_lease_leaves_the_file_of_who_took_it(path, monkeypatch):
    with Lab(path) as one, Lab(path) as two:
        points = thin(fill(one))
        pauses = {}
        original = compaction._Compaction._sync

        def wait(made):
            original(made)
            mine = pauses[made.parts.owner]
            if not mine[0].is_set():
                mine[0].set()
                assert mine[1].wait(60)

        monkeypatch.setattr(compaction._Compaction, "_sync", wait)
        jobs = []
        for lab in (one, two):
            pauses[lab._parts.owner] = threading.Event(), threading.Event()
            jobs.append(lab.collection("docs").compact())
            assert pauses[lab._parts.owner][0].wait(60)
            expire_leases(lab)
        pauses[one._parts.owner][1].set()
        with pytest.raises(Conflict):
            jobs[0].result(60)
        one._parts.writer.run(lambda unit: None)
        assert "vectors-1.f32" in files(two)
        pauses[two._parts.owner][1].set()
        assert jobs[1].result(60)["generation"] == 1
        for lab in (one, two):
            check(lab, lab.collection("docs"), points)


def test_no_file_of_a_row_that_is_gone_stays_open(path):
    with Lab(path) as one, Lab(path) as two:
        for _ in range(3):
            fill(one, 50, "passing")
            one.drop_collection("passing")
        docs = fill(one, 50)
        for turn in range(3):
            two.collection("docs").upsert([f"p{turn}"], vectors(1, turn))  # never searches
            assert docs.compact().result(60)["generation"] == turn + 1
        two.collections()
        for lab in (one, two):
            kept = {generation for _, generation, _ in lab._parts.matrices._open}
            assert kept <= {3}


def test_a_collection_that_can_not_be_compacted_keeps_the_others_from_nothing(lab, monkeypatch):
    for name in ("a", "b", "c"):
        thin(fill(lab, name=name))
    original = compaction._Compaction._check_source

    def check_source(made):
        if made.name == "b":
            raise CorruptStore("block 0 does not match its checksum")
        original(made)

    monkeypatch.setattr(compaction._Compaction, "_check_source", check_source)
    done = lab.compact().result(60)["collections"]
    assert "block 0" in done["b"]["error"]
    assert done["a"]["rows"] == done["c"]["rows"] == 300


def test_cancelling_leaves_all_as_it_was(lab, monkeypatch):
    docs = fill(lab)
    points = thin(docs)
    pause = Pause(monkeypatch, "_renew_index")
    job = docs.compact()
    assert pause.reached.wait(60)
    job.cancel()
    pause.go.set()
    with pytest.raises(Cancelled):
        job.result(60)
    assert files(lab) == ["vectors-0.f32"]
    check(lab, docs, points)
    assert docs.compact().result(60)["rows"] == 300


def test_builds_and_compactions_keep_out_of_each_others_way(lab, monkeypatch):
    docs = fill(lab)
    thin(docs)
    pause = Pause(monkeypatch, "_renew_index")
    job = docs.compact()
    assert pause.reached.wait(60)
    with pytest.raises(LeaseHeld):
        docs.build_index("vamana").result(60)
    with pytest.raises(LeaseHeld):
        docs.compact().result(60)
    pause.go.set()
    assert job.result(60)


def test_damaged_rows_get_no_checksum_of_their_own(path):
    with Lab(path) as lab:
        thin(fill(lab, 1500), 1500)
        file = path / "collections" / "1" / "vectors-0.f32"
        data = bytearray(file.read_bytes())
        data[1100 * DIM * 4] ^= 1
        file.write_bytes(data)
        with pytest.raises(CorruptStore, match="block 1"):
            lab.collection("docs").compact().result(60)
        assert files(lab) == ["vectors-0.f32"]


@pytest.mark.parametrize("good", range(6))
def test_a_disk_that_runs_full_keeps_the_old_rows(path, good):
    disk = FullDisk()
    with Lab(path, disk=disk) as lab:
        docs = fill(lab)
        points = thin(docs)
        disk.writes, disk.good = 0, good
        with pytest.raises(StoreFull):
            docs.compact().result(60)
        disk.good = None
        assert files(lab) == ["vectors-0.f32"]
        check(lab, docs, points)
        assert docs.compact().result(60)["rows"] == 300
        check(lab, docs, points)


def test_a_database_that_runs_full_in_the_switch_keeps_the_old_rows(path, monkeypatch):
    with Lab(path) as lab:
        docs = fill(lab)
        docs.build_index("ivf", **PARAMS["ivf"]).result(60)
        points = thin(docs)
        move = moving.move

        def run_full(*args):
            move(*args)
            raise apsw.FullError("database or disk is full")

        monkeypatch.setattr(moving, "move", run_full)
        with pytest.raises(StoreFull):
            docs.compact().result(60)
        monkeypatch.undo()
        assert files(lab) == ["vectors-0.f32"]
        assert len(indexes(lab)) == 1
        check(lab, docs, points)
        assert docs.compact().result(60)["index"] == "rewritten"
        check(lab, docs, points)


KILLED = """
import json, os, sys
import numpy as np
import luma_lab as luma
from luma_lab.engine import compaction
from luma_lab.store import moving
path, phase = sys.argv[1:]
lab = luma.open(path)
docs = lab.collection("docs")
die = lambda *args: os.kill(os.getpid(), 9)
if phase == "moved":
    move = moving.move
    moving.move = lambda *args: (move(*args), die())
elif phase == "committed":
    compaction._Compaction._finish = die
elif phase == "swept":
    compaction.sweep_generations = die
else:
    setattr(compaction._Compaction, phase, die)
docs.compact().result(60)
"""


@pytest.mark.crash
@pytest.mark.parametrize("phase", ["_renew_index", "_catch_up", "moved", "committed", "swept"])
def test_a_kill_in_any_phase_leaves_the_old_rows_or_the_new(path, clock, phase):
    with Lab(path) as lab:
        docs = fill(lab)
        docs.build_index("vamana", **PARAMS["vamana"]).result(60)
        points = thin(docs)
    with child(KILLED, path, phase) as killed:
        assert killed.wait(120) == -9
    clock.advance(10 * 365 * 86_400_000)  # beyond the lease of the dead
    with Lab(path, clock=clock) as lab:
        docs = lab.collection("docs")
        generation = 1 if phase in ("committed", "swept") else 0
        assert row_of(docs).generation == generation
        assert [f for f in files(lab) if f.endswith(".f32")] == [f"vectors-{generation}.f32"]
        assert len(indexes(lab)) == 1
        check(lab, docs, points)
        assert docs.index_status()["available"]
        assert docs.compact().result(60)["rows"] == 300
        check(lab, docs, points)


def test_upkeep_compacts_where_half_the_rows_are_dead(lab, monkeypatch):
    monkeypatch.setattr(compaction, "LEAST_DEAD", 100)
    docs = fill(lab)
    docs.delete([f"p{i}" for i in range(99)])
    assert compaction.follow_deaths(lab._parts) == []
    docs.delete([f"p{i}" for i in range(99, 150)])
    assert compaction.follow_deaths(lab._parts) == []  # fewer than half
    docs.delete([f"p{i}" for i in range(150, 200)])
    for job in compaction.follow_deaths(lab._parts) or lab.jobs():
        job.result(60)
    assert docs.info().total_rows == 200


def test_one_that_failed_unasked_waits_before_the_next(lab, monkeypatch):
    monkeypatch.setattr(compaction, "LEAST_DEAD", 10)
    docs = fill(lab, 100)

    def fail(made):
        raise LumaError("no")

    monkeypatch.setattr(compaction._Compaction, "_check_source", fail)
    docs.delete([f"p{i}" for i in range(60)])
    for job in compaction.follow_deaths(lab._parts) or lab.jobs():
        with pytest.raises(LumaError):
            job.result(60)
    assert not builds.may_try(lab._parts, row_of(docs).uid)
    assert compaction.follow_deaths(lab._parts) == []


def test_a_whole_lab_is_compacted_with_its_database(lab):
    for name in ("a", "b"):
        docs = lab.create_collection(name, 2, "l2")
        docs.upsert(["x", "y"], [[1, 2], [3, 4]])
        docs.delete("x")
    for i in range(400):
        lab.state[f"k{i}"] = "x" * 9000
    for i in range(400):
        del lab.state[f"k{i}"]
    lab.sql.execute("CREATE TABLE t (id INTEGER PRIMARY KEY, n)")
    result = lab.compact().result(60)
    assert {name: r["rows"] for name, r in result["collections"].items()} == {"a": 1, "b": 1}
    assert result["database"]["bytes_freed"] > 1_000_000
    assert lab.verify().ok
    json.dumps(result)


def test_the_database_file_is_left_alone_where_rowids_could_change(lab):
    lab.sql.execute("CREATE TABLE t (name TEXT)")
    for i in range(400):
        lab.state[f"k{i}"] = "x" * 9000
    for i in range(400):
        del lab.state[f"k{i}"]
    database = lab.compact().result(60)["database"]
    assert database["bytes_freed"] == 0
    assert "'t' has no INTEGER PRIMARY KEY" in database["kept"]
