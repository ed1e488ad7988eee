"""Which cells are nearest to a query, and which queries look into a cell."""

import math

import numpy as np

from luma_lab.kernels.blocks import CONSTANT_LINES, LINE_BYTES, measure_q8_block
from luma_lab.kernels.compile import kernel
from luma_lab.kernels.distance import ZERO
from luma_lab.kernels.topk import INFINITE, key_distance, key_row, pack_key, push_least

SAMPLE_STEP = 8  # of the cells, one is looked at to guess how near the nearest are


@kernel
def rank_cells(probe, constants, centroids, length, bias, sizes, distances):
    """Write the distances of all cells from the query, inf for those without rows.

    Parameters
    ----------
    centroids : uint32 array of shape (blocks, lines, LANES)
        Q8 codes.
    bias : float32 array of shape (nlist,)
        Times the `length` of the query, it is added to the distance of each.
    distances : float32 array of shape (blocks * LANES,)
        Output.

    Returns
    -------
    count : int
        Cells that hold rows.
    """
    lines = centroids.shape[1]
    for b in range(centroids.shape[0]):
        measure_q8_block(
            probe, constants, centroids.ctypes.data + b * lines * LINE_BYTES,
            lines - CONSTANT_LINES, distances.ctypes.data + b * LINE_BYTES, ZERO,
        )  # fmt: skip
    count = 0
    for c in range(sizes.shape[0]):
        distances[c] += length * bias[c]
        if sizes[c] == 0:
            distances[c] = INFINITE
        else:
            count += 1
    return count


@kernel
def select_least(keys, size, wanted):
    """Move the `wanted` least of the distinct keys[:size] to the front, and the least to keys[0].

    Otherwise their order is any.
    """
    first, last = 0, size - 1
    while first < last:
        middle = (first + last) >> 1
        pivot = keys[middle]
        keys[middle] = keys[last]
        place = first
        for i in range(first, last):  # without a branch that could be mistaken for another
            key = keys[i]
            keys[i] = keys[place]
            keys[place] = key
            place += 1 if key < pivot else 0
        keys[last] = keys[place]
        keys[place] = pivot
        if place < wanted:
            first = place + 1
        else:
            last = place - 1
    least = 0
    for i in range(wanted):
        least = i if keys[i] < keys[least] else least
    if wanted > 0:
        keys[0], keys[least] = keys[least], keys[0]


@kernel
def nearest_cells(distances, nlist, wanted, keys):
    """Write the keys of the `wanted` nearest cells in front of `keys`, the nearest first.

    A sample tells below which distance about so many lie; if it was wrong, all are compared.
    """
    share = wanted / SAMPLE_STEP
    least = np.empty(np.int64(share + 2.0 * math.sqrt(share)) + 2, np.int64)
    size = 0
    for c in range(0, nlist, SAMPLE_STEP):
        key = pack_key(distances[c], c)
        if size < least.shape[0] or key < least[0]:
            size = push_least(least, size, key)
    limit = key_distance(least[0]) if size == least.shape[0] else INFINITE
    size = 0
    for c in range(nlist):
        if distances[c] <= limit:
            keys[size] = pack_key(distances[c], c)
            size += 1
    if size < wanted:
        size = nlist
        for c in range(nlist):
            keys[c] = pack_key(distances[c], c)
    select_least(keys, size, wanted)


@kernel
def group_pairs(keys, first, last, cells, starts, pairs):
    """Sort (query, cell) pairs by cell, so that queries share cells: a counting sort.

    Parameters
    ----------
    keys : int64 array of shape (queries, nprobe)
        Of the cells nearest to each query, the nearest first.
    first, last : int
        Columns of `keys` to look at.
    cells : int64 array of shape (queries,)
        How many columns each query has.
    starts : int64 array of shape (nlist + 1,)
        Scratch.
    pairs : int64 array of shape (at least as many as pairs,)
        Output: ``cell << 32 | query``.

    Returns
    -------
    count : int
    """
    for c in range(starts.shape[0]):
        starts[c] = 0
    count = 0
    for i in range(keys.shape[0]):
        for j in range(first, min(last, cells[i])):
            starts[key_row(keys[i, j]) + 1] += 1
            count += 1
    for c in range(starts.shape[0] - 1):
        starts[c + 1] += starts[c]
    for i in range(keys.shape[0]):
        for j in range(first, min(last, cells[i])):
            cell = key_row(keys[i, j])
            pairs[starts[cell]] = (cell << 32) | i
            starts[cell] += 1
    return count
