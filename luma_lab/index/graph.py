"""A graph that is searched while it changes: what one search sees of an index."""

import itertools
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np

from luma_lab.index.chosen import ChosenRows
from luma_lab.index.nodes import check_walked
from luma_lab.index.rows import read_only
from luma_lab.index.scratch import ScratchPool
from luma_lab.kernels.graph import COMPARISONS, PASS, PATIENCE
from luma_lab.types import CodedStats

# A walk computes about this many distances per place of its list, at the default degree.
COMPARISONS_PER_PLACE = 24
# A walk that likely fails is tried for lists so many times longer, if a scan costs so many tries.
NEAR_LISTS = 2
LEAST_SAVED = 3
# The share of the wanted rows that must be in sight of a walk that should find them, of a try.
LEAST_FITTING, LEAST_TRIED = np.float32(0.25), np.float32(1.5)
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

    @property
    def just_walks(self):
        """Whether all nodes live and are compared by codes."""
        return self.live_count == len(self.live) > 0 and self.nodes.quantizer is not None

    def walk_one(self, query, k, list_size):
        """Return rows, distances and stats of one query of `protocol.one_query`.

        None if it is not finite or too long. Only where the graph :attr:`just_walks`.
        """
        rows = np.empty((1, k), np.int64)
        distances = np.empty((1, k), np.float32)
        counts = np.zeros((1, 4), np.int64)
        scratch = self.scratches.take()
        bad = self.nodes.walk(
            query, self.neighbors, self.entry, NO_MASK, 0, LEAST_FITTING,
            min(list_size, len(self.live)), scratch, (rows, distances, counts),
        )  # fmt: skip
        self.scratches.give(scratch)
        return None if bad == 0 else (rows, distances, CodedStats(counts))

    def filter_one(self, query, k, list_size, chosen):
        """Return what :meth:`walk_one` does, among the `chosen` rows: walked to, or scanned."""
        matches = len(chosen.rows)
        rows = np.empty((1, k), np.int64)
        distances = np.empty((1, k), np.float32)
        counts = np.zeros((1, 4), np.int64)
        scratch = self.scratches.take()
        plan = self._plan(list_size, matches)
        bad, is_answered = -1, False
        if plan is not None:
            longest, least = plan
            bad = self.nodes.walk(
                query, self.neighbors, self.entry, chosen.mask(), list_size, least,
                min(longest, len(self.live)), scratch, (rows, distances, counts),
            )  # fmt: skip
            is_answered = bad == 0 or counts[0, PASS] >= _enough(k, list_size, matches)
        if not is_answered:
            bad = self.nodes.scan_into(query, chosen.rows, scratch, rows, distances)
            counts[0, COMPARISONS] += matches
        self.scratches.give(scratch)
        return None if bad == 0 else (rows, distances, CodedStats(counts))

    def search(self, queries, k, list_size, threads, mask, rows=None):
        """Answer prepared queries; return rows, distances and counts (n_queries, 4).

        Parameters
        ----------
        mask : bool array of shape (n,) or None
            Rows that may be answered; deleted ones never are.
        rows : ChosenRows or None
            The same as row numbers.
        """
        if rows is not None:
            if self.live_count < len(self.live):
                rows = ChosenRows(rows.rows[self.live[rows.rows]], len(self.live), [])
            return self._among(queries, k, list_size, threads, None, rows, len(rows.rows))
        if mask is None:
            if self.linked_dead == 0:
                return self._walk(queries, k, list_size, threads, NO_MASK)
            mask, matches = self.live, self.live_count
        else:
            if self.live_count < len(self.live):
                mask = mask & self.live
            matches = int(np.count_nonzero(mask))
        return self._among(queries, k, list_size, threads, mask, None, matches)

    def _walk(self, queries, k, list_size, threads, mask, wanted=0, least=LEAST_FITTING):
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
            self._walk_some(queries, mask, wanted, least, list_size, answer)
            return answer
        threads = min(threads, count)
        cuts = [count * i // threads for i in range(threads + 1)]
        with ThreadPoolExecutor(threads) as pool:
            jobs = [
                pool.submit(
                    self._walk_some, queries[a:b], mask, wanted, least, list_size,
                    tuple(array[a:b] for array in answer),
                )
                for a, b in itertools.pairwise(cuts)
            ]  # fmt: skip
            for job in jobs:
                job.result()
        return answer

    def _walk_some(self, queries, mask, wanted, least, list_size, answer):
        scratch = self.scratches.take()
        bad = self.nodes.walk(
            queries, self.neighbors, self.entry, mask, wanted, least, list_size, scratch, answer
        )
        self.scratches.give(scratch)
        check_walked(bad)

    def _plan(self, list_size, matches):
        """Return how a filter that `matches` nodes pass is walked with, or None: scan these.

        To meet enough matches at random a list has to hold about total / matches times as many
        rows. It may become as long as costs what the scan does. Where that is too short, a walk is
        worth a try all the same, for the filter may let pass what is near to the query; where it
        excludes that, the walk is given up soon and the matches are scanned after all.

        Returns
        -------
        (longest, least) or None
            The length of the list, and the share of matches in it that is enough to go on for.
        """
        per_step = self.nodes.scanned_per_step
        longest = int(matches / (COMPARISONS_PER_PLACE * per_step))
        if list_size * (self.live_count + self.linked_dead) < longest * matches:
            return longest, LEAST_FITTING
        attempt = PATIENCE * self.neighbors.shape[1] * per_step
        if longest < NEAR_LISTS * list_size or matches < LEAST_SAVED * attempt:
            return None
        return longest, LEAST_TRIED

    def _among(self, queries, k, list_size, threads, mask, chosen, matches):
        """Walk with a filter, or scan the matches: given as a mask or as the `chosen` rows."""
        plan = self._plan(list_size, matches)
        if plan is None:
            matching = np.flatnonzero(mask) if chosen is None else chosen.rows
            rows, distances = self.nodes.scan(queries, k, matching, threads)
            counts = np.zeros((len(queries), 4), np.int64)
            counts[:, COMPARISONS] = matches
            return rows, distances, counts
        if mask is None:
            mask = chosen.mask()
        longest, least = plan
        answer = self._walk(queries, k, longest, threads, read_only(mask), list_size, least)
        rows, distances, counts = answer
        pending = np.flatnonzero(counts[:, PASS] < _enough(k, list_size, matches))
        if len(pending):
            matching = np.flatnonzero(mask) if chosen is None else chosen.rows
            some = self.nodes.scan(read_only(queries[pending]), k, matching, threads)
            rows[pending], distances[pending] = some
            counts[pending, COMPARISONS] += matches
        return answer


def _enough(k, list_size, matches):
    """Return how many matches a filtered walk has to find to be believed."""
    return max(min(k, matches), min(list_size, matches) // 2)
