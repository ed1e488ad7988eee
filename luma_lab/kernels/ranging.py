"""Range scan: every asked-for row within a radius of a query, exactly.

Answers have no fixed number, so kernels put their keys (see `topk`) into arrays that grow.
"""

import numpy as np

from luma_lab.kernels.compile import kernel
from luma_lab.kernels.scan import measure_rows, offer_rows, room_for_block
from luma_lab.kernels.topk import pack_key

LEAST_ROOM = 256  # keys there is room for at first


@kernel
def grown(keys, least):
    """Return a copy of `keys` with room for `least` at least, and for half as many again."""
    wider = np.empty(max(least, keys.shape[0] + keys.shape[0] // 2), keys.dtype)
    wider[: keys.shape[0]] = keys
    return wider


@kernel
def append_rows(keys, distances, chosen, use_chosen, first, last, radius):
    """Write the keys of the rows of `scan.measure_rows` within `radius`; return how many."""
    found = 0
    for position in range(first, last):
        distance = distances[position - first]
        if distance <= radius:
            keys[found] = pack_key(distance, chosen[position] if use_chosen else position)
            found += 1
    return found


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
    block = room_for_block(matrix, start, stop)
    first = start
    while first < stop:
        last = min(stop, first + block.shape[0])
        for i in range(count):
            measure_rows(queries[i], matrix, chosen, use_chosen, first, last, metric, block)
            if limit > 0:
                sizes[i] = offer_rows(
                    heaps[i], sizes[i], block, chosen, use_chosen, first, last, radius
                )
                continue
            if total + last - first > keys.shape[0]:
                keys = grown(keys, total + last - first)
                owners = grown(owners, keys.shape[0])
            found = append_rows(keys[total:], block, chosen, use_chosen, first, last, radius)
            owners[total : total + found] = i
            sizes[i] += found
            total += found
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
