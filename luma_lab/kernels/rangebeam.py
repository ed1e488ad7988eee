"""Range search over a graph on disk: a beam that goes on for as long as it finds rows within."""

import numpy as np

from luma_lab.kernels.aio import wait_for_reads
from luma_lab.kernels.beam import CACHE_HITS, CACHED, FINE, REFUSED, arrive, fresh_edges, locate
from luma_lab.kernels.codescan import code_distance
from luma_lab.kernels.compile import kernel
from luma_lab.kernels.graph import COMPARISONS, HOPS, PASS, READS, next_epoch
from luma_lab.kernels.rangewalk import LEAST_TRIED, TRIED_SHARE
from luma_lab.kernels.ranging import LEAST_ROOM, grown
from luma_lab.kernels.record import record_distance
from luma_lab.kernels.topk import key_distance, key_row, pack_key, push_least, sift_down

GIVEN_UP = 3  # beside what else a walk of `beam` may end with


@kernel
def fetch(store, scratch, count):
    """Bring the records of beam[:count] and check them.

    Returns
    -------
    reads, hits, status, detail : int
        Blocks read, records that were in the cache; see `beam.arrive`.
    """
    reads, errno = locate(store, scratch, count)
    hits = 0
    status, detail = (FINE, 0) if errno == 0 else (REFUSED, errno)
    for j in range(count):
        if scratch.blocks[j] == CACHED:
            hits += 1
        elif status == FINE:
            status, detail = arrive(store, scratch, j, reads)
    if scratch.queue.context != 0:
        # None may be under way when the buffer is used again, or given up.
        wait_for_reads(scratch.queue, reads, scratch.done)
    return reads, hits, status, detail


@kernel
def range_disk(
    store, codes, scratch, probes, queries, i, entry, metric, mask, use_mask, radius, limit,
    budget, list_size, width, counts,
):  # fmt: skip
    """Find the rows within a radius of query `i`, by codes to what is read and exact distances.

    The nodes nearest by code are expanded first. When the `list_size` nearest of all that were
    met are, as when `beam.walk_disk` ends, those behind them still are until a number in a row,
    by how many were found, was not within.

    Parameters
    ----------
    mask : bool array of shape (n,)
        Rows that are answered, if `use_mask`; the walk leads through all.
    radius : float32
        Of distances as users see them; rows at just this one are within.
    limit : int
        How many are kept, the nearest ones; 0: all.
    budget : int
        Nodes after which the walk is given up: a scan is cheaper.
    counts : int64 array of shape (n_queries, beam.COUNTS)
        Output; PASS is how many were found.

    The rest is as in `beam.walk_disk`.

    Returns
    -------
    keys : int64 array
        Of the rows, in any order.
    status, detail : int
        As of `beam.walk_disk`; GIVEN_UP also where the walk met nothing but copies of a row
        that is not within.
    """
    layout = store.layout
    probe = probes.ctypes.data + i * probes.shape[1]
    base, row_bytes = codes.rows.ctypes.data, codes.rows.shape[1]
    # Nodes met and not expanded: their keys' complements, so that the heap's top is the nearest.
    # And the nearest ones that are expanded.
    waiting, done = np.empty(LEAST_ROOM, np.int64), np.empty(list_size, np.int64)
    kept = np.empty(LEAST_ROOM, np.int64)
    stamp = next_epoch(scratch.seen, scratch.epoch)
    scratch.seen[entry] = stamp
    distance = code_distance(
        codes.kind, probe, base + entry * row_bytes, codes.code_bytes, row_bytes
    )
    least = pack_key(distance, entry)
    waiting[0] = ~least
    left, expanded, found, within, missed = 1, 0, 0, 0, 0
    hops, comparisons, reads, hits = 0, 1, 0, 0
    bound = radius
    status, detail = FINE, 0
    while left > 0:
        near = expanded < list_size or ~waiting[0] < done[0]
        if not near and within == 0 and key_distance(least) == key_distance(done[0]):
            status = GIVEN_UP
            break
        if not near and (within == 0 or missed >= LEAST_TRIED + within // TRIED_SHARE):
            break
        if hops > budget:
            status = GIVEN_UP
            break
        count = 0
        while count < width and left > 0:
            key = ~waiting[0]
            left -= 1
            waiting[0] = waiting[left]
            sift_down(waiting, left, 0)
            least = min(least, key)
            expanded = push_least(done, expanded, key)
            scratch.beam[count] = key_row(key)
            count += 1
        hops += count
        fetched, cached, status, detail = fetch(store, scratch, count)
        reads += fetched
        hits += cached
        if status != FINE:
            break
        for j in range(count):
            data = store.records if scratch.blocks[j] == CACHED else store.data
            node, at = scratch.beam[j], scratch.places[j]
            some = fresh_edges(data, at, layout, codes, scratch.fresh, scratch.seen, stamp)
            comparisons += some
            if left + some > waiting.shape[0]:
                waiting = grown(waiting, left + some)
            for e in range(some):
                other = np.int64(scratch.fresh[e])
                distance = code_distance(
                    codes.kind, probe, base + other * row_bytes, codes.code_bytes, row_bytes
                )
                left = push_least(waiting, left, ~pack_key(distance, other))
            distance = record_distance(queries[i], data, at, layout, scratch.vector, metric)
            if not distance <= bound:
                missed += 1
                continue
            within += 1
            missed = 0
            if use_mask and not mask[node]:
                continue
            key = pack_key(distance, node)
            if limit > 0:
                if found == kept.shape[0] and found < limit:
                    kept = grown(kept, found + 1)
                found = push_least(kept[: min(limit, kept.shape[0])], found, key)
                if found == limit:
                    # What is no nearer than the last of them could not stay.
                    bound = min(bound, key_distance(kept[0]))
                continue
            if found == kept.shape[0]:
                kept = grown(kept, found + 1)
            kept[found] = key
            found += 1
    counts[i, HOPS] = hops
    counts[i, COMPARISONS] = comparisons
    counts[i, READS] = reads
    counts[i, CACHE_HITS] = hits
    counts[i, PASS] = found
    return kept[:found], status, detail
