"""Building a graph that does not fit in memory: shards that do, and the union of their edges.

Rows are cut into overlapping shards round the centres of a sample, every row going to the two
nearest. Each shard's graph is built by itself; a row's edges are the union of its two, pruned.
What overlaps keeps the shards together (DiskANN, section 3.2).
"""

import contextlib
import mmap

import numpy as np

from luma_lab.errors import InvalidArgument
from luma_lab.index.builder import QUERY_ROOM_BYTES, Slices, build_graph, graph_row_bytes
from luma_lab.index.nodes import CodedNodes
from luma_lab.index.quantizer import Q8Quantizer
from luma_lab.index.rows import aligned_empty, graph_rows, graph_stride, read_only
from luma_lab.index.sectors import StreamedFile
from luma_lab.index.source import measured
from luma_lab.kernels.build import find_central_code, find_medoid
from luma_lab.kernels.distance import DOT, L2
from luma_lab.kernels.graph import NO_NODE
from luma_lab.kernels.partition import NO_SHARD, assign_shards, fit_centres, merge_edges
from luma_lab.kernels.reach import UNREACHED, spread
from luma_lab.kernels.space import FloatSpace, Q8Space

ROUNDS = 8
COPIES = 2  # shards a row is in
USED = 0.85  # of a budget; the rest is for the allocator and for threads
FULL = 0.9  # of their capacity that shards are filled to on average, so that few rows give way
SMALLEST = 256  # rows of a shard: below, graphs are not worth their cuts
MOST_SHARDS = 4096
TOTAL_ROW_BYTES = 16  # of a row of the whole: its shards, and what `attach` holds
PARTS_OF_BUDGET = 32  # a part of the rows, as float32, is this small against the budget


class Plan:
    """How large shards may be.

    Parameters
    ----------
    rows, dim, max_degree : int
    budget : int
        Bytes. Cuts depend on it and not on the number of threads, which must not change the graph.
    point_bytes : int
        Of a row as it is compared.

    Attributes
    ----------
    part_rows : int
        Rows to read at a time.
    capacity, shards : int

    Raises
    ------
    InvalidArgument
        The budget is too small.
    """

    def __init__(self, rows, dim, max_degree, budget, point_bytes):
        self.part_rows = max(16, budget // (PARTS_OF_BUDGET * 4 * dim))
        row_bytes = point_bytes + graph_row_bytes(max_degree)
        left = USED * budget - TOTAL_ROW_BYTES * rows
        self.capacity = int(left // row_bytes)
        if rows <= self.capacity:
            self.shards = 1
            return
        self.shards = int(COPIES * rows // max(1, self.capacity * FULL)) + 1
        if self.capacity < SMALLEST or self.shards > MOST_SHARDS:
            least = SMALLEST * row_bytes
            least = max(least, COPIES * rows / FULL / MOST_SHARDS * row_bytes)
            least = int((least + TOTAL_ROW_BYTES * rows) / USED) + 1
            raise InvalidArgument(
                f"build_memory_bytes={budget}: expected at least {least} for {rows} rows of "
                f"{dim} components and max_degree={max_degree}"
            )


class ShardedGraph:
    """The graph of a `Source`, in files of `directory` while it is in use (a context manager).

    Parameters
    ----------
    source : Source
    metric : str
    sample : float32 array of shape (m, dim)
        Rows to learn from.
    parameters : dict
        max_degree, build_list_size, alpha, seed and threads, as `build_graph` takes them.
    budget : int
        Bytes of memory; pages of the mapped files are not counted, which the operating system
        takes back as it likes.
    directory : Path
    disk : luma_lab.files.Disk
    """

    def __init__(self, source, metric, sample, parameters, budget, directory, disk):
        self._source, self._metric, self._parameters = source, metric, parameters
        self._directory, self._disk = directory, disk
        self._files = contextlib.ExitStack()
        dim = sample.shape[1]
        self._dim = dim
        self._quantizer = Q8Quantizer(dim, metric).fit(sample)
        nodes = CodedNodes(sample, self._quantizer.encode(sample), self._quantizer)
        self._is_coded = isinstance(nodes.building_space, Q8Space)
        self._point_dtype = np.uint8 if self._is_coded else np.float32
        self._point_width = self._quantizer.row_bytes if self._is_coded else graph_stride(dim)
        point_bytes = self._point_width * np.dtype(self._point_dtype).itemsize
        self.plan = Plan(len(source), dim, parameters["max_degree"], budget, point_bytes)
        self._centres = self._fit(measured(sample, metric))
        self._room = np.full(self.plan.shards, self.plan.capacity, np.int64)
        self._shards = np.full((2, len(source)), NO_SHARD, np.int16)
        self._points = self._edges = None

    def __enter__(self):
        self._points = self._open("points")
        return self

    def __exit__(self, *error):
        self._files.close()

    def _open(self, stem):
        return self._files.enter_context(StreamedFile(self._directory, stem, self._disk))

    def _fit(self, sample):
        chance = np.random.default_rng(self._parameters["seed"])
        order = chance.permutation(len(sample))
        centres = sample[order[np.arange(self.plan.shards) % len(sample)]].copy()
        fit_centres(sample, ROUNDS, centres)
        return read_only(centres)

    def take(self, start, rows):
        """Note float32 rows from number `start` on; they come in order."""
        if self._is_coded:
            self._points.write(self._quantizer.encode(rows))
        else:
            self._points.write(graph_rows(rows, self._metric))
        part = slice(start, start + len(rows))
        near = measured(rows, self._metric)
        assign_shards(near, self._centres, self._room, *self._shards[:, part])

    def _space(self, points):
        if self._is_coded:
            return Q8Space(points, self._quantizer.code_bytes, self._dim)
        return FloatSpace(points, DOT if self._metric == "dot" else L2)

    def build(self, report):
        """Build, merge and connect; return the entry."""
        total = len(self._source)
        points = self._points.mapped(self._point_dtype, (total, self._point_width))
        stacks = []
        for shard in range(self.plan.shards):
            stacks.append(self._build_shard(shard, points, report))
        self._merge(points, stacks)
        entry = int(find_central_code(points) if self._is_coded else find_medoid(points))
        release(points)
        self._attach(entry)
        return entry

    def _build_shard(self, shard, points, report):
        """Write the edges of one shard's rows, in their order, to a file of their own."""
        done = shard / self.plan.shards
        members = np.flatnonzero((self._shards == shard).any(axis=0)).astype(np.int32)
        file = self._open(f"shard{shard}")
        if not len(members):
            return file
        own = aligned_empty((len(members), self._point_width), self._point_dtype)
        for start in range(0, len(members), self.plan.part_rows):
            stop = start + self.plan.part_rows
            own[start:stop] = points[members[start:stop]]
            release(points)
        neighbors, _ = build_graph(
            self._space(read_only(own)),
            **self._parameters,
            report=lambda fraction: report(done + fraction / self.plan.shards),
            with_rings=False,
        )
        for start in range(0, len(members), self.plan.part_rows):
            links = neighbors[start : start + self.plan.part_rows]
            file.write(np.where(links == NO_NODE, np.int32(NO_NODE), members[links]))
        return file

    def _merge(self, points, files):
        degree = self._parameters["max_degree"]
        total = len(self._source)
        sizes = [file.size // (4 * degree) for file in files]
        shards = [
            file.mapped(np.int32, (size, degree)) for file, size in zip(files, sizes, strict=True)
        ]
        read = np.zeros(len(files), np.int64)
        space, alpha = self._space(points), np.float32(self._parameters["alpha"])
        self._edges = self._open("edges")
        room = 0 if not self._is_coded else points.shape[1] + QUERY_ROOM_BYTES

        def run(start, stop, offset, candidates, merged):
            prepared = np.zeros(room, np.uint8)
            merge_edges(space, offset, start, stop, candidates, alpha, merged, prepared)

        with Slices(self._parameters["threads"]) as slices:
            for offset in range(0, total, self.plan.part_rows):
                part = self._shards[:, offset : offset + self.plan.part_rows]
                count = part.shape[1]
                candidates = np.full((count, COPIES, degree), NO_NODE, np.int32)
                for shard in np.unique(part[part != NO_SHARD]).tolist():
                    copies, places = np.nonzero(part == shard)
                    order = np.argsort(places, kind="stable")
                    size = len(order)
                    links = shards[shard][read[shard] : read[shard] + size]
                    candidates[places[order], copies[order]] = links
                    read[shard] += size
                    release(shards[shard])
                merged = np.empty((count, degree), np.int32)
                flat = candidates.reshape(count, -1)
                slices.run(run, count, offset, flat, merged)
                self._edges.write(merged)
                release(points)

    def _attach(self, entry):
        """Give each node that no path from `entry` reaches an edge from one that is reached."""
        edges = self._mapped_edges()
        parents = np.full(len(edges), UNREACHED, np.int32)
        queue = np.empty(len(edges), np.int32)
        parents[entry] = queue[0] = entry
        filled = spread(0, edges, parents, queue, 1)
        spare = 0
        for node in np.flatnonzero(parents == UNREACHED).tolist():
            if parents[node] != UNREACHED:
                continue
            near = edges[node]
            near = near[near != NO_NODE]
            given = any(
                self._give(giver, node, edges, parents)
                for giver in near[parents[near] != UNREACHED].tolist()
            )
            # m reached nodes depend on m - 1 edges only, so one of them can give.
            while not given:
                given = self._give(int(queue[spare]), node, edges, parents)
                spare += not given
            queue[filled] = node
            filled = spread(filled, edges, parents, queue, filled + 1)
        release(edges)

    def _give(self, giver, node, edges, parents):
        """Point `giver` to `node` at a free place, or for its farthest edge no node depends on."""
        links = edges[giver]
        spare = np.flatnonzero((links == NO_NODE) | (parents[links] != giver))
        if not spare.size:
            return False
        free = spare[links[spare] == NO_NODE]
        place = int(free[0] if free.size else spare[-1])
        offset = 4 * (giver * edges.shape[1] + place)
        self._edges.overwrite(np.array([node], np.int32), offset)
        parents[node] = giver
        return True

    def _mapped_edges(self):
        shape = (len(self._source), self._parameters["max_degree"])
        return self._edges.mapped(np.int32, shape)

    def edges(self, start, stop):
        """Return the edges of nodes start:stop, padded with -1."""
        edges = self._mapped_edges()
        part = edges[start:stop].copy()
        release(edges)
        return part


def release(mapped):
    """Let the pages of a mapped array go from this process; they stay in the page cache."""
    base = mapped
    while base is not None and not isinstance(base, mmap.mmap):
        base = base.base if isinstance(base, np.ndarray) else getattr(base, "obj", None)
    if base is not None:
        base.madvise(mmap.MADV_DONTNEED)
