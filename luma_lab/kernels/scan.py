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
from luma_lab.kernels.topk import INFINITE, key_distance, pack_key, push_least, write_heap

# Rows visited for all queries before the next ones, so that they stay in the L2 cache.
BLOCK_FLOATS = 1 << 15


@kernel
def room_for_block(matrix, start, stop):
    """Return room for the distances of the rows that are visited for all queries together."""
    rows = max(1, BLOCK_FLOATS // max(1, matrix.shape[1]))
    return np.empty(max(0, min(rows, stop - start)), np.float32)


@kernel
def measure_rows(query, matrix, chosen, use_chosen, first, last, metric, distances):
    """Write the distances of the rows at positions first:last, see `scan_batch`.

    They are as users see them, for rows of any length. L2: squared; DOT: minus the inner product;
    COSINE: see `distance.cosine_distance`.

    distances : float32 array of shape (last - first,) or longer
        Output.
    """
    base = matrix.ctypes.data
    row_bytes = matrix.shape[1] * 4
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
        distances[position - first] = distance


@kernel
def offer_rows(heap, size, distances, chosen, use_chosen, first, last, bound):
    """Offer the rows of `measure_rows` within `bound` to a heap of the least keys.

    Returns its new size, see `topk.push_least`.
    """
    if size == heap.shape[0]:
        bound = min(bound, key_distance(heap[0]))
    for position in range(first, last):
        distance = distances[position - first]
        if distance <= bound:
            key = pack_key(distance, chosen[position] if use_chosen else position)
            if size < heap.shape[0] or key < heap[0]:
                size = push_least(heap, size, key)
                if size == heap.shape[0]:
                    bound = min(bound, key_distance(heap[0]))
    return size


@kernel
def scan_batch(queries, matrix, chosen, use_chosen, start, stop, metric, rows, distances):
    """Find the nearest matrix rows of each query, exactly; ties go to the lower row.

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
    block = room_for_block(matrix, start, stop)
    first = start
    while first < stop:
        last = min(stop, first + block.shape[0])
        for i in range(queries.shape[0]):
            measure_rows(queries[i], matrix, chosen, use_chosen, first, last, metric, block)
            sizes[i] = offer_rows(
                heaps[i], sizes[i], block, chosen, use_chosen, first, last, INFINITE
            )
        first = last
    for i in range(queries.shape[0]):
        write_heap(heaps[i], sizes[i], rows[i], distances[i])
