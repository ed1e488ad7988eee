"""Index builds: jobs that can be watched and stopped; an index is lost time, never lost data."""

import shutil
import threading
import time

import numpy as np
import pytest

from luma_lab.engine import builds
from luma_lab.engine.lab import Lab
from luma_lab.errors import (
    Cancelled,
    CollectionNotFound,
    Conflict,
    JobNotFound,
    LeaseHeld,
    LumaError,
    WaitTimeout,
)
from luma_lab.index import VamanaIndex
from luma_lab.store import leases

SMALL = {"max_degree": 8, "build_list_size": 16}


def vectors(count, dim=4, seed=0):
    return np.random.default_rng(seed).normal(size=(count, dim)).astype(np.float32)


def fill(lab, count=200, name="docs"):
    docs = lab.create_collection(name, 4, "l2")
    docs.upsert([f"p{i}" for i in range(count)], vectors(count))
    return docs


@pytest.fixture
def docs(lab):
    return fill(lab)


class Gate:
    """Holds every build at its first report until it is opened."""

    def __init__(self, monkeypatch):
        self.reached, self.open = threading.Event(), threading.Event()
        original = VamanaIndex.build

        def build(index, rows, progress=False):
            def report(fraction):
                self.reached.set()
                assert self.open.wait(60)
                progress(fraction)

            return original(index, rows, progress=report)

        monkeypatch.setattr(VamanaIndex, "build", build)


@pytest.fixture
def gate(monkeypatch):
    gate = Gate(monkeypatch)
    yield gate
    gate.open.set()


def settled(docs):
    """Wait for every job of the collection's lab."""
    for job in docs._parts.jobs.list():
        job._done.wait(60)


def folders(lab):
    return sorted(p.name for p in lab.path.glob("collections/*/index/*"))


def test_a_build_gives_a_job_a_status_and_an_event(lab, docs):
    before = docs.index_status()
    assert (before["kind"], before["available"], before["indexed_points"]) == ("flat", False, 0)
    job = docs.build_index("vamana", **SMALL)
    result = job.result(120)
    assert (job.state, job.progress, job.kind, job.collection) == (
        "done",
        1.0,
        "index_build",
        "docs",
    )
    assert lab.job(job.id) is job
    assert lab.jobs() == lab.jobs("done") == [job]
    status = docs.index_status()
    assert (status["kind"], status["available"], status["points"]) == ("vamana", True, 200)
    assert (status["indexed_points"], status["progress"]) == (200, 1.0)
    assert status["params"]["max_degree"] == 8
    assert status["fingerprint"] == result["fingerprint"]
    assert len(status["graph_files"]) == 2
    assert min(status["memory_bytes"], status["disk_bytes"]) > 200 * 4 * 4
    [event] = lab.events.read(types="index_built")
    assert event.data["fingerprint"] == result["fingerprint"]
    assert event.data["rows"] == 200
    told = [e.type for e in lab.events.read() if e.type.startswith("job_")]
    assert (told[0], told[-1]) == ("job_started", "job_finished")
    assert docs.info().index == "vamana"


def test_a_built_index_is_the_one_the_class_would_build(lab, docs):
    result = docs.build_index("vamana", seed=3, **SMALL).result(120)
    alone = VamanaIndex(4, "l2", seed=3, quantizer=None, **SMALL).build(vectors(200))
    assert result["fingerprint"] == alone.fingerprint


def test_auto_builds_nothing_for_few_rows_and_a_graph_for_many(lab, docs, monkeypatch):
    assert docs.build_index().result(60) == {"kind": "flat"}
    assert docs.index_status()["kind"] == "flat"
    monkeypatch.setattr(builds, "AUTO_VAMANA_ROWS", 200)
    assert docs.build_index(**SMALL).result(120)["kind"] == "vamana"
    fixed = lab.create_collection("fixed", 4, index="vamana", params=SMALL)
    fixed.upsert(["a", "b"], vectors(2))
    assert fixed.build_index().result(120)["kind"] == "vamana"
    assert fixed.index_status()["params"]["max_degree"] == 8


def test_building_flat_or_dropping_goes_back_to_exact_search(lab, docs):
    docs.build_index("vamana", **SMALL).result(120)
    assert len(folders(lab)) == 1
    result = docs.drop_index()
    assert (result.count, docs.drop_index().count) == (1, 0)
    assert folders(lab) == []
    assert docs.search(vectors(1)[0], explain=True).receipt["strategy"] == "exact"
    docs.build_index("vamana", **SMALL).result(120)
    docs.build_index("flat").result(60)
    assert (docs.index_status()["kind"], folders(lab)) == ("flat", [])
    assert [e.type for e in lab.events.read(types={"index_built", "index_dropped"})] == [
        "index_built", "index_dropped"] * 2  # fmt: skip


def test_a_rebuild_takes_the_place_of_the_old_index_and_its_folder(lab, docs):
    first = docs.build_index("vamana", **SMALL).result(120)
    docs.upsert([f"new{i}" for i in range(50)], vectors(50, seed=1))
    second = docs.build_index("vamana", **SMALL).result(120)
    assert folders(lab) == [second["index"]] != [first["index"]]
    status = docs.index_status()
    assert (status["indexed_points"], status["fingerprint"]) == (250, second["fingerprint"])
    receipt = docs.search(vectors(1)[0], k=1, explain=True).receipt
    assert receipt["fingerprint"] == second["fingerprint"]


def test_an_empty_collection_can_be_built_and_then_filled(lab):
    docs = lab.create_collection("empty", 4)
    docs.build_index("vamana").result(120)
    assert docs.search([1, 0, 0, 0]) == []
    docs.upsert("a", [1, 0, 0, 0])
    assert [h.id for h in docs.search([1, 0, 0, 0])] == ["a"]


def test_writes_and_searches_go_on_while_an_index_is_built(lab, docs, gate):
    job = docs.build_index("vamana", **SMALL)
    assert gate.reached.wait(60)
    assert (job.state, docs.index_status()["progress"] < 1) == ("running", True)
    docs.upsert(["late", "p3"], [[50, 50, 50, 50], [60, 60, 60, 60]])
    docs.delete("p7")
    assert docs.search([50] * 4, k=1)[0].id == "late"
    with pytest.raises(WaitTimeout, match="still running"):
        job.result(0.01)
    gate.open.set()
    assert job.result(120)["rows"] == 200
    status = docs.index_status()
    assert (status["points"], status["indexed_points"]) == (200, 198)
    hits = docs.search([50] * 4, k=500, search_list_size=500)
    assert len(hits) == 200
    assert "p7" not in {h.id for h in hits}
    assert [h.id for h in hits[:2]] == ["late", "p3"]


def test_a_cancelled_build_changes_nothing_and_leaves_no_folder(lab, docs, gate):
    job = docs.build_index("vamana", **SMALL)
    assert gate.reached.wait(60)
    job.cancel()
    gate.open.set()
    with pytest.raises(Cancelled, match=job.id):
        job.result(60)
    assert job.state == "cancelled"
    assert docs.index_status()["kind"] == "flat"
    assert folders(lab) == []
    with pytest.raises(Conflict, match="already cancelled"):
        job.cancel()
    assert docs.build_index("vamana", **SMALL).result(120)["kind"] == "vamana"
    assert lab.events.read(types="job_finished")[0].data["job"]["state"] == "cancelled"


def test_a_build_cancelled_after_its_index_was_saved_leaves_no_folder(lab, docs, monkeypatch):
    save = VamanaIndex.save

    def save_and_cancel(index, path, **options):
        save(index, path, **options)
        lab.jobs()[-1].cancel()

    monkeypatch.setattr(VamanaIndex, "save", save_and_cancel)
    with pytest.raises(Cancelled):
        docs.build_index("vamana", **SMALL).result(60)
    assert folders(lab) == []


def test_a_second_build_is_refused_while_one_runs(lab, docs, gate):
    first = docs.build_index("vamana", **SMALL)
    assert gate.reached.wait(60)
    second = docs.build_index("vamana", **SMALL)
    with pytest.raises(LeaseHeld, match="build:"):
        second.result(60)
    assert second.state == "failed"
    gate.open.set()
    assert first.result(120)["kind"] == "vamana"
    assert docs.build_index("vamana", **SMALL).result(120)["kind"] == "vamana"


def test_a_build_of_another_process_is_respected_while_its_heart_beats(path, gate):
    with Lab(path) as one, Lab(path) as two:
        docs = fill(one)
        job = docs.build_index("vamana", **SMALL)
        assert gate.reached.wait(60)
        with pytest.raises(LeaseHeld):
            two.collection("docs").build_index("vamana").result(60)
        gate.open.set()
        job.result(120)
        assert two.collection("docs").index_status()["kind"] == "vamana"
        assert len(folders(one)) == 1


def test_a_lab_opened_while_an_index_is_saved_does_not_sweep_its_folder_away(path, monkeypatch):
    save = VamanaIndex.save

    def save_while_another_opens(index, folder, **options):
        save(index, folder, **options)
        Lab(path).close()

    with Lab(path) as lab:
        docs = fill(lab)
        monkeypatch.setattr(VamanaIndex, "save", save_while_another_opens)
        built = docs.build_index("vamana", **SMALL).result(120)
        assert folders(lab) == [built["index"]]
        assert lab.verify().ok


def test_a_long_build_keeps_its_lease_and_one_whose_heart_stopped_loses_it(
    path, clock, gate, monkeypatch
):
    monkeypatch.setattr(leases, "HEARTBEAT_SECS", 0.0)
    with Lab(path, clock=clock) as one, Lab(path, clock=clock) as two:
        docs = fill(one)
        job = docs.build_index("vamana", **SMALL)
        assert gate.reached.wait(60)
        reader = one._parts.database.reader()

        def expiry():
            return reader.execute("SELECT expires_at_ms FROM luma_leases").get

        for _ in range(3):
            before = expiry()
            clock.advance(8000)
            while expiry() == before:
                time.sleep(0.01)
        with pytest.raises(LeaseHeld):
            two.collection("docs").build_index("vamana").result(60)
        one._upkeep.close()  # its heart stops
        clock.advance(leases.LEASE_MS + 1)
        taken = two.collection("docs").build_index("vamana", **SMALL)
        gate.open.set()
        assert taken.result(120)
        assert job.result(120)
        settled(docs)
        assert one.collection("docs").index_status()["available"]
        assert two.verify().ok
        assert len(folders(one)) == 1


def test_a_lost_index_that_was_dropped_meanwhile_is_not_brought_back(path, gate):
    with Lab(path) as lab:
        docs = fill(lab)
        gate.open.set()
        docs.build_index("vamana", **SMALL).result(120)
        gate.open.clear()
        gate.reached.clear()
    hurt(path, "deleted")
    with Lab(path) as lab:
        docs = lab.collection("docs")
        docs.search(vectors(1)[0])
        assert gate.reached.wait(60)  # the rebuild is under way
        docs.drop_index()
        gate.open.set()
        [job] = lab.jobs()
        with pytest.raises(Conflict, match="dropped or replaced"):
            job.result(60)
        assert docs.index_status()["kind"] == "flat"
        assert folders(lab) == []


def test_a_collection_dropped_during_its_build_fails_the_job_and_leaves_nothing(lab, docs, gate):
    job = docs.build_index("vamana", **SMALL)
    assert gate.reached.wait(60)
    lab.drop_collection("docs")
    again = fill(lab, 5)
    gate.open.set()
    with pytest.raises((Conflict, CollectionNotFound), match="docs"):
        job.result(60)
    assert (again.index_status()["kind"], len(again)) == ("flat", 5)
    assert folders(lab) == []


def test_closing_the_lab_interrupts_a_build_and_the_next_lab_is_whole(path, gate):
    with Lab(path) as lab:
        docs = fill(lab)
        job = docs.build_index("vamana", **SMALL)
        assert gate.reached.wait(60)
        threading.Timer(0.1, gate.open.set).start()
    assert job.state == "interrupted"
    with Lab(path) as lab:
        assert lab.verify().ok
        assert folders(lab) == []
        assert lab.collection("docs").build_index("vamana", **SMALL).result(120)


def hurt(path, how):
    [folder] = path.glob("collections/*/index/*")
    if how == "deleted":
        shutil.rmtree(folder.parent)
    elif how == "no manifest":
        (folder / "manifest.json").unlink()
    else:
        file = next(folder.glob("neighbors-*.npy"))
        data = bytearray(file.read_bytes())
        if how == "flipped":
            data[len(data) // 2] ^= 1
        else:
            del data[len(data) // 2 :]
        file.write_bytes(data)


@pytest.mark.parametrize("how", ["deleted", "no manifest", "flipped", "short"])
def test_a_lost_index_is_rebuilt_in_the_background_and_answers_stay_right(path, how):
    queries = vectors(10, seed=5)
    with Lab(path) as lab:
        docs = fill(lab)
        exact = docs.search_many(queries, k=5, exact=True)
        built = docs.build_index("vamana", **SMALL).result(120)
        walked = docs.search_many(queries, k=5)
    hurt(path, how)
    with Lab(path) as lab:
        docs = lab.collection("docs")
        assert docs.search_many(queries, k=5, exact=True) == exact
        assert docs.search_many(queries, k=5) in (exact, walked)
        settled(docs)
        status = docs.index_status()
        assert (status["kind"], status["fingerprint"]) == ("vamana", built["fingerprint"])
        assert docs.search_many(queries, k=5) == walked
        assert lab.verify().ok
    with Lab(path) as lab:  # and the new folder is there to stay
        docs = lab.collection("docs")
        assert docs.search_many(queries, k=5) == walked
        assert lab.jobs() == []
        assert docs.index_status()["fingerprint"] == built["fingerprint"]


def test_folders_that_nothing_names_are_swept_when_a_lab_is_opened(path):
    with Lab(path) as lab:
        docs = fill(lab)
        docs.build_index("vamana", **SMALL).result(120)
        [kept] = folders(lab)
    (path / "collections" / "99").mkdir()
    (path / "collections" / "99" / "vectors-0.f32").write_bytes(b"x")
    shutil.copytree(
        path / "collections" / "1" / "index" / kept,
        path / "collections" / "1" / "index" / "vamana-9999",
    )
    with Lab(path) as lab:
        assert folders(lab) == [kept]
        assert not (path / "collections" / "99").exists()
        assert lab.collection("docs").index_status()["kind"] == "vamana"


def test_a_failed_build_says_why_and_keeps_the_old_index(lab, docs, monkeypatch):
    built = docs.build_index("vamana", **SMALL).result(120)

    def fail(index, rows, progress=False):
        raise MemoryError("too large")

    monkeypatch.setattr(VamanaIndex, "build", fail)
    job = docs.build_index("vamana", **SMALL)
    with pytest.raises(MemoryError, match="too large"):
        job.result(60)
    assert (job.state, str(job.error)) == ("failed", "too large")
    assert docs.index_status()["fingerprint"] == built["fingerprint"]
    assert lab.events.read(types="job_finished")[-1].data["job"]["error"] == "too large"


def test_an_unknown_job_is_not_found(lab):
    with pytest.raises(JobNotFound, match="'nope'"):
        lab.job("nope")
    assert issubclass(JobNotFound, LumaError)


def test_an_index_follows_the_rows_that_come_behind_it(lab, monkeypatch):
    monkeypatch.setattr(builds, "LEAST_BEHIND", 300)
    chance = np.random.default_rng(0)
    rows = chance.normal(size=(1500, 24)).astype(np.float32)
    docs = lab.create_collection("growing", 24, "l2")
    docs.upsert(list(range(1000)), rows[:1000])
    docs.build_index("vamana", **SMALL).result()
    docs.upsert(list(range(1000, 1200)), rows[1000:1200])
    assert builds.follow_rows(lab._parts) == []
    docs.upsert(list(range(1200, 1500)), rows[1200:])
    docs.delete(ids=list(range(50)))
    deadline = time.monotonic() + 60
    while docs.index_status()["indexed_points"] < 1450:
        assert time.monotonic() < deadline, "upkeep grows the index by itself"
        time.sleep(0.05)
    receipt = docs.search(rows[1400], k=3, explain=True).receipt
    assert (
        receipt["strategy"] == "walk"
        and lab._parts.follower.snapshot("growing").index.total_rows == 1500
    )
    found = docs.search_many(rows[50:], k=1)
    assert np.mean([hits[0].id == str(i) for i, hits in enumerate(found, 50)]) > 0.9
    assert len(list(lab.events.read(types="index_built"))) == 2


def test_an_index_that_has_doubled_is_built_anew(lab, monkeypatch):
    monkeypatch.setattr(builds, "LEAST_BEHIND", 10)
    docs = fill(lab, 100, "doubling")
    docs.build_index("vamana", **SMALL).result()
    docs.upsert([f"q{i}" for i in range(150)], vectors(150, seed=1))
    deadline = time.monotonic() + 60
    while docs.index_status()["indexed_points"] < 250:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    both = np.concatenate([vectors(100), vectors(150, seed=1)])
    alone = VamanaIndex(4, "l2", quantizer=None, **SMALL).build(both)
    assert docs.index_status()["fingerprint"] == alone.fingerprint
