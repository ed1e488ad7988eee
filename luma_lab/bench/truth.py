"""Exact nearest neighbours by brute force: what every approximate answer is held against.

Independent of our indexes on purpose, so that it can testify about them.
"""

import numpy as np

from luma_lab.errors import DimensionMismatch, InvalidArgument, UnknownName
from luma_lab.types import METRICS

BLOCK_ROWS = 8192
BLOCK_QUERIES = 256
GATHER = 1 << 22  # components gathered at a time: 32 MB of float64
SPARE = 16  # candidates beyond k, so that rounding near rank k hardly ever needs a second scan


def exact_neighbors(base, queries, k=10, *, metric="l2"):
    """Find the k nearest base rows of each query, exactly; ties go to the lower row.

    Parameters
    ----------
    base : array of shape (n, dim)
    queries : array of shape (n_queries, dim) or (dim,)
    k : int, at least 1
    metric : {"cosine", "dot", "l2"}

    Returns
    -------
    rows : int64 array of shape (n_queries, k), padded with -1 when k > n
    distances : float32 array of shape (n_queries, k), ascending, padded with inf
        cosine: 1 - cos (1 for a zero vector); dot: minus the inner product; l2: squared.

    Raises
    ------
    DimensionMismatch, InvalidArgument, UnknownName

    Notes
    -----
    Candidates come from a blocked float64 matrix product and are ranked by distances
    recomputed pair by pair, because equal vectors may get unequal products from BLAS.
    Takes a copy of neither array; working memory is some 50 MB and the answer.
    """
    base, queries, k = _checked(base, queries, k, metric)
    n, keep = len(base), min(len(base), k + SPARE)
    rows = np.full((len(queries), k), -1, dtype=np.int64)
    distances = np.full((len(queries), k), np.inf, dtype=np.float32)
    base_norms = _norms(base)
    for start in range(0, len(queries), BLOCK_QUERIES):
        block = queries[start : start + BLOCK_QUERIES].astype(np.float64)
        candidates, bounds = _candidates(base, base_norms, block, keep, metric)
        nearest, exact = _ranked(base, block, candidates, metric)
        for i in range(len(block)):
            if keep < n and exact[i, min(k, n) - 1] >= bounds[i]:
                every = np.arange(n)[None, :]
                found, found_exact = _ranked(base, block[i : i + 1], every, metric)
                nearest[i], exact[i] = found[0, :keep], found_exact[0, :keep]
        width = min(k, n)
        rows[start : start + len(block), :width] = nearest[:, :width]
        distances[start : start + len(block), :width] = exact[:, :width]
    return rows, distances


def pair_distances(base, queries, rows, metric):
    """Return the float64 distances of queries to given rows; inf where a row is -1.

    Parameters
    ----------
    base : array of shape (n, dim)
    queries : array of shape (n_queries, dim)
    rows : int array of shape (n_queries, m), each -1 or a row of `base`

    Returns
    -------
    float64 array of shape (n_queries, m)
        Equal pairs of vectors have equal distances, to the last bit.
    """
    n_queries, width = rows.shape
    out = np.empty((n_queries, width), dtype=np.float64)
    step = max(1, GATHER // max(1, base.shape[1]))
    for i in range(n_queries):
        query = queries[i].astype(np.float64)
        for start in range(0, width, step):
            part = rows[i, start : start + step]
            out[i, start : start + step] = _distances(base[part].astype(np.float64), query, metric)
    out[rows < 0] = np.inf
    return out


def tie_scale(base, queries, rows, distances, metric):
    """Return what rounding errors of these distances are relative to, in the same shape.

    l2: the distance itself; cosine: 1; dot: the product of the two lengths.
    """
    if metric == "l2":
        return distances
    if metric == "cosine":
        return np.ones_like(distances)
    lengths = np.sqrt(np.square(base[rows], dtype=np.float64).sum(axis=2))
    return lengths * np.sqrt(np.square(queries, dtype=np.float64).sum(axis=1))[:, None]


def _distances(vectors, query, metric):
    if metric == "l2":
        return np.square(vectors - query).sum(axis=1)
    products = (vectors * query).sum(axis=1)
    if metric == "dot":
        return -products
    norms = np.sqrt(np.square(vectors).sum(axis=1)) * np.sqrt(np.square(query).sum())
    return 1.0 - np.divide(products, norms, out=np.zeros_like(products), where=norms > 0)


def _ranked(base, queries, candidates, metric):
    """Return candidates and their distances, sorted by (distance, row)."""
    candidates = np.broadcast_to(candidates, (len(queries), candidates.shape[1]))
    exact = pair_distances(base, queries, candidates, metric)
    order = np.lexsort((candidates, exact), axis=1)
    return np.take_along_axis(candidates, order, 1), np.take_along_axis(exact, order, 1)


def _candidates(base, base_norms, queries, keep, metric):
    """Return the `keep` rows of smallest approximate distance, and a bound for all others.

    Every row that is not a candidate is at an exact distance of at least the bound.
    """
    query_norms = _norms(queries)
    if metric == "cosine":
        queries = queries / np.where(query_norms > 0, query_norms, 1.0)[:, None]
    rows = np.empty((len(queries), 0), dtype=np.int64)
    best = np.empty((len(queries), 0), dtype=np.float64)
    for start in range(0, len(base), BLOCK_ROWS):
        part = base[start : start + BLOCK_ROWS].astype(np.float64)
        norms = base_norms[start : start + BLOCK_ROWS]
        if metric == "cosine":
            part /= np.where(norms > 0, norms, 1.0)[:, None]
        approximate = queries @ part.T
        if metric == "l2":
            approximate = np.square(norms) - 2.0 * approximate + np.square(query_norms)[:, None]
        else:
            approximate *= -1.0
            approximate += metric == "cosine"
        here = np.broadcast_to(np.arange(start, start + len(part)), approximate.shape)
        best, rows = np.hstack([best, approximate]), np.hstack([rows, here])
        if best.shape[1] > keep:
            chosen = np.argpartition(best, keep - 1, axis=1)[:, :keep]
            best, rows = np.take_along_axis(best, chosen, 1), np.take_along_axis(rows, chosen, 1)
    return rows, best.max(axis=1) - _slack(base_norms, query_norms, base.shape[1], metric)


def _slack(base_norms, query_norms, dim, metric):
    """Bound the rounding of both float64 computations: 4 (dim + 8) ulps of the largest term."""
    largest = 2.0 if metric == "cosine" else np.square(base_norms.max() + query_norms)
    return 4.0 * (dim + 8) * np.finfo(np.float64).eps * largest


def _norms(vectors):
    out = np.empty(len(vectors), dtype=np.float64)
    for start in range(0, len(vectors), BLOCK_ROWS):
        part = vectors[start : start + BLOCK_ROWS].astype(np.float64)
        out[start : start + BLOCK_ROWS] = np.sqrt(np.square(part).sum(axis=1))
    return out


def _checked(base, queries, k, metric):
    if metric not in METRICS:
        raise UnknownName("metric", metric, METRICS)
    if isinstance(k, bool) or not isinstance(k, int | np.integer) or k < 1:
        raise InvalidArgument(f"k is {k!r}; expected an integer of at least 1")
    base, queries = np.asarray(base), np.asarray(queries)
    if queries.ndim == 1:
        queries = queries[None, :]
    if base.ndim != 2 or len(base) == 0:
        raise InvalidArgument(f"base has shape {base.shape}; expected (n, dim), n at least 1")
    if queries.ndim != 2:
        raise InvalidArgument(f"queries have shape {queries.shape}; expected (n_queries, dim)")
    if queries.shape[1] != base.shape[1]:
        raise DimensionMismatch(queries.shape[1], base.shape[1], "the base")
    for what, array in (("base", base), ("queries", queries)):
        if array.dtype.kind not in "fiu":
            raise InvalidArgument(f"{what} are {array.dtype}; expected numbers")
        if not np.isfinite(array).all():
            raise InvalidArgument(f"{what} hold NaN or infinity; expected finite numbers")
    return base, queries, int(k)
