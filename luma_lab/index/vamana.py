"""Approximate search in memory by walking a pruned graph."""

import itertools
import math
import numbers
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from luma_lab.errors import CorruptStore, InvalidArgument, NotSupported, UnknownName
from luma_lab.index.builder import build_graph
from luma_lab.index.directory import Directory
from luma_lab.index.flat import scan
from luma_lab.index.progress import reporting
from luma_lab.index.protocol import (
    as_queries,
    as_vectors,
    check_dim,
    check_integer,
    check_k,
    check_mask,
    check_metric,
    check_threads,
)
from luma_lab.index.rows import METRIC_CODES, graph_rows, graph_stride, query_rows, read_only
from luma_lab.index.scratch import ScratchPool
from luma_lab.kernels.distance import DOT, L2
from luma_lab.kernels.graph import COMPARISONS, NO_NODE, PASS, search_batch
from luma_lab.types import Neighbors, SearchStats

SEARCH_LIST_SIZE = 64  # recall@10 above 0.95 on the sets we measured
QUANTIZERS = (None, "q8")
# A walk computes about this many distances per place of its list, at the default degree.
COMPARISONS_PER_PLACE = 24
LIST_GROWTH = 4
MAX_DEGREE = 1024
MAX_LIST_SIZE = 1 << 20
NO_MASK = read_only(np.empty(0, np.bool_))
NO_RECORD = np.empty(0, np.int64)


class VamanaIndex(Directory):
    """Approximate nearest neighbours by walking a pruned graph held in memory.

    Recall is bought with `search_list_size`; memory with `max_degree`.

    Parameters
    ----------
    dim : int
        Components per vector.
    metric : {"cosine", "dot", "l2"}, default "cosine"
        With "cosine" vectors are kept scaled to length one, and the graph is that of L2. With
        "dot" lengths may differ widely: edges then lead to large inner products, spread out by
        L2 (see `kernels.prune`).
    max_degree : int, default 48
        R, out-edges kept per node. Memory: ``n * max_degree * 4`` bytes beside the vectors.
    build_list_size : int, default 100
        L while inserting. Larger builds slower and recalls better.
    alpha : float, default 1.2
        Prune slack on squared distances, at least 1. Larger keeps more long edges.
    quantizer : None
        "q8" is not offered yet.
    seed : int, default 0
        Orders the insertions. Same data, parameters, seed and SIMD level give the same bytes,
        for any number of threads.
    threads : int, default 0
        Threads of :meth:`build`; 0 stands for all cores.

    Attributes
    ----------
    neighbors_ : int32 array of shape (n, max_degree), padded with -1
    entry_ : int
        Row nearest to the mean of the data, where walks start; -1 without rows.

    Notes
    -----
    Searching is thread-safe: every call takes its own scratch. Building is not.

    References
    ----------
    .. [1] Subramanya et al., "DiskANN", NeurIPS 2019, algorithms 1-3.
    .. [2] Dobson et al., "ParlayANN", PPoPP 2024.

    Examples
    --------
    >>> import numpy as np
    >>> vectors = np.eye(4, dtype="float32")
    >>> index = VamanaIndex(4).build(vectors)
    >>> found = index.search(vectors[:1], k=1)
    >>> found.rows.tolist(), found.distances.tolist()
    ([[0]], [[0.0]])
    """

    KIND = "vamana"

    def __init__(
        self,
        dim,
        metric="cosine",
        *,
        max_degree=48,
        build_list_size=100,
        alpha=1.2,
        quantizer=None,
        seed=0,
        threads=0,
    ):
        self.dim = check_dim(dim)
        self.metric = check_metric(metric)
        self.max_degree = check_integer("max_degree", max_degree, 1, MAX_DEGREE)
        self.build_list_size = check_integer("build_list_size", build_list_size, 1, MAX_LIST_SIZE)
        self.alpha = _check_alpha(alpha)
        if quantizer not in QUANTIZERS:
            raise UnknownName("quantizer", quantizer, QUANTIZERS)
        if quantizer is not None:
            raise NotSupported(f"VamanaIndex(quantizer={quantizer!r}): use quantizer=None")
        self.quantizer = quantizer
        self.seed = check_integer("seed", seed, 0, 2**63 - 1)
        check_threads(threads)
        self.threads = threads
        self.neighbors_ = None
        self.entry_ = NO_NODE
        self._scratches = None

    def build(self, vectors, progress=False):
        """Build the graph of `vectors` (n, dim); return self.

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
        vectors = as_vectors(vectors, self.dim)
        with reporting(progress, "vamana") as report:
            rows = graph_rows(vectors, self.metric)
            if len(rows):
                neighbors, entry = build_graph(
                    rows,
                    DOT if self.metric == "dot" else L2,
                    max_degree=self.max_degree,
                    build_list_size=self.build_list_size,
                    alpha=self.alpha,
                    seed=self.seed,
                    threads=check_threads(self.threads),
                    report=report,
                )
            else:
                neighbors, entry = np.empty((0, self.max_degree), np.int32), NO_NODE
                report(1.0)
        self._adopt(rows, neighbors, entry)
        self._disk_bytes = 0
        return self

    def _adopt(self, rows, neighbors, entry):
        self._vectors = read_only(rows)
        self.neighbors_ = read_only(neighbors)
        self.entry_ = entry
        self._scratches = ScratchPool(len(rows), self.max_degree)

    def search(self, queries, k=10, *, search_list_size=None, threads=1, mask=None):
        """Find about the `k` nearest rows of each query.

        Parameters
        ----------
        queries : array of shape (dim,) or (n_queries, dim)
        k : int
        search_list_size : int, optional
            L, candidates kept while walking; at least `k`. Default ``max(64, k)``.
        threads : int, default 1
            Threads that share the queries; 0 stands for all cores.
        mask : bool array of shape (total_rows,), optional
            Only these rows may be answered. Few are scanned exactly, many are filtered from a
            longer walk; each query gets ``min(k, mask.sum())`` rows.

        Returns
        -------
        Neighbors
            The answer does not depend on `threads`.

        Raises
        ------
        IndexNotBuilt, DimensionMismatch, InvalidArgument
        """
        vectors = self._built(self._vectors)
        queries = as_queries(queries, self.dim)
        k = check_k(k)
        list_size = resolve_list_size(search_list_size, k)
        threads = 1 if threads == 1 else check_threads(threads)
        if mask is not None:
            return self._masked(queries, k, list_size, threads, check_mask(mask, len(vectors)))
        queries = query_rows(queries, self.metric, vectors.shape[1])
        return _neighbors(*self._walk(queries, k, list_size, threads, NO_MASK, False))

    def _walk(self, queries, k, list_size, threads, mask, use_mask):
        """Answer graph-row queries by walks; return rows, distances and counts (n_queries, 4)."""
        count = len(queries)
        rows = np.empty((count, k), np.int64)
        distances = np.empty((count, k), np.float32)
        counts = np.zeros((count, 4), np.int64)
        if len(self._vectors) == 0:
            rows.fill(-1)
            distances.fill(np.inf)
            return rows, distances, counts
        metric = METRIC_CODES[self.metric]
        list_size = min(list_size, len(self._vectors))

        def run(queries, rows, distances, counts):
            scratch = self._scratches.take()
            search_batch(
                queries, self._vectors, self.neighbors_, self.entry_, metric, mask, use_mask,
                np.empty(list_size, np.int64), scratch.fresh, scratch.seen, scratch.epoch,
                NO_RECORD, rows, distances, counts,
            )  # fmt: skip
            self._scratches.give(scratch)

        work = queries, rows, distances, counts
        if threads == 1 or count < 2:
            run(*work)
        else:
            threads = min(threads, count)
            cuts = [count * i // threads for i in range(threads + 1)]
            parts = [[array[a:b] for array in work] for a, b in itertools.pairwise(cuts)]
            with ThreadPoolExecutor(threads) as pool:
                for job in [pool.submit(run, *part) for part in parts]:
                    job.result()
        return rows, distances, counts

    def _masked(self, queries, k, list_size, threads, mask):
        """Filter walks while they are cheaper than an exact scan of the matching rows.

        To meet as many matches, the list grows by total / matches. If far fewer passed, the
        mask excludes what is near to that query: its list grows further, and in the end its
        matches are scanned.
        """
        mask = read_only(mask)
        total, matches = len(mask), int(np.count_nonzero(mask))
        padded = query_rows(queries, self.metric, self._vectors.shape[1])
        rows = np.empty((len(queries), k), np.int64)
        distances = np.empty((len(queries), k), np.float32)
        counts = np.zeros((len(queries), 4), np.int64)
        enough = max(min(k, matches), min(list_size, matches) // 2)
        longer = math.ceil(list_size * total / max(1, matches))
        pending = np.arange(len(queries))
        while len(pending) and longer * COMPARISONS_PER_PLACE < matches:
            some = self._walk(read_only(padded[pending]), k, longer, threads, mask, True)
            rows[pending], distances[pending] = some[:2]
            counts[pending] += some[2]
            pending = pending[some[2][:, PASS] < enough]
            longer *= LIST_GROWTH
        if len(pending):
            chosen = np.flatnonzero(mask)
            some = scan(self._vectors, padded[pending], k, self.metric, chosen, 0, total, threads)
            rows[pending], distances[pending] = some
            counts[pending, COMPARISONS] += matches
        return _neighbors(rows, distances, counts)

    def add(self, vectors):
        """Not offered yet: build again with all vectors."""
        raise NotSupported("VamanaIndex.add: build again with all vectors")

    def delete(self, rows):
        """Not offered yet: search with a mask, or build again."""
        raise NotSupported("VamanaIndex.delete: search with a mask, or build again")

    def consolidate(self):
        """Not offered yet."""
        raise NotSupported("VamanaIndex.consolidate: build again with the vectors to keep")

    @property
    def total_rows(self):
        """Rows a mask has entries for."""
        return 0 if self._vectors is None else len(self._vectors)

    def __len__(self):
        return self.total_rows

    def _arrays(self):
        return {"vectors": self._built(self._vectors), "neighbors": self.neighbors_}

    def _parameters(self):
        return {
            "dim": self.dim,
            "metric": self.metric,
            "max_degree": self.max_degree,
            "build_list_size": self.build_list_size,
            "alpha": self.alpha,
            "quantizer": self.quantizer,
            "seed": self.seed,
            "entry": self.entry_,
        }

    @classmethod
    def _restore(cls, parameters, arrays, check):
        entry = check_integer("entry", parameters["entry"], NO_NODE)
        index = cls(**{name: value for name, value in parameters.items() if name != "entry"})
        check("vectors", np.float32, (None, graph_stride(index.dim)))
        vectors, neighbors = arrays["vectors"], arrays["neighbors"]
        check("neighbors", np.int32, (len(vectors), index.max_degree))
        n = len(vectors)
        # Kernels trust node numbers, so a wrong one must not come in.
        edges_fit = n == 0 or (neighbors.min() >= NO_NODE and neighbors.max() < n)
        if not edges_fit or not (entry == NO_NODE if n == 0 else 0 <= entry < n):
            raise CorruptStore(f"entry {entry} or an edge points outside the {n} rows")
        index._adopt(vectors, neighbors, entry)
        return index


def _neighbors(rows, distances, counts):
    hops, comparisons, reads, _ = counts.T
    return Neighbors(rows, distances, SearchStats(hops, comparisons, reads))


def resolve_list_size(search_list_size, k):
    """Return the search list size: at least `k`, by default ``max(64, k)``."""
    if search_list_size is None:
        return max(SEARCH_LIST_SIZE, k)
    size = check_integer("search_list_size", search_list_size, 1, MAX_LIST_SIZE)
    if size < k:
        raise InvalidArgument(f"search_list_size={size}: expected at least k={k}")
    return size


def _check_alpha(alpha):
    real = isinstance(alpha, numbers.Real) and not isinstance(alpha, bool)
    if not real or not 1.0 <= alpha <= 10.0:
        raise InvalidArgument(f"alpha={alpha!r}: expected a number from 1 to 10")
    return float(alpha)
