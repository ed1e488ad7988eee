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
    measure_float_block,
    measure_q4_block,
    measure_q8_block,
)
from luma_lab.kernels.codescan import write_heap
from luma_lab.kernels.codewalk import CERTAINTY, RERANK_AHEAD, ROUNDING, exact_distance
from luma_lab.kernels.compile import kernel
from luma_lab.kernels.distance import COSINE, L2, ONE, ZERO, wide_square
from luma_lab.kernels.graph import COMPARISONS, HOPS, PASS
from luma_lab.kernels.int8 import load_float32
from luma_lab.kernels.prefetch import prefetch_row, prefetch_span
from luma_lab.kernels.quantize import Q8, prepare_query
from luma_lab.kernels.topk import (
    INFINITE,
    key_distance,
    key_row,
    pack_key,
    push_least,
    sort_keys,
)

BUFFER_KEYS = 1024
BUCKETS = 128


@kernel(inline=True)
def measure_block(kind, probe, constants, block, lines, metric, out, limit):
    """Measure the rows of a block of any kind, see `kernels.blocks`."""
    if kind == Q8:
        return measure_q8_block(probe, constants, block, lines - CONSTANT_LINES, out, limit)
    if kind != FLOATS:
        return measure_q4_block(probe, constants, block, lines - CONSTANT_LINES, out, limit)
    return measure_float_block(probe, block, lines, out, limit, metric == L2)


@kernel
def rank_cells(probe, constants, centroids, bias, sizes, distances):
    """Write the distances of all cells from the query, inf for those without rows.

    Parameters
    ----------
    centroids : uint32 array of shape (blocks, lines, LANES)
        Q8 codes.
    bias : float32 array of shape (nlist,)
        Added to the distance of each.
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
        distances[c] += bias[c]
        if sizes[c] == 0:
            distances[c] = INFINITE
        else:
            count += 1
    return count


@kernel
def nearest_cells(distances, nlist, wanted, keys):
    """Write the keys of the `wanted` nearest cells in front of `keys`, ascending.

    All of distances[:nlist] are sorted only if `wanted` are not found among those below the
    mean, by a count of how many there are in each of some buckets.
    """
    least, total, finite = INFINITE, 0.0, 0
    for c in range(nlist):
        if distances[c] < INFINITE:
            least = min(least, distances[c])
            total += np.float64(distances[c])
            finite += 1
    width = np.float32(total / max(1, finite)) - least
    last = BUCKETS
    if width > ZERO:
        scale = np.float32(BUCKETS) / width
        counts = np.zeros(BUCKETS + 1, np.int64)
        for c in range(nlist):
            place = min((distances[c] - least) * scale, np.float32(BUCKETS))
            counts[np.int64(place)] += 1
        below = 0
        for bucket in range(BUCKETS):
            below += counts[bucket]
            if below >= wanted:
                last = bucket
                break
    size = 0
    for c in range(nlist):
        if last < BUCKETS:
            place = min((distances[c] - least) * scale, np.float32(BUCKETS))
            if np.int64(place) > last:
                continue
        keys[size] = pack_key(distances[c], c)
        size += 1
    sort_keys(keys, size)


@kernel(inline=True)
def code_limit(metric, furthest, variance, constant):
    """Return up to which distance by code a row may belong to those nearer than `furthest`.

    Rounding moves each component of row and query by up to half a step of its own grid, evenly:
    by a variance of step^2 / 12. What that does to an inner product with a vector z has the
    variance |z|^2 step^2 / 12; to a squared distance that of an inner product with twice the
    difference, and it adds dim variances on average. `CERTAINTY` standard deviations are
    allowed for: see `codewalk.code_doubt`, which this is the inverse of.

    variance, constant : of `doubt_of`
    """
    if metric != L2:
        return furthest + constant
    spread = CERTAINTY * np.float32(math.sqrt(variance))
    root = np.float32(math.sqrt(spread * spread + max(ZERO, furthest + constant)))
    return max(furthest, (spread + root) * (spread + root))


@kernel(inline=True)
def doubt_of(metric, dim, row_step, row_square, step_share, query_square, base):
    """Return (variance, constant) of what rounding does to the distance of a row.

    Parameters
    ----------
    row_step, row_square : float32
        Step and squared length of its code.
    step_share : float32
        A twelfth of the square of the query's step.
    query_square : float32
        Squared length of the query.
    base : float32
        The first constant of the prepared query: its squared length under L2.
    """
    variance = row_step * row_step / np.float32(12.0)
    if metric == L2:
        variance += step_share
        return variance, dim * variance + ROUNDING * (row_square + base)
    variance = query_square * variance + row_square * step_share
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
        Address of the next cell's blocks: they are asked for meanwhile.
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
        prefetch_span(ahead + (first - start) // LANES * block_bytes, block_bytes)
        block = blocks.ctypes.data + first // LANES * block_bytes
        wanted &= measure_block(kind, probe, constants, block, lines, metric, out, limit)
        if wanted == 0:
            continue
        for lane in range(size):
            distance = distances[lane]
            if (wanted >> lane) & 1 == 0 or distance > limit:
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
def drop_hopeless(
    kind, blocks, metric, dim, step_share, query_square, base, heap, heaped, found, count
):
    """Keep, of found[:count], the keys that may be among the k nearest; return how many."""
    if heaped < heap.shape[0]:
        return count
    furthest = key_distance(heap[0])
    lines = blocks.shape[1]
    kept = 0
    for i in range(count):
        distance = key_distance(found[i])
        if distance > furthest:
            if kind == FLOATS:
                continue
            slot = key_row(found[i])
            line = blocks.ctypes.data + (slot // LANES * lines + lines) * LINE_BYTES
            line += 4 * (slot % LANES) - CONSTANT_LINES * LINE_BYTES
            variance, constant = doubt_of(
                metric, dim, load_float32(line), load_float32(line + 2 * LINE_BYTES), step_share,
                query_square, base,
            )  # fmt: skip
            if distance > code_limit(metric, furthest, variance, constant):
                continue
        found[kept] = found[i]
        kept += 1
    return kept


@kernel
def search_cells(
    kind, constants_at, query_bytes, mean, centroids, bias, starts, sizes, extremes, numbers,
    blocks, vectors, queries, metric, mask, use_mask, nprobe, enough, kept, rerank,
    rows, distances, counts,
):  # fmt: skip
    """Answer each of `queries` (n_queries, dim) from the rows of the cells nearest to it.

    Rows that by their codes may be among the k nearest, but in one case of a thousand, are
    measured again exactly: so the answer is about the exact one of those cells.

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
        Output: cells as HOPS, rows measured as COMPARISONS, and rows that PASS the mask.
    """
    dim = mean.shape[0]
    base = vectors.ctypes.data
    block_bytes = blocks.shape[1] * LINE_BYTES
    values = np.empty(dim, np.float32)
    query = np.empty(dim, np.float32)
    prepared = np.zeros(query_bytes, np.uint8)
    constants = prepared.ctypes.data + constants_at
    probe = query.ctypes.data if kind == FLOATS else prepared.ctypes.data
    gaps = np.empty(centroids.shape[0] * LANES, np.float32)
    keys = np.empty(gaps.shape[0], np.int64)
    lanes = np.empty(LANES, np.float32)
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
        step = load_float32(constants + 8)
        step_share = step * step / np.float32(48.0 if metric == L2 else 12.0)
        length = load_float32(constants)
        cells = rank_cells(prepared.ctypes.data, constants, centroids, bias, sizes, gaps)
        ranked = min(nprobe, cells)
        nearest_cells(gaps, sizes.shape[0], ranked, keys)
        heaped, count, probes, passed = 0, 0, 0, 0
        while probes < cells and (probes < nprobe or passed < enough):
            if probes == ranked:
                ranked = min(cells, 4 * ranked)
                nearest_cells(gaps, sizes.shape[0], ranked, keys)
            cell = key_row(keys[probes])
            start, stop = starts[cell], starts[cell] + sizes[cell]
            probes += 1
            ahead = blocks.ctypes.data
            if probes < ranked:
                ahead += starts[key_row(keys[probes])] // LANES * block_bytes
            if count + stop - start > found.shape[0]:
                count = drop_hopeless(
                    kind, blocks, metric, dim, step_share, query_square, length, heap, heaped,
                    found, count,
                )  # fmt: skip
                if 2 * count + stop - start > found.shape[0]:
                    more = np.empty(2 * (count + stop - start), np.int64)
                    for j in range(count):
                        more[j] = found[j]
                    found = more
            variance, constant = doubt_of(
                metric, dim, extremes[cell, 0], extremes[cell, 1], step_share, query_square, length
            )
            heaped, count, through = scan_cell(
                kind, probe, constants, blocks, metric, numbers, mask, use_mask, start, stop,
                ahead, variance, constant, lanes, heap, heaped, found, count,
            )  # fmt: skip
            passed += through
        count = drop_hopeless(
            kind, blocks, metric, dim, step_share, query_square, length, heap, heaped, found, count
        )
        size = 0
        if kind == FLOATS:
            for j in range(count):
                distance = key_distance(found[j])
                if metric == COSINE:
                    distance = max(ZERO, ONE + distance)
                size = push_least(best, size, pack_key(distance, numbers[key_row(found[j])]))
        else:
            if count > rerank:
                sort_keys(found, count)
                count = rerank
            for j in range(-RERANK_AHEAD, count):
                if j + RERANK_AHEAD < count:
                    row = np.int64(numbers[key_row(found[j + RERANK_AHEAD])])
                    prefetch_row(base + row * dim * 4, dim * 4)
                if j >= 0:
                    row = np.int64(numbers[key_row(found[j])])
                    key = pack_key(exact_distance(query, vectors, row, metric), row)
                    size = push_least(best, size, key)
        write_heap(best, size, rows[i], distances[i])
        counts[i, HOPS] = probes
        counts[i, COMPARISONS] = passed
        counts[i, PASS] = passed
