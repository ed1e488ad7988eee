"""Promises of the ground truth: exact, ties by lower row, held against brute force and faiss."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from luma_lab import bench
from luma_lab.bench import truth
from luma_lab.errors import DimensionMismatch, InvalidArgument, UnknownName
from luma_lab.types import METRICS

GRID = st.integers(-3, 3)  # few values, so that ties are everywhere


@st.composite
def grids(draw):
    n, n_queries, dim = (draw(st.integers(1, high)) for high in (40, 4, 4))
    base = draw(hnp.arrays(np.int8, (n, dim), elements=GRID)).astype(np.float32)
    queries = draw(hnp.arrays(np.int8, (n_queries, dim), elements=GRID)).astype(np.float32)
    return base, queries, draw(st.integers(1, n + 3))


def brute_force(base, queries, metric):
    """Integer arithmetic where it is exact; cosine by one formula for every pair."""
    base, queries = base.astype(np.int64), queries.astype(np.int64)
    products = queries @ base.T
    squares = (base**2).sum(1)[None, :], (queries**2).sum(1)[:, None]
    if metric == "l2":
        return (squares[0] + squares[1] - 2 * products).astype(float)
    if metric == "dot":
        return -products.astype(float)
    norms = np.sqrt(squares[0] * squares[1])
    return 1 - np.divide(products, norms, out=np.zeros(products.shape), where=norms > 0)


@settings(max_examples=200, deadline=None)
@given(grids(), st.sampled_from(["l2", "dot"]))
def test_ties_go_to_the_lower_row_and_missing_rows_are_padding(grid, metric):
    base, queries, k = grid
    rows, distances = bench.exact_neighbors(base, queries, k, metric=metric)
    expected = brute_force(base, queries, metric)
    order = np.argsort(expected, axis=1, kind="stable")[:, :k]
    width = min(k, len(base))
    np.testing.assert_array_equal(rows[:, :width], order)
    np.testing.assert_array_equal(distances[:, :width], np.take_along_axis(expected, order, 1))
    assert (rows[:, width:] == -1).all() and np.isinf(distances[:, width:]).all()
    assert rows.shape == distances.shape == (len(queries), k)
    assert rows.dtype == np.int64 and distances.dtype == np.float32


@settings(max_examples=100, deadline=None)
@given(grids())
def test_cosine_distances_are_right_and_a_zero_vector_is_at_one(grid):
    base, queries, k = grid
    rows, distances = bench.exact_neighbors(base, queries, k, metric="cosine")
    expected = brute_force(base, queries, "cosine")
    width = min(k, len(base))
    np.testing.assert_allclose(
        distances[:, :width], np.sort(expected, axis=1)[:, :width], atol=1e-6
    )
    for i in range(len(queries)):
        np.testing.assert_allclose(expected[i, rows[i, :width]], distances[i, :width], atol=1e-6)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("scale", [1e-12, 1.0, 1e12])
def test_truth_is_right_across_blocks_and_magnitudes(metric, scale, monkeypatch):
    monkeypatch.setattr(truth, "BLOCK_ROWS", 64)
    monkeypatch.setattr(truth, "BLOCK_QUERIES", 7)
    monkeypatch.setattr(truth, "GATHER", 100)
    rng = np.random.default_rng(3)
    base = (rng.normal(size=(500, 12)) * scale).astype(np.float32)
    queries = (rng.normal(size=(20, 12)) * scale).astype(np.float32)
    base[100:200] = base[300:400]
    rows, distances = bench.exact_neighbors(base, queries, 15, metric=metric)
    wide, asked = base.astype(float), queries.astype(float)
    expected = {
        "l2": ((asked[:, None] - wide[None]) ** 2).sum(2),
        "dot": -(asked[:, None] * wide[None]).sum(2),
    }
    lengths = np.linalg.norm(asked, axis=1)[:, None] * np.linalg.norm(wide, axis=1)
    expected["cosine"] = 1 + expected["dot"] / lengths
    np.testing.assert_array_equal(rows, np.argsort(expected[metric], axis=1, kind="stable")[:, :15])
    assert (np.diff(distances, axis=1) >= 0).all()


def test_more_ties_than_candidates_still_give_the_lowest_rows():
    base = np.repeat(np.random.default_rng(4).normal(size=(3, 5)), 200, axis=0)
    rows, _ = bench.exact_neighbors(base, base[::200], 12, metric="l2")
    np.testing.assert_array_equal(rows, [np.arange(start, start + 12) for start in (0, 200, 400)])


@pytest.mark.parametrize("name", ["wordnet2k", "sift_cc0_8k", "perlfaq"])
def test_truth_of_the_shipped_sets_agrees_with_faiss(name):
    faiss = pytest.importorskip("faiss", reason="faiss is the oracle here; it is in luma_lab[lab]")
    data = bench.load(name)
    oracle = (faiss.IndexFlatL2 if data.metric == "l2" else faiss.IndexFlatIP)(data.base.shape[1])
    oracle.add(data.base)
    found, theirs = oracle.search(data.queries, 10)[::-1]
    distances = found_distances = data.truth(10)[1]
    if data.metric == "cosine":
        found_distances = 1 - theirs
    else:
        found_distances = theirs
    np.testing.assert_allclose(found_distances, distances, rtol=1e-5, atol=1e-5)
    assert bench.recall(found, data, k=10) == 1.0


def test_truth_is_computed_once_and_cut_for_a_smaller_k(monkeypatch):
    data = bench.load("sift_cc0_8k")
    rows, distances = data.truth(20)
    monkeypatch.setattr("luma_lab.bench.datasets.exact_neighbors", None)
    np.testing.assert_array_equal(data.truth(5)[0], rows[:, :5])
    np.testing.assert_array_equal(data.truth(5)[1], distances[:, :5])
    with pytest.raises(ValueError, match="read-only"):
        rows[0, 0] = 1


def test_bad_arguments_are_refused():
    base = np.eye(3)
    with pytest.raises(DimensionMismatch, match="got 2 components"):
        bench.exact_neighbors(base, np.ones(2))
    with pytest.raises(UnknownName, match="'l2'"):
        bench.exact_neighbors(base, base, metric="L2")
    with pytest.raises(InvalidArgument, match="queries hold NaN"):
        bench.exact_neighbors(base, [[0, np.nan, 0]])
    with pytest.raises(InvalidArgument, match=r"base has shape \(0, 3\)"):
        bench.exact_neighbors(base[:0], base)
    for k in (0, -1, True, 2.0, "3"):
        with pytest.raises(InvalidArgument, match="k is"):
            bench.exact_neighbors(base, base, k)
        with pytest.raises(InvalidArgument, match="k is"):
            bench.load("sift_cc0_8k").truth(k)


def test_a_data_set_whose_parts_do_not_fit_is_refused():
    base = np.eye(3)
    with pytest.raises(InvalidArgument, match="3 base rows, 2 texts; expected equally many"):
        bench.Dataset(name="x", metric="l2", base=base, texts=["a", "b"])
    with pytest.raises(UnknownName, match="unknown metric None"):
        bench.Dataset(name="x", base=base)
    with pytest.raises(InvalidArgument, match="queries without a base"):
        bench.Dataset(name="x", metric="l2", queries=base)
    with pytest.raises(InvalidArgument, match="no queries"):
        bench.Dataset(name="x", metric="l2", base=base).truth(1)
    with pytest.raises(InvalidArgument, match="neighbors hold row 3"):
        bench.Dataset(name="x", metric="l2", base=base, queries=base, neighbors=[[0], [1], [3]])
