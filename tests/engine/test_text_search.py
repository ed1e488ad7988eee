"""Text search of collections: the same as a fresh index over the same texts, whatever happened."""

import math
import shutil
import threading

import numpy as np
import pytest
from children import child, tell
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from luma_lab.engine import text_cache, text_caches, text_files, texting
from luma_lab.engine.lab import Lab
from luma_lab.errors import (
    CollectionNotFound,
    Conflict,
    InvalidArgument,
    InvalidFilter,
    NotSupported,
    PointNotFound,
    StoreFull,
    UnknownName,
    WaitTimeout,
)
from luma_lab.index import TextIndex
from luma_lab.store import deadline
from luma_lab.store import log as event_log

WORDS = "campaña campana año ano años luz luces gas dog dogs running ran x y z".split()
FIELDS = {"title": 2.0, "body.text": 1.0}
QUERIES = ("campaña", "luz gas", "años x y", "+dog -ran", "lu* z", "absent", "")


def make_meta(words, n=0):
    half = len(words) // 2
    return {"title": " ".join(words[:half]), "body": {"text": words[half:]}, "n": n}


class Model:
    """What a collection should hold: metas in the order of their vectors."""

    def __init__(self):
        self.metas, self.turns, self.turn = {}, {}, 0

    def write(self, id, meta, *, moves=True):
        self.metas[id] = meta
        if moves:
            self.turn += 1
            self.turns[id] = self.turn

    def delete(self, id):
        del self.metas[id]

    def search(self, query, k, keeps=lambda meta: True):
        """Return [(id, score)] by a `TextIndex` made of the present texts."""
        ids = sorted(self.metas, key=self.turns.get)
        index = TextIndex("es", fields=FIELDS)
        index.build(
            {
                "title": self.metas[i]["title"],
                "body.text": "\n".join(self.metas[i]["body"]["text"]),
            }
            for i in ids
        )
        mask = np.array([keeps(self.metas[i]) for i in ids], bool)
        found = index.search(query, max(1, k), mask=mask)
        return [(ids[r], s) for r, s in zip(found.rows, found.scores.tolist(), strict=True)]


def assert_same(docs, model, k=5):
    for query in QUERIES:
        for filter, keeps in ((None, lambda m: True), ({"n": 1}, lambda m: m["n"] == 1)):
            whole = dict(model.search(query, len(model.metas), keeps))
            hits = docs.search_text(query, k, filter=filter)
            assert len(hits) == min(k, len(whole)), (query, filter)
            best = sorted(whole.values(), reverse=True)[:k]
            assert np.allclose([hit.score for hit in hits], best, rtol=1e-5)
            for hit in hits:
                assert math.isclose(hit.score, whole[hit.id], rel_tol=1e-5)
                assert hit.meta == model.metas[hit.id]


def tend(lab):
    """Have a lab merge and save its text indexes, and wait for it."""
    texts = lab._parts.texts
    texts.tend()
    if texts._worker is not None:
        texts._worker.join()


def new_collection(lab, name="docs"):
    return lab.create_collection(name, 2, "l2", text_fields=FIELDS, language="es")


def text_directories(lab, uid=1):
    return sorted(p.name for p in lab.path.glob(f"collections/{uid}/index/text-*"))


@pytest.fixture
def eager(monkeypatch):
    """Save after every change, merge and renumber early, read in small pieces."""
    monkeypatch.setattr(text_caches, "LEAST_UNSAVED", 1)
    monkeypatch.setattr(text_caches, "SHARE_UNSAVED", 0)
    monkeypatch.setattr(text_cache, "MANY_SEGMENTS", 2)
    monkeypatch.setattr(text_cache, "LEAST_DEAD", 2)
    monkeypatch.setattr(text_cache, "CHUNK_POINTS", 3)


@pytest.fixture
def docs(lab):
    return new_collection(lab)


def begin_epoch(unit):
    """Do to the log what a restore does."""
    event_log.start_epoch(unit.head)
    return unit.append("restored", data=b"{}")


STEPS = st.lists(
    st.tuples(
        st.sampled_from(
            ["upsert", "upsert", "upsert", "meta", "vector", "delete", "where", "transaction",
             "rolled back", "tend", "reopen", "lose", "cut", "recreate", "other lab", "compact",
             "epoch"]
        ),
        st.integers(0, 5),
        st.lists(st.sampled_from(WORDS), max_size=6),
        st.integers(0, 2),
    ),
    min_size=5,
    max_size=25,
)  # fmt: skip


@given(STEPS)
@settings(
    max_examples=15, deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)  # fmt: skip
def test_search_equals_a_fresh_index_after_any_changes(tmp_path, eager, steps):
    path = tmp_path / "lab"
    shutil.rmtree(path, ignore_errors=True)
    lab, other = Lab(path), Lab(path)
    try:
        new_collection(lab)
        model = Model()
        for step, number, words, n in steps:
            docs, id, meta = lab.collection("docs"), f"p{number}", make_meta(words, n)
            if step == "upsert":
                docs.upsert(id, [number, 0], meta)
                model.write(id, meta)
            elif step == "meta" and id in model.metas:
                docs.update(id, metas=meta)
                model.write(id, meta, moves=False)
            elif step == "vector" and id in model.metas:
                docs.update(id, vectors=[n, n])
                model.write(id, model.metas[id])
            elif step == "delete" and id in model.metas:
                docs.delete(id)
                model.delete(id)
            elif step == "where":
                docs.delete(filter={"n": n})
                for gone in [i for i, m in model.metas.items() if m["n"] == n]:
                    model.delete(gone)
            elif step == "transaction":
                with lab.transaction() as tx:
                    inside = tx.collection("docs")
                    inside.upsert(id, [1, 1], make_meta(["gas"]))
                    inside.update(id, metas=meta)
                    inside.upsert("q", [1, 1], meta)
                    inside.delete("q")
                model.write(id, meta)
                model.metas.pop("q", None)
            elif step == "rolled back":
                with pytest.raises(ZeroDivisionError), lab.transaction() as tx:
                    tx.collection("docs").upsert(id, [1, 1], meta)
                    raise ZeroDivisionError
            elif step == "tend":
                tend(lab)
            elif step in ("reopen", "lose"):
                lab.close()
                if step == "lose":
                    shutil.rmtree(path / "collections" / "1" / "index", ignore_errors=True)
                lab = Lab(path)
            elif step == "cut":
                lab._parts.writer.run(
                    lambda unit: event_log.truncate(
                        unit.connection, unit.head, unit.head.next_offset
                    )
                )
            elif step == "recreate":
                lab.drop_collection("docs")
                new_collection(lab)
                model = Model()
            elif step == "epoch":
                lab._parts.writer.run(begin_epoch)
            elif step == "compact":
                docs.compact().result(30)
            elif step == "other lab":
                lab, other = other, lab
            if number < 2:
                assert_same(lab.collection("docs"), model)
        for each in (lab, other):
            assert_same(each.collection("docs"), model)
    finally:
        lab.close()
        other.close()


def fill(docs, count, seed=0, first=0):
    """Upsert points of random words; return their metas by id."""
    chance = np.random.default_rng(seed)
    metas = {
        f"p{i}": make_meta(chance.choice(WORDS, 8).tolist(), int(chance.integers(0, 3)))
        for i in range(first, first + count)
    }
    docs.upsert(list(metas), np.zeros((count, 2)), list(metas.values()))
    return metas


def test_a_saved_index_is_found_again_and_moved_on_by_the_log(path, monkeypatch, eager):
    model = Model()
    with Lab(path) as lab:
        for id, meta in fill(new_collection(lab), 60).items():
            model.write(id, meta)
        tend(lab)
        assert len(text_directories(lab)) == 1
        assert lab.collection("docs").index_status()["text"]["disk_bytes"] > 0
    monkeypatch.setattr(text_caches, "LEAST_UNSAVED", 1000)
    with Lab(path) as lab:
        docs = lab.collection("docs")
        docs.update("p3", metas=make_meta(["gas", "gas"]))
        docs.delete("p4")
        docs.upsert("new", [1, 1], make_meta(["luz", "gas"]))
        model.write("p3", make_meta(["gas", "gas"]), moves=False)
        model.delete("p4")
        model.write("new", make_meta(["luz", "gas"]))
        monkeypatch.setattr(
            text_cache.TextCache, "_compare", lambda *_: pytest.fail("read all points again")
        )
        assert_same(docs, model)


@pytest.mark.parametrize("harm", ["flip", "cut", "gone", "half", "manifest", "foreign"])
def test_a_damaged_index_is_made_anew(path, eager, harm):
    model = Model()
    with Lab(path) as lab:
        for id, meta in fill(new_collection(lab), 30).items():
            model.write(id, meta)
        tend(lab)
        directory = lab.path / "collections/1/index" / text_directories(lab)[0]
    file = max(directory.glob("s0_rows-*.npy"))
    if harm == "flip":
        data = bytearray(file.read_bytes())
        data[-1] ^= 1
        file.write_bytes(data)
    elif harm == "cut":
        file.write_bytes(file.read_bytes()[:-3])
    elif harm == "gone":
        shutil.rmtree(directory)
    elif harm == "half":
        (directory / "manifest.json").unlink()
    elif harm == "manifest":
        (directory / "manifest.json").write_text("{")
    else:
        directory.rename(directory.with_name("text-x"))
    with Lab(path) as lab:
        assert_same(lab.collection("docs"), model)
        tend(lab)
        assert_same(lab.collection("docs"), model)


def test_an_index_of_other_settings_does_not_count(path, eager):
    with Lab(path) as lab:
        docs = new_collection(lab)
        fill(docs, 30)
        tend(lab)
        docs.set_text_fields({"title": 1.0}, "none")
        assert docs.info().text_fields == {"title": 1.0} and docs.info().language == "none"
    with Lab(path) as lab:
        docs = lab.collection("docs")
        assert lab.collection("docs").search_text("campaña", 30) != []
        assert all("campaña" in hit.meta["title"] for hit in docs.search_text("campaña", 30))
        docs.set_text_fields(None)
        with pytest.raises(NotSupported, match="no text index"):
            docs.search_text("campaña")


def test_settings_survive_index_parameters_and_the_other_way_round(lab):
    docs = new_collection(lab)
    docs.tune_index(search_list_size=77)
    docs.build_index("flat").result(10)
    assert docs.info().text_fields == FIELDS and docs.info().language == "es"
    docs.set_text_fields(["n"])
    assert docs.index_status()["params"]["search_list_size"] == 77
    assert "text" not in docs.index_status()["params"]
    assert docs.info().language == "en"


OTHER = """
import sys
import luma_lab as luma
lab = luma.open(sys.argv[1])
docs = lab.collection("docs")
for line in sys.stdin:
    verb, _, rest = line.strip().partition(" ")
    if verb == "find":
        print(*sorted(hit.id for hit in docs.search_text(rest, 100)), flush=True)
    else:
        print(docs.upsert(verb, [1, 1], {"title": rest}).offset, flush=True)
"""


def test_each_process_finds_what_the_other_wrote(path):
    with Lab(path) as lab:
        docs = new_collection(lab)
        docs.upsert("here", [0, 0], {"title": "luz"})
        with child(OTHER, path) as process:
            assert tell(process, "find luz") == "here"
            for turn in range(10):
                offset = int(tell(process, f"there{turn} luz del gas"))
                hits = docs.search_text("gas", 100, min_offset=offset)
                assert len(hits) == turn + 1
                docs.upsert(f"mine{turn}", [0, 0], {"title": "luces"})
                assert f"mine{turn}" in tell(process, "find luz").split()
            docs.delete("here")
            assert "here" not in tell(process, "find luz").split()


WRITER = """
import os, sys
import luma_lab as luma
from luma_lab.engine import text_caches
text_caches.LEAST_UNSAVED, text_caches.SHARE_UNSAVED = 1, 0
lab = luma.open(sys.argv[1])
docs = lab.collection("docs")
n = int(sys.argv[2])
while True:
    n += 1
    docs.upsert(f"p{n % 40}", [n, n], {"title": f"luz w{n}"})
    assert docs.search_text(f"w{n}")[0].id == f"p{n % 40}"
    lab._parts.texts.tend()
    os.write(1, f"{n}\\n".encode())
"""


@pytest.mark.crash
def test_kill_9_between_saves_loses_nothing(path):
    with Lab(path) as lab:
        lab.create_collection("docs", 2, "l2", text_fields=["title"])
    said = 0
    for turn in range(3):
        with child(WRITER, path, said) as process:
            for _ in range(25 + 10 * turn):
                said = int(process.stdout.readline())
            process.kill()
            process.wait()
            rest = process.stdout.read().split()
            said = int(rest[-1]) if rest else said
        with Lab(path) as lab:
            docs = lab.collection("docs")
            titles = {p.id: p.meta["title"] for p in docs.scroll(limit=100)[0]}
            hits = docs.search_text("luz", 100)
            assert {hit.id: hit.meta["title"] for hit in hits} == titles
            assert docs.search_text(f"w{said}")[0].id == f"p{said % 40}"
            said += 1


def test_threads_find_their_own_writes_at_once(lab, eager):
    docs, wrong = new_collection(lab), []

    def work(me):
        try:
            for turn in range(25):
                docs.upsert(f"{me}-{turn}", [0, 0], {"title": f"word{me}x{turn} luz", "n": me})
                found = docs.search_text(f"word{me}x{turn}", filter={"n": me})
                if [hit.id for hit in found] != [f"{me}-{turn}"]:
                    wrong.append((me, turn, found))
                if turn % 3 == 0:
                    docs.update(f"{me}-{turn}", metas={"title": "gas", "n": me})
                    if docs.search_text(f"word{me}x{turn}"):
                        wrong.append((me, turn, "still there"))
                    tend(lab)
        except Exception as error:
            wrong.append(error)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert len(docs.search_text("luz gas", 1000)) == 100


def test_ties_are_broken_alike_before_and_after_a_rebuild(path):
    with Lab(path) as lab:
        docs = new_collection(lab)
        docs.upsert([f"p{i}" for i in range(300)], np.zeros((300, 2)), [{"title": "luz"}] * 300)
        docs.update([f"p{i}" for i in range(40)], metas=[{"title": "luz"}] * 40)
        before = [hit.id for hit in docs.search_text("luz", 20)]
    with Lab(path) as lab:
        hits = lab.collection("docs").search_text("luz", 20)
        assert [hit.id for hit in hits] == before == [f"p{i}" for i in range(20)]


def test_compaction_of_the_matrix_only_renumbers(lab, monkeypatch):
    docs, model = new_collection(lab), Model()
    for id, meta in fill(docs, 50).items():
        model.write(id, meta)
    docs.delete([f"p{i}" for i in range(0, 50, 2)])
    for i in range(0, 50, 2):
        model.delete(f"p{i}")
    assert_same(docs, model)

    docs.compact().result(30)
    monkeypatch.setattr(
        text_cache.TextCache, "_take", lambda self, batch: batch.metas and pytest.fail("read texts")
    )
    assert_same(docs, model)


def test_facets_count_all_matches(docs):
    docs.upsert(
        [f"p{i}" for i in range(8)],
        np.zeros((8, 2)),
        [
            {"title": "luz", "tag": tag}
            for tag in ("a", "b", ["a", "b", "a"], 1, 1.0, True, None, {"x": [1]})
        ],
    )
    docs.upsert("q", [0, 0], {"title": "luz"})
    docs.upsert("r", [0, 0], {"title": "gas", "tag": "a"})
    hits = docs.search_text("luz", 1, facets=["tag", "tag.x"])
    assert hits.facets["tag"] == [("a", 2), ("b", 2), (1, 2), ({"x": [1]}, 1), (True, 1)]
    assert hits.facets["tag.x"] == [(1, 1)]
    assert len(hits) == 1
    assert docs.search_text("luz", facets=["tag"], facet_size=1).facets == {"tag": [("a", 2)]}
    some = docs.search_text("luz", facets=["tag"], filter={"tag": "b"})
    assert some.facets == {"tag": [("b", 2), ("a", 1)]}
    assert docs.search_text("absent", facets=["tag"]).facets == {"tag": []}
    assert docs.search_text("luz").facets is None


def test_sorting_orders_all_matches(docs):
    years = [3, "x", 10, None, True, 2.5, "a", [1], False, 3]
    docs.upsert(
        [f"p{i}" for i in range(10)],
        np.zeros((10, 2)),
        [{"title": "luz" if i else "luz luz", "y": y} for i, y in enumerate(years)],
    )
    docs.upsert("last", [0, 0], {"title": "luz"})
    up = [hit.id for hit in docs.search_text("luz", 20, sort="y")]
    assert up[:8] == ["p5", "p0", "p9", "p2", "p6", "p1", "p8", "p4"]
    assert set(up[8:]) == {"p3", "p7", "last"}
    down = [hit.id for hit in docs.search_text("luz", 20, sort="-y")]
    assert down[:8] == ["p2", "p0", "p9", "p5", "p1", "p6", "p4", "p8"]
    assert down[8:] == up[8:]
    assert [h.id for h in docs.search_text("luz", 2, sort="-y")] == down[:2]


def test_grouping_gives_k_groups(docs):
    docs.upsert(
        [f"p{i}" for i in range(60)],
        np.zeros((60, 2)),
        [{"title": "luz " * (1 + i % 5) + "x", "g": i % 4} for i in range(59)] + [{"title": "luz"}],
    )
    hits = docs.search_text("luz", 10, group_by="g", group_limit=3)
    assert len(hits) == len(hits.groups) == 5
    assert [len(group.hits) for group in hits.groups if group.key is not None] == [3] * 4
    assert [group.hits[0] for group in hits.groups] == list(hits)
    scores = [hit.score for hit in docs.search_text("luz", 100)]
    assert hits[0].score == max(scores)
    for group in hits.groups:
        assert all(hit.meta.get("g") == group.key for hit in group.hits)
    hits = docs.search_text("luz", 2, group_by="g", group_limit=2, highlight=True, explain=True)
    assert list(hits) == [group.hits[0] for group in hits.groups]
    for hit in (hit for group in hits.groups for hit in group.hits):
        assert hit.highlights["title"].spans
        assert math.isclose(hit.explanation.score, hit.score, rel_tol=1e-5)


def test_min_score_leaves_out_hits_and_their_counts(docs):
    docs.upsert(["a", "b"], np.zeros((2, 2)), [{"title": "luz"}, {"title": "luz x y z", "n": 1}])
    best, worst = docs.search_text("luz")
    assert best.id == "a"
    hits = docs.search_text("luz", min_score=best.score, facets=["n"], explain=True)
    assert [hit.id for hit in hits] == ["a"] and hits.facets == {"n": []}
    assert hits.receipt["matches"] == 2 and hits.receipt["candidates"] == 1
    assert len(docs.search_text("luz", min_score=worst.score)) == 2


def test_highlights_are_safe_and_by_field(docs):
    docs.upsert("a", [0, 0], {"title": "<b>luces</b> & gas", "body": {"text": ["x", "la luz"]}})
    (hit,) = docs.search_text("luz", highlight=True)
    assert hit.highlights["title"].html == "&lt;b&gt;<mark>luces</mark>&lt;/b&gt; &amp; gas"
    assert hit.highlights["body.text"].html == "x\nla <mark>luz</mark>"
    docs.upsert("b", [0, 0], {"title": "luz"})
    assert set(docs.search_text("luz", highlight=True)[0].highlights) == {"title"}
    assert docs.search_text("luz")[0].highlights is None


def test_explanations_add_up_to_the_score(docs):
    fill(docs, 30)
    hits = docs.search_text("luz gas campaña", 5, explain=True, filter={"n": 1})
    for hit in hits:
        assert math.isclose(hit.explanation.score, hit.score, rel_tol=1e-5)
        assert docs.explain_text("luz gas campaña", hit.id) == hit.explanation
        assert hit.explanation.matched
    receipt = hits.receipt
    assert receipt["strategy"] == "filter+text" and receipt["kind"] == "text"
    assert receipt["matches"] == len(docs.search_text("luz gas campaña", 99, filter={"n": 1}))
    assert set(receipt["times_ms"]) == {"plan", "walk", "rerank", "fetch"}
    assert not docs.explain_text("absent", "p1").matched
    with pytest.raises(PointNotFound):
        docs.explain_text("luz", "nobody")


def test_masks_of_an_earlier_moment_hold(lab, docs, eager):
    """Whoever still searches an earlier moment is not led astray by what came after it."""
    metas = fill(docs, 30)
    docs.delete("p0")
    docs.update("p1", metas=make_meta(["gas"]))
    with lab._parts.texts.reading("docs") as reading:
        moment = reading.moment
    rows = np.array([1, 2, 3, 4])
    before = texting.best_rows(moment, "luz gas dog x", 30, moment.mask(rows))
    docs.update([f"p{i}" for i in range(2, 30)], metas=[{"title": "luz"}] * 28)
    assert len(docs.search_text("luz", 99)) == 28
    tend(lab)
    docs.compact().result(30)
    assert len(docs.search_text("luz", 99)) == 28
    after = texting.best_rows(moment, "luz gas dog x", 30, moment.mask(rows))
    assert before[0].tolist() == after[0].tolist() and before[1].tolist() == after[1].tolist()
    assert set(before[0]) <= set(rows.tolist()) and len(metas) == 30
    tend(lab)
    assert len(docs.search_text("luz", 99, filter={"title": "luz"})) == 28


def test_vectors_come_when_asked_for(docs):
    docs.upsert("a", [3, 4], {"title": "luz"})
    assert docs.search_text("luz", include_vector=True)[0].vector.tolist() == [3, 4]
    assert docs.search_text("luz")[0].vector is None


def test_vectors_of_rows_compacted_meanwhile_are_read_again(docs, monkeypatch):
    docs.upsert([f"p{i}" for i in range(20)], np.ones((20, 2)), [{"title": "luz"}] * 20)
    docs.delete([f"p{i}" for i in range(15)])
    fetched, best = [], texting.best_rows

    def compacted_meanwhile(*args):
        if not fetched:
            fetched.append(True)
            thread = threading.Thread(target=lambda: docs.compact().result(30))
            thread.start()
            thread.join()
        return best(*args)

    monkeypatch.setattr(texting, "best_rows", compacted_meanwhile)
    hits = docs.search_text("luz", 9, include_vector=True)
    assert fetched and docs.info().total_rows == 5
    assert [hit.vector.tolist() for hit in hits] == [[1, 1]] * 5


def test_what_is_no_text_is_an_empty_one(docs):
    metas = [
        None,
        5,
        "luz",
        [],
        {},
        {"title": None},
        {"title": 5},
        {"title": {"luz": "luz"}},
        {"title": [1, "luz", None, ["luz"]]},
        {"body": "luz"},
        {"body": [{"text": "luz"}]},
    ]
    docs.upsert([f"p{i}" for i in range(len(metas))], np.zeros((len(metas), 2)), metas)  # fmt: skip
    assert [hit.id for hit in docs.search_text("luz")] == ["p8"]
    assert docs.index_status()["text"]["documents"] == len(metas)


def test_phrases_need_positions(lab):
    plain = new_collection(lab)
    with pytest.raises(InvalidArgument, match="positions"):
        plain.upsert("a", [0, 0], {"title": "luz de gas"})
        plain.search_text('"luz de gas"')
    docs = lab.create_collection("p", 2, text_fields=["t"], language="es", text_positions=True)
    docs.upsert(["a", "b"], np.zeros((2, 2)), [{"t": "luz de gas"}, {"t": "gas de luz"}])
    assert [hit.id for hit in docs.search_text('"luz de gas"')] == ["a"]


def test_candidates_and_masks_are_in_matrix_rows(lab, docs):
    fill(docs, 40)
    docs.upsert("p3", [0, 0], make_meta(["luz", "luz"]))  # row 40
    docs.update("p5", metas=make_meta(["luz", "luz", "luz"]))
    parts = lab._parts
    rows, scores = texting.text_candidates(parts, "docs", "luz", 100)
    assert rows.dtype == np.int64 and scores.dtype == np.float32
    assert 40 in rows and 3 not in rows and 5 in rows
    assert (np.diff(scores) <= 0).all()
    few = texting.text_candidates(parts, "docs", "luz", 100, rows=np.array([5, 40, 3, 999]))
    assert sorted(few[0].tolist()) == [5, 40]
    with parts.texts.reading("docs"):
        inside = texting.text_candidates(parts, "docs", "luz", 3)
    assert inside[0].tolist() == rows[:3].tolist()
    assert texting.has_text(parts, "docs")
    lab.create_collection("bare", 2)
    assert not texting.has_text(parts, "bare")
    with pytest.raises(NotSupported, match="text_fields"):
        texting.text_candidates(parts, "bare", "luz", 3)
    with pytest.raises(CollectionNotFound):
        texting.text_candidates(parts, "nowhere", "luz", 3)


def test_a_transaction_begun_earlier_joins(lab, docs):
    """Rows of a later moment may be answered there, rows of an earlier one are never invented."""
    fill(docs, 10)
    docs.search_text("luz")
    connection = lab._parts.database.reader()
    connection.execute("BEGIN")
    try:
        connection.execute("SELECT count(*) FROM luma_points").fetchall()
        later = threading.Thread(
            target=lambda: (docs.upsert("late", [0, 0], {"title": "luz"}), docs.search_text("luz"))
        )
        later.start()
        later.join()
        rows, _ = texting.text_candidates(lab._parts, "docs", "luz", 100)
        assert 10 in rows
        assert [hit.id for hit in docs.search_text("luz", 100)].count("late") == 0
        docs.delete("p1")
        docs.compact().result(30)
        later = threading.Thread(target=lambda: docs.search_text("luz"))
        later.start()
        later.join()
        with pytest.raises(Conflict, match="begin it again"):
            docs.search_text("luz")
    finally:
        connection.execute("COMMIT")
    assert [hit.id for hit in docs.search_text("luz", 100)].count("late") == 1


def test_fields_may_have_languages_of_their_own(path):
    fields = {"es": {"weight": 2, "language": "es"}, "en": 1, "raw": {"language": "none"}}
    with Lab(path) as lab:
        docs = lab.create_collection("docs", 2, text_fields=fields, language="en")
        assert docs.info().text_fields == {"es": 2.0, "en": 1.0, "raw": 1.0}
        assert docs.info().field_languages == {"es": "es", "raw": "none"}
        docs.upsert("a", [0, 1], {"es": "las campañas", "en": "running dogs"})
        docs.upsert("b", [0, 1], {"es": "running dogs", "raw": "dogs"})
    with Lab(path) as lab:
        docs = lab.collection("docs")
        assert [hit.id for hit in docs.search_text("campaña")] == ["a"]
        assert [hit.id for hit in docs.search_text("run")] == ["a"]
        (hit,) = docs.search_text("campana run", highlight=True)
        assert hit.highlights["es"].html == "las <mark>campañas</mark>"
        assert hit.highlights["en"].html == "<mark>running</mark> dogs"
        assert docs.analyze("running", "raw")[0].forms == ("running",)
        with pytest.raises(UnknownName, match="field 'x'"):
            docs.analyze("running", "x")


def test_analyze_shows_the_forms(docs):
    assert [token.forms for token in docs.analyze("Los años")][1] == ("años", "año", "ano")


@pytest.mark.parametrize(
    ("options", "error", "says"),
    [
        ({"text_fields": "title"}, InvalidArgument, "list of dotted paths"),
        ({"text_fields": []}, InvalidArgument, "0 text_fields"),
        ({"text_fields": [5]}, InvalidArgument, "dotted path"),
        ({"text_fields": ["a", "a"]}, InvalidArgument, "twice"),
        ({"text_fields": ["a..b"]}, InvalidFilter, "a..b"),
        ({"text_fields": {"a": -1}}, InvalidArgument, "weight of field 'a'"),
        ({"text_fields": {"a": math.nan}}, InvalidArgument, "weight of field 'a'"),
        ({"text_fields": {"a": "1"}}, InvalidArgument, "weight of text field 'a'"),
        ({"text_fields": ["a"], "language": "klingon"}, UnknownName, "language 'klingon'"),
        ({"text_fields": ["a"], "language": 5}, InvalidArgument, "language"),
        ({"text_fields": ["a"], "text_variant": "bm26"}, UnknownName, "bm26"),
        ({"text_fields": ["a"], "k1": -1}, InvalidArgument, "k1"),
        ({"text_fields": ["a"], "k1": math.nan}, InvalidArgument, "k1"),
        ({"text_fields": ["a"], "b": 1.5}, InvalidArgument, "b="),
        ({"text_fields": ["a"], "stop_words": 5}, InvalidArgument, "stop_words"),
        ({"text_fields": ["a"], "text_positions": "yes"}, InvalidArgument, "positions"),
        ({"text_fields": {"a": {"language": "xx"}}}, UnknownName, "'xx'"),
        ({"text_fields": {"a": {"wait": 2}}}, UnknownName, "'wait'"),
        ({"text_fields": {"a": {"weight": None}}}, InvalidArgument, "weight of text field 'a'"),
        ({"language": "es"}, InvalidArgument, "without text_fields"),
        ({"k1": 1.0}, InvalidArgument, "without text_fields"),
    ],
)
def test_bad_settings_are_refused_and_change_nothing(lab, docs, options, error, says):
    with pytest.raises(error, match=says):
        lab.create_collection("new", 2, **options)
    options = dict(options)
    if "text_fields" in options:
        with pytest.raises(error, match=says):
            docs.set_text_fields(**options)
    assert [c.name for c in lab.collections()] == ["docs"]
    assert docs.info().text_fields == FIELDS


@pytest.mark.parametrize(
    ("options", "error", "says"),
    [
        ({"query": 5}, InvalidArgument, "query is a int"),
        ({"query": None}, InvalidArgument, "query"),
        ({"k": 0}, InvalidArgument, "invalid k"),
        ({"k": True}, InvalidArgument, "invalid k"),
        ({"facets": "tag"}, InvalidArgument, "facets"),
        ({"facets": ["a..b"]}, InvalidFilter, "a..b"),
        ({"facets": ["a"], "facet_size": 0}, InvalidArgument, "facet_size"),
        ({"facets": ["a"] * 17}, InvalidArgument, "17 facets"),
        ({"sort": "-"}, InvalidArgument, "sort"),
        ({"sort": 5}, InvalidArgument, "sort"),
        ({"group_by": 5}, InvalidArgument, "group_by"),
        ({"group_by": "a", "group_limit": 0}, InvalidArgument, "group_limit"),
        ({"min_score": math.nan}, InvalidArgument, "min_score"),
        ({"filter": {"$no": 1}}, InvalidFilter, "no"),
        ({"query": '"open quote'}, InvalidArgument, "not closed"),
        ({"query": " ".join(f"w{i}" for i in range(5000))}, InvalidArgument, "distinct words"),
    ],
)
def test_bad_searches_are_refused_by_name(docs, options, error, says):
    fill(docs, 5)
    with pytest.raises(error, match=says):
        docs.search_text(**{"query": "luz", **options})


@pytest.mark.parametrize(
    "query", ["", " ", "!?", "-luz", "\ud800", "a\ud800b", "\x00", "+", "*", "~", "luz\udfff " * 9]
)
def test_odd_queries_are_answered(docs, query):
    docs.upsert("a", [0, 0], {"title": "luz a b"})
    assert {hit.id for hit in docs.search_text(query)} <= {"a"}


def test_stop_words_alone_find_nothing(lab):
    docs = lab.create_collection("s", 2, text_fields=["t"], language="es", stop_words=True)
    docs.upsert("a", [0, 0], {"t": "la luz de la casa"})
    assert docs.search_text("de la") == []
    assert len(docs.search_text("la luz")) == 1


def test_a_megabyte_of_one_word_is_a_query(docs):
    docs.upsert("a", [0, 0], {"title": "luz"})
    assert len(docs.search_text("luz " * 250_000)) == 1


def test_a_prefix_of_too_many_words_is_refused(lab):
    docs = lab.create_collection("w", 2, text_fields=["t"], language="none")
    docs.upsert("a", [0, 0], {"t": " ".join(f"w{i}" for i in range(3000))})
    with pytest.raises(InvalidArgument, match="stands for 3000 words"):
        docs.search_text("w*")
    assert len(docs.search_text("w29*")) == 1


def test_an_unbuilt_lab_costs_nothing_to_look_at(docs):
    fill(docs, 5)
    status = docs.index_status()["text"]
    assert status["documents"] == 5 and status["memory_bytes"] == 0
    docs.search_text("luz")
    status = docs.index_status()["text"]
    assert status["memory_bytes"] > 0 and status["segments"] == 1 and status["terms"] > 3
    assert status["language"] == "es" and status["fields"] == FIELDS


def test_a_time_limit_stops_the_first_search_but_not_the_next(docs, eager):
    metas = fill(docs, 40)
    with pytest.raises(WaitTimeout), deadline.limited(0.0):
        docs.search_text("luz", 100)
    with docs._parts.texts._cache(1).lock:
        waiting = threading.Thread(target=lambda: errors.append(limited_search(docs)))
        errors = []
        waiting.start()
        waiting.join()
    assert isinstance(errors[0], WaitTimeout) and "still being made" in str(errors[0])
    found = {hit.id for hit in docs.search_text("luz", 100)}
    assert found == {id for id, m in metas.items() if "luz" in str(m) or "luces" in str(m)}


def limited_search(docs):
    try:
        with deadline.limited(0.05):
            return docs.search_text("luz")
    except WaitTimeout as error:
        return error


def test_verify_names_a_damaged_text_index(path, eager):
    with Lab(path) as lab:
        fill(new_collection(lab), 30)
        tend(lab)
        assert lab.verify().ok and lab.verify().checked["text indexes"] == 1
        file = max(lab.path.glob("collections/1/index/text-*/s0_rows-*.npy"))
        file.write_bytes(file.read_bytes()[:-1])
        (problem,) = lab.verify().problems
        assert "'docs'" in problem and "text-" in problem


def test_a_full_disk_leaves_the_index_that_was_saved(path, eager, monkeypatch, caplog):
    with Lab(path) as lab:
        docs = new_collection(lab)
        fill(docs, 20)
        tend(lab)
        saved = text_directories(lab)

        def full(*_):
            raise StoreFull("no space left")

        monkeypatch.setattr(text_files, "save_arrays", full)
        fill(docs, 20, first=20)
        docs.search_text("luz")
        tend(lab)
        assert text_directories(lab) == saved and "was not saved" in caplog.text
        assert len(docs.search_text("luz gas campaña", 99)) > 20
