"""FlatIndex and exact_search: the ground truth must be true."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from index_contract import METRICS, IndexContract, brute_force, clustered, every_metric

from luma_lab import errors
from luma_lab.index import FlatIndex, exact_search


class TestFlatIndex(IndexContract):
    recall_floor = 1.0

    def make(self, dim, metric="cosine", **parameters):
        return FlatIndex(dim, metric, **parameters)

    def test_what_is_not_offered_yet_says_so(self):
        index = self.make(4, "l2").build(clustered(10, 4))
        for use in (
            lambda: index.add(np.ones((1, 4))),
            lambda: index.delete([0]),
            index.consolidate,
        ):
            with pytest.raises(errors.NotSupported, match=type(index).__name__):
                use()

    @every_metric
    def test_rows_and_distances_equal_those_of_faiss(self, metric):
        faiss = pytest.importorskip("faiss")
        vectors, queries = clustered(3000, 40), clustered(50, 40, seed=1)
        peer = faiss.IndexFlatL2(40) if metric == "l2" else faiss.IndexFlatIP(40)
        base, asked = vectors.copy(), queries.copy()
        if metric == "cosine":
            faiss.normalize_L2(base)
            faiss.normalize_L2(asked)
        peer.add(base)
        distances, rows = peer.search(asked, 10)
        distances = {"l2": distances, "dot": -distances, "cosine": 1 - distances}[metric]
        found = FlatIndex(40, metric).build(vectors).search(queries, k=10)
        np.testing.assert_allclose(found.distances, distances, rtol=1e-4, atol=2e-5)
        assert (found.rows == rows).mean() > 0.995  # equal up to ties within rounding

    @every_metric
    def test_rows_equal_a_stable_sort_of_whole_number_distances(self, metric):
        rng = np.random.default_rng(0)
        vectors = rng.integers(-3, 4, size=(500, 5)).astype(np.float32)
        if metric == "cosine":  # unit vectors with exact products
            vectors = np.eye(5, dtype=np.float32)[rng.integers(0, 5, 500)]
        queries = vectors[:20]
        expected = np.argsort(brute_force(vectors, queries, metric), axis=1, kind="stable")
        for threads in (1, 3, 40):
            found = FlatIndex(5, metric).build(vectors).search(queries, k=500, threads=threads)
            assert (found.rows == expected).all(), "ties go to the lower row"


@given(
    metric=st.sampled_from(METRICS),
    n=st.integers(0, 200),
    k=st.integers(1, 30),
    threads=st.integers(1, 3),
    bounds=st.tuples(st.floats(0, 1), st.floats(0, 1)),
    choice=st.sampled_from(["all", "mask", "rows"]),
    seed=st.integers(0, 2**32 - 1),
)
def test_exact_search_equals_numpy_on_any_part_of_a_matrix(
    metric, n, k, threads, bounds, choice, seed
):
    rng = np.random.default_rng(seed)
    matrix = clustered(n, 7, seed)
    queries = clustered(3, 7, seed + 1)
    start, stop = sorted(int(share * n) for share in bounds)
    allowed = np.zeros(n, bool)
    allowed[start:stop] = True
    more = {}
    if choice == "mask":
        more["mask"] = rng.random(n) < 0.5
        allowed &= more["mask"]
    elif choice == "rows":
        more["rows"] = rng.permutation(n)[: n // 2]
        allowed &= np.isin(np.arange(n), more["rows"])
    rows, distances = exact_search(
        matrix, queries, k, metric, threads=threads, start=start, stop=stop, **more
    )
    expected = np.where(allowed, brute_force(matrix, queries, metric), np.inf)
    count = min(k, int(allowed.sum()))
    np.testing.assert_allclose(
        distances[:, :count], np.sort(expected)[:, :count], rtol=1e-4, atol=1e-5
    )
    assert (rows[:, count:] == -1).all() and (distances[:, count:] == np.inf).all()
    assert all(allowed[row[:count]].all() and len({*row[:count]}) == count for row in rows)


def test_one_query_split_over_threads_gives_the_same_answer():
    matrix = np.tile(clustered(3000, 6), (6, 1))  # every distance six times: ties across parts
    one = exact_search(matrix, matrix[:2], 50, "l2")
    many = exact_search(matrix, matrix[:2], 50, "l2", threads=4)
    assert (one[0] == many[0]).all() and (one[1] == many[1]).all()


def test_a_mapped_matrix_is_searched_without_changing_it(tmp_path):
    matrix = clustered(500, 12)
    matrix.tofile(tmp_path / "matrix.f32")
    mapped = np.memmap(tmp_path / "matrix.f32", np.float32, "r", shape=(500, 12))
    found, expected = (exact_search(m, matrix[:5], 10, "cosine") for m in (mapped, matrix))
    assert (found[0] == expected[0]).all() and matrix.flags.writeable


@pytest.mark.parametrize(
    ("matrix", "arguments", "named"),
    [
        (np.ones((4, 2)), {}, "float64"),
        (np.asfortranarray(np.ones((4, 2), np.float32)), {}, "C-contiguous"),
        (np.ones((4, 2), np.float32), {"start": -1}, "start=-1"),
        (np.ones((4, 2), np.float32), {"start": 3, "stop": 2}, "stop=2"),
        (np.ones((4, 2), np.float32), {"stop": 5}, "stop=5"),
        (np.ones((4, 2), np.float32), {"rows": [4]}, "expected 0 to 3"),
        (np.ones((4, 2), np.float32), {"rows": [-1]}, "from -1"),
        (np.ones((4, 2), np.float32), {"rows": [0.5]}, "float64"),
        (np.ones((4, 2), np.float32), {"rows": [0], "mask": np.ones(4, bool)}, "both"),
    ],
)
def test_exact_search_names_a_wrong_argument(matrix, arguments, named):
    with pytest.raises(errors.InvalidArgument, match=named):
        exact_search(matrix, np.ones(2), 1, "l2", **arguments)
