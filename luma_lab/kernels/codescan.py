"""Scans of quantised rows, and the exact distances that put their candidates in order."""

import numpy as np

from luma_lab.kernels.compile import kernel
from luma_lab.kernels.distance import (
    DOT,
    L2,
    ZERO,
    cosine_distance,
    dot,
    dot_and_square,
    squared_l2,
)
from luma_lab.kernels.prefetch import AHEAD, prefetch_row
from luma_lab.kernels.product import pq_distance
from luma_lab.kernels.quantize import Q4, Q8, q4_distance, q8_distance
from luma_lab.kernels.topk import pack_key, push_least, write_heap

PQ = 2  # beside Q8 and Q4
# Rows visited for all queries before the next ones, so that they stay in the L2 cache.
BLOCK_SIZE_BYTES = 1 << 18


@kernel(inline=True)
def code_distance(kind, query_address, row_address, code_bytes, row_bytes):
    """Return the approximate distance of a prepared query to a row of codes of some `kind`."""
    if kind == Q8:
        return q8_distance(query_address, row_address, code_bytes, row_bytes)
    if kind == Q4:
        return q4_distance(query_address, row_address, code_bytes, row_bytes)
    return pq_distance(query_address, row_address, code_bytes)


@kernel
def scan_codes(
    queries, codes, kind, code_bytes, chosen, use_chosen, start, stop, rows, distances
):  # fmt: skip
    """Find the nearest rows of each prepared query by their codes; ties go to the lower row.

    Parameters
    ----------
    queries, codes : uint8 arrays
        See `quantize` and `product`.
    kind, code_bytes : int
    chosen : int64 array
        Row numbers to look at when `use_chosen`.
    start, stop : int
        Positions in `chosen`, or rows of `codes`, to look at.
    rows, distances : int64 and float32 arrays of shape (n_queries, k)
        Output, padded with -1 and inf. Distances are approximate and may be a little below 0.
    """
    k = min(rows.shape[1], max(0, stop - start))
    heaps = np.empty((queries.shape[0], k), np.int64)
    sizes = np.zeros(queries.shape[0], np.int64)
    row_bytes = codes.shape[1]
    step = max(1, BLOCK_SIZE_BYTES // row_bytes)
    code_base = codes.ctypes.data
    query_base = queries.ctypes.data
    first = start
    while first < stop:
        last = min(stop, first + step)
        for i in range(queries.shape[0]):
            query = query_base + i * queries.shape[1]
            heap = heaps[i]
            size = sizes[i]
            for position in range(first, last):
                row = position
                if use_chosen:
                    row = chosen[position]
                    if position + AHEAD < last:
                        prefetch_row(code_base + chosen[position + AHEAD] * row_bytes, row_bytes)
                address = code_base + row * row_bytes
                key = pack_key(code_distance(kind, query, address, code_bytes, row_bytes), row)
                if size < k or key < heap[0]:
                    size = push_least(heap, size, key)
            sizes[i] = size
        first = last
    for i in range(queries.shape[0]):
        write_heap(heaps[i], sizes[i], rows[i], distances[i])


@kernel
def measure_codes(queries, codes, kind, code_bytes, distances):
    """Write the approximate distance of every prepared query to every row, (n_queries, n)."""
    row_bytes = codes.shape[1]
    code_base = codes.ctypes.data
    for i in range(queries.shape[0]):
        query = queries.ctypes.data + i * queries.shape[1]
        for row in range(codes.shape[0]):
            address = code_base + row * row_bytes
            distances[i, row] = code_distance(kind, query, address, code_bytes, row_bytes)


@kernel
def rerank(queries, matrix, metric, candidates, rows, distances):
    """Order candidates by their exact distance and keep the k nearest; ties to the lower row.

    Parameters
    ----------
    queries : float32 array of shape (n_queries, dim)
        Of length one (or zero) under COSINE.
    matrix : float32 array of shape (n, dim)
        Rows of any length; distances as `scan.scan_batch` gives them.
    candidates : int64 array of shape (n_queries, m)
        Rows without repeats; -1 stands for none.
    rows, distances : int64 and float32 arrays of shape (n_queries, k)
        Output, padded with -1 and inf.
    """
    heap = np.empty(min(rows.shape[1], candidates.shape[1]), np.int64)
    base = matrix.ctypes.data
    row_bytes = matrix.shape[1] * 4
    for i in range(queries.shape[0]):
        query = queries[i]
        size = 0
        for j in range(candidates.shape[1]):
            row = candidates[i, j]
            if j + AHEAD < candidates.shape[1]:
                # A prefetch of row -1 asks for what is before the matrix, and can't fault.
                prefetch_row(base + candidates[i, j + AHEAD] * row_bytes, row_bytes)
            if row < 0:
                continue
            if metric == L2:
                distance = squared_l2(query, matrix[row])
            elif metric == DOT:
                distance = ZERO - dot(query, matrix[row])
            else:
                product, square = dot_and_square(query, matrix[row])
                distance = cosine_distance(product, square, matrix, row)
            size = push_least(heap, size, pack_key(distance, row))
        write_heap(heap, size, rows[i], distances[i])
