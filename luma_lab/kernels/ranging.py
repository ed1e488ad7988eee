"""Range scan: every asked-for row within a radius of a query, exactly.

Answers have no fixed number, so kernels put their keys (see `topk`) into arrays that grow.
"""

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
from luma_lab.kernels.scan import BLOCK_FLOATS
from luma_lab.kernels.topk import pack_key, push_least

LEAST_ROOM = 256  # keys there is room for at first


@kernel
def grown(keys, least):
    """Return a copy of `keys` with room for `least` at least, and for half as many again."""
    wider = np.empty(max(least, keys.shape[0] + keys.shape[0] // 2), keys.dtype)
    wider[: keys.shape[0]] = keys
    return wider


@kernel
def scan_range(queries, matrix, chosen, use_chosen, start, stop, metric, radius, limit, sizes):
    """Find the matrix rows within `radius` of each query, exactly.

    Parameters
    ----------
    queries, matrix, chosen, use_chosen, start, stop, metric
        As in `scan.scan_batch`, and so are distances.
    radius : float32
        Rows at this distance are within.
    limit : int
        How many are kept for a query, the nearest ones; 0: all.
    sizes : int64 array of shape (n_queries,)
        Output: how many there are of each query.

    Returns
    -------
    int64 array
        The keys of each query's rows in any order, those of the first query first.
    """
    count = queries.shape[0]
    heaps = np.empty((count, min(limit, max(0, stop - start))), np.int64)
    keys = np.empty(LEAST_ROOM if limit == 0 else 0, np.int64)
    owners = np.empty(keys.shape[0], np.int32)
    total = 0
    sizes[:] = 0
    step = max(1, BLOCK_FLOATS // max(1, matrix.shape[1]))
    base = matrix.ctypes.data
    row_bytes = matrix.shape[1] * 4
    first = start
    while first < stop:
        last = min(stop, first + step)
        for i in range(count):
            query = queries[i]
            for position in range(first, last):
                row = position
                if use_chosen:
                    row = chosen[position]
                    if position + AHEAD < last:
                        prefetch_span(base + chosen[position + AHEAD] * row_bytes, row_bytes)
                # Written out, as in `scan`: as a function of its own it takes twice as long.
                if metric == L2:
                    distance = squared_l2(query, matrix[row])
                elif metric == DOT:
                    distance = ZERO - dot(query, matrix[row])
                else:
                    product, square = dot_and_square(query, matrix[row])
                    distance = cosine_distance(product, square, matrix, row)
                if not distance <= radius:
                    continue
                key = pack_key(distance, row)
                if limit > 0:
                    sizes[i] = push_least(heaps[i], sizes[i], key)
                    continue
                if total == keys.shape[0]:
                    keys = grown(keys, total + 1)
                    owners = grown(owners, keys.shape[0])
                keys[total] = key
                owners[total] = i
                sizes[i] += 1
                total += 1
        first = last
    places = np.zeros(count + 1, np.int64)
    for i in range(count):
        places[i + 1] = places[i] + sizes[i]
    ordered = np.empty(places[count], np.int64)
    if limit > 0:
        for i in range(count):
            for j in range(sizes[i]):
                ordered[places[i] + j] = heaps[i, j]
        return ordered
    for j in range(total):
        i = owners[j]
        ordered[places[i]] = keys[j]
        places[i] += 1
    return ordered
