"""k-means kernels: rows find their nearest centroid, centroids move to the mean of their rows.

Each function handles a slice of its work and writes only to places of that slice, and sums go
in the order of rows: any number of threads gives the same bytes.
"""

import numpy as np

from luma_lab.kernels.compile import kernel
from luma_lab.kernels.space import apart, stand_at


@kernel
def assign_rows(rows, start, stop, centroids, prepared, cells, distances):
    """Write the nearest centroid of each row from `start` to `stop`; ties go to the lower one.

    Parameters
    ----------
    rows, centroids : FloatSpace or Q8Space, both of one kind
        Codes of both are of one quantizer.
    prepared : uint8 array
        Scratch of `space.stand_at`.
    cells, distances : int32 and float32 arrays of shape (n,)
        Output: number of the centroid, squared L2 distance to it.
    """
    count = len(centroids[0])
    for i in range(start, stop):
        probe = stand_at(rows, i, prepared)
        nearest = 0
        least = apart(centroids, probe, 0)
        for c in range(1, count):
            distance = apart(centroids, probe, c)
            if distance < least:
                least = distance
                nearest = c
        cells[i] = nearest
        distances[i] = least


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
