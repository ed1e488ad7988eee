"""Graph kernels: best-first search over a fixed-degree adjacency table.

Shared conventions
------------------
space      what nodes are compared by, see `space`; float rows and codes are C-contiguous and
           64-byte aligned, the stride of float rows a multiple of 16
neighbors  int32   (n, degree); out-edges of a node, tail padded with NO_NODE
keys       int64   candidates as `topk.pack_key` makes them, ascending
seen       uint8   (n,); a node is seen in a walk iff seen[node] equals the walk's epoch, so
           the array is cleared once in 255 walks only; a byte a node stays in the cache
"""

import numpy as np

from luma_lab.kernels.compile import kernel
from luma_lab.kernels.distance import COSINE, ONE, ZERO
from luma_lab.kernels.prefetch import prefetch_span
from luma_lab.kernels.space import distance_to, prefetch_node, probe_at
from luma_lab.kernels.topk import EXPANDED, key_distance, key_row, pack_key

NO_NODE = -1
# Columns of `counts`; a walk in memory reads nothing, so READS stays as it was.
HOPS, COMPARISONS, READS, PASS = 0, 1, 2, 3
LAST_EPOCH = 255
CROWD = 16  # nodes, half of them of one distance, that may be copies which hold a walk fast
# Times the longest list: more copies that don't pass hold a walk fast. Where they are not even
# expanded, half so many times the rows wanted do, for these may be linked through them only.
HOLDING = 8
SPENT, LOST = 1, 2
PATIENCE = 10  # hops of a filtered walk between two looks at whether it leads anywhere


@kernel
def next_epoch(seen, epoch):
    """Return a stamp no entry of `seen` holds, and remember it in epoch[0]."""
    if epoch[0] == LAST_EPOCH:
        for node in range(seen.shape[0]):
            seen[node] = 0
        epoch[0] = 0
    epoch[0] += 1
    return epoch[0]


@kernel
def insert_key(keys, size, key):
    """Insert `key` into ascending keys[:size], dropping the last if full; return its place.

    The caller has made sure that keys has room or that `key` is below the last one.
    """
    low = 0
    high = size
    while low < high:
        middle = (low + high) >> 1
        if keys[middle] < key:
            low = middle + 1
        else:
            high = middle
    last = min(size, keys.shape[0] - 1)
    for i in range(last, low, -1):
        keys[i] = keys[i - 1]
    keys[low] = key
    return low


@kernel(inline=True)
def prefetch_edges(neighbors, node):
    """Ask the processor for the edges of a node."""
    size = neighbors.shape[1] * 4
    prefetch_span(neighbors.ctypes.data + node * size, size)


@kernel(inline=True)
def visit(space, neighbors, node, seen, stamp, fresh):
    """Put the neighbours of a node that this walk has not seen into `fresh`; return how many.

    They are seen from now on, and the processor is asked for their rows.
    """
    count = 0
    for j in range(neighbors.shape[1]):
        other = neighbors[node, j]
        if other == NO_NODE:
            break
        # About half are new, as no branch predictor can guess.
        fresh[count] = other
        count += 1 if seen[other] != stamp else 0
        seen[other] = stamp
    for j in range(count):
        prefetch_node(space, np.int64(fresh[j]))
    return count


@kernel(inline=True)
def is_as_far(one, other):
    """Return whether two keys have the same distance."""
    return one >> 32 == other >> 32


@kernel
def drop_surplus(keys, size, place, most):
    """Of the keys as far as keys[place] drop the last if they are more than `most`.

    Returns the size of the list.

    Copies of a row link to each other first. Met on the way to something nearer, as many of them
    as the list has places would crowd out all that leads on.
    """
    first = place
    while first > 0 and is_as_far(keys[first - 1], keys[place]):
        first -= 1
    behind = place + 1
    while behind < size and is_as_far(keys[behind], keys[place]):
        behind += 1
    if behind - first <= most:
        return size
    for i in range(behind, size):
        keys[i - 1] = keys[i]
    return size - 1


@kernel
def greedy_search(space, probe, neighbors, entry, keys, fresh, seen, epoch, expanded, most):
    """Walk from `entry` to the nodes nearest to the probe; leave the best in `keys`.

    Parameters
    ----------
    space, probe
        See `space`.
    keys : int64 array of shape (search_list_size,)
        Output and scratch; its length is the search list size L.
    fresh : int32 array of shape (degree,)
        Scratch.
    seen, epoch : uint8 and int32 arrays of shape (n,) and (1,)
    expanded : int64 array
        Receives the keys of expanded nodes in order, as many as fit; may be empty.
    most : int
        Nodes of one distance that the list may hold, see `drop_surplus`.

    Returns
    -------
    size : int
        Entries of `keys` that are valid, all expanded, ascending.
    hops : int
        Nodes expanded.
    comparisons : int
        Distances computed.
    """
    stamp = next_epoch(seen, epoch)
    keys[0] = pack_key(distance_to(space, probe, entry), entry)
    seen[entry] = stamp
    size = 1
    hops = 0
    comparisons = 1
    cursor = 0
    while cursor < size:
        key = keys[cursor]
        if key & EXPANDED:
            cursor += 1
            continue
        keys[cursor] = key | EXPANDED
        if hops < expanded.shape[0]:
            expanded[hops] = key
        hops += 1
        node = key_row(key)
        count = visit(space, neighbors, node, seen, stamp, fresh)
        if cursor + 1 < size:
            # Likely the next to be expanded.
            prefetch_edges(neighbors, key_row(keys[cursor + 1]))
        comparisons += count
        resume = cursor + 1
        for j in range(count):
            other = np.int64(fresh[j])
            key = pack_key(distance_to(space, probe, other), other)
            if size < keys.shape[0]:
                place = insert_key(keys, size, key)
                size += 1
            elif key < keys[size - 1]:
                place = insert_key(keys, size, key)
            else:
                continue
            if (place > 0 and is_as_far(keys[place - 1], key)) or (
                place + 1 < size and is_as_far(keys[place + 1], key)
            ):
                size = drop_surplus(keys, size, place, most)
            if place <= resume:
                # A nearer node landed before the cursor: step back to it.
                resume = place
                prefetch_edges(neighbors, other)
        cursor = resume
    return size, hops, comparisons


@kernel(inline=True)
def passes(mask, row):
    """Return whether a row may be answered; one that came after its mask was made may not."""
    return row < mask.shape[0] and mask[row]


@kernel
def drop_surplus_alike(keys, size, place, most, mask):
    """Do as `drop_surplus` among those keys only that pass the mask, or don't, as keys[place].

    So those that pass are neither crowded out by others as far nor crowd out what leads on. Of
    those that don't, while fewer than `most` as far do pass, one that is expanded goes first: it
    is no answer, and others may be linked through the new one only.

    Returns
    -------
    dropped : int
        The place the key had, `size` if none was dropped.
    what : int
        SPENT or LOST, as it was expanded or not, where it does not pass and fewer than `most` as
        far do; otherwise 0.
    """
    asked = passes(mask, key_row(keys[place]))
    first = place
    while first > 0 and is_as_far(keys[first - 1], keys[place]):
        first -= 1
    count = 0
    last = place
    spent = size
    behind = first
    while behind < size and is_as_far(keys[behind], keys[place]):
        if passes(mask, key_row(keys[behind])) == asked:
            count += 1
            last = behind
            if spent == size and keys[behind] & EXPANDED:
                spent = behind
        behind += 1
    if count <= most:
        return size, 0
    what = 0
    if not asked and behind - first - count < most:
        what = LOST if spent == size else SPENT
        last = min(last, spent)
    for i in range(last + 1, size):
        keys[i - 1] = keys[i]
    return last, what


@kernel
def filtered_search(
    space, probe, neighbors, entry, mask, wanted, least, keys, fresh, seen, epoch, most
):  # fmt: skip
    """Walk as `greedy_search` does, with a list that ends where `wanted` of its rows pass.

    So the list is as long as it must be: short where what is near to the probe passes, and
    otherwise up to the length of `keys`. The walk leads through all nodes. It is given up where
    so few of the list pass that a full one would not hold enough.

    Parameters
    ----------
    mask : bool array
        Rows that pass.
    wanted : int
        At least 1.
    least : float32
        The share of the wanted ones that is enough to go on for.
    most : int
        Nodes of one distance that the list may hold of those that pass, and of the others.

    The rest is as in `greedy_search`.

    Returns
    -------
    size : int
        Entries of `keys` that are valid, all expanded, ascending; 0 if it was given up, or if
        copies of a row may have held it fast: those that don't pass, or half of the list.
    hops, comparisons : int
    """
    stamp = next_epoch(seen, epoch)
    keys[0] = pack_key(distance_to(space, probe, entry), entry)
    seen[entry] = stamp
    passed = 1 if passes(mask, np.int64(entry)) else 0
    size = 1
    spent, lost = 0, 0
    hops = 0
    comparisons = 1
    cursor = 0
    while cursor < size:
        key = keys[cursor]
        if key & EXPANDED:
            cursor += 1
            continue
        keys[cursor] = key | EXPANDED
        hops += 1
        node = key_row(key)
        count = visit(space, neighbors, node, seen, stamp, fresh)
        if cursor + 1 < size:
            prefetch_edges(neighbors, key_row(keys[cursor + 1]))
        comparisons += count
        resume = cursor + 1
        for j in range(count):
            other = np.int64(fresh[j])
            key = pack_key(distance_to(space, probe, other), other)
            if passed == wanted or size == keys.shape[0]:
                if key >= keys[size - 1]:
                    continue
                if size == keys.shape[0]:  # the last has to go
                    size -= 1
                    if passes(mask, key_row(keys[size])):
                        passed -= 1
            place = insert_key(keys, size, key)
            size += 1
            if place <= resume:
                resume = place
                prefetch_edges(neighbors, other)
            passed += 1 if passes(mask, other) else 0
            if (place > 0 and is_as_far(keys[place - 1], key)) or (
                place + 1 < size and is_as_far(keys[place + 1], key)
            ):
                dropped, what = drop_surplus_alike(keys, size, place, most, mask)
                spent += what == SPENT
                lost += what == LOST
                if dropped < size:
                    size -= 1
                    resume -= 1 if dropped < resume else 0
                    passed -= 1 if passes(mask, other) else 0
            # Nothing behind the last wanted row can matter.
            while passed >= wanted:
                last = passes(mask, key_row(keys[size - 1]))
                if passed == wanted and last:
                    break
                size -= 1
                if last:
                    passed -= 1
        if spent > HOLDING * keys.shape[0] or lost > (HOLDING >> 1) * wanted:
            return 0, hops, comparisons
        if hops % PATIENCE == 0 and passed < wanted:
            if passed * keys.shape[0] < least * wanted * size:
                return 0, hops, comparisons
        cursor = resume
    if size >= CROWD and is_as_far(keys[size >> 1], keys[size - 1]):
        size = 0
    return size, hops, comparisons


@kernel
def search_batch(
    space, queries, neighbors, entry, metric, mask, wanted, least,
    keys, fresh, seen, epoch, no_record, rows, distances, counts,
):  # fmt: skip
    """Answer each of `queries` by a walk over a `FloatSpace`.

    queries are rows like the space's; `metric` says how users see distances. Unless `wanted` is
    0, only rows in `mask` are answered; see `filtered_search` for these and `least`. rows and
    distances (n_queries, k) are output, padded with -1 and inf; so is counts (n_queries, 4)
    int64: HOPS, COMPARISONS, and how many of the final list PASS.
    """
    for i in range(queries.shape[0]):
        probe = probe_at(queries, i)
        if wanted > 0:
            size, hops, comparisons = filtered_search(
                space, probe, neighbors, entry, mask, wanted, least, keys, fresh, seen, epoch,
                max(rows.shape[1], wanted >> 1),
            )  # fmt: skip
        else:
            size, hops, comparisons = greedy_search(
                space, probe, neighbors, entry, keys, fresh, seen, epoch, no_record,
                max(rows.shape[1], keys.shape[0] >> 1),
            )  # fmt: skip
        found = 0
        for j in range(size):
            row = key_row(keys[j])
            if wanted > 0 and not passes(mask, row):
                continue
            if found < rows.shape[1]:
                distance = key_distance(keys[j])
                if metric == COSINE:
                    distance = max(ZERO, ONE + distance)
                rows[i, found] = row
                distances[i, found] = distance
            found += 1
        counts[i, HOPS] = hops
        counts[i, COMPARISONS] = comparisons
        counts[i, PASS] = found
        for j in range(found, rows.shape[1]):
            rows[i, j] = -1
            distances[i, j] = np.inf
