"""Hybrid search: both branches through one filter, fused, with what each said of a hit."""

import threading

import numpy as np
import pytest
from embedding_server import vector_of
from hypothesis import given, settings
from hypothesis import strategies as st

from luma_lab.engine import hybrid
from luma_lab.engine.fusion import Standing
from luma_lab.errors import (
    CollectionNotFound,
    Conflict,
    DimensionMismatch,
    EmbedderUnavailable,
    InvalidArgument,
    InvalidFilter,
    NotSupported,
    UnknownName,
)

DIM = 6
WORDS = ["cat", "dog", "mouse", "stock", "market", "trader", "campaña", "año"]


def make_points(count, seed=0):
    rng = np.random.default_rng(seed)
    vectors = rng.standard_normal((count, DIM)).astype(np.float32)
    metas = [
        {"text": " ".join(rng.choice(WORDS, rng.integers(0, 6))), "n": int(n), "g": int(n % 5)}
        for n in range(count)
    ]
    return [f"p{n:03}" for n in range(count)], vectors, metas


IDS, VECTORS, METAS = make_points(200)
QUERY = np.arange(1, DIM + 1, dtype=np.float32)


@pytest.fixture
def docs(lab):
    docs = lab.create_collection("docs", DIM, text_fields=["text"])
    docs.upsert(IDS, VECTORS, METAS)
    return docs


def oracle(collection, vector, text, depth, method, weights, k=60, filter=None):
    """Plain Python over what the single searches answer."""
    branches = {}
    if vector is not None:
        branches["vector"] = collection.search(vector, depth, exact=True, filter=filter)
    if text is not None:
        branches["text"] = collection.search_text(text, depth, filter=filter)
    total = sum(weights[name] for name in branches)
    scores = {}
    for name, hits in branches.items():
        hits = sorted(hits, key=lambda h: (-h.score, h.id))
        for rank, hit in enumerate(hits, 1):
            width = hits[0].score - hits[-1].score
            share = (
                1 / (k + rank)
                if method == "rrf"
                else ((hit.score - hits[-1].score) / width if width else 1) / total
            )
            scores[hit.id] = scores.get(hit.id, 0) + weights[name] * share
    return sorted(scores.items(), key=lambda item: (-item[1], item[0]))


@pytest.mark.parametrize("method", ["rrf", "weighted"])
@pytest.mark.parametrize("weights", [{"vector": 1, "text": 1}, {"vector": 3, "text": 0.5}])
@pytest.mark.parametrize("filter", [None, {"g": {"$in": [1, 3]}}])
def test_fusion_agrees_with_plain_python_over_the_single_searches(docs, method, weights, filter):
    for text in ("cat", "stock market trader", "campana", "nowhere"):
        hits = docs.search_hybrid(
            QUERY, text, 200, fusion=method, weights=weights, candidates=200, filter=filter
        )
        expected = oracle(docs, QUERY, text, 200, method, weights, filter=filter)
        assert {h.id: h.score for h in hits} == pytest.approx(dict(expected), abs=1e-6)
        assert hits == sorted(hits, key=lambda h: (-h.score, h.id))
        for hit in hits:
            assert hit.meta == METAS[IDS.index(hit.id)]


def test_each_hit_tells_its_branches(docs):
    hits = docs.search_hybrid(QUERY, "cat", 10, weights={"text": 2})
    vector = {h.id: (n, h.score) for n, h in enumerate(docs.search(QUERY, 100), 1)}
    text = {h.id: h.score for h in docs.search_text("cat", 100)}
    both = 0
    for hit in hits:
        assert hit.fused == hit.score
        assert set(hit.branches) <= {"vector", "text"}
        assert ("vector" in hit.branches) == (hit.id in vector)
        assert ("text" in hit.branches) == (hit.id in text)
        if "vector" in hit.branches:
            rank, score = vector[hit.id]
            assert hit.branches["vector"] == Standing(rank, pytest.approx(score), 1.0)
        if "text" in hit.branches:
            assert hit.branches["text"].score == text[hit.id]
            assert hit.branches["text"].weight == 2
        both += len(hit.branches) == 2
    assert both


def test_one_branch_alone_works(docs):
    only_vector = docs.search_hybrid(QUERY, k=7)
    assert [h.id for h in only_vector] == [h.id for h in docs.search(QUERY, 7)]
    only_text = docs.search_hybrid(text="cat mouse", k=7)
    expected = oracle(docs, None, "cat mouse", 200, "rrf", {"text": 1})
    assert [h.id for h in only_text] == [id for id, _ in expected[:7]]
    assert docs.search_hybrid(text="nowhere") == []
    assert docs.search_hybrid(text="") == []


def test_a_text_is_embedded_where_there_is_an_embedder(lab):
    class Model:
        model_name = "model"

        def encode(self, texts):
            return np.array([vector_of(t, DIM) for t in texts])

    docs = lab.create_collection("docs", DIM, text_fields=["text"])
    docs.use_embedder(Model())
    docs.upsert(["a", "b", "c"], metas=[{"text": t} for t in ("cat", "dog mouse", "the cat")])
    hits = docs.search_hybrid(text="cat", k=3)
    assert hits == docs.search_hybrid(vector_of("cat", DIM), "cat", 3)
    assert hits[0].id == "a" and set(hits[0].branches) == {"vector", "text"}
    bare = lab.create_collection("bare", DIM)
    bare.use_embedder(Model(), fields=["text"])
    bare.upsert("a", metas={"text": "cat"})
    assert set(bare.search_hybrid(text="cat")[0].branches) == {"vector"}
    with pytest.raises(InvalidArgument, match="nothing to embed"):
        bare.search_hybrid(text=" ")
    bare._parts.embedders.clear()
    with pytest.raises(Conflict, match="call use_embedder"):
        bare.search_hybrid(text="cat")


def test_an_lsa_takes_part_once_it_is_fitted_and_knows_the_words(lab):
    lab._upkeep.close()  # which would fit it soon
    docs = lab.create_collection("docs", DIM, text_fields=["text"])
    docs.use_embedder("lsa")
    docs.upsert(IDS, metas=METAS)
    assert set(docs.search_hybrid(text="cat")[0].branches) == {"text"}
    docs.fit_embedder().result(20)
    assert set(docs.search_hybrid(text="cat")[0].branches) == {"vector", "text"}
    assert docs.search_hybrid(text="nowhere") == []  # not every point, in the order of ids


@settings(max_examples=40, deadline=None)
@given(
    st.integers(1, 60),
    st.sampled_from(["cat", "stock dog", "nowhere", "año"]),
    st.sampled_from([None, {"g": 2}, {"n": {"$lt": 3}}, {"n": -1}, "n >= 30 AND g = 1"]),
    st.sampled_from(["rrf", "weighted", "distribution"]),
)
def test_there_are_always_min_of_k_and_matches(shared, k, text, filter, method):
    matches = shared.count(filter)
    hits = shared.search_hybrid(QUERY, text, k, filter=filter, fusion=method)
    assert len(hits) == min(k, matches)
    assert len({h.id for h in hits}) == len(hits)
    allowed = {p.id for p in shared.scroll(limit=500, filter=filter)[0]}
    assert {h.id for h in hits} <= allowed
    words = shared.search_hybrid(text=text, k=k, filter=filter)
    assert len(words) == min(k, len(shared.search_text(text, 500, filter=filter)))


@pytest.fixture(scope="module")
def shared():
    import luma_lab as luma

    with luma.open(":memory:") as lab:
        docs = lab.create_collection("docs", DIM, text_fields=["text"])
        docs.upsert(IDS, VECTORS, METAS)
        yield docs


def test_a_weight_of_0_leaves_the_other_branch_alone(docs):
    hits = docs.search_hybrid(QUERY, "cat", 200, weights={"vector": 0}, candidates=200)
    assert {h.id for h in hits} == {h.id for h in docs.search_text("cat", 200)}
    assert all("vector" in h.branches for h in hits)


def test_the_dict_of_the_contract_is_understood(docs):
    spelled = docs.search_hybrid(QUERY, "cat", fusion="rrf", rrf_k=5, weights={"text": 2})
    fused = {"method": "rrf", "k": 5, "weights": {"text": 2}}
    assert docs.search_hybrid(QUERY, "cat", fusion=fused) == spelled


def test_groups_hold_the_best_of_each_and_k_counts_them(docs):
    hits = docs.search_hybrid(QUERY, "cat", 3, group_by="g", group_limit=4)
    assert len(hits) == len(hits.groups) == 3
    deep = docs.search_hybrid(QUERY, "cat", 100, candidates=100)
    assert all(len(group.hits) == 4 for group in hits.groups)
    for group in hits.groups:
        assert {h.meta["g"] for h in group.hits} == {group.key}
        assert [h.id for h in group.hits] == [h.id for h in deep if h.meta["g"] == group.key][:4]
    shallow = docs.search_hybrid(QUERY, "cat", 5, group_by="g", group_limit=9, candidates=5)
    assert [len(group.hits) for group in shallow.groups] == [9] * 5
    few = docs.search_hybrid(QUERY, "cat", 50, group_by="g", group_limit=2)
    assert len(few.groups) == 5


def test_a_reranker_puts_all_candidates_in_a_new_order(docs):
    seen = []

    def rerank(text, hits):
        seen.append((text, len(hits)))
        docs.search(QUERY, 1, filter={"g": 1})  # the caller may ask the lab meanwhile
        return np.array([hit.meta["n"] for hit in hits])

    hits = docs.search_hybrid(QUERY, "cat", 5, rerank=rerank, candidates=50)
    assert seen[0][0] == "cat" and seen[0][1] >= 50
    fused = docs.search_hybrid(QUERY, "cat", 500, candidates=500)
    by_id = {h.id: h for h in fused}
    assert [h.score for h in hits] == sorted((h.score for h in hits), reverse=True)
    assert all(h.score == h.meta["n"] for h in hits)
    assert all(h.branches.keys() >= {"vector"} or h.branches.keys() >= {"text"} for h in hits)
    assert by_id[hits[0].id].meta == hits[0].meta and hits[0].fused < 1


@pytest.mark.parametrize(
    ("rerank", "named"),
    [
        (lambda text, hits: [1], "gave 1 scores for"),
        (lambda text, hits: [float("nan")] * len(hits), "gave the score nan"),
        (lambda text, hits: ["a"] * len(hits), "gave the score 'a'"),
        (lambda text, hits: 1 / 0, "rerank raised ZeroDivisionError"),
        (lambda text, hits: None, "rerank raised TypeError"),
        (7, "rerank is 7"),
    ],
)
def test_faults_of_a_reranker_are_named(docs, rerank, named):
    with pytest.raises(InvalidArgument, match=named):
        docs.search_hybrid(QUERY, "cat", rerank=rerank)


def test_errors_of_the_house_pass_through_a_reranker(docs):
    def rerank(text, hits):
        raise EmbedderUnavailable("the reranker is away")

    with pytest.raises(EmbedderUnavailable, match="is away"):
        docs.search_hybrid(QUERY, "cat", rerank=rerank)


def test_the_receipt_tells_how_it_was_found(docs):
    receipt = docs.search_hybrid(QUERY, "cat", 5, filter={"g": 1}, explain=True).receipt
    assert receipt["strategy"] == "filter+exact+text" and receipt["exact"]
    assert receipt["matches"] == 40 and receipt["offset"] == docs.info().applied_offset
    assert receipt["params"] == {
        "k": 5,
        "fusion": "rrf",
        "rrf_k": 60,
        "weights": {"vector": 1, "text": 1},
        "depth": 100,
    }
    assert set(receipt["times_ms"]) == {"plan", "walk", "text", "fetch", "rerank"}
    assert docs.search_hybrid(text="cat", explain=True).receipt["kind"] == "text"
    assert docs.search_hybrid(QUERY, explain=True).receipt["kind"] == "flat"
    assert docs.search_hybrid(QUERY).receipt is None


def test_vectors_come_along_when_asked_for(docs):
    for hit in docs.search_hybrid(QUERY, "cat", 5, include_vector=True):
        assert np.array_equal(hit.vector, VECTORS[IDS.index(hit.id)])


def test_every_hit_satisfies_the_filter_with_its_meta_while_points_change(docs):
    stop, wrong = threading.Event(), []

    def write():
        n = 0
        while not stop.is_set():
            place = n % 50
            meta = {"text": "cat " * (n % 3), "n": place, "g": n % 2}
            docs.upsert(IDS[place], VECTORS[place], meta)
            n += 1

    thread = threading.Thread(target=write)
    thread.start()
    try:
        for n in range(60):
            g = n % 2
            filter = {"g": g} if n % 3 else None
            hits = docs.search_hybrid(QUERY, "cat", 30, filter=filter)
            if len(hits) < 20 or (filter and any(h.meta["g"] != g for h in hits)):
                wrong.append(hits)
    finally:
        stop.set()
        thread.join()
    assert not wrong


def test_compaction_meanwhile_is_not_noticed(docs):
    stop, wrong = threading.Event(), []

    def search():
        while not stop.is_set():
            for text, vector in (("cat", QUERY), ("cat", None), (None, QUERY)):
                hits = docs.search_hybrid(vector, text, 20, include_vector=True)
                for hit in hits:
                    place = IDS.index(hit.id)
                    if hit.meta != METAS[place] or (hit.vector != VECTORS[place]).any():
                        wrong.append(hit)
                if len(hits) < 20:
                    wrong.append(hits)

    thread = threading.Thread(target=search)
    thread.start()
    try:
        for _ in range(4):
            docs.upsert(IDS, VECTORS, METAS)
            docs.compact().result(30)
    finally:
        stop.set()
        thread.join()
    assert not wrong


def test_bad_input_is_named(lab, docs):
    def search(*args, **options):
        return lambda: docs.search_hybrid(*args, **options)

    lab.create_collection("bare", DIM).upsert("a", VECTORS[0])
    for call, kind, named in (
        (search(), InvalidArgument, "needs a vector, a text or both"),
        (search(QUERY, 7), InvalidArgument, "query is a int"),
        (search(QUERY[:2], "cat"), DimensionMismatch, "got 2"),
        (search("cat"), InvalidArgument, "numbers"),
        (search(QUERY, "cat", 0), InvalidArgument, "k"),
        (search(QUERY, "cat", True), InvalidArgument, "k"),
        (search(QUERY, "cat", 10, candidates=5), InvalidArgument, "at least k = 10"),
        (search(QUERY, "cat", candidates="5"), InvalidArgument, "candidates is '5'"),
        (search(QUERY, "cat", fusion="rff"), UnknownName, "did you mean 'rrf'"),
        (search(QUERY, "cat", fusion={"methd": "rrf"}), UnknownName, "field of fusion"),
        (search(QUERY, "cat", fusion={"k": -1}), InvalidArgument, "the k of rrf is -1"),
        (search(QUERY, "cat", weights={"txt": 1}), UnknownName, "did you mean 'text'"),
        (search(QUERY, "cat", weights={"text": -1}), InvalidArgument, "'text' is -1"),
        (search(QUERY, "cat", weights={"text": float("nan")}), InvalidArgument, "nan"),
        (search(QUERY, "cat", weights={"text": 0, "vector": 0}), InvalidArgument, "all weights"),
        (search(QUERY, weights={"vector": 0}), InvalidArgument, "all weights are 0"),
        (search(QUERY, "cat", filter={"a": {"$x": 1}}), InvalidFilter, "x"),
        (search(QUERY, "cat", group_by=3), InvalidArgument, "group_by is 3"),
        (lambda: lab.collection("bare").search_hybrid(text="a"), NotSupported, "neither text"),
    ):
        with pytest.raises(kind, match=named):
            call()
    assert [h.id for h in lab.collection("bare").search_hybrid(QUERY, "cat")] == ["a"]
    lab.drop_collection("docs")
    with pytest.raises(CollectionNotFound):
        docs.search_hybrid(QUERY, "cat")


def test_the_depth_has_a_documented_default():
    assert hybrid._check_depth(None, 10, None) == 100
    assert hybrid._check_depth(None, 60, None) == 240
