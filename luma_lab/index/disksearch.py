"""Searches of an open disk index: beam walks, and what masks make of them."""

import itertools
import math
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np

from luma_lab.files import storage_error
from luma_lab.index.cache import read_blocks
from luma_lab.index.reader import WalkPool
from luma_lab.index.rows import METRIC_CODES, query_rows, read_only
from luma_lab.index.sectors import NodeFile
from luma_lab.kernels.beam import COUNTS, DAMAGED, FINE, Codes, Store, walk_disk
from luma_lab.kernels.graph import COMPARISONS, PASS, READS
from luma_lab.kernels.record import scan_records
from luma_lab.kernels.topk import write_heap

BEAM_WIDTH, MAX_BEAM_WIDTH = 4, 256
PREPARED_QUERIES = 32  # at a time: the tables of product quantisation are large
LIST_GROWTH = 4
# Blocks read one after the other in the time of one that a walk asks for and waits for.
SCAN_AHEAD = 8
NO_MASK = read_only(np.empty(0, np.bool_))


class Answer(NamedTuple):
    """Rows and distances (n_queries, k), counts (n_queries, COUNTS), nanoseconds (n_queries,)."""

    rows: np.ndarray
    distances: np.ndarray
    counts: np.ndarray
    nanoseconds: np.ndarray

    @classmethod
    def empty(cls, count, k):
        """Return the answer that nothing was found, for `count` queries."""
        return cls(
            np.full((count, k), -1, np.int64),
            np.full((count, k), np.inf, np.float32),
            np.zeros((count, COUNTS), np.int64),
            np.zeros(count, np.int64),
        )

    def put(self, places, some):
        """Take over the answers of the queries at `places`; work adds up."""
        self.rows[places], self.distances[places] = some.rows, some.distances
        self.counts[places] += some.counts
        self.nanoseconds[places] += some.nanoseconds


class OpenedDisk(NamedTuple):
    """What a search needs of an open index.

    Attributes
    ----------
    file : NodeFile
    quantizer : luma_lab.index.quantizer.Quantizer
    codes : uint8 array of shape (n, row_bytes)
    entry : int
        -1 without rows.
    cached : tuple
        Nodes and records, see `cache.fill_cache`.
    pool : WalkPool
    """

    file: NodeFile
    quantizer: Any
    codes: np.ndarray
    entry: int
    cached: tuple
    pool: WalkPool

    @property
    def layout(self):
        """How the records lie in the file."""
        return self.file.layout

    def search(self, queries, k, list_size, width, threads, mask):
        """Answer checked queries (n_queries, dim); return an `Answer`.

        Parameters
        ----------
        mask : read-only bool array of shape (n,), or None
        """
        answer = Answer.empty(len(queries), k)
        if mask is not None:
            self._masked(queries, list_size, width, threads, mask, answer)
        elif self.layout.rows:
            self._walk(queries, list_size, width, threads, None, answer)
        return answer

    def _walk(self, queries, list_size, width, threads, mask, answer):
        list_size = min(list_size, self.layout.rows)
        use_mask = mask is not None
        mask = mask if use_mask else NO_MASK
        codes = Codes(self.codes, self.quantizer.CODE, self.quantizer.code_bytes)
        metric = METRIC_CODES[self.quantizer.metric]

        def run(first, last):
            lent = self.pool.take(width)
            scratch = lent.for_this_thread()
            store = Store(self.layout, lent.data, self.file.checked, *self.cached)
            keys = np.empty(list_size, np.int64)
            for start in range(first, last, PREPARED_QUERIES):
                part = slice(start, min(last, start + PREPARED_QUERIES))
                begun = time.perf_counter_ns()
                exact = query_rows(queries[part], self.quantizer.metric, self.layout.dim)
                probes = self.quantizer.prepare(queries[part])
                rows, distances, counts = (array[part] for array in answer[:3])
                preparing = (time.perf_counter_ns() - begun) // len(exact)
                for i in range(len(exact)):
                    begun = time.perf_counter_ns()
                    status, detail = walk_disk(
                        store, codes, scratch, probes, exact, i, self.entry, metric, mask,
                        use_mask, keys, width, rows, distances, counts,
                    )  # fmt: skip
                    if status != FINE:
                        raise self.failure(status, detail)
                    spent = time.perf_counter_ns() - begun + preparing
                    answer.nanoseconds[start + i] += spent
            self.pool.give(lent)

        count = len(queries)
        threads = min(threads, count)
        if threads <= 1:
            run(0, count)
            return
        cuts = [count * i // threads for i in range(threads + 1)]
        with ThreadPoolExecutor(threads) as pool:
            for job in [pool.submit(run, *cut) for cut in itertools.pairwise(cuts)]:
                job.result()

    def failure(self, status, detail):
        """Return the error that a walk which did not end well stands for."""
        if status == DAMAGED:
            return self.file.damaged(detail)
        return storage_error(OSError(int(detail), "io_submit"), self.file.path)

    def _masked(self, queries, list_size, width, threads, mask, answer):
        """Filter walks while they read less than a scan of the matching rows.

        As `Graph._masked` does in memory: the list grows with total / matches, and for queries
        that still find too few it grows further, until their matches are scanned.
        """
        layout = self.layout
        chosen = np.flatnonzero(mask)
        matches = len(chosen)
        if not matches or not len(queries):
            return
        blocks = len(np.unique(chosen // layout.per_block))
        k = answer.rows.shape[1]
        enough = max(min(k, matches), min(list_size, matches) // 2)
        longer = math.ceil(list_size * layout.rows / matches)
        pending = np.arange(len(queries))
        while len(pending) and longer * SCAN_AHEAD < blocks:
            some = Answer.empty(len(pending), k)
            asked = read_only(queries[pending])
            self._walk(asked, longer, width, threads, mask, some)
            answer.put(pending, some)
            pending = pending[some.counts[:, PASS] < enough]
            longer *= LIST_GROWTH
        if len(pending):
            answer.put(pending, self._scan(read_only(queries[pending]), k, chosen))

    def _scan(self, queries, k, chosen):
        """Measure every chosen row exactly, reading each block once for all queries."""
        begun = time.perf_counter_ns()
        layout = self.layout
        some = Answer.empty(len(queries), k)
        exact = query_rows(queries, self.quantizer.metric, self.layout.dim)
        heaps = np.empty((len(queries), min(k, len(chosen))), np.int64)
        sizes = np.zeros(len(queries), np.int64)
        vector = np.empty(self.layout.dim, np.float32)
        for part, blocks, places in read_blocks(self.file, chosen):
            nodes = chosen[part]
            starts = places * layout.block_bytes + nodes % layout.per_block * layout.record_bytes
            scan_records(
                exact, blocks.reshape(-1), starts, nodes, layout, vector,
                METRIC_CODES[self.quantizer.metric], heaps, sizes,
            )  # fmt: skip
            some.counts[:, READS] += len(blocks)
        for i in range(len(queries)):
            write_heap(heaps[i], sizes[i], some.rows[i], some.distances[i])
        some.counts[:, COMPARISONS] = len(chosen)
        some.nanoseconds[:] = (time.perf_counter_ns() - begun) // len(queries)
        return some
