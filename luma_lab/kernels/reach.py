"""Reach kernels: make every node of a graph reachable from its entry."""

import numpy as np

from luma_lab.kernels.compile import kernel
from luma_lab.kernels.graph import NO_NODE, greedy_search
from luma_lab.kernels.space import distance_to, stand_at
from luma_lab.kernels.topk import key_row

UNREACHED = -1


@kernel
def spread(start, neighbors, parents, queue, filled):
    """Reach all that can be reached from queue[start:filled], breadth first; return `filled`.

    parents (n,) holds the node each was reached from, or UNREACHED. queue (n,) lists reached
    nodes in order.
    """
    while start < filled:
        node = queue[start]
        start += 1
        for j in range(neighbors.shape[1]):
            other = neighbors[node, j]
            if other == NO_NODE:
                break
            if parents[other] == UNREACHED:
                parents[other] = node
                queue[filled] = other
                filled += 1
    return filled


@kernel
def give_edge(space, node, target, neighbors, parents, prepared):
    """Point `node` to `target` if it has a free place or an edge no node depends on.

    Edges along which a node was first reached are kept, so what was reached stays so. Of the
    others the longest gives way.
    """
    probe = stand_at(space, node, prepared)
    place = -1
    longest = np.float32(-np.inf)
    for j in range(neighbors.shape[1]):
        other = neighbors[node, j]
        if other == NO_NODE:
            place = j
            break
        if parents[other] != node:
            length = distance_to(space, probe, np.int64(other))
            if length >= longest:
                longest = length
                place = j
    if place < 0:
        return False
    neighbors[node, place] = target
    parents[target] = node
    return True


@kernel
def attach_unreached(space, near, neighbors, entry, live, keys, fresh, seen, epoch, prepared):
    """Give every `live` node that no path from `entry` reaches an edge from a near reached node.

    `near` is the space with the metric L2: by inner product the long vectors would have to give
    up their edges for the many short ones.
    keys (build_list_size,), fresh (degree,), seen (n,), epoch (1,) and prepared are scratch.

    Returns
    -------
    attached : int
        Edges made.
    """
    n = neighbors.shape[0]
    parents = np.empty(n, np.int32)
    for node in range(n):
        # The dead are nobody's: as if reached, but never gone on from.
        parents[node] = UNREACHED if live[node] else node
    queue = np.empty(n, np.int32)
    no_record = np.empty(0, np.int64)
    parents[entry] = entry
    queue[0] = entry
    filled = spread(0, neighbors, parents, queue, 1)
    attached = 0
    spare = 0
    for node in range(n):
        if parents[node] != UNREACHED:
            continue
        size, _, _ = greedy_search(
            near,
            stand_at(near, node, prepared),
            neighbors,
            entry,
            keys,
            fresh,
            seen,
            epoch,
            no_record,
            keys.shape[0] >> 1,
        )
        done = False
        for i in range(size):
            if give_edge(space, key_row(keys[i]), node, neighbors, parents, prepared):
                done = True
                break
        # All near ones are full of edges others depend on: take the first reached node that
        # is not. There is one, for m reached nodes depend on m - 1 edges only.
        while not done:
            done = give_edge(space, np.int64(queue[spare]), node, neighbors, parents, prepared)
            if not done:
                spare += 1
        attached += 1
        queue[filled] = node
        filled = spread(filled, neighbors, parents, queue, filled + 1)
    return attached
