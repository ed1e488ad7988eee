"""Build kernels: batches inserted against a frozen graph (Dobson et al., ParlayANN, PPoPP 2024).

Each function handles a slice of its work and writes only to places of that slice, so any
number of threads gives the same graph. `prepared` is scratch of `space.stand_at`.
"""

import numpy as np

from luma_lab.kernels.compile import kernel
from luma_lab.kernels.copies import put_first
from luma_lab.kernels.distance import squared_l2
from luma_lab.kernels.graph import NO_NODE, greedy_search, next_copy
from luma_lab.kernels.int8 import load_float32
from luma_lab.kernels.prune import robust_prune
from luma_lab.kernels.quantize import ROW_CONSTANT_BYTES
from luma_lab.kernels.space import are_copies, distance_to, stand_at
from luma_lab.kernels.topk import key_row, pack_key, sort_keys


@kernel
def copy_edges(edges, count, row):
    """Copy edges[:count] into `row` and fill its tail with NO_NODE.

    A loop, because numba's slice assignment takes seconds to compile.
    """
    for j in range(count):
        row[j] = edges[j]
    for j in range(count, row.shape[0]):
        row[j] = NO_NODE


@kernel
def find_medoid(vectors):
    """Return the row nearest to the mean of `vectors`; ties go to the lower row."""
    total = np.zeros(vectors.shape[1], np.float64)
    for i in range(vectors.shape[0]):
        row = vectors[i]
        for j in range(vectors.shape[1]):
            total[j] += row[j]
    mean = np.empty(vectors.shape[1], np.float32)
    for j in range(vectors.shape[1]):
        mean[j] = total[j] / vectors.shape[0]
    best = 0
    least = squared_l2(mean, vectors[0])
    for i in range(1, vectors.shape[0]):
        distance = squared_l2(mean, vectors[i])
        if distance < least:
            least = distance
            best = i
    return best


@kernel
def find_central_code(codes):
    """Return the row of `codes` nearest to the mean that was taken off them; ties: the lower."""
    best = 0
    least = np.float32(np.inf)
    for i in range(codes.shape[0]):
        code = codes[i]
        norm = load_float32(code.ctypes.data + code.shape[0] - ROW_CONSTANT_BYTES + 8)
        if norm < least:
            least = norm
            best = i
    return best


@kernel
def choose_edges(
    space, batch, start, stop, neighbors, entry, live, alpha, edges,
    keys, fresh, seen, epoch, prepared,
):  # fmt: skip
    """Search the frozen graph for batch[start:stop] and prune what the walks met into `edges`.

    Several threads may do so at once: `neighbors` is only read. Only nodes marked in `live` (n,)
    are pointed to.
    edges (len(batch), max_degree) int32 receives the out-edges, padded with NO_NODE.
    keys (build_list_size,) and fresh (degree,) are scratch.
    """
    expanded = np.empty(4 * keys.shape[0], np.int64)
    work = np.empty((2, expanded.shape[0]), np.float32)
    for i in range(start, stop):
        node = batch[i]
        while True:
            _, hops, _ = greedy_search(
                space, stand_at(space, node, prepared), neighbors, entry,
                keys, fresh, seen, epoch, expanded, keys.shape[0] >> 1,
            )  # fmt: skip
            if hops <= expanded.shape[0]:
                break
            expanded = np.empty(2 * hops, np.int64)
            work = np.empty((2, 2 * hops), np.float32)
        size = 0
        for j in range(hops):
            if live[key_row(expanded[j])]:
                expanded[size] = expanded[j]
                size += 1
        sort_keys(expanded, size)
        count = robust_prune(space, node, expanded, size, alpha, work, prepared, edges[i])
        for j in range(count, edges.shape[1]):
            edges[i, j] = NO_NODE


@kernel
def write_edges(batch, edges, neighbors):
    """Give the nodes of a batch their out-edges."""
    for i in range(batch.shape[0]):
        node = batch[i]
        for j in range(edges.shape[1]):
            neighbors[node, j] = edges[i, j]


@kernel
def group_by_target(batch, edges, places, targets, starts, sources):
    """Sort the edges of a batch by target: a counting sort that keeps the batch's order.

    Parameters
    ----------
    places : int32 array of shape (n,), all zero
        Scratch, zero again in the end: the work is that of the batch, not of the graph.
    targets : int32 array, output
        The nodes that are pointed to, in the order they were met.
    starts : int64 array, at least one longer than there are targets, output
        sources[starts[t]:starts[t + 1]] are the nodes that point to targets[t].
    sources : int32 array, at least ``edges.size`` long, output

    Returns
    -------
    target_count : int
    """
    count = 0
    for i in range(batch.shape[0]):
        for j in range(edges.shape[1]):
            target = edges[i, j]
            if target == NO_NODE:
                break
            if places[target] == 0:
                targets[count] = target
                starts[count + 1] = 0
                count += 1
                places[target] = count
            starts[places[target]] += 1
    starts[0] = 0
    for t in range(count):
        starts[t + 1] += starts[t]
    for i in range(batch.shape[0]):
        for j in range(edges.shape[1]):
            target = edges[i, j]
            if target == NO_NODE:
                break
            t = places[target] - 1
            sources[starts[t]] = batch[i]
            starts[t] += 1
    # Each start now stands at its end, which is the next one's start.
    for t in range(count, 0, -1):
        starts[t] = starts[t - 1]
        places[targets[t - 1]] = 0
    starts[0] = 0
    return count


@kernel
def merge_back_edges(
    space, targets, start, stop, starts, sources, neighbors, alpha, max_degree, prepared
):
    """Point targets[start:stop] back to their sources, which are new: none has such an edge yet.

    A node may hold as many edges as `neighbors` is wide (the slack); beyond, all of them are
    pruned to `max_degree`.
    """
    width = neighbors.shape[1]
    keys = np.empty(4 * width, np.int64)
    work = np.empty((2, 4 * width), np.float32)
    kept = np.empty(max_degree, np.int32)
    for t in range(start, stop):
        target = targets[t]
        degree = 0
        while degree < width and neighbors[target, degree] != NO_NODE:
            degree += 1
        first = starts[t]
        last = starts[t + 1]
        size = degree + last - first
        if size <= width:
            for s in range(first, last):
                neighbors[target, degree + s - first] = sources[s]
            continue
        if size > keys.shape[0]:
            keys = np.empty(2 * size, np.int64)
            work = np.empty((2, 2 * size), np.float32)
        copy = next_copy(space, neighbors, np.int64(target))
        probe = stand_at(space, target, prepared)
        some = 0
        for j in range(size):
            other = np.int64(neighbors[target, j] if j < degree else sources[first + j - degree])
            if copy != NO_NODE and other != copy and are_copies(space, np.int64(target), other):
                continue  # it joins the ring, see `copies.link_back`
            keys[some] = pack_key(distance_to(space, probe, other), other)
            some += 1
        sort_keys(keys, some)
        count = robust_prune(space, target, keys, some, alpha, work, prepared, kept)
        copy_edges(kept, count, neighbors[target])
        if copy != NO_NODE:
            put_first(neighbors, np.int64(target), copy)


@kernel
def trim(space, start, stop, neighbors, alpha, trimmed, prepared):
    """Copy the edges of nodes start:stop into `trimmed` (n, max_degree), pruning the longer."""
    width = neighbors.shape[1]
    max_degree = trimmed.shape[1]
    keys = np.empty(width, np.int64)
    work = np.empty((2, width), np.float32)
    kept = np.empty(max_degree, np.int32)
    for node in range(start, stop):
        degree = 0
        while degree < width and neighbors[node, degree] != NO_NODE:
            degree += 1
        if degree <= max_degree:
            copy_edges(neighbors[node], degree, trimmed[node])
            continue
        probe = stand_at(space, node, prepared)
        for j in range(degree):
            other = np.int64(neighbors[node, j])
            keys[j] = pack_key(distance_to(space, probe, other), other)
        sort_keys(keys, degree)
        count = robust_prune(space, node, keys, degree, alpha, work, prepared, kept)
        copy_edges(kept, count, trimmed[node])
