"""Exact search: every row is looked at. The ground truth of all other indexes."""

import itertools
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from luma_lab.errors import InvalidArgument, NotSupported
from luma_lab.index.directory import Directory
from luma_lab.index.progress import reporting
from luma_lab.index.protocol import (
    as_queries,
    as_vectors,
    check_dim,
    check_k,
    check_mask,
    check_matrix,
    check_metric,
    check_threads,
)
from luma_lab.index.ranging import answer_of, check_limit, check_radius, choose, scan_within
from luma_lab.index.rows import METRIC_CODES, kept, query_rows, read_only
from luma_lab.kernels.scan import scan_batch
from luma_lab.types import Neighbors, SearchStats

NO_ROWS = read_only(np.empty(0, np.int64))


def exact_search(
    matrix, queries, k, metric, *, mask=None, rows=None, threads=1, start=0, stop=None
):
    """Find the `k` nearest rows of a plain matrix, exactly, without copying it.

    Rows need no padding and no normalising; the matrix may be memory-mapped. Ties go to the
    lower row. Under "cosine" a zero vector has distance 1 to everything.

    Parameters
    ----------
    matrix : C-contiguous float32 array of shape (n, dim)
        Its values are trusted to be finite.
    queries : array of shape (dim,) or (n_queries, dim)
    mask : bool array of shape (n,), optional
        Only these rows are looked at.
    rows : int64 array of row numbers without repeats, optional
        Only these rows are looked at; not together with `mask`.
    start, stop : int
        Only rows of this range are looked at.

    Returns
    -------
    rows : int64 array of shape (n_queries, k), padded with -1
    distances : float32 array of shape (n_queries, k), ascending, padded with inf

    Raises
    ------
    InvalidArgument, DimensionMismatch, UnknownName
    """
    check_metric(metric)
    start, stop = check_matrix(matrix, start, stop)
    total = len(matrix)
    queries = as_queries(queries, matrix.shape[1])
    k, threads = check_k(k), check_threads(threads)
    chosen = None
    if mask is not None:
        if rows is not None:
            raise InvalidArgument("mask and rows are both given: expected at most one")
        chosen = np.flatnonzero(check_mask(mask, total)[start:stop]) + start
    elif rows is not None:
        chosen = _chosen_rows(rows, total, start, stop)
    return scan(matrix, queries, k, metric, chosen, start, stop, threads)


def _chosen_rows(rows, total, start, stop):
    chosen = np.asarray(rows)
    if chosen.ndim != 1 or (chosen.size and chosen.dtype.kind not in "iu"):
        raise InvalidArgument(
            f"rows have dtype {chosen.dtype} and shape {chosen.shape}: expected integers, (m,)"
        )
    chosen = np.ascontiguousarray(chosen, dtype=np.int64)
    if chosen.size and (chosen.min() < 0 or chosen.max() >= total):
        raise InvalidArgument(
            f"rows reach from {chosen.min()} to {chosen.max()}: expected 0 to {total - 1}"
        )
    if start > 0 or stop < total:
        chosen = chosen[(chosen >= start) & (chosen < stop)]
    return chosen


def scan(matrix, queries, k, metric, chosen, start, stop, threads):
    """Do what :func:`exact_search` promises, on arguments that were checked.

    chosen : int64 array of rows to look at, or None for start:stop.
    """
    queries = query_rows(queries, metric, matrix.shape[1])
    matrix = read_only(matrix)
    use_chosen = chosen is not None
    if use_chosen:
        chosen, start, stop = read_only(chosen), 0, len(chosen)
    else:
        chosen = NO_ROWS
    code = METRIC_CODES[metric]
    rows = np.empty((len(queries), k), np.int64)
    distances = np.empty((len(queries), k), np.float32)
    threads = min(threads, max(len(queries), (stop - start) // 4096))
    if threads <= 1:
        scan_batch(queries, matrix, chosen, use_chosen, start, stop, code, rows, distances)
        return rows, distances
    with ThreadPoolExecutor(threads) as pool:
        if len(queries) >= threads:
            cuts = np.linspace(0, len(queries), threads + 1).astype(int).tolist()
            parts = [slice(a, b) for a, b in itertools.pairwise(cuts)]
            jobs = [
                pool.submit(
                    scan_batch, queries[part], matrix, chosen, use_chosen, start, stop, code,
                    rows[part], distances[part],
                )
                for part in parts
            ]  # fmt: skip
            for job in jobs:
                job.result()
            return rows, distances
        cuts = np.linspace(start, stop, threads + 1).astype(int).tolist()
        found = [(np.empty_like(rows), np.empty_like(distances)) for _ in range(threads)]
        jobs = [
            pool.submit(
                scan_batch, queries, matrix, chosen, use_chosen, a, b, code, *answer
            )
            for a, b, answer in zip(cuts, cuts[1:], found, strict=False)
        ]  # fmt: skip
        for job in jobs:
            job.result()
    return _merge(found, k)


def _merge(found, k):
    """Join answers over parts of the rows; ties go to the lower row."""
    rows = np.concatenate([rows for rows, _ in found], axis=1)
    distances = np.concatenate([distances for _, distances in found], axis=1)
    # Padding (-1, inf) must not go before a row that is infinitely far.
    order = np.lexsort((np.where(rows < 0, np.iinfo(np.int64).max, rows), distances))[:, :k]
    return np.take_along_axis(rows, order, 1), np.take_along_axis(distances, order, 1)


class FlatIndex(Directory):
    """Exact nearest neighbours: compares each query with every row.

    Parameters
    ----------
    dim : int
        Components per vector.
    metric : {"cosine", "dot", "l2"}, default "cosine"

    Notes
    -----
    Searching is thread-safe. :meth:`build` copies the vectors, but for a read-only array.

    Examples
    --------
    >>> import numpy as np
    >>> index = FlatIndex(2, "l2").build(np.array([[0, 0], [3, 4]]))
    >>> found = index.search([0, 1], k=2)
    >>> found.rows.tolist(), found.distances.tolist()
    ([[0, 1]], [[1.0, 18.0]])
    """

    KIND = "flat"

    def __init__(self, dim, metric="cosine"):
        self.dim = check_dim(dim)
        self.metric = check_metric(metric)

    def build(self, vectors, progress=False):
        """Keep a copy of `vectors` (n, dim); return self.

        Raises
        ------
        DimensionMismatch, InvalidArgument
            The index is left as it was.
        """
        with reporting(progress, "flat") as report:
            made = kept(as_vectors(vectors, self.dim), vectors)
            report(1.0)
        self._vectors = made
        self._disk_bytes = 0
        return self

    def search(self, queries, k=10, *, threads=1, mask=None):
        """Find the `k` nearest rows of each query.

        Parameters
        ----------
        queries : array of shape (dim,) or (n_queries, dim)
        k : int
        threads : int
            0 stands for all cores.
        mask : bool array of shape (total_rows,), optional
            Only these rows may be answered.

        Returns
        -------
        Neighbors

        Raises
        ------
        IndexNotBuilt, DimensionMismatch, InvalidArgument
        """
        vectors = self._built(self._vectors)
        queries = as_queries(queries, self.dim)
        k, threads = check_k(k), check_threads(threads)
        chosen = None
        if mask is not None:
            chosen = np.flatnonzero(check_mask(mask, len(vectors)))
        rows, distances = scan(vectors, queries, k, self.metric, chosen, 0, len(vectors), threads)
        looked_at = len(vectors) if chosen is None else len(chosen)
        none = np.zeros(len(queries), np.int64)
        stats = SearchStats(none, np.full(len(queries), looked_at, np.int64), none.copy())
        return Neighbors(rows, distances, stats)

    def search_range(self, queries, radius, *, threads=1, mask=None, rows=None, limit=None):
        """Find all rows within `radius` of each query.

        Parameters
        ----------
        queries : array of shape (dim,) or (n_queries, dim)
        radius : float
            In the distances of :meth:`search`; rows at just this distance are within.
        threads : int
            0 stands for all cores.
        mask : bool array of shape (total_rows,), optional
            Only these rows may be answered.
        rows : ascending integers without repeats, optional
            The same as row numbers; not together with `mask`.
        limit : int, optional
            The most rows a query gets; the nearest ones.

        Returns
        -------
        RangeNeighbors

        Raises
        ------
        IndexNotBuilt, DimensionMismatch, InvalidArgument

        Examples
        --------
        >>> import numpy as np
        >>> index = FlatIndex(1, "l2").build(np.array([[0], [1], [2], [9]]))
        >>> found = index.search_range([[1], [9]], 1.0)
        >>> found.limits.tolist(), found.rows.tolist(), found.distances.tolist()
        ([0, 3, 4], [1, 0, 2, 3], [0.0, 1.0, 1.0, 0.0])
        """
        vectors = self._built(self._vectors)
        queries = as_queries(queries, self.dim)
        radius, limit, threads = check_radius(radius), check_limit(limit), check_threads(threads)
        chosen = choose(mask, rows, len(vectors))
        prepared = query_rows(queries, self.metric, self.dim)
        found = scan_within(vectors, prepared, radius, self.metric, chosen, limit, threads)
        looked_at = len(vectors) if chosen is None else len(chosen)
        none = np.zeros(len(queries), np.int64)
        stats = SearchStats(none, np.full(len(queries), looked_at, np.int64), none.copy())
        return answer_of(found, limit, stats)

    def add(self, vectors):
        """Not offered yet: build again with all vectors."""
        raise NotSupported("FlatIndex.add: build again with all vectors")

    def delete(self, rows):
        """Not offered yet: search with a mask, or build again."""
        raise NotSupported("FlatIndex.delete: search with a mask, or build again")

    def consolidate(self):
        """Not offered yet."""
        raise NotSupported("FlatIndex.consolidate: build again with the vectors to keep")

    @property
    def total_rows(self):
        """Rows a mask has entries for."""
        return 0 if self._vectors is None else len(self._vectors)

    def __len__(self):
        return self.total_rows

    def _arrays(self):
        return {"vectors": self._built(self._vectors)}

    def _parameters(self):
        return {"dim": self.dim, "metric": self.metric}

    @classmethod
    def _restore(cls, parameters, arrays, check):
        index = cls(parameters["dim"], parameters["metric"])
        check("vectors", np.float32, (None, index.dim))
        index._vectors = read_only(arrays["vectors"])
        return index
