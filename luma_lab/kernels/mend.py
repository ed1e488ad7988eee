"""Mend kernels: close the gaps that deleted nodes leave in a graph (FreshDiskANN, algorithm 4)."""

import numpy as np

from luma_lab.kernels.build import copy_edges
from luma_lab.kernels.compile import kernel
from luma_lab.kernels.graph import NO_NODE
from luma_lab.kernels.prune import robust_prune
from luma_lab.kernels.space import distance_to, stand_at
from luma_lab.kernels.topk import pack_key, sort_keys


@kernel
def drop_repeats(keys, size):
    """Sort keys[:size] and keep each once; return how many there are then."""
    sort_keys(keys, size)
    different = 0
    for i in range(size):
        if different == 0 or keys[i] != keys[different - 1]:
            keys[different] = keys[i]
            different += 1
    return different


@kernel
def thin_out(keys, size, most):
    """Keep at most `most` of ascending keys[:size]: the nearest, and some of all distances.

    With the nearest alone a node would lose its long edges: whole clumps could then not be
    reached any more. Returns how many are kept.
    """
    if size <= most:
        return size
    near = most // 2
    step = (size - near) / (most - near)
    for i in range(most - near):
        keys[near + i] = keys[near + np.int64(i * step)]
    return most


@kernel
def mend_edges(space, start, stop, neighbors, live, alpha, most, mended, prepared):
    """Write the edges of nodes start:stop, without the dead ones, into `mended`.

    A node that points to a dead one gets that one's live neighbours as candidates. They and
    the edges it has are pruned, `most` in all, see `thin_out`. The dead point to nobody.

    Parameters
    ----------
    neighbors : int32 array of shape (n, degree)
        Only read.
    live : bool array of shape (n,)
    mended : int32 array of shape (n, degree)
        Output.
    """
    degree = neighbors.shape[1]
    keys = np.empty(degree * (degree + 1), np.int64)
    own = np.empty(degree, np.int64)
    work = np.empty((2, max(most, degree)), np.float32)
    for node in range(start, stop):
        row = mended[node]
        hurt = False
        used = 0
        if live[node]:
            while used < degree and neighbors[node, used] != NO_NODE:
                hurt = hurt or not live[neighbors[node, used]]
                used += 1
        if not hurt:
            copy_edges(neighbors[node], used, row)
            continue
        size = kept = 0
        probe = stand_at(space, node, prepared)
        for i in range(used):
            other = np.int64(neighbors[node, i])
            if live[other]:
                own[kept] = pack_key(distance_to(space, probe, other), other)
                kept += 1
                continue
            for j in range(degree):
                beyond = np.int64(neighbors[other, j])
                if beyond == NO_NODE:
                    break
                if live[beyond] and beyond != node:
                    keys[size] = pack_key(distance_to(space, probe, beyond), beyond)
                    size += 1
        size = thin_out(keys, drop_repeats(keys, size), most - kept)
        for i in range(kept):
            keys[size + i] = own[i]
        size = drop_repeats(keys, size + kept)
        count = robust_prune(space, node, keys, size, alpha, work, prepared, row)
        for j in range(count, degree):
            row[j] = NO_NODE
