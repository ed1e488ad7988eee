"""Exact scan: distances to every asked-for row of a plain float32 matrix, k least kept."""

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
from luma_lab.kernels.prefetch import AHEAD, prefetch_span
from luma_lab.kernels.topk import key_distance, key_row, pack_key, push_least, sort_heap

# Rows visited for all queries before the next ones, so that they stay in the L2 cache.
BLOCK_FLOATS = 1 << 15


@kernel
def scan_batch(queries, matrix, chosen, use_chosen, start, stop, metric, rows, distances):
    """Find the nearest matrix rows of each query, exactly; ties go to the lower row.

    Distances are as users see them, for rows of any length. L2: squared; DOT: minus the inner
    product; COSINE: see `distance.cosine_distance`.

    Parameters
    ----------
    queries : float32 array of shape (n_queries, dim)
        Of length one (or zero) under COSINE.
    matrix : float32 array of shape (n, dim)
    chosen : int64 array
        Ascending row numbers to look at when `use_chosen`.
    start, stop : int
        Positions in `chosen`, or rows of `matrix`, to look at.
    rows, distances : int64 and float32 arrays of shape (n_queries, k)
        Output, padded with -1 and inf.
    """
    k = min(rows.shape[1], max(0, stop - start))
    heaps = np.empty((queries.shape[0], k), np.int64)
    sizes = np.zeros(queries.shape[0], np.int64)
    step = max(1, BLOCK_FLOATS // max(1, matrix.shape[1]))
    base = matrix.ctypes.data
    row_bytes = matrix.shape[1] * 4
    first = start
    while first < stop:
        last = min(stop, first + step)
        for i in range(queries.shape[0]):
            query = queries[i]
            heap = heaps[i]
            size = sizes[i]
            for position in range(first, last):
                row = position
                if use_chosen:
                    row = chosen[position]
                    if position + AHEAD < last:
                        prefetch_span(base + chosen[position + AHEAD] * row_bytes, row_bytes)
                # Written out here: as a function of its own it takes twice as long.
                if metric == L2:
                    distance = squared_l2(query, matrix[row])
                elif metric == DOT:
                    distance = ZERO - dot(query, matrix[row])
                else:
                    product, square = dot_and_square(query, matrix[row])
                    distance = cosine_distance(product, square, matrix, row)
                key = pack_key(distance, row)
                if size < k or key < heap[0]:
                    size = push_least(heap, size, key)
            sizes[i] = size
        first = last
    for i in range(queries.shape[0]):
        size = sizes[i]
        sort_heap(heaps[i], size)
        for j in range(size):
            rows[i, j] = key_row(heaps[i, j])
            distances[i, j] = key_distance(heaps[i, j])
        for j in range(size, rows.shape[1]):
            rows[i, j] = -1
            distances[i, j] = np.inf
