"""Approximate search in memory by looking into the cells nearest to a query."""

import threading

import numpy as np

from luma_lab.errors import CorruptStore, UnknownName
from luma_lab.index.cellrange import RangedCells
from luma_lab.index.cells import (
    QUANTIZERS,
    Rooms,
    arrange,
    assemble,
    insert,
    ruler_of,
)
from luma_lab.index.kmeans import Ruler
from luma_lab.index.lanes import blocks_for, get_lanes, line_count
from luma_lab.index.living import Living
from luma_lab.index.progress import reporting
from luma_lab.index.protocol import (
    MAX_ROWS,
    as_mask,
    as_queries,
    as_vectors,
    check_dim,
    check_integer,
    check_k,
    check_metric,
    check_threads,
    stats_in_memory,
)
from luma_lab.index.quantizer import Q8Quantizer
from luma_lab.index.renewing import RenewingCells
from luma_lab.index.rows import Growing, read_only
from luma_lab.kernels.blocks import LANES
from luma_lab.types import Neighbors

NPROBE = 16
# Times as many rows as the cells were trained on: then they are trained again.
GROWTH = 4


class IVFIndex(RangedCells, RenewingCells, Living):
    """Approximate nearest neighbours by looking into the k-means cells nearest to a query.

    Recall is bought with `nprobe`. With a quantizer, rows of a cell are compared by codes and
    those that may be among the nearest, by what rounding can do, are measured again exactly.

    Parameters
    ----------
    dim : int
        Components per vector.
    metric : {"cosine", "dot", "l2"}, default "cosine"
        Cells are those of L2; with "cosine" of vectors scaled to length one.
    nlist : int, optional
        Cells. By default about ``4 * sqrt(n)``, of 16 rows at least on average; then they are
        trained again whenever there are four times as many rows. There are fewer cells than
        asked for where there are fewer distinct rows.
    quantizer : {"q8", "q4", None}, default "q8"
        What cells hold. "q8": codes, about ``n * (dim + 16)`` bytes, beside the vectors as they
        were given: a read-only float32 array (such as a mapped file) is used in place, any
        other is copied. "q4": codes of half the bytes, and more exact looks. None: a padded
        float32 copy of the vectors.
    seed : int, default 0
        Chooses the sample that k-means learns from. Same data, parameters, seed and SIMD level
        give the same bytes, for any number of threads.
    threads : int, default 0
        Threads of :meth:`build`; 0 stands for all cores.

    Attributes
    ----------
    centroids_ : float32 array of shape (cells, dim)
    cell_sizes_ : int64 array of shape (cells,)
        Rows in each cell, those deleted since the last :meth:`consolidate` too.

    Notes
    -----
    Searching is thread-safe, also while rows are added, deleted or consolidated: every call
    looks at the cells of one moment. Changes wait for each other.

    References
    ----------
    .. [1] Jégou et al., "Product quantization for nearest neighbor search", TPAMI 2011.

    Examples
    --------
    >>> import numpy as np
    >>> vectors = np.eye(4, dtype="float32")
    >>> index = IVFIndex(4).build(vectors)
    >>> found = index.search(vectors[:1], k=1)
    >>> found.rows.tolist(), found.distances.tolist()
    ([[0]], [[0.0]])
    """

    KIND = "ivf"
    LEARNED = "trained_rows"

    def __init__(self, dim, metric="cosine", *, nlist=None, quantizer="q8", seed=0, threads=0):
        self.dim = check_dim(dim)
        self.metric = check_metric(metric)
        self.nlist = None if nlist is None else check_integer("nlist", nlist, 1, MAX_ROWS)
        if quantizer not in QUANTIZERS:
            raise UnknownName("quantizer", quantizer, QUANTIZERS)
        self.quantizer = quantizer
        self.seed = check_integer("seed", seed, 0, 2**63 - 1)
        check_threads(threads)
        self.threads = threads
        self._cells = None
        self._rooms = None
        self._trained_rows = 0
        self._changing = threading.RLock()

    def build(self, vectors, progress=False):
        """Train the cells on `vectors` (n, dim) and put these in; return self.

        Parameters
        ----------
        progress : bool or callable
            True shows a progress bar; a callable gets the finished fraction, 0 to 1, and may
            raise to end the build: then the index stays as it was.

        Raises
        ------
        DimensionMismatch, InvalidArgument
            The index is left as it was.
        """
        checked = as_vectors(vectors, self.dim)
        with reporting(progress, "ivf") as report:
            cells = self._arrange(checked, vectors, report)
            report(1.0)
        with self._changing:
            self._adopt(cells, len(checked))
        self._disk_bytes = 0
        return self

    def _arrange(self, vectors, given, report):
        return arrange(
            vectors,
            given,
            self.metric,
            self.quantizer,
            nlist=self.nlist,
            seed=self.seed,
            threads=check_threads(self.threads),
            report=report,
        )

    def _adopt(self, cells, trained_rows):
        self._rooms = Rooms(cells)
        self._trained_rows = trained_rows
        self._set(cells)

    def _set(self, cells):
        self._cells = cells
        self._vectors = cells.blocks if cells.vectors is None else cells.vectors

    def search(self, queries, k=10, *, nprobe=NPROBE, rerank=None, threads=1, mask=None, rows=None):
        """Find about the `k` nearest rows of each query.

        Parameters
        ----------
        queries : array of shape (dim,) or (n_queries, dim)
        k : int
        nprobe : int, default 16
            Cells to look into; all, if there are no more. Further ones are looked into for as
            long as `k` rows are not found.
        rerank : int, optional
            How many rows, the best by their codes, are measured exactly at most; at least `k`.
            By default as many as their codes leave open.
        threads : int, default 1
            Threads that share the queries; 0 stands for all cores.
        mask : bool array of shape (total_rows,), optional
            Only these rows may be answered. Few are scanned exactly, many are filtered from
            more cells; each query gets ``min(k, mask.sum())`` rows.
        rows : ascending integers without repeats, optional
            The same as row numbers; not together with `mask`.

        Returns
        -------
        Neighbors
            The answer does not depend on `threads`. Of the stats, hops are cells and
            comparisons are rows in them.

        Raises
        ------
        IndexNotBuilt, DimensionMismatch, InvalidArgument
        """
        cells = self._built(self._cells)
        queries = as_queries(queries, self.dim)
        k = check_k(k)
        nprobe = check_integer("nprobe", nprobe, 1, MAX_ROWS)
        rerank = MAX_ROWS if rerank is None else check_integer("rerank", rerank, k)
        threads = 1 if threads == 1 else check_threads(threads)
        if mask is not None or rows is not None:
            mask = as_mask(mask, rows, len(cells.live))
        rows, distances, counts = cells.search(queries, k, nprobe, rerank, threads, mask)
        return Neighbors(rows, distances, stats_in_memory(counts, self.quantizer))

    def add(self, vectors):
        """Insert vectors (dim,) or (n, dim); return their row numbers, int64 (n,).

        Searches may go on meanwhile, and meet none of the new rows before all are in.

        Raises
        ------
        IndexNotBuilt, DimensionMismatch, InvalidArgument
            The index is left as it was.
        """
        vectors = self._as_added(vectors)
        with self._changing:
            cells = self._built(self._cells)
            if not len(vectors):
                return np.empty(0, np.int64)
            free = cells.free_rows()[: len(vectors)]
            behind = np.arange(len(cells.live), len(cells.live) + len(vectors) - len(free))
            numbers = np.concatenate([free, behind])
            if cells.live_count == 0 or self._has_outgrown(cells.live_count + len(vectors)):
                self._train_again(cells, numbers, vectors)
            else:
                homes = self._homes(cells, vectors)
                threads = check_threads(self.threads)
                self._set(insert(cells, self._rooms, numbers, vectors, homes, threads))
        return numbers

    def _has_outgrown(self, rows):
        return self.nlist is None and rows > GROWTH * self._trained_rows

    def _homes(self, cells, vectors):
        """Return the cell of each new row: int32 (m,)."""
        quantizer = cells.coarse
        ruler = Ruler(
            vectors, quantizer, quantizer.encode(vectors[:0]), check_threads(self.threads)
        )
        ruler.use_floats()
        homes, _ = ruler.assign(cells.centroids)
        return homes

    def _train_again(self, cells, numbers, vectors):
        """Arrange the live rows and new ones in new cells; numbers stay."""
        slots = cells.held_slots()
        slots = slots[cells.live[cells.numbers[slots]]]
        held = cells.numbers[slots]
        if cells.vectors is None:
            old = get_lanes(cells.blocks, slots).view(np.float32)
        else:
            old = cells.vectors[held]
        numbers = np.concatenate([held, numbers])
        order = np.argsort(numbers)
        total = max(len(cells.live), int(numbers.max()) + 1)
        rows = read_only(np.concatenate([old, vectors])[order])
        made = self._arrange(rows, rows, lambda fraction: None)
        live = np.zeros(total, bool)
        live[numbers] = True
        renumbered = numbers[order][made.numbers] if len(order) else made.numbers
        made = made._replace(numbers=read_only(renumbered.astype(np.int32)))
        if made.vectors is not None:
            there = np.zeros((total, self.dim), np.float32)
            there[numbers[order]] = rows
            made = made._replace(vectors=read_only(there))
        self._adopt(made._replace(live=live), len(rows))

    @property
    def _moment(self):
        return self._cells

    def _forget(self, cells, count):
        self._set(cells._replace(dead_count=cells.dead_count + count))

    def consolidate(self):
        """Take deleted rows out of their cells and free their numbers for :meth:`add`.

        Searches may go on meanwhile, on the cells as they were. Returns self.
        """
        with self._changing:
            cells = self._built(self._cells)
            if cells.dead_count:
                cells = cells.packed()
                self._rooms.blocks = Growing(cells.blocks)
                self._rooms.numbers = Growing(cells.numbers)
                self._set(cells)
        return self

    @property
    def centroids_(self):
        """Means of the cells: float32 array of shape (cells, dim); None before a build."""
        return None if self._cells is None else self._cells.centroids

    @property
    def cell_sizes_(self):
        """Rows in each cell: int64 array of shape (cells,); None before a build."""
        return None if self._cells is None else self._cells.sizes

    @property
    def memory_bytes(self):
        """Bytes of centroids and of what cells hold; with codes without the exact vectors."""
        if self._cells is None:
            return 0
        cells, rooms = self._cells, self._rooms
        arrays = (
            cells.centroids, cells.centroid_blocks, cells.bias, cells.starts, cells.sizes,
            cells.rooms, cells.extremes, cells.coarse.mean_,
        )  # fmt: skip
        return (
            rooms.blocks.nbytes
            + rooms.numbers.nbytes
            + cells.live.nbytes
            + sum(array.nbytes for array in arrays)
        )

    def _arrays(self):
        cells = self._built(self._cells)
        if not cells.is_packed:
            # Dead rows stay: what is loaded is what was saved.
            cells = cells._replace(dead_count=0).packed()
        arrays = {
            "mean": cells.coarse.mean_,
            "centroids": cells.centroids,
            "bias": cells.bias,
            "sizes": cells.sizes,
            "extremes": cells.extremes,
            "rows": cells.numbers[cells.held_slots()],
            "blocks": cells.blocks,
        }
        if self._cells.live_count < len(cells.live):
            arrays["live"] = self._cells.live
        if cells.vectors is not None:
            arrays["vectors"] = cells.vectors
        return arrays

    def _parameters(self):
        return {
            "dim": self.dim,
            "metric": self.metric,
            "nlist": self.nlist,
            "quantizer": self.quantizer,
            "seed": self.seed,
            "trained_rows": self._trained_rows,
        }

    @classmethod
    def _restore(cls, parameters, arrays, check):
        trained_rows = check_integer("trained_rows", parameters["trained_rows"], 0)
        index = cls(**{name: value for name, value in parameters.items() if name != "trained_rows"})
        coarse = Q8Quantizer(index.dim, index.metric)
        check("mean", np.float32, (index.dim,))
        coarse.mean_ = read_only(arrays["mean"])
        ruler = ruler_of(index.quantizer, coarse)
        check("rows", np.int32, (None,))
        check("sizes", np.int64, (None,))
        rows, sizes = arrays["rows"], np.array(arrays["sizes"])
        check("centroids", np.float32, (len(sizes), index.dim))
        check("bias", np.float32, (len(sizes),))
        check("extremes", np.float32, (len(sizes), 2))
        if ruler is not None:
            check("vectors", np.float32, (None, index.dim))
        vectors = arrays.get("vectors")
        if "live" in arrays:
            check("live", np.bool_, (None,))
            live = np.array(arrays["live"])
        else:
            live = np.ones(len(rows), bool)
        # Kernels trust numbers and sizes, so wrong ones must not come in.
        sizes_fit = len(rows) == sizes.sum() and sizes.min(initial=0) >= 0
        rows_fit = rows.min(initial=0) >= 0 and rows.max(initial=-1) < len(live)
        if not sizes_fit or not rows_fit or (vectors is not None and len(vectors) != len(live)):
            raise CorruptStore(
                f"cells of {sizes.sum()} rows, {len(rows)} row numbers up to "
                f"{rows.max(initial=-1)} and {len(live)} rows do not belong together"
            )
        times = np.bincount(rows, minlength=len(live))
        if times.max(initial=0) > 1 or (times[live] == 0).any():
            raise CorruptStore("a row lies in two cells or in none")
        lines = line_count(index.dim, ruler)
        check("blocks", np.uint32, (int(blocks_for(sizes).sum()), lines, LANES))
        cells = assemble(
            coarse, ruler, np.array(arrays["centroids"]), np.array(arrays["bias"]), sizes,
            arrays["extremes"], rows, arrays["blocks"], vectors, live,
        )  # fmt: skip
        index._adopt(cells, trained_rows)
        return index
