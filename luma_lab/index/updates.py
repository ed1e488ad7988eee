"""Changes of a graph in place: rows that come, rows that go, and the mending after.

References
----------
Singh et al., "FreshDiskANN", 2021: insertion, deletion by marks, consolidation.
"""

import numpy as np

from luma_lab.index.builder import BATCH_SHARE, Slices, tie_copies
from luma_lab.index.rows import Growing, read_only
from luma_lab.kernels.build import (
    choose_edges,
    group_by_target,
    merge_back_edges,
    write_edges,
)
from luma_lab.kernels.copies import link_back
from luma_lab.kernels.distance import L2
from luma_lab.kernels.graph import NO_NODE
from luma_lab.kernels.mend import mend_edges
from luma_lab.kernels.reach import attach_unreached
from luma_lab.kernels.space import FloatSpace

CANDIDATES_PER_EDGE = 4  # of a mended node: more changed no recall


class Rooms:
    """Where the links and marks of a graph lie, with room to grow."""

    def __init__(self, neighbors, live):
        self.neighbors = Growing(neighbors)
        self.live = Growing(live)


def insert(graph, rooms, places, nodes, *, build_list_size, alpha, threads):
    """Return the graph with new rows linked in.

    The rows of `graph` that gain edges gain them in place: who searches it meanwhile may meet
    the new rows, or not.

    Parameters
    ----------
    graph : luma_lab.index.graph.Graph
        With at least one live node.
    rooms : Rooms
    places : int32 array
        The new rows' numbers: freed ones, and those behind the last.
    nodes : FloatNodes or CodedNodes
        Of all rows, the new ones included.
    """
    total, degree = len(nodes), graph.neighbors.shape[1]
    nobody = np.full((len(places), degree), NO_NODE, np.int32)
    if not nodes.lie_where(graph.nodes):
        # Who searches `graph` looks for rows where they lay, and must meet no edge to a new one.
        rooms.neighbors.leave()
    neighbors = rooms.neighbors.put(places, nobody, total)
    live = rooms.live.put(places, np.zeros(len(places), bool), total)
    scratches = nodes.scratches(degree, rooms.neighbors.room)
    space = nodes.building_space
    frozen, alpha = read_only(neighbors), np.float32(alpha)
    marks = np.zeros(total, np.int32)

    def choose(start, stop, batch, edges):
        with scratches.lend() as scratch:
            choose_edges(
                space, batch, start, stop, frozen, graph.entry, live, alpha, edges,
                np.empty(build_list_size, np.int64), scratch.fresh, scratch.seen, scratch.epoch,
                scratch.prepared,
            )  # fmt: skip

    done = 0
    with Slices(threads) as slices:
        while done < len(places):
            linked = graph.live_count + graph.linked_dead + done
            size = min(len(places) - done, max(1, min(linked, int(linked * BATCH_SHARE))))
            batch = places[done : done + size]
            edges = np.empty((size, degree), np.int32)
            targets, sources = np.empty(edges.size, np.int32), np.empty(edges.size, np.int32)
            starts = np.empty(edges.size + 1, np.int64)

            def merge(start, stop, targets=targets, starts=starts, sources=sources):
                with scratches.lend() as scratch:
                    merge_back_edges(
                        space, targets, start, stop, starts, sources, neighbors, alpha, degree,
                        scratch.prepared,
                    )  # fmt: skip

            slices.run(choose, size, batch, edges)
            write_edges(batch, edges, neighbors)
            live[batch] = True
            slices.run(merge, int(group_by_target(batch, edges, marks, targets, starts, sources)))
            link_back(space, batch, edges, neighbors)
            done += size
    return graph._replace(
        nodes=nodes,
        neighbors=frozen,
        live=live,
        live_count=graph.live_count + len(places),
        scratches=scratches,
    )


def mend(graph, rooms, *, build_list_size, alpha, threads):
    """Return the graph without edges to and from the dead; `graph` stays as it is.

    Every live node can be reached from the entry, which must live.
    """
    nodes, live = graph.nodes, graph.live
    total, degree = graph.neighbors.shape
    mended = np.empty((total, degree), np.int32)
    space = nodes.building_space
    near = space._replace(metric=L2) if isinstance(space, FloatSpace) else space
    alpha = np.float32(alpha)
    most = CANDIDATES_PER_EDGE * degree

    def run(start, stop):
        with graph.scratches.lend() as scratch:
            mend_edges(
                space, start, stop, graph.neighbors, live, alpha, most, mended, scratch.prepared
            )

    with Slices(threads) as slices:
        slices.run(run, total)
    tie_copies(space, live, mended)
    with graph.scratches.lend() as scratch:
        attach_unreached(
            space, near, mended, graph.entry, live, np.empty(build_list_size, np.int64),
            scratch.fresh, scratch.seen, scratch.epoch, scratch.prepared,
        )  # fmt: skip
    rooms.neighbors = Growing(mended, owned=True)
    return graph._replace(neighbors=read_only(mended), linked_dead=0)
