"""Building a Vamana graph on all cores, with the same bytes for any number of threads.

Points go in by batches that double until they are `BATCH_SHARE` of all. A batch is searched
and pruned against the frozen graph, its edges are written, then its back edges are merged,
grouped by target. No step lets one thread see what another is writing.

References
----------
Subramanya et al., "DiskANN", NeurIPS 2019. Dobson et al., "ParlayANN", PPoPP 2024.
"""

import itertools
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from luma_lab.index.rows import aligned_empty, read_only
from luma_lab.index.scratch import ScratchPool
from luma_lab.kernels.build import (
    choose_edges,
    find_central_code,
    find_medoid,
    group_by_target,
    merge_back_edges,
    trim,
    write_edges,
)
from luma_lab.kernels.copies import mark_rows, tie_rings
from luma_lab.kernels.distance import L2
from luma_lab.kernels.graph import NO_NODE
from luma_lab.kernels.prefetch import CACHE_LINE_BYTES
from luma_lab.kernels.reach import attach_unreached
from luma_lab.kernels.space import FloatSpace

BATCH_SHARE = 0.02  # 0.5 % gave the same recall with more waiting at the end of batches
SLACK = 1.3  # edges a node may gather, over max_degree, before it is pruned: DiskANN's value
SLICES_PER_THREAD = 4  # so that a thread that got easy points takes over from the others
QUERY_ROOM_BYTES = 2 * CACHE_LINE_BYTES  # for the constants of a prepared row
SEARCH_SHARE = 0.97  # of the progress shown; the rest is trimming and attaching
BATCH_BYTES = 20  # of a batch, per edge: the edge, its target, a start and a source
ROW_BYTES = 48  # of a row: insertion order, queues, marks (a byte a thread, of which it takes 8)


def batch_bounds(n):
    """Return the ends of the batches: 1, 2, 4, ... then steps of `BATCH_SHARE` of `n`."""
    bounds = [min(1, n)]
    most = max(1, int(n * BATCH_SHARE))
    while bounds[-1] < n:
        bounds.append(min(n, bounds[-1] + min(bounds[-1], most)))
    return bounds


def graph_row_bytes(max_degree):
    """Return the bytes a row that :func:`build_graph` takes at most, beside the space."""
    width = max(max_degree + 1, int(max_degree * SLACK))
    return 4 * (width + max_degree) + BATCH_SHARE * max_degree * BATCH_BYTES + ROW_BYTES


def build_graph(
    space, *, max_degree, build_list_size, alpha, seed, threads, report, with_rings=True
):
    """Build the graph of a space of at least one row.

    Parameters
    ----------
    space : luma_lab.kernels.space.FloatSpace or Q8Space
        Codes are compared by their L2 distances.
    report : callable
        Gets the finished fraction after each batch; an exception it raises ends the build.
    with_rings : bool, default True
        Tie copies of a row into rings, for a graph whose edges will be pruned again.

    Returns
    -------
    neighbors : int32 array of shape (n, max_degree), padded with -1
        No self loops, no repeats; every node can be reached from `entry`.
    entry : int
        The medoid: the row nearest to the mean.
    """
    n = len(space[0])
    is_float = isinstance(space, FloatSpace)
    entry = int(find_medoid(space.vectors) if is_float else find_central_code(space.codes))
    near = space._replace(metric=L2) if is_float else space
    order = np.random.default_rng(seed).permutation(n).astype(np.int32)
    order[1:] = order[order != entry]  # the right side is read whole before the left is written
    order[0] = entry
    # Room for one edge more than max_degree even where the slack rounds to nothing.
    width = max(max_degree + 1, int(max_degree * SLACK))
    neighbors = aligned_empty((n, width), np.int32)
    neighbors[:] = NO_NODE
    frozen = read_only(neighbors)
    alpha = np.float32(alpha)
    scratches = ScratchPool(n, width, 0 if is_float else space.codes.shape[1] + QUERY_ROOM_BYTES)
    bounds = batch_bounds(n)
    largest = max((b - a for a, b in itertools.pairwise(bounds)), default=1)
    everyone = np.ones(n, bool)
    places = np.zeros(n, np.int32)
    targets = np.empty(min(n, largest * max_degree), np.int32)
    starts = np.empty(len(targets) + 1, np.int64)
    sources = np.empty(largest * max_degree, np.int32)

    def choose(start, stop, batch, edges):
        with scratches.lend() as scratch:
            keys = np.empty(build_list_size, np.int64)
            choose_edges(
                space, batch, start, stop, frozen, entry, everyone, alpha, edges,
                keys, scratch.fresh, scratch.seen, scratch.epoch, scratch.prepared,
            )  # fmt: skip

    def merge(start, stop):
        with scratches.lend() as scratch:
            merge_back_edges(
                space, targets, start, stop, starts, sources, neighbors, alpha, max_degree,
                scratch.prepared,
            )  # fmt: skip

    def shorten(start, stop):
        with scratches.lend() as scratch:
            trim(space, start, stop, neighbors, alpha, trimmed, scratch.prepared)

    trimmed = aligned_empty((n, max_degree), np.int32)
    with Slices(threads) as slices:
        for start, stop in itertools.pairwise(bounds):
            batch = order[start:stop]
            edges = np.empty((len(batch), max_degree), np.int32)
            slices.run(choose, len(batch), batch, edges)
            write_edges(batch, edges, neighbors)
            slices.run(merge, int(group_by_target(batch, edges, places, targets, starts, sources)))
            report(SEARCH_SHARE * stop / n)
        slices.run(shorten, n)
    if with_rings:
        tie_copies(space, everyone, trimmed)
    with scratches.lend() as scratch:
        keys = np.empty(build_list_size, np.int64)
        attach_unreached(
            space, near, trimmed, entry, everyone, keys, scratch.fresh, scratch.seen, scratch.epoch,
            scratch.prepared,
        )  # fmt: skip
    report(1.0)
    return trimmed, entry


def tie_copies(space, live, neighbors):
    """Tie copies among the `live` nodes of a graph into rings, see `kernels.copies`.

    Not where nodes have one edge only, which a ring must not take.
    """
    if neighbors.shape[1] == 1:
        return
    marks = np.empty(len(neighbors), np.int64)
    mark_rows(space, marks)
    tie_rings(space, marks, np.argsort(marks, kind="stable"), live, neighbors)


class Slices:
    """Runs a function over slices of a range, on `threads` threads; as a context manager."""

    def __init__(self, threads):
        self._threads = threads
        self._pool = ThreadPoolExecutor(threads) if threads > 1 else None

    def __enter__(self):
        return self

    def __exit__(self, *error):
        if self._pool:
            self._pool.shutdown(cancel_futures=True)

    def run(self, function, count, *arguments):
        """Call function(start, stop, *arguments) over range(count); return when all are done."""
        if self._pool is None or count < 2:
            function(0, count, *arguments)
            return
        pieces = min(count, self._threads * SLICES_PER_THREAD)
        cuts = [count * i // pieces for i in range(pieces + 1)]
        jobs = [self._pool.submit(function, a, b, *arguments) for a, b in itertools.pairwise(cuts)]
        for job in jobs:
            job.result()
