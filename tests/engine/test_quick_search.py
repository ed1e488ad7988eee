"""The short way of plain searches answers what the long way does."""

import copy
import pickle

import apsw
import numpy as np
import pytest

from luma_lab import Lab
from luma_lab.engine import point_cache, searching
from luma_lab.errors import InvalidArgument, LumaError, WaitTimeout
from luma_lab.index import VamanaIndex
from luma_lab.kernels import distance
from luma_lab.types import LARGEST_SQUARE

ROWS, DIM = 400, 24


@pytest.fixture(scope="module", params=["cosine", "dot", "l2"])
def docs(request):
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(ROWS, DIM)).astype(np.float32)
    vectors[7] = vectors[8]  # a tie
    metas = [None if i % 3 else {"n": i} for i in range(ROWS)]
    with Lab(":memory:") as lab:
        docs = lab.create_collection("docs", DIM, request.param)
        docs.upsert([f"d{i}" for i in range(ROWS)], vectors, metas)
        docs.build_index("vamana").result()
        docs.vectors = vectors
        yield docs


def both_ways(docs, query, k, **options):
    """Return the hits of the short way, which must be taken, and of the long way."""
    short = searching.quick(docs._parts, "docs", query, k, **options)
    assert short is not None
    return short, docs.search(query, k, explain=True, **options)


@pytest.mark.parametrize("k", [1, 10, ROWS])
@pytest.mark.parametrize("options", [{}, {"search_list_size": ROWS}])
def test_the_short_way_finds_what_the_long_way_does(docs, k, options):
    queries = np.random.default_rng(1).normal(size=(20, DIM)).astype(np.float32)
    for query in [*queries, docs.vectors[7], np.zeros(DIM, np.float32)]:
        short, long = both_ways(docs, query, k, **options)
        assert list(short) == list(long) == list(docs.search(query, k, **options))
        assert short.receipt is None and len(short) == k


def test_what_is_more_than_a_walk_takes_the_long_way(docs):
    good = docs.vectors[0]
    for query, k in (
        (good, 0), (good, ROWS + 1), (good, True), (good, 1.0), (good[:5], 3),
        (good.astype(np.float64), 3), (good[None], 3), (np.full(DIM, np.nan, np.float32), 3),
        (np.full(DIM, np.inf, np.float32), 3), (np.full(DIM, 1e19, np.float32), 3),
    ):  # fmt: skip
        assert searching.quick(docs._parts, "docs", query, k) is None
    for bad in (np.nan, np.inf, -np.inf, 1e19):
        query = good.copy()
        query[3] = bad
        with pytest.raises(InvalidArgument):
            docs.search(query, 3)
    with pytest.raises(InvalidArgument, match="search_list_size"):
        docs.search(good, 3, search_list_size=2)
    with pytest.raises(LumaError):
        docs.search(good[:5], 3)


@pytest.mark.parametrize("view", ["read-only", "strided", "reversed", "subclass"])
def test_any_kind_of_array_is_a_query(docs, view):
    query = docs.vectors[5]
    made = {
        "read-only": np.frombuffer(query.tobytes(), np.float32),
        "strided": np.repeat(query, 2)[::2],
        "reversed": query[::-1].copy()[::-1],
        "subclass": query.view(np.memmap),
    }[view]
    assert list(docs.search(made, 5)) == list(docs.search(query, 5))
    assert query.flags.writeable and made.shape == (DIM,)


def test_rows_that_came_or_died_since_the_index_are_seen():
    rng = np.random.default_rng(2)
    vectors = rng.normal(size=(300, DIM)).astype(np.float32)
    with Lab(":memory:") as lab:
        docs = lab.create_collection("docs", DIM, "l2")
        docs.upsert([f"d{i}" for i in range(300)], vectors)
        docs.build_index("vamana").result()
        assert docs.search(vectors[5], 1)[0].id == "d5"
        docs.delete(["d5"])
        assert docs.search(vectors[5], 1)[0].id != "d5"
        docs.upsert(["new"], vectors[5:6])
        assert docs.search(vectors[5], 1)[0].id == "new"
        docs.upsert(["new"], vectors[5:6], [{"now": "with meta"}])
        assert docs.search(vectors[5], 1)[0].meta == {"now": "with meta"}


@pytest.mark.parametrize("options", [{}, {"exact": True}, {"explain": True}])
def test_a_time_limit_that_passes_while_points_are_read_is_said_so(docs, options, monkeypatch):
    passed = []

    def stopped(*given):
        passed.append(given)
        raise apsw.InterruptError("interrupted")

    monkeypatch.setattr(point_cache, "read_nearest", stopped)
    docs._parts.follower._views["docs"]._points.clear()
    with pytest.raises(WaitTimeout):
        docs.search(docs.vectors[0], 5, **options)
    assert len(passed) == 1


def test_an_index_refuses_what_a_walk_of_one_query_meets():
    vectors = np.random.default_rng(3).normal(size=(300, 32)).astype(np.float32)
    index = VamanaIndex(32, "cosine").build(vectors)
    for bad in (np.nan, np.inf, 1e19):
        query = vectors[0].copy()
        query[-1] = bad
        with pytest.raises(InvalidArgument, match="row 0"):
            index.search(query)
    assert LARGEST_SQUARE == distance.LARGEST_SQUARE


@pytest.mark.parametrize("options", [{}, {"rows": np.arange(20)}, {"threads": 2}])
def test_queries_at_the_limit_of_lengths_are_answered_or_refused(options):
    rng = np.random.default_rng(6)
    vectors = rng.normal(size=(300, 32)).astype(np.float32)
    index = VamanaIndex(32, "dot").build(vectors)
    refused = 0
    for _ in range(100):
        wide = rng.normal(size=32)
        wide *= np.sqrt(LARGEST_SQUARE * (1 + rng.uniform(-1e-7, 1e-7)) / (wide @ wide))
        queries = np.stack([wide, vectors[0]]).astype(np.float32)
        try:
            found = index.search(queries, 5, **options)
        except InvalidArgument:
            refused += 1
            continue
        exact = np.sum(queries[:, None].astype(np.float64) * vectors[found.rows], axis=2)
        np.testing.assert_allclose(found.distances, -exact, rtol=1e-4)
    assert 0 < refused < 100


def test_copies_of_an_index_do_not_look_into_the_arrays_of_the_first():
    vectors = np.random.default_rng(4).normal(size=(500, 32)).astype(np.float32)
    index = VamanaIndex(32, "l2").build(vectors)
    expected = index.search(vectors[3], 5)
    copies = [pickle.loads(pickle.dumps(index)), copy.deepcopy(index)]
    # What the first had is overwritten: whoever still read it there would answer otherwise.
    for array in (index._graph.nodes.codes, index._graph.nodes.vectors):
        array.flags.writeable = True
        array[:] = 0
    for made in copies:
        found = made.search(vectors[3], 5)
        assert found.rows.tolist() == expected.rows.tolist()
        assert found.distances.tolist() == expected.distances.tolist()


def test_statistics_are_four_arrays_by_name_and_in_order():
    vectors = np.random.default_rng(5).normal(size=(300, 32)).astype(np.float32)
    stats = VamanaIndex(32, "l2").build(vectors).search(vectors[:3], 5).stats
    assert len(stats) == 4
    assert [list(a) for a in stats] == [
        list(stats.hops), list(stats.comparisons), list(stats.reads),
        list(stats.rerank_nanoseconds),
    ]  # fmt: skip
    assert (stats[0] > 0).all() and (stats[-1] > 0).all() and not stats[2].any()
    assert "hops=" in repr(stats) and len(stats[:2]) == 2
    assert [a.tolist() for a in pickle.loads(pickle.dumps(stats))] == [a.tolist() for a in stats]


def test_lists_of_numbers_are_queries_too(docs):
    query = docs.vectors[9].tolist()
    assert list(searching.quick(docs._parts, "docs", query, 4)) == list(docs.search(query, 4))
    for odd in (
        [True] * DIM,
        ["1"] * DIM,
        [1] * DIM,
        [[1.0]] * DIM,
        [1.0, [2.0]],
        [1e300] * DIM,
        [],
    ):
        assert searching.quick(docs._parts, "docs", odd, 4) is None
    assert docs.search([1] * DIM, 4)
    for odd in ([1e300] * DIM, ["x"] * DIM):
        with pytest.raises(InvalidArgument):
            docs.search(odd, 4)


def test_an_event_loop_gets_no_answer_that_takes_long(tmp_path):
    vectors = np.random.default_rng(6).normal(size=(300, DIM)).astype(np.float32)
    with Lab(tmp_path / "lab") as lab:
        docs = lab.create_collection("docs", DIM, "l2")
        docs.upsert([f"d{i}" for i in range(300)], vectors)
        docs.build_index("vamana").result()
        # A snapshot there is, but who walks first may have to compile.
        lab._parts.follower.snapshot("docs")
        assert lab.quick_search("docs", vectors[1], 3) is None
    with Lab(tmp_path / "lab") as lab:
        # The rows and the index are to be loaded first.
        assert lab.quick_search("docs", vectors[1], 3) is None
        docs = lab.collection("docs")
        expected = docs.search(vectors[1], 3)
        assert lab.quick_search("docs", vectors[1], 3) == expected
        assert lab.quick_search("docs", vectors[1], 3, search_list_size=65_535) is None
        # A place of a list costs its time in few dimensions too, and so does every hit.
        assert lab.quick_search("docs", vectors[1], 3, search_list_size=1000) is None
        assert lab.quick_search("docs", vectors[1], 200) is None
        docs.delete(["d1"])  # what came since is to be read first
        assert lab.quick_search("docs", vectors[1], 3) is None
        assert lab.quick_search("missing", vectors[1], 3) is None


def test_an_event_loop_decodes_no_long_metas(lab):
    vectors = np.random.default_rng(7).normal(size=(300, DIM)).astype(np.float32)
    docs = lab.create_collection("docs", DIM, "l2")
    docs.upsert([f"d{i}" for i in range(300)], vectors, [{"text": "x" * 100}] * 300)
    docs.build_index("vamana").result()
    expected = docs.search(vectors[1], 3)
    assert lab.quick_search("docs", vectors[1], 3) == expected
    docs.update("d1", metas={"text": "x" * 10_000})
    assert docs.search(vectors[1], 3)[0].meta == {"text": "x" * 10_000}
    assert lab.quick_search("docs", vectors[1], 3) is None
