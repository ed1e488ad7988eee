"""IVFIndex: its cells, its recall, its determinism, its changes."""

import numpy as np
import pytest
from index_contract import ODD_DATA, IndexContract, clustered, each_of, every_metric, recall

from luma_lab import errors
from luma_lab.index import FlatIndex, IVFIndex
from luma_lab.index.kmeans import default_nlist

every_quantizer = pytest.mark.parametrize("quantizer", ["q8", "q4", None])


class TestIVFIndex(IndexContract):
    quantizer = "q8"
    least_memory_share = 0.5

    def make(self, dim, metric="cosine", **parameters):
        return IVFIndex(dim, metric, **{"quantizer": self.quantizer, **parameters})

    def test_wrong_parameters_of_cells_are_named(self):
        for bad in ({"nlist": 0}, {"nlist": 1.5}, {"seed": -1}, {"threads": -1}):
            with pytest.raises(errors.InvalidArgument, match=next(iter(bad))):
                IVFIndex(4, **bad)
        with pytest.raises(errors.UnknownName, match="'q9': expected one of None, 'q8', 'q4'"):
            IVFIndex(4, quantizer="q9")

    def test_wrong_search_arguments_are_named(self):
        index = self.make(4).build(clustered(100, 4))
        for bad in ({"nprobe": 0}, {"nprobe": 1.5}, {"rerank": 9}, {"rerank": "all"}):
            with pytest.raises(errors.InvalidArgument, match=next(iter(bad))):
                index.search(np.ones(4), k=10, **bad)


class TestIVFIndexOfHalfBytes(TestIVFIndex):
    quantizer = "q4"


class TestIVFIndexOfFloats(TestIVFIndex):
    quantizer = None


def check_cells(index):
    """Assert the invariants of the cells of an index."""
    cells = index._cells
    assert (cells.sizes > 0).all() and cells.sizes.sum() == len(index)
    held = cells.numbers[cells.held_slots()]
    assert sorted(held.tolist()) == np.flatnonzero(cells.live).tolist()


@every_metric
@every_quantizer
def test_the_same_seed_gives_the_same_bytes_for_any_number_of_threads(metric, quantizer):
    vectors = clustered(1500, 12)
    prints = {
        IVFIndex(12, metric, quantizer=quantizer, threads=t).build(vectors).fingerprint
        for t in (1, 2, 3)
    }
    assert len(prints) == 1
    other = IVFIndex(12, metric, quantizer=quantizer, seed=1).build(vectors)
    assert not np.array_equal(other.centroids_, IVFIndex(12, metric).build(vectors).centroids_)


@each_of(
    {
        **ODD_DATA,
        "all equal": np.ones((5000, 4)),
        "mostly zeros": np.concatenate(
            [np.zeros((300, 4)), np.random.default_rng(0).normal(size=(30, 4))]
        ),
    }
)
@every_metric
@every_quantizer
@pytest.mark.parametrize("nlist", [None, 7, 100000])
def test_odd_data_makes_sound_cells(vectors, metric, quantizer, nlist):
    index = IVFIndex(4, metric, quantizer=quantizer, nlist=nlist).build(vectors)
    check_cells(index)
    if len(vectors):
        everything = index.search(vectors[0], k=len(vectors), nprobe=1)
        assert sorted(everything.rows[0].tolist()) == list(range(len(vectors)))
        ten = min(10, len(vectors))
        found = index.search(vectors[:20], k=ten, nprobe=len(vectors))
        exact = FlatIndex(4, metric).build(vectors).search(vectors[:20], k=ten)
        np.testing.assert_allclose(found.distances, exact.distances, rtol=1e-5, atol=1e-6)


@every_metric
@pytest.mark.parametrize("dim", [1, 3, 65, 4096])
@every_quantizer
def test_every_dimension_is_searched(metric, dim, quantizer):
    vectors = np.random.default_rng(0).normal(size=(300, dim)).astype(np.float32)
    index = IVFIndex(dim, metric, quantizer=quantizer, nlist=10).build(vectors)
    found = index.search(vectors[:30], k=5, nprobe=10)
    exact = FlatIndex(dim, metric).build(vectors).search(vectors[:30], k=5)
    if dim == 1 and metric == "cosine":  # there is nothing to tell rows apart by
        np.testing.assert_allclose(found.distances, exact.distances, atol=1e-6)
    else:
        assert recall(found, exact) >= 0.98


def test_cells_are_as_many_as_the_rule_says():
    assert [default_nlist(n) for n in (0, 1, 31, 32, 4096, 10**6)] == [1, 1, 1, 2, 256, 4000]
    vectors = np.random.default_rng(0).normal(size=(2000, 8))
    assert len(IVFIndex(8, "l2").build(vectors).centroids_) == default_nlist(2000) == 125
    assert len(IVFIndex(8, "l2", nlist=20).build(vectors).centroids_) == 20


def test_cells_are_of_like_sizes():
    vectors = np.random.default_rng(0).normal(size=(20000, 16))
    sizes = IVFIndex(16, "l2", nlist=100).build(vectors).cell_sizes_
    assert sizes.sum() == 20000 and sizes.std() < 0.5 * sizes.mean()


@every_quantizer
def test_more_cells_recall_more_and_cost_more(quantizer):
    rng = np.random.default_rng(0)  # without structure: the hardest there is
    vectors, queries = rng.normal(size=(4000, 24)), rng.normal(size=(100, 24))
    index = IVFIndex(24, "l2", quantizer=quantizer).build(vectors)
    exact = FlatIndex(24, "l2").build(vectors).search(queries)
    found = [index.search(queries, nprobe=nprobe) for nprobe in (1, 16, 10**6)]
    recalls = [recall(answer, exact) for answer in found]
    assert recalls[0] < recalls[1] < recalls[2] and recalls[2] > 0.995
    assert found[1].stats.hops.tolist() == [16] * 100
    assert (found[2].stats.comparisons == 4000).all()


def test_a_row_is_in_the_cell_whose_centroid_is_nearest():
    vectors = clustered(3000, 16)
    index = IVFIndex(16, "l2").build(vectors)
    cells = index._cells
    home = np.empty(3000, int)
    home[cells.numbers[cells.held_slots()]] = np.repeat(np.arange(len(cells.sizes)), cells.sizes)
    far = ((vectors[:, None] - index.centroids_[None]) ** 2).sum(2)
    own = far[np.arange(3000), home]
    assert (own <= far.min(axis=1) * 1.02 + 1e-3).all()


@pytest.mark.parametrize("spread", [0.0, 0.5, 1.0])
def test_inner_product_recalls_well_when_lengths_differ_widely(spread):
    rng = np.random.default_rng(5)
    vectors = rng.normal(size=(3000, 24)) * rng.lognormal(0, spread, size=(3000, 1))
    queries = rng.normal(size=(100, 24))
    index = IVFIndex(24, "dot").build(vectors)
    exact = FlatIndex(24, "dot").build(vectors).search(queries)
    assert recall(index.search(queries, nprobe=48), exact) >= 0.9  # of 187 cells


@every_quantizer
def test_clumps_far_from_each_other_are_told_apart_inside(quantizer):
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(30, 16)) * 3000
    vectors = np.concatenate([c + rng.normal(size=(100, 16)) for c in centres])
    queries = vectors[::37] + rng.normal(size=(len(vectors[::37]), 16)) * 0.3
    index = IVFIndex(16, "l2", quantizer=quantizer).build(vectors)
    exact = FlatIndex(16, "l2").build(vectors).search(queries)
    assert recall(index.search(queries), exact) >= 0.95


def test_fewer_exact_looks_are_obeyed():
    vectors = clustered(3000, 16)
    index = IVFIndex(16, "l2", quantizer="q4").build(vectors)
    queries = clustered(50, 16, seed=1)
    exact = FlatIndex(16, "l2").build(vectors).search(queries)
    few, all_of_them = (recall(index.search(queries, rerank=r), exact) for r in (10, None))
    assert few < all_of_them


def test_rows_that_are_in_no_cell_or_in_two_are_refused_at_load(tmp_path):
    from luma_lab.files import load_arrays, save_arrays

    IVFIndex(4, "l2").build(clustered(100, 4)).save(tmp_path)
    arrays, manifest = load_arrays(tmp_path, mmap=False)
    manifest = {name: manifest[name] for name in ("kind", "version", "parameters")}
    rows, sizes = arrays["rows"], arrays["sizes"]
    more = sizes + np.eye(1, len(sizes), dtype=np.int64)[0]
    for wrong in (
        {"rows": np.where(rows == 3, 100, rows)},
        {"rows": np.where(rows == 3, -1, rows)},
        {"rows": np.where(rows == 3, 4, rows)},
        {"rows": rows[:-1]},
        {"sizes": more},
        {"sizes": np.concatenate([[-1, sizes[0] + 1], sizes[1:]])},
        {"vectors": arrays["vectors"][:-1]},
        {"blocks": arrays["blocks"][:-1]},
        {"bias": arrays["bias"][:-1]},
    ):
        save_arrays(tmp_path / "bad", {**arrays, **wrong}, manifest)
        with pytest.raises(errors.CorruptStore):
            IVFIndex.load(tmp_path / "bad")


@pytest.mark.parametrize("quantizer", ["q8", "q4"])
def test_what_codes_leave_open_is_decided_by_the_vectors(quantizer):
    """With all cells looked into, hardly a neighbour is lost to rounding."""
    rng = np.random.default_rng(1)
    vectors = rng.normal(size=(5000, 48)) * rng.lognormal(0, 0.5, size=(5000, 1))
    queries = rng.normal(size=(200, 48))
    for metric in ("l2", "cosine", "dot"):
        index = IVFIndex(48, metric, quantizer=quantizer).build(vectors)
        exact = FlatIndex(48, metric).build(vectors).search(queries)
        assert recall(index.search(queries, nprobe=5000), exact) >= 0.995


@every_quantizer
def test_an_answer_does_not_depend_on_the_queries_beside_it(quantizer):
    vectors, queries = clustered(5000, 16), clustered(700, 16, seed=1)
    index = IVFIndex(16, "l2", quantizer=quantizer).build(vectors)
    together = index.search(queries, k=7, nprobe=5)
    for i in range(0, 700, 23):
        alone = index.search(queries[i], k=7, nprobe=5)
        assert alone.rows[0].tolist() == together.rows[i].tolist()
        assert alone.distances[0].tolist() == together.distances[i].tolist()
        assert alone.stats.comparisons[0] == together.stats.comparisons[i]


def test_a_broad_mask_probes_and_a_narrow_one_scans():
    vectors = clustered(20000, 8)
    index = IVFIndex(8, "l2").build(vectors)
    broad, narrow = np.arange(20000) % 10 > 0, np.arange(20000) % 100 == 0
    probed = index.search(vectors[0], mask=broad)
    assert probed.stats.hops[0] >= 16 and probed.stats.comparisons[0] < 10000
    scanned = index.search(vectors[0], mask=narrow)
    assert scanned.stats.hops[0] == 0 and scanned.stats.comparisons[0] == 200
