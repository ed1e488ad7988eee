"""Compile every kernel before the first user needs it."""

import numpy as np

from luma_lab.kernels import build, codescan, distance, graph, product, quantize, reach, scan
from luma_lab.kernels.int8 import BLOCK_BYTES

WARM_ROWS = 4
WARM_STRIDE = 16
WARM_DEGREE = 4


def warm_up():
    """Compile all kernels for the argument types the index layer uses, or load them.

    With an empty cache folder this takes some seconds; afterwards a fresh process loads the
    machine code in tenths of a second.
    """
    rows = np.eye(WARM_ROWS, WARM_STRIDE, dtype=np.float32)
    vectors = np.empty_like(rows)
    distance.prepare_rows(read_only(rows), True, vectors)
    vectors = read_only(vectors)
    seen, epoch = np.zeros(WARM_ROWS, np.int32), np.zeros(1, np.int32)
    keys, fresh = np.empty(WARM_ROWS, np.int64), np.empty(WARM_DEGREE, np.int32)
    neighbors = np.full((WARM_ROWS, WARM_DEGREE), graph.NO_NODE, np.int32)
    batch = np.arange(1, WARM_ROWS, dtype=np.int32)
    edges = np.empty((len(batch), WARM_DEGREE), np.int32)
    offsets = np.empty(WARM_ROWS + 1, np.int64)
    targets, sources = np.empty(WARM_ROWS, np.int32), np.empty(edges.size, np.int32)
    alpha = np.float32(1.2)
    entry = int(build.find_medoid(vectors))
    build.choose_edges(
        batch, 0, len(batch), vectors, read_only(neighbors), entry, distance.L2, alpha, edges,
        keys, fresh, seen, epoch,
    )  # fmt: skip
    build.write_edges(batch, edges, neighbors)
    count = int(build.group_by_target(batch, edges, offsets, targets, sources))
    build.merge_back_edges(
        targets, 0, count, offsets, sources, vectors, neighbors, distance.L2, alpha, WARM_DEGREE
    )
    trimmed = np.empty_like(neighbors)
    build.trim(0, WARM_ROWS, vectors, neighbors, distance.L2, alpha, trimmed)
    reach.attach_unreached(vectors, trimmed, entry, distance.L2, keys, fresh, seen, epoch)
    answers = np.empty((1, 1), np.int64), np.empty((1, 1), np.float32)
    no_mask, no_rows = read_only(np.empty(0, np.bool_)), read_only(np.empty(0, np.int64))
    graph.search_batch(
        read_only(rows[:1]), vectors, read_only(trimmed), entry, distance.L2, no_mask, False,
        keys, fresh, seen, epoch, np.empty(0, np.int64), *answers, np.zeros((1, 4), np.int64),
    )  # fmt: skip
    scan.scan_batch(
        read_only(rows[:1]), vectors, no_rows, False, 0, WARM_ROWS, distance.L2, *answers
    )
    _warm_codes(vectors, no_rows, *answers)


def _warm_codes(vectors, no_rows, rows, distances):
    """Compile what quantizers use."""
    sums = np.zeros(WARM_STRIDE, np.float64)
    quantize.column_sums(vectors, sums)
    mean = read_only(sums.astype(np.float32))
    codes = np.empty((WARM_ROWS, 2 * BLOCK_BYTES), np.uint8)
    prepared = np.empty((1, 4 * BLOCK_BYTES), np.uint8)
    queries = vectors[:1]
    quantize.encode_rows(vectors, mean, quantize.Q8, BLOCK_BYTES, codes)
    quantize.prepare_queries(queries, mean, distance.L2, BLOCK_BYTES, prepared)
    codes, prepared = read_only(codes), read_only(prepared)
    quantize.decode_rows(codes, mean, quantize.Q8, np.empty_like(vectors))
    codescan.scan_codes(
        prepared, codes, quantize.Q8, BLOCK_BYTES, no_rows, False, 0, WARM_ROWS, rows, distances
    )
    codescan.measure_codes(
        prepared, codes, quantize.Q8, BLOCK_BYTES, np.empty((1, WARM_ROWS), np.float32)
    )
    codescan.rerank(queries, vectors, distance.L2, rows.copy(), rows, distances)
    bounds = read_only(np.array([0, 1], np.int64))
    centroids = np.zeros((1, 1, product.CENTROIDS), np.float32)
    product.fit_part(vectors, 0, 1, 1, centroids[0])
    centroids = read_only(centroids)
    codes = np.empty((WARM_ROWS, 1), np.uint8)
    product.encode_parts(vectors, bounds, centroids, codes)
    product.decode_parts(read_only(codes), bounds, centroids, np.empty_like(vectors))
    prepared = np.empty((1, product.TABLE_BYTES + product.CONSTANT_BYTES), np.uint8)
    product.prepare_tables(queries, bounds, centroids, distance.L2, prepared)


def read_only(array):
    """Return a view of `array` that can't be written: one type for arrays in memory and mapped."""
    view = array.view(np.ndarray)
    view.flags.writeable = False
    return view
