"""Collection.search_range against brute force: every acknowledged point that scores enough."""

import threading

import numpy as np
import pytest

from luma_lab import errors
from luma_lab.engine import ranging

DIM, COUNT = 20, 5000


def scores_of(vectors, query, metric):
    vectors, query = vectors.astype(np.float64), query.astype(np.float64)
    if metric == "l2":
        return -((vectors - query) ** 2).sum(1)
    if metric == "cosine":
        query = query / np.linalg.norm(query)
        return vectors @ query / np.linalg.norm(vectors, axis=1)
    return vectors @ query


def between(scores, count):
    """Return a score that `count` points reach, between two scores."""
    order = np.sort(scores)[::-1]
    return float(order[count - 1] + order[count]) / 2


class Filled:
    """A collection and what is in it: vectors and meta by id."""

    def __init__(self, lab, metric, kind, tail, centres=1):
        chance = np.random.default_rng(1)
        self.docs = lab.create_collection("docs", DIM, metric)
        vectors = chance.normal(size=(COUNT, DIM)).astype(np.float32)
        vectors += np.repeat(4 * np.arange(centres), COUNT // centres)[:, None] % np.arange(3, 23)
        self.vectors = {f"p{i}": v for i, v in enumerate(vectors)}
        self.metas = {id: {"n": i % 10} for i, id in enumerate(self.vectors)}
        ids = list(self.vectors)
        self.docs.upsert(ids, vectors, list(self.metas.values()))
        if kind:
            self.docs.build_index(kind).result(120)
        if tail:
            moved = chance.normal(size=(50, DIM)).astype(np.float32)
            self.docs.upsert(ids[:50], moved, [{"n": 3}] * 50)
            for id, vector in zip(ids[:50], moved, strict=True):
                self.vectors[id], self.metas[id] = vector, {"n": 3}
            self.docs.delete(ids[50:150])
            for id in ids[50:150]:
                del self.vectors[id], self.metas[id]
        self.query = chance.normal(size=DIM).astype(np.float32)
        self.ids = list(self.vectors)
        self.scores = scores_of(np.stack(list(self.vectors.values())), self.query, metric)

    def expected(self, min_score, keep=lambda meta: True):
        """Return the ids that score enough, best first."""
        order = np.argsort(-self.scores, kind="stable")
        kept = [self.ids[i] for i in order if self.scores[i] >= min_score]
        return [id for id in kept if keep(self.metas[id])]


@pytest.fixture(
    params=[
        ("cosine", None, False), ("l2", "vamana", True), ("dot", "vamana", True),
        ("cosine", "vamana", False), ("cosine", "ivf", True), ("l2", "ivf", False),
        ("cosine", "diskann", True),
    ],
    ids=lambda given: "-".join(map(str, given)),
)  # fmt: skip
def filled(request, lab):
    return Filled(lab, *request.param)


def test_all_points_that_score_enough_are_found_best_first(filled):
    docs, query = filled.docs, filled.query
    for count in (1, 20, 400):
        min_score = between(filled.scores, count)
        expected = filled.expected(min_score)
        exact = docs.search_range(query, min_score, exact=True, explain=True)
        assert {h.id for h in exact} == {*expected} and len(exact) == count
        assert exact.receipt["exact"]
        hits = docs.search_range(query, min_score, include_vector=True, explain=True)
        assert len(hits) >= 0.95 * count
        assert {h.id for h in hits} <= {*expected}
        assert (np.diff([h.score for h in hits]) <= 0).all()
        if hits.receipt["exact"]:
            assert len(hits) == count
        for hit in hits:
            assert hit.meta == filled.metas[hit.id]
            assert (hit.vector == filled.vectors[hit.id]).all()
            score = filled.scores[filled.ids.index(hit.id)]
            assert hit.score == pytest.approx(score, rel=1e-4, abs=1e-5)
        assert hits.receipt["candidates"] == len(hits) and not hits.receipt["truncated"]


def test_filters_are_kept_to(filled):
    docs, query = filled.docs, filled.query
    min_score = between(filled.scores, 300)
    for given, keep in (
        ({"n": 3}, lambda meta: meta["n"] == 3),
        ("n != 7", lambda meta: meta["n"] != 7),
        ({"n": 99}, lambda meta: False),
    ):
        expected = filled.expected(min_score, keep)
        hits = docs.search_range(query, min_score, filter=given, explain=True)
        assert {h.id for h in hits} <= {*expected} and len(hits) >= 0.95 * len(expected)
        assert hits.receipt["matches"] == sum(map(keep, filled.metas.values()))
        assert hits.receipt["strategy"].startswith("filter+")
        exact = docs.search_range(query, min_score, filter=given, exact=True)
        assert sorted(hit.id for hit in exact) == sorted(expected)


def test_a_limit_keeps_the_best_and_the_receipt_tells(filled):
    docs, query = filled.docs, filled.query
    everything = docs.search_range(query, -np.inf, limit=100_000, explain=True)
    assert sorted(hit.id for hit in everything) == sorted(filled.ids)
    assert (np.diff([hit.score for hit in everything]) <= 0).all()
    assert everything.truncated is everything.receipt["truncated"] is False
    cut = docs.search_range(query, -np.inf, explain=True)
    assert cut == everything[:1000] and cut.truncated and cut.receipt["truncated"]
    assert cut.receipt["params"]["limit"] == 1000
    edge = docs.search_range(query, -np.inf, limit=len(everything), explain=True)
    assert edge == everything and not edge.receipt["truncated"]
    assert docs.search_range(query, -np.inf, limit=2**40) == everything
    assert docs.search_range(query, np.inf) == []
    assert docs.search_range(query, 1e300) == []


@pytest.mark.parametrize(("kind", "word"), [("vamana", "walk"), ("ivf", "probe")])
def test_the_receipt_says_what_answered(lab, kind, word):
    filled = Filled(lab, "l2", kind, False, centres=50)
    docs, query = filled.docs, filled.query
    few = docs.search_range(query, between(filled.scores, 20), explain=True)
    assert (few.receipt["strategy"], few.receipt["kind"]) == (word, kind)
    assert not few.receipt["exact"] and 0 < few.receipt["comparisons"] < COUNT
    assert few.receipt["fingerprint"] and few.receipt["hops"]
    own = {"vamana": {"search_list_size": 64}, "ivf": {"nprobe": 16}}[kind]
    assert own.items() < few.receipt["params"].items()
    assert set(few.receipt["params"]) == {*own, "min_score", "limit"}
    # Too much is within: the walk is given up, and all points are compared.
    if kind == "vamana":
        everything = docs.search_range(query, -np.inf, explain=True, limit=COUNT)
        assert everything.receipt["hops"] and everything.receipt["comparisons"] > COUNT
        assert everything.receipt["strategy"] == "exact" and everything.receipt["exact"]
        assert everything.receipt["kind"] == "flat" and not everything.receipt["fingerprint"]
        assert len(everything) == COUNT
    narrow = docs.search_range(query, -30.0, filter={"n": 3}, explain=True)
    assert narrow.receipt["strategy"] == "filter+exact" and narrow.receipt["exact"]
    docs.upsert(["new"], query[None], [{"n": 3}])
    hits = docs.search_range(query, between(filled.scores, 20), explain=True)
    assert hits[0].id == "new" and hits.receipt["strategy"] == f"{word}+tail"


def test_a_graph_on_disk_answers_by_reading_few_records(lab):
    chance = np.random.default_rng(2)
    vectors = (chance.normal(size=(3001, 10)) @ chance.normal(size=(10, 300))).astype(np.float32)
    docs, query = lab.create_collection("docs", 300, "cosine"), vectors[3000]
    docs.upsert([f"p{i}" for i in range(3000)], vectors[:3000])
    docs.build_index("diskann").result(120)
    scores = scores_of(vectors[:3000], query, "cosine")
    hits = docs.search_range(query, between(scores, 10), explain=True)
    expected = [f"p{i}" for i in np.argsort(-scores)[:10]]
    assert len(hits) >= 9 and {hit.id for hit in hits} <= {*expected}
    receipt = hits.receipt
    assert (receipt["strategy"], receipt["kind"], receipt["exact"]) == ("walk", "diskann", False)
    assert 0 < receipt["reads"] < 300 and receipt["hops"] and receipt["comparisons"] < 3000
    own = {"search_list_size": 64, "beam_width": 4}
    assert set(receipt["params"]) == {*own, "min_score", "limit"}
    whole = docs.search_range(query, -1.0, explain=True, limit=3000)
    assert len(whole) == 3000 and whole.receipt["exact"] and whole.receipt["strategy"] == "exact"


def test_a_hit_may_score_just_what_is_asked(lab):
    docs = lab.create_collection("docs", 1, "l2")
    docs.upsert(["a", "b", "c"], [[0], [1], [3]])
    assert [h.id for h in docs.search_range([0], -9.0)] == ["a", "b", "c"]
    assert [h.id for h in docs.search_range([0], np.nextafter(-9.0, 0))] == ["a", "b"]
    assert [h.id for h in docs.search_range([0], 0)] == ["a"]
    assert docs.search_range([0], 0.1) == []
    docs.delete(["a", "b", "c"])
    assert docs.search_range([0], -9.0) == []
    assert lab.create_collection("none", 3).search_range([1, 2, 3], -1) == []


def test_a_score_of_a_search_finds_its_hit_again(lab):
    docs = lab.create_collection("docs", DIM, "cosine")
    vectors = np.random.default_rng(0).normal(size=(500, DIM))
    docs.upsert([str(i) for i in range(500)], vectors)
    for query in vectors[:20]:
        hits = docs.search(query, 10)
        assert docs.search_range(query, hits[-1].score) == hits


def test_writes_meanwhile_hide_no_point(lab, monkeypatch):
    docs = lab.create_collection("docs", 2, "l2")
    docs.upsert([f"p{i}" for i in range(200)], np.zeros((200, 2)))
    monkeypatch.setattr(ranging, "RETRIES", 2)  # the read transaction is often the last resort
    done = threading.Event()

    def move():
        while not done.is_set():
            docs.upsert(["p0", "p1"], np.zeros((2, 2)))

    mover = threading.Thread(target=move)
    mover.start()
    try:
        for _ in range(100):
            assert len(docs.search_range([0, 0], -1.0)) == 200
    finally:
        done.set()
        mover.join()


def test_what_changes_at_every_try_is_searched_in_a_read_transaction(lab, monkeypatch):
    docs = lab.create_collection("docs", 2, "l2")
    docs.upsert(["a", "b", "c"], np.zeros((3, 2)), [{"n": 1}, None, {"n": 2}])
    find, tries = ranging._find, []

    def find_then_move(*given):
        found = find(*given)
        tries.append(given[2])
        docs.upsert(["b"], np.zeros((1, 2)))
        return found

    monkeypatch.setattr(ranging, "_find", find_then_move)
    hits = docs.search_range([0, 0], -1.0, explain=True)
    assert sorted(h.id for h in hits) == ["a", "b", "c"]
    assert len(tries) == ranging.RETRIES + 1 and tries[-1] is not None
    assert hits.receipt["matches"] is None


def test_bad_arguments_are_named(lab):
    docs = lab.create_collection("docs", 2)
    docs.upsert("a", [1, 2])
    for min_score in (np.nan, "1", None, True):
        with pytest.raises(errors.InvalidArgument, match="min_score"):
            docs.search_range([1, 2], min_score)
    for limit in (0, -1, 1.0, True, None):
        with pytest.raises(errors.InvalidArgument, match="limit"):
            docs.search_range([1, 2], 0.5, limit=limit)
    with pytest.raises(errors.DimensionMismatch):
        docs.search_range([1, 2, 3], 0.5)
    with pytest.raises(errors.InvalidArgument, match="one vector"):
        docs.search_range([[1, 2]], 0.5)
    with pytest.raises(errors.InvalidArgument):
        docs.search_range([1, np.nan], 0.5)
    with pytest.raises(errors.InvalidFilter):
        docs.search_range([1, 2], 0.5, filter="n <")
    with pytest.raises(errors.NotSupported):
        docs.search_range("a text", 0.5)
    lab.drop_collection("docs")
    with pytest.raises(errors.CollectionNotFound):
        docs.search_range([1, 2], 0.5)


def test_a_text_is_embedded(lab):
    docs = lab.create_collection("docs", 8)
    docs.use_embedder("lsa", fields=["text"])
    texts = ["red apples fall", "green apples grow", "the sea is deep", "ships sail the sea"] * 4
    docs.upsert([str(i) for i in range(16)], metas=[{"text": text} for text in texts])
    docs.fit_embedder().result(20)
    hits = docs.search_range("apples", 0.3)
    assert {"apples" in hit.meta["text"] for hit in hits} == {True}
    assert hits == [hit for hit in docs.search("apples", 16) if hit.score >= 0.3]
