"""What every quantizer promises: codes, distances to them, and bytes that never surprise."""

import os
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from index_contract import METRICS, brute_force, clustered, every_metric

import luma_lab
from luma_lab import errors
from luma_lab.index.flat import exact_search
from luma_lab.index.pq import PQQuantizer
from luma_lab.index.quantizer import SHARE_ROWS, Q4Quantizer, Q8Quantizer
from luma_lab.index.rows import METRIC_CODES, query_rows, read_only
from luma_lab.kernels.codescan import rerank

KINDS = (Q8Quantizer, Q4Quantizer, PQQuantizer)
every_kind = pytest.mark.parametrize("kind", KINDS)
scalar_kinds = pytest.mark.parametrize("kind", KINDS[:2])
DIMS = (1, 2, 63, 64, 65, 100, 128, 129, 384)


def as_measured(vectors, metric):
    """Return vectors as distances see them: of length one under cosine."""
    wide = np.asarray(vectors, np.float64)
    if metric == "cosine":
        wide = wide / np.maximum(np.linalg.norm(wide, axis=1, keepdims=True), 1e-300)
    return wide


def on_the_grid(n, dim, seed=0):
    """Queries of whole numbers from 0 to 255, both among them: eight bits lose nothing."""
    queries = np.random.default_rng(seed).integers(0, 256, size=(n, dim))
    queries[:, 0], queries[:, -1] = 0, 255
    return queries.astype(np.float32)


@every_kind
@pytest.mark.parametrize("dim", DIMS)
def test_codes_are_read_only_rows_of_the_promised_bytes_at_a_cache_line(kind, dim):
    quantizer = kind(dim, "l2").fit(clustered(30, dim))
    codes = quantizer.encode(clustered(30, dim))
    assert codes.shape == (30, quantizer.row_bytes) and codes.dtype == np.uint8
    assert not codes.flags.writeable and codes.ctypes.data % 64 == 0
    assert quantizer.prepare(clustered(3, dim)).shape == (3, quantizer.query_bytes)
    assert quantizer.decode(codes).shape == (30, dim)


def test_rows_take_the_bytes_their_docstrings_say():
    sizes = {dim: [kind(dim).row_bytes for kind in KINDS] for dim in (1, 48, 49, 64, 128, 384)}
    assert sizes == {
        1: [64, 64, 1], 48: [64, 64, 6], 49: [80, 80, 7], 64: [80, 80, 8],
        128: [144, 80, 16], 384: [400, 208, 48],
    }  # fmt: skip


@every_metric
@pytest.mark.parametrize("dim", DIMS)
def test_q8_decodes_every_component_to_within_half_a_step(metric, dim):
    vectors = clustered(50, dim)
    quantizer = Q8Quantizer(dim, metric).fit(vectors)
    exact = as_measured(vectors, metric)
    centred = exact - quantizer.mean_
    step = np.ptp(centred, axis=1, keepdims=True) / 255
    error = np.abs(quantizer.decode(quantizer.encode(vectors)) - exact)
    assert (error <= step * 0.505 + 1e-6 * np.abs(exact).max()).all()


def test_q4_fits_its_grid_better_than_the_plain_one_over_the_extent():
    vectors = np.random.default_rng(4).normal(size=(400, 200)).astype(np.float32)
    quantizer = Q4Quantizer(200, "l2").fit(vectors)
    centred = vectors - quantizer.mean_
    least, step = centred.min(1, keepdims=True), np.ptp(centred, axis=1, keepdims=True) / 15
    plain = np.rint((centred - least) / step) * step + least
    ours = quantizer.decode(quantizer.encode(vectors)) - quantizer.mean_
    assert ((ours - centred) ** 2).sum() < 0.95 * ((plain - centred) ** 2).sum()


@scalar_kinds
@pytest.mark.parametrize("metric", ["dot", "l2"])
@pytest.mark.parametrize("dim", DIMS[1:])
def test_distances_are_those_of_the_decoded_rows_when_queries_lose_nothing(kind, metric, dim):
    vectors = clustered(40, dim) * 50
    # Under l2 a mean would take the queries off the grid.
    quantizer = kind(dim, metric).fit(vectors if metric == "dot" else np.zeros((1, dim)))
    codes = quantizer.encode(vectors)
    queries = on_the_grid(6, dim)
    expected = brute_force(quantizer.decode(codes), queries, metric)
    found = quantizer.distances(queries, codes)
    assert found.shape == (6, 40) and found.dtype == np.float32
    scale = np.linalg.norm(queries, axis=1).max() ** 2 + np.linalg.norm(vectors, axis=1).max() ** 2
    np.testing.assert_allclose(found, expected, rtol=0, atol=3e-6 * scale)


def documented_distances(quantizer, prepared, codes):
    """Compute distances from the bytes by the formula of `kernels.quantize`, in float64."""
    unsigned = prepared[:, : quantizer.constants_at].astype(np.int64)
    if quantizer.KIND == "q8":
        components = codes[:, : quantizer.code_bytes].view(np.int8).astype(np.int64)
    else:
        blocks = codes[:, : quantizer.code_bytes].reshape(len(codes), -1, 64)
        halves = np.concatenate([blocks & 15, blocks >> 4], axis=2)
        components = halves.reshape(len(codes), -1).astype(np.int64)
    constants = np.ascontiguousarray(codes[:, -16:])
    scale, offset, norm = constants.view(np.float32)[:, :3].astype(np.float64).T
    centred = constants.view(np.int32)[:, 3].astype(np.int64)
    at = quantizer.constants_at
    of_query = np.ascontiguousarray(prepared[:, at : at + 20]).view(np.float32)
    base, weight, slope, lift, total = of_query.astype(np.float64)[:, :, None].swapaxes(0, 1)
    inner = slope * (unsigned @ components.T - centred) + lift * centred
    return base + weight * norm + scale * inner + offset * total


@scalar_kinds
@every_metric
@given(st.one_of(st.integers(1, 300), st.integers(300, 4096)), st.integers(0, 2**32 - 1))
@settings(max_examples=25, deadline=None)
def test_distances_are_those_of_the_documented_bytes(kind, metric, dim, seed):
    vectors, queries = clustered(7, dim, seed), clustered(3, dim, seed + 1)
    quantizer = kind(dim, metric).fit(vectors)
    codes = quantizer.encode(vectors)
    expected = documented_distances(quantizer, quantizer.prepare(queries), codes)
    found = quantizer.distances(queries, codes)
    reach = [np.linalg.norm(as_measured(v, metric), axis=1).max() for v in (vectors, queries)]
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=2e-6 * sum(reach) ** 2)


@every_kind
@every_metric
@pytest.mark.parametrize("dim", [3, 70, 130])
def test_distances_are_near_those_of_the_decoded_rows(kind, metric, dim):
    vectors, queries = clustered(300, dim), clustered(8, dim, seed=1)
    quantizer = kind(dim, metric).fit(vectors)
    codes = quantizer.encode(vectors)
    measured = as_measured(queries, metric)
    expected = brute_force(
        quantizer.decode(codes), measured, "dot" if metric == "cosine" else metric
    )
    expected = expected + 1 if metric == "cosine" else expected
    found = quantizer.distances(queries, codes)
    # A query loses half a step of 1/255 of its extent a component.
    lost = np.ptp(measured - measured.mean(0), axis=1).max() / 255 * dim**0.5
    reach = (
        np.linalg.norm(as_measured(vectors, metric), axis=1).max()
        + np.linalg.norm(measured, axis=1).max()
    )
    assert np.abs(found - expected).max() <= 2 * lost * reach


@pytest.mark.parametrize("dim", [1, 20, 384])
def test_a_row_asked_for_finds_itself_at_about_zero_in_q8(dim):
    vectors = clustered(200, dim)
    quantizer = Q8Quantizer(dim, "l2").fit(vectors)
    found = quantizer.distances(vectors, quantizer.encode(vectors))
    scale = ((vectors - quantizer.mean_) ** 2).sum(1).max()
    assert np.abs(np.diag(found)).max() <= 2e-6 * scale
    if dim > 1:
        assert (found.argmin(axis=1) == np.arange(200)).all()


@every_metric
@pytest.mark.parametrize(("kind", "floor"), [(Q8Quantizer, 0.95), (Q4Quantizer, 0.75)])
def test_the_nearest_by_codes_are_mostly_the_nearest(kind, floor, metric):
    vectors, queries = clustered(3000, 48), clustered(60, 48, seed=2)
    quantizer = kind(48, metric).fit(vectors)
    codes = quantizer.encode(vectors)
    true, _ = exact_search(vectors, queries, 10, metric)

    def share(k):
        rows, _ = quantizer.scan(queries, codes, k)
        return np.mean(
            [len({*a} & {*b}) / 10 for a, b in zip(rows.tolist(), true.tolist(), strict=True)]
        )

    assert share(10) >= floor and share(30) >= 0.99


@every_metric
def test_a_hundred_candidates_of_a_byte_for_8_components_hold_the_nearest_ten(metric):
    vectors, queries = clustered(3000, 48), clustered(60, 48, seed=2)
    quantizer = PQQuantizer(48, metric).fit(vectors)
    assert quantizer.row_bytes == 6
    rows, _ = quantizer.scan(queries, quantizer.encode(vectors), 100)
    true, _ = exact_search(vectors, queries, 10, metric)
    held = [len({*a} & {*b}) / 10 for a, b in zip(rows.tolist(), true.tolist(), strict=True)]
    assert np.mean(held) >= 0.8


@every_kind
def test_fit_and_encode_give_the_same_bytes_for_any_number_of_threads(kind):
    vectors = clustered(2 * SHARE_ROWS + 100, 24)
    made = []
    for threads in (1, 2, 3):
        more = {"threads": threads} if kind is PQQuantizer else {}
        quantizer = kind(24, **more).fit(vectors)
        made.append((quantizer.fingerprint, quantizer.encode(vectors, threads=threads).tobytes()))
    assert made[0] == made[1] == made[2]
    assert quantizer.encode(vectors[5:9]).tobytes() == quantizer.encode(vectors)[5:9].tobytes()


def test_another_seed_learns_other_centroids():
    vectors = clustered(600, 16)
    one, again, other = (PQQuantizer(16, seed=seed).fit(vectors).centroids_ for seed in (0, 0, 1))
    assert (one == again).all() and (one != other).any()


@every_kind
def test_scan_orders_by_distance_and_then_by_row(kind):
    vectors = np.repeat(clustered(40, 12), 3, axis=0)
    quantizer = kind(12, "l2").fit(vectors)
    codes = quantizer.encode(vectors)
    queries = clustered(5, 12, seed=3)
    distances = quantizer.distances(queries, codes)
    order = np.argsort(distances, axis=1, kind="stable")
    rows, found = quantizer.scan(queries, codes, 50)
    assert (rows == order[:, :50]).all()
    assert (found == np.take_along_axis(distances, order, 1)[:, :50]).all()
    assert (quantizer.scan(queries, codes, 50, threads=3)[0] == rows).all()
    backwards = np.arange(120)[::-1]
    assert (quantizer.scan(queries, codes, 50, rows=backwards)[0] == rows).all()


@every_kind
def test_scan_looks_only_at_the_rows_it_is_given_and_pads(kind):
    vectors = clustered(90, 12)
    quantizer = kind(12).fit(vectors)
    codes = quantizer.encode(vectors)
    some = np.array([70, 3, 41])
    rows, distances = quantizer.scan(vectors[:4], codes, 5, rows=some)
    assert (np.sort(rows[:, :3]) == [3, 41, 70]).all()
    assert (rows[:, 3:] == -1).all() and (distances[:, 3:] == np.inf).all()
    expected = np.sort(quantizer.distances(vectors[:4], codes)[:, some], axis=1)
    assert (distances[:, :3] == expected).all()
    for rows in ([90], [-1], [0.5], [[1]]):
        with pytest.raises(errors.InvalidArgument):
            quantizer.scan(vectors[:1], codes, rows=rows)


@every_metric
def test_reranked_candidates_come_in_exact_order(metric):
    vectors, queries = clustered(500, 20), clustered(9, 20, seed=5)
    candidates = np.random.default_rng(0).permutation(500)[:40]
    matrix = read_only(vectors)
    rows, distances = np.empty((9, 7), np.int64), np.empty((9, 7), np.float32)
    given_rows = np.tile(np.append(candidates, -1), (9, 1))
    asked = query_rows(queries, metric, 20)
    rerank(asked, matrix, METRIC_CODES[metric], given_rows, rows, distances)
    expected = exact_search(vectors, queries, 7, metric, rows=np.sort(candidates))
    assert (rows == expected[0]).all() and (distances == expected[1]).all()
    rerank(asked, matrix, METRIC_CODES[metric], given_rows[:, -3:], rows, distances)
    assert (rows[:, 2:] == -1).all() and (distances[:, 2:] == np.inf).all()


VALUES = st.floats(-1e9, 1e9, width=32)


@every_kind
@pytest.mark.parametrize("metric", METRICS)
@settings(max_examples=30)
@given(arrays(np.float32, st.tuples(st.integers(1, 6), st.integers(1, 9)), elements=VALUES))
def test_any_finite_vectors_have_finite_codes_and_distances(kind, metric, vectors):
    dim = vectors.shape[1]
    quantizer = kind(dim, metric).fit(vectors)
    codes = quantizer.encode(vectors)
    decoded, found = quantizer.decode(codes), quantizer.distances(vectors, codes)
    assert np.isfinite(decoded).all() and np.isfinite(found).all()
    assert np.isfinite(quantizer.distortion(vectors))


@every_kind
@pytest.mark.parametrize("value", [0.0, 1.0, -7.5, 1e-12, 1e15])
@pytest.mark.parametrize("dim", [1, 5, 4096])
def test_constant_rows_and_zero_vectors_are_kept_exactly(kind, value, dim):
    vectors = np.full((3, dim), value, np.float32)
    quantizer = kind(dim, "l2", **({"parts": 1} if kind is PQQuantizer else {})).fit(vectors)
    codes = quantizer.encode(vectors)
    np.testing.assert_allclose(quantizer.decode(codes), vectors, rtol=1e-6)
    scale = max(1e-37, float(np.float64(value) ** 2 * dim))
    assert np.abs(quantizer.distances(vectors, codes)).max() <= 1e-6 * scale
    assert quantizer.distortion(vectors) <= 1e-12 * scale


@scalar_kinds
def test_a_constant_row_among_others_decodes_to_itself(kind):
    vectors = np.zeros((3, 80), np.float32)
    vectors[1] = 5
    quantizer = kind(80, "l2").fit(vectors)
    np.testing.assert_allclose(quantizer.decode(quantizer.encode(vectors)), vectors, atol=1e-6)


def test_a_zero_vector_under_cosine_is_at_about_one_from_everything():
    vectors = clustered(50, 30)
    vectors[7] = 0
    quantizer = Q8Quantizer(30).fit(vectors)
    codes = quantizer.encode(vectors)
    assert np.abs(quantizer.distances(vectors, codes)[:, 7] - 1).max() < 0.02
    assert np.abs(quantizer.distances(vectors[7], codes) - 1).max() < 0.02


@every_kind
@pytest.mark.parametrize("scale", [1e-15, 1e-6, 1e6, 1e17])
def test_the_order_of_rows_does_not_depend_on_the_scale_of_the_data(kind, scale):
    vectors, queries = clustered(300, 16), clustered(10, 16, seed=8)
    nearest = []
    for factor in (1.0, scale):
        scaled = (vectors * factor).astype(np.float32)
        quantizer = kind(16, "l2").fit(scaled)
        nearest.append(
            quantizer.scan((queries * factor).astype(np.float32), quantizer.encode(scaled), 1)[0]
        )
    assert (nearest[0] == nearest[1]).mean() >= 0.9


@scalar_kinds
def test_data_far_from_the_origin_keep_their_distances(kind):
    vectors = clustered(300, 40)
    codes, near = (kind(40, "l2").fit(v) for v in (vectors, vectors + 1000))
    there = near.scan(vectors[:30] + 1000, near.encode(vectors + 1000), 1)[0]
    assert (there == codes.scan(vectors[:30], codes.encode(vectors), 1)[0]).mean() >= 0.9


def test_distortion_falls_with_the_bytes_spent():
    vectors = clustered(2000, 64)
    lost = [kind(64, "l2").fit(vectors).distortion(vectors) for kind in KINDS]
    more = PQQuantizer(64, "l2", parts=32).fit(vectors).distortion(vectors)
    assert 0 < lost[0] < 1e-3 < lost[1] < 0.02 < lost[2] < 1 and more < lost[2]


@every_kind
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 1e30])
def test_values_that_are_not_finite_are_refused_and_change_nothing(kind, bad):
    vectors = clustered(20, 6)
    quantizer = kind(6).fit(vectors)
    before = quantizer.fingerprint
    broken = vectors.copy()
    broken[13, 2] = bad
    for call in (quantizer.fit, quantizer.encode, quantizer.prepare, quantizer.distortion):
        with pytest.raises(errors.InvalidArgument, match="row 13"):
            call(broken)
    assert quantizer.fingerprint == before


@every_kind
def test_wrong_shapes_are_named(kind):
    quantizer = kind(6).fit(clustered(20, 6))
    codes = quantizer.encode(clustered(20, 6))
    for call in (quantizer.fit, quantizer.encode, quantizer.prepare):
        with pytest.raises(errors.DimensionMismatch):
            call(np.ones((2, 7)))
    for wrong in (codes[:, 1:], codes.astype(np.int8), codes[0]):
        with pytest.raises(errors.InvalidArgument, match="expected uint8"):
            quantizer.decode(wrong)
        with pytest.raises(errors.InvalidArgument, match="expected uint8"):
            quantizer.scan(np.ones(6), wrong)
    with pytest.raises(errors.InvalidArgument):
        kind(0)
    with pytest.raises(errors.UnknownName):
        kind(6, "euclid")


@pytest.mark.parametrize("parts", [0, 7, 2.5, True])
def test_parts_are_at_least_one_and_at_most_the_components(parts):
    with pytest.raises(errors.InvalidArgument, match="parts"):
        PQQuantizer(6, parts=parts)


@every_kind
def test_unfitted_quantizers_say_so(kind, tmp_path):
    quantizer = kind(4)
    assert quantizer.memory_bytes == 0
    codes = np.zeros((1, quantizer.row_bytes), np.uint8)
    calls = [
        lambda: quantizer.encode(np.ones((1, 4))), lambda: quantizer.decode(codes),
        lambda: quantizer.prepare(np.ones(4)), lambda: quantizer.scan(np.ones(4), codes),
        lambda: quantizer.distortion(np.ones((1, 4))), lambda: quantizer.save(tmp_path / "x"),
        lambda: quantizer.fingerprint,
    ]  # fmt: skip
    for call in calls:
        with pytest.raises(errors.IndexNotBuilt, match="call fit or load first"):
            call()


@every_kind
def test_no_rows_are_encoded_to_no_codes(kind):
    quantizer = kind(5).fit(clustered(9, 5))
    codes = quantizer.encode(np.empty((0, 5)))
    assert codes.shape == (0, quantizer.row_bytes)
    assert quantizer.decode(codes).shape == (0, 5)
    rows, distances = quantizer.scan(np.ones((2, 5)), codes, 3)
    assert (rows == -1).all() and (distances == np.inf).all()
    assert quantizer.distances(np.empty((0, 5)), codes).shape == (0, 0)
    assert quantizer.distortion(np.empty((0, 5))) == 0.0


def test_scalar_quantizers_may_be_fitted_on_nothing_but_centroids_need_a_vector():
    for kind in KINDS[:2]:
        quantizer = kind(3, "l2").fit(np.empty((0, 3)))
        assert (quantizer.mean_ == 0).all()
    with pytest.raises(errors.InvalidArgument, match="at least one"):
        PQQuantizer(3).fit(np.empty((0, 3)))


@every_kind
@every_metric
def test_a_loaded_quantizer_gives_the_same_bytes(kind, metric, tmp_path):
    vectors = clustered(300, 21)
    quantizer = kind(21, metric).fit(vectors)
    quantizer.save(tmp_path / "q")
    assert quantizer.disk_bytes > 0
    codes = quantizer.encode(vectors)
    copies = [
        kind.load(tmp_path / "q"), kind.load(tmp_path / "q", mmap=False),
        pickle.loads(pickle.dumps(quantizer)),
    ]  # fmt: skip
    for copy in copies:
        assert copy.fingerprint == quantizer.fingerprint and repr(copy) == repr(quantizer)
        assert copy.encode(vectors).tobytes() == codes.tobytes()
        assert (copy.distances(vectors[:3], codes) == quantizer.distances(vectors[:3], codes)).all()
        assert copy.memory_bytes == quantizer.memory_bytes > 0


def test_a_directory_of_another_kind_or_shape_is_refused(tmp_path):
    Q8Quantizer(8).fit(clustered(9, 8)).save(tmp_path / "q8")
    with pytest.raises(errors.InvalidArgument, match="expected an index of kind 'q4'"):
        Q4Quantizer.load(tmp_path / "q8")
    from luma_lab.files import load_arrays, save_arrays

    arrays, manifest = load_arrays(tmp_path / "q8")
    manifest["parameters"]["dim"] = 9
    for name in ("format", "arrays"):
        manifest.pop(name)
    save_arrays(tmp_path / "q9", arrays, manifest)
    with pytest.raises(errors.CorruptStore, match="mean"):
        Q8Quantizer.load(tmp_path / "q9")


def test_duplicates_and_fewer_rows_than_centroids_are_learned():
    vectors = np.repeat(clustered(3, 8), 5, axis=0)
    quantizer = PQQuantizer(8, "l2", parts=3).fit(vectors)
    np.testing.assert_allclose(quantizer.decode(quantizer.encode(vectors)), vectors, rtol=2e-6)
    assert quantizer.centroids_.shape == (3, 3, 256)


def test_centroids_that_no_row_chose_help_where_the_error_is():
    # Most of the first guess is one value: without help a hundred centroids lie idle.
    values = np.append(np.zeros(900), np.arange(1, 301))
    vectors = np.random.default_rng(0).permutation(values)[:, None]
    quantizer = PQQuantizer(1, "l2").fit(vectors)
    decoded = quantizer.decode(quantizer.encode(vectors))
    assert len(np.unique(decoded)) >= 240
    assert np.abs(decoded - vectors).max() <= 1


NO_TRESPASS = """
import ctypes
import mmap
import numpy as np
from luma_lab.index.pq import PQQuantizer
from luma_lab.index.quantizer import Q4Quantizer, Q8Quantizer

page = mmap.PAGESIZE
libc = ctypes.CDLL(None, use_errno=True)
libc.mprotect.argtypes = ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int


def at_the_edge(array):
    whole = -(-array.nbytes // page) * page
    room = np.frombuffer(mmap.mmap(-1, whole + page), np.uint8)
    assert libc.mprotect(room.ctypes.data + whole, page, 0) == 0
    placed = room[whole - array.nbytes : whole].reshape(array.shape)
    placed[:] = array
    return placed


for dim in (1, 48, 64, 100, 128, 200, 384):
    vectors = np.random.default_rng(dim).normal(size=(5, dim))
    for kind in (Q8Quantizer, Q4Quantizer, PQQuantizer):
        quantizer = kind(dim, "l2").fit(vectors)
        codes = quantizer.encode(vectors)
        expected = quantizer.distances(vectors, codes)
        prepared = at_the_edge(quantizer.prepare(vectors))
        prepared.flags.writeable = False
        quantizer.prepare = lambda queries: prepared
        assert (quantizer.distances(vectors, at_the_edge(codes)) == expected).all()
        quantizer.scan(vectors, at_the_edge(codes), 3, rows=np.arange(5))
print("done")
"""


@pytest.mark.skipif(sys.platform != "linux", reason="mprotect's numbers are those of Linux")
def test_distances_read_no_byte_behind_the_last_row_or_query():
    environment = {**os.environ, "PYTHONPATH": str(Path(luma_lab.__file__).parents[1])}
    done = subprocess.run(
        [sys.executable, "-c", NO_TRESPASS], env=environment, capture_output=True, text=True
    )
    assert (done.returncode, done.stdout) == (0, "done\n"), done.stderr
