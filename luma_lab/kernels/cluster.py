"""k-means kernels: rows find their nearest centroid, centroids move to the mean of their rows.

Each function handles a slice of its work and writes only to places of that slice, and sums go
in the order of rows: any number of threads gives the same bytes.
"""

import numpy as np

from luma_lab.kernels.blocks import (
    CONSTANT_LINES,
    FLOATS,
    LANES,
    LINE_BYTES,
    measure_float_block,
    measure_q8_block,
)
from luma_lab.kernels.compile import kernel
from luma_lab.kernels.space import Q8Space, stand_at
from luma_lab.kernels.topk import INFINITE


@kernel
def assign_rows(
    kind, dim, codes, code_bytes, rows, start, stop, blocks, count, prepared, cells, gaps
):
    """Write the nearest centroid of each row from `start` to `stop`; ties go to the lower one.

    Parameters
    ----------
    kind, dim : int
        Q8 or FLOATS: what rows and centroids are compared by; their components.
    codes : uint8 array of shape (n, row_bytes)
        Of the rows, with Q8; `code_bytes` of components each.
    rows : float32 array of shape (n, at least dim)
        The rows, with FLOATS.
    blocks : uint32 array of shape (blocks, lines, LANES)
        `count` centroids, of the same kind.
    prepared : uint8 array of shape (query_bytes,), zero behind the components
        Scratch.
    cells, gaps : int32 and float32 arrays of shape (n,)
        Output: number of the centroid, squared L2 distance to it.
    """
    lines = blocks.shape[1]
    distances = np.empty(LANES, np.float32)
    out = distances.ctypes.data
    base = blocks.ctypes.data
    space = Q8Space(codes, code_bytes, dim)
    for i in range(start, stop):
        probe = rows.ctypes.data + i * rows.shape[1] * 4
        if kind != FLOATS:
            probe = stand_at(space, i, prepared)
        nearest = 0
        least = INFINITE
        for b in range(blocks.shape[0]):
            block = base + b * lines * LINE_BYTES
            if kind == FLOATS:
                hits = measure_float_block(probe, block, lines, out, least, True)
            else:
                hits = measure_q8_block(
                    probe, probe + code_bytes, block, lines - CONSTANT_LINES, out, least
                )
            if hits:
                for lane in range(min(LANES, count - b * LANES)):
                    if distances[lane] < least:
                        least = distances[lane]
                        nearest = b * LANES + lane
        cells[i] = nearest
        gaps[i] = least


@kernel
def group_rows(cells, starts, order):
    """Sort rows by cell, keeping their order within a cell: a counting sort.

    Parameters
    ----------
    cells : int32 array of shape (n,)
    starts : int64 array of shape (nlist + 1,)
        Output: order[starts[c]:starts[c + 1]] are the rows of cell c.
    order : int64 array of shape (n,)
        Output.
    """
    for c in range(starts.shape[0]):
        starts[c] = 0
    for i in range(cells.shape[0]):
        starts[cells[i] + 1] += 1
    for c in range(starts.shape[0] - 1):
        starts[c + 1] += starts[c]
    for i in range(cells.shape[0]):
        order[starts[cells[i]]] = i
        starts[cells[i]] += 1
    # Each start now stands at its end, which is the next one's start.
    for c in range(starts.shape[0] - 1, 0, -1):
        starts[c] = starts[c - 1]
    starts[0] = 0


@kernel
def move_centroids(rows, order, starts, start, stop, centroids):
    """Move centroids `start` to `stop` to the mean of their rows; those without rows stay.

    rows : float32 array of shape (n, at least dim)
    order, starts : of `group_rows`
    centroids : float32 array of shape (nlist, dim)
    """
    dim = centroids.shape[1]
    sums = np.empty(dim, np.float64)
    for c in range(start, stop):
        size = starts[c + 1] - starts[c]
        if size == 0:
            continue
        for j in range(dim):
            sums[j] = 0.0
        for place in range(starts[c], starts[c + 1]):
            row = rows[order[place]]
            for j in range(dim):
                sums[j] += np.float64(row[j])
        for j in range(dim):
            centroids[c, j] = np.float32(sums[j] / size)


@kernel
def revive_centroids(rows, order, starts, distances, centroids):
    """Give each centroid without rows a share of the cell whose rows lie furthest from theirs.

    The two of them then stand half way between that cell's mean and its furthest row, on either
    side of the mean. Returns how many were without rows.
    """
    count = centroids.shape[0]
    sizes = np.empty(count, np.float64)
    errors = np.zeros(count, np.float64)
    idle = 0
    for c in range(count):
        sizes[c] = starts[c + 1] - starts[c]
        if starts[c + 1] == starts[c]:
            idle += 1
        for place in range(starts[c], starts[c + 1]):
            errors[c] += np.float64(max(distances[order[place]], np.float32(0.0)))
    for c in range(count):
        if sizes[c] > 0.0:
            continue
        worst = np.argmax(errors)
        if errors[worst] <= 0.0:
            break
        if starts[worst + 1] > starts[worst]:
            furthest = order[starts[worst]]
            for place in range(starts[worst], starts[worst + 1]):
                if distances[order[place]] > distances[furthest]:
                    furthest = order[place]
            for j in range(centroids.shape[1]):
                centre = centroids[worst, j]
                half = (rows[furthest, j] - centre) * np.float32(0.5)
                centroids[c, j] = centre + half
                centroids[worst, j] = centre - half
        # What was split is not split again before the next round has told how.
        errors[worst] = 0.0
        sizes[c] = 1.0
    return idle
