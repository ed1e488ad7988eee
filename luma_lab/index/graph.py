"""A graph that is searched while it changes: what one search sees of an index."""

import itertools
import math
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np

from luma_lab.index.rows import read_only
from luma_lab.index.scratch import ScratchPool
from luma_lab.kernels.graph import COMPARISONS, PASS

# A walk computes about this many distances per place of its list, at the default degree.
COMPARISONS_PER_PLACE = 24
LIST_GROWTH = 4
NO_MASK = read_only(np.empty(0, np.bool_))


class Graph(NamedTuple):
    """Nodes and links at one moment. Changes make a new one and leave this one searchable.

    Attributes
    ----------
    nodes : luma_lab.index.nodes.FloatNodes or CodedNodes
    neighbors : int32 array of shape (n, degree)
    entry : int
        -1 without live nodes.
    live : bool array of shape (n,)
        Deleted nodes are False.
    live_count : int
    linked_dead : int
        Deleted nodes that edges still lead through.
    scratches : ScratchPool
    """

    nodes: Any
    neighbors: np.ndarray
    entry: int
    live: np.ndarray
    live_count: int
    linked_dead: int
    scratches: ScratchPool

    def search(self, queries, k, list_size, threads, mask, rows=None):
        """Answer prepared queries; return rows, distances and counts (n_queries, 4).

        Parameters
        ----------
        mask : bool array of shape (n,) or None
            Rows that may be answered; deleted ones never are.
        rows : ascending int64 array or None
            The same as row numbers.
        """
        if rows is not None:
            if self.live_count < len(self.live):
                rows = rows[self.live[rows]]
            return self._among(queries, k, list_size, threads, None, rows, len(rows))
        if mask is None:
            if self.linked_dead == 0:
                return self._walk(queries, k, list_size, threads, NO_MASK, False)
            mask, matches = self.live, self.live_count
        else:
            if self.live_count < len(self.live):
                mask = mask & self.live
            matches = int(np.count_nonzero(mask))
        return self._among(queries, k, list_size, threads, mask, None, matches)

    def _walk(self, queries, k, list_size, threads, mask, use_mask):
        count = len(queries)
        rows = np.empty((count, k), np.int64)
        distances = np.empty((count, k), np.float32)
        counts = np.zeros((count, 4), np.int64)
        if self.entry < 0:
            rows.fill(-1)
            distances.fill(np.inf)
            return rows, distances, counts
        list_size = min(list_size, len(self.nodes))
        answer = rows, distances, counts
        if threads == 1 or count < 2:
            self._walk_some(queries, mask, use_mask, list_size, answer)
            return answer
        threads = min(threads, count)
        cuts = [count * i // threads for i in range(threads + 1)]
        with ThreadPoolExecutor(threads) as pool:
            jobs = [
                pool.submit(
                    self._walk_some, queries[a:b], mask, use_mask, list_size,
                    tuple(array[a:b] for array in answer),
                )
                for a, b in itertools.pairwise(cuts)
            ]  # fmt: skip
            for job in jobs:
                job.result()
        return answer

    def _walk_some(self, queries, mask, use_mask, list_size, answer):
        scratch = self.scratches.take()
        self.nodes.walk(
            queries, self.neighbors, self.entry, mask, use_mask, list_size, scratch, answer
        )
        self.scratches.give(scratch)

    def _among(self, queries, k, list_size, threads, mask, chosen, matches):
        """Filter walks while they are cheaper than a scan of the matching rows.

        To meet as many matches, the list grows by total / matches. If far fewer passed, the
        mask excludes what is near to that query: its list grows further, and in the end its
        matches are scanned. The matches are given as a mask or as the `chosen` rows.
        """
        linked = self.live_count + self.linked_dead
        rows = np.empty((len(queries), k), np.int64)
        distances = np.empty((len(queries), k), np.float32)
        counts = np.zeros((len(queries), 4), np.int64)
        enough = max(min(k, matches), min(list_size, matches) // 2)
        longer = math.ceil(list_size * linked / max(1, matches))
        pending = np.arange(len(queries))
        step = COMPARISONS_PER_PLACE * self.nodes.scanned_per_step
        while len(pending) and longer * step < matches:
            if mask is None:
                mask = np.zeros(len(self.live), bool)
                mask[chosen] = True
            mask = read_only(mask)
            some = self._walk(read_only(queries[pending]), k, longer, threads, mask, True)
            rows[pending], distances[pending] = some[:2]
            counts[pending] += some[2]
            pending = pending[some[2][:, PASS] < enough]
            longer *= LIST_GROWTH
        if len(pending):
            chosen = np.flatnonzero(mask) if chosen is None else chosen
            some = self.nodes.scan(read_only(queries[pending]), k, chosen, threads)
            rows[pending], distances[pending] = some
            counts[pending, COMPARISONS] += matches
        return rows, distances, counts
