"""Training of cells: k-means over codes of a sample, the same bytes for any number of threads."""

import numpy as np

from luma_lab.index.builder import Slices
from luma_lab.index.lanes import blocks_for, q8_lanes, to_blocks
from luma_lab.index.quantizer import Q8Quantizer
from luma_lab.index.rows import aligned_empty, query_rows, read_only
from luma_lab.kernels.blocks import FLOATS
from luma_lab.kernels.cluster import (
    assign_rows,
    group_rows,
    move_centroids,
    revive_centroids,
)
from luma_lab.kernels.quantize import Q8, ROW_CONSTANT_BYTES, encode_rows

NO_ROWS = read_only(np.empty((0, 0), np.float32))
SAMPLE_ROWS = 64  # a cell, to learn from; half as many made cells less even
ROUNDS = 8
# Of a row's squared distance to its centroid: where rounding to codes moves rows by more, they
# do not tell centroids apart.
MOST_MOVED = 0.1
TRAINING_SHARE = 0.6  # of the progress shown


class Ruler:
    """Measures rows against centroids: by codes where they are fine enough, else by floats.

    Parameters
    ----------
    vectors : float32 array of shape (n, dim)
    quantizer : Q8Quantizer
        Fitted to those rows or to rows like them.
    codes : uint8 array of shape (n, row_bytes)
        Of the vectors.
    threads : int
    """

    def __init__(self, vectors, quantizer, codes, threads):
        self._vectors, self._quantizer, self._codes = vectors, quantizer, codes
        self._threads = threads
        self._rows = None

    def use_floats(self):
        """Measure by floats from now on."""
        self._rows = query_rows(self._vectors, self._quantizer.metric, self._quantizer.dim)

    def assign(self, centroids):
        """Return the nearest of `centroids` (nlist, dim) of each row, and distances to them."""
        quantizer = self._quantizer
        kind, rows = (Q8, NO_ROWS) if self._rows is None else (FLOATS, self._rows)
        blocks = centroid_blocks(centroids, None if kind == FLOATS else quantizer)
        cells = np.empty(len(self._vectors), np.int32)
        gaps = np.empty(len(cells), np.float32)

        def run(start, stop):
            prepared = np.zeros(quantizer.query_bytes, np.uint8)
            assign_rows(
                kind, quantizer.dim, self._codes, quantizer.code_bytes, rows, start, stop,
                blocks, len(centroids), prepared, cells, gaps,
            )  # fmt: skip

        with Slices(self._threads) as slices:
            slices.run(run, len(cells))
        return cells, gaps

    def is_blunt(self, distances):
        """Return whether rounding to codes moves rows by much against their `distances`."""
        constants = np.ascontiguousarray(self._codes[:, -ROW_CONSTANT_BYTES:])
        steps = constants.view(np.float32)[:, 0].astype(np.float64)
        moved = 2 * self._quantizer.dim * (steps**2).mean() / 12
        return self._rows is None and bool(moved > MOST_MOVED * distances.mean(dtype=np.float64))


def centroid_blocks(centroids, quantizer):
    """Return blocks of centroids (nlist, dim) as they are, not scaled: codes, or floats if None."""
    centroids = np.ascontiguousarray(centroids)
    if quantizer is None:
        lanes = centroids.view(np.uint32)
    else:
        codes = aligned_empty((len(centroids), quantizer.row_bytes), np.uint8)
        encode_rows(read_only(centroids), quantizer.mean_, Q8, quantizer.code_bytes, codes)
        lanes = q8_lanes(codes, quantizer.dim)
    return read_only(to_blocks(lanes, np.arange(len(lanes)), blocks_for(len(lanes))))


def default_nlist(n):
    """Return how many cells suit `n` rows: 4 sqrt(n), but 16 rows a cell at least."""
    return max(1, min(round(4 * n**0.5), n // 16))


def train_cells(vectors, metric, nlist, *, seed, threads, report):
    """Find centroids of vectors (n, dim), and the cell of each.

    Parameters
    ----------
    nlist : int
        How many are asked for; there are fewer where rows are equal.
    report : callable
        Gets the finished fraction; an exception it raises ends the training.

    Returns
    -------
    centroids : float32 array of shape (cells, dim)
        No cell is empty. Under "cosine" they are means of rows of length one.
    cells : int32 array of shape (n,)
    gaps : float32 array of shape (n,)
        Squared L2 distance of each vector to the centroid of its cell.
    quantizer : Q8Quantizer
        Fitted to the vectors.
    codes : uint8 array of shape (n, row_bytes)
    """
    dim = vectors.shape[1]
    nlist = min(nlist, len(vectors))
    quantizer = Q8Quantizer(dim, metric).fit(vectors)
    codes = quantizer.encode(vectors, threads=threads)
    if nlist == 0:
        nothing = np.empty(0, np.float32)
        return nothing.reshape(0, dim), np.empty(0, np.int32), nothing, quantizer, codes
    order = np.random.default_rng(seed).permutation(len(vectors))[: nlist * SAMPLE_ROWS]
    sample = query_rows(np.ascontiguousarray(vectors[order]), metric, dim)
    # The sample is in random order, so its first rows are as good a guess as any.
    centroids = sample[:nlist].copy()
    ruler = Ruler(sample, quantizer, read_only(codes[order]), threads)
    starts, places = np.empty(nlist + 1, np.int64), np.empty(len(sample), np.int64)
    everyone = Ruler(vectors, quantizer, codes, threads)

    def move(start, stop):
        move_centroids(sample, places, starts, start, stop, centroids)

    for done in range(ROUNDS):
        cells, distances = ruler.assign(centroids)
        if done == 0 and ruler.is_blunt(distances):
            ruler.use_floats()
            everyone.use_floats()
            cells, distances = ruler.assign(centroids)
        group_rows(cells, starts, places)
        with Slices(threads) as slices:
            slices.run(move, nlist)
        if done + 1 < ROUNDS:  # what is moved at last would find no mean any more
            revive_centroids(sample, places, starts, distances, centroids)
        report(TRAINING_SHARE * (done + 1) / ROUNDS)
    cells, gaps = everyone.assign(centroids)
    sizes = np.bincount(cells, minlength=nlist)
    kept = sizes > 0
    numbers = (np.cumsum(kept) - 1).astype(np.int32)
    centroids = np.ascontiguousarray(centroids[kept])
    return centroids, numbers[cells], np.maximum(gaps, 0), quantizer, codes
