"""Range search: all rows within a radius, against brute force, faiss and FlatIndex."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from index_contract import METRICS, brute_force, clustered, every_metric
from range_contract import parts_of, radius_of, same

from luma_lab import errors
from luma_lab.index import FlatIndex, VamanaIndex
from luma_lab.index.ranging import exact_range
from luma_lab.index.rows import read_only
from luma_lab.kernels.topk import key_row

N, DIM = 6000, 24
BUILD = {"max_degree": 24, "build_list_size": 50}


@pytest.fixture(scope="module")
def graphs():
    made = {}
    for kind in ("clustered", "uniform"):
        if kind == "clustered":
            vectors = clustered(N + 50, DIM)
        else:
            vectors = np.random.default_rng(1).random((N + 50, DIM)).astype(np.float32)
        for metric in METRICS:
            rows, queries = vectors[:N], vectors[N:]
            flat = FlatIndex(DIM, metric).build(rows)
            made[kind, metric] = VamanaIndex(DIM, metric, **BUILD).build(rows), flat, queries
    return made


@settings(max_examples=60)
@given(
    metric=st.sampled_from(METRICS),
    n=st.integers(0, 120),
    share=st.floats(-0.2, 1.2),
    threads=st.integers(1, 4),
    choice=st.sampled_from(["all", "mask", "rows"]),
    limit=st.none() | st.integers(1, 50),
    seed=st.integers(0, 2**32 - 1),
)
def test_flat_range_search_equals_numpy(metric, n, share, threads, choice, limit, seed):
    rng = np.random.default_rng(seed)
    # Whole numbers, so that distances tie, and l2 and dot are exact.
    matrix = rng.integers(-3, 4, size=(n, 5)).astype(np.float32)
    queries = rng.integers(-3, 4, size=(3, 5)).astype(np.float32)
    index = FlatIndex(5, metric).build(matrix)
    truth = index.search(queries, k=max(1, n))
    np.testing.assert_allclose(
        np.take_along_axis(brute_force(matrix, queries, metric), truth.rows, 1) if n else 0.0,
        truth.distances if n else 0.0,
        atol=1e-6,
    )
    seen = truth.distances[truth.rows >= 0]
    low, high = (float(seen.min()), float(seen.max())) if n else (0.0, 1.0)
    radius = low + share * (high - low)
    mask = rng.random(n) < 0.5 if choice != "all" else np.ones(n, bool)
    more = {"mask": {"mask": mask}, "rows": {"rows": np.flatnonzero(mask)}}.get(choice, {})
    found = index.search_range(queries, radius, threads=threads, limit=limit, **more)
    for i, (a, b) in enumerate(itertools.pairwise(found.limits)):
        within = truth.rows[i][(truth.distances[i].astype(float) <= radius) & (truth.rows[i] >= 0)]
        within = within[mask[within]][:limit]
        assert found.rows[a:b].tolist() == within.tolist(), "ties go to the lower row"
        at = {row: far for row, far in zip(truth.rows[i], truth.distances[i], strict=True)}
        assert found.distances[a:b].tolist() == [at[row] for row in within]
    assert found.stats.comparisons.tolist() == [mask.sum()] * 3


@every_metric
def test_flat_range_search_finds_what_that_of_faiss_does(metric):
    faiss = pytest.importorskip("faiss")
    vectors, queries = clustered(3000, 40), clustered(20, 40, seed=1)
    base, asked = vectors.copy(), queries.copy()
    if metric == "cosine":
        faiss.normalize_L2(base)
        faiss.normalize_L2(asked)
    peer = faiss.IndexFlatL2(40) if metric == "l2" else faiss.IndexFlatIP(40)
    peer.add(base)
    flat = FlatIndex(40, metric).build(vectors)
    for count in (1, 30):
        radius = radius_of(flat, queries, count)
        bound = {"l2": radius, "dot": -radius, "cosine": 1 - radius}[metric]
        limits, _, rows = peer.range_search(asked, bound)
        found = flat.search_range(queries, radius)
        assert found.limits.tolist() == limits.astype(int).tolist()
        for a, b in itertools.pairwise(limits):
            assert set(found.rows[a:b]) == set(rows[a:b])


@pytest.mark.parametrize("kind", ["clustered", "uniform"])
@every_metric
def test_a_walk_finds_nearly_all_and_nothing_else(graphs, kind, metric):
    index, flat, queries = graphs[kind, metric]
    for count in (1, 10, 100, 600):
        radius = radius_of(flat, queries, count)
        expected, found = flat.search_range(queries, radius), index.search_range(queries, radius)
        hits = 0
        pairs = list(zip(parts_of(found), parts_of(expected), strict=True))
        for ours, truth in pairs:
            assert len(set(ours)) == len(ours) and {*ours} <= {*truth}
            hits += len(ours)
        assert hits >= 0.95 * len(expected.rows), (count, hits, len(expected.rows))
        far = dict(zip(_pairs(expected), expected.distances, strict=True))
        exact = [far[pair] for pair in _pairs(found)]
        assert (np.array(exact) == found.distances).all()
        for threads in (2, 64):
            assert same(index.search_range(queries, radius, threads=threads), found)
        if count == 10:
            assert found.stats.hops.all() and found.stats.comparisons.mean() < N / 2


def _pairs(found):
    """Return (query, row) of all answers."""
    owners = np.repeat(np.arange(len(found.limits) - 1), np.diff(found.limits))
    return list(zip(owners.tolist(), found.rows.tolist(), strict=True))


def test_distances_ascend_and_ties_go_to_the_lower_row(graphs):
    index, flat, queries = graphs["clustered", "l2"]
    found = index.search_range(queries, radius_of(flat, queries, 50))
    for a, b in itertools.pairwise(found.limits):
        order = np.lexsort((found.rows[a:b], found.distances[a:b]))
        assert (order == np.arange(b - a)).all()


@pytest.mark.parametrize("share", [0.9, 0.3, 0.02, 0.0005, 0.0])
def test_a_filter_of_any_selectivity_is_kept_to(graphs, share):
    index, flat, queries = graphs["clustered", "cosine"]
    mask = np.random.default_rng(3).random(N) < share
    radius = radius_of(flat, queries, 200)
    expected = flat.search_range(queries, radius, mask=mask)
    found = index.search_range(queries, radius, mask=mask)
    assert same(index.search_range(queries, radius, rows=np.flatnonzero(mask)), found)
    assert mask[found.rows].all()
    assert len(found.rows) >= 0.95 * len(expected.rows)
    if share <= 0.02:
        assert same(found, expected), "few matches are all compared"
        assert not found.stats.hops.any()


def test_a_limit_keeps_the_nearest(graphs):
    index, flat, queries = graphs["clustered", "l2"]
    radius = radius_of(flat, queries, 100)
    for asked in (index, flat):
        whole = parts_of(asked.search_range(queries, radius))
        for limit in (1, 7, 100_000):
            cut = parts_of(asked.search_range(queries, radius, limit=limit))
            assert cut == [rows[:limit] for rows in whole]
            assert parts_of(asked.search_range(queries[:1], radius, limit=limit, threads=2)) == [
                whole[0][:limit]
            ]


@pytest.mark.parametrize("quantizer", ["q8", None])
def test_a_radius_can_match_nothing_and_everything(quantizer):
    vectors = clustered(3000, DIM)
    for metric in METRICS:
        flat = FlatIndex(DIM, metric).build(vectors)
        index = VamanaIndex(DIM, metric, quantizer=quantizer, **BUILD).build(vectors)
        for asked in (flat, index):
            everything = asked.search_range(vectors[:3], np.inf)
            assert everything.limits.tolist() == [0, 3000, 6000, 9000]
            assert (np.sort(everything.rows[:3000]) == np.arange(3000)).all()
            for radius in (-np.inf, -1e30):
                assert asked.search_range(vectors[:3], radius).limits.tolist() == [0, 0, 0, 0]
            assert len(asked.search_range(vectors[:3], 1e300).rows) == 9000


def test_the_radius_itself_is_within():
    index = FlatIndex(1, "l2").build(np.arange(10, dtype=np.float32)[:, None])
    assert index.search_range([[0.0]], 9.0).rows.tolist() == [0, 1, 2, 3]
    assert index.search_range([[0.0]], np.nextafter(9.0, 0)).rows.tolist() == [0, 1, 2]


@pytest.mark.parametrize("seed", range(2))
def test_duplicates_by_the_thousand_are_found(seed):
    rng = np.random.default_rng(seed)
    vectors = rng.normal(size=(10_000, DIM)).astype(np.float32)
    vectors[:2000] = vectors[0]
    index = VamanaIndex(DIM, "l2", **BUILD).build(vectors)
    for radius in (0.0, 1.0):
        found = index.search_range(vectors[0], radius)
        assert len(found.rows) >= 0.95 * 2000 and (found.rows < 2000).all()
        assert (np.diff(found.rows) > 0).all() and not found.distances.any()
    equal = VamanaIndex(DIM, "cosine", **BUILD).build(np.ones((3000, DIM)))
    assert len(equal.search_range(np.ones(DIM), 1e-6).rows) == 3000


def test_a_walk_that_copies_of_another_row_hold_fast_is_no_answer():
    rng = np.random.default_rng(1)
    vectors = rng.normal(size=(8000, DIM)).astype(np.float32)
    vectors[:2500], vectors[2500:4000] = vectors[0], vectors[2500]
    index = VamanaIndex(DIM, "cosine", **BUILD).build(vectors)
    for first, count in ((0, 2500), (2500, 1500)):
        found = index.search_range(vectors[first], 1e-6)
        assert found.rows.tolist() == list(range(first, first + count))


def test_a_query_too_long_by_a_rounding_is_left_to_a_scan_and_gets_no_other_ones_rows():
    vectors = clustered(3000, DIM)
    graph = VamanaIndex(DIM, "l2", **BUILD).build(vectors)._graph
    queries = read_only(np.stack([vectors[0], vectors[0] * np.float32(1e19), vectors[1]]))
    sizes, counts = np.zeros(3, np.int64), np.zeros((3, 4), np.int64)
    with graph.scratches.lend() as scratch:
        keys = graph.nodes.walk_within(
            queries, graph, None, np.float32(0.0), 0, 3000, 16, scratch, (sizes, counts)
        )
    assert sizes.tolist() == [1, -1, 1]
    assert [key_row(key) for key in keys] == [0, 1]


@pytest.mark.parametrize("n", [0, 1, 2])
def test_tiny_indexes_are_searched(n):
    vectors = np.eye(4, dtype=np.float32)[:n]
    for quantizer in ("q8", None):
        index = VamanaIndex(4, "l2", quantizer=quantizer).build(vectors)
        found = index.search_range(np.eye(4)[:2], 0.5)
        assert found.rows.tolist() == list(range(n))
        assert index.search_range(np.empty((0, 4)), 0.5).limits.tolist() == [0]
    found = FlatIndex(4, "l2").build(vectors).search_range(np.eye(4)[:2], 0.5, limit=1)
    assert found.limits.tolist() == [0, min(n, 1), n]


def test_deleted_rows_are_not_found_and_added_ones_are(graphs):
    source, _, queries = graphs["clustered", "l2"]
    vectors = np.array(source._vectors)
    index = VamanaIndex(DIM, "l2", **BUILD).build(vectors)
    flat = FlatIndex(DIM, "l2").build(vectors)
    radius = radius_of(flat, queries, 100)
    gone = np.random.default_rng(0).random(N) < 0.3
    index.delete(np.flatnonzero(gone))
    expected = flat.search_range(queries, radius, mask=~gone)
    for _ in range(2):
        found = index.search_range(queries, radius)
        assert not gone[found.rows].any() and len(found.rows) >= 0.95 * len(expected.rows)
        masked = index.search_range(queries, radius, mask=np.ones(N, bool))
        assert same(masked, found)
        index.consolidate()
    back = index.add(vectors[gone])
    found = index.search_range(queries, radius)
    whole = flat.search_range(queries, radius)
    assert len(found.rows) >= 0.95 * len(whole.rows) and np.isin(found.rows, back).any()
    index.delete(np.arange(N))
    assert not len(index.search_range(queries, np.inf).rows)


def test_bad_arguments_are_named():
    vectors = clustered(50, 4)
    for index in (FlatIndex(4, "l2"), VamanaIndex(4, "l2")):
        with pytest.raises(errors.IndexNotBuilt):
            index.search_range(vectors[:1], 1.0)
        index.build(vectors)
        for radius in (np.nan, "1", None, True, 1j, np.complex64(1), [1.0], -(10**400)):
            with pytest.raises(errors.InvalidArgument, match="radius"):
                index.search_range(vectors[:1], radius)
        for limit in (0, -1, 1.5, True):
            with pytest.raises(errors.InvalidArgument, match="limit"):
                index.search_range(vectors[:1], 1.0, limit=limit)
        with pytest.raises(errors.DimensionMismatch):
            index.search_range(np.ones(5), 1.0)
        with pytest.raises(errors.InvalidArgument, match="NaN"):
            index.search_range(np.full(4, np.nan), 1.0)
        with pytest.raises(errors.InvalidArgument, match="at most one"):
            index.search_range(vectors[0], 1.0, mask=np.ones(50, bool), rows=[1])
        with pytest.raises(errors.InvalidArgument, match="ascending"):
            index.search_range(vectors[0], 1.0, rows=[3, 1])
    with pytest.raises(errors.InvalidArgument, match="search_list_size"):
        index.search_range(vectors[0], 1.0, search_list_size=0)
    with pytest.raises(errors.InvalidArgument, match="matrix"):
        exact_range(vectors.astype(np.float64), vectors[0], 1.0, "l2")
