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
from luma_lab.index.kmeans import code_centroids, default_nlist, train_cells
from luma_lab.index.quantizer import Q4Quantizer, Q8Quantizer
from luma_lab.index.rows import (
    METRIC_CODES,
    Growing,
    aligned_empty,
    graph_rows,
    kept,
    query_rows,
    read_only,
)
from luma_lab.kernels.cellscan import FLOATS, measure_extremes, search_cells
from luma_lab.kernels.cluster import group_rows
from luma_lab.kernels.graph import COMPARISONS

QUANTIZERS = {None: None, "q8": Q8Quantizer, "q4": Q4Quantizer}
NO_MASK = read_only(np.empty(0, np.bool_))
NO_CODES = read_only(np.empty((0, 0), np.uint8))
ROOM_SHARE = 4  # of its rows a cell that moves gets as room for more
LEAST_ROOM = 8
WASTE_SHARE = 2  # of the slots at most, before they are packed again
# Matches that are scanned exactly, whatever it costs to look into cells.
FEW_MATCHES = 1000


class Rooms:
    """Where the arrays of `Cells` lie, with room to grow."""

    def __init__(self, codes, numbers, live, vectors):
        self.codes = Growing(codes)
        self.numbers = Growing(numbers)
        self.live = Growing(live)
        self.vectors = None if vectors is None else Growing(vectors)


class Cells(NamedTuple):
    """Rows by cell at one moment.

    Attributes
    ----------
    coarse : Q8Quantizer
        Of the centroids; its mean is that of the rows.
    quantizer : Q8Quantizer, Q4Quantizer or None
        Of the rows.
    centroids : float32 array of shape (nlist, stride)
    centroid_codes : uint8 array of shape (nlist, row_bytes)
    bias : float32 array of shape (nlist,)
    starts, sizes, rooms : int64 arrays of shape (nlist,)
        First slot of a cell, its rows, and slots there are for it.
    extremes : float32 array of shape (nlist, 2)
        See `kernels.cellscan.measure_extremes`.
    numbers : int32 array of shape (slots,)
    codes : uint8 array of shape (slots, row_bytes), or float32 of shape (slots, stride)
    vectors : float32 array of shape (n, dim) or None
        The exact rows by number, beside codes only.
    live : bool array of shape (n,)
        Deleted rows are False.
    live_count : int
    dead_count : int
        Deleted rows that still take a slot.
    """

    coarse: Q8Quantizer
    quantizer: Any
    centroids: np.ndarray
    centroid_codes: np.ndarray
    bias: np.ndarray
    starts: np.ndarray
    sizes: np.ndarray
    rooms: np.ndarray
    extremes: np.ndarray
    numbers: np.ndarray
    codes: np.ndarray
    vectors: Any
    live: np.ndarray
    live_count: int
    dead_count: int

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
        if quantizer is None:
            kind, ruler, codes, vectors = FLOATS, coarse, NO_CODES, self.codes
        else:
            kind, ruler, codes, vectors = quantizer.CODE, quantizer, self.codes, self.vectors
        use_mask = mask is not None
        mask = read_only(mask) if use_mask else NO_MASK

        def run(queries, *answer):
            search_cells(
                kind, ruler.code_bytes, ruler.constants_at, ruler.query_bytes, coarse.mean_,
                self.centroid_codes, coarse.code_bytes, self.bias, self.starts, self.sizes,
                self.extremes, self.numbers, codes, vectors, queries, METRIC_CODES[coarse.metric],
                mask, use_mask, nprobe, enough, found, rerank, *answer,
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
        there = self.codes[places[chosen]]
        queries = query_rows(queries, metric, there.shape[1])
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
        codes = aligned_empty((len(slots), self.codes.shape[1]), self.codes.dtype)
        np.take(self.codes, slots, axis=0, out=codes)
        made = self._replace(
            starts=read_only(np.cumsum(sizes) - sizes),
            sizes=read_only(sizes),
            rooms=sizes,
            numbers=read_only(self.numbers[slots]),
            codes=read_only(codes),
            dead_count=0,
        )
        return made.with_extremes() if self.dead_count else made

    def with_extremes(self, cells=None):
        """Return the same with the extremes of `cells` (by default all) measured anew."""
        if self.quantizer is None:
            return self
        extremes = np.zeros((len(self.sizes), 2), np.float32)
        if cells is None:
            cells = np.arange(len(self.sizes))
        else:
            extremes[:] = self.extremes
        measure_extremes(self.codes, self.starts, self.sizes, cells, extremes)
        return self._replace(extremes=read_only(extremes))


def spans(starts, sizes):
    """Return the numbers ``starts[c]`` to ``starts[c] + sizes[c]`` of all c, one after another."""
    before = np.cumsum(sizes) - sizes
    return np.arange(int(sizes.sum())) + np.repeat(starts - before, sizes)


def row_codes(vectors, metric, quantizer, threads):
    """Return what the slots of vectors (n, dim) hold: codes, or float rows."""
    if quantizer is None:
        return graph_rows(vectors, metric)
    return quantizer.encode(vectors, threads=threads)


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
    metric = cells.coarse.metric
    total = max(len(cells.live), int(numbers.max()) + 1)
    codes = row_codes(vectors, metric, cells.quantizer, threads)
    if cells.quantizer is not None:
        cells = cells._replace(vectors=read_only(rooms.vectors.put(numbers, vectors, total)))
    counts = np.bincount(homes, minlength=len(cells.sizes))
    cells = _with_room(cells, rooms, counts)
    order = np.argsort(homes, kind="stable")
    slots = spans(cells.starts + cells.sizes, counts)
    end = len(cells.numbers)
    sizes = cells.sizes + counts
    live = cells.live
    if total > len(live):
        live = np.concatenate([live, np.zeros(total - len(live), bool)])
    else:
        live = live.copy()
    live[numbers] = True
    rooms.live = Growing(live, owned=True)
    return cells._replace(
        codes=read_only(rooms.codes.put(slots, codes[order], end)),
        numbers=read_only(rooms.numbers.put(slots, numbers[order].astype(np.int32), end)),
        sizes=read_only(sizes),
        live=live,
        live_count=cells.live_count + len(numbers),
    ).with_extremes(np.flatnonzero(counts))


def _with_room(cells, rooms, counts):
    """Return `cells` with room for `counts` (nlist,) more rows in each."""
    wanted = cells.sizes + counts
    tight = np.flatnonzero(wanted > cells.rooms)
    if not len(tight):
        return cells
    new_rooms = cells.rooms.copy()
    new_rooms[tight] = wanted[tight] + np.maximum(LEAST_ROOM, wanted[tight] // ROOM_SHARE)
    end = len(cells.numbers) + int(new_rooms[tight].sum())
    if end > WASTE_SHARE * int(wanted.sum()) + LEAST_ROOM * len(wanted):
        return _with_room_everywhere(cells, rooms, wanted)
    starts = cells.starts.copy()
    starts[tight] = len(cells.numbers) + np.cumsum(new_rooms[tight]) - new_rooms[tight]
    old, new = (spans(at[tight], cells.sizes[tight]) for at in (cells.starts, starts))
    return cells._replace(
        codes=read_only(rooms.codes.put(new, cells.codes[old], end)),
        numbers=read_only(rooms.numbers.put(new, cells.numbers[old], end)),
        starts=read_only(starts),
        rooms=new_rooms,
    )


def _with_room_everywhere(cells, rooms, wanted):
    old = cells.held_slots()
    new_rooms = wanted + np.maximum(LEAST_ROOM, wanted // ROOM_SHARE)
    starts = np.cumsum(new_rooms) - new_rooms
    new = spans(starts, cells.sizes)
    end = int(new_rooms.sum())
    codes = aligned_empty((end, cells.codes.shape[1]), cells.codes.dtype)
    numbers = np.empty(end, np.int32)
    codes[new], numbers[new] = cells.codes[old], cells.numbers[old]
    rooms.codes, rooms.numbers = Growing(codes, owned=True), Growing(numbers, owned=True)
    return cells._replace(
        codes=read_only(codes),
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
    centroids, homes, coarse, codes = train_cells(
        vectors, metric, nlist or default_nlist(n), seed=seed, threads=threads, report=report
    )
    ruler = ruler_of(quantizer, coarse)
    starts, order = np.empty(len(centroids) + 1, np.int64), np.empty(n, np.int64)
    group_rows(homes, starts, order)
    if quantizer is None:
        codes = graph_rows(vectors, metric)
    elif quantizer != "q8":
        codes = ruler.encode(vectors, threads=threads)
    sorted_codes = aligned_empty(codes.shape, codes.dtype)
    np.take(codes, order, axis=0, out=sorted_codes)
    sizes = np.diff(starts)
    return assemble(
        coarse, ruler, graph_rows(centroids, "l2"), sizes, None, order.astype(np.int32),
        sorted_codes, None if quantizer is None else vectors, np.ones(n, bool),
    )  # fmt: skip


def ruler_of(quantizer, coarse):
    """Return the quantizer of rows named `quantizer`, with the mean of the centroids' one."""
    if quantizer in (None, "q8"):
        return None if quantizer is None else coarse
    made = QUANTIZERS[quantizer](coarse.dim, coarse.metric)
    made.mean_ = coarse.mean_
    return made


def assemble(coarse, ruler, centroids, sizes, extremes, numbers, codes, vectors, live):
    """Return the `Cells` of packed arrays; `extremes` are measured if they are None."""
    squares = np.einsum("ij,ij->i", centroids, centroids)
    # Under "cosine" the order is that of L2, as minus the inner product plus half the square.
    bias = squares / 2 if coarse.metric == "cosine" else np.zeros_like(squares)
    made = Cells(
        coarse=coarse,
        quantizer=ruler,
        centroids=read_only(centroids),
        centroid_codes=code_centroids(centroids[:, : coarse.dim], coarse),
        bias=read_only(bias.astype(np.float32)),
        starts=read_only(np.cumsum(sizes) - sizes),
        sizes=read_only(sizes),
        rooms=sizes,
        extremes=read_only(np.zeros((len(sizes), 2), np.float32)) if extremes is None else extremes,
        numbers=read_only(numbers),
        codes=read_only(codes),
        vectors=None if vectors is None else read_only(vectors),
        live=live,
        live_count=int(np.count_nonzero(live)),
        dead_count=len(numbers) - int(np.count_nonzero(live)),
    )
    return made.with_extremes() if extremes is None else made
