"""All rows within a radius from a graph on disk, or by a scan of records where that costs less."""

import time

import numpy as np

from luma_lab.index.cache import read_blocks
from luma_lab.index.disksearch import (
    BEAM_WIDTH,
    MAX_BEAM_WIDTH,
    NO_MASK,
    PREPARED_QUERIES,
    SCAN_AHEAD,
)
from luma_lab.index.protocol import MAX_ROWS, as_queries, check_integer, check_threads
from luma_lab.index.ranging import (
    MOST_PLACES,
    answer_of,
    check_limit,
    check_radius,
    choose,
    fill,
    marked,
    shared_by,
)
from luma_lab.index.rows import METRIC_CODES, query_rows, read_only
from luma_lab.index.vamana import resolve_list_size
from luma_lab.kernels.beam import CACHE_HITS, COUNTS, FINE, Codes, Store
from luma_lab.kernels.graph import COMPARISONS, HOPS, READS
from luma_lab.kernels.rangebeam import GIVEN_UP, range_disk
from luma_lab.kernels.record import scan_records
from luma_lab.kernels.topk import pack_key
from luma_lab.types import DiskStats


class RangedDisk:
    """Mixed into an index whose `_state()` is an `OpenedDisk`: search by radius."""

    def search_range(
        self,
        queries,
        radius,
        *,
        search_list_size=None,
        beam_width=BEAM_WIDTH,
        threads=1,
        mask=None,
        rows=None,
        limit=None,
    ):
        """Find about all rows within `radius` of each query.

        A walk to the query goes on for as long as it finds rows within the radius; distances are
        those of the records read. Where it would read more than a scan of the rows that may be
        answered, these are all compared and the answer is exact.

        Parameters
        ----------
        queries : array of shape (dim,) or (n_queries, dim)
        radius : float
            In the distances of :meth:`search`; rows at just this distance are within.
        search_list_size : int, optional
            L of the walk to the query. Default 64.
        beam_width : int, default 4
            Nodes fetched at a time.
        threads : int, default 1
            Threads that share the queries; 0 stands for all cores.
        mask : bool array of shape (total_rows,), optional
            Only these rows may be answered.
        rows : ascending integers without repeats, optional
            The same as row numbers; not together with `mask`.
        limit : int, optional
            The most rows a query gets; the nearest ones.

        Returns
        -------
        RangeNeighbors
            With `DiskStats`. Rows and distances depend on neither `threads` nor the reader.

        Raises
        ------
        DimensionMismatch, InvalidArgument, StoreClosed
        CorruptStore
            A record does not match its checksum; the message names file and sector.
        StorageError
        """
        opened = self._state()
        radius, limit = check_radius(radius), check_limit(limit)
        list_size = resolve_list_size(search_list_size, 1)
        width = check_integer("beam_width", beam_width, 1, MAX_BEAM_WIDTH)
        chosen = choose(mask, rows, opened.layout.rows)
        threads = check_threads(threads)
        queries = read_only(as_queries(queries, self.dim))
        return RangeOfDisk(opened, queries, radius, chosen, limit).find(list_size, width, threads)


class RangeOfDisk:
    """One range search of an open index.

    Parameters
    ----------
    opened : luma_lab.index.disksearch.OpenedDisk
    queries : float32 array of shape (n_queries, dim)
    radius : float32
    chosen : ascending int64 array or None
        Rows that may be answered.
    limit : int
        0: none.
    """

    def __init__(self, opened, queries, radius, chosen, limit):
        self.opened, self.queries, self.radius, self.limit = opened, queries, radius, limit
        self.use_mask = chosen is not None
        self.chosen = chosen if self.use_mask else np.arange(opened.layout.rows)
        self.metric = opened.quantizer.metric
        self.counts = np.zeros((len(queries), COUNTS), np.int64)
        self.nanoseconds = np.zeros(len(queries), np.int64)

    def find(self, list_size, width, threads):
        """Return the `RangeNeighbors`."""
        found = [None] * len(self.queries)
        layout = self.opened.layout
        blocks = len(np.unique(self.chosen // layout.per_block))
        list_size, budget = min(list_size, max(1, layout.rows)), blocks // SCAN_AHEAD
        if list_size < budget:
            mask = NO_MASK
            if self.use_mask:
                mask = read_only(marked(self.chosen, layout.rows))

            def run(a, b):
                return self._walk(a, b, mask, list_size, width, budget)

            found = shared_by(threads, len(self.queries), run)
        scanned = fill(found, self._scan)
        counts = self.counts
        stats = (counts[:, i].copy() for i in (HOPS, COMPARISONS, READS, CACHE_HITS))
        stats = DiskStats(*stats, self.nanoseconds // 1000)
        return answer_of(found, self.limit, stats)._replace(scanned=scanned)

    def _walk(self, first, last, mask, list_size, width, budget):
        """Return the keys of some queries, None where the walk was given up."""
        opened = self.opened
        codes = Codes(opened.codes, opened.quantizer.CODE, opened.quantizer.code_bytes)
        lent = opened.pool.take(width)
        scratch = lent.for_this_thread()
        store = Store(opened.layout, lent.data, opened.file.checked, *opened.cached)
        found = []
        for start in range(first, last, PREPARED_QUERIES):
            part = slice(start, min(last, start + PREPARED_QUERIES))
            begun = time.perf_counter_ns()
            exact = query_rows(self.queries[part], self.metric, opened.layout.dim)
            probes = opened.quantizer.prepare(self.queries[part])
            preparing = (time.perf_counter_ns() - begun) // len(exact)
            for i in range(len(exact)):
                begun = time.perf_counter_ns()
                keys, status, detail = range_disk(
                    store, codes, scratch, probes, exact, i, opened.entry,
                    METRIC_CODES[self.metric], mask, self.use_mask, self.radius, self.limit,
                    budget, list_size, width, self.counts[part],
                )  # fmt: skip
                if status not in (FINE, GIVEN_UP):
                    raise opened.failure(status, detail)
                found.append(keys if status == FINE else None)
                self.nanoseconds[start + i] += time.perf_counter_ns() - begun + preparing
        opened.pool.give(lent)
        return found

    def _scan(self, pending):
        """Return the keys of some queries (at least one), from a look at every chosen row."""
        begun = time.perf_counter_ns()
        layout = self.opened.layout
        exact = query_rows(read_only(self.queries[pending]), self.metric, layout.dim)
        vector = np.empty(layout.dim, np.float32)
        # The last key that is within; 0.0 also where the radius is -0.0.
        last = pack_key(self.radius + np.float32(0.0), MAX_ROWS)
        found = [[] for _ in pending]
        for part, blocks, places in read_blocks(self.opened.file, self.chosen):
            nodes = self.chosen[part]
            starts = places * layout.block_bytes + nodes % layout.per_block * layout.record_bytes
            step = max(1, MOST_PLACES // len(nodes))
            for at in range(0, len(pending), step):
                some = exact[at : at + step]
                heaps = np.empty((len(some), len(nodes)), np.int64)  # room for all of them
                scan_records(
                    some, blocks.reshape(-1), starts, nodes, layout, vector,
                    METRIC_CODES[self.metric], heaps, np.zeros(len(some), np.int64),
                )  # fmt: skip
                for i, keys in enumerate(heaps, at):
                    self._keep(found[i], keys[keys <= last])
            self.counts[pending, READS] += len(blocks)
        self.counts[pending, COMPARISONS] += len(self.chosen)
        self.nanoseconds[pending] += (time.perf_counter_ns() - begun) // len(pending)
        return [np.concatenate([np.empty(0, np.int64), *parts]) for parts in found]

    def _keep(self, parts, keys):
        """Add keys to those of a query; where they become many more than the limit, cut them."""
        parts.append(keys)
        limit = self.limit
        if limit and sum(map(len, parts)) > 2 * limit + len(keys):
            parts[:] = [np.partition(np.concatenate(parts), limit)[:limit]]
