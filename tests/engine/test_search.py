"""Search: exact about itself, against brute force in numpy, in every metric and at every stage."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import luma_lab as luma
from luma_lab.types import Hits

METRICS = ["cosine", "dot", "l2"]


def brute_scores(vectors, query, metric):
    """Return float64 scores, higher better: the textbook formulas, one by one."""
    vectors, query = vectors.astype(np.float64), np.asarray(query, np.float64)
    if metric == "l2":
        return -((vectors - query) ** 2).sum(axis=1)
    products = vectors @ query
    if metric == "dot":
        return products
    norms = np.linalg.norm(vectors, axis=1) * np.linalg.norm(query)
    return np.divide(products, norms, out=np.zeros_like(products), where=norms > 0)


def check_exact(hits, points, query, k, metric):
    """Compare hits with brute force over a dict of id to vector; ties may swap at the border."""
    ids = list(points)
    scores = brute_scores(np.stack([points[id] for id in ids]), query, metric) if ids else []
    by_id = dict(zip(ids, scores, strict=True))
    assert len(hits) == min(k, len(ids))
    assert len({h.id for h in hits}) == len(hits)
    scale = max([1.0, *map(abs, scores)])
    best = sorted(scores, reverse=True)[: len(hits)]
    found = [by_id[h.id] for h in hits]
    assert np.allclose(found, best, rtol=0, atol=2e-5 * scale)
    assert np.allclose([h.score for h in hits], found, rtol=0, atol=2e-5 * scale)
    order = [(-h.score, h.id) for h in hits]
    assert order == sorted(order)


def filled(lab, metric, n=300, dim=7, seed=0):
    rng = np.random.default_rng(seed)
    docs = lab.create_collection("docs", dim, metric)
    vectors = rng.normal(size=(n, dim)).astype(np.float32)
    points = {f"p{i:03}": vectors[i] for i in range(n)}
    docs.upsert(list(points), vectors, [{"i": i} for i in range(n)])
    return docs, points, rng


def change(docs, points, rng):
    """Kill some rows, move some, add some."""
    gone = list(points)[5:120:3]
    docs.delete(gone)
    for id in gone:
        del points[id]
    moved = list(points)[::4]
    vectors = rng.normal(size=(len(moved), docs.dim)).astype(np.float32)
    docs.upsert(moved, vectors)
    points.update(zip(moved, vectors, strict=True))
    fresh = rng.normal(size=(20, docs.dim)).astype(np.float32)
    docs.add([f"new{i}" for i in range(20)], fresh)
    points.update({f"new{i}": fresh[i] for i in range(20)})


@pytest.mark.parametrize("metric", METRICS)
def test_exact_search_equals_brute_force_with_dead_rows_a_tail_and_an_index(lab, metric):
    docs, points, rng = filled(lab, metric)
    queries = rng.normal(size=(6, 7)).astype(np.float32)

    def check():
        for query in queries:
            for k in (1, 10, len(points), len(points) + 50):
                check_exact(docs.search(query, k=k, exact=True), points, query, k, metric)
        for threads in (1, 2):
            answers = docs.search_many(queries, k=10, exact=True, threads=threads)
            for query, hits in zip(queries, answers, strict=True):
                check_exact(hits, points, query, 10, metric)

    check()
    change(docs, points, rng)
    check()
    docs.build_index("vamana", max_degree=16, build_list_size=40).result(120)
    check()
    change_again = np.random.default_rng(9)
    docs.delete([id for id in points if id.startswith("new")])
    points = {id: v for id, v in points.items() if not id.startswith("new")}
    extra = change_again.normal(size=(30, 7)).astype(np.float32)
    docs.add([f"tail{i}" for i in range(30)], extra)
    points.update({f"tail{i}": extra[i] for i in range(30)})
    check()


@pytest.mark.parametrize("metric", METRICS)
def test_a_walk_with_a_list_as_long_as_the_rows_finds_what_brute_force_finds(lab, metric):
    docs, points, rng = filled(lab, metric)
    docs.build_index("vamana", max_degree=32, build_list_size=64).result(120)
    change(docs, points, rng)
    found = wanted = 0
    for query in rng.normal(size=(20, 7)).astype(np.float32):
        hits = docs.search(query, k=10, search_list_size=400, explain=True)
        assert hits.receipt["strategy"] == "walk+tail"
        assert len(hits) == 10
        ids = list(points)
        scores = brute_scores(np.stack([points[id] for id in ids]), query, metric)
        best = {ids[i] for i in np.argsort(-scores)[:10]}
        found += len(best & {h.id for h in hits})
        wanted += 10
        assert {h.id for h in hits} <= points.keys()
    assert found / wanted >= 0.99


def test_points_written_after_a_build_are_found_by_the_next_search(lab):
    docs, _points, rng = filled(lab, "l2")
    docs.build_index("vamana").result(120)
    for i in range(20):
        vector = rng.normal(size=7).astype(np.float32) + 50 + i
        docs.upsert(f"late{i}", vector)
        hits = docs.search(vector, k=1)
        assert (hits[0].id, hits[0].score) == (f"late{i}", 0.0)
    docs.delete("late3")
    docs.delete("p003")
    every = docs.search(np.zeros(7), k=1000)
    assert len(every) == len(docs) == 318
    assert not {"late3", "p003"} & {h.id for h in every}


def test_a_search_with_k_over_the_points_gives_all_of_them_dead_rows_or_not(lab):
    docs, points, rng = filled(lab, "cosine", n=60)
    docs.build_index("vamana").result(120)
    docs.delete(list(points)[:50])
    assert {h.id for h in docs.search(rng.normal(size=7), k=10**9)} == set(list(points)[50:])
    docs.delete(list(points))
    assert docs.search(rng.normal(size=7), k=5) == []


FLOATS = st.floats(-8, 8, width=32).map(lambda x: float(np.float32(round(x, 2))))
VECTORS = st.lists(st.tuples(FLOATS, FLOATS), min_size=1, max_size=25)


@settings(max_examples=40, deadline=None)
@given(VECTORS, st.tuples(FLOATS, FLOATS), st.integers(1, 30), st.sampled_from(METRICS), st.data())
def test_exact_search_over_any_points_and_deaths_is_brute_force(rows, query, k, metric, data):
    with luma.open(":memory:") as lab:
        docs = lab.create_collection("docs", 2, metric)
        vectors = np.asarray(rows, np.float32)
        ids = [f"{i:02}" for i in range(len(rows))]
        docs.upsert(ids, vectors)
        points = dict(zip(ids, vectors, strict=True))
        for id in data.draw(st.sets(st.sampled_from(ids))):
            docs.delete(id)
            del points[id]
        check_exact(docs.search(query, k=k), points, query, k, metric)


def test_scores_are_cosine_inner_product_and_minus_the_squared_distance(lab):
    for metric, wanted in (("cosine", 0.6), ("dot", 30.0), ("l2", -65.0)):
        docs = lab.create_collection(metric, 2, metric)
        docs.upsert("a", [6, 8])
        [hit] = docs.search([5, 0])
        # |(6,8)| = 10, |(5,0)| = 5, their product 30, difference (1, 8) squared 65
        assert hit.score == pytest.approx(wanted, rel=1e-6)
    [hit] = docs.search([6, 8])
    assert str(hit.score) == "0.0"


def test_a_zero_vector_is_accepted_and_scores_0_under_cosine(lab):
    docs = lab.create_collection("docs", 2)
    docs.upsert(["zero", "same", "opposite"], [[0, 0], [2, 0], [-2, 0]])
    hits = docs.search([1, 0])
    assert [(h.id, round(h.score, 6)) for h in hits] == [("same", 1), ("zero", 0), ("opposite", -1)]
    assert [h.score for h in docs.search([0, 0])] == [0, 0, 0]


def test_equal_scores_come_in_order_of_id(lab):
    docs = lab.create_collection("docs", 2, "l2")
    docs.upsert(["c", "a", "d", "b"], [[1, 0]] * 4)
    assert [h.id for h in docs.search([0, 0], k=4)] == ["a", "b", "c", "d"]
    docs.build_index("vamana").result(120)
    docs.upsert("Z", [1, 0])
    assert [h.id for h in docs.search([0, 0], k=5)] == ["Z", "a", "b", "c", "d"]


def test_min_score_leaves_out_what_scores_less(lab):
    docs, _points, rng = filled(lab, "cosine")
    query = rng.normal(size=7)
    every = docs.search(query, k=50)
    limit = every[20].score
    assert docs.search(query, k=50, min_score=limit) == every[:21]
    assert docs.search(query, k=50, min_score=2) == []
    assert isinstance(docs.search(query, min_score=0.1), Hits)
    assert docs.search(query, k=5, min_score=-1, explain=True).receipt["params"]["k"] == 5


def test_a_hit_carries_meta_and_on_request_the_vector_as_a_copy(lab):
    docs, points, _ = filled(lab, "l2")
    [hit] = docs.search(points["p007"], k=1)
    assert (hit.id, hit.meta, hit.vector) == ("p007", {"i": 7}, None)
    [hit] = docs.search(points["p007"], k=1, include_vector=True)
    assert hit.vector.tobytes() == points["p007"].tobytes()
    hit.vector[:] = 0
    assert docs.get("p007").vector.tobytes() == points["p007"].tobytes()


def test_search_many_gives_what_searching_one_by_one_gives(lab):
    docs, _points, rng = filled(lab, "cosine")
    docs.build_index("vamana").result(120)
    queries = rng.normal(size=(12, 7)).astype(np.float32)
    one_by_one = [docs.search(query, k=5) for query in queries]
    assert docs.search_many(queries, k=5) == one_by_one
    assert docs.search_many(queries, k=5, threads=2) == one_by_one
    assert docs.search_many(np.zeros((0, 7))) == []
    assert docs.search_many([]) == []


def test_a_receipt_tells_how_the_answer_was_made(lab):
    docs, _points, rng = filled(lab, "l2")
    query = rng.normal(size=7)
    assert docs.search(query).receipt is None
    receipt = docs.search(query, k=3, explain=True).receipt
    assert (receipt["strategy"], receipt["exact"], receipt["kind"]) == ("exact", True, "flat")
    assert (receipt["comparisons"], receipt["hops"]) == (300, 0)
    assert receipt["offset"] == lab.head
    built = docs.build_index("vamana", search_list_size=20).result(120)
    receipt = docs.search(query, k=3, explain=True).receipt
    assert (receipt["strategy"], receipt["exact"], receipt["kind"]) == ("walk", False, "vamana")
    assert receipt["fingerprint"] == built["fingerprint"]
    assert 0 < receipt["hops"] <= receipt["comparisons"] < 300
    assert receipt["params"] == {"k": 3, "search_list_size": 20}
    docs.upsert("late", query)
    receipt = docs.search(query, k=3, explain=True).receipt
    assert receipt["strategy"] == "walk+tail"
    docs.delete(["p000", "p001"])
    receipt = docs.search(query, k=3, exact=True, explain=True).receipt
    assert (receipt["strategy"], receipt["comparisons"]) == ("exact", 299)


def test_a_longer_search_list_works_at_once_when_it_is_tuned(lab):
    docs, _points, rng = filled(lab, "l2")
    docs.build_index("vamana", search_list_size=10).result(120)
    query = rng.normal(size=7)
    short = docs.search(query, k=5, explain=True).receipt
    docs.tune_index(search_list_size=200)
    long = docs.search(query, k=5, explain=True).receipt
    assert (short["params"]["search_list_size"], long["params"]["search_list_size"]) == (10, 200)
    assert long["comparisons"] > short["comparisons"]
    assert (
        docs.search(query, k=5, search_list_size=10, explain=True).receipt["comparisons"]
        == (short["comparisons"])
    )
