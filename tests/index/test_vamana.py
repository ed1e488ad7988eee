"""VamanaIndex: its graph, its recall, its determinism."""

import tracemalloc

import numpy as np
import pytest
from index_contract import ODD_DATA, IndexContract, clustered, each_of, every_metric, recall

from luma_lab import errors
from luma_lab.index import FlatIndex, VamanaIndex
from luma_lab.index.builder import BATCH_SHARE, batch_bounds
from luma_lab.index.chosen import RowChoices
from luma_lab.index.vamana import resolve_list_size
from luma_lab.kernels.graph import PATIENCE

NO_NODE = -1


def check_graph(index):
    """Assert the invariants of a built graph."""
    neighbors, n = index.neighbors_, len(index)
    assert neighbors.shape == (n, index.max_degree) and neighbors.dtype == np.int32
    assert neighbors.max(initial=NO_NODE) < n and neighbors.min(initial=NO_NODE) >= NO_NODE
    reached, waiting = {index.entry_}, [index.entry_]
    while waiting:
        for other in neighbors[waiting.pop()].tolist():
            if other != NO_NODE and other not in reached:
                reached.add(other)
                waiting.append(other)
    assert len(reached) == n, "every node can be reached from the entry"
    for node, row in enumerate(neighbors.tolist()):
        degree = row.index(NO_NODE) if NO_NODE in row else len(row)
        assert set(row[degree:]) <= {NO_NODE}, "padding comes last"
        assert node not in row, "no self loops"
        assert len(set(row[:degree])) == degree, "no edge twice"


class TestVamanaIndex(IndexContract):
    quantizer = "q8"

    def make(self, dim, metric="cosine", **parameters):
        given = {"max_degree": 24, "build_list_size": 50, "quantizer": self.quantizer}
        return VamanaIndex(dim, metric, **{**given, **parameters})

    def test_wrong_graph_parameters_are_named(self):
        for bad in (
            {"max_degree": 0}, {"max_degree": 1.5}, {"build_list_size": 0}, {"alpha": 0.9},
            {"alpha": "1"}, {"alpha": float("nan")}, {"seed": -1}, {"threads": -1},
        ):  # fmt: skip
            with pytest.raises(errors.InvalidArgument, match=next(iter(bad))):
                VamanaIndex(4, **bad)
        with pytest.raises(errors.UnknownName, match="'q9': expected one of None, 'q8'"):
            VamanaIndex(4, quantizer="q9")


class TestVamanaIndexOfFloats(TestVamanaIndex):
    quantizer = None


@every_metric
@pytest.mark.parametrize(
    "parameters",
    [
        {"max_degree": 12, "build_list_size": 30},
        {"max_degree": 1, "build_list_size": 5},
        {"max_degree": 3, "build_list_size": 1, "alpha": 1.0},
        {"max_degree": 40, "build_list_size": 60, "alpha": 2.0},
    ],
)
def test_every_graph_keeps_its_invariants(metric, parameters):
    check_graph(VamanaIndex(10, metric, **parameters).build(clustered(700, 10)))


@each_of(ODD_DATA)
@pytest.mark.parametrize("metric", ["l2", "dot", "cosine"])
def test_odd_data_makes_sound_graphs(vectors, metric):
    index = VamanaIndex(4, metric, max_degree=4, build_list_size=10).build(vectors)
    if len(vectors):
        check_graph(index)
        everything = index.search(vectors[0], k=len(vectors))
        assert sorted(everything.rows[0].tolist()) == list(range(len(vectors)))


@every_metric
def test_the_same_seed_gives_the_same_bytes_for_any_number_of_threads(metric):
    vectors = clustered(1200, 12)
    prints = {
        VamanaIndex(12, metric, max_degree=16, build_list_size=30, threads=t)
        .build(vectors)
        .fingerprint
        for t in (1, 2, 3)
    }
    assert len(prints) == 1
    other = VamanaIndex(12, metric, max_degree=16, build_list_size=30, seed=1).build(vectors)
    assert other.fingerprint not in prints
    check_graph(other)


def test_the_entry_is_the_row_nearest_to_the_mean():
    vectors = clustered(400, 6)
    index = VamanaIndex(6, "l2").build(vectors)
    mean = vectors.mean(axis=0, dtype=np.float64)
    assert index.entry_ == int(((vectors - mean) ** 2).sum(axis=1).argmin())


@pytest.mark.parametrize("spread", [0.0, 0.5, 1.0])
def test_inner_product_recalls_well_when_lengths_differ_widely(spread):
    rng = np.random.default_rng(5)
    vectors = rng.normal(size=(3000, 24)) * rng.lognormal(0, spread, size=(3000, 1))
    queries = rng.normal(size=(100, 24))
    index = VamanaIndex(24, "dot").build(vectors)
    check_graph(index)
    exact = FlatIndex(24, "dot").build(vectors).search(queries)
    assert recall(index.search(queries), exact) >= 0.95


def test_a_longer_list_recalls_more_and_works_more():
    rng = np.random.default_rng(0)  # without structure: the hardest there is
    vectors, queries = rng.normal(size=(2000, 32)), rng.normal(size=(100, 32))
    index = VamanaIndex(32, "l2", max_degree=12, build_list_size=30).build(vectors)
    exact = FlatIndex(32, "l2").build(vectors).search(queries)
    found = [index.search(queries, search_list_size=size) for size in (10, 40, 400)]
    recalls = [recall(answer, exact) for answer in found]
    assert recalls[0] < recalls[1] < recalls[2] and recalls[2] > 0.99
    hops = [answer.stats.hops.mean() for answer in found]
    assert hops == sorted(hops)
    assert all((a.stats.hops <= a.stats.comparisons).all() for a in found)


def test_far_clusters_are_all_found():
    rng = np.random.default_rng(0)
    vectors = np.concatenate([rng.normal(1000 * i, 1, size=(60, 8)) for i in range(30)])
    index = VamanaIndex(8, "l2", max_degree=8, build_list_size=20).build(vectors)
    found = index.search(vectors, k=1)
    assert (found.rows[:, 0] == np.arange(len(vectors))).mean() > 0.99


def test_the_search_list_holds_at_least_k_places():
    index = VamanaIndex(4, "l2").build(clustered(100, 4))
    for wrong in ({"search_list_size": 9}, {"search_list_size": 0}, {"search_list_size": 1.5}):
        with pytest.raises(errors.InvalidArgument, match="search_list_size"):
            index.search(np.ones(4), k=10, **wrong)
    assert resolve_list_size(None, 10) == 64 and resolve_list_size(None, 100) == 100
    assert resolve_list_size(10, 10) == 10


def test_a_broad_mask_walks_and_a_narrow_one_scans():
    vectors = clustered(4000, 8)
    index = VamanaIndex(8, "l2").build(vectors)
    broad, narrow = np.arange(4000) % 10 > 0, np.arange(4000) % 100 == 0
    walked = index.search(vectors[0], k=10, search_list_size=10, mask=broad)
    assert walked.stats.hops[0] > 0 and walked.stats.comparisons[0] < 3600
    scanned = index.search(vectors[0], k=10, search_list_size=10, mask=narrow)
    assert scanned.stats.hops[0] == 0 and scanned.stats.comparisons[0] == 40


def test_batches_double_up_to_their_share_and_cover_everything():
    for n in (1, 2, 3, 50, 1000, 12345):
        bounds = batch_bounds(n)
        sizes = np.diff(bounds)
        assert bounds[0] == 1 and bounds[-1] == n and (sizes > 0).all()
        assert (sizes <= np.array(bounds[:-1])).all(), "never more than the graph holds"
        assert sizes.max(initial=0) <= max(1, n * BATCH_SHARE)


def test_an_edge_that_leads_outside_is_refused_at_load(tmp_path):
    from luma_lab.files import load_arrays, save_arrays

    VamanaIndex(4, "l2", max_degree=4).build(clustered(50, 4)).save(tmp_path)
    arrays, manifest = load_arrays(tmp_path, mmap=False)
    manifest = {name: manifest[name] for name in ("kind", "version", "parameters")}
    for wrong in (50, -2):
        neighbors = arrays["neighbors"].copy()
        neighbors[3, 0] = wrong
        save_arrays(tmp_path / "bad", {**arrays, "neighbors": neighbors}, manifest)
        with pytest.raises(errors.CorruptStore, match="outside"):
            VamanaIndex.load(tmp_path / "bad")
    for entry in (50, -1, 1.5, "0", None):
        parameters = {**manifest["parameters"], "entry": entry}
        save_arrays(tmp_path / "bad", arrays, {**manifest, "parameters": parameters})
        with pytest.raises(errors.CorruptStore):
            VamanaIndex.load(tmp_path / "bad")


@every_metric
@pytest.mark.parametrize("quantizer", ["q8", None])
@pytest.mark.parametrize("share", [0.003, 0.05, 0.6])
def test_rows_are_a_mask_by_another_name(metric, quantizer, share):
    vectors, queries = clustered(6000, 24), clustered(30, 24, seed=1)
    index = VamanaIndex(24, metric, quantizer=quantizer, max_degree=24, build_list_size=50)
    index.build(vectors)
    mask = np.random.default_rng(0).random(6000) < share
    by_mask = index.search(queries, k=10, mask=mask)
    by_rows = index.search(queries, k=10, rows=np.flatnonzero(mask))
    assert (by_mask.rows == by_rows.rows).all() and (by_mask.distances == by_rows.distances).all()
    exact = FlatIndex(24, metric).build(vectors).search(queries, k=10, mask=mask)
    assert recall(by_rows, exact) >= 0.95 and ((by_rows.rows < 0) == (exact.rows < 0)).all()
    index.delete(np.flatnonzero(mask)[:5])
    left = index.search(queries, k=10, rows=np.flatnonzero(mask)).rows
    assert not np.isin(left, np.flatnonzero(mask)[:5]).any()


@pytest.mark.parametrize("rows", [[3, 3], [2, 1], [-1], [100], [1.5], [[1]]])
def test_rows_that_can_not_be_are_refused(rows):
    index = VamanaIndex(4, "l2").build(clustered(100, 4))
    with pytest.raises(errors.InvalidArgument, match="rows"):
        index.search(np.ones(4), rows=rows)
    with pytest.raises(errors.InvalidArgument, match="both"):
        index.search(np.ones(4), rows=[1], mask=np.ones(100, bool))


def test_codes_of_near_rows_in_doubt_are_compared_exactly():
    # All rows are one in their codes: only the exact distances tell them apart.
    rng = np.random.default_rng(0)
    vectors = (1000 + 1e-3 * rng.normal(size=(900, 32))).astype(np.float32)
    index = VamanaIndex(32, "l2", max_degree=16, build_list_size=40).build(vectors)
    exact = FlatIndex(32, "l2").build(vectors)
    few = np.arange(0, 900, 3)
    found = index.search(vectors[:50], k=5, rows=few)
    expected = exact.search(vectors[:50], k=5, mask=np.arange(900) % 3 == 0)
    assert (found.distances == expected.distances).all()


@pytest.mark.parametrize(("metric", "quantizer"), [("l2", "q8"), ("cosine", None)])
def test_a_build_allocates_no_more_than_its_budget_and_refuses_one_that_is_too_small(
    metric, quantizer
):
    vectors = np.random.default_rng(3).normal(size=(4000, 32)).astype(np.float32)
    index = VamanaIndex(32, metric, quantizer=quantizer, max_degree=16, build_list_size=32)
    index.build(vectors[:200])  # what is compiled or imported now is no part of what follows
    before = index.fingerprint
    with pytest.raises(errors.InvalidArgument, match="this build takes up to") as refused:
        index.build(vectors, memory_bytes=1000)
    assert index.fingerprint == before
    needed = int(str(refused.value).split("up to ")[1].split()[0])
    tracemalloc.start()
    try:
        index.build(vectors, memory_bytes=needed)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert len(index) == 4000
    assert index.memory_bytes < peak <= needed


def test_a_scan_in_doubt_looks_again_with_more_room():
    # More rows are one in their codes than a scan keeps at first, far fewer than there are.
    rng = np.random.default_rng(0)
    near = 1000 + 1e-3 * rng.normal(size=(150, 32))
    away = 1000 + 30 * rng.normal(size=(4000, 32))
    vectors = np.concatenate([near, away]).astype(np.float32)
    index = VamanaIndex(32, "l2", max_degree=16, build_list_size=40).build(vectors)
    few = np.sort(rng.permutation(len(vectors))[:3500])
    mask = np.zeros(len(vectors), bool)
    mask[few] = True
    found = index.search(vectors[:30], k=5, rows=few, search_list_size=200)
    assert (found.stats.hops == 0).all()
    expected = FlatIndex(32, "l2").build(vectors).search(vectors[:30], k=5, mask=mask)
    assert (found.distances == expected.distances).all()


def test_a_filter_that_lets_pass_what_is_near_makes_a_short_walk():
    vectors = clustered(6000, 8)
    index = VamanaIndex(8, "l2", max_degree=24, build_list_size=50).build(vectors)
    far = ((vectors - vectors[0]) ** 2).sum(axis=1)
    apart = np.random.default_rng(0).random(6000) < 0.5
    found = [
        index.search(vectors[0], k=10, search_list_size=16, mask=mask)
        for mask in (far < np.median(far), apart)
    ]
    assert found[0].stats.comparisons[0] < found[1].stats.comparisons[0]
    for answer, mask in zip(found, (far < np.median(far), apart), strict=True):
        exact = FlatIndex(8, "l2").build(vectors).search(vectors[0], k=10, mask=mask)
        assert recall(answer, exact) >= 0.9


def test_a_walk_is_tried_where_a_filter_may_let_pass_what_is_near_and_given_up_soon():
    vectors = clustered(9000, 8)
    index = VamanaIndex(8, "l2", max_degree=24, build_list_size=40, quantizer=None).build(vectors)
    exact = FlatIndex(8, "l2").build(vectors)
    chance = np.random.default_rng(0)
    order = np.argsort(((vectors - vectors[0]) ** 2).sum(axis=1), kind="stable")
    for kind, among in (("near", order[:3000]), ("any", order), ("far", order[4500:])):
        mask = np.zeros(9000, bool)
        mask[chance.permutation(among)[:1500]] = True  # too few for a walk among rows at random
        found = index.search(vectors[0], k=10, search_list_size=10, mask=mask)
        expected = exact.search(vectors[0], k=10, mask=mask)
        if kind == "near":
            assert found.stats.comparisons[0] < 1000
            assert recall(found, expected) >= 0.8
        else:
            assert 0 < found.stats.hops[0] <= 2 * PATIENCE < 1500 < found.stats.comparisons[0]
            assert (found.distances == expected.distances).all()


def test_rows_given_again_are_known_and_others_are_not_taken_for_them():
    choices = RowChoices()
    rows = np.arange(0, 100, 3)
    rows.setflags(write=False)
    first = choices.take(rows, 100)
    assert first.mask() is choices.take(rows, 100).mask()
    assert choices.take(rows, 120).mask().shape == (120,)
    assert np.flatnonzero(first.mask()).tolist() == rows.tolist()
    writable = np.arange(0, 100, 3)
    assert choices.take(writable, 100).mask() is not choices.take(writable, 100).mask()
    part = rows[:5]  # a view: what it looks at may change
    assert choices.take(part, 100).mask() is not choices.take(part, 100).mask()
    for i in range(50):  # memory, and so the identity of arrays, is used again
        other = np.arange(i, 100, 7)
        other.setflags(write=False)
        assert np.flatnonzero(choices.take(other, 100).mask()).tolist() == other.tolist()
        del other


@pytest.mark.parametrize("quantizer", ["q8", None])
@pytest.mark.parametrize("metric", ["cosine", "l2"])
@pytest.mark.parametrize("seed", [0, 1])
def test_copies_by_the_thousand_neither_fill_links_nor_hold_walks_fast(quantizer, metric, seed):
    vectors = np.random.default_rng(seed).normal(size=(6000, 24)).astype(np.float32)
    vectors[:2000], vectors[2000:3000] = vectors[0], vectors[2000]
    parameters = {"max_degree": 24, "build_list_size": 50, "quantizer": quantizer}
    index = VamanaIndex(24, metric, **parameters).build(vectors)
    exact = FlatIndex(24, metric).build(vectors)
    # Rows that are there once keep links to others than copies.
    assert (index.neighbors_[3000:] >= 3000).sum(axis=1).mean() > 12
    for k in (5, 64, 300):
        for row in (0, 2000):
            found = index.search(vectors[row], k=k)
            assert np.abs(found.distances).max() < 1e-5
    queries = vectors[3000:3200] + np.float32(0.05)
    mask = np.arange(6000) % 2 == 0
    for options in ({}, {"mask": mask}):
        truth, found = (i.search(queries, k=10, **options) for i in (exact, index))
        assert (found.distances <= truth.distances[:, -1:] + 1e-5).mean() > 0.95
