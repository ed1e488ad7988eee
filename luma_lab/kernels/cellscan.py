"""Search of cells: the nearest cells by codes, their rows by codes, the best by exact distance.

Shared conventions
------------------
slots    places of rows; those of a cell lie together, from starts[c] (a multiple of LANES) to
         starts[c] + sizes[c]
numbers  int32 (slots,); the row in each slot
blocks   uint32 (slots / LANES, lines, LANES); 16 slots each, see `kernels.blocks`: codes of
         `quantize`, or with kind FLOATS float32 rows, of length one under COSINE
"""

import math

import numpy as np

from luma_lab.kernels.blocks import (
    CONSTANT_LINES,
    FLOATS,
    LANES,
    LINE_BYTES,
    lowest_bit,
    measure_float_block,
    measure_q4_block,
    measure_q8_block,
)
from luma_lab.kernels.cellrank import group_pairs, nearest_cells, rank_cells
from luma_lab.kernels.clock import RERANK_NS, nanoseconds
from luma_lab.kernels.codewalk import CERTAINTY, RERANK_AHEAD, ROUNDING, exact_distance
from luma_lab.kernels.compile import kernel
from luma_lab.kernels.distance import COSINE, L2, ONE, ZERO, wide_square
from luma_lab.kernels.graph import COMPARISONS, HOPS, PASS
from luma_lab.kernels.int8 import load_float32
from luma_lab.kernels.prefetch import prefetch_row, prefetch_span
from luma_lab.kernels.quantize import Q8, prepare_query
from luma_lab.kernels.topk import (
    INFINITE,
    LOWER_HALF,
    key_distance,
    key_row,
    pack_key,
    push_least,
    sort_keys,
    write_heap,
)

GROUP = 512  # queries that share the cells they look into while these are in the cache
GROUP_KEYS = 1 << 20  # of all queries of a group at most
BUFFER_KEYS = 256
HEAPED, FOUND, PASSED, PROBED, TALLIES = 0, 1, 2, 3, 4
NO_LIMIT = 1 << 62


@kernel(inline=True)
def measure_block(kind, probe, constants, block, lines, metric, out, limit):
    """Measure the rows of a block of any kind, see `kernels.blocks`."""
    if kind == Q8:
        return measure_q8_block(probe, constants, block, lines - CONSTANT_LINES, out, limit)
    if kind != FLOATS:
        return measure_q4_block(probe, constants, block, lines - CONSTANT_LINES, out, limit)
    return measure_float_block(probe, block, lines, out, limit, metric == L2)


@kernel(inline=True)
def code_limit(metric, furthest, variance, constant):
    """Return up to which distance by code a row may belong to those nearer than `furthest`.

    Rounding moves each component of row and query by up to half a step of its own grid, evenly:
    by a variance of step^2 / 12. What that does to an inner product with a vector z has the
    variance |z|^2 step^2 / 12; to a squared distance that of an inner product with twice the
    difference. (What it adds on average is taken off squared lengths, see `index.lanes`.)
    `CERTAINTY` standard deviations are allowed for, and what is lost in float32 where two long
    vectors are near each other: see `codewalk.code_doubt`, which this is the inverse of.

    variance, constant : of `doubt_of`
    """
    if metric != L2:
        return furthest + constant
    spread = CERTAINTY * np.float32(math.sqrt(variance))
    root = np.float32(math.sqrt(spread * spread + max(ZERO, furthest + constant)))
    return max(furthest, (spread + root) * (spread + root))


@kernel(inline=True)
def doubt_of(metric, row_step, row_square, doubts):
    """Return (variance, constant) of what rounding does to the distance of a row.

    Parameters
    ----------
    row_step, row_square : float32
        Step and squared length of its code.
    doubts : float32 array of shape (5,)
        Of the query: a twelfth of its squared step, its squared length, that as prepared, and
        the largest variance and constant of the cells it looked into.
    """
    variance = row_step * row_step / np.float32(12.0)
    if metric == L2:
        variance += doubts[0]
        return variance, ROUNDING * (row_square + doubts[2])
    variance = doubts[1] * variance + row_square * doubts[0]
    return variance, CERTAINTY * np.float32(math.sqrt(variance))


@kernel
def scan_cell(
    kind, probe, constants, blocks, metric, numbers, mask, use_mask, start, stop, ahead,
    variance, constant, distances, heap, heaped, found, count,
):  # fmt: skip
    """Measure the rows in slots `start` to `stop`; keep those that may be among the nearest.

    Parameters
    ----------
    ahead : int
        Address of the next cell's blocks: they are asked for meanwhile. 0 stands for none.
    variance, constant : float32
        Of `doubt_of`, for all rows of the cell.
    distances : float32 array of shape (LANES,)
        Scratch.
    heap : int64 array of shape (k,)
        The least keys (distance by code, slot) so far, `heaped` of them.
    found : int64 array, with room for all slots
        Keys that may be among the k nearest, `count` of them.

    Returns
    -------
    heaped, count, passed : int
        `passed` rows are in `mask`, if that is used.
    """
    lines = blocks.shape[1]
    block_bytes = lines * LINE_BYTES
    out = distances.ctypes.data
    limit = INFINITE
    if heaped == heap.shape[0]:
        limit = key_distance(heap[0])
        if kind != FLOATS:
            limit = code_limit(metric, limit, variance, constant)
    passed = stop - start
    for first in range(start, stop, LANES):
        size = min(LANES, stop - first)
        wanted = (1 << size) - 1
        if use_mask:
            for lane in range(size):
                if not mask[numbers[first + lane]]:
                    wanted ^= 1 << lane
                    passed -= 1
            if wanted == 0:
                continue
        if ahead:
            prefetch_span(ahead + (first - start) // LANES * block_bytes, block_bytes)
        block = blocks.ctypes.data + first // LANES * block_bytes
        wanted &= measure_block(kind, probe, constants, block, lines, metric, out, limit)
        while wanted:
            lane = lowest_bit(np.int32(wanted))
            wanted &= wanted - 1
            distance = distances[lane]
            if distance > limit:
                continue
            key = pack_key(distance, first + lane)
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
def drop_hopeless(kind, blocks, metric, doubts, heap, heaped, found, count):
    """Keep, of found[:count], the keys that may be among the k nearest; return how many."""
    if heaped < heap.shape[0]:
        return count
    furthest = key_distance(heap[0])
    limit = furthest
    if kind != FLOATS:
        limit = code_limit(metric, furthest, doubts[3], doubts[4])
    lines = blocks.shape[1]
    kept = 0
    for i in range(count):
        distance = key_distance(found[i])
        if distance > limit:
            continue
        if distance > furthest:
            slot = key_row(found[i])
            line = blocks.ctypes.data + (slot // LANES * lines + lines) * LINE_BYTES
            line += 4 * (slot % LANES) - CONSTANT_LINES * LINE_BYTES
            variance, constant = doubt_of(
                metric, load_float32(line), load_float32(line + 2 * LINE_BYTES), doubts
            )
            if distance > code_limit(metric, furthest, variance, constant):
                continue
        found[kept] = found[i]
        kept += 1
    return kept


@kernel
def with_room(found, needed):
    """Return `found` (queries, keys) with room for `needed` keys a query, copied if it is new."""
    more = np.empty((found.shape[0], 2 * needed), np.int64)
    for i in range(found.shape[0]):
        for j in range(found.shape[1]):
            more[i, j] = found[i, j]
    return more


@kernel
def finish_query(kind, query, metric, vectors, numbers, rerank, found, count, best):
    """Leave the nearest of the rows in found[:count] in the heap `best`; return how many.

    query : float32 array of shape (dim,)
    """
    size = 0
    if kind == FLOATS:
        for j in range(count):
            distance = key_distance(found[j])
            if metric == COSINE:
                distance = max(ZERO, ONE + distance)
            size = push_least(best, size, pack_key(distance, numbers[key_row(found[j])]))
        return size
    if count > rerank:
        sort_keys(found, count)
        count = rerank
    base = vectors.ctypes.data
    row_bytes = vectors.shape[1] * 4
    for j in range(-RERANK_AHEAD, count):
        if j + RERANK_AHEAD < count:
            row = np.int64(numbers[key_row(found[j + RERANK_AHEAD])])
            prefetch_row(base + row * row_bytes, row_bytes)
        if j >= 0:
            row = np.int64(numbers[key_row(found[j])])
            size = push_least(
                best, size, pack_key(exact_distance(query, vectors, row, metric), row)
            )
    return size


@kernel
def prepare_one(query, mean, metric, constants_at, values, floats, prepared, doubts):
    """Write a query as floats (dim,), of length one under COSINE, and as `prepared` bytes.

    doubts : float32 array of shape (5,)
        Output: what `doubt_of` wants to know of the query.
    """
    square = wide_square(query)
    scale = 1.0
    if metric == COSINE and square > 0.0:
        scale, square = 1.0 / math.sqrt(square), 1.0
    for j in range(floats.shape[0]):
        floats[j] = np.float32(query[j] * scale)
    prepare_query(floats, mean, metric, constants_at, values, prepared)
    constants = prepared.ctypes.data + constants_at
    step = load_float32(constants + 8)
    doubts[0] = step * step / np.float32(48.0 if metric == L2 else 12.0)
    doubts[1] = np.float32(square)
    doubts[2] = load_float32(constants)
    doubts[3] = ZERO
    doubts[4] = ZERO


@kernel
def scan_pairs(
    kind, constants_at, floats, prepared, doubts, starts, sizes, extremes, numbers, blocks, metric,
    mask, use_mask, pairs, count, enough, lanes, heaps, found, tallies,
):  # fmt: skip
    """Let queries look into cells, by pairs[:count] of `group_pairs`.

    Parameters
    ----------
    enough : int
        Stop before the pair whose query has so many rows that passed the mask.
    heaps, found : int64 arrays of shape (queries, keys)
        See `scan_cell`.
    tallies : int64 array of shape (queries, TALLIES)
        Keys HEAPED and FOUND of each query, its cells PROBED, rows that PASSED the mask.

    Returns
    -------
    found : int64 array
        The same, or a longer one.
    """
    block_bytes = blocks.shape[1] * LINE_BYTES
    base = blocks.ctypes.data
    for p in range(count):
        cell, i = pairs[p] >> 32, pairs[p] & LOWER_HALF
        if tallies[i, PASSED] >= enough:
            break
        start, stop = starts[cell], starts[cell] + sizes[cell]
        ahead = 0
        if p + 1 < count and pairs[p + 1] >> 32 != cell:
            ahead = base + starts[pairs[p + 1] >> 32] // LANES * block_bytes
        size = tallies[i, FOUND]
        if size + stop - start > found.shape[1]:
            size = drop_hopeless(
                kind, blocks, metric, doubts[i], heaps[i], tallies[i, HEAPED], found[i], size
            )
            if 2 * size + stop - start > found.shape[1]:
                found = with_room(found, size + stop - start)
        variance, constant = doubt_of(metric, extremes[cell, 0], extremes[cell, 1], doubts[i])
        doubts[i, 3] = max(doubts[i, 3], variance)
        doubts[i, 4] = max(doubts[i, 4], constant)
        address = prepared[i].ctypes.data
        probe = floats[i].ctypes.data if kind == FLOATS else address
        heaped, size, passed = scan_cell(
            kind, probe, address + constants_at, blocks, metric, numbers, mask, use_mask, start,
            stop, ahead, variance, constant, lanes, heaps[i], tallies[i, HEAPED], found[i], size,
        )  # fmt: skip
        tallies[i, HEAPED] = heaped
        tallies[i, FOUND] = size
        tallies[i, PASSED] += passed
        tallies[i, PROBED] += 1
    return found


@kernel
def search_cells(
    kind, constants_at, query_bytes, mean, centroids, bias, starts, sizes, extremes, numbers,
    blocks, vectors, queries, metric, mask, use_mask, nprobe, enough, kept, rerank,
    rows, distances, counts,
):  # fmt: skip
    """Answer each of `queries` (n_queries, dim) from the rows of the cells nearest to it.

    Rows that by their codes may be among the k nearest, but in one case of a thousand, are
    measured again exactly: so the answer is about the exact one of those cells. Groups of
    queries look into a cell one after another, while it is in the cache; an answer depends
    neither on the group nor on the order.

    Parameters
    ----------
    kind, constants_at, query_bytes, mean
        Of the rows' quantizer; with FLOATS of the centroids'.
    centroids, bias
        See `rank_cells`.
    extremes : float32 array of shape (nlist, 2)
        At least the largest step and squared length of the codes of each cell.
    vectors : float32 array of shape (n, dim)
        The rows as they are, by number; not used with FLOATS.
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
        Output: cells as HOPS, rows measured as COMPARISONS, RERANK_NS, and rows that PASS the
        mask.
    """
    dim = mean.shape[0]
    nlist = sizes.shape[0]
    most = max(1, min(GROUP, queries.shape[0], GROUP_KEYS // (kept + BUFFER_KEYS)))
    columns = min(nprobe, nlist)
    values = np.empty(dim, np.float32)
    floats = np.empty((most, dim), np.float32)
    prepared = np.zeros((most, query_bytes), np.uint8)
    doubts = np.empty((most, 5), np.float32)
    gaps = np.empty(centroids.shape[0] * LANES, np.float32)
    ranked = np.empty(nlist, np.int64)
    keys = np.empty((most, columns), np.int64)
    cells = np.empty(most, np.int64)
    pairs = np.empty(max(most * columns, nlist), np.int64)
    places = np.empty(nlist + 1, np.int64)
    lanes = np.empty(LANES, np.float32)
    heaps = np.empty((most, kept), np.int64)
    best = np.empty(kept, np.int64)
    found = np.empty((most, BUFFER_KEYS), np.int64)
    tallies = np.empty((most, TALLIES), np.int64)
    for begin in range(0, queries.shape[0], most):
        group = min(most, queries.shape[0] - begin)
        for i in range(group):
            prepare_one(
                queries[begin + i], mean, metric, constants_at, values, floats[i], prepared[i],
                doubts[i],
            )  # fmt: skip
            address = prepared[i].ctypes.data
            length = np.float32(math.sqrt(doubts[i, 1]))
            holding = rank_cells(
                address, address + constants_at, centroids, length, bias, sizes, gaps
            )
            cells[i] = min(columns, holding)
            nearest_cells(gaps, nlist, cells[i], ranked)
            for j in range(cells[i]):
                keys[i, j] = ranked[j]
            for j in range(TALLIES):
                tallies[i, j] = 0
        if group == 1:
            for j in range(cells[0]):
                pairs[j] = key_row(keys[0, j]) << 32
            found = scan_pairs(
                kind, constants_at, floats, prepared, doubts, starts, sizes, extremes, numbers,
                blocks, metric, mask, use_mask, pairs, cells[0], NO_LIMIT, lanes, heaps, found,
                tallies,
            )  # fmt: skip
        else:
            # The nearest cell of each first: what is found there keeps out most of the rest.
            for first, last in ((0, 1), (1, columns)):
                count = group_pairs(keys[:group], first, last, cells, places, pairs)
                found = scan_pairs(
                    kind, constants_at, floats, prepared, doubts, starts, sizes, extremes,
                    numbers, blocks, metric, mask, use_mask, pairs, count, NO_LIMIT, lanes, heaps,
                    found, tallies,
                )  # fmt: skip
        for i in range(group):
            if tallies[i, PASSED] < enough and cells[i] == columns and columns < nlist:
                address = prepared[i].ctypes.data
                length = np.float32(math.sqrt(doubts[i, 1]))
                holding = rank_cells(
                    address, address + constants_at, centroids, length, bias, sizes, gaps
                )
                nearest_cells(gaps, nlist, holding, ranked)
                sort_keys(ranked, holding)
                for j in range(columns, holding):
                    pairs[j - columns] = (key_row(ranked[j]) << 32) | i
                found = scan_pairs(
                    kind, constants_at, floats, prepared, doubts, starts, sizes, extremes,
                    numbers, blocks, metric, mask, use_mask, pairs, holding - columns, enough,
                    lanes, heaps, found, tallies,
                )  # fmt: skip
            count = drop_hopeless(
                kind, blocks, metric, doubts[i], heaps[i], tallies[i, HEAPED], found[i],
                tallies[i, FOUND],
            )  # fmt: skip
            begun = nanoseconds()
            size = finish_query(
                kind, floats[i], metric, vectors, numbers, rerank, found[i], count, best
            )
            counts[begin + i, RERANK_NS] = nanoseconds() - begun
            write_heap(best, size, rows[begin + i], distances[begin + i])
            counts[begin + i, HOPS] = tallies[i, PROBED]
            counts[begin + i, COMPARISONS] = tallies[i, PASSED]
            counts[begin + i, PASS] = tallies[i, PASSED]
