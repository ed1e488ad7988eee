"""Search of cells: the nearest cells by codes, their rows by codes, the best by exact distance.

Shared conventions
------------------
slots    places of rows; those of a cell lie together: starts[c] to starts[c] + sizes[c]
numbers  int32 (slots,); the row in each slot
codes    uint8 (slots, row_bytes) of `quantize`; with kind FLOATS float32 rows (slots, stride)
         take their place, of length one under COSINE
"""

import math

import numpy as np

from luma_lab.kernels.codescan import write_heap
from luma_lab.kernels.codewalk import (
    CERTAINTY,
    RERANK_AHEAD,
    ROUNDING,
    code_doubt,
    exact_distance,
)
from luma_lab.kernels.compile import kernel
from luma_lab.kernels.distance import COSINE, L2, ONE, ZERO, dot, squared_l2, wide_square
from luma_lab.kernels.graph import COMPARISONS, HOPS, PASS
from luma_lab.kernels.int8 import dot_u8s8, load_float32
from luma_lab.kernels.prefetch import prefetch_row, prefetch_span
from luma_lab.kernels.quantize import (
    Q8,
    ROW_CONSTANT_BYTES,
    combine,
    prepare_query,
    q4_distance,
    q8_distance,
)
from luma_lab.kernels.space import Q8Space
from luma_lab.kernels.topk import (
    INFINITE,
    key_distance,
    key_row,
    pack_key,
    push_least,
    sort_heap,
    sort_keys,
)

FLOATS = 3  # beside Q8 and Q4
CELL_AHEAD_BYTES = 1024  # of the next cell, asked for early; then the processor sees the pattern
BUFFER_KEYS = 1024


@kernel
def measure_extremes(codes, starts, sizes, cells, extremes):
    """Write the largest step and the largest squared length of the codes of some cells.

    extremes : float32 array of shape (nlist, 2)
        Output, for `cells` (m,) int64 only.
    """
    base = codes.ctypes.data
    row_bytes = codes.shape[1]
    for i in range(cells.shape[0]):
        c = cells[i]
        step, square = ZERO, ZERO
        for slot in range(starts[c], starts[c] + sizes[c]):
            constants = base + (slot + 1) * row_bytes - ROW_CONSTANT_BYTES
            step = max(step, load_float32(constants))
            square = max(square, load_float32(constants + 8))
        extremes[c, 0] = step
        extremes[c, 1] = square


@kernel
def rank_cells(probe, constants_at, centroid_bytes, centroids, bias, sizes, keys):
    """Write the keys (distance, cell) of all cells that hold rows; return how many.

    centroids : uint8 array of shape (nlist, row_bytes)
        Q8 codes, `centroid_bytes` of components each.
    bias : float32 array of shape (nlist,)
        Added to the distance of each.
    """
    base = centroids.ctypes.data
    row_bytes = centroids.shape[1]
    count = 0
    for c in range(centroids.shape[0]):
        row = base + c * row_bytes
        product = dot_u8s8(probe, row, centroid_bytes)
        distance = combine(probe + constants_at, row + row_bytes - ROW_CONSTANT_BYTES, product)
        keys[count] = pack_key(distance + bias[c], c)
        count += 1 if sizes[c] > 0 else 0
    return count


@kernel
def nearest_cells(keys, count, wanted):
    """Return the `wanted` least of keys[:count], ascending."""
    best = np.empty(wanted, np.int64)
    size = 0
    for i in range(count):
        if size < wanted or keys[i] < best[0]:
            size = push_least(best, size, keys[i])
    sort_heap(best, size)
    return best


@kernel(inline=True)
def code_limit(metric, furthest, variance, constant):
    """Return up to which distance by code a row may belong to those nearer than `furthest`.

    The inverse of `codewalk.code_doubt`, for rows of at most the `variance` and `constant`.
    """
    if metric != L2:
        return furthest + constant
    spread = CERTAINTY * np.float32(math.sqrt(variance))
    root = np.float32(math.sqrt(spread * spread + max(ZERO, furthest + constant)))
    return max(furthest, (spread + root) * (spread + root))


@kernel
def scan_cell(
    kind, probe, code_bytes, codes, floats, query, metric, numbers, mask, use_mask, start, stop,
    variance, constant, heap, heaped, found, count,
):  # fmt: skip
    """Measure the rows in slots `start` to `stop`; keep those that may be among the nearest.

    Parameters
    ----------
    variance, constant : float32
        Of `code_limit`.
    heap : int64 array of shape (k,)
        The least keys (distance by code, slot) so far, `heaped` of them.
    found : int64 array, with room for all slots
        Keys that may be among the k nearest, `count` of them.

    Returns
    -------
    heaped, count, passed : int
        `passed` rows are in `mask`, if that is used.
    """
    base = codes.ctypes.data
    row_bytes = codes.shape[1]
    limit = INFINITE
    if heaped == heap.shape[0]:
        limit = key_distance(heap[0])
        if kind != FLOATS:
            limit = code_limit(metric, limit, variance, constant)
    passed = stop - start
    for slot in range(start, stop):
        if use_mask and not mask[numbers[slot]]:
            passed -= 1
            continue
        if kind == Q8:
            distance = q8_distance(probe, base + slot * row_bytes, code_bytes, row_bytes)
        elif kind != FLOATS:
            distance = q4_distance(probe, base + slot * row_bytes, code_bytes, row_bytes)
        elif metric == L2:
            distance = squared_l2(query, floats[slot])
        else:
            distance = ZERO - dot(query, floats[slot])
            if metric == COSINE:
                distance = max(ZERO, ONE + distance)
        if distance <= limit:
            key = pack_key(distance, slot)
            found[count] = key
            count += 1
            if heaped < heap.shape[0] or key < heap[0]:
                heaped = push_least(heap, heaped, key)
                if heaped == heap.shape[0]:
                    limit = key_distance(heap[0])
                    if kind != FLOATS:
                        limit = code_limit(metric, limit, variance, constant)
    return heaped, count, passed


@kernel
def drop_hopeless(kind, space, probe, metric, query_square, heap, heaped, found, count):
    """Keep, of found[:count], the keys that may be among the k nearest; return how many."""
    if heaped < heap.shape[0]:
        return count
    furthest = key_distance(heap[0])
    kept = 0
    for i in range(count):
        distance = key_distance(found[i])
        if distance > furthest:
            if kind == FLOATS:
                continue
            slot = key_row(found[i])
            doubt = code_doubt(space, probe, slot, distance, metric, query_square)
            if distance - doubt > furthest:
                continue
        found[kept] = found[i]
        kept += 1
    return kept


@kernel
def search_cells(
    kind, code_bytes, constants_at, query_bytes, mean, centroids, centroid_bytes, bias, starts,
    sizes, extremes, numbers, codes, vectors, queries, metric, mask, use_mask, nprobe, enough,
    kept, rerank, rows, distances, counts,
):  # fmt: skip
    """Answer each of `queries` (n_queries, dim) from the rows of the cells nearest to it.

    Rows by code that may be among the k nearest, but in one case of a thousand, are measured
    again exactly: so the answer is about the exact one of those cells.

    Parameters
    ----------
    kind, code_bytes, constants_at, query_bytes, mean
        Of the rows' quantizer; with FLOATS of the centroids'.
    centroids, centroid_bytes, bias
        See `rank_cells`.
    extremes : float32 array of shape (nlist, 2)
        Of `measure_extremes`.
    vectors : float32 array of shape (n, dim)
        The rows as they are, by number; with FLOATS the rows by slot, (slots, stride).
    mask : bool array of shape (n,)
        Rows that may be answered, if `use_mask`.
    nprobe : int
        Cells to look into, at least one.
    enough : int
        Further cells are looked into until so many rows passed the mask, while there are any.
    kept : int
        Rows to find at most, at least one.
    rerank : int
        How many rows are measured exactly at most; those nearest by code.
    rows, distances : int64 and float32 arrays of shape (n_queries, k)
        Output, padded with -1 and inf; ties go to the lower row.
    counts : int64 array of shape (n_queries, 4)
        Output: cells as HOPS, rows measured as COMPARISONS, and rows that PASS the mask.
    """
    dim = mean.shape[0]
    row_floats = vectors.shape[1]
    base = vectors.ctypes.data
    code_base = codes.ctypes.data
    space = Q8Space(codes, constants_at, dim)
    values = np.empty(dim, np.float32)
    query = np.zeros(row_floats, np.float32)
    prepared = np.zeros(query_bytes, np.uint8)
    probe = prepared.ctypes.data
    keys = np.empty(max(1, centroids.shape[0]), np.int64)
    heap = np.empty(kept, np.int64)
    best = np.empty(kept, np.int64)
    found = np.empty(BUFFER_KEYS, np.int64)
    for i in range(queries.shape[0]):
        square = wide_square(queries[i])
        scale = 1.0
        if metric == COSINE and square > 0.0:
            scale, square = 1.0 / math.sqrt(square), 1.0
        query_square = np.float32(square)
        for j in range(dim):
            query[j] = np.float32(queries[i, j] * scale)
        prepare_query(query, mean, metric, constants_at, values, prepared)
        step = load_float32(probe + constants_at + 8)
        step_square = step * step / np.float32(48.0 if metric == L2 else 12.0)
        length = load_float32(probe + constants_at)
        cells = rank_cells(probe, constants_at, centroid_bytes, centroids, bias, sizes, keys)
        wanted = min(nprobe, cells)
        order = nearest_cells(keys, cells, wanted)
        heaped, count, probes, passed = 0, 0, 0, 0
        while probes < cells and (probes < nprobe or passed < enough):
            if probes == order.shape[0]:
                sort_keys(keys, cells)
                order = keys
            cell = key_row(order[probes])
            start, stop = starts[cell], starts[cell] + sizes[cell]
            probes += 1
            if kind != FLOATS and probes < min(cells, order.shape[0]):
                ahead = starts[key_row(order[probes])]
                prefetch_span(code_base + ahead * codes.shape[1], CELL_AHEAD_BYTES)
            if count + stop - start > found.shape[0]:
                count = drop_hopeless(
                    kind, space, probe, metric, query_square, heap, heaped, found, count
                )
                if 2 * count + stop - start > found.shape[0]:
                    more = np.empty(2 * (count + stop - start), np.int64)
                    more[:count] = found[:count]
                    found = more
            variance, constant = ZERO, ZERO
            if kind != FLOATS:
                row_step, row_square = extremes[cell, 0], extremes[cell, 1]
                variance = row_step * row_step / np.float32(12.0)
                if metric == L2:
                    variance += step_square
                    constant = dim * variance + ROUNDING * (row_square + length)
                else:
                    variance = query_square * variance + row_square * step_square
                    constant = CERTAINTY * np.float32(math.sqrt(variance))
            heaped, count, through = scan_cell(
                kind, probe, code_bytes, codes, vectors, query, metric, numbers, mask, use_mask,
                start, stop, variance, constant, heap, heaped, found, count,
            )  # fmt: skip
            passed += through
        count = drop_hopeless(kind, space, probe, metric, query_square, heap, heaped, found, count)
        size = 0
        if kind == FLOATS:
            for j in range(count):
                slot = key_row(found[j])
                size = push_least(best, size, pack_key(key_distance(found[j]), numbers[slot]))
        else:
            if count > rerank:
                sort_keys(found, count)
                count = rerank
            for j in range(min(RERANK_AHEAD, count)):
                prefetch_row(base + numbers[key_row(found[j])] * row_floats * 4, row_floats * 4)
            for j in range(count):
                if j + RERANK_AHEAD < count:
                    row = np.int64(numbers[key_row(found[j + RERANK_AHEAD])])
                    prefetch_row(base + row * row_floats * 4, row_floats * 4)
                row = np.int64(numbers[key_row(found[j])])
                key = pack_key(exact_distance(query, vectors, row, metric), row)
                size = push_least(best, size, key)
        write_heap(best, size, rows[i], distances[i])
        counts[i, HOPS] = probes
        counts[i, COMPARISONS] = passed
        counts[i, PASS] = passed
