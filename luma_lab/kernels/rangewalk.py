"""Range search by a graph: a walk to the query goes on through all it finds within a radius."""

import numpy as np
from numba.extending import overload

from luma_lab.kernels.clock import RERANK_NS, nanoseconds
from luma_lab.kernels.codewalk import RERANK_AHEAD, code_doubt, exact_distance, prepare_point
from luma_lab.kernels.compile import kernel
from luma_lab.kernels.distance import COSINE, ONE, ZERO
from luma_lab.kernels.graph import (
    COMPARISONS,
    HOPS,
    PASS,
    insert_key,
    next_epoch,
    passes,
    prefetch_edges,
    visit,
)
from luma_lab.kernels.prefetch import prefetch_row
from luma_lab.kernels.ranging import LEAST_ROOM, grown
from luma_lab.kernels.space import INLINED, FloatSpace, distance_to, probe_at
from luma_lab.kernels.topk import (
    EXPANDED,
    key_distance,
    key_row,
    pack_key,
    push_least,
    sift_down,
)

# Nodes outside a radius expanded in a row without finding one within, before a walk ends: so
# many, and one more for so many that it found.
LEAST_TRIED, TRIED_SHARE = 16, 4


def least_distance(space, probe, node, distance, metric, query_square):
    """Return how near to the query a node may be, as users see distances.

    distance : float32
        From the probe, as `space.distance_to` gives it: exact under a `FloatSpace`.
    """
    if isinstance(space, FloatSpace):
        return _seen_distance(distance, metric)
    return distance - code_doubt(space, probe, node, distance, metric, query_square)


@kernel(inline=True)
def _seen_distance(distance, metric):
    return max(ZERO, ONE + distance) if metric == COSINE else distance


@overload(least_distance, jit_options=INLINED)
def _least_distance(space, probe, node, distance, metric, query_square):
    if space.instance_class is FloatSpace:
        return lambda space, probe, node, distance, metric, query_square: _seen_distance(
            distance, metric
        )
    return lambda space, probe, node, distance, metric, query_square: (
        distance - code_doubt(space, probe, node, distance, metric, query_square)
    )


@kernel
def leave_behind(far, outside, done):
    """Drop the keys of far[:outside] up to `done`; return how many are left.

    They are inverted, as a heap (see `topk.push_least`) with the least on top.
    """
    left = 0
    for j in range(outside):
        if far[j] > done:
            left = push_least(far, left, ~far[j])
    return left


@kernel
def walk_within(
    space, probe, neighbors, entry, metric, query_square, radius, budget, keys, fresh, seen,
    epoch, near, far,
):  # fmt: skip
    """Walk to the probe as `graph.greedy_search` does, then on through all that may be within.

    Whatever the walk to the probe meets within the radius is kept, also what its list has no
    room for. From there every node that may be within is expanded, until no new one is met; and
    then the nearest ones outside, until a number of them in a row, by how many are within, led
    to none: where rows fill many dimensions, ways from one to the next lead outside.

    Parameters
    ----------
    metric : int
        As users see distances.
    query_square : float32
        The squared length of the query; only codes need it.
    radius : float32
    budget : int
        Distances after which the walk is given up: a scan is cheaper.
    near, far : int64 arrays
        Room for keys of nodes within and outside; replaced where more is needed.

    The rest is as in `graph.greedy_search`.

    Returns
    -------
    near, far : int64 arrays
    count : int
        How many of `near` are nodes that may be within, by their distance in the space; -1 where
        the walk was given up: it grew too long, or it found nothing but copies of one row, which
        are not within.
    hops, comparisons : int
    """
    stamp = next_epoch(seen, epoch)
    distance = distance_to(space, probe, entry)
    keys[0] = pack_key(distance, entry)
    seen[entry] = stamp
    count = 0
    if least_distance(space, probe, entry, distance, metric, query_square) <= radius:
        near[0] = keys[0]
        count = 1
    size = 1
    hops = 0
    comparisons = 1
    outside = 0
    approaching = True  # the probe; from there on through what may be within
    cursor = resume = 0
    done = keys[0]
    place = missed = 0
    while True:
        if approaching:
            if cursor == size:
                if count == 0 and size == keys.shape[0] > 1:
                    if key_distance(keys[0]) == key_distance(keys[size - 1]):
                        # Stuck among copies of one row, whose links lead to each other.
                        return near, far, -1, hops, comparisons
                approaching = False
                # The list holds the nearest of all that was seen, and all of it is expanded.
                done = keys[size - 1]
                outside = leave_behind(far, outside, done)
                continue
            key = keys[cursor]
            if key & EXPANDED:
                cursor += 1
                continue
            keys[cursor] = key | EXPANDED
        elif place < count:
            key = near[place]
            place += 1
            if key <= done:
                continue
        elif count > 0 and outside > 0 and missed < LEAST_TRIED + count // TRIED_SHARE:
            key = ~far[0]
            outside -= 1
            far[0] = far[outside]
            sift_down(far, outside, 0)
            missed += 1
        else:
            break
        if comparisons > budget and not approaching:
            return near, far, -1, hops, comparisons
        hops += 1
        some = visit(space, neighbors, key_row(key), seen, stamp, fresh)
        if approaching:
            resume = cursor + 1
            if resume < size:
                prefetch_edges(neighbors, key_row(keys[resume]))
        elif place < count:
            prefetch_edges(neighbors, key_row(near[place]))
        elif outside > 0:
            prefetch_edges(neighbors, key_row(~far[0]))
        comparisons += some
        if count + some > near.shape[0]:
            near = grown(near, count + some)
        if outside + some > far.shape[0]:
            far = grown(far, outside + some)
        for j in range(some):
            other = np.int64(fresh[j])
            distance = distance_to(space, probe, other)
            key = pack_key(distance, other)
            if least_distance(space, probe, other, distance, metric, query_square) <= radius:
                near[count] = key
                count += 1
                missed = 0
            elif approaching:
                far[outside] = key
                outside += 1
            else:
                outside = push_least(far, outside, ~key)
            if not approaching or (size == keys.shape[0] and key >= keys[size - 1]):
                continue
            at = insert_key(keys, size, key)
            size = min(size + 1, keys.shape[0])
            if at <= resume:
                resume = at
                prefetch_edges(neighbors, other)
        cursor = resume
    return near, far, count, hops, comparisons


def true_distance(space, query, vectors, key, metric):
    """Return the distance of a key's node as users see it: exact."""
    if isinstance(space, FloatSpace):
        return _seen_distance(key_distance(key), metric)
    return exact_distance(query, vectors, key_row(key), metric)


@overload(true_distance, jit_options=INLINED)
def _true_distance(space, query, vectors, key, metric):
    if space.instance_class is FloatSpace:
        return lambda space, query, vectors, key, metric: _seen_distance(key_distance(key), metric)
    return lambda space, query, vectors, key, metric: exact_distance(
        query, vectors, key_row(key), metric
    )


@kernel
def keep_within(
    space, query, vectors, metric, mask, use_mask, radius, limit, near, count, kept, at
):  # fmt: skip
    """Put the keys by exact distance of those of near[:count] that are within behind kept[:at].

    Returns
    -------
    kept : int64 array
        Another one where there was too little room.
    found : int
    """
    passed = count
    if use_mask:
        passed = 0
        for j in range(count):
            if passes(mask, key_row(near[j])):
                near[passed] = near[j]
                passed += 1
    room = passed if limit == 0 else min(limit, passed)
    if at + room > kept.shape[0]:
        kept = grown(kept, at + room)
    heap = kept[at : at + room]
    base = vectors.ctypes.data
    row_bytes = vectors.shape[1] * 4
    found = 0
    for j in range(passed):
        if j + RERANK_AHEAD < passed:
            prefetch_row(base + key_row(near[j + RERANK_AHEAD]) * row_bytes, row_bytes)
        distance = true_distance(space, query, vectors, near[j], metric)
        if not distance <= radius:
            continue
        key = pack_key(distance, key_row(near[j]))
        if room < passed:
            found = push_least(heap, found, key)
        else:
            heap[found] = key
            found += 1
    return kept, found


@kernel
def range_floats(
    space, queries, vectors, neighbors, entry, metric, mask, use_mask, radius, limit, budget,
    keys, fresh, seen, epoch, sizes, counts,
):  # fmt: skip
    """Answer each of `queries` by a walk over a `FloatSpace`, see `walk_within`.

    Parameters
    ----------
    vectors : float32 array of shape (n, stride)
        The space's.
    mask : bool array of shape (n,)
        Rows that are answered, when `use_mask`; walks lead through all.
    limit : int
        How many are kept for a query, the nearest ones; 0: all.
    sizes : int64 array of shape (n_queries,)
        Output: how many there are of each query; -1 where the walk was given up.
    counts : int64 array of shape (n_queries, 4)
        Output: as of `graph.search_batch`.

    The rest is as in `graph.search_batch` and `walk_within`.

    Returns
    -------
    int64 array
        The keys of each query's rows in any order, those of the first query first.
    """
    near, far = np.empty(LEAST_ROOM, np.int64), np.empty(LEAST_ROOM, np.int64)
    kept = np.empty(LEAST_ROOM, np.int64)
    at = 0
    for i in range(queries.shape[0]):
        probe = probe_at(queries, i)
        near, far, count, hops, comparisons = walk_within(
            space, probe, neighbors, entry, metric, ZERO, radius, budget, keys, fresh, seen,
            epoch, near, far,
        )  # fmt: skip
        counts[i, HOPS] = hops
        counts[i, COMPARISONS] = comparisons
        sizes[i] = count
        if count >= 0:
            kept, found = keep_within(
                space, queries[i], vectors, metric, mask, use_mask, radius, limit, near, count,
                kept, at,
            )  # fmt: skip
            sizes[i] = counts[i, PASS] = found
            at += found
    return kept[:at]


@kernel
def range_codes(
    space, mean, queries, vectors, neighbors, entry, metric, mask, use_mask, radius, limit,
    budget, keys, fresh, seen, epoch, point, prepared, sizes, counts,
):  # fmt: skip
    """Answer each of `queries` (n_queries, dim) by a walk over codes and exact distances.

    Parameters and what is returned are as in `codewalk.search_codes` and `range_floats`. A query
    that is not finite or too long for `codewalk.prepare_point` is given up: those that were
    checked may be too long by a rounding, and a scan answers them.
    """
    near, far = np.empty(LEAST_ROOM, np.int64), np.empty(LEAST_ROOM, np.int64)
    kept = np.empty(LEAST_ROOM, np.int64)
    at = 0
    for i in range(queries.shape[0]):
        square = prepare_point(queries[i], mean, metric, space.code_bytes, point, prepared)
        if square == np.inf:
            sizes[i] = -1
            continue
        near, far, count, hops, comparisons = walk_within(
            space, prepared.ctypes.data, neighbors, entry, metric, square, radius, budget, keys,
            fresh, seen, epoch, near, far,
        )  # fmt: skip
        counts[i, HOPS] = hops
        counts[i, COMPARISONS] = comparisons
        sizes[i] = count
        if count >= 0:
            begun = nanoseconds()
            kept, found = keep_within(
                space, point[0], vectors, metric, mask, use_mask, radius, limit, near, count,
                kept, at,
            )  # fmt: skip
            counts[i, RERANK_NS] = nanoseconds() - begun
            sizes[i] = counts[i, PASS] = found
            at += found
    return kept[:at]
