"""Range search of cells and of graphs on disk against FlatIndex."""

import itertools

import numpy as np
import pytest
from index_contract import METRICS, clustered, every_metric
from range_contract import parts_of, radius_of, same

from luma_lab import errors
from luma_lab.index import DiskIndex, FlatIndex, IVFIndex, diskrange

N, DIM = 6000, 24
QUANTIZERS = pytest.mark.parametrize("quantizer", ["q8", "q4", None])


def check_answers(found, expected, floor=0.95):
    """Assert that the rows are of the expected ones, nearly all of them, in order."""
    for ours, truth in zip(parts_of(found), parts_of(expected), strict=True):
        assert len(set(ours)) == len(ours) and {*ours} <= {*truth}
    for a, b in itertools.pairwise(found.limits):
        order = np.lexsort((found.rows[a:b], found.distances[a:b]))
        assert (order == np.arange(b - a)).all(), "best first, ties to the lower row"
    assert len(found.rows) >= floor * len(expected.rows), (len(found.rows), len(expected.rows))


@pytest.fixture(scope="module")
def data():
    vectors = clustered(N + 30, DIM)
    flats = {metric: FlatIndex(DIM, metric).build(vectors[:N]) for metric in METRICS}
    return vectors[:N], vectors[N:], flats


@pytest.fixture(scope="module")
def cells(data):
    made = {}
    for metric, quantizer in itertools.product(METRICS, ("q8", "q4", None)):
        made[metric, quantizer] = IVFIndex(DIM, metric, quantizer=quantizer).build(data[0])
    return made


@QUANTIZERS
@every_metric
def test_cells_hold_nearly_all_and_nothing_else(data, cells, metric, quantizer):
    _, queries, flats = data
    flat, index = flats[metric], cells[metric, quantizer]
    for count in (1, 10, 100, 600):
        radius = radius_of(flat, queries, count)
        expected, found = flat.search_range(queries, radius), index.search_range(queries, radius)
        check_answers(found, expected)
        far = dict(zip(_pairs(expected), expected.distances, strict=True))
        ours = np.array([far[pair] for pair in _pairs(found)])
        if quantizer is None:  # rows are kept at length one
            np.testing.assert_allclose(ours, found.distances, rtol=1e-5, atol=1e-6)
        else:
            assert (ours == found.distances).all()
        for threads in (2, 64):
            assert same(index.search_range(queries, radius, threads=threads), found)
        if count == 10:
            assert found.stats.hops.all() and found.stats.comparisons.mean() < N / 2
        more = index.search_range(queries, radius, nprobe=N)
        check_answers(more, expected, 0.999)


def _pairs(found):
    """Return (query, row) of all answers."""
    owners = np.repeat(np.arange(len(found.limits) - 1), np.diff(found.limits))
    return list(zip(owners.tolist(), found.rows.tolist(), strict=True))


@QUANTIZERS
@pytest.mark.parametrize("share", [0.9, 0.5, 0.02, 0.0])
def test_cells_keep_to_a_filter_of_any_selectivity(data, cells, quantizer, share):
    _, queries, flats = data
    flat, index = flats["l2"], cells["l2", quantizer]
    mask = np.random.default_rng(3).random(N) < share
    radius = radius_of(flat, queries, 200)
    expected = flat.search_range(queries, radius, mask=mask)
    found = index.search_range(queries, radius, mask=mask)
    assert same(index.search_range(queries, radius, rows=np.flatnonzero(mask)), found)
    assert mask[found.rows].all()
    check_answers(found, expected)
    if share <= 0.02:
        assert same(found, expected) and not found.stats.hops.any(), "few matches are all compared"
        assert (found.stats.comparisons == mask.sum()).all()


@QUANTIZERS
def test_a_limit_keeps_the_nearest_of_cells(data, cells, quantizer):
    _, queries, flats = data
    index = cells["cosine", quantizer]
    radius = radius_of(flats["cosine"], queries, 100)
    whole = parts_of(index.search_range(queries, radius, nprobe=N))
    for limit in (1, 7, 100_000):
        cut = index.search_range(queries, radius, nprobe=N, limit=limit)
        assert parts_of(cut) == [rows[:limit] for rows in whole]
    few = np.arange(0, N, 9)
    whole = parts_of(index.search_range(queries, radius, rows=few))
    assert parts_of(index.search_range(queries, radius, rows=few, limit=3)) == [
        rows[:3] for rows in whole
    ]


@QUANTIZERS
@every_metric
def test_a_radius_can_match_nothing_and_everything_of_cells(data, cells, metric, quantizer):
    queries, index = data[1][:3], cells[metric, quantizer]
    for radius in (np.inf, 1e300):
        everything = index.search_range(queries, radius)
        assert everything.limits.tolist() == [0, N, 2 * N, 3 * N]
        assert (np.sort(everything.rows[:N]) == np.arange(N)).all()
    for radius in (-np.inf, -1e30):
        assert index.search_range(queries, radius).limits.tolist() == [0, 0, 0, 0]
    assert index.search_range(queries[:0], 1.0).limits.tolist() == [0]


@QUANTIZERS
def test_what_cells_lose_and_gain_is_known_to_a_range_search(data, quantizer):
    vectors, queries, flats = data
    index = IVFIndex(DIM, "l2", quantizer=quantizer).build(vectors)
    radius = radius_of(flats["l2"], queries, 100)
    gone = np.random.default_rng(0).random(N) < 0.3
    index.delete(np.flatnonzero(gone))
    expected = flats["l2"].search_range(queries, radius, mask=~gone)
    for _ in range(2):
        found = index.search_range(queries, radius)
        check_answers(found, expected)
        assert same(index.search_range(queries, radius, mask=np.ones(N, bool)), found)
        index.consolidate()
    back = index.add(vectors[gone])
    found = index.search_range(queries, radius)
    assert len(found.rows) >= 0.95 * len(flats["l2"].search_range(queries, radius).rows)
    assert np.isin(found.rows, back).any()
    index.delete(np.arange(N))
    assert not len(index.search_range(queries, np.inf).rows)


@QUANTIZERS
def test_few_rows_and_copies_of_one_are_found_in_cells(quantizer):
    for n in (0, 1, 2):
        index = IVFIndex(4, "l2", quantizer=quantizer).build(np.eye(4)[:n])
        assert index.search_range(np.eye(4)[:2], 0.5).rows.tolist() == list(range(n))
    vectors = clustered(5000, 8)
    vectors[:3000] = vectors[0]
    index = IVFIndex(8, "l2", quantizer=quantizer).build(vectors)
    found = index.search_range(vectors[0], 0.0)
    assert found.rows.tolist() == list(range(3000)) and not found.distances.any()


def check_bad_arguments(index, own):
    vectors = clustered(50, 4)
    for radius in (np.nan, "1", None, True, 1j, [1.0]):
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
    with pytest.raises(errors.InvalidArgument, match="threads"):
        index.search_range(vectors[0], 1.0, threads=-1)
    for name in own:
        with pytest.raises(errors.InvalidArgument, match=name):
            index.search_range(vectors[0], 1.0, **{name: 0})


def test_bad_arguments_to_cells_are_named():
    with pytest.raises(errors.IndexNotBuilt):
        IVFIndex(4).search_range(np.ones(4), 1.0)
    check_bad_arguments(IVFIndex(4, "l2").build(clustered(50, 4)), ["nprobe"])


@pytest.fixture(scope="module")
def disks(data, tmp_path_factory):
    """Graphs on disk by metric and codes: records are long, so that walks read less than scans."""
    folder, chance = tmp_path_factory.mktemp("disks"), np.random.default_rng(5)
    spread = chance.normal(size=(DIM, 160)).astype(np.float32)
    vectors, queries = data[0] @ spread, data[1] @ spread
    made = {"vectors": vectors, "queries": queries}
    for metric, budget in (("cosine", None), ("dot", None), ("l2", None), ("l2", 800_000)):
        path = folder / f"{metric}-{budget}"
        build = {"max_degree": 24, "build_list_size": 50, "search_memory_bytes": budget}
        DiskIndex.build(vectors, path, metric=metric, **build).close()
        made[metric, budget and "pq"] = path, FlatIndex(160, metric).build(vectors)
    return made


@pytest.mark.parametrize(
    ("kind", "reader"),
    [
        (("cosine", None), "mmap"), (("dot", None), "mmap"), (("l2", None), "mmap"),
        (("l2", "pq"), "aio"),
    ],
    ids=["cosine", "dot", "l2", "pq-aio"],
)  # fmt: skip
def test_a_walk_on_disk_finds_nearly_all_and_nothing_else(disks, kind, reader):
    queries, (path, flat) = disks["queries"], disks[kind]
    with DiskIndex.open(path, reader=reader, cache_bytes=100_000) as index:
        assert index.code_kind == (kind[1] or "q8") and index.cached_nodes
        for count in (1, 10, 60):
            radius = radius_of(flat, queries, count)
            expected = flat.search_range(queries, radius)
            found = index.search_range(queries, radius)
            check_answers(found, expected)
            far = dict(zip(_pairs(expected), expected.distances, strict=True))
            assert [far[pair] for pair in _pairs(found)] == found.distances.tolist()
            walked = ~found.scanned
            assert count == 60 or walked.mean() > 0.8
            assert (found.stats.hops[walked] < N / 8).all() and found.stats.hops.all()
            assert (found.stats.reads + found.stats.cache_hits >= found.stats.hops / 8).all()
            for options in ({"threads": 2}, {"threads": 64}):
                assert same(index.search_range(queries, radius, **options), found)
        narrow = index.search_range(queries, radius, beam_width=1)
        check_answers(narrow, expected)
        mask = np.random.default_rng(3).random(N) < 0.5
        found = index.search_range(queries, radius, mask=mask)
        check_answers(found, flat.search_range(queries, radius, mask=mask))
        assert same(index.search_range(queries, radius, rows=np.flatnonzero(mask)), found)
        few = np.arange(0, N, 40)
        found = index.search_range(queries, radius, rows=few)
        assert same(found, flat.search_range(queries, radius, rows=few)) and found.scanned.all()
        assert not found.stats.hops.any() and (found.stats.comparisons == len(few)).all()


@pytest.mark.parametrize("most", [1 << 24, 5000])
def test_what_a_walk_on_disk_gives_up_is_scanned(disks, monkeypatch, most):
    monkeypatch.setattr(diskrange, "MOST_PLACES", most)
    queries, (path, flat) = disks["queries"][:7], disks["l2", None]
    with DiskIndex.open(path) as index:
        for radius in (np.inf, 1e300, -np.inf, radius_of(flat, queries, 3000)):
            for limit in (None, 1, 700, 100_000):
                expected = flat.search_range(queries, radius, limit=limit)
                found = index.search_range(queries, radius, limit=limit)
                check_answers(found, expected, 1.0 if radius > 1e30 or limit is None else 0.95)
        whole = index.search_range(queries, np.inf)
        assert whole.scanned.all() and whole.stats.hops.all()
        assert (whole.stats.comparisons > N).all() and (whole.stats.reads > 0).all()
        assert index.search_range(queries[:0], 1.0).limits.tolist() == [0]
        assert len(index.search_range(queries[0], 1.0).limits) == 2


def test_a_limit_keeps_the_nearest_on_disk(disks):
    queries, (path, flat) = disks["queries"], disks["cosine", None]
    radius = radius_of(flat, queries, 60)
    with DiskIndex.open(path) as index:
        whole = parts_of(flat.search_range(queries, radius))
        for limit in (1, 7, 30):
            found = index.search_range(queries, radius, limit=limit)
            pairs = zip(parts_of(found), whole, strict=True)
            hits = sum(len({*ours} & {*rows[:limit]}) for ours, rows in pairs)
            assert hits >= 0.95 * sum(len(rows[:limit]) for rows in whole)
            assert np.diff(found.limits).max() <= limit


def test_copies_and_few_rows_are_found_on_disk(tmp_path):
    vectors = clustered(4000, 200)
    vectors[:1200], vectors[1200:2200] = vectors[0], vectors[1200]
    with DiskIndex.build(vectors, tmp_path / "copies", metric="l2", max_degree=24) as index:
        for first, count in ((0, 1200), (1200, 1000)):
            found = index.search_range(vectors[first], 1e-6, search_list_size=16)
            assert found.rows.tolist() == list(range(first, first + count))
    for n in (0, 1, 2):
        with DiskIndex.build(np.eye(4)[:n], tmp_path / f"{n}", metric="l2") as index:
            assert index.search_range(np.eye(4)[:2], 0.5).rows.tolist() == list(range(n))
            found = index.search_range(np.zeros(4), 1.0)
            assert found.rows.tolist() == list(range(n)), "the radius itself is within"


def test_bad_arguments_to_an_index_on_disk_are_named(tmp_path):
    with DiskIndex.build(clustered(50, 4), tmp_path / "disk", metric="l2") as index:
        check_bad_arguments(index, ["search_list_size", "beam_width"])
    with pytest.raises(errors.StoreClosed):
        index.search_range(np.ones(4), 1.0)


def test_a_damaged_record_is_named_by_a_range_search(disks, tmp_path):
    path, flat = disks["l2", None]
    copy = tmp_path / "copy"
    with DiskIndex.open(path) as index:
        index.save(copy)
    file = next(copy.glob("nodes*"))
    data = bytearray(file.read_bytes())
    data[100::4096] = bytes(byte ^ 1 for byte in data[100::4096])
    file.write_bytes(data)
    queries = disks["queries"]
    for radius in (radius_of(flat, queries, 10), np.inf):
        with DiskIndex.open(copy) as index:
            with pytest.raises(errors.CorruptStore, match="sector"):
                index.search_range(queries, radius)
