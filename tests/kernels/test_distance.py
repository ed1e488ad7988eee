"""Distance kernels against float64 numpy."""

import os
import re
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from luma_lab.index.flat import NO_ROWS
from luma_lab.index.rows import read_only
from luma_lab.kernels import distance
from luma_lab.kernels.distance import COSINE, DOT, L2
from luma_lab.kernels.scan import scan_batch


def exact_distance(query, row, metric):
    """Scan a matrix of one row."""
    rows, distances = np.empty((1, 1), np.int64), np.empty((1, 1), np.float32)
    scan_batch(
        read_only(query[None]), read_only(row[None]), NO_ROWS, False, 0, 1, metric, rows, distances
    )
    assert rows[0, 0] == 0
    return distances[0, 0]


VALUES = st.floats(-1000, 1000, width=32)
LENGTHS = [1, 2, 7, 8, 16, 31, 100, 384, 1000]


def pair(size, seed=0):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(2, size)).astype(np.float32)


@pytest.mark.parametrize("size", LENGTHS)
def test_squared_l2_and_dot_equal_numpy_in_float64(size):
    a, b = pair(size)
    wide_a, wide_b = a.astype(np.float64), b.astype(np.float64)
    assert distance.squared_l2(a, b) == pytest.approx(((wide_a - wide_b) ** 2).sum(), rel=2e-6)
    scale = np.abs(wide_a * wide_b).sum()
    assert distance.dot(a, b) == pytest.approx(wide_a @ wide_b, abs=2e-6 * scale)
    product, square = distance.dot_and_square(a, b)
    assert product == pytest.approx(wide_a @ wide_b, abs=2e-6 * scale)
    assert square == pytest.approx(wide_b @ wide_b, rel=2e-6)
    assert distance.wide_square(a) == pytest.approx(wide_a @ wide_a, rel=1e-12)


@given(arrays(np.float32, 33, elements=VALUES))
def test_a_vector_has_squared_l2_exactly_zero_to_itself(a):
    assert distance.squared_l2(a, a.copy()) == 0.0


def test_near_vectors_far_from_the_origin_keep_their_distance():
    a = np.full(64, 1000.0, np.float32)
    b = a.copy()
    b[0] += 0.5
    assert distance.squared_l2(a, b) == 0.25


@given(arrays(np.float32, 20, elements=VALUES), arrays(np.float32, 20, elements=VALUES))
def test_cosine_distance_is_between_zero_and_two(query, row):
    length = np.linalg.norm(query.astype(np.float64))
    unit = (query / length if length else query).astype(np.float32)
    found = exact_distance(unit, row, COSINE)
    assert 0.0 <= found <= 2.000001
    if length and row.any():
        wide = row.astype(np.float64)
        assert found == pytest.approx(1 - unit @ wide / np.linalg.norm(wide), abs=2e-6)


def test_a_zero_row_and_a_zero_query_have_cosine_distance_one():
    zero, unit = np.zeros(8, np.float32), np.eye(1, 8, dtype=np.float32)[0]
    assert exact_distance(unit, zero, COSINE) == 1.0
    assert exact_distance(zero, unit, COSINE) == 1.0
    assert exact_distance(zero, zero, COSINE) == 1.0


@pytest.mark.parametrize("scale", [1e-25, 1e-12, 1.0, 1e12])
def test_cosine_distance_does_not_depend_on_the_length_of_a_row(scale):
    unit = np.float32([0.6, 0.8, 0, 0])
    row = (np.float64([1, 1, 0, 0]) * scale).astype(np.float32)
    assert exact_distance(unit, row, COSINE) == pytest.approx(1 - 1.4 / 2**0.5, abs=1e-6)


def test_a_dot_distance_of_zero_is_positive_zero():
    a, b = np.eye(2, 4, dtype=np.float32)
    for kernel in (distance.row_distance, exact_distance):
        assert not np.signbit(kernel(a, b, DOT))


def test_infinity_and_nan_keep_their_meaning_under_fastmath():
    a, b = np.zeros(32, np.float32), np.zeros(32, np.float32)
    b[5] = np.inf
    assert distance.squared_l2(a, b) == np.inf
    b[5] = np.nan
    assert np.isnan(distance.squared_l2(a, b))


@pytest.mark.parametrize("dim", [3, 16, 20])
def test_prepared_rows_are_padded_with_zeros_and_scaled_on_request(dim):
    rows = np.random.default_rng(1).normal(size=(5, dim)).astype(np.float32)
    rows[2] = 0
    padded = np.full((5, 32), np.nan, np.float32)
    distance.prepare_rows(rows, False, padded)
    assert (padded[:, :dim] == rows).all() and (padded[:, dim:] == 0).all()
    distance.prepare_rows(rows, True, padded)
    lengths = np.linalg.norm(padded.astype(np.float64), axis=1)
    np.testing.assert_allclose(lengths, [1, 1, 0, 1, 1], atol=1e-6)
    np.testing.assert_allclose(
        padded[0, :dim] * np.linalg.norm(rows[0]), rows[0], rtol=1e-5, atol=1e-6
    )


READ_ASSEMBLY = """
import numpy as np
from luma_lab.index.flat import NO_ROWS
from luma_lab.index.rows import read_only
from luma_lab.kernels import distance
a = np.ones(64, np.float32)
for kernel in (distance.squared_l2, distance.dot, distance.dot_and_square):
    kernel(a, a)
    print("".join(kernel.inspect_asm().values()))
"""


def test_distances_are_computed_in_wide_fused_vector_instructions(tmp_path):
    flags = open("/proc/cpuinfo").read() if os.path.exists("/proc/cpuinfo") else ""
    if " avx2" not in flags or " fma" not in flags:
        pytest.skip("this processor has no AVX2 with FMA")
    kept = {k: v for k, v in os.environ.items() if not k.startswith("NUMBA_")}
    environment = {**kept, "LUMA_CACHE_DIR": str(tmp_path), "LUMA_SIMD": "native"}
    shown = subprocess.run(
        [sys.executable, "-c", READ_ASSEMBLY],
        env=environment, capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    assert len(re.findall(r"vfmadd\w*ps\s.*%[yz]mm", shown)) >= 3


@given(st.sampled_from([L2, DOT]), st.integers(0, 2**32 - 1))
def test_graph_distance_and_exact_distance_agree(metric, seed):
    a, b = pair(48, seed)
    walked, scanned = distance.row_distance(a, b, metric), exact_distance(a, b, metric)
    assert walked == pytest.approx(scanned, rel=1e-5, abs=1e-5)
