"""Passages: what is ingested is found by vector, filtered, the latest of its group, grouped."""

import threading

import numpy as np
import pytest

from luma_lab.engine import passages
from luma_lab.errors import DimensionMismatch, InvalidArgument, UnknownName


def put(lab, id, vector, **metadata):
    return passages.ingest(lab, id, vector, f"text {id}", metadata)


def ids(lab, top_k=10, vector=(1, 0), **options):
    return [p.id for p in passages.search(lab, "", vector, top_k, **options)]


@pytest.fixture
def shelf(lab):
    """Six passages; the angle to (1, 0) grows with the number."""
    rows = [
        (1, {"category": "a", "group_id": 7, "processed_at": 10, "language": "en"}),
        (2, {"category": "a", "group_id": 7, "processed_at": 30, "language": "es"}),
        (3, {"category": "b", "group_id": 8, "status": "old"}),
        (4, {"category": "b", "group_id": 8, "processed_at": 5, "language": "fr"}),
        (5, {"category": "a", "status": "new"}),
        (6, {}),
    ]
    for id, metadata in rows:
        angle = id / 10
        put(lab, id, [np.cos(angle), np.sin(angle)], **metadata)
    return lab


def test_before_the_first_there_is_nothing(lab):
    assert passages.search(lab, "", [1, 0], 5) == []
    assert lab.collections() == []


def test_the_first_makes_a_collection_with_cosine_and_its_dimension(lab):
    result = put(lab, 1, [3, 4, 0])
    info = lab.collection("documents").info()
    assert (info.dim, info.metric, info.live_count) == (3, "cosine", 1)
    assert result.offset == lab.head == 2
    with pytest.raises(DimensionMismatch):
        put(lab, 2, [1, 0])
    assert lab.head == 2


def test_a_passage_comes_back_with_score_number_text_and_metadata(shelf):
    found = passages.search(shelf, "", [2, 0], 2)
    assert [(p.id, p.content) for p in found] == [(1, "text 1"), (2, "text 2")]
    np.testing.assert_allclose([p.score for p in found], np.cos([0.1, 0.2]), rtol=1e-6)
    assert found[0].metadata == {
        "category": "a", "group_id": 7, "processed_at": 10, "language": "en",
    }  # fmt: skip


def test_the_same_number_again_replaces(shelf):
    passages.ingest(shelf, 6, [1, 0], "anew", {"category": "c"})
    best = passages.search(shelf, "", [1, 0], 10)
    assert len(best) == 6 and (best[0].id, best[0].content) == (6, "anew")


def test_numbers_up_to_32_bits_are_kept_as_numbers(lab):
    for id in (0, 2**32 - 1):
        put(lab, id, [1, 0])
    assert sorted(ids(lab)) == [0, 2**32 - 1]


def test_filters_are_a_conjunction_and_a_list_is_any_of_it(shelf):
    assert ids(shelf, filters={"category": "a"}) == [1, 2, 5]
    assert ids(shelf, filters={"category": "a", "language": "es"}) == [2]
    assert ids(shelf, filters={"language": ["es", "fr", "xx"]}) == [2, 4]
    assert ids(shelf, filters={"language": []}) == []
    assert ids(shelf, filters={"status": "new", "category": "b"}) == []
    assert ids(shelf, filters={"category": None, "unknown": "x"}) == [1, 2, 3, 4, 5, 6]
    assert ids(shelf, filters={"category": "a' OR 1=1 --"}) == []


def test_a_filter_leaves_as_many_as_there_are(shelf):
    assert ids(shelf, top_k=2, filters={"category": "b"}) == [3, 4]


def test_latest_keeps_the_newest_of_each_group_and_all_without_one(shelf):
    assert ids(shelf, version="latest") == [2, 4, 5, 6]
    assert ids(shelf, version="all") == [1, 2, 3, 4, 5, 6]


def test_of_equally_old_ones_the_better_hit_is_the_latest(lab):
    put(lab, 1, [0, 1], group_id=1, processed_at=5)
    put(lab, 2, [1, 0], group_id=1, processed_at=5)
    put(lab, 3, [1, 0.5], group_id=2)
    put(lab, 4, [1, 0.1], group_id=2, processed_at=0)
    assert ids(lab, version="latest") == [2, 4]


def test_latest_is_judged_among_what_the_filter_leaves(shelf):
    assert ids(shelf, version="latest", filters={"language": "en"}) == [1]


def test_the_latest_counts_even_when_it_is_no_good_hit(lab):
    """Which is the latest must not depend on how many are asked for."""
    put(lab, 0, [-1, 0], group_id=1, processed_at=9)
    for id in range(1, 30):
        put(lab, id, [1, id / 100], group_id=1, processed_at=1)
    assert ids(lab, top_k=1, version="latest") == [0]


def test_groups_come_by_their_best_and_are_cut_to_items(shelf):
    assert ids(shelf, group_by="category") == [1, 3, 6]
    assert ids(shelf, group_by="category", group_limit=2) == [1, 2, 3, 4, 6]
    assert ids(shelf, group_by="category", group_limit=2, top_k=3) == [1, 2, 3]
    assert ids(shelf, group_by="category", group_limit=0) == []
    assert ids(shelf, group_by="group_id") == [1, 3, 5, 6]


def test_a_name_that_groups_nothing_makes_each_its_own_group(shelf):
    for name in ("nothing", "", "content", "processed_at"):
        assert ids(shelf, group_by=name) == [1, 2, 3, 4, 5, 6]


def test_latest_comes_before_grouping(shelf):
    assert ids(shelf, version="latest", group_by="category") == [2, 4, 6]


@pytest.mark.parametrize("limit", [-1, 1.0, "1", None, True])
def test_a_group_limit_that_is_none_is_refused(shelf, limit):
    with pytest.raises(InvalidArgument, match="group_limit"):
        passages.search(shelf, "", [1, 0], 5, group_by="category", group_limit=limit)


def test_an_unknown_policy_is_refused_even_on_an_empty_shelf(lab):
    with pytest.raises(UnknownName, match="did you mean 'latest'"):
        passages.search(lab, "", [1, 0], 5, version="latst")


def test_other_points_of_the_collection_are_passed_over(shelf):
    documents = shelf.collection("documents")
    documents.upsert("no number", [1, 0], {"content": "x", "metadata": {}})
    documents.upsert("77", [1, 0], {"content": 5, "metadata": {}})
    documents.upsert("78", [1, 0], {"content": "x"})
    documents.upsert("79", [1, 0], None)
    documents.upsert("٣", [1, 0], {"content": "x", "metadata": {}})
    assert ids(shelf, top_k=50) == [1, 2, 3, 4, 5, 6]


def test_odd_metadata_of_points_written_otherwise_keeps_no_passage_from_being_found(shelf):
    odd = {"group_id": [7], "processed_at": "soon", "category": {"x": 1}, "filename": []}
    for id, metadata in (("7", odd), ("8", {"group_id": 7, "processed_at": "soon"})):
        shelf.collection("documents").upsert(id, [1, 0], {"content": "t", "metadata": metadata})
    assert set(ids(shelf, version="latest")) == {2, 4, 5, 6, 7}
    for name in ("group_id", "filename", "category"):
        assert 7 in ids(shelf, group_by=name)


def test_writers_that_come_first_together_make_one_collection(lab):
    start, faults = threading.Barrier(8), []

    def work(n):
        try:
            start.wait(30)
            put(lab, n, [1, n])
        except BaseException as error:
            faults.append(error)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not faults and sorted(ids(lab)) == list(range(8))
