"""Collections: points by id, batches that hold together, bad input that changes nothing."""

import numpy as np
import pytest
from collection_contents import contents
from hypothesis import given, settings
from hypothesis import strategies as st

import luma_lab as luma
from luma_lab.engine.points import KEEP
from luma_lab.errors import (
    AlreadyExists,
    CollectionNotFound,
    LumaError,
    PointNotFound,
    WaitTimeout,
)


def test_a_new_collection_is_empty_and_told_of(lab):
    docs = lab.create_collection("docs", 4, "dot")
    assert (docs.name, docs.dim, docs.metric, len(docs)) == ("docs", 4, "dot", 0)
    assert docs.search([1, 2, 3, 4]) == []
    assert docs.scroll() == ([], None)
    assert docs.get("x") is None
    assert [c.name for c in lab.collections()] == ["docs"]
    [event] = lab.events.read()
    assert (event.type, event.collection) == ("vector_collection_created", "docs")
    assert event.data == {"collection": "docs", "dim": 4, "metric": "dot"}


def test_upserted_points_come_back_exactly_as_sent(lab, docs):
    rng = np.random.default_rng(1)
    vectors = rng.normal(size=(40, 3)) * 1e3
    metas = [{"i": i, "text": "é" * i} for i in range(40)]
    result = docs.upsert([f"p{i}" for i in range(40)], vectors, metas)
    assert (result.count, result.offset) == (40, lab.head)
    for i, point in enumerate(docs.get_many([f"p{i}" for i in range(40)])):
        assert point.id == f"p{i}"
        assert point.vector.dtype == np.float32
        assert point.vector.tobytes() == vectors[i].astype(np.float32).tobytes()
        assert point.meta == metas[i]


@pytest.mark.parametrize(
    "convert",
    [
        lambda v: v.tolist(),
        lambda v: v.astype(np.float64),
        lambda v: v.astype(np.float16),
        lambda v: np.asfortranarray(v),
        lambda v: np.repeat(v, 2, axis=1)[:, ::2],
        lambda v: [tuple(row) for row in v.tolist()],
        lambda v: list(v),
    ],
)
def test_vectors_are_taken_in_any_shape_of_array(docs, convert):
    vectors = np.arange(12, dtype=np.float32).reshape(4, 3)
    docs.upsert(list("wxyz"), convert(vectors))
    found = np.stack([p.vector for p in docs.get_many(list("wxyz"))])
    assert np.array_equal(found, vectors)


def test_one_id_takes_one_vector_and_one_meta(docs):
    docs.upsert("c", [1, 2, 3], {"x": 1})
    docs.upsert(7, np.array([4, 5, 6]), [1, 2])
    assert docs.get("c").meta == {"x": 1}
    assert docs.get(7).meta == [1, 2]
    assert docs.get("7").vector.tolist() == [4, 5, 6]
    assert "7" in docs
    assert 7 in docs
    assert "nobody" not in docs


def test_ids_may_come_as_a_numpy_array_of_text_or_numbers(lab, docs):
    docs.upsert(np.array(["x", "y"]), np.ones((2, 3)))
    docs.upsert(np.array([7, 8]), np.ones((2, 3)))
    assert docs.delete(np.array(["x"])).count == 1
    ids = [p.id for p in docs.scroll()[0]]
    assert ids == ["7", "8", "a", "b", "y"]
    assert {type(id) for id in ids} == {str}
    lab.state[np.str_("k")] = 1
    assert lab.state[np.str_("k")] == lab.state["k"] == 1
    assert [e.data.get("id") for e in lab.events.read()][-5:-1] == ["y", "7", "8", "x"]


def test_vectors_are_limited_to_the_length_every_index_takes(lab, docs):
    from luma_lab.engine import points
    from luma_lab.index import protocol

    assert points.LARGEST_SQUARE == protocol.LARGEST_SQUARE
    docs.upsert("long", [8e18, 0, 0])
    docs.upsert("short", [1e-25, 0, 0])
    docs.build_index("vamana", max_degree=8, build_list_size=16).result(60)
    assert [h.id for h in docs.search([8e18, 0, 0], k=1)] == ["long"]


def test_add_refuses_what_is_there_and_update_what_is_not(lab, docs):
    before = contents(lab)
    with pytest.raises(AlreadyExists, match="id already exists: 'b'"):
        docs.add(["c", "b"], [[1, 1, 1], [2, 2, 2]])
    with pytest.raises(PointNotFound, match="id not found: 'c' in collection 'docs'"):
        docs.update(["a", "c"], [[1, 1, 1], [2, 2, 2]])
    assert contents(lab) == before
    assert docs.add("c", [1, 1, 1]).count == 1


def test_update_keeps_what_is_left_out(docs):
    docs.update("a", metas={"n": 2})
    assert (docs.get("a").vector.tolist(), docs.get("a").meta) == ([1, 0, 0], {"n": 2})
    docs.update("a", [5, 5, 5])
    assert (docs.get("a").vector.tolist(), docs.get("a").meta) == ([5, 5, 5], {"n": 2})
    docs.update(["a", "b"], metas=[KEEP, {"n": 3}])
    assert [p.meta for p in docs.get_many(["a", "b"])] == [{"n": 2}, {"n": 3}]
    docs.update("a", metas=None)
    assert docs.get("a").meta is None
    docs.upsert("b", [0, 0, 0])
    assert docs.get("b").meta is None
    assert [h.id for h in docs.search([5, 5, 5], k=2)] == ["a", "b"]


def test_delete_counts_what_was_there_and_tells_of_each(lab, docs):
    head = lab.head
    result = docs.delete(["a", "nobody", "a"])
    assert (result.count, result.offset) == (1, head + 1)
    assert (docs.get("a"), len(docs)) == (None, 1)
    again = docs.delete("a")
    assert (again.count, again.offset) == (0, head + 1)
    [event] = lab.events.read(since=head)
    assert (event.type, event.data) == ("vector_deleted", {"collection": "docs", "id": "a"})
    docs.add("a", [9, 9, 9])
    assert docs.get("a").meta is None


def test_get_many_keeps_order_repeats_and_gaps(docs):
    found = docs.get_many(["b", "nobody", "a", "b"])
    assert [p and p.id for p in found] == ["b", None, "a", "b"]
    assert docs.get_many([]) == []


def test_scroll_pages_through_every_point_once_in_byte_order(docs):
    ids = [f"{i:03}" for i in range(23)] + ["é", "Z", "\U0001f600", "\uffff"]
    docs.upsert(ids, np.zeros((len(ids), 3)))
    seen, after = [], None
    while True:
        page, after = docs.scroll(after, limit=5)
        seen += [p.id for p in page]
        assert len(page) <= 5
        if after is None:
            break
        assert after == seen[-1]
    assert seen == sorted([*ids, "a", "b"], key=str.encode)


def test_counters_tell_rows_points_and_upserts(docs):
    docs.upsert(["a", "c"], np.zeros((2, 3)))
    docs.delete("b")
    docs.update("c", metas=1)
    info = docs.info()
    assert (info.live_count, info.total_rows, info.deleted_count) == (2, 4, 2)
    assert info.upsert_count == 5
    assert info.file_bytes >= 4 * 3 * 4
    assert len(docs) == 2
    assert "points=2" in repr(docs)


def test_write_each_keeps_the_good_and_explains_the_bad(lab, docs):
    results = docs.write_each(
        "upsert",
        [
            ("c", [1, 1, 1], {"n": 3}),
            ("d", [1, 1], None),
            ("", [1, 1, 1], None),
            ("e", [1, float("nan"), 1], None),
            ("c", [2, 2, 2], {"n": 4}),
            ("f", [1, 1, 1], float("inf")),
        ],
    )
    assert [type(r).__name__ for r in results] == [
        "WriteResult", "DimensionMismatch", "InvalidArgument", "InvalidArgument", "WriteResult",
        "InvalidArgument",
    ]  # fmt: skip
    assert docs.get("c").vector.tolist() == [2, 2, 2]
    assert len(docs) == 3
    results = docs.write_each("delete", [("c", None, None), ("c", None, None), ("a", None, None)])
    assert [type(r).__name__ for r in results] == ["WriteResult", "PointNotFound", "WriteResult"]
    results = docs.write_each("update", [("b", None, {"n": 9}), ("b", [7, 7, 7], KEEP)])
    assert (docs.get("b").vector.tolist(), docs.get("b").meta) == ([7, 7, 7], {"n": 9})
    results = docs.write_each("add", [("b", [0, 0, 0], None), ("g", [0, 0, 0], None)])
    assert [type(r).__name__ for r in results] == ["AlreadyExists", "WriteResult"]
    assert lab.verify().ok


V = [1.0, 2.0, 3.0]


def test_every_verb_of_a_dropped_collection_says_it_is_gone(lab, docs):
    lab.drop_collection("docs")
    for call in (
        lambda: docs.upsert("a", V),
        lambda: docs.delete("a"),
        lambda: docs.get("a"),
        lambda: docs.scroll(),
        lambda: docs.search(V),
        lambda: docs.search_many([V]),
        lambda: docs.info(),
        lambda: docs.snapshot(),
        lambda: docs.build_index("vamana"),
        lambda: docs.tune_index(search_list_size=99),
        lambda: docs.drop_index(),
        lambda: docs.index_status(),
        lambda: docs.write_each("upsert", [("a", V, None)]),
        lambda: len(docs),
        lambda: "a" in docs,
        lambda: docs.dim,
        lambda: lab.collection("docs"),
    ):
        with pytest.raises(CollectionNotFound, match="'docs'"):
            call()


def test_a_collection_made_again_under_its_old_name_starts_empty(path):
    with luma.open(path) as lab:
        docs = lab.create_collection("docs", 2)
        docs.upsert(["a", "b"], [[1, 0], [0, 1]])
        docs.search([1, 0])
        [old] = (path / "collections").iterdir()
        lab.drop_collection("docs")
        assert not old.exists()
        again = lab.create_collection("docs", 3, "l2")
        assert (len(again), again.search(V)) == (0, [])
        again.upsert("a", V)
        assert docs.get("a").vector.tolist() == V
        assert not old.exists()
        assert lab.verify().ok


def test_names_of_64_characters_and_ids_of_512_bytes_are_allowed(lab):
    docs = lab.create_collection("A.b_c-" + "9" * 58, 1)
    docs.upsert("é" * 256, [1.0])
    assert docs.get("é" * 256).vector.tolist() == [1.0]


def test_a_wait_for_an_offset_that_does_not_come_ends_in_a_time_out(lab, docs):
    lab._parts.wait_secs = 0.1
    assert docs.search(V, k=1, min_offset=lab.head)
    with pytest.raises(WaitTimeout, match=f"offset {lab.head + 1} .* head is {lab.head}"):
        docs.search(V, min_offset=lab.head + 1)


def test_a_snapshot_holds_ids_and_vectors_of_one_moment(lab, docs):
    docs.upsert(["c", "a"], [[3, 3, 3], [4, 4, 4]])
    docs.delete("b")
    seen = docs.snapshot()
    assert dict(zip(seen.ids, seen.vectors.tolist(), strict=True)) == {
        "c": [3, 3, 3], "a": [4, 4, 4],
    }  # fmt: skip
    assert seen.offset == lab.head
    docs.upsert("c", [0, 0, 0])
    assert [3, 3, 3] in seen.vectors.tolist()


IDS = st.sampled_from("abcdef")
VERBS = st.sampled_from(["upsert", "add", "update", "delete"])
BATCHES = st.lists(
    st.tuples(VERBS, st.lists(IDS, min_size=1, max_size=4), st.booleans(), st.integers(0, 99)),
    max_size=12,
)


@settings(max_examples=30, deadline=None)
@given(BATCHES)
def test_any_sequence_of_batches_leaves_what_a_dict_would_hold(batches):
    with luma.open(":memory:") as lab:
        docs = lab.create_collection("docs", 2, "l2")
        oracle = {}
        for verb, ids, with_meta, seed in batches:
            vectors = np.random.default_rng(seed).normal(size=(len(ids), 2)).astype(np.float32)
            metas = [{"s": seed, "i": i} for i in range(len(ids))]
            repeated = len(set(ids)) < len(ids)
            refused = verb != "delete" and (
                repeated
                or (verb == "add" and any(id in oracle for id in ids))
                or (verb == "update" and any(id not in oracle for id in ids))
            )
            head = lab.head
            try:
                if verb == "delete":
                    docs.delete(ids)
                else:
                    arguments = (ids, vectors, metas) if with_meta else (ids, vectors)
                    getattr(docs, verb)(*arguments)
            except LumaError:
                assert refused
                assert lab.head == head
            else:
                assert not refused
                for id, vector, meta in zip(ids, vectors, metas, strict=True):
                    if verb == "delete":
                        oracle.pop(id, None)
                        continue
                    kept = oracle[id][1] if verb == "update" else None
                    oracle[id] = (vector.tolist(), meta if with_meta else kept)
            points, _ = docs.scroll()
            assert {p.id: (p.vector.tolist(), p.meta) for p in points} == oracle
            assert len(docs) == len(oracle)
        assert sorted(h.id for h in docs.search([0, 0], k=99)) == sorted(oracle)
        assert lab.verify().ok
