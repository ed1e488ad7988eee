"""Approximate search in memory by walking a pruned graph."""

import numbers
import threading

import numpy as np

from luma_lab.errors import CorruptStore, InvalidArgument, UnknownName
from luma_lab.index.builder import build_graph, graph_row_bytes
from luma_lab.index.changing import Changing
from luma_lab.index.chosen import RowChoices
from luma_lab.index.graph import Graph
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
    one_query,
    stats_in_memory,
)
from luma_lab.index.rangewalk import range_of
from luma_lab.index.ranging import check_limit, check_radius, choose
from luma_lab.index.renewing import RenewingGraph
from luma_lab.index.rows import read_only
from luma_lab.index.updates import Rooms
from luma_lab.kernels.graph import NO_NODE
from luma_lab.types import Neighbors

SEARCH_LIST_SIZE = 64  # recall@10 above 0.95 on the sets we measured
MAX_DEGREE = 1024
MAX_LIST_SIZE = 1 << 20
LEAST_BUILD_BYTES = 4 << 20  # samples, threads' scratch


class VamanaIndex(Changing, RenewingGraph):
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

    Notes
    -----
    Searching is thread-safe, also while rows are added, deleted or consolidated: every call takes
    its own scratch and looks at the graph of one moment. Changes wait for each other.

    References
    ----------
    .. [1] Subramanya et al., "DiskANN", NeurIPS 2019, algorithms 1-3.
    .. [2] Dobson et al., "ParlayANN", PPoPP 2024.
    .. [3] Singh et al., "FreshDiskANN", 2021.

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
    LEARNED = "entry"

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
        self._graph = None
        self._rooms = None
        self._choices = RowChoices()
        self._changing = threading.RLock()

    def build(self, vectors, progress=False, *, memory_bytes=None):
        """Build the graph of `vectors` (n, dim); return self.

        Parameters
        ----------
        progress : bool or callable
            True shows a progress bar; a callable gets the finished fraction, 0 to 1, and may
            raise to end the build: then the index stays as it was.
        memory_bytes : int, optional
            What the build may allocate beside `vectors`; a build that needs more is refused. Copies
            of a writable array, and of one that is not float32, count.

        Raises
        ------
        DimensionMismatch, InvalidArgument
            The index is left as it was.
        """
        checked = as_vectors(vectors, self.dim)
        threads = check_threads(self.threads)
        nodes_of = NODES[self.quantizer]
        budget = _Budget(memory_bytes, len(checked), self.max_degree)
        converted = isinstance(vectors, np.ndarray) and not np.may_share_memory(checked, vectors)
        budget.take(nodes_of.bytes_of(checked, self.metric, vectors))
        budget.take(checked.nbytes if converted else 0)
        with reporting(progress, "vamana") as report:
            nodes = nodes_of.make(checked, self.metric, threads, vectors)
            budget.take(nodes.building_bytes)
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

    def _adopt(self, nodes, neighbors, entry, live=None, linked_dead=0):
        live = np.ones(len(nodes), bool) if live is None else live
        self._rooms = Rooms(neighbors, live)
        self._set(
            Graph(
                nodes,
                read_only(neighbors),
                entry,
                live,
                int(np.count_nonzero(live)),
                linked_dead,
                nodes.scratches(self.max_degree, len(nodes)),
            )
        )

    def _set(self, graph):
        self._graph = graph
        self._vectors = graph.nodes.vectors

    def search(self, queries, k=10, *, search_list_size=None, threads=1, mask=None, rows=None):
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
            Only these rows may be answered. Few are scanned, many are filtered from a longer
            walk; each query gets ``min(k, mask.sum())`` rows.
        rows : ascending integers without repeats, optional
            The same as row numbers, for few of many; not together with `mask`. A read-only int64
            array that is given again is not looked at again: quicker for one filter's many
            queries.

        Returns
        -------
        Neighbors
            The answer does not depend on `threads`.

        Raises
        ------
        IndexNotBuilt, DimensionMismatch, InvalidArgument
        """
        graph = self._built(self._graph)
        k = check_k(k)
        list_size = resolve_list_size(search_list_size, k)
        if mask is not None:
            if rows is not None:
                raise InvalidArgument("mask and rows are both given: expected at most one")
            mask = check_mask(mask, len(graph.nodes))
        if rows is not None:
            rows = self._choices.take(rows, len(graph.live))
        if mask is None and threads == 1 and graph.just_walks:
            # Nearly every search; each line here is felt.
            query = one_query(queries, self.dim)
            answer = None
            if query is not None and rows is None:
                answer = graph.walk_one(query, k, list_size)
            elif query is not None:
                answer = graph.filter_one(query, k, list_size, rows)
            if answer is not None:
                return Neighbors(*answer)
        queries = as_queries(queries, self.dim)
        threads = 1 if threads == 1 else check_threads(threads)
        queries = graph.nodes.prepare(queries)
        found, distances, counts = graph.search(queries, k, list_size, threads, mask, rows)
        return Neighbors(found, distances, stats_in_memory(counts, self.quantizer))

    def search_range(
        self, queries, radius, *, search_list_size=None, threads=1, mask=None, rows=None, limit=None
    ):
        """Find about all rows within `radius` of each query.

        A walk to the query goes on through all rows it finds within the radius. Where it would
        cost more than a scan, as with a large radius or a narrow filter, all rows are compared
        and the answer is exact.

        Parameters
        ----------
        queries : array of shape (dim,) or (n_queries, dim)
        radius : float
            In the distances of :meth:`search`; rows at just this distance are within.
        search_list_size : int, optional
            L of the walk to the query. Default 64.
        threads : int, default 1
            Threads that share the queries; 0 stands for all cores.
        mask, rows, limit
            As in `FlatIndex.search_range`.

        Returns
        -------
        RangeNeighbors
            The answer does not depend on `threads`.

        Raises
        ------
        IndexNotBuilt, DimensionMismatch, InvalidArgument

        References
        ----------
        .. [1] Manohar et al., "Range retrieval with graph-based indices", 2025.
        """
        graph = self._built(self._graph)
        radius, limit = check_radius(radius), check_limit(limit)
        list_size = resolve_list_size(search_list_size, 1)
        chosen = choose(mask, rows, len(graph.live))
        threads = check_threads(threads)
        queries = graph.nodes.prepare(as_queries(queries, self.dim))
        return range_of(graph, queries, radius, list_size, threads, chosen, limit)

    @property
    def neighbors_(self):
        """Links: int32 array of shape (n, max_degree), padded with -1; None before a build."""
        return None if self._graph is None else self._graph.neighbors

    @property
    def entry_(self):
        """Where walks start: the row nearest to the mean of what was built; -1 without rows."""
        return NO_NODE if self._graph is None else self._graph.entry

    @property
    def memory_bytes(self):
        """Bytes of links and of what walks compare; with codes without the exact vectors."""
        if self._graph is None:
            return 0
        rooms = self._rooms
        return self._graph.nodes.memory_bytes + rooms.neighbors.nbytes + rooms.live.nbytes

    def _arrays(self):
        graph = self._built(self._graph)
        arrays = {**graph.nodes.arrays(), "neighbors": graph.neighbors}
        if graph.live_count < len(graph.live):
            arrays["live"] = graph.live
        return arrays

    def _parameters(self):
        return {**self._settings(), "entry": self.entry_}

    def _settings(self):
        return {
            "dim": self.dim,
            "metric": self.metric,
            "max_degree": self.max_degree,
            "build_list_size": self.build_list_size,
            "alpha": self.alpha,
            "quantizer": self.quantizer,
            "seed": self.seed,
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
        live = None
        if "live" in arrays:
            check("live", np.bool_, (n,))
            live = np.array(arrays["live"])
        has_entry = 0 <= entry < n
        lives = n > 0 if live is None else bool(live.any())
        if not edges_fit or not (has_entry or (entry == NO_NODE and not lives)):
            raise CorruptStore(f"entry {entry} or an edge points outside the {n} rows")
        linked = 0
        if live is not None:
            leads = neighbors[:, 0] != NO_NODE
            leads[neighbors[neighbors != NO_NODE]] = True  # to a row without edges of its own
            if has_entry:
                leads[entry] = True
            linked = int(np.count_nonzero(leads & ~live))
        index._adopt(nodes, neighbors, entry, live, linked)
        return index


def resolve_list_size(search_list_size, k):
    """Return the search list size: at least `k`, by default ``max(64, k)``."""
    if search_list_size is None:
        return max(SEARCH_LIST_SIZE, k)
    size = check_integer("search_list_size", search_list_size, 1, MAX_LIST_SIZE)
    if size < k:
        raise InvalidArgument(f"search_list_size={size}: expected at least k={k}")
    return size


class _Budget:
    """Counts what a build is going to allocate; refuses what is beyond `allowed` bytes."""

    def __init__(self, allowed, rows, max_degree):
        self._allowed = allowed
        if allowed is not None:
            self._allowed = check_integer("memory_bytes", allowed, 1)
        self._needed = int(rows * graph_row_bytes(max_degree)) + LEAST_BUILD_BYTES

    def take(self, size):
        self._needed += size
        if self._allowed is not None and self._needed > self._allowed:
            raise InvalidArgument(
                f"memory_bytes={self._allowed}: this build takes up to {self._needed} bytes; give "
                "as many, or a lower max_degree, or use DiskIndex.build with build_memory_bytes"
            )


def _check_alpha(alpha):
    real = isinstance(alpha, numbers.Real) and not isinstance(alpha, bool)
    if not real or not 1.0 <= alpha <= 10.0:
        raise InvalidArgument(f"alpha={alpha!r}: expected a number from 1 to 10")
    return float(alpha)
