"""Blocks of 16 rows: measured at once, the distances are those of one row at a time."""

import numpy as np
import pytest

from luma_lab.index.lanes import line_count, row_lanes
from luma_lab.index.quantizer import Q4Quantizer, Q8Quantizer
from luma_lab.kernels import blocks
from luma_lab.kernels.compile import kernel
from luma_lab.kernels.int8 import BYTE, PORTABLE, PORTABLE_BYTES
from luma_lab.kernels.quantize import ROW_CONSTANT_BYTES

DIMS = [1, 3, 16, 17, 63, 64, 65, 127, 128, 129, 384, 1000]
portable_q8 = blocks.make_block_measure((PORTABLE, PORTABLE_BYTES * 8, BYTE), packed=False)
portable_q4 = blocks.make_block_measure((PORTABLE, PORTABLE_BYTES * 8, BYTE), packed=True)


@kernel
def by_codes(packed, portable, query, constants, block, lines, out, limit):
    address, at = query.ctypes.data, block.ctypes.data
    if portable and packed:
        return portable_q4(address, address + constants, at, lines, out.ctypes.data, limit)
    if portable:
        return portable_q8(address, address + constants, at, lines, out.ctypes.data, limit)
    if packed:
        return blocks.measure_q4_block(
            address, address + constants, at, lines, out.ctypes.data, limit
        )
    return blocks.measure_q8_block(address, address + constants, at, lines, out.ctypes.data, limit)


@kernel
def by_floats(query, block, lines, out, limit, by_l2):
    return blocks.measure_float_block(
        query.ctypes.data, block.ctypes.data, lines, out.ctypes.data, limit, by_l2
    )


@kernel
def lowest(bits):
    return blocks.lowest_bit(np.int32(bits))


def bits_of(distances, limit):
    return sum(1 << lane for lane, distance in enumerate(distances) if distance <= limit)


@pytest.mark.parametrize("dim", DIMS)
@pytest.mark.parametrize("metric", ["l2", "dot", "cosine"])
@pytest.mark.parametrize("kind", [Q8Quantizer, Q4Quantizer])
@pytest.mark.parametrize("portable", [False, True])
def test_codes_are_as_far_as_one_at_a_time(kind, metric, dim, portable):
    rng = np.random.default_rng(dim)
    vectors, query = rng.normal(size=(16, dim)), rng.normal(size=dim)
    quantizer = kind(dim, metric).fit(vectors)
    codes, prepared = quantizer.encode(vectors), quantizer.prepare(query)
    lanes = row_lanes(vectors.astype(np.float32), metric, quantizer, 1).copy()
    assert lanes.shape == (16, line_count(dim, quantizer))
    # The squared lengths as they are, for this comparison.
    lanes[:, -4:] = codes[:, -ROW_CONSTANT_BYTES:].copy().view(np.uint32)
    expected = quantizer.distances(query, codes)[0]
    block, found = np.ascontiguousarray(lanes.T), np.empty(16, np.float32)
    limit = np.sort(expected)[7]
    hits = by_codes(
        kind is Q4Quantizer, portable, prepared[0], quantizer.constants_at, block,
        len(block) - blocks.CONSTANT_LINES, found, limit,
    )  # fmt: skip
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)
    assert hits == bits_of(found, limit) and 6 <= bin(hits).count("1") <= 16


@pytest.mark.parametrize("dim", DIMS)
@pytest.mark.parametrize("by_l2", [True, False])
def test_floats_are_as_far_as_they_are(dim, by_l2):
    rng = np.random.default_rng(dim)
    rows = rng.normal(size=(16, dim)).astype(np.float32)
    query, found = rng.normal(size=dim).astype(np.float32), np.empty(16, np.float32)
    exact = ((rows - query) ** 2).sum(1) if by_l2 else -(rows @ query)
    limit = np.float32(np.median(exact))
    hits = by_floats(query, np.ascontiguousarray(rows.T), dim, found, limit, by_l2)
    np.testing.assert_allclose(found, exact, rtol=1e-4, atol=1e-4)
    assert hits == bits_of(found, limit) and bin(hits).count("1") == 8


def test_the_lowest_bit_is_named():
    for bits in (1, 2, 12, 0x8000, 0xFFFF, 0x8001):
        assert lowest(bits) == bin(bits)[::-1].index("1")


@pytest.mark.parametrize("kind", [Q8Quantizer, Q4Quantizer])
def test_distances_of_near_rows_are_right_on_average(kind):
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(300, 64)).astype(np.float32)
    queries = vectors + rng.normal(size=vectors.shape).astype(np.float32) * 0.1
    quantizer = kind(64, "l2").fit(vectors)
    codes = quantizer.encode(vectors)
    exact = ((vectors - queries) ** 2).sum(axis=1)
    biased = np.diag(quantizer.distances(queries, codes))
    lanes = row_lanes(vectors, "l2", quantizer, 1)
    even = np.ascontiguousarray(lanes[:, -2]).view(np.float32)
    evened = biased - codes[:, -8:-4].copy().view(np.float32)[:, 0] + even
    assert abs((evened - exact).mean()) < 0.5 * abs((biased - exact).mean())
