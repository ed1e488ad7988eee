"""Every kind of index in a collection: what it is told, how it follows, what it answers."""

import shutil
import threading
import time

import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from luma_lab.engine import builds, choosing, kinds
from luma_lab.engine.lab import Lab
from luma_lab.errors import InvalidArgument, UnknownName
from luma_lab.index import DiskIndex, IVFIndex, VamanaIndex
from luma_lab.index.quantizer import Q8Quantizer

DIM = 20
KINDS = ("vamana", "ivf", "diskann")
SMALL = {
    "vamana": {"max_degree": 8, "build_list_size": 16},
    "ivf": {"nlist": 12, "nprobe": 6},
    "diskann": {"max_degree": 8, "build_list_size": 16, "beam_width": 2},
}
MB = 1 << 20


def vectors(count, dim=DIM, seed=0):
    return np.random.default_rng(seed).normal(size=(count, dim)).astype(np.float32)


def fill(lab, kind="auto", count=600, metric="l2", name="docs", dim=DIM, **options):
    docs = lab.create_collection(name, dim, metric, index=kind, **options)
    metas = [{"n": i, "even": i % 2 == 0} for i in range(count)]
    docs.upsert([f"p{i}" for i in range(count)], vectors(count, dim), metas)
    return docs


def settled(docs):
    for job in docs._parts.jobs.list():
        job._done.wait(60)


def until(condition):
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, "it does not happen by itself"
        time.sleep(0.02)


def recall(found, exact):
    return np.mean(
        [
            len({h.id for h in a} & {h.id for h in b}) / len(b)
            for a, b in zip(found, exact, strict=True)
        ]
    )


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("metric", ["cosine", "dot", "l2"])
def test_a_collection_of_any_kind_finds_what_is_near(lab, kind, metric):
    docs = fill(lab, kind, metric=metric, params=SMALL[kind])
    result = docs.build_index().result(120)
    assert (result["kind"], result["rows"]) == (kind, 600)
    status = docs.index_status()
    assert (status["kind"], status["available"], status["indexed_points"]) == (kind, True, 600)
    assert {n: status["params"][n] for n in SMALL[kind]} == SMALL[kind]
    assert set(status["params"]) == set(kinds.names_of(kind))
    assert status["fingerprint"] == result["fingerprint"]
    assert min(status["memory_bytes"], status["disk_bytes"]) > 0 and status["graph_files"]
    assert docs.info().index == kind
    queries = vectors(50, seed=3)
    exact = docs.search_many(queries, k=10, exact=True)
    found = docs.search_many(queries, k=10, search_list_size=64, nprobe=9)
    assert recall(found, exact) > 0.9


@pytest.mark.parametrize(
    ("kind", "alone"),
    [
        ("vamana", lambda rows: VamanaIndex(DIM, "l2", **SMALL["vamana"]).build(rows)),
        ("ivf", lambda rows: IVFIndex(DIM, "l2", nlist=12).build(rows)),
    ],
)
def test_the_index_is_the_one_its_class_would_build(lab, kind, alone):
    result = fill(lab, kind, params=SMALL[kind]).build_index().result(120)
    assert result["fingerprint"] == alone(vectors(600)).fingerprint


def test_the_graph_on_disk_is_the_one_its_class_would_build(lab, tmp_path):
    result = fill(lab).build_index("diskann", max_degree=8, build_list_size=16).result(120)
    with DiskIndex.build(
        vectors(600), tmp_path / "alone", metric="l2", max_degree=8, build_list_size=16
    ) as alone:
        assert result["fingerprint"] == alone.fingerprint


@pytest.mark.parametrize("kind", KINDS)
def test_no_kind_keeps_a_second_copy_of_the_vectors(lab, kind):
    docs = fill(lab, count=3000, dim=128)
    docs.build_index(kind, **SMALL[kind]).result(120)
    status = docs.index_status()
    assert status["memory_bytes"] < 3000 * 128 * 2
    if kind != "diskann":  # which lays the vectors beside the links
        assert status["disk_bytes"] < 3000 * 128 * 2
    with Lab(lab.path) as other:
        assert other.collection("docs").search(vectors(1, 128)[0], k=1)[0].id == "p0"
        held = other._parts.follower.snapshot("docs").index.index
        rows = other._parts.follower.snapshot("docs").vectors
        if kind != "diskann":
            assert np.shares_memory(held._vectors, rows)


@pytest.mark.parametrize("kind", KINDS)
def test_filters_answer_all_there_is_with_any_kind(lab, kind):
    docs = fill(lab, kind, count=1500, params=SMALL[kind])
    docs.build_index().result(120)
    docs.delete([f"p{i}" for i in range(0, 1500, 7)])
    docs.upsert([f"t{i}" for i in range(40)], vectors(40, seed=5), [{"n": 3, "even": True}] * 40)
    alive = [i for i in range(1500) if i % 7]
    query = vectors(1, seed=8)[0]
    for text, matches in (
        ("n = 5", 1),
        ("n < 300", len([i for i in alive if i < 300]) + 40),
        ("even = true", len([i for i in alive if i % 2 == 0]) + 40),
        ("n >= 0", len(alive) + 40),
        ("n < 0", 0),
    ):
        for k in (3, 30, 2000):
            hits = docs.search(query, k=k, filter=text, explain=True)
            assert len(hits) == min(k, matches) == len({h.id for h in hits})
            assert hits.receipt["matches"] == matches
            exact = docs.search(query, k=min(k, 30), filter=text, exact=True)
            found = docs.search(query, k=min(k, 30), filter=text, search_list_size=200, nprobe=12)
            assert recall([found], [exact]) > 0.9 if exact else found == []


@pytest.mark.parametrize("kind", KINDS)
def test_what_comes_behind_an_index_is_found_and_taken_in(lab, monkeypatch, kind):
    monkeypatch.setattr(builds, "LEAST_BEHIND", 200)
    docs = fill(lab, kind, params=SMALL[kind])
    built = docs.build_index().result(120)
    docs.upsert([f"t{i}" for i in range(150)], vectors(150, seed=5))
    docs.delete([f"p{i}" for i in range(50)])
    receipt = docs.search(vectors(1, seed=5)[0], k=1, explain=True).receipt
    assert receipt["strategy"] == ("probe+tail" if kind == "ivf" else "walk+tail")
    assert docs.search(vectors(1, seed=5)[0], k=1)[0].id == "t0"
    docs.upsert([f"u{i}" for i in range(100)], vectors(100, seed=6))
    until(lambda: docs.index_status()["indexed_points"] == 800)
    status = docs.index_status()
    assert (status["kind"], status["points"]) == (kind, 800)
    assert status["fingerprint"] != built["fingerprint"]
    found = docs.search_many(np.concatenate([vectors(150, seed=5), vectors(100, seed=6)]), k=1)
    wanted = [f"t{i}" for i in range(150)] + [f"u{i}" for i in range(100)]
    assert np.mean([hits[0].id == id for hits, id in zip(found, wanted, strict=True)]) > 0.95
    assert {n: status["params"][n] for n in SMALL[kind]} == SMALL[kind]


def test_a_graph_on_disk_waits_for_a_quarter_of_its_rows(lab, monkeypatch):
    monkeypatch.setattr(builds, "LEAST_BEHIND", 10)
    docs = fill(lab, "diskann", count=400, params=SMALL["diskann"])
    docs.build_index().result(120)
    docs.upsert([f"t{i}" for i in range(99)], vectors(99, seed=5))
    assert builds.follow_rows(lab._parts) == []
    docs.upsert("one", vectors(1)[0])
    until(lambda: docs.index_status()["indexed_points"] == 500)


def hurt(path, how):
    [folder] = path.glob("collections/*/index/*")
    if how == "deleted":
        return shutil.rmtree(folder)
    if how == "no manifest":
        return (folder / "manifest.json").unlink()
    largest = max(folder.iterdir(), key=lambda f: f.stat().st_size)
    data = bytearray(largest.read_bytes())
    if how == "flipped":
        data[len(data) // 2] ^= 1
    else:
        del data[len(data) // 2 :]
    return largest.write_bytes(data)


@pytest.mark.parametrize("how", ["deleted", "no manifest", "flipped", "short"])
@pytest.mark.parametrize("kind", ["ivf", "diskann"])
def test_a_damaged_index_of_any_kind_is_built_anew_behind_exact_answers(path, kind, how):
    queries = vectors(10, seed=5)
    with Lab(path) as lab:
        docs = fill(lab, kind, params=SMALL[kind])
        exact = docs.search_many(queries, k=5, exact=True)
        built = docs.build_index().result(120)
        found = docs.search_many(queries, k=5)
    hurt(path, how)
    with Lab(path) as lab:
        docs = lab.collection("docs")
        assert not lab.verify().ok
        assert docs.search_many(queries, k=5) in (exact, found)
        settled(docs)
        status = docs.index_status()
        assert (status["kind"], status["fingerprint"]) == (kind, built["fingerprint"])
        assert docs.search_many(queries, k=5) == found
        assert lab.verify().ok
    with Lab(path) as lab:
        assert lab.collection("docs").search_many(queries, k=5) == found
        assert lab.jobs() == []


@pytest.mark.parametrize("by", ["a search", "the check in the background"])
def test_damage_on_disk_that_is_met_late_costs_no_answer(path, monkeypatch, by):
    if by == "a search":
        monkeypatch.setattr(builds, "_check_records", lambda attached: None)
    else:
        monkeypatch.setattr(builds, "VERIFY_FIRST_BYTES", 0)
    queries = vectors(10, seed=5)
    with Lab(path) as lab:
        docs = fill(lab, "diskann", params=SMALL["diskann"])
        exact = docs.search_many(queries, k=5, exact=True)
        docs.build_index().result(120)
        found = docs.search_many(queries, k=5)
    [file] = path.glob("collections/*/index/*/nodes-*.bin")
    file.write_bytes(bytes(byte ^ 1 for byte in file.read_bytes()))
    with Lab(path) as lab:
        docs = lab.collection("docs")
        assert docs.search_many(queries, k=5) == exact
        assert docs.search(queries[0], k=5, filter="n >= 0") == exact[0]
        until(lambda: docs.index_status()["available"])
        settled(docs)
        assert docs.search_many(queries, k=5) == found
        assert len(lab.jobs()) == 1
        assert lab.verify().ok


# index="auto"


def pick(rows, metric="l2", dim=128, budget=1000 * MB, params=None):
    return choosing.choose(rows, dim, metric, params or {}, least_rows=10_000, budget=budget)


def test_auto_picks_by_rows_memory_and_metric_and_says_why():
    assert pick(9_999).kind == "flat"
    assert "9999 rows" in pick(9_999).why
    assert pick(10_000).kind == "vamana"
    million = pick(10**6)
    assert (million.kind, million.params) == ("vamana", {})
    assert "337.0 MB" not in million.why and "of a budget of 1000 MB" in million.why
    assert pick(10**6, budget=200 * MB).kind == "ivf"
    assert "would take" in pick(10**6, budget=200 * MB).why
    assert pick(10**6, "dot", budget=200 * MB).kind == "diskann"
    assert "'dot'" in pick(10**6, "dot", budget=200 * MB).why
    small = pick(10**6, budget=60 * MB)
    assert (small.kind, small.params) == ("diskann", {"search_memory_bytes": 60 * MB})
    assert pick(10**6, budget=200 * MB, params={"max_degree": 8}).kind == "vamana"


@pytest.mark.parametrize("kind", KINDS)
def test_what_a_kind_is_thought_to_take_is_about_what_it_takes(lab, kind):
    docs = fill(lab, count=3000, dim=64)
    docs.build_index(kind, **({} if kind == "ivf" else {"max_degree": 16})).result(120)
    status = docs.index_status()
    thought = kinds.KINDS[kind].memory_of(3000, 64, status["params"])
    assert 0.7 < thought / status["memory_bytes"] < 1.3


def test_the_budget_comes_from_the_machine_or_from_who_opens_the_lab(path):
    memory = choosing.machine_memory()
    assert choosing.default_budget() == memory // 4 > 0
    with Lab(path) as lab:
        assert lab._parts.index_memory_bytes == memory // 4
    with Lab(path, index_memory_bytes=5 * MB) as lab:
        assert lab._parts.index_memory_bytes == 5 * MB
    with pytest.raises(InvalidArgument, match="index_memory_bytes"):
        Lab(path, index_memory_bytes=0)


@pytest.mark.parametrize("kind", ["auto", "ivf"])
def test_the_first_index_comes_by_itself(lab, monkeypatch, kind):
    monkeypatch.setattr(builds, "AUTO_VAMANA_ROWS", 500)
    docs = fill(lab, kind, count=499)
    assert builds.follow_rows(lab._parts) == []
    assert "scan" in docs.index_status()["why"]
    docs.upsert(["more", "and more"], vectors(2, seed=4))
    until(lambda: docs.index_status()["available"])
    status = docs.index_status()
    assert status["kind"] == ("vamana" if kind == "auto" else "ivf")
    assert ("budget" if kind == "auto" else "created with 'ivf'") in status["why"]
    assert status["indexed_points"] == 501


def test_auto_takes_another_kind_when_the_budget_is_outgrown(path, monkeypatch):
    monkeypatch.setattr(builds, "AUTO_VAMANA_ROWS", 500)
    monkeypatch.setattr(builds, "LEAST_BEHIND", 100)
    with Lab(path, index_memory_bytes=300_000) as lab:
        docs = fill(lab, count=1000)
        until(lambda: docs.index_status()["kind"] == "vamana")
        docs.upsert([f"t{i}" for i in range(1000)], vectors(1000, seed=5))
        until(lambda: docs.index_status()["kind"] == "ivf")
        assert "would take" in docs.index_status()["why"]


def test_what_was_asked_for_by_hand_is_not_chosen_again(lab, monkeypatch):
    monkeypatch.setattr(builds, "AUTO_VAMANA_ROWS", 500)
    docs = fill(lab, count=400)
    docs.build_index("ivf", nlist=4).result(60)
    docs.upsert([f"t{i}" for i in range(200)], vectors(200, seed=5))
    assert builds.follow_rows(lab._parts) == []
    assert docs.index_status()["why"] == "'ivf' was asked for by a build"
    docs.drop_index()  # and what was dropped stays so
    assert builds.follow_rows(lab._parts) == []
    assert "dropped" in docs.index_status()["why"]
    docs.build_index().result(60)
    assert docs.index_status()["kind"] == "vamana"


def test_what_is_asked_for_is_not_kept_waiting_by_what_is_not(lab, monkeypatch):
    monkeypatch.setattr(builds, "AUTO_VAMANA_ROWS", 100)
    begun, build = threading.Event(), VamanaIndex.build

    def endless(index, rows, progress=False):
        begun.set()
        while True:
            progress(0.1)
            time.sleep(0.01)

    monkeypatch.setattr(VamanaIndex, "build", endless)
    docs = fill(lab, count=200)
    assert begun.wait(60)
    monkeypatch.setattr(VamanaIndex, "build", build)
    assert docs.build_index("ivf", nlist=4).result(60)["kind"] == "ivf"
    assert [(job.state, job.unasked) for job in lab.jobs()] == [
        ("cancelled", True), ("done", False)]  # fmt: skip
    assert docs.index_status()["kind"] == "ivf"


def test_an_index_that_is_not_wanted_any_more_does_not_come(lab, monkeypatch):
    monkeypatch.setattr(builds, "AUTO_VAMANA_ROWS", 100)
    begun, go, build = threading.Event(), threading.Event(), VamanaIndex.build

    def held(index, rows, progress=False):
        begun.set()
        assert go.wait(60)
        return build(index, rows, progress=progress)

    monkeypatch.setattr(VamanaIndex, "build", held)
    docs = fill(lab, count=200)
    assert begun.wait(60)
    docs.build_index("flat").result(60)
    go.set()
    settled(docs)
    assert [job.state for job in lab.jobs()] == ["failed", "done"]
    assert not docs.index_status()["available"]
    assert builds.follow_rows(lab._parts) == []


def test_a_scan_that_was_chosen_while_there_was_little_is_not_for_ever(lab, monkeypatch):
    monkeypatch.setattr(builds, "AUTO_VAMANA_ROWS", 300)
    docs = fill(lab, count=200)
    assert docs.build_index().result(60) == {"kind": "flat"}
    docs.upsert([f"t{i}" for i in range(100)], vectors(100, seed=4))
    until(lambda: docs.index_status()["kind"] == "vamana")


def test_nothing_comes_by_itself_where_that_is_switched_off(path, monkeypatch):
    monkeypatch.setattr(builds, "AUTO_VAMANA_ROWS", 100)
    with Lab(path, auto_index=False) as lab:
        docs = fill(lab, "vamana", count=200, params=SMALL["vamana"])
        assert builds.follow_rows(lab._parts) == []
        assert docs.search(vectors(1)[0], k=1)[0].id == "p0"
        assert lab.jobs() == []


def test_one_that_failed_is_not_tried_again_at_once(lab, monkeypatch):
    monkeypatch.setattr(builds, "AUTO_VAMANA_ROWS", 100)

    def fail(*args, **options):
        raise MemoryError("too large")

    monkeypatch.setattr(VamanaIndex, "build", fail)
    docs = fill(lab, count=200)
    until(lambda: [job for job in lab.jobs() if job.state == "failed"])
    assert builds.follow_rows(lab._parts) == []
    assert [e.data["error"] for e in lab.events.read(types="index_failed")] == ["too large"]
    assert len(docs.search(vectors(1)[0], k=5)) == 5


def test_a_lost_index_is_built_anew_although_that_fails_once(path, monkeypatch):
    with Lab(path) as lab:
        fill(lab).build_index("vamana", **SMALL["vamana"]).result(60)
    [file] = path.glob("collections/*/index/vamana-*/codes*.npy")
    file.write_bytes(file.read_bytes()[:100])
    monkeypatch.setattr(builds, "RETRY_SECS", 0.1)
    original, tries = VamanaIndex.build, []

    def build(index, *args, **options):
        tries.append(index)
        if len(tries) == 1:
            raise OSError(28, "No space left on device")
        return original(index, *args, **options)

    monkeypatch.setattr(VamanaIndex, "build", build)
    with Lab(path) as lab:
        docs = lab.collection("docs")
        assert len(docs.search(vectors(1)[0], k=5)) == 5
        until(lambda: docs.index_status()["available"])
        assert len(tries) == 2


def test_parameters_for_a_kind_that_is_none_are_refused(lab):
    docs = fill(lab)
    for kind in ("nope", 3, True, [], {}):
        with pytest.raises((UnknownName, InvalidArgument)):
            docs.tune_index(kind=kind, seed=1)


# receipts


def test_receipts_name_the_kind_and_what_was_asked_of_it(lab):
    docs = fill(lab)
    for kind, options, shown in (
        ("vamana", {"search_list_size": 33, "nprobe": 3}, {"search_list_size": 33}),
        ("ivf", {"search_list_size": 33, "nprobe": 3}, {"nprobe": 3, "rerank": None}),
        ("ivf", {"rerank": 40}, {"nprobe": 6, "rerank": 40}),
        ("diskann", {"search_list_size": 5}, {"search_list_size": 10, "beam_width": 2}),
    ):
        if docs.index_status()["kind"] != kind:
            docs.build_index(kind, **SMALL[kind]).result(60)
        if options.get("search_list_size") == 5:
            docs.tune_index(search_list_size=5)
            options = {}
        receipt = docs.search(vectors(1)[0], k=10, explain=True, **options).receipt
        assert (receipt["kind"], receipt["exact"]) == (kind, False)
        assert receipt["params"] == {"k": 10, **shown}
        assert receipt["fingerprint"] == docs.index_status()["fingerprint"]
        assert receipt["hops"] > 0 and receipt["comparisons"] >= 10
        times = receipt["times_ms"]
        assert set(times) == {"plan", "walk", "rerank", "fetch"}
        assert min(times["walk"], times["fetch"]) > 0
        # On disk every record is measured as it comes: there is no second look.
        assert (times["rerank"] > 0) == (kind != "diskann")
        assert (receipt["reads"] > 0) == (kind == "diskann")


def test_a_receipt_of_a_graph_on_disk_counts_what_is_read_and_what_is_cached(lab):
    docs = fill(lab)
    docs.build_index("diskann", search_memory_bytes=1 << 20, **SMALL["diskann"]).result(60)
    held = docs._parts.follower.snapshot("docs").index.index
    query = vectors(1, seed=4)[0]
    stats = held.search(query, k=10, search_list_size=64, beam_width=2).stats
    receipt = docs.search(query, k=10, explain=True).receipt
    for name in ("hops", "comparisons", "reads", "cache_hits"):
        assert receipt[name] == getattr(stats, name)[0]
    assert receipt["cache_hits"] > 0


@pytest.mark.parametrize("metric", ["l2", "cosine"])
def test_a_receipt_of_cells_counts_the_work_of_the_textbook(lab, metric):
    docs = fill(lab, "ivf", metric=metric, params={"nlist": 16, "nprobe": 4})
    docs.build_index().result(60)
    cells = docs._parts.follower.snapshot("docs").index.index._cells
    slots = cells.held_slots()
    # Centroids of vectors of length one are shorter, and compared as they are.
    coarse = Q8Quantizer(DIM, "l2" if metric == "l2" else "dot")
    coarse.mean_ = cells.coarse.mean_
    homes = np.repeat(np.arange(len(cells.sizes)), cells.sizes)
    codes = coarse.encode(cells.centroids)
    for query in vectors(20, seed=6):
        if metric == "cosine":
            query /= np.linalg.norm(query)
        gaps = coarse.distances(query, codes)[0] + np.linalg.norm(query) * cells.bias
        chosen = np.argsort(gaps, kind="stable")[:4]
        inside = cells.numbers[slots[np.isin(homes, chosen)]]
        rows = vectors(600)[inside]
        if metric == "l2":
            far = ((rows - query) ** 2).sum(axis=1)
        else:
            far = 1 - rows @ query / np.linalg.norm(rows, axis=1)
        hits = docs.search(query, k=5, explain=True)
        assert [h.id for h in hits] == [f"p{inside[i]}" for i in np.argsort(far)[:5]]
        assert hits.receipt["hops"] == 4
        assert hits.receipt["comparisons"] == len(inside) == cells.sizes[chosen].sum()


# whatever comes, in whatever order

IDS = st.integers(0, 40).map("p{}".format)
VECTOR = st.lists(st.integers(-5, 5), min_size=3, max_size=3).map(tuple)


class KindsMachine(RuleBasedStateMachine):
    """A collection that is written to, compacted, indexed and opened again, against a dict."""

    def __init__(self):
        super().__init__()
        self.lab = Lab(":memory:", auto_index=False)
        self.lab.create_collection("docs", 3, "l2")
        self.points = {}

    @property
    def docs(self):
        return self.lab.collection("docs")

    @rule(batch=st.dictionaries(IDS, VECTOR, min_size=1, max_size=15))
    def upsert(self, batch):
        self.docs.upsert(list(batch), list(batch.values()), [sum(v) for v in batch.values()])
        self.points.update(batch)

    @rule(ids=st.lists(IDS, min_size=1, max_size=10))
    def delete(self, ids):
        self.docs.delete(ids)
        for id in ids:
            self.points.pop(id, None)

    @rule(kind=st.sampled_from([*KINDS, "flat"]))
    def build(self, kind):
        self.docs.build_index(kind).result(60)

    @rule(whole=st.booleans())
    def compact(self, whole):
        (self.lab if whole else self.docs).compact().result(60)
        assert self.docs.info().deleted_count == 0

    @rule()
    def grow(self):
        if self.docs.index_status()["available"]:
            row = self.docs._parts.follower.row("docs")
            kind = self.docs.index_status()["kind"]
            builds._start(
                self.lab._parts, row, kind, {}, 1, "hand", replaces=row.index_name, grows=True
            ).result(60)

    @rule()
    def look_afresh(self):
        """As another process that opens the directory would."""
        with Lab(self.lab.path, auto_index=False) as other:
            self.check(other)

    @invariant()
    def all_is_as_in_the_dict(self):
        self.check(self.lab)

    def check(self, lab):
        docs = lab.collection("docs")
        page, _ = docs.scroll(limit=100)
        assert {p.id: tuple(p.vector.tolist()) for p in page} == self.points
        query = np.array([0.3, -1.2, 2.1])
        rows = np.array(list(self.points.values())).reshape(-1, 3)
        wanted = sorted(-((rows - query) ** 2).sum(axis=1), reverse=True)
        for k in (3, 60):
            for options in ({"exact": True}, {"search_list_size": 100, "nprobe": 100}):
                hits = docs.search(query, k=k, **options)
                assert np.allclose([h.score for h in hits], wanted[:k], atol=1e-4)
                assert all(h.meta == sum(self.points[h.id]) for h in hits)

    def teardown(self):
        assert self.lab.verify().ok
        self.lab.close()


TestKinds = KindsMachine.TestCase
TestKinds.settings = settings(
    max_examples=15,
    stateful_step_count=15,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
