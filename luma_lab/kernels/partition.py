"""Graphs larger than memory: overlapping shards of the rows, and the union of their edges."""

import numpy as np

from luma_lab.kernels.build import copy_edges
from luma_lab.kernels.compile import kernel
from luma_lab.kernels.distance import squared_l2
from luma_lab.kernels.graph import NO_NODE
from luma_lab.kernels.prune import robust_prune
from luma_lab.kernels.space import distance_to, stand_at
from luma_lab.kernels.topk import key_row, pack_key, sort_keys

NO_SHARD = -1


@kernel
def fit_centres(rows, rounds, centres):
    """Improve float32 `centres` (shards, dim) by `rounds` of Lloyd's k-means over `rows`.

    A centre without rows stays where it is. Single-threaded, so that the outcome is determined.
    """
    sums = np.empty(centres.shape, np.float64)
    counts = np.empty(centres.shape[0], np.int64)
    for _ in range(rounds):
        sums[:] = 0.0
        counts[:] = 0
        for i in range(rows.shape[0]):
            nearest = 0
            least = squared_l2(rows[i], centres[0])
            for c in range(1, centres.shape[0]):
                distance = squared_l2(rows[i], centres[c])
                if distance < least:
                    nearest, least = c, distance
            counts[nearest] += 1
            for j in range(rows.shape[1]):
                sums[nearest, j] += np.float64(rows[i, j])
        for c in range(centres.shape[0]):
            if counts[c] > 0:
                for j in range(rows.shape[1]):
                    centres[c, j] = np.float32(sums[c, j] / counts[c])


@kernel
def assign_shards(rows, centres, room, first, second):
    """Give each row the two shards with the nearest centres that have room left.

    Parameters
    ----------
    room : int64 array of shape (shards,)
        Rows each shard can still take; updated. There is room for every row at least once.
    first, second : int16 arrays of shape (n,)
        Output; `second` is NO_SHARD where no other shard has room.
    """
    for i in range(rows.shape[0]):
        best, other = NO_SHARD, NO_SHARD
        least, next_least = np.float32(np.inf), np.float32(np.inf)
        for c in range(centres.shape[0]):
            if room[c] <= 0:
                continue
            distance = squared_l2(rows[i], centres[c])
            if best == NO_SHARD or distance < least:
                other, next_least = best, least
                best, least = c, distance
            elif other == NO_SHARD or distance < next_least:
                other, next_least = c, distance
        first[i] = best
        second[i] = other
        room[best] -= 1
        if other != NO_SHARD:
            room[other] -= 1


@kernel
def merge_edges(space, offset, start, stop, candidates, alpha, merged, prepared):
    """Write the edges of nodes offset + start to offset + stop, nearest first, into `merged`.

    Parameters
    ----------
    space : FloatSpace or Q8Space
        Of all nodes.
    candidates : int32 array of shape (m, width)
        Edges of nodes from `offset` on, NO_NODE anywhere between them, some of them twice.
    merged : int32 array of shape (m, max_degree)
        All of a node's candidates where they fit, else those that `robust_prune` keeps.
    prepared : uint8 array
        Scratch of `space.stand_at`.
    """
    width = candidates.shape[1]
    keys = np.empty(width, np.int64)
    work = np.empty((2, width), np.float32)
    kept = np.empty(merged.shape[1], np.int32)
    for i in range(start, stop):
        node = offset + i
        probe = stand_at(space, node, prepared)
        size = 0
        for j in range(width):
            other = np.int64(candidates[i, j])
            if other != NO_NODE:
                keys[size] = pack_key(distance_to(space, probe, other), other)
                size += 1
        sort_keys(keys, size)
        different = 0
        for j in range(size):
            if different == 0 or keys[j] != keys[different - 1]:
                keys[different] = keys[j]
                different += 1
        if different <= merged.shape[1]:
            for j in range(different):
                kept[j] = key_row(keys[j])
            count = different
        else:
            count = robust_prune(space, node, keys, different, alpha, work, prepared, kept)
        copy_edges(kept, count, merged[i])
