"""Quantizers: vectors as codes of a byte or less a component, and distances to codes.

Objects of their own, shared by the indexes: fitted once, then they encode, decode, prepare
queries, and measure or scan codes without decoding them.
"""

import itertools
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from luma_lab.errors import IndexNotBuilt, InvalidArgument
from luma_lab.index.directory import Directory
from luma_lab.index.protocol import (
    as_queries,
    as_vectors,
    check_dim,
    check_k,
    check_metric,
    check_threads,
)
from luma_lab.index.rows import METRIC_CODES, aligned_empty, query_rows, read_only
from luma_lab.kernels.codescan import measure_codes, scan_codes
from luma_lab.kernels.int8 import BLOCK_BYTES
from luma_lab.kernels.quantize import (
    Q4,
    Q8,
    QUERY_CONSTANTS,
    ROW_CONSTANT_BYTES,
    column_sums,
    decode_rows,
    encode_rows,
    prepare_queries,
)

NO_ROWS = read_only(np.empty(0, np.int64))
# Not whole cache lines: rows touch as many lines of 64 bytes either way, and loads that straddle
# two lines cost less than the bytes saved.
ROW_ALIGNMENT = 16
# Rows a thread takes at a time: their copy, scaled to length one, stays small.
SHARE_ROWS = 4096


class Quantizer(Directory):
    """Ancestor of quantizers: checks at the door, threads, scans; the arithmetic is a class's own.

    A class names its `KIND` and `CODE` (for kernels), sets `code_bytes`, `row_bytes` and
    `query_bytes`, and gives `_learn(vectors)`, `_encode(rows, codes)`, `_decode(codes, rows)`
    and `_prepare(rows, prepared)`.

    Parameters
    ----------
    dim : int
        Components per vector.
    metric : {"cosine", "dot", "l2"}, default "cosine"
        With "cosine" vectors and queries are scaled to length one.

    Attributes
    ----------
    code_bytes, row_bytes, query_bytes : int
        Bytes of a row's components, of a whole row, and of a prepared query.
    """

    CODE = -1

    def __init__(self, dim, metric="cosine"):
        self.dim = check_dim(dim)
        self.metric = check_metric(metric)

    def fit(self, vectors):
        """Learn from `vectors` (n, dim); return self. The same vectors teach the same bytes.

        Raises
        ------
        DimensionMismatch, InvalidArgument
            The quantizer is left as it was.
        """
        self._learn(as_vectors(vectors, self.dim))
        self._disk_bytes = 0
        return self

    def encode(self, vectors, *, threads=1):
        """Return the codes of `vectors` (n, dim): read-only uint8 of shape (n, row_bytes).

        The codes do not depend on `threads` (0 stands for all cores). They start at a cache
        line.

        Raises
        ------
        IndexNotBuilt, DimensionMismatch, InvalidArgument
        """
        self._arrays()
        vectors = as_vectors(vectors, self.dim)
        threads = check_threads(threads)
        codes = aligned_empty((len(vectors), self.row_bytes), np.uint8)

        def run(start, stop):
            self._encode(self._rows(vectors[start:stop]), codes[start:stop])

        share(run, _shares(len(vectors)), threads)
        return read_only(codes)

    def decode(self, codes):
        """Return what `codes` (n, row_bytes) stand for: float32 of shape (n, dim).

        Under "cosine" these are about the vectors scaled to length one.

        Raises
        ------
        IndexNotBuilt, InvalidArgument
        """
        self._arrays()
        codes = self._checked(codes)
        rows = np.empty((len(codes), self.dim), np.float32)
        self._decode(codes, rows)
        return rows

    def prepare(self, queries):
        """Return `queries` (n_queries, dim) as kernels take them: (n_queries, query_bytes) uint8.

        Raises
        ------
        IndexNotBuilt, DimensionMismatch, InvalidArgument
        """
        self._arrays()
        rows = self._rows(as_queries(queries, self.dim))
        prepared = np.empty((len(rows), self.query_bytes), np.uint8)
        self._prepare(rows, prepared)
        return read_only(prepared)

    def distances(self, queries, codes):
        """Return the approximate distances of all queries to all codes: (n_queries, n) float32.

        Those of the metric, lower is nearer; rounding may take one a little below 0.

        Raises
        ------
        IndexNotBuilt, DimensionMismatch, InvalidArgument
        """
        prepared, codes = self.prepare(queries), self._checked(codes)
        found = np.empty((len(prepared), len(codes)), np.float32)
        measure_codes(prepared, codes, self.CODE, self.code_bytes, found)
        return found

    def scan(self, queries, codes, k=10, *, rows=None, threads=1):
        """Find the `k` rows of `codes` nearest to each query by :meth:`distances`.

        Ties go to the lower row.

        Parameters
        ----------
        queries : array of shape (dim,) or (n_queries, dim)
        codes : uint8 array of shape (n, row_bytes)
        rows : int64 array of row numbers without repeats, optional
            Only these rows are looked at.
        threads : int
            Threads that share the queries; 0 stands for all cores.

        Returns
        -------
        rows : int64 array of shape (n_queries, k), padded with -1
        distances : float32 array of shape (n_queries, k), ascending, padded with inf

        Raises
        ------
        IndexNotBuilt, DimensionMismatch, InvalidArgument
        """
        prepared, codes = self.prepare(queries), self._checked(codes)
        k, threads = check_k(k), check_threads(threads)
        chosen = NO_ROWS if rows is None else _row_numbers(rows, len(codes))
        stop = len(codes) if rows is None else len(chosen)
        found = np.empty((len(prepared), k), np.int64), np.empty((len(prepared), k), np.float32)

        def run(a, b):
            scan_codes(
                prepared[a:b], codes, self.CODE, self.code_bytes, chosen, rows is not None,
                0, stop, found[0][a:b], found[1][a:b],
            )  # fmt: skip

        count = len(prepared)
        threads = min(threads, count)
        cuts = [count * i // threads for i in range(threads + 1)] if count else []
        share(run, itertools.pairwise(cuts), threads)
        return found

    def distortion(self, vectors):
        """Return the share of the variance that quantising loses: 0 is perfect.

        The mean of ``|x - decode(encode(x))|^2`` over that of ``|x - mean|^2``; 0 where nothing
        varies and nothing is lost. Under "cosine" x has length one.

        Raises
        ------
        IndexNotBuilt, DimensionMismatch, InvalidArgument
        """
        self._arrays()
        vectors = as_vectors(vectors, self.dim)
        if not len(vectors):
            return 0.0
        blocks = [vectors[start:stop] for start, stop in _shares(len(vectors))]
        sums = sum(self._rows(block).sum(axis=0, dtype=np.float64) for block in blocks)
        lost = spread = 0.0
        for block in blocks:
            exact = self._rows(block).astype(np.float64)
            lost += ((exact - self.decode(self.encode(block))) ** 2).sum()
            spread += ((exact - sums / len(vectors)) ** 2).sum()
        return float(lost / spread) if spread else float(lost)

    @property
    def memory_bytes(self):
        """Bytes the quantizer itself holds, 0 before `fit` or `load`; codes: `row_bytes` each."""
        try:
            return sum(array.nbytes for array in self._arrays().values())
        except IndexNotBuilt:
            return 0

    def __repr__(self):
        return f"{type(self).__name__}(dim={self.dim}, metric={self.metric!r})"

    def _built(self, array):
        if array is None:
            raise IndexNotBuilt(f"{type(self).__name__} is not fitted yet: call fit or load first")
        return array

    def _rows(self, vectors):
        """Return vectors as kernels want them: of length one under "cosine"."""
        return query_rows(vectors, self.metric, self.dim)

    def _checked(self, codes):
        array = np.asarray(codes)
        if array.dtype != np.uint8 or array.ndim != 2 or array.shape[1] != self.row_bytes:
            raise InvalidArgument(
                f"codes have dtype {array.dtype} and shape {array.shape}: "
                f"expected uint8 and (n, {self.row_bytes}), as encode makes them"
            )
        return read_only(np.ascontiguousarray(array))

    def _parameters(self):
        return {"dim": self.dim, "metric": self.metric}


class ScalarQuantizer(Quantizer):
    """Ancestor of quantizers that keep each component as an integer on a grid of its row.

    A class names, beside its `KIND` and `CODE`, how many `COMPONENTS` 64 bytes of code hold.

    Parameters
    ----------
    dim : int
        Components per vector.
    metric : {"cosine", "dot", "l2"}, default "cosine"

    Attributes
    ----------
    mean_ : float32 array of shape (dim,)
        Taken off every vector before it is quantised.
    code_bytes, row_bytes, query_bytes : int
        Bytes of a row's components (a multiple of 64), of a row, and of a prepared query.
    constants_at : int
        Where a prepared query's constants begin.
    """

    COMPONENTS = 0

    def __init__(self, dim, metric="cosine"):
        super().__init__(dim, metric)
        self.mean_ = None
        blocks, rest = divmod(self.dim, self.COMPONENTS)
        self.code_bytes = (blocks + (rest > 0)) * BLOCK_BYTES
        used = blocks * BLOCK_BYTES + min(rest, BLOCK_BYTES) + ROW_CONSTANT_BYTES
        self.row_bytes = _round_up(max(used, self.code_bytes), ROW_ALIGNMENT)
        self.constants_at = self.code_bytes // BLOCK_BYTES * self.COMPONENTS
        self.query_bytes = _round_up(self.constants_at + 4 * QUERY_CONSTANTS, BLOCK_BYTES)

    def _learn(self, vectors):
        sums = np.zeros(self.dim, np.float64)
        for start, stop in _shares(len(vectors)):
            column_sums(self._rows(vectors[start:stop]), sums)
        self.mean_ = read_only((sums / max(1, len(vectors))).astype(np.float32))

    def _encode(self, rows, codes):
        encode_rows(rows, self.mean_, self.CODE, self.code_bytes, codes)

    def _decode(self, codes, rows):
        decode_rows(codes, self.mean_, self.CODE, rows)

    def _prepare(self, rows, prepared):
        metric = METRIC_CODES[self.metric]
        prepare_queries(rows, self.mean_, metric, self.constants_at, prepared)

    def _arrays(self):
        return {"mean": self._built(self.mean_)}

    @classmethod
    def _restore(cls, parameters, arrays, check):
        made = cls(**parameters)
        check("mean", np.float32, (made.dim,))
        made.mean_ = read_only(arrays["mean"])
        return made


class Q8Quantizer(ScalarQuantizer):
    """A byte a component on a grid of each row's own, like LVQ-8.

    After the mean is taken off, a row's components are kept as ``scale * code + offset`` with
    int8 codes. Queries become bytes too, so that a distance is one integer dot product and a
    few multiply-adds (derived in `kernels.quantize`). A row is its codes, zeros up to a multiple
    of 64 bytes, and the row's constants: 16 bytes, in place of those zeros where they fit.

    Parameters are those of `ScalarQuantizer`.

    References
    ----------
    .. [1] Aguerrebere et al., "Similarity search in the blink of an eye with compressed
       indices", VLDB 2023.

    Examples
    --------
    >>> import numpy as np
    >>> vectors = np.array([[0, 0], [3, 4], [6, 8]], "float32")
    >>> quantizer = Q8Quantizer(2, "l2").fit(vectors)
    >>> codes = quantizer.encode(vectors)
    >>> quantizer.distances([[3, 4]], codes).round(2).tolist()
    [[25.0, 0.0, 25.0]]
    """

    KIND = "q8"
    CODE = Q8
    COMPONENTS = 64


class Q4Quantizer(ScalarQuantizer):
    """Half a byte a component on a grid of each row's own, like LVQ-4.

    As `Q8Quantizer`, with 16 levels placed by least squares and two components a byte.

    Parameters are those of `ScalarQuantizer`.
    """

    KIND = "q4"
    CODE = Q4
    COMPONENTS = 128


def _round_up(value, unit):
    return -(-value // unit) * unit


def _row_numbers(rows, total):
    chosen = np.asarray(rows)
    if chosen.ndim != 1 or (chosen.size and chosen.dtype.kind not in "iu"):
        raise InvalidArgument(
            f"rows have dtype {chosen.dtype} and shape {chosen.shape}: expected integers, (m,)"
        )
    chosen = np.ascontiguousarray(chosen, np.int64)
    if chosen.size and (chosen.min() < 0 or chosen.max() >= total):
        raise InvalidArgument(
            f"rows reach from {chosen.min()} to {chosen.max()}: expected 0 to {total - 1}"
        )
    return read_only(chosen)


def _shares(count):
    """Return (start, stop) of parts of range(count), the same for any number of threads."""
    return [(start, min(count, start + SHARE_ROWS)) for start in range(0, count, SHARE_ROWS)]


def share(run, parts, threads):
    """Call ``run(*part)`` for each of `parts`, in `threads` threads."""
    if threads <= 1:
        for part in parts:
            run(*part)
        return
    with ThreadPoolExecutor(threads) as pool:
        for job in [pool.submit(run, *part) for part in parts]:
            job.result()
