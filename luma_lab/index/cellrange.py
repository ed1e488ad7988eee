"""All rows within a radius from cells, or by a scan where that costs less."""

import math

import numpy as np

from luma_lab.index.cells import FEW_MATCHES, NO_MASK, NO_VECTORS
from luma_lab.index.lanes import get_lanes
from luma_lab.index.protocol import (
    MAX_ROWS,
    as_queries,
    check_integer,
    check_threads,
    stats_in_memory,
)
from luma_lab.index.ranging import (
    answer_of,
    check_limit,
    check_radius,
    choose,
    fill,
    marked,
    scan_within,
    shared_by,
    split_keys,
)
from luma_lab.index.rows import METRIC_CODES, query_rows, read_only
from luma_lab.kernels.blocks import FLOATS
from luma_lab.kernels.cellrange import range_cells
from luma_lab.kernels.graph import COMPARISONS
from luma_lab.kernels.topk import LOWER_HALF

# Rows compared by code in the time of one that is compared exactly.
CODES_PER_ROW = 2
# Times nprobe, cells in a row without a row within. Where 16 hold the nearest rows of nearly all
# queries, so many in vain left out about 2 % of those within (WordNet, 384 components).
IN_VAIN = 2


class RangedCells:
    """Mixed into an index whose `_cells` are `Cells`: search by radius."""

    def search_range(
        self, queries, radius, *, nprobe=16, threads=1, mask=None, rows=None, limit=None
    ):
        """Find about all rows within `radius` of each query.

        Cells are looked into, the nearest first, for as long as they hold rows within the radius.
        Where a scan costs less, as with a narrow filter, all rows are compared and the answer is
        exact.

        Parameters
        ----------
        queries : array of shape (dim,) or (n_queries, dim)
        radius : float
            In the distances of :meth:`search`; rows at just this distance are within.
        nprobe : int, default 16
            A search ends when twice as many cells in a row held nothing within; with a filter
            more.
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
            The answer does not depend on `threads`. Stats are as of :meth:`search`; cells that
            were looked into in vain, before a scan, count too.

        Raises
        ------
        IndexNotBuilt, DimensionMismatch, InvalidArgument
        """
        cells = self._built(self._cells)
        radius, limit = check_radius(radius), check_limit(limit)
        nprobe = check_integer("nprobe", nprobe, 1, MAX_ROWS)
        chosen = choose(mask, rows, len(cells.live))
        threads = check_threads(threads)
        queries = read_only(as_queries(queries, self.dim))
        return range_of_cells(cells, queries, radius, nprobe, threads, chosen, limit)


def range_of_cells(cells, queries, radius, nprobe, threads, chosen, limit):
    """Return the `RangeNeighbors` of checked queries, see :meth:`RangedCells.search_range`.

    Parameters
    ----------
    cells : luma_lab.index.cells.Cells
    queries : float32 array of shape (n_queries, dim)
    radius : float32
    chosen : ascending int64 array or None
        Rows that may be answered.
    limit : int
        0: none.
    """
    if cells.live_count < len(cells.live):
        chosen = np.flatnonzero(cells.live) if chosen is None else chosen[cells.live[chosen]]
    matches = len(cells.live) if chosen is None else len(chosen)
    counts = np.zeros((len(queries), 4), np.int64)
    found = [None] * len(queries)
    # The rarer matches are, the more cells about those within hold none.
    share = max(1, matches) / max(1, cells.live_count)
    nprobe = math.ceil(IN_VAIN * nprobe / math.sqrt(share))
    looked_at = nprobe * (cells.live_count + cells.dead_count) / max(1, len(cells.sizes))
    budget = matches if cells.quantizer is None else CODES_PER_ROW * matches
    if matches > FEW_MATCHES and len(cells.sizes) + looked_at < budget:
        found = _probe(cells, queries, radius, nprobe, threads, chosen, limit, budget, counts)

    def scan(pending):
        asked = query_rows(queries[pending], cells.coarse.metric, cells.coarse.dim)
        counts[pending, COMPARISONS] += matches
        return _scan(cells, asked, radius, threads, chosen, limit)

    scanned = fill(found, scan)
    stats = stats_in_memory(counts, cells.quantizer)
    return answer_of(found, limit, stats)._replace(scanned=scanned)


def _probe(cells, queries, radius, nprobe, threads, chosen, limit, budget, counts):
    """Return the keys of each query, None where looking into cells was given up."""
    coarse, quantizer = cells.coarse, cells.quantizer
    kind, ruler, vectors = FLOATS, coarse, NO_VECTORS
    if quantizer is not None:
        kind, ruler, vectors = quantizer.CODE, quantizer, cells.vectors
    mask = NO_MASK if chosen is None else read_only(marked(chosen, len(cells.live)))

    def run(a, b):
        sizes = np.zeros(b - a, np.int64)
        keys = range_cells(
            kind, ruler.constants_at, ruler.query_bytes, coarse.mean_, cells.centroid_blocks,
            cells.bias, cells.starts, cells.sizes, cells.extremes, cells.numbers, cells.blocks,
            vectors, queries[a:b], METRIC_CODES[coarse.metric], mask, chosen is not None, nprobe,
            radius, limit, budget, sizes, counts[a:b],
        )  # fmt: skip
        return split_keys(keys, sizes)

    return shared_by(threads, len(queries), run)


def _scan(cells, queries, radius, threads, chosen, limit):
    """Return what `ranging.scan_within` does of the rows of cells."""
    metric = cells.coarse.metric
    if cells.quantizer is not None:
        return scan_within(cells.vectors, queries, radius, metric, chosen, limit, threads)
    if chosen is None:
        chosen = np.arange(len(cells.live))
    places = np.empty(len(cells.live), np.int64)
    slots = cells.held_slots()
    places[cells.numbers[slots]] = slots
    there = get_lanes(cells.blocks, places[chosen]).view(np.float32)
    found = scan_within(there, queries, radius, metric, None, limit, threads)
    return [keys & ~LOWER_HALF | chosen[(keys & LOWER_HALF) >> 1] << 1 for keys in found]
