"""Search by codes: walk over bytes, then put the best in order by their exact distances."""

import math

import numpy as np

from luma_lab.kernels.addresses import bytes_there, floats_there, words_there
from luma_lab.kernels.blocks import LANES, lowest_bit
from luma_lab.kernels.clock import RERANK_NS, nanoseconds
from luma_lab.kernels.compile import kernel
from luma_lab.kernels.distance import (
    COSINE,
    DOT,
    L2,
    LARGEST_SQUARE,
    ZERO,
    cosine_distance,
    dot,
    dot_and_square,
    squared_l2,
    wide_square,
)
from luma_lab.kernels.graph import (
    COMPARISONS,
    HOPS,
    PASS,
    filtered_search,
    greedy_search,
    passes,
)
from luma_lab.kernels.int8 import load_float32
from luma_lab.kernels.prefetch import prefetch_row
from luma_lab.kernels.quantize import ROW_CONSTANT_BYTES, extent, prepare_query
from luma_lab.kernels.scattered import ROWS_AT_ONCE, measure_q8_rows, near_bits
from luma_lab.kernels.space import Q8Space, distance_to, prefetch_node
from luma_lab.kernels.topk import (
    INFINITE,
    key_distance,
    key_row,
    limit_of_least,
    pack_key,
    push_least,
    sort_heap,
    write_heap,
)

MEASURED_AT_ONCE = 2048  # distances by code, in the nearest cache
FAR_BYTES = 1 << 19  # half of a usual second level of cache
RERANK_AHEAD = 10  # rows of exact vectors asked for before they are needed
CERTAINTY = np.float32(3.0)  # standard deviations a code's distance is believed to be wrong by

# A scan that left in doubt what is nearest keeps so many times more rows, up to one in so many.
MORE_KEPT = 8
LEAST_KEPT_SHARE = 4
ROUNDING = np.float32(2.0**-21)  # of float32 sums of a few terms


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
def code_doubt(space, probe, node, distance, metric, query_square):
    """Return how much nearer a node may be than its code says, but in one case of a thousand.

    Rounding moves each component of row and query by up to half a step of its own grid, evenly:
    by a variance of step^2 / 12. What that does to an inner product with a vector z has the
    variance |z|^2 step^2 / 12; to a squared distance that of an inner product with twice the
    difference, and it adds dim variances on average. Then there is what is lost in float32 where
    two long vectors are near each other.

    Parameters
    ----------
    distance : float32
        By the code, as users see distances.
    query_square : float32
        The squared length of the query.
    """
    row = space.codes.ctypes.data + (node + 1) * space.codes.shape[1] - ROW_CONSTANT_BYTES
    row_step, row_square = load_float32(row), load_float32(row + 8)
    query_step = load_float32(probe + space.code_bytes + 8)
    query_step *= query_step / np.float32(4.0 if metric == L2 else 1.0)
    row_step *= row_step
    if metric == L2:
        variance = (row_step + query_step) / np.float32(12.0)
        spread = np.float32(2.0) * np.float32(math.sqrt(max(distance, ZERO) * variance))
        cancelled = ROUNDING * (row_square + load_float32(probe + space.code_bytes))
        return CERTAINTY * spread + space.dim * variance + cancelled
    variance = (row_square * query_step + query_square * row_step) / np.float32(12.0)
    return CERTAINTY * np.float32(math.sqrt(variance))


@kernel
def prepare_point(query, mean, metric, code_bytes, point, prepared):
    """Write a query as exact distances take it into point[0], and as codes do into `prepared`.

    Returns its squared length as distances see it, float32; infinity, and writes nothing, where
    it has NaN or infinity or is longer than distances allow.

    Parameters
    ----------
    query : float32 array of shape (dim,)
    point : float32 array of shape (2, dim)
        The second row is scratch.
    """
    square = wide_square(query)
    if not square <= LARGEST_SQUARE:
        return np.float32(np.inf)
    scale = 1.0
    if metric == COSINE and square > 0.0:
        scale, square = 1.0 / math.sqrt(square), 1.0
    for j in range(mean.shape[0]):
        point[0, j] = np.float32(query[j] * scale)
    prepare_query(point[0], mean, metric, code_bytes, point[1], prepared)
    return np.float32(square)


@kernel
def look_again(space, probe, query, query_square, vectors, metric, best, passed, heap, rerank):
    """Put the nearest of best[:passed] by exact distance into `heap`; return (found, settled).

    best : int64 array
        Keys by code distance, ascending.
    heap : int64 array of shape (k,) at most
    rerank : int
        How many are looked at at least; then as many as may still belong to the nearest.
    settled : bool
        Whether the codes rule out what comes behind best[:passed].
    """
    base = vectors.ctypes.data
    row_bytes = vectors.shape[1] * 4
    found = 0
    for j in range(min(RERANK_AHEAD, passed)):
        prefetch_row(base + key_row(best[j]) * row_bytes, row_bytes)
    for j in range(passed):
        row = key_row(best[j])
        if j >= rerank:
            nearest = key_distance(best[j])
            nearest -= code_doubt(space, probe, row, nearest, metric, query_square)
            if nearest > key_distance(heap[0]):
                return found, True
        if j + RERANK_AHEAD < passed:
            prefetch_row(base + key_row(best[j + RERANK_AHEAD]) * row_bytes, row_bytes)
        key = pack_key(exact_distance(query, vectors, row, metric), row)
        found = push_least(heap, found, key)
    return found, False


@kernel
def search_codes(
    space, mean, queries, vectors, neighbors, entry, metric, mask, wanted, least, rerank,
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
        How many of the walk's best are looked at again at least, if there are so many; more
        are while their codes leave it open whether they belong to the k nearest.
    point : float32 array of shape (2, dim)
        Scratch.
    prepared : uint8 array of shape (query_bytes,)
        Scratch.

    The rest is as in `graph.search_batch`; counts get the nanoseconds of the second look too.

    Returns
    -------
    int
        The first query that is not finite or too long, which ended the search; -1 without one.
    """
    best = np.empty(keys.shape[0], np.int64)
    heap = np.empty(min(rows.shape[1], keys.shape[0]), np.int64)
    for i in range(queries.shape[0]):
        square = prepare_point(queries[i], mean, metric, space.code_bytes, point, prepared)
        if square == np.inf:
            return i
        probe = prepared.ctypes.data
        if wanted > 0:
            size, hops, comparisons = filtered_search(
                space, probe, neighbors, entry, mask, wanted, least, keys, fresh, seen, epoch,
                max(rerank, wanted >> 1),
            )  # fmt: skip
        else:
            size, hops, comparisons = greedy_search(
                space, probe, neighbors, entry, keys, fresh, seen, epoch, no_record,
                max(rerank, keys.shape[0] >> 1),
            )  # fmt: skip
        passed = 0
        for j in range(size):
            if wanted == 0 or passes(mask, key_row(keys[j])):
                best[passed] = keys[j]
                passed += 1
        begun = nanoseconds()
        found, _ = look_again(
            space, probe, point[0], square, vectors, metric, best, passed, heap, rerank
        )
        counts[i, RERANK_NS] = nanoseconds() - begun
        write_heap(heap, found, rows[i], distances[i])
        counts[i, HOPS] = hops
        counts[i, COMPARISONS] = comparisons
        counts[i, PASS] = passed
    return -1


@kernel
def search_addresses(
    nodes, neighbors, entry, queries, mask, wanted, least, list_size, scratch, rows, distances,
    counts,
):  # fmt: skip
    """Search as `search_codes` does, looking at rows.shape[1] rows again at least.

    Parameters
    ----------
    nodes : int64 array
        `addresses_of` codes (n, row_bytes), n, row_bytes, code_bytes, mean (dim,), dim,
        vectors (n, dim), metric.
    list_size : int
    scratch : int64 array
        `addresses_of` fresh (degree,), degree, seen (n,), n, epoch (1,), point (2, dim), dim,
        prepared (query_bytes,), query_bytes.

    Returns
    -------
    int
        The first query that is not finite or too long, which ended the search; -1 without one.
    """
    space = Q8Space(bytes_there(nodes[0], (nodes[1], nodes[2])), nodes[3], nodes[5])
    return search_codes(
        space,
        floats_there(nodes[4], (nodes[5],)),
        queries,
        floats_there(nodes[6], (nodes[1], nodes[5])),
        neighbors,
        entry,
        nodes[7],
        mask,
        wanted,
        least,
        rows.shape[1],
        np.empty(list_size, np.int64),
        words_there(scratch[0], (scratch[1],)),
        bytes_there(scratch[2], (scratch[3],)),
        words_there(scratch[4], (1,)),
        np.empty(0, np.int64),
        floats_there(scratch[5], (2, scratch[6])),
        bytes_there(scratch[7], (scratch[8],)),
        rows,
        distances,
        counts,
    )


@kernel
def measure_rows(space, probe, chosen, distances):
    """Write the distances by code of the `chosen` rows, and infinity behind them.

    distances : float32 array, `chosen` rounded up to a multiple of `LANES` long
    """
    count = chosen.shape[0]
    whole = count - count % ROWS_AT_ONCE
    # What is no longer than this is likely in the cache since the last query with these rows.
    is_far = count * space.codes.shape[1] > FAR_BYTES
    for first in range(0, whole, ROWS_AT_ONCE):
        if is_far:
            for j in range(first + ROWS_AT_ONCE, min(first + 2 * ROWS_AT_ONCE, count)):
                prefetch_node(space, chosen[j])
        measure_q8_rows(
            probe, probe + space.code_bytes, space.codes.ctypes.data, space.codes.shape[1],
            space.code_bytes, chosen.ctypes.data + 8 * first, distances.ctypes.data + 4 * first,
        )  # fmt: skip
    for j in range(whole, count):
        distances[j] = distance_to(space, probe, chosen[j])
    distances[count:] = np.inf


@kernel
def keep_nearest(space, probe, chosen, best, distances):
    """Put the keys of the nearest of the `chosen` rows by code into `best`; return how many.

    distances : float32 array, a multiple of `LANES` long
        Scratch.
    """
    size = 0
    for first in range(0, chosen.shape[0], distances.shape[0]):
        rows = chosen[first : first + distances.shape[0]]
        room = (rows.shape[0] + LANES - 1) // LANES * LANES
        measure_rows(space, probe, rows, distances[:room])
        limit = INFINITE
        if size == best.shape[0]:
            limit = key_distance(best[0])
        elif rows.shape[0] > best.shape[0]:
            least, largest = extent(distances[: rows.shape[0]])
            limit = limit_of_least(distances[:room], least, largest, best.shape[0])
        for j in range(0, room, LANES):
            near = near_bits(distances.ctypes.data + 4 * j, limit)
            while near:
                lane = j + lowest_bit(near)
                near &= near - 1
                if lane < rows.shape[0]:
                    size = push_least(best, size, pack_key(distances[lane], rows[lane]))
    sort_heap(best, size)
    return size


@kernel
def scan_among(
    space, mean, queries, vectors, chosen, metric, rerank, best, point, prepared, rows, distances
):
    """Find the nearest of the `chosen` rows to each query by codes and an exact second look.

    Where the codes leave open whether more than `best` holds belong to the nearest, the scan is
    done again with more room, and once that would be much all chosen rows are compared exactly.
    Ties go to the lower row.

    Parameters
    ----------
    chosen : int64 array
        Ascending row numbers.
    best : int64 array
        Scratch; its length is how many are kept by code, more than k.
    rows, distances : int64 and float32 arrays of shape (n_queries, k)
        Output, padded with -1 and inf.

    The rest, and what is returned, is as in `search_codes`.
    """
    heap = np.empty(min(rows.shape[1], chosen.shape[0]), np.int64)
    measured = np.empty(MEASURED_AT_ONCE, np.float32)
    for i in range(queries.shape[0]):
        square = prepare_point(queries[i], mean, metric, space.code_bytes, point, prepared)
        if square == np.inf:
            return i
        probe = prepared.ctypes.data
        kept = best
        while True:
            size = keep_nearest(space, probe, chosen, kept, measured)
            found, settled = look_again(
                space, probe, point[0], square, vectors, metric, kept, size, heap, rerank
            )
            if settled or size == chosen.shape[0]:
                break
            if kept.shape[0] * MORE_KEPT * LEAST_KEPT_SHARE > chosen.shape[0]:
                found = 0
                for j in range(chosen.shape[0]):
                    key = pack_key(exact_distance(point[0], vectors, chosen[j], metric), chosen[j])
                    found = push_least(heap, found, key)
                break
            kept = np.empty(kept.shape[0] * MORE_KEPT, np.int64)
        write_heap(heap, found, rows[i], distances[i])
    return -1


@kernel
def scan_addresses(nodes, queries, chosen, room, scratch, rows, distances):
    """Scan as `scan_among` does, with `room` for rows kept by code.

    The arguments nodes and scratch, and what is returned, are as in `search_addresses`.
    """
    space = Q8Space(bytes_there(nodes[0], (nodes[1], nodes[2])), nodes[3], nodes[5])
    return scan_among(
        space,
        floats_there(nodes[4], (nodes[5],)),
        queries,
        floats_there(nodes[6], (nodes[1], nodes[5])),
        chosen,
        nodes[7],
        rows.shape[1],
        np.empty(room, np.int64),
        floats_there(scratch[5], (2, scratch[6])),
        bytes_there(scratch[7], (scratch[8],)),
        rows,
        distances,
    )
