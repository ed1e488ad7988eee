"""A collection's embedder: vectors made of texts, stamped, and never mixed with another's."""

import shutil
import threading

import numpy as np
import pytest
from embedding_server import EmbeddingServer, vector_of

import luma_lab as luma
from luma_lab.engine import embedding, refitting
from luma_lab.engine.embedders import PROBE, ObjectEmbedder
from luma_lab.engine.embedders_http import HttpEmbedder
from luma_lab.errors import (
    Cancelled,
    Conflict,
    CorruptStore,
    DimensionMismatch,
    EmbedderFailed,
    EmbedderMismatch,
    EmbedderUnavailable,
    InvalidArgument,
    NotSupported,
    UnknownName,
)

DIM = 8
TEXTS = [
    "the cat sat on the mat", "a dog sat by the cat", "the dog chased a cat", "cats and dogs play",
    "stocks fell as markets closed", "markets rose and stocks gained", "traders sold stocks",
]  # fmt: skip
METAS = [{"text": text, "n": n} for n, text in enumerate(TEXTS)]
IDS = [f"p{n}" for n in range(len(TEXTS))]


class Model:
    """A made-up model: texts that share words are near each other."""

    def __init__(self, dim=DIM, turn=1, name="model"):
        self.dim_, self.turn, self.model_name, self.asked = dim, turn, name, []

    def encode(self, texts):
        self.asked += texts
        return np.array([vector_of(t, self.dim_)[:: self.turn] for t in texts])


def expected(texts, turn=1):
    return np.array([vector_of(t, DIM)[::turn] for t in texts], np.float32)


@pytest.fixture
def docs(lab):
    return lab.create_collection("docs", DIM)


@pytest.fixture
def learned(docs):
    docs.use_embedder("lsa", fields=["text"])
    docs.upsert(IDS, metas=METAS)
    docs.fit_embedder().result(20)
    return docs


def vectors_of(collection):
    return {id: v for id, v in zip(*collection.snapshot()[:2], strict=True)}


def test_points_without_a_vector_get_that_of_their_text(docs):
    model = Model()
    docs.use_embedder(model, fields=["text", "more.title"])
    docs.upsert("a", metas={"text": "cat", "more": {"title": ["a", "b", 3]}})
    docs.add(["b", "c"], metas=METAS[:2])
    docs.upsert("d", np.ones(DIM), {"text": "given"})
    assert model.asked[-3:] == ["cat\na\nb", *TEXTS[:2]]
    assert np.array_equal(docs.get("a").vector, expected(["cat\na\nb"])[0])
    assert np.array_equal(docs.get("c").vector, expected(TEXTS)[1])
    assert docs.get("d").vector.tolist() == [1] * DIM
    results = docs.write_each("upsert", [("e", None, METAS[0]), ("f", None, None)])
    assert results[0].count == 1 and "f" not in docs
    assert isinstance(results[1], InvalidArgument) and "neither a vector nor" in str(results[1])
    assert np.array_equal(docs.get("e").vector, expected(TEXTS)[0])


def test_a_text_is_a_query(docs):
    docs.use_embedder(Model(), fields=["text"])
    docs.upsert(IDS, metas=METAS)
    found = docs.search("the cat sat on the mat", 3, filter={"n": {"$gt": -1}})
    assert found[0].id == "p0" and found[0].score == pytest.approx(1)
    many = docs.search_many(TEXTS, 2)
    assert [hits[0].id for hits in many] == IDS
    assert many == docs.search_many(expected(TEXTS), 2)


def test_a_changed_text_changes_the_vector(docs):
    docs.use_embedder(Model(), fields=["text"])
    docs.upsert(IDS, metas=METAS)
    docs.update("p0", metas={"text": "dogs"})
    assert np.array_equal(docs.get("p0").vector, expected(["dogs"])[0])
    docs.update("p1", vectors=np.ones(DIM))
    assert docs.get("p1").meta == METAS[1]
    assert docs.write_each("update", [("p2", None, {"text": "x"})])[0].count == 1
    assert np.array_equal(docs.get("p2").vector, expected(["x"])[0])


def test_no_text_changes_without_its_vector_inside_a_transaction(lab, docs):
    docs.use_embedder(Model(), fields=["text"])
    docs.upsert("a", metas={"text": "cat", "n": 1})
    with lab.transaction() as tx:
        tx.collection("docs").update("a", metas={"text": "cat", "n": 2})
    assert docs.get("a").meta["n"] == 2
    with pytest.raises(InvalidArgument, match="'a' would change without its vector"):
        with lab.transaction() as tx:
            tx.collection("docs").update("a", metas={"text": "dog"})
    update = {"op": "vector.update", "collection": "docs", "id": "a", "meta": {"text": "dog"}}
    with pytest.raises(InvalidArgument, match="would change without its vector"):
        lab.apply([update])
    lab.apply([{**update, "vector": [1.0] * DIM}])
    assert docs.get("a").meta == {"text": "dog"}


def test_another_model_is_refused_by_name_and_by_its_vectors(tmp_path):
    with luma.open(tmp_path / "lab") as lab:
        docs = lab.create_collection("docs", DIM)
        docs.use_embedder(Model(), fields=["text"])
        docs.upsert(IDS, metas=METAS)
    with luma.open(tmp_path / "lab") as lab:
        docs = lab.collection("docs")
        for use in (lambda: docs.search("cat"), lambda: docs.upsert("z", metas=METAS[0])):
            with pytest.raises(Conflict, match="made by model/8, which this process was not given"):
                use()
        with pytest.raises(EmbedderMismatch, match="made by model/8, not by other/8"):
            docs.use_embedder(Model(name="other"))
        with pytest.raises(EmbedderMismatch, match="same name, with other vectors"):
            docs.use_embedder(Model(turn=-1))
        with pytest.raises(Conflict, match="fields .'text'., not .'title'."):
            docs.use_embedder(Model(), fields=["title"])
        docs.use_embedder(Model())
        assert docs.search("traders sold stocks", 1)[0].id == "p6"


def test_a_model_can_be_replaced_and_every_vector_with_it(docs):
    docs.use_embedder(Model(), fields=["text"])
    docs.upsert(IDS, metas=METAS)
    before = docs.info().applied_offset
    job = docs.use_embedder(Model(turn=-1, name="turned"), replace=True)
    assert job.result(20)["points"] == len(IDS)
    assert vectors_of(docs).keys() == set(IDS)
    for id, vector in zip(IDS, expected(TEXTS, -1), strict=True):
        assert np.array_equal(docs.get(id).vector, vector)
        assert docs.get(id).meta["text"] in TEXTS
    assert docs.embedder.name == "turned"
    assert docs.info().applied_offset >= before + len(IDS) + 1


def test_a_replacement_that_fails_changes_nothing(docs):
    docs.use_embedder(Model(), fields=["text"])
    docs.upsert(IDS, metas=METAS)
    broken = Model(name="broken")
    job_of = ObjectEmbedder(broken)
    broken.encode = None
    job_of._method = lambda texts: 1 / 0 if len(texts) > 1 else Model().encode(texts)
    job = docs.use_embedder(job_of, replace=True)
    with pytest.raises(EmbedderFailed, match="ZeroDivisionError"):
        job.result(20)
    assert docs.embedder.name == "model"
    assert np.array_equal(docs.get("p0").vector, expected(TEXTS)[0])
    docs.upsert("bare", np.ones(DIM))
    with pytest.raises(InvalidArgument, match="'bare' has no text"):
        docs.use_embedder(Model(turn=-1), replace=True).result(20)


def test_points_written_while_all_are_embedded_are_not_forgotten(docs):
    docs.use_embedder(Model(), fields=["text"])
    docs.upsert(IDS, metas=METAS)
    started, go_on = threading.Event(), threading.Event()

    class Slow(Model):
        def encode(self, texts):
            if len(texts) == len(TEXTS):
                started.set()
                go_on.wait(20)
            return super().encode(texts)

    job = docs.use_embedder(Slow(turn=-1, name="slow"), replace=True)
    assert started.wait(20)
    docs.upsert("new", metas={"text": "a new one"})
    docs.upsert("p1", metas={"text": "changed"})
    docs.delete("p2")
    go_on.set()
    job.result(20)
    texts = {**dict(zip(IDS, TEXTS, strict=True)), "new": "a new one", "p1": "changed"}
    del texts["p2"]
    found = vectors_of(docs)
    assert found.keys() == texts.keys()
    for id, text in texts.items():
        assert np.array_equal(found[id], expected([text], -1)[0])


def test_lsa_learns_from_the_collection_and_is_saved_with_it(tmp_path):
    with luma.open(tmp_path / "lab") as lab:
        docs = lab.create_collection("docs", DIM)
        docs.use_embedder("lsa", fields=["text"])
        docs.upsert(IDS, metas=METAS)
        assert docs.embedder is None and not vectors_of(docs)["p0"].any()
        with pytest.raises(Conflict, match="not fitted yet"):
            docs.search("cat")
        result = docs.fit_embedder().result(20)
        assert result["points"] == len(IDS) and result["fingerprint"] == docs.embedder.fingerprint
        before = docs.search("traders", 3)
        assert before[0].id == "p6" and before[0].score > 0.5
        assert lab.verify().ok and lab.verify().checked["embedders"] == 1
    with luma.open(tmp_path / "lab") as lab:
        docs = lab.collection("docs")
        assert docs.search("traders", 3) == before
        docs.upsert("new", metas={"text": "stocks and markets"})
        assert docs.search("stocks and markets", 1)[0].id == "new"
        docs.upsert("bare", metas={"n": 1})
        assert not docs.get("bare").vector.any()


def test_vectors_of_another_model_are_refused_where_lsa_makes_them(lab, learned):
    for write in (
        lambda: learned.upsert("x", np.ones(DIM), {"text": "x"}),
        lambda: learned.update("p0", np.ones(DIM)),
        lambda: lab.apply(
            [{"op": "vector.upsert", "collection": "docs", "id": "x", "vector": [1.0] * DIM}]
        ),
    ):
        with pytest.raises(InvalidArgument, match="made of its texts by lsa-en-8"):
            write()
    assert "x" not in learned


def test_vectors_someone_gave_are_not_replaced_unasked(docs):
    docs.upsert(IDS, expected(TEXTS), METAS)
    for fit in (
        lambda **o: docs.fit_embedder(fields=["text"], **o),
        lambda **o: docs.use_embedder("lsa", fields=["text"], **o),
    ):
        with pytest.raises(Conflict, match="replaces every one of them"):
            fit()
    assert np.array_equal(docs.get("p0").vector, expected(TEXTS)[0])
    docs.fit_embedder(fields=["text"], replace=True).result(20)
    assert docs.embedder.name == "lsa-en-8"
    with pytest.raises(EmbedderMismatch, match="made by lsa-en-8-.*, not by model/8"):
        docs.use_embedder(Model())
    docs.use_embedder(Model(), replace=True).result(20)
    assert np.array_equal(docs.get("p0").vector, expected(TEXTS)[0])


def test_lsa_is_fitted_unasked_and_again_when_points_double(lab, docs, monkeypatch):
    monkeypatch.setattr(refitting, "FIRST_POINTS", 4)
    parts, ends = docs._parts, []

    def follow():
        for job in refitting.follow_texts(parts):
            job.result(20)
            ends.append(len(docs))

    lab._upkeep.close()  # its thread would do the same, when it likes
    docs.use_embedder("lsa", fields=["text"])
    for n in range(20):
        docs.upsert(str(n), metas=METAS[n % len(METAS)])
        follow()
    assert ends == [4, 8, 16]
    assert docs.search("traders", 1)[0].meta["text"] == "traders sold stocks"
    homes = list(parts.matrices.directory(parts.follower.row("docs").uid).glob("embedder-*"))
    assert len(homes) == 1


def test_texts_without_words_are_not_fitted_again_and_again(lab, docs, monkeypatch):
    monkeypatch.setattr(refitting, "FIRST_POINTS", 2)
    lab._upkeep.close()
    docs.use_embedder("lsa", fields=["text"])
    docs.upsert(["a", "b"], metas=[{"text": "..."}, {}])
    (job,) = refitting.follow_texts(docs._parts)
    with pytest.raises(InvalidArgument, match="no text holds a word"):
        job.result(20)
    assert refitting.follow_texts(docs._parts) == []
    docs.upsert(["c", "d"], metas=METAS[:2])
    (job,) = refitting.follow_texts(docs._parts)
    job.result(20)


def test_searches_and_writes_meanwhile_never_meet_two_models(learned):
    """Whatever a search embeds, it meets vectors of the same fit: its own text scores 1."""
    stop, wrong = threading.Event(), []

    def search():
        while not stop.is_set():
            scores = {hit.id: hit.score for hit in learned.search(TEXTS[6], 100)}
            if abs(scores["p6"] - 1) > 1e-3:
                wrong.append(scores)

    def write():
        n = 0
        while not stop.is_set():
            learned.upsert(f"w{n % 30}", metas={"text": f"cats {n} and dogs {n % 7}"})
            n += 1

    threads = [threading.Thread(target=work) for work in (search, write)]
    for thread in threads:
        thread.start()
    for _ in range(6):
        learned.fit_embedder().result(30)
    stop.set()
    for thread in threads:
        thread.join()
    assert not wrong
    made = learned.embedder
    for id, vector in vectors_of(learned).items():
        text = learned.get(id).meta["text"]
        np.testing.assert_allclose(vector, made.embed([text])[0], atol=1e-6)


def test_two_fits_come_one_after_the_other(learned):
    jobs = [learned.fit_embedder() for _ in range(3)]
    assert [job.result(30)["points"] for job in jobs] == [len(IDS)] * 3
    lease = refitting._Leased(learned._parts, 1, jobs[0])
    with lease:
        waiting = learned.fit_embedder()
        unasked = refitting.fit(learned._parts, "docs", unasked=True)
        assert unasked.result(30) is None
        waiting.cancel()
        with pytest.raises(Cancelled):
            waiting.result(30)
    assert learned.fit_embedder().result(30)


def test_a_fit_survives_compaction_and_compaction_a_fit(learned):
    before = learned.search("traders", 7)
    learned.compact().result(30)
    assert learned.search("traders", 7) == before
    learned.upsert("new", metas={"text": "traders and cats"})
    for _ in range(3):
        for job in [learned.fit_embedder(), learned.compact()]:
            job.result(30)
    made = learned.embedder
    for id, vector in vectors_of(learned).items():
        np.testing.assert_allclose(vector, made.embed([learned.get(id).meta["text"]])[0], atol=1e-6)


def test_another_process_sees_the_new_fit(tmp_path):
    with luma.open(tmp_path / "lab") as one, luma.open(tmp_path / "lab") as two:
        docs = one.create_collection("docs", DIM)
        docs.use_embedder("lsa", fields=["text"])
        docs.upsert(IDS, metas=METAS)
        docs.fit_embedder().result(20)
        other = two.collection("docs")
        assert other.search("traders", 3) == docs.search("traders", 3)
        docs.upsert("more", metas={"text": "traders and cats"})
        docs.fit_embedder().result(20)
        assert other.search("traders", 3) == docs.search("traders", 3)
        other.upsert("x", metas={"text": "cat"})
        assert docs.search("cat", 1)[0].score == pytest.approx(1, abs=1e-3)


def test_a_damaged_lsa_is_named_and_can_be_fitted_anew(tmp_path):
    with luma.open(tmp_path / "lab") as lab:
        docs = lab.create_collection("docs", DIM)
        docs.use_embedder("lsa", fields=["text"])
        docs.upsert(IDS, metas=METAS)
        docs.fit_embedder().result(20)
    file = next((tmp_path / "lab").rglob("components-*.npy"))
    file.write_bytes(file.read_bytes()[:-1] + b"x")
    with luma.open(tmp_path / "lab") as lab:
        docs = lab.collection("docs")
        assert any("its embedder" in problem for problem in lab.verify().problems)
        with pytest.raises(CorruptStore, match="does not match its checksum"):
            docs.search("cat")
        assert docs.get("p0").meta == METAS[0]
        docs.fit_embedder().result(20)
        assert docs.search("traders", 3) and lab.verify().ok


def test_orphaned_embedders_are_removed_at_open(tmp_path):
    with luma.open(tmp_path / "lab") as lab:
        docs = lab.create_collection("docs", DIM)
        docs.use_embedder("lsa", fields=["text"])
        docs.upsert(IDS, metas=METAS)
        docs.fit_embedder().result(20)
        kept = next((tmp_path / "lab").rglob("embedder-*"))
        (kept.parent / "embedder-9999").mkdir()
    with luma.open(tmp_path / "lab") as lab:
        assert [d.name for d in (tmp_path / "lab").rglob("embedder-*")] == [kept.name]
        assert lab.collection("docs").search("cat")


def test_an_endpoint_is_asked_once_for_each_text(tmp_path):
    with EmbeddingServer() as server:
        with luma.open(tmp_path / "lab") as lab:
            docs = lab.create_collection("docs", server.dim)
            docs.use_embedder(HttpEmbedder(server.url, "m"), fields=["text"])
            docs.upsert(IDS, metas=METAS)
            asked = len(server.texts)
            again = docs.search("cats", 2)
            assert docs.search("cats", 2) == again
            assert server.texts[asked:] == ["cats"]
            with lab.transaction(), pytest.raises(InvalidArgument, match="inside a write"):
                docs.search("dogs", 1)
            copy = "CREATE TABLE t AS SELECT id FROM hybrid_search('docs', 'x', NULL, 3)"
            with pytest.raises(InvalidArgument, match="inside a write"):
                lab.sql.execute(copy)
        with luma.open(tmp_path / "lab") as lab:
            docs, before = lab.collection("docs"), len(server.texts)
            docs.use_embedder(HttpEmbedder(server.url, "m", dim=server.dim))
            docs.upsert(IDS, metas=METAS)
            assert docs.search("cats", 2) == again
            assert server.texts[before:] == [PROBE]
            other = lab.create_collection("other", server.dim)
            other.use_embedder(HttpEmbedder(server.url, "m2"), fields=["text"])
            other.upsert("a", metas={"text": "cats"})
            assert server.texts[before:].count("cats") == 1
            server.script += [500] * 9
            with pytest.raises(EmbedderUnavailable):
                other._parts.embedders[2]._sleep = lambda seconds: None
                other.upsert("b", metas={"text": "never seen"})
            assert "b" not in other


def test_the_cache_keeps_the_newest(lab, monkeypatch):
    monkeypatch.setattr(embedding, "CACHE_BYTES", 4 * DIM * 3)
    docs = lab.create_collection("docs", DIM)
    model = Model()
    docs.use_embedder(ObjectEmbedder(model, cacheable=True), fields=["text"])
    for text in ("one", "two", "three", "four"):
        docs.upsert(text, metas={"text": text})
    model.asked.clear()
    docs.search_many(["four", "three", "one", "four"])
    assert model.asked == ["one"]


def test_bad_input_is_named_and_changes_nothing(lab, docs):
    head = lab.head
    for call, kind, named in (
        (lambda: docs.use_embedder(Model(), fields=None), InvalidArgument, "fields is missing"),
        (lambda: docs.use_embedder(Model(), fields="text"), InvalidArgument, "fields is 'text'"),
        (lambda: docs.use_embedder(Model(), fields=[1]), InvalidArgument, "fields holds 1"),
        (lambda: docs.use_embedder(Model(5), fields=["t"]), DimensionMismatch, "got 5 .* wants 8"),
        (lambda: docs.use_embedder("lsi", fields=["t"]), UnknownName, "unknown embedder 'lsi'"),
        (lambda: docs.use_embedder(3), InvalidArgument, "int is no embedder"),
        (lambda: docs.fit_embedder("word2vec"), UnknownName, "embedder to fit"),
        (
            lambda: docs.use_embedder("lsa", fields=["t"], language="xx"),
            UnknownName,
            "language",
        ),
        (lambda: docs.search("cat"), NotSupported, "needs an embedder"),
        (lambda: docs.upsert("a", metas={"text": "x"}), InvalidArgument, "vectors are missing"),
    ):
        with pytest.raises(kind, match=named):
            call()
    assert lab.head == head
    docs.use_embedder(Model(), fields=["text"])
    with pytest.raises(InvalidArgument, match="a query is a int"):
        docs.search_many(["cat", 3])
    with pytest.raises(InvalidArgument, match="2 ids: expected one for each"):
        docs.upsert(["a", "b"], metas=[{"text": "x"}])
    assert len(docs) == 0


def test_vectors_kept_of_a_model_of_the_same_name_are_not_taken_for_another_ones(docs):
    old, new = (ObjectEmbedder(Model(turn=turn), cacheable=True) for turn in (1, -1))
    docs.use_embedder(old, fields=["text"])
    docs.upsert(IDS, metas=METAS)
    with pytest.raises(EmbedderMismatch):
        docs.use_embedder(new, fields=["text"])
    docs.use_embedder(new, fields=["text"], replace=True).result(20)
    stored = np.stack([point.vector for point in docs.get_many(IDS)])
    np.testing.assert_allclose(stored, expected(TEXTS, -1), rtol=1e-6)


def test_a_fit_that_fails_behind_its_commit_keeps_what_it_committed(path, monkeypatch):
    with luma.open(path) as lab:
        docs = lab.create_collection("docs", DIM)
        docs.use_embedder("lsa", fields=["text"])
        docs.upsert(IDS, metas=METAS)

        def fail(*args):
            raise OSError("disk I/O error")

        monkeypatch.setattr(refitting, "_settle", fail)
        with pytest.raises(OSError, match="disk"):
            docs.fit_embedder().result(20)
        monkeypatch.undo()
        assert len(docs.search("cats and dogs", 3)) == 3
    with luma.open(path) as lab:
        assert len(lab.collection("docs").search("cats and dogs", 3)) == 3


def test_an_embedder_swept_away_before_its_commit_is_not_committed(path, monkeypatch):
    with luma.open(path) as lab:
        docs = lab.create_collection("docs", DIM)
        docs.use_embedder("lsa", fields=["text"])
        docs.upsert(IDS, metas=METAS)
        original = refitting._switch

        def sweep_first(parts, uid, *rest):
            for left in parts.matrices.directory(uid).glob("embedder-*"):
                shutil.rmtree(left)
            return original(parts, uid, *rest)

        monkeypatch.setattr(refitting, "_switch", sweep_first)
        with pytest.raises(Conflict, match="removed by another process"):
            docs.fit_embedder().result(20)
        monkeypatch.undo()
        docs.fit_embedder().result(20)
        assert len(docs.search("cats and dogs", 3)) == 3


def test_the_embedder_of_a_dropped_collection_is_let_go(lab, learned):
    uid = lab._parts.follower.row("docs").uid
    assert uid in lab._parts.embedders
    lab.drop_collection("docs")
    refitting.follow_texts(lab._parts)
    assert uid not in lab._parts.embedders
