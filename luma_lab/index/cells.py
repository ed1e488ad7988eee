"""Rows that lie together by cell: what one search of an `IVFIndex` sees, and how it changes.

A change makes a new `Cells` and leaves the old one searchable: new rows are written to slots no
older one knows of. A cell without room moves to the end with more of it; when too many slots
are waste, all are packed again.
"""

import itertools
import math
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np

from luma_lab.index.flat import scan
from luma_lab.index.kmeans import centroid_blocks, default_nlist, train_cells
from luma_lab.index.lanes import (
    blocks_for,
    get_lanes,
    put_lanes,
    q8_lanes,
    row_lanes,
    to_blocks,
)
from luma_lab.index.quantizer import Q4Quantizer, Q8Quantizer
from luma_lab.index.rows import METRIC_CODES, Growing, kept, read_only
from luma_lab.kernels.blocks import FLOATS, LANES
from luma_lab.kernels.cellscan import search_cells
from luma_lab.kernels.cluster import group_rows
from luma_lab.kernels.graph import COMPARISONS
from luma_lab.kernels.quantize import ROW_CONSTANT_BYTES

QUANTIZERS = {None: None, "q8": Q8Quantizer, "q4": Q4Quantizer}
NO_PLACES = np.empty(0, np.int64)
NO_MASK = read_only(np.empty(0, np.bool_))
NO_VECTORS = read_only(np.empty((0, 0), np.float32))
ROOM_SHARE = 4  # of its rows a cell that moves gets as room for more
REACH = 2.0
WASTE_SHARE = 2  # of the slots at most, before they are packed again
# Matches that are scanned exactly, whatever it costs to look into cells.
FEW_MATCHES = 1000


class Rooms:
    """Where the arrays of `Cells` lie, with room to grow."""

    def __init__(self, cells):
        self.blocks = Growing(cells.blocks)
        self.numbers = Growing(cells.numbers)
        self.vectors = None if cells.vectors is None else Growing(cells.vectors)

    def put_lanes(self, slots, lanes, total):
        """Write lanes to slots and return the first `total` blocks, read-only.

        Lanes nobody wrote hold anything.
        """
        blocks = self.blocks.put(NO_PLACES, 0, total)
        put_lanes(blocks, slots, lanes)
        return read_only(blocks)

    def put_numbers(self, slots, numbers, total):
        """Write row numbers to slots and return the first `total`, read-only."""
        return read_only(self.numbers.put(slots, numbers.astype(np.int32), total))


class Cells(NamedTuple):
    """Rows by cell at one moment.

    Attributes
    ----------
    coarse : Q8Quantizer
        Of the centroids; its mean is that of the rows.
    quantizer : Q8Quantizer, Q4Quantizer or None
        Of the rows.
    centroids : float32 array of shape (nlist, dim)
    centroid_blocks : uint32 array
        Blocks of their codes.
    bias : float32 array of shape (nlist,)
    starts, sizes, rooms : int64 arrays of shape (nlist,)
        First slot of a cell, its rows, and slots there are for it, whole blocks.
    extremes : float32 array of shape (nlist, 2)
        See `kernels.cellscan.search_cells`.
    numbers : int32 array of shape (slots,)
    blocks : uint32 array of shape (slots / LANES, lines, LANES)
        See `index.lanes`.
    vectors : float32 array of shape (n, dim) or None
        The exact rows by number, beside codes only.
    live : bool array of shape (n,)
        Deleted rows are False.
    live_count : int
    dead_count : int
        Deleted rows that still take a slot.
    is_packed : bool
        Cells follow one another with no more room than whole blocks need.
    """

    coarse: Q8Quantizer
    quantizer: Any
    centroids: np.ndarray
    centroid_blocks: np.ndarray
    bias: np.ndarray
    starts: np.ndarray
    sizes: np.ndarray
    rooms: np.ndarray
    extremes: np.ndarray
    numbers: np.ndarray
    blocks: np.ndarray
    vectors: Any
    live: np.ndarray
    live_count: int
    dead_count: int
    is_packed: bool = True

    def search(self, queries, k, nprobe, rerank, threads, mask):
        """Answer float32 queries (n_queries, dim); return rows, distances, counts (n_queries, 4).

        mask : bool array of shape (n,) or None
            Rows that may be answered; deleted ones never are.
        """
        matches = self.live_count
        mean_size = (matches + self.dead_count) / max(1, len(self.sizes))
        if mask is None:
            enough = min(k, matches)
            if self.dead_count:
                mask = self.live
        else:
            if self.live_count < len(self.live):
                mask = mask & self.live
            matches = int(np.count_nonzero(mask))
            looked_at = len(self.sizes) + nprobe * mean_size
            if matches <= max(FEW_MATCHES, looked_at / 2):
                return self._scan(queries, k, mask, threads)
            # The rarer matches are, the more cells hold the k nearest of them.
            share = math.sqrt(matches / self.live_count)
            enough = max(min(k, matches), math.ceil(nprobe * mean_size * share / 2))
            nprobe = math.ceil(nprobe / share)
        return self._probe(queries, k, nprobe, enough, min(k, matches), rerank, threads, mask)

    def _probe(self, queries, k, nprobe, enough, found, rerank, threads, mask):
        count = len(queries)
        rows = np.empty((count, k), np.int64)
        distances = np.empty((count, k), np.float32)
        counts = np.zeros((count, 4), np.int64)
        if found == 0:
            rows.fill(-1)
            distances.fill(np.inf)
            return rows, distances, counts
        coarse, quantizer = self.coarse, self.quantizer
        kind, ruler, vectors = FLOATS, coarse, NO_VECTORS
        if quantizer is not None:
            kind, ruler, vectors = quantizer.CODE, quantizer, self.vectors
        use_mask = mask is not None
        mask = read_only(mask) if use_mask else NO_MASK

        def run(queries, *answer):
            search_cells(
                kind, ruler.constants_at, ruler.query_bytes, coarse.mean_, self.centroid_blocks,
                self.bias, self.starts, self.sizes, self.extremes, self.numbers, self.blocks,
                vectors, queries, METRIC_CODES[coarse.metric], mask, use_mask, nprobe, enough,
                found, rerank, *answer,
            )  # fmt: skip

        work = read_only(queries), rows, distances, counts
        if threads == 1 or count < 2:
            run(*work)
            return rows, distances, counts
        threads = min(threads, count)
        cuts = [count * i // threads for i in range(threads + 1)]
        parts = [[array[a:b] for array in work] for a, b in itertools.pairwise(cuts)]
        with ThreadPoolExecutor(threads) as pool:
            for job in [pool.submit(run, *part) for part in parts]:
                job.result()
        return rows, distances, counts

    def _scan(self, queries, k, mask, threads):
        """Answer exactly from the rows in `mask`."""
        chosen = np.flatnonzero(mask)
        counts = np.zeros((len(queries), 4), np.int64)
        counts[:, COMPARISONS] = len(chosen)
        metric = self.coarse.metric
        if self.quantizer is not None:
            rows, distances = scan(
                self.vectors, queries, k, metric, chosen, 0, len(self.live), threads
            )
            return rows, distances, counts
        places = np.empty(len(self.live), np.int64)
        slots = self.held_slots()
        places[self.numbers[slots]] = slots
        there = get_lanes(self.blocks, places[chosen]).view(np.float32)
        rows, distances = scan(there, queries, k, metric, None, 0, len(there), threads)
        if len(chosen):
            rows = np.where(rows < 0, -1, chosen[rows])
        return rows, distances, counts

    def held_slots(self):
        """Return the slots that hold rows, deleted ones too, cell by cell: int64."""
        return spans(self.starts, self.sizes)

    def free_rows(self):
        """Return the numbers of deleted rows that take no slot any more, ascending."""
        if self.live_count + self.dead_count == len(self.live):
            return np.empty(0, np.int64)
        taken = self.live.copy()
        taken[self.numbers[self.held_slots()]] = True
        return np.flatnonzero(~taken)

    def packed(self):
        """Return the same without room, waste and deleted rows."""
        slots = self.held_slots()
        sizes = self.sizes
        if self.dead_count:
            lives = self.live[self.numbers[slots]]
            cells = np.repeat(np.arange(len(sizes)), sizes)
            sizes = np.bincount(cells[lives], minlength=len(sizes))
            slots = slots[lives]
        starts, new, blocks = packed_places(sizes)
        numbers = np.zeros(blocks * LANES, np.int32)
        numbers[new] = self.numbers[slots]
        return self._replace(
            starts=read_only(starts),
            sizes=read_only(sizes),
            rooms=LANES * blocks_for(sizes),
            numbers=read_only(numbers),
            blocks=read_only(to_blocks(get_lanes(self.blocks, slots), new, blocks)),
            dead_count=0,
            is_packed=True,
        )


def spans(starts, sizes):
    """Return the numbers ``starts[c]`` to ``starts[c] + sizes[c]`` of all c, one after another."""
    before = np.cumsum(sizes) - sizes
    return np.arange(int(sizes.sum())) + np.repeat(starts - before, sizes)


def insert(cells, rooms, numbers, vectors, homes, threads):
    """Return `cells` with new rows.

    Parameters
    ----------
    cells : Cells
    rooms : Rooms
        Of the arrays of `cells`; replaced where all are packed again.
    numbers : int64 array of shape (m,)
        The new rows' numbers: freed ones, and those behind the last.
    vectors : float32 array of shape (m, dim)
    homes : int32 array of shape (m,)
        The cell of each.
    """
    total = max(len(cells.live), int(numbers.max()) + 1)
    lanes = row_lanes(vectors, cells.coarse.metric, cells.quantizer, threads)
    if cells.quantizer is not None:
        cells = cells._replace(vectors=read_only(rooms.vectors.put(numbers, vectors, total)))
    counts = np.bincount(homes, minlength=len(cells.sizes))
    cells = _with_room(cells, rooms, counts)
    order = np.argsort(homes, kind="stable")
    slots = spans(cells.starts + cells.sizes, counts)
    live = np.concatenate([cells.live, np.zeros(total - len(cells.live), bool)])
    live[numbers] = True
    return cells._replace(
        blocks=rooms.put_lanes(slots, lanes[order], len(cells.blocks)),
        numbers=rooms.put_numbers(slots, numbers[order], len(cells.numbers)),
        sizes=read_only(cells.sizes + counts),
        extremes=_widened(cells.extremes, homes, lanes, cells.quantizer),
        live=live,
        live_count=cells.live_count + len(numbers),
        is_packed=False,
    )


def _widened(extremes, homes, lanes, quantizer):
    """Return the extremes of cells with new rows in them."""
    extremes = extremes.copy()
    if quantizer is not None:
        step, _, square, _ = lanes[:, -ROW_CONSTANT_BYTES // 4 :].T
        np.maximum.at(extremes[:, 0], homes, step.view(np.float32))
        np.maximum.at(extremes[:, 1], homes, square.view(np.float32))
    return read_only(extremes)


def _with_room(cells, rooms, counts):
    """Return `cells` with room for `counts` (nlist,) more rows in each."""
    wanted = cells.sizes + counts
    tight = np.flatnonzero(wanted > cells.rooms)
    if not len(tight):
        return cells
    new_rooms = cells.rooms.copy()
    new_rooms[tight] = _roomy(wanted[tight])
    end = len(cells.numbers) + int(new_rooms[tight].sum())
    if end > WASTE_SHARE * int(_roomy(wanted).sum()):
        return _with_room_everywhere(cells, rooms, wanted)
    starts = cells.starts.copy()
    starts[tight] = len(cells.numbers) + np.cumsum(new_rooms[tight]) - new_rooms[tight]
    old, new = (spans(at[tight], cells.sizes[tight]) for at in (cells.starts, starts))
    return cells._replace(
        blocks=rooms.put_lanes(new, get_lanes(cells.blocks, old), end // LANES),
        numbers=rooms.put_numbers(new, cells.numbers[old], end),
        starts=read_only(starts),
        rooms=new_rooms,
    )


def _roomy(sizes):
    return LANES * blocks_for(sizes + sizes // ROOM_SHARE)


def _with_room_everywhere(cells, rooms, wanted):
    old = cells.held_slots()
    new_rooms = _roomy(wanted)
    starts = np.cumsum(new_rooms) - new_rooms
    new, end = spans(starts, cells.sizes), int(new_rooms.sum())
    numbers = np.zeros(end, np.int32)
    numbers[new] = cells.numbers[old]
    blocks = to_blocks(get_lanes(cells.blocks, old), new, end // LANES)
    rooms.blocks, rooms.numbers = Growing(blocks, owned=True), Growing(numbers, owned=True)
    return cells._replace(
        blocks=read_only(blocks),
        numbers=read_only(numbers),
        starts=read_only(starts),
        rooms=new_rooms,
    )


def arrange(vectors, given, metric, quantizer, *, nlist, seed, threads, report):
    """Return the `Cells` of checked vectors (n, dim), trained on them.

    Parameters
    ----------
    given : object
        What `vectors` were made of: read-only rows are not copied.
    quantizer : {"q8", "q4", None}
    nlist : int or None
        None stands for `default_nlist`.
    """
    n = len(vectors)
    if quantizer is not None:
        vectors = kept(vectors, given)
    centroids, homes, gaps, coarse, codes = train_cells(
        vectors, metric, nlist or default_nlist(n), seed=seed, threads=threads, report=report
    )
    ruler = ruler_of(quantizer, coarse)
    starts, order = np.empty(len(centroids) + 1, np.int64), np.empty(n, np.int64)
    group_rows(homes, starts, order)
    if quantizer == "q8":
        lanes = q8_lanes(codes, coarse.dim)
    else:
        lanes = row_lanes(vectors, metric, ruler, threads)
    extremes = _widened(np.zeros((len(centroids), 2), np.float32), homes, lanes, ruler)
    sizes = np.diff(starts)
    starts, slots, blocks = packed_places(sizes)
    return assemble(
        coarse, ruler, centroids, _bias(homes, gaps, sizes, coarse), sizes, extremes,
        order.astype(np.int32),
        to_blocks(lanes[order], slots, blocks), None if quantizer is None else vectors,
        np.ones(n, bool),
    )  # fmt: skip


def _bias(homes, gaps, sizes, coarse):
    """Return what is added to the distance between a query of length one and each centroid.

    By inner product the best row of a cell is better than its centroid, by a few deviations of
    a component of rows about it: more in wide cells. `REACH` of 2 recalled most, between 0 and
    8, at equal work. By L2 nothing is added.
    """
    if coarse.metric == "l2":
        return np.zeros(len(sizes), np.float32)
    squares = np.bincount(homes, gaps, len(sizes)) / sizes
    return (-REACH * np.sqrt(squares / coarse.dim)).astype(np.float32)


def ruler_of(quantizer, coarse):
    """Return the quantizer of rows named `quantizer`, with the mean of the centroids' one."""
    if quantizer in (None, "q8"):
        return None if quantizer is None else coarse
    made = QUANTIZERS[quantizer](coarse.dim, coarse.metric)
    made.mean_ = coarse.mean_
    return made


def packed_places(sizes):
    """Return starts, slots of the rows of one cell after another, and how many blocks there are."""
    rooms = LANES * blocks_for(sizes)
    starts = np.cumsum(rooms) - rooms
    return starts, spans(starts, sizes), int(rooms.sum()) // LANES


def assemble(coarse, ruler, centroids, bias, sizes, extremes, rows, blocks, vectors, live):
    """Return the `Cells` of packed arrays.

    rows : int32 array
        Row numbers, cell by cell.
    """
    starts, slots, count = packed_places(sizes)
    numbers = np.zeros(count * LANES, np.int32)
    numbers[slots] = rows
    live_count = int(np.count_nonzero(live))
    return Cells(
        coarse=coarse,
        quantizer=ruler,
        centroids=read_only(centroids),
        centroid_blocks=centroid_blocks(centroids, coarse),
        bias=read_only(bias),
        starts=read_only(starts),
        sizes=read_only(sizes),
        rooms=LANES * blocks_for(sizes),
        extremes=read_only(extremes),
        numbers=read_only(numbers),
        blocks=read_only(blocks),
        vectors=None if vectors is None else read_only(vectors),
        live=live,
        live_count=live_count,
        dead_count=len(rows) - live_count,
    )
