"""Range search of cells: those nearest to a query, for as long as they hold rows within a radius.

Conventions are those of `cellscan`.
"""

import math

import numpy as np

from luma_lab.kernels.blocks import FLOATS, LANES, LINE_BYTES, lowest_bit
from luma_lab.kernels.cellrank import nearest_cells, rank_cells
from luma_lab.kernels.cellscan import code_limit, doubt_of, measure_block, prepare_one
from luma_lab.kernels.clock import RERANK_NS, nanoseconds
from luma_lab.kernels.codewalk import RERANK_AHEAD, ROUNDING, exact_distance
from luma_lab.kernels.compile import kernel
from luma_lab.kernels.distance import COSINE, ONE, ZERO
from luma_lab.kernels.graph import COMPARISONS, HOPS, PASS
from luma_lab.kernels.prefetch import prefetch_row
from luma_lab.kernels.ranging import LEAST_ROOM, grown
from luma_lab.kernels.topk import key_distance, key_row, pack_key, push_least, sort_keys

RANKED_MORE = 4  # times as many cells are put in order where the first are not enough


@kernel
def keep_lanes(
    kind, probe, constants, blocks, metric, numbers, mask, use_mask, start, stop, limit,
    distances, found,
):  # fmt: skip
    """Put the keys (distance by code, row) up to `limit` of the rows in some slots into `found`.

    Parameters
    ----------
    start, stop : int
        Slots of one cell.
    distances : float32 array of shape (LANES,)
        Scratch.
    found : int64 array with room for all slots
        Output.

    Returns
    -------
    count, passed : int
        Keys found; rows that are in `mask`, if that is used.
    """
    lines = blocks.shape[1]
    count = 0
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
        block = blocks.ctypes.data + first // LANES * lines * LINE_BYTES
        wanted &= measure_block(
            kind, probe, constants, block, lines, metric, distances.ctypes.data, limit
        )
        while wanted:
            lane = lowest_bit(np.int32(wanted))
            wanted &= wanted - 1
            found[count] = pack_key(distances[lane], numbers[first + lane])
            count += 1
    return count, passed


@kernel
def limit_within(kind, metric, radius, variance, constant):
    """Return up to which distance, as blocks are measured, a row may be within the radius.

    variance, constant : of `cellscan.doubt_of`
    """
    if kind != FLOATS:
        return code_limit(metric, radius, variance, constant)
    return radius - ONE + ROUNDING if metric == COSINE else radius


@kernel
def measured(kind, query, vectors, key, metric):
    """Return the exact distance of a key of `keep_lanes` as users see it."""
    if kind != FLOATS:
        return exact_distance(query, vectors, key_row(key), metric)
    distance = key_distance(key)
    return max(ZERO, ONE + distance) if metric == COSINE else distance


@kernel
def range_cells(
    kind, constants_at, query_bytes, mean, centroids, bias, starts, sizes, extremes, numbers,
    blocks, vectors, queries, metric, mask, use_mask, nprobe, radius, limit, budget, found_sizes,
    counts,
):  # fmt: skip
    """Find the rows within a radius of each of `queries` in the cells nearest to it.

    Cells are looked into, the nearest first, until `nprobe` in a row held nothing within. What by
    its code may be within, but in one case of a thousand, is measured exactly.

    Parameters
    ----------
    nprobe : int
        At least one.
    radius : float32
        Of distances as users see them; rows at just this one are within.
    limit : int
        How many are kept for a query, the nearest ones; 0: all.
    budget : int
        Rows in cells after which a search is given up: a scan is cheaper.
    found_sizes : int64 array of shape (n_queries,)
        Output: how many there are of each query; -1 where the search was given up.

    The rest is as in `cellscan.search_cells`; of counts, PASS is how many were found.

    Returns
    -------
    int64 array
        The keys of each query's rows in any order, those of the first query first.
    """
    dim = mean.shape[0]
    nlist = sizes.shape[0]
    values, floats = np.empty(dim, np.float32), np.empty(dim, np.float32)
    prepared = np.zeros(query_bytes, np.uint8)
    doubts = np.empty(5, np.float32)
    gaps = np.empty(centroids.shape[0] * LANES, np.float32)
    ranked = np.empty(nlist, np.int64)
    lanes = np.empty(LANES, np.float32)
    widest = 0
    for cell in range(nlist):
        widest = max(widest, sizes[cell])
    found = np.empty(widest, np.int64)
    kept = np.empty(LEAST_ROOM, np.int64)
    base, row_bytes = vectors.ctypes.data, vectors.shape[1] * 4
    at = 0
    for i in range(queries.shape[0]):
        prepare_one(queries[i], mean, metric, constants_at, values, floats, prepared, doubts)
        address = prepared.ctypes.data
        probe = floats.ctypes.data if kind == FLOATS else address
        length = np.float32(math.sqrt(doubts[1]))
        holding = rank_cells(address, address + constants_at, centroids, length, bias, sizes, gaps)
        ready, place, missed, looked, size, again = 0, 0, 0, 0, 0, 0
        bound = radius
        while place < holding and missed < nprobe:
            if place == ready:
                ready = min(holding, max(nprobe + 1, RANKED_MORE * ready))
                nearest_cells(gaps, nlist, ready, ranked)
                sort_keys(ranked, ready)
            cell = key_row(ranked[place])
            start, stop = starts[cell], starts[cell] + sizes[cell]
            looked += stop - start
            if looked > budget:
                size = -1
                break
            place += 1
            variance, constant = doubt_of(metric, extremes[cell, 0], extremes[cell, 1], doubts)
            count, passed = keep_lanes(
                kind, probe, address + constants_at, blocks, metric, numbers, mask, use_mask,
                start, stop, limit_within(kind, metric, bound, variance, constant), lanes, found,
            )  # fmt: skip
            counts[i, COMPARISONS] += passed
            begun = nanoseconds() if count > 0 else 0
            more = size + count if limit == 0 else min(limit, size + count)
            if at + more > kept.shape[0]:
                kept = grown(kept, at + more)
            heap = kept[at : at + more]
            before = again
            for j in range(count):
                if kind != FLOATS and j + RERANK_AHEAD < count:
                    prefetch_row(base + key_row(found[j + RERANK_AHEAD]) * row_bytes, row_bytes)
                distance = measured(kind, floats, vectors, found[j], metric)
                if not distance <= bound:
                    continue
                again += 1
                key = pack_key(distance, key_row(found[j]))
                if limit == 0:
                    heap[size] = key
                    size += 1
                    continue
                size = push_least(heap, size, key)
                if size == limit:
                    # What is no nearer than the last of them could not stay.
                    bound = min(bound, key_distance(heap[0]))
            if count > 0:
                counts[i, RERANK_NS] += nanoseconds() - begun
            missed = missed + 1 if again == before else 0
        counts[i, HOPS] = place
        counts[i, PASS] = max(0, size)
        found_sizes[i] = size
        at += max(0, size)
    return kept[:at]
