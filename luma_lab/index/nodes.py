"""The nodes of a graph as a walk sees them: float32 rows, or codes with the exact rows behind."""

import itertools
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from luma_lab.errors import InvalidArgument
from luma_lab.index.flat import scan
from luma_lab.index.quantizer import Q8Quantizer
from luma_lab.index.rows import (
    METRIC_CODES,
    Growing,
    graph_rows,
    graph_stride,
    is_copied,
    kept,
    query_rows,
    read_only,
)
from luma_lab.index.scratch import Scratch, ScratchPool
from luma_lab.kernels.addresses import addresses_of
from luma_lab.kernels.codewalk import ROUNDING, scan_addresses, search_addresses
from luma_lab.kernels.distance import DOT, L2
from luma_lab.kernels.graph import search_batch
from luma_lab.kernels.quantize import ROW_CONSTANT_BYTES
from luma_lab.kernels.rangewalk import range_codes, range_floats
from luma_lab.kernels.space import FloatSpace, Q8Space
from luma_lab.types import LARGEST_SQUARE

SAMPLE_ROWS, SAMPLE_QUERIES = 4096, 256
MOST_MOVED = 0.1  # of a squared distance between near rows
SCAN_KEPT = 2  # rows kept by code for each asked for, before they are looked at again
# What a walk and a scan by codes take a row, beside its bytes: measured on 144 and 400 of them.
STEP_NS, SCAN_NS, BYTES_A_NS = 36.0, 3.0, 45.0
NO_RECORD = np.empty(0, np.int64)
CODES, VECTORS = 0, 6  # among the addresses of `CodedNodes`
NO_MASK = read_only(np.empty(0, np.bool_))


class FloatNodes:
    """A padded copy of the rows, of length one under "cosine".

    Parameters
    ----------
    rows : float32 array of shape (n, stride)
        From `index.rows.graph_rows`.
    room : Growing, optional
        What `rows` are a view of.
    """

    quantizer = None
    # Rows a scan compares while a walk compares one, for it jumps about less; exact ones too.
    scanned_per_step = exact_per_step = 1.5

    def __init__(self, rows, metric, room=None):
        self.vectors = read_only(rows)
        self.metric = metric
        self._room = room or Growing(self.vectors)
        self.building_space = FloatSpace(self.vectors, DOT if metric == "dot" else L2)
        # Under "cosine" rows have length one, where minus the inner product orders like L2.
        self._walk_space = self.building_space._replace(metric=L2 if metric == "l2" else DOT)

    @classmethod
    def make(cls, vectors, metric, threads, given):
        """Return the nodes of checked vectors (n, dim), made from what the caller gave."""
        return cls(graph_rows(vectors, metric), metric)

    @staticmethod
    def bytes_of(vectors, metric, given):
        """Return what :meth:`make` allocates."""
        return len(vectors) * graph_stride(vectors.shape[1]) * 4

    building_bytes = 0  # what `building_space` allocates

    def put(self, places, vectors, total):
        """Return the nodes with checked vectors at row numbers `places`, `total` in all."""
        rows = graph_rows(vectors, self.metric)
        return FloatNodes(self._room.put(places, rows, total), self.metric, self._room)

    def followed_by(self, vectors):
        """Return nodes of `vectors` (n, dim), whose first rows these are; these stay so."""
        places = np.arange(len(self), len(vectors))
        return FloatNodes(self.vectors, self.metric).put(places, vectors[len(self) :], len(vectors))

    def picked(self, rows, vectors):
        """Return nodes of some rows only; `vectors` (m, dim) are these as they were given."""
        return FloatNodes(graph_rows(vectors, self.metric), self.metric)

    def __len__(self):
        return len(self.vectors)

    def lie_where(self, older):
        """Return whether these are in the memory of `older` ones, which see them there too."""
        return self.vectors.ctypes.data == older.vectors.ctypes.data

    @property
    def memory_bytes(self):
        """Bytes held beside the links."""
        return self._room.nbytes

    def scratches(self, degree, room):
        """Return the `ScratchPool` of walks over these nodes, up to `room` of them."""
        return ScratchPool(room, degree)

    def arrays(self):
        """Return what a saved index holds beside the links."""
        return {"vectors": self.vectors}

    def prepare(self, queries):
        """Return float32 queries (n_queries, dim) as :meth:`walk` takes them."""
        return query_rows(queries, self.metric, self.vectors.shape[1])

    def walk(self, queries, neighbors, entry, mask, wanted, least, list_size, scratch, answer):
        """Answer prepared queries; `answer` is rows, distances and counts, see `search_batch`.

        Returns -1, as one of `CodedNodes` does that meets only good queries.
        """
        search_batch(
            self._walk_space, queries, neighbors, entry, METRIC_CODES[self.metric], mask, wanted,
            least, np.empty(list_size, np.int64), scratch.fresh, scratch.seen, scratch.epoch,
            NO_RECORD, *answer,
        )  # fmt: skip
        return -1

    def walk_within(self, queries, graph, mask, radius, limit, budget, list_size, scratch, answer):
        """Return keys within a radius of prepared queries; `answer` is sizes and counts.

        The rest is as in `kernels.rangewalk.range_floats`; mask None stands for all nodes.
        """
        return range_floats(
            self._walk_space, queries, self.vectors, graph.neighbors, graph.entry,
            METRIC_CODES[self.metric], NO_MASK if mask is None else mask, mask is not None,
            radius, limit, budget, np.empty(list_size, np.int64), scratch.fresh, scratch.seen,
            scratch.epoch, *answer,
        )  # fmt: skip

    def exact_queries(self, queries):
        """Return prepared queries as exact scans of `vectors` take them."""
        return queries

    def scan(self, queries, k, chosen, threads):
        """Return exact (rows, distances) of prepared queries among the rows `chosen`."""
        return scan(self.vectors, queries, k, self.metric, chosen, 0, len(self), threads)


class CodedNodes:
    """Q8 codes that walks go by, and the rows as they are, for the exact second look.

    Parameters
    ----------
    vectors : float32 array of shape (n, dim)
        Not copied.
    codes : uint8 array of shape (n, row_bytes)
    quantizer : Q8Quantizer
    rooms : tuple of Growing, optional
        What `vectors` and `codes` are views of.
    """

    exact_per_step = 3.0  # as in `FloatNodes`

    def __init__(self, vectors, codes, quantizer, rooms=None):
        self.vectors, self.codes = read_only(vectors), read_only(codes)
        self.quantizer = quantizer
        self.metric = quantizer.metric
        self._rooms = rooms or (Growing(self.vectors), Growing(self.codes))
        self._space = Q8Space(self.codes, quantizer.code_bytes, quantizer.dim)
        self._addresses = addresses_of(
            self.codes, *self.codes.shape, quantizer.code_bytes, quantizer.mean_, quantizer.dim,
            self.vectors, METRIC_CODES[self.metric],
        )  # fmt: skip
        row_ns = quantizer.row_bytes / BYTES_A_NS
        self.scanned_per_step = (STEP_NS + row_ns) / (SCAN_NS + row_ns)
        self._is_fine = None

    def __reduce__(self):
        return _coded_nodes, (self.vectors, self.codes, self.quantizer, self._is_fine)

    @classmethod
    def make(cls, vectors, metric, threads, given):
        """Return the nodes of checked vectors (n, dim), made from what the caller gave."""
        vectors = kept(vectors, given)
        quantizer = Q8Quantizer(vectors.shape[1], metric).fit(vectors)
        return cls(vectors, quantizer.encode(vectors, threads=threads), quantizer)

    @staticmethod
    def bytes_of(vectors, metric, given):
        """Return what :meth:`make` allocates."""
        codes = len(vectors) * Q8Quantizer(vectors.shape[1], metric).row_bytes
        return codes + (vectors.nbytes if is_copied(vectors, given) else 0)

    @property
    def building_bytes(self):
        """Bytes that :attr:`building_space` allocates."""
        if self.metric != "cosine" or not len(self) or self._space_is_fine():
            return 0
        return len(self) * graph_stride(self.vectors.shape[1]) * 4

    def put(self, places, vectors, total):
        """Return the nodes with checked vectors at row numbers `places`, `total` in all."""
        of_vectors, of_codes = self._rooms
        rows = of_vectors.put(places, vectors, total)
        codes = of_codes.put(places, self.quantizer.encode(vectors), total)
        nodes = CodedNodes(rows, codes, self.quantizer, self._rooms)
        nodes._is_fine = self._is_fine
        return nodes

    def followed_by(self, vectors):
        """Return nodes of `vectors` (n, dim), whose first rows these are; these stay so."""
        room, places = Growing(self.codes), np.arange(len(self), len(vectors))
        codes = room.put(places, self.quantizer.encode(vectors[len(self) :]), len(vectors))
        nodes = CodedNodes(vectors, codes, self.quantizer, (Growing(vectors), room))
        nodes._is_fine = self._is_fine
        return nodes

    def picked(self, rows, vectors):
        """Return nodes of some rows only; `vectors` (m, dim) are these as they were given."""
        nodes = CodedNodes(vectors, self.codes[rows], self.quantizer)
        nodes._is_fine = self._is_fine
        return nodes

    def __len__(self):
        return len(self.codes)

    @property
    def building_space(self):
        """The space edges are chosen in: the codes where they are fine enough."""
        if self.metric == "dot":  # codes measure L2 from each other, and only that
            return FloatSpace(self.vectors, DOT)
        if self._space_is_fine():
            return self._space
        if self.metric == "l2":
            return FloatSpace(self.vectors, L2)
        return FloatSpace(graph_rows(self.vectors, self.metric), L2)

    def _space_is_fine(self):
        if self._is_fine is None:
            self._is_fine = self._tells_neighbours_apart()
        return self._is_fine

    def _tells_neighbours_apart(self):
        """Return whether rounding to codes moves rows by little against their neighbours' distance.

        It does not where rows lie in clumps that are small against how far they are apart.
        """
        places = np.linspace(0, len(self) - 1, min(len(self), SAMPLE_ROWS)).astype(np.int64)
        rows = graph_rows(self.vectors[places], self.metric)
        few = np.ascontiguousarray(rows[:: max(1, len(rows) // SAMPLE_QUERIES)])
        _, distances = scan(rows, few, min(5, len(rows)), "l2", None, 0, len(rows), 1)
        nearest = np.where(distances > 0, distances, np.inf).min(axis=1)
        constants = np.ascontiguousarray(self.codes[places, -ROW_CONSTANT_BYTES:])
        steps, _, squares = np.median(constants.view(np.float32)[:, :3], axis=0)
        moved = 2 * self.quantizer.dim * steps**2 / 12 + 2 * ROUNDING * squares
        return bool(moved <= MOST_MOVED * np.median(nearest))

    def lie_where(self, older):
        """Return as `FloatNodes` does."""
        return bool((self._addresses == older._addresses)[[CODES, VECTORS]].all())

    @property
    def memory_bytes(self):
        """Bytes held beside the links, without the exact rows."""
        return self._rooms[1].nbytes + self.quantizer.memory_bytes

    def scratches(self, degree, room):
        """Return the `ScratchPool` of walks over these nodes, up to `room` of them."""
        return ScratchPool(room, degree, self.quantizer.query_bytes, self.quantizer.dim)

    def arrays(self):
        """Return what a saved index holds beside the links."""
        return {"vectors": self.vectors, "codes": self.codes, "mean": self.quantizer.mean_}

    def prepare(self, queries):
        """Return float32 queries (n_queries, dim) as :meth:`walk` takes them."""
        return read_only(queries)

    def walk(self, queries, neighbors, entry, mask, wanted, least, list_size, scratch, answer):
        """Answer prepared queries; `answer` is rows, distances and counts, see `search_codes`.

        Returns the first query that is not finite or too long, which ended the walk, or -1.
        """
        return search_addresses(
            self._addresses, neighbors, entry, queries, mask, wanted, least, list_size,
            scratch.addresses, *answer,
        )  # fmt: skip

    def walk_within(self, queries, graph, mask, radius, limit, budget, list_size, scratch, answer):
        """As `FloatNodes.walk_within`, by codes and an exact second look."""
        return range_codes(
            self._space, self.quantizer.mean_, queries, self.vectors, graph.neighbors, graph.entry,
            METRIC_CODES[self.metric], NO_MASK if mask is None else mask, mask is not None,
            radius, limit, budget, np.empty(list_size, np.int64), scratch.fresh, scratch.seen,
            scratch.epoch, scratch.point, scratch.prepared, *answer,
        )  # fmt: skip

    def exact_queries(self, queries):
        """As `FloatNodes.exact_queries`."""
        return query_rows(queries, self.metric, self.quantizer.dim)

    def scan(self, queries, k, chosen, threads):
        """Return exact (rows, distances) of prepared queries among the rows `chosen`."""
        chosen = read_only(chosen)
        rows = np.empty((len(queries), k), np.int64)
        distances = np.empty((len(queries), k), np.float32)

        def run(a, b):
            scratch = Scratch(0, 0, self.quantizer.query_bytes, self.quantizer.dim)
            bad = self.scan_into(queries[a:b], chosen, scratch, rows[a:b], distances[a:b])
            check_walked(bad)

        threads = min(threads, len(queries))
        if threads <= 1:
            run(0, len(queries))
            return rows, distances
        cuts = [len(queries) * i // threads for i in range(threads + 1)]
        with ThreadPoolExecutor(threads) as pool:
            for job in [pool.submit(run, a, b) for a, b in itertools.pairwise(cuts)]:
                job.result()
        return rows, distances

    def scan_into(self, queries, chosen, scratch, rows, distances):
        """Write exact answers among `chosen`, a read-only int64 array; return as :meth:`walk`."""
        return scan_addresses(
            self._addresses, queries, chosen, SCAN_KEPT * rows.shape[1], scratch.addresses, rows,
            distances,
        )  # fmt: skip


def check_walked(bad):
    """Raise `InvalidArgument` where a walk or scan met a bad query, of which nothing is answered.

    Queries were checked before. But sums that are taken in another order are not the same to the
    last bit: at the very limit of lengths a kernel may find too long what passed there.
    """
    if bad >= 0:
        raise InvalidArgument(
            f"queries: one has a squared length of more than {LARGEST_SQUARE:.0e}, "
            "so that distances would not fit float32"
        )


NODES = {None: FloatNodes, "q8": CodedNodes}


def _coded_nodes(vectors, codes, quantizer, is_fine):
    nodes = CodedNodes(vectors, codes, quantizer)
    nodes._is_fine = is_fine
    return nodes


def restore_nodes(quantizer, dim, metric, arrays, check):
    """Return the nodes a saved index held.

    Parameters
    ----------
    check : callable
        ``check(name, dtype, shape)`` raises `CorruptStore` unless an array is so.
    """
    if quantizer is None:
        check("vectors", np.float32, (None, graph_stride(dim)))
        return FloatNodes(arrays["vectors"], metric)
    made = Q8Quantizer(dim, metric)
    check("vectors", np.float32, (None, dim))
    check("codes", np.uint8, (len(arrays["vectors"]), made.row_bytes))
    check("mean", np.float32, (dim,))
    made.mean_ = read_only(arrays["mean"])
    return CodedNodes(arrays["vectors"], arrays["codes"], made)
