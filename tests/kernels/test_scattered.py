"""Rows that lie anywhere: 8 measured at once are as far as one at a time, to the bit."""

import re

import numba
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from instructions import CHOICES, assembly_of
from llvmlite import ir
from numba.core import config

from luma_lab.index.quantizer import Q8Quantizer
from luma_lab.kernels import codewalk, scattered, topk
from luma_lab.kernels.int8 import choose_instruction
from luma_lab.kernels.simd import Target
from luma_lab.kernels.space import Q8Space


def driver(measure):
    return numba.njit(
        lambda query, constants, codes, row_bytes, code_bytes, rows, out: measure(
            query, constants, codes, row_bytes, code_bytes, rows, out
        )
    )


DRIVERS = {"chosen": driver(scattered.measure_q8_rows)} | {
    name: driver(scattered.make_rows_measure(choice)) for name, choice in CHOICES.items()
}
near_bits = numba.njit(lambda at, limit: scattered.near_bits(at, limit))


@pytest.mark.parametrize("dim", [1, 63, 64, 65, 128, 129, 384, 1000])
@pytest.mark.parametrize("metric", ["l2", "dot", "cosine"])
def test_eight_rows_are_as_far_as_one_at_a_time(metric, dim):
    rng = np.random.default_rng(dim)
    vectors, query = rng.normal(size=(40, dim)), rng.normal(size=dim)
    quantizer = Q8Quantizer(dim, metric).fit(vectors)
    codes, prepared = quantizer.encode(vectors), quantizer.prepare(query)[0]
    expected = quantizer.distances(query, codes)[0]
    rows = rng.choice(40, 8)  # in any order, and some twice
    address = prepared.ctypes.data
    for name, measure in DRIVERS.items():
        found = np.full(10, 7, np.float32)
        measure(
            address, address + quantizer.constants_at, codes.ctypes.data, codes.shape[1],
            quantizer.code_bytes, rows.ctypes.data, found.ctypes.data + 4,
        )  # fmt: skip
        assert found[1:9].tobytes() == expected[rows].tobytes(), name
        assert found[0] == found[9] == 7  # nothing beside its place is written


FINITE = st.floats(-(2.0**100), 2.0**100, width=32)
FLOATS = FINITE | st.sampled_from([0.0, -0.0, 1.0, np.inf])


@given(arrays.arrays(np.float32, 16, elements=FLOATS), FLOATS)
def test_bits_tell_which_distances_are_at_most_the_limit(distances, limit):
    expected = sum(1 << lane for lane in range(16) if distances[lane] <= np.float32(limit))
    assert near_bits(distances.ctypes.data, np.float32(limit)) == expected


@given(
    arrays.arrays(np.float32, st.integers(1, 300), elements=FINITE),
    st.data(),
)
def test_the_limit_of_the_least_leaves_out_none_of_them(values, data):
    wanted = data.draw(st.integers(1, len(values)))
    limit = topk.limit_of_least(values, values.min(), values.max(), wanted)
    assert np.count_nonzero(values <= limit) >= wanted


def test_the_limit_of_the_least_lets_few_more_pass():
    values = np.random.default_rng(0).normal(size=2000).astype(np.float32)
    for wanted in (10, 20, 100, 1000):
        limit = topk.limit_of_least(values, values.min(), values.max(), wanted)
        assert np.count_nonzero(values <= limit) <= wanted * 1.5


@pytest.mark.parametrize("count", [1, 7, 8, 9, 16, 40, 2047, 2048, 2049, 5000])
@pytest.mark.parametrize("kept", [1, 20, 300])
def test_the_nearest_by_code_are_kept_of_few_and_of_many_rows(count, kept):
    rng = np.random.default_rng(count)
    vectors, query = rng.normal(size=(6000, 5)), rng.normal(size=5)
    vectors[rng.choice(6000, 3000, replace=False)] = vectors[0]  # ties, which go to the lower row
    quantizer = Q8Quantizer(5, "l2").fit(vectors)
    codes, prepared = quantizer.encode(vectors), quantizer.prepare(query)[0]
    rows = np.sort(rng.choice(6000, count, replace=False))
    far = quantizer.distances(query, codes)[0][rows]
    keys = sorted(topk.pack_key(np.float32(d), r) for d, r in zip(far, rows, strict=True))
    best = np.empty(kept, np.int64)
    size = codewalk.keep_nearest(
        Q8Space(codes, quantizer.code_bytes, 5), prepared.ctypes.data, rows, best,
        np.empty(codewalk.MEASURED_AT_ONCE, np.float32),
    )  # fmt: skip
    assert best[:size].tolist() == [int(key) for key in keys[:kept]]


@pytest.mark.skipif(config.DISABLE_JIT, reason="plain Python has no assembly")
@pytest.mark.parametrize(
    ("triple", "cpu", "features", "wanted"),
    [
        ("x86_64-unknown-linux-gnu", "sapphirerapids", "+avx512vnni,+avx512bw", r"dpbusd.*%zmm"),
        ("x86_64-unknown-linux-gnu", "x86-64-v3", "+avxvnni", r"\{vex\}\s+vpdpbusd.*%ymm"),
        ("x86_64-unknown-linux-gnu", "x86-64-v3", "", r"vpmaddwd.*%ymm"),
        ("aarch64-unknown-linux-gnu", "neoverse-n1", "", r"smlal2?\s+v\d+"),
    ],
)
def test_eight_rows_at_once_use_the_instruction_of_the_processor(triple, cpu, features, wanted):
    choice = choose_instruction(Target("native", cpu, features))

    def emit(builder, *arguments):
        query, code_bytes, *addresses = arguments
        return scattered.emit_products(builder, choice, query, addresses, code_bytes)

    text = assembly_of(emit, ir.VectorType(ir.IntType(32), 8), 10, triple, cpu, features)
    assert re.search(wanted, text), text
    if "dpbusd" in wanted:  # all 8 rows in registers, the query loaded once for them
        assert len(re.findall(r"vpdpbusd", text)) >= 8 and "%rsp), %zmm" not in text
