"""What a search looks at stays as it was when it began, whatever is written meanwhile."""

import numpy as np
import pytest

from luma_lab.engine.lab import Lab


@pytest.fixture
def docs(lab):
    docs = lab.create_collection("docs", 2, "l2")
    docs.upsert([f"p{i}" for i in range(1000)], np.arange(2000).reshape(1000, 2))
    return docs


def test_a_held_snapshot_stays_true_while_points_move_die_and_come(lab, docs):
    held = lab._parts.follower.snapshot("docs")
    live, vectors = held.live.copy(), held.vectors.copy()
    docs.delete([f"p{i}" for i in range(0, 500, 3)])
    docs.upsert([f"p{i}" for i in range(500, 700)], np.zeros((200, 2)))
    docs.upsert([f"new{i}" for i in range(3000)], np.ones((3000, 2)))
    lab._parts.follower.snapshot("docs")
    docs.delete("p999")
    assert np.array_equal(held.live, live)
    assert np.array_equal(held.vectors, vectors)
    assert held.live_count == live.sum() == 1000
    assert held.offset < lab.head


def test_the_counts_of_a_view_are_those_of_its_marks_at_every_step(lab, docs):
    rng = np.random.default_rng(0)
    for step in range(12):
        if step == 5:
            docs.build_index("vamana", max_degree=8, build_list_size=16).result(120)
        ids = [f"p{i}" for i in rng.choice(1200, 40, replace=False)]
        if step % 3 == 0:
            docs.delete(ids)
        elif step % 3 == 1:
            docs.upsert(ids, rng.normal(size=(40, 2)))
        else:
            docs.upsert([f"{id}+" for id in ids], rng.normal(size=(40, 2)))
        seen = lab._parts.follower.snapshot("docs")
        assert seen.live_count == seen.live.sum() == len(docs)
        assert len(seen.vectors) == len(seen.live) == docs.info().total_rows
        assert seen.dead_indexed == (~seen.live[: seen.indexed_rows]).sum()
        assert seen.dead_tail == (~seen.live[seen.indexed_rows :]).sum()
        assert (seen.indexed_rows > 0) == (step >= 5)


def test_a_view_moved_by_the_log_equals_one_loaded_afresh(lab, docs):
    docs.search([0, 0])
    docs.delete(["p3", "p4"])
    docs.upsert(["p5", "x"], [[1, 1], [2, 2]])
    docs.update("p6", metas=1)
    moved = lab._parts.follower.snapshot("docs")
    with lab._parts.follower._lock:
        lab._parts.follower._views.clear()
    fresh = lab._parts.follower.snapshot("docs")
    assert np.array_equal(moved.live, fresh.live)
    assert np.array_equal(moved.vectors, fresh.vectors)
    assert moved[3:-1] == fresh[3:-1]


SMALL = {"max_degree": 8, "build_list_size": 16}


def vectors(count, seed=0):
    return np.random.default_rng(seed).normal(size=(count, 4)).astype(np.float32)


def test_an_index_built_in_one_lab_is_used_by_another_on_the_same_directory(path):
    with Lab(path) as one, Lab(path) as two:
        docs = one.create_collection("docs", 4, "l2")
        docs.upsert([f"p{i}" for i in range(200)], vectors(200))
        other = two.collection("docs")
        assert other.search(vectors(1)[0], explain=True).receipt["strategy"] == "exact"
        built = docs.build_index("vamana", **SMALL).result(120)
        receipt = other.search(vectors(1)[0], explain=True).receipt
        assert (receipt["strategy"], receipt["fingerprint"]) == ("walk", built["fingerprint"])
        docs.drop_index()
        docs.upsert(["new"], vectors(1, seed=8))
        again = docs.build_index("vamana", **SMALL).result(120)
        receipt = other.search(vectors(1)[0], explain=True).receipt
        assert receipt["fingerprint"] == again["fingerprint"] != built["fingerprint"]
