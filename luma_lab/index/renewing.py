"""Indexes made of older ones: with rows that came behind, or without those that died.

Unlike changes in place these leave the old index as it is, and number rows as their caller does.
"""

import numpy as np

from luma_lab.index.cells import Rooms, insert
from luma_lab.index.protocol import check_threads
from luma_lab.index.rows import read_only
from luma_lab.index.updates import Rooms as GraphRooms
from luma_lab.index.updates import mend


def renumbering(live):
    """Return the new number of each row where only live rows stay: int32, -1 for the others.

    One entry longer than `live`, so that -1 stays -1.
    """
    numbers = np.full(len(live) + 1, -1, np.int32)
    kept = np.flatnonzero(live)
    numbers[kept] = np.arange(len(kept), dtype=np.int32)
    return numbers


class RenewingGraph:
    """Mixed into an index whose `_graph` is a `Graph`, see `luma_lab.index.changing`."""

    def _compacted(self, graph, vectors, live):
        made = type(self)(**self._settings(), threads=self.threads)
        live = graph.live & live
        count = int(np.count_nonzero(live))
        if not count:
            return made.build(vectors)
        gone = graph.live_count - count
        graph = graph._replace(live=live, live_count=count, linked_dead=graph.linked_dead + gone)
        if not live[graph.entry]:
            graph = graph._replace(entry=self._next_entry(graph))
        if graph.linked_dead:
            graph = mend(
                graph,
                GraphRooms(graph.neighbors, live),
                build_list_size=self.build_list_size,
                alpha=self.alpha,
                threads=check_threads(self.threads),
            )
        numbers, kept = renumbering(live), np.flatnonzero(live)
        neighbors = numbers[graph.neighbors[kept]]
        nodes = graph.nodes.picked(kept, vectors)
        made._adopt(nodes, neighbors, int(numbers[graph.entry]))
        return made


class RenewingCells:
    """Mixed into an index whose `_cells` are `Cells`, see `luma_lab.index.cells`."""

    def _grown(self, cells, vectors, live):
        made, rooms = self._like(), Rooms(cells)
        if cells.vectors is not None:
            rooms.vectors = _There(vectors)
        numbers = np.arange(len(cells.live), len(vectors))
        if len(numbers):
            behind = np.ascontiguousarray(vectors[len(cells.live) :])
            homes = self._homes(cells, behind)
            threads = check_threads(self.threads)
            cells = insert(cells, rooms, numbers, behind, homes, threads)
        made._adopt(_without(cells, live), self._trained_rows)
        return made

    def _compacted(self, cells, vectors, live):
        cells = _without(cells, live)
        made = self._like()
        numbers, slots = renumbering(cells.live), cells.held_slots()
        renumbered = np.zeros(len(cells.numbers), np.int32)
        renumbered[slots] = numbers[cells.numbers[slots]]
        cells = cells._replace(
            numbers=read_only(renumbered),
            vectors=None if cells.vectors is None else read_only(vectors),
            live=np.ones(cells.live_count, bool),
        )
        made._adopt(cells, self._trained_rows)
        return made

    def _like(self):
        settings = {n: v for n, v in self._parameters().items() if n != "trained_rows"}
        return type(self)(**settings, threads=self.threads)


class _There:
    """Stands for room of vectors that all lie there already."""

    def __init__(self, vectors):
        self._vectors = vectors

    def put(self, places, values, total):
        """Return the first `total` vectors."""
        return self._vectors[:total]


def _without(cells, live):
    """Return packed cells without the rows that are not live."""
    live = cells.live & live
    count = int(np.count_nonzero(live))
    held = cells.live_count + cells.dead_count
    return cells._replace(live=live, live_count=count, dead_count=held - count).packed()
