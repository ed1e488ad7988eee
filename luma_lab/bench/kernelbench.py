"""Nanoseconds a distance: each kernel beside faiss and numpy, over rows that sit in the L2 cache.

Run as a program: ``python -m luma_lab.bench.kernelbench``. Rounds are interleaved, for a
neighbour on the machine may be loud for a while; times are CPU times of the process.
"""

import statistics
import sys
import time

import numba
import numpy as np

from luma_lab import codec
from luma_lab.errors import Unavailable
from luma_lab.index.pq import PQQuantizer
from luma_lab.index.quantizer import Q4Quantizer, Q8Quantizer
from luma_lab.index.rows import aligned_empty
from luma_lab.kernels import simd_level
from luma_lab.kernels.codescan import measure_codes
from luma_lab.kernels.distance import dot, dot_and_square, squared_l2
from luma_lab.kernels.int8 import INSTRUCTION, dot_u8s8, dot_u8u4
from luma_lab.kernels.quantize import Q8
from luma_lab.kernels.scattered import ROWS_AT_ONCE, measure_q8_rows

DIMS = (128, 384, 768)
DATA_BYTES = 1 << 19  # half of a small L2 cache, for rows of any width
# Enough to hide the price of a call, below the 20 from which faiss multiplies matrices instead.
QUERIES = 16


@numba.njit(nogil=True)
def _l2(queries, rows, out):
    for i in range(queries.shape[0]):
        for j in range(rows.shape[0]):
            out[i, j] = squared_l2(queries[i], rows[j])


@numba.njit(nogil=True)
def _dot(queries, rows, out):
    for i in range(queries.shape[0]):
        for j in range(rows.shape[0]):
            out[i, j] = dot(queries[i], rows[j])


@numba.njit(nogil=True)
def _cosine(queries, rows, out):
    for i in range(queries.shape[0]):
        for j in range(rows.shape[0]):
            product, square = dot_and_square(queries[i], rows[j])
            out[i, j] = product / np.float32(np.sqrt(square))


@numba.njit(nogil=True)
def _u8s8(queries, rows, out):
    for i in range(queries.shape[0]):
        query = queries.ctypes.data + i * queries.shape[1]
        for j in range(rows.shape[0]):
            row = rows.ctypes.data + j * rows.shape[1]
            out[i, j] = dot_u8s8(query, row, rows.shape[1])


@numba.njit(nogil=True)
def _u8u4(queries, rows, out):
    for i in range(queries.shape[0]):
        query = queries.ctypes.data + i * queries.shape[1]
        for j in range(rows.shape[0]):
            row = rows.ctypes.data + j * rows.shape[1]
            out[i, j] = dot_u8u4(query, row, rows.shape[1])


@numba.njit(nogil=True)
def _scattered(prepared, codes, code_bytes, rows, out):
    for i in range(prepared.shape[0]):
        query = prepared.ctypes.data + i * prepared.shape[1]
        for j in range(0, rows.shape[0], ROWS_AT_ONCE):
            measure_q8_rows(
                query, query + code_bytes, codes.ctypes.data, codes.shape[1], code_bytes,
                rows.ctypes.data + 8 * j, out[i].ctypes.data + 4 * j,
            )  # fmt: skip


def measure(dims=DIMS, *, rounds=15, peers=True, data_bytes=DATA_BYTES):
    """Time every kernel; return one dict a dimension and kernel.

    Parameters
    ----------
    dims : iterable of int
        Multiples of 128.
    rounds : int
    peers : bool
        Time faiss, too.
    data_bytes : int
        Bytes of the rows of each kernel.

    Returns
    -------
    list of dict
        ``dim``, ``kernel``, ``row_bytes``, and ``min_ns`` and ``median_ns`` of a distance over
        the rounds. Names say whose a kernel is: "faiss ..." and "numpy ..." are the peers'.

    Raises
    ------
    Unavailable
        faiss is asked for and not installed.
    """
    found = []
    for dim in dims:
        calls = {**_ours(dim, data_bytes), **(_faiss(dim, data_bytes) if peers else {})}
        times = {name: [] for name in calls}
        for _ in range(rounds):
            for name, (call, count, _) in calls.items():
                call()  # compiles, and brings the rows back into the cache
                began = time.process_time_ns()
                call()
                times[name].append((time.process_time_ns() - began) / count)
        found += [
            {
                "dim": dim,
                "kernel": name,
                "row_bytes": row_bytes,
                "min_ns": round(min(times[name]), 2),
                "median_ns": round(statistics.median(times[name]), 2),
            }
            for name, (_, _, row_bytes) in calls.items()
        ]
    return found


def _rows(row_bytes, data_bytes):
    return max(1, data_bytes // row_bytes)


def _ours(dim, data_bytes):
    """Return {name: (call, distances a call, bytes a row)} of our kernels and of numpy's."""
    chance = np.random.default_rng(0)
    rows = aligned_empty((_rows(4 * dim, data_bytes), dim), np.float32)
    rows[:] = chance.normal(size=rows.shape)
    queries = chance.normal(size=(QUERIES, dim)).astype(np.float32)
    out = np.empty((QUERIES, len(rows)), np.float32)
    count = out.size

    def gemv():
        for i in range(QUERIES):
            np.dot(rows, queries[i], out=out[i])

    calls = {
        "float32 l2": (lambda: _l2(queries, rows, out), count, 4 * dim),
        "float32 dot": (lambda: _dot(queries, rows, out), count, 4 * dim),
        "float32 cosine": (lambda: _cosine(queries, rows, out), count, 4 * dim),
        "numpy gemv": (gemv, count, 4 * dim),
        "u8s8 dot": _bytes_call(_u8s8, dim, dim, data_bytes),
        "u8u4 dot": _bytes_call(_u8u4, dim, dim // 2, data_bytes),
    }
    quantizers = Q8Quantizer(dim, "l2"), Q4Quantizer(dim, "l2"), PQQuantizer(dim, "l2")
    for quantizer in quantizers:
        # Few vectors encoded, repeated: what codes say does not change the time they take.
        some = chance.normal(size=(300, dim)).astype(np.float32)
        few = quantizer.fit(some).encode(some)
        codes = aligned_empty((_rows(quantizer.row_bytes, data_bytes), few.shape[1]), np.uint8)
        codes[:] = few[np.arange(len(codes)) % len(few)]
        prepared = quantizer.prepare(queries)
        codes.flags.writeable = False
        calls[f"{quantizer.KIND} l2"] = _codes_call(quantizer, prepared, codes)
        if quantizer.CODE == Q8:
            calls["q8 l2, 8 chosen rows"] = _scattered_call(quantizer, prepared, codes)
    return calls


def _scattered_call(quantizer, prepared, codes):
    rows = np.random.default_rng(2).permutation(len(codes))
    rows = rows[: len(rows) // ROWS_AT_ONCE * ROWS_AT_ONCE]
    out = np.empty((len(prepared), len(rows)), np.float32)
    return (
        lambda: _scattered(prepared, codes, quantizer.code_bytes, rows, out),
        out.size,
        quantizer.row_bytes,
    )


def _bytes_call(driver, dim, row_bytes, data_bytes):
    chance = np.random.default_rng(1)
    rows = aligned_empty((_rows(row_bytes, data_bytes), row_bytes), np.uint8)
    rows[:] = chance.integers(0, 256, size=rows.shape)
    queries = chance.integers(0, 256, size=(QUERIES, dim)).astype(np.uint8)
    out = np.empty((QUERIES, len(rows)), np.int32)
    return lambda: driver(queries, rows, out), out.size, row_bytes


def _codes_call(quantizer, prepared, codes):
    out = np.empty((len(prepared), len(codes)), np.float32)
    kind, code_bytes = quantizer.CODE, quantizer.code_bytes
    return (
        lambda: measure_codes(prepared, codes, kind, code_bytes, out),
        out.size,
        quantizer.row_bytes,
    )


def _faiss(dim, data_bytes):
    """Return {name: (call, distances a call, bytes a row)} of faiss' exhaustive searches."""
    try:
        import faiss
    except ImportError:
        raise Unavailable("faiss is not installed: pip install faiss-cpu") from None
    faiss.omp_set_num_threads(1)
    kinds = faiss.ScalarQuantizer
    made = {
        "faiss flat l2": faiss.IndexFlatL2(dim),
        "faiss flat dot": faiss.IndexFlatIP(dim),
        "faiss sq8 l2": faiss.IndexScalarQuantizer(dim, kinds.QT_8bit, faiss.METRIC_L2),
        "faiss sq8 direct l2": faiss.IndexScalarQuantizer(
            dim, kinds.QT_8bit_direct_signed, faiss.METRIC_L2
        ),
        "faiss sq4 l2": faiss.IndexScalarQuantizer(dim, kinds.QT_4bit, faiss.METRIC_L2),
        "faiss pq l2": faiss.IndexPQ(dim, dim // 8, 8),
    }
    chance = np.random.default_rng(0)
    queries = chance.normal(size=(QUERIES, dim)).astype(np.float32)
    calls = {}
    for name, index in made.items():
        row_bytes = index.code_size
        rows = chance.normal(size=(_rows(row_bytes, data_bytes), dim)).astype(np.float32)
        if isinstance(index, faiss.IndexPQ):
            index.pq.cp.niter = 1
            index.pq.cp.min_points_per_centroid = 1
        index.train(rows[:300])
        index.add(rows)
        calls[name] = (lambda i=index: i.search(queries, 1)), QUERIES * len(rows), row_bytes
    return calls


if __name__ == "__main__":
    name, bits, _ = INSTRUCTION
    head = {"simd_level": simd_level(), "instruction": name, "register_bits": bits}
    for line in (head, *measure()):
        sys.stdout.buffer.write(codec.encode(line) + b"\n")
