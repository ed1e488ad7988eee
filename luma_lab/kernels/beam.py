"""Beam search over a graph on disk (DiskANN, section 3): codes in memory lead, records answer.

Each round expands the `beam_width` nearest nodes not yet expanded: their records are fetched
together, from the cache or from the file, and their neighbours are compared by codes. What has
been fetched is also measured exactly, and the answer is made of that.
"""

from typing import NamedTuple

import numpy as np

from luma_lab.kernels.aio import Queue, request_read, submit_reads, wait_for_reads
from luma_lab.kernels.codescan import code_distance
from luma_lab.kernels.compile import kernel
from luma_lab.kernels.graph import (
    COMPARISONS,
    HOPS,
    PASS,
    READS,
    drop_surplus,
    drop_surplus_alike,
    insert_key,
    is_as_far,
    next_epoch,
)
from luma_lab.kernels.prefetch import prefetch_row
from luma_lab.kernels.record import Layout, edges_of, is_sound, record_distance
from luma_lab.kernels.space import Q8Space
from luma_lab.kernels.topk import EXPANDED, key_row, pack_key, push_least, write_heap

CACHE_HITS = 4  # a column of `counts`, beside those of `graph`
COUNTS = 5
NOWHERE = -1
CACHED = -1
# What a walk ended with.
FINE, DAMAGED, REFUSED = 0, 1, 2
HOLDING = 8  # times as many rows as wanted: more copies that don't pass hold a walk fast


class Codes(NamedTuple):
    """What a walk goes by: uint8 (n, row_bytes) of one `kind` of `codescan`."""

    rows: np.ndarray
    kind: int
    code_bytes: int


class Store(NamedTuple):
    """Where records come from.

    data     uint8: the whole file, or the buffer that a queue with a context reads into
    checked  uint8 (blocks,); not 0 where a block was found sound before
    nodes    int32, ascending: the cached ones; `records` uint8: theirs, one after the other
    """

    layout: Layout
    data: np.ndarray
    checked: np.ndarray
    nodes: np.ndarray
    records: np.ndarray


class Scratch(NamedTuple):
    """What one walk at a time needs; `beam`, `places` and `done` are (beam_width,) int64."""

    seen: np.ndarray
    epoch: np.ndarray
    fresh: np.ndarray
    vector: np.ndarray
    beam: np.ndarray
    places: np.ndarray
    blocks: np.ndarray
    done: np.ndarray
    queue: Queue


@kernel
def find_cached(nodes, node):
    """Return the place of `node` in ascending `nodes`, or NOWHERE."""
    low, high = 0, nodes.shape[0]
    while low < high:
        middle = (low + high) >> 1
        if nodes[middle] < node:
            low = middle + 1
        else:
            high = middle
    if low < nodes.shape[0] and nodes[low] == node:
        return low
    return NOWHERE


@kernel
def choose_beam(keys, size, beam, width):
    """Take the nearest of keys[:size] not yet expanded, at most `width`; return how many."""
    count = 0
    for i in range(size):
        if count == width:
            break
        if keys[i] & EXPANDED:
            continue
        beam[count] = key_row(keys[i])
        keys[i] |= EXPANDED
        count += 1
    return count


@kernel(inline=True)
def fresh_edges(data, at, layout, codes, fresh, seen, stamp):
    """Put the neighbours that the record at byte `at` names and this walk has not seen in `fresh`.

    They are seen from now on, and the processor is asked for their codes. Returns how many.
    """
    row_bytes = codes.rows.shape[1]
    base = codes.rows.ctypes.data
    edges = edges_of(data, at, layout)
    count = 0
    for j in range(1, edges[0] + 1):
        other = edges[j]
        if seen[other] != stamp:
            seen[other] = stamp
            fresh[count] = other
            count += 1
            prefetch_row(base + np.int64(other) * row_bytes, row_bytes)
    return count


@kernel
def take_edges(
    data, at, layout, codes, probe, keys, size, fresh, seen, stamp, most, mask, use_mask
):  # fmt: skip
    """Compare the neighbours that the record at byte `at` names, and keep the nearest in `keys`.

    Of one distance `most` are kept; with a mask as many that pass it, and as many others.

    Returns
    -------
    size, comparisons, held : int
        Valid entries of `keys`; distances computed; keys dropped that may have `held` the walk
        fast, see `graph.drop_surplus_alike`.
    """
    row_bytes = codes.rows.shape[1]
    base = codes.rows.ctypes.data
    count = fresh_edges(data, at, layout, codes, fresh, seen, stamp)
    held = 0
    same = Q8Space(codes.rows, codes.code_bytes, 0)  # for rows of one code, of whatever kind
    for j in range(count):
        other = np.int64(fresh[j])
        distance = code_distance(
            codes.kind, probe, base + other * row_bytes, codes.code_bytes, row_bytes
        )
        key = pack_key(distance, other)
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
            if use_mask:
                size, alone = drop_surplus_alike(same, keys, size, place, most, mask)
                held += alone
            else:
                size = drop_surplus(same, keys, size, place, most)
    return size, count, held


@kernel
def locate(store, scratch, count):
    """Find where the records of beam[:count] are; start the reads of those not cached.

    Each gets a number in `blocks`, CACHED or that of its block, and in `places` the byte where it
    begins in the cache's records or in `data`. Nodes of one block share one read.

    Returns
    -------
    reads, errno : int
    """
    layout = store.layout
    reads = 0
    for i in range(count):
        node = scratch.beam[i]
        slot = find_cached(store.nodes, node)
        if slot >= 0:
            scratch.places[i] = slot * layout.record_bytes
            scratch.blocks[i] = CACHED
            continue
        block = node // layout.per_block
        inside = (node - block * layout.per_block) * layout.record_bytes
        start = block * layout.block_bytes
        twin = -1
        for j in range(i):
            if scratch.blocks[j] == block:
                twin = j
                break
        if scratch.queue.context != 0:
            if twin >= 0:
                start = scratch.places[twin] // layout.block_bytes * layout.block_bytes
            else:
                request_read(scratch.queue, reads, start, layout.block_bytes)
                start = reads * layout.block_bytes
        scratch.blocks[i] = block
        scratch.places[i] = start + inside
        if twin < 0:
            reads += 1
    errno = 0
    if scratch.queue.context != 0 and reads > 0:
        errno = submit_reads(scratch.queue, reads, scratch.done)
    return reads, errno


@kernel
def arrive(store, scratch, i, reads):
    """Wait for the records of the beam; check the block of beam[i]; return (status, detail)."""
    layout = store.layout
    block = scratch.blocks[i]
    start = scratch.places[i] // layout.block_bytes * layout.block_bytes
    if scratch.queue.context != 0:
        place = start // layout.block_bytes
        errno = wait_for_reads(scratch.queue, reads, scratch.done)
        if errno != 0:
            return REFUSED, errno
        if scratch.done[place] < 0:
            return REFUSED, -scratch.done[place]
        if scratch.done[place] != layout.block_bytes:
            return DAMAGED, block
    if store.checked[block] == 0:
        if not is_sound(store.data, start, block, layout):
            return DAMAGED, block
        store.checked[block] = 1
    return FINE, block


@kernel
def walk_disk(
    store, codes, scratch, probes, queries, i, entry, metric, mask, use_mask, keys, width,
    rows, distances, counts,
):  # fmt: skip
    """Answer query `i` into rows[i] and distances[i], padded with -1 and inf.

    Parameters
    ----------
    store, codes, scratch : Store, Codes, Scratch
    probes, queries : uint8 and float32 arrays, a row a query
        As codes are measured from, and as it is (of length one under COSINE).
    mask : bool array of shape (n,)
        Rows that may be answered if `use_mask`; the walk passes through all.
    keys : int64 array of shape (search_list_size,)
        Scratch.
    width : int
        The beam's, at most that of `scratch`.
    counts : int64 array of shape (n_queries, COUNTS)
        HOPS, COMPARISONS, READS, CACHE_HITS, and how many expanded nodes `mask` let PASS: 0 where
        copies of a row that don't may have held the walk fast, see `graph.filtered_search`.

    Returns
    -------
    status, detail : int
        FINE; DAMAGED and the number of the block; REFUSED and the errno.
    """
    layout = store.layout
    probe = probes.ctypes.data + i * probes.shape[1]
    query = queries[i]
    heap = np.empty(rows.shape[1], np.int64)
    found = 0
    held, most_held = 0, HOLDING * (keys.shape[0] >> 1)
    most = max(rows.shape[1], keys.shape[0] >> 1)
    hops, comparisons, reads, hits, passed = 0, 1, 0, 0, 0
    stamp = next_epoch(scratch.seen, scratch.epoch)
    row_bytes = codes.rows.shape[1]
    address = codes.rows.ctypes.data + entry * row_bytes
    keys[0] = pack_key(
        code_distance(codes.kind, probe, address, codes.code_bytes, row_bytes), entry
    )
    scratch.seen[entry] = stamp
    size = 1
    status, detail = FINE, 0
    while status == FINE and held <= most_held:
        count = choose_beam(keys, size, scratch.beam, width)
        if count == 0:
            break
        hops += count
        fetched, errno = locate(store, scratch, count)
        reads += fetched
        if errno != 0:
            status, detail = REFUSED, errno
        # Cached ones first: there is something to do while the others are read.
        for turn in range(2):
            for j in range(count):
                cached = scratch.blocks[j] == CACHED
                if status != FINE or cached != (turn == 0):
                    continue
                if cached:
                    hits += 1
                else:
                    status, detail = arrive(store, scratch, j, fetched)
                    if status != FINE:
                        continue
                data = store.records if cached else store.data
                node = scratch.beam[j]
                at = scratch.places[j]
                size, compared, alone = take_edges(
                    data, at, layout, codes, probe, keys, size, scratch.fresh, scratch.seen,
                    stamp, most, mask, use_mask,
                )  # fmt: skip
                comparisons += compared
                held += alone
                if use_mask and not mask[node]:
                    continue
                passed += 1
                distance = record_distance(query, data, at, layout, scratch.vector, metric)
                found = push_least(heap, found, pack_key(distance, node))
        if scratch.queue.context != 0:
            # None may be under way when the buffer is used again, or given up.
            wait_for_reads(scratch.queue, fetched, scratch.done)
    write_heap(heap, found, rows[i], distances[i])
    counts[i, HOPS] = hops
    counts[i, COMPARISONS] = comparisons
    counts[i, READS] = reads
    counts[i, CACHE_HITS] = hits
    counts[i, PASS] = passed if held <= most_held else 0
    return status, detail
