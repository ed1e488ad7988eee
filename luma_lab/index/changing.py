"""What a graph index does while it lives: rows come and go, and the graph is mended."""

import numpy as np

from luma_lab.index.living import Living
from luma_lab.index.protocol import check_threads
from luma_lab.index.rows import Growing, read_only
from luma_lab.index.updates import Rooms, insert, mend
from luma_lab.kernels.graph import NO_NODE

ENTRY_LIST_SIZE = 64  # of the walk that looks for a new entry


class Changing(Living):
    """Ancestor of an index whose `_graph` is a `Graph` and whose `_rooms` are its `Rooms`."""

    def add(self, vectors):
        """Insert vectors (dim,) or (n, dim); return their row numbers, int64 (n,).

        Searches may go on meanwhile, and meet the new rows or not. What is added one by one, or
        by other threads, need not make the same graph.

        Raises
        ------
        IndexNotBuilt, DimensionMismatch, InvalidArgument
            The index is left as it was.
        """
        vectors = self._as_added(vectors)
        with self._changing:
            graph = self._built(self._graph)
            if not len(vectors):
                return np.empty(0, np.int64)
            if graph.live_count == 0:
                return self._start_again(graph, vectors)
            places, total = self._places(graph, len(vectors))
            nodes = graph.nodes.put(places, vectors, total)
            self._set(
                insert(
                    graph,
                    self._rooms,
                    places.astype(np.int32),
                    nodes,
                    build_list_size=self.build_list_size,
                    alpha=self.alpha,
                    threads=check_threads(self.threads),
                )
            )
        return places

    def _grown(self, graph, vectors, live):
        made = type(self)(**self._settings(), threads=self.threads)
        rooms = made._rooms = Rooms(graph.neighbors, graph.live)
        places = np.arange(len(graph.nodes), len(vectors))
        nodes = graph.nodes.followed_by(vectors)
        how = {
            "build_list_size": self.build_list_size,
            "alpha": self.alpha,
            "threads": check_threads(self.threads),
        }
        graph = insert(graph, rooms, places.astype(np.int32), nodes, **how)
        gone = int(np.count_nonzero(graph.live & ~live))
        if gone or graph.linked_dead:
            graph = graph._replace(
                live=graph.live & live,
                live_count=graph.live_count - gone,
                linked_dead=graph.linked_dead + gone,
            )
            rooms.live = Growing(graph.live, owned=True)
            if graph.live_count and not graph.live[graph.entry]:
                graph = graph._replace(entry=self._next_entry(graph))
            if graph.live_count:
                graph = mend(graph, rooms, **how)
        made._set(graph)
        return made

    @property
    def _moment(self):
        return self._graph

    def _forget(self, graph, count):
        # Edges still lead through the rows until they are taken out.
        self._rooms.live = Growing(graph.live, owned=True)
        self._set(graph._replace(linked_dead=graph.linked_dead + count))

    def consolidate(self):
        """Take deleted rows out of the graph and free their numbers for :meth:`add`; return self.

        Searches may go on meanwhile, on the graph as it was.
        """
        with self._changing:
            graph = self._built(self._graph)
            if graph.linked_dead == 0:
                return self
            if graph.live_count and not graph.live[graph.entry]:
                graph = graph._replace(entry=self._next_entry(graph))
            if graph.live_count == 0:
                graph = graph._replace(entry=NO_NODE, linked_dead=0)
            else:
                graph = mend(
                    graph,
                    self._rooms,
                    build_list_size=self.build_list_size,
                    alpha=self.alpha,
                    threads=check_threads(self.threads),
                )
            self._set(graph)
        return self

    def _next_entry(self, graph):
        """Return the live row nearest to the entry that was deleted."""
        old = read_only(graph.nodes.vectors[graph.entry : graph.entry + 1, : self.dim])
        size = max(ENTRY_LIST_SIZE, self.build_list_size)
        rows, _, _ = graph.search(graph.nodes.prepare(old), 1, size, 1, None)
        return int(rows[0, 0])

    def _places(self, graph, count):
        """Return the row numbers that new rows get, freed ones first, and how many there then are.

        Rows that edges still lead through are not free.
        """
        free = np.empty(0, np.int64)
        if graph.live_count + graph.linked_dead < len(graph.live):
            free = self._free_rows(graph)[:count]
        behind = np.arange(len(graph.live), len(graph.live) + count - len(free))
        return np.concatenate([free, behind]), len(graph.live) + len(behind)

    def _free_rows(self, graph):
        dead = np.flatnonzero(~graph.live)
        if graph.linked_dead == 0:
            return dead
        # Mended ones point to nobody; those deleted since still have their edges.
        return dead[graph.neighbors[dead, 0] == NO_NODE]

    def _start_again(self, graph, vectors):
        """Build anew where nothing lives; the numbers of the dead are free."""
        self.build(vectors)
        return np.arange(len(vectors), dtype=np.int64)
