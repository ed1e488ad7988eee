"""Search by codes: walk over bytes, then put the best in order by their exact distances."""

import math

import numpy as np

from luma_lab.kernels.compile import kernel
from luma_lab.kernels.distance import (
    COSINE,
    DOT,
    L2,
    ZERO,
    cosine_distance,
    dot,
    dot_and_square,
    squared_l2,
    wide_square,
)
from luma_lab.kernels.graph import COMPARISONS, HOPS, PASS, greedy_search
from luma_lab.kernels.prefetch import prefetch_row
from luma_lab.kernels.quantize import prepare_query
from luma_lab.kernels.topk import key_distance, key_row, pack_key, push_least, sort_heap

RERANK_AHEAD = 2  # rows of exact vectors asked for before they are needed


@kernel
def exact_distance(query, vectors, row, metric):
    """Return the distance users see, as `scan.scan_batch` does."""
    if metric == L2:
        return squared_l2(query, vectors[row])
    if metric == DOT:
        return ZERO - dot(query, vectors[row])
    product, square = dot_and_square(query, vectors[row])
    return cosine_distance(product, square, vectors, row)


@kernel
def search_codes(
    space, mean, queries, vectors, neighbors, entry, metric, mask, use_mask, rerank,
    keys, fresh, seen, epoch, no_record, point, prepared, rows, distances, counts,
):  # fmt: skip
    """Answer each of `queries` (n_queries, dim) by a walk over codes and an exact second look.

    Parameters
    ----------
    space : Q8Space
    mean : float32 array of shape (dim,)
        Of the quantizer.
    vectors : float32 array of shape (n, dim)
        The rows as they are, of any length.
    rerank : int
        How many of the walk's best are looked at again; at least k.
    point : float32 array of shape (2, dim)
        Scratch.
    prepared : uint8 array of shape (query_bytes,)
        Scratch.

    The rest is as in `graph.search_batch`.
    """
    k = rows.shape[1]
    dim = mean.shape[0]
    base = vectors.ctypes.data
    row_bytes = dim * 4
    best = np.empty(min(rerank, keys.shape[0]), np.int64)
    for i in range(queries.shape[0]):
        query = point[0]
        scale = 1.0
        if metric == COSINE:
            square = wide_square(queries[i])
            if square > 0.0:
                scale = 1.0 / math.sqrt(square)
        for j in range(dim):
            query[j] = np.float32(queries[i, j] * scale)
        prepare_query(query, mean, metric, space.code_bytes, point[1], prepared)
        size, hops, comparisons = greedy_search(
            space, prepared.ctypes.data, neighbors, entry, keys, fresh, seen, epoch, no_record
        )
        passed = 0
        for j in range(size):
            row = key_row(keys[j])
            if use_mask and not mask[row]:
                continue
            if passed < best.shape[0]:
                best[passed] = row
                if passed < RERANK_AHEAD:
                    prefetch_row(base + row * row_bytes, row_bytes)
            passed += 1
        looked = min(passed, best.shape[0])
        found = 0
        heap = keys[: min(k, looked)]
        for j in range(looked):
            if j + RERANK_AHEAD < looked:
                prefetch_row(base + best[j + RERANK_AHEAD] * row_bytes, row_bytes)
            row = best[j]
            key = pack_key(exact_distance(query, vectors, row, metric), row)
            found = push_least(heap, found, key)
        sort_heap(heap, found)
        for j in range(found):
            rows[i, j] = key_row(heap[j])
            distances[i, j] = key_distance(heap[j])
        for j in range(found, k):
            rows[i, j] = -1
            distances[i, j] = np.inf
        counts[i, HOPS] = hops
        counts[i, COMPARISONS] = comparisons
        counts[i, PASS] = passed
