"""Approximate search in memory by walking a pruned graph."""

import itertools
import math
import numbers
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from luma_lab.errors import CorruptStore, InvalidArgument, NotSupported, UnknownName
from luma_lab.index.builder import build_graph
from luma_lab.index.directory import Directory
from luma_lab.index.nodes import NODES, restore_nodes
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
from luma_lab.index.rows import read_only
from luma_lab.kernels.graph import COMPARISONS, NO_NODE, PASS
from luma_lab.types import Neighbors, SearchStats

SEARCH_LIST_SIZE = 64  # recall@10 above 0.95 on the sets we measured
# A walk computes about this many distances per place of its list, at the default degree.
COMPARISONS_PER_PLACE = 24
LIST_GROWTH = 4
MAX_DEGREE = 1024
MAX_LIST_SIZE = 1 << 20
NO_MASK = read_only(np.empty(0, np.bool_))


class VamanaIndex(Directory):
    """Approximate nearest neighbours by walking a pruned graph held in memory.

    Recall is bought with `search_list_size`; memory with `max_degree`. With "q8" walks go by
    codes of a byte a component, and what they find is put in order by exact distances.

    Parameters
    ----------
    dim : int
        Components per vector.
    metric : {"cosine", "dot", "l2"}, default "cosine"
        With "cosine" the graph is that of vectors scaled to length one, under L2. With
        "dot" lengths may differ widely: edges then lead to large inner products, spread out by
        L2 (see `kernels.prune`).
    max_degree : int, default 48
        R, out-edges kept per node. Memory: ``n * max_degree * 4`` bytes.
    build_list_size : int, default 100
        L while inserting. Larger builds slower and recalls better.
    alpha : float, default 1.2
        Prune slack on squared distances, at least 1. Larger keeps more long edges.
    quantizer : {"q8", None}, default "q8"
        What walks compare. "q8": codes, about ``n * (dim + 64)`` bytes, beside the vectors as
        they were given: a read-only float32 array (such as a mapped file) is used in place, any
        other is copied. None: a padded float32 copy of them.
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
        quantizer="q8",
        seed=0,
        threads=0,
    ):
        self.dim = check_dim(dim)
        self.metric = check_metric(metric)
        self.max_degree = check_integer("max_degree", max_degree, 1, MAX_DEGREE)
        self.build_list_size = check_integer("build_list_size", build_list_size, 1, MAX_LIST_SIZE)
        self.alpha = _check_alpha(alpha)
        if quantizer not in NODES:
            raise UnknownName("quantizer", quantizer, NODES)
        self.quantizer = quantizer
        self.seed = check_integer("seed", seed, 0, 2**63 - 1)
        check_threads(threads)
        self.threads = threads
        self.neighbors_ = None
        self.entry_ = NO_NODE
        self._nodes = None
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
        checked = as_vectors(vectors, self.dim)
        threads = check_threads(self.threads)
        with reporting(progress, "vamana") as report:
            nodes = NODES[self.quantizer].make(checked, self.metric, threads, vectors)
            if len(nodes):
                neighbors, entry = build_graph(
                    nodes.building_space,
                    max_degree=self.max_degree,
                    build_list_size=self.build_list_size,
                    alpha=self.alpha,
                    seed=self.seed,
                    threads=threads,
                    report=report,
                )
            else:
                neighbors, entry = np.empty((0, self.max_degree), np.int32), NO_NODE
                report(1.0)
        self._adopt(nodes, neighbors, entry)
        self._disk_bytes = 0
        return self

    def _adopt(self, nodes, neighbors, entry):
        self._nodes = nodes
        self._vectors = nodes.vectors
        self.neighbors_ = read_only(neighbors)
        self.entry_ = entry
        self._scratches = nodes.scratches(self.max_degree)

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
        nodes = self._built(self._nodes)
        queries = as_queries(queries, self.dim)
        k = check_k(k)
        list_size = resolve_list_size(search_list_size, k)
        threads = 1 if threads == 1 else check_threads(threads)
        queries = nodes.prepare(queries)
        if mask is not None:
            return self._masked(queries, k, list_size, threads, check_mask(mask, len(nodes)))
        return _neighbors(*self._walk(queries, k, list_size, threads, NO_MASK, False))

    def _walk(self, queries, k, list_size, threads, mask, use_mask):
        """Answer prepared queries by walks; return rows, distances and counts (n_queries, 4)."""
        count = len(queries)
        rows = np.empty((count, k), np.int64)
        distances = np.empty((count, k), np.float32)
        counts = np.zeros((count, 4), np.int64)
        nodes = self._nodes
        if len(nodes) == 0:
            rows.fill(-1)
            distances.fill(np.inf)
            return rows, distances, counts
        list_size = min(list_size, len(nodes))

        def run(queries, *answer):
            scratch = self._scratches.take()
            nodes.walk(
                queries, self.neighbors_, self.entry_, mask, use_mask, list_size, scratch, answer
            )
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
        rows = np.empty((len(queries), k), np.int64)
        distances = np.empty((len(queries), k), np.float32)
        counts = np.zeros((len(queries), 4), np.int64)
        enough = max(min(k, matches), min(list_size, matches) // 2)
        longer = math.ceil(list_size * total / max(1, matches))
        pending = np.arange(len(queries))
        while len(pending) and longer * COMPARISONS_PER_PLACE < matches:
            some = self._walk(read_only(queries[pending]), k, longer, threads, mask, True)
            rows[pending], distances[pending] = some[:2]
            counts[pending] += some[2]
            pending = pending[some[2][:, PASS] < enough]
            longer *= LIST_GROWTH
        if len(pending):
            chosen = np.flatnonzero(mask)
            some = self._nodes.scan(read_only(queries[pending]), k, chosen, threads)
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
        return 0 if self._nodes is None else len(self._nodes)

    @property
    def memory_bytes(self):
        """Bytes of links and of what walks compare; with codes without the exact vectors."""
        return 0 if self._nodes is None else self._nodes.memory_bytes + self.neighbors_.nbytes

    def __len__(self):
        return self.total_rows

    @classmethod
    def _spares_vectors(cls, parameters):
        return parameters["quantizer"] is not None

    def _arrays(self):
        return {**self._built(self._nodes).arrays(), "neighbors": self.neighbors_}

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
        nodes = restore_nodes(index.quantizer, index.dim, index.metric, arrays, check)
        check("neighbors", np.int32, (len(nodes), index.max_degree))
        neighbors, n = arrays["neighbors"], len(nodes)
        # Kernels trust node numbers, so a wrong one must not come in.
        edges_fit = n == 0 or (neighbors.min() >= NO_NODE and neighbors.max() < n)
        if not edges_fit or not (entry == NO_NODE if n == 0 else 0 <= entry < n):
            raise CorruptStore(f"entry {entry} or an edge points outside the {n} rows")
        index._adopt(nodes, neighbors, entry)
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
