"""All rows within a radius by a walk of a graph, or by a scan where that costs less."""

import numpy as np

from luma_lab.index.graph import COMPARISONS_PER_PLACE
from luma_lab.index.protocol import stats_in_memory
from luma_lab.index.ranging import (
    answer_of,
    fill,
    marked,
    scan_within,
    shared_by,
    split_keys,
)
from luma_lab.index.rows import read_only
from luma_lab.kernels.graph import COMPARISONS


def range_of(graph, queries, radius, list_size, threads, chosen, limit):
    """Return the `RangeNeighbors` of prepared queries in a graph, see `VamanaIndex.search_range`.

    A walk costs by what lies within the radius, whether a filter lets it pass or not, and that
    is known once it is done. So it is begun where it may cost less than a scan of the matches
    does, and given up once it has cost as much.

    Parameters
    ----------
    graph : luma_lab.index.graph.Graph
    radius : float32
    chosen : ascending int64 array or None
        Rows that may be answered.
    limit : int
        0: none.
    """
    nodes = graph.nodes
    if graph.live_count < len(graph.live):
        chosen = np.flatnonzero(graph.live) if chosen is None else chosen[graph.live[chosen]]
    matches = len(graph.live) if chosen is None else len(chosen)
    counts = np.zeros((len(queries), 4), np.int64)
    found = [None] * len(queries)
    budget = int(matches / nodes.exact_per_step)
    if graph.entry >= 0 and COMPARISONS_PER_PLACE * list_size < budget:
        mask = None if chosen is None else read_only(marked(chosen, len(graph.live)))
        found = _walk(graph, queries, radius, list_size, threads, mask, limit, budget, counts)

    def scan(pending):
        asked = nodes.exact_queries(read_only(queries[pending]))
        counts[pending, COMPARISONS] += matches
        return scan_within(nodes.vectors, asked, radius, nodes.metric, chosen, limit, threads)

    scanned = fill(found, scan)
    stats = stats_in_memory(counts, nodes.quantizer)
    return answer_of(found, limit, stats)._replace(scanned=scanned)


def _walk(graph, queries, radius, list_size, threads, mask, limit, budget, counts):
    """Return the keys of each query, None where the walk was given up."""

    def run(a, b):
        sizes = np.zeros(b - a, np.int64)
        with graph.scratches.lend() as scratch:
            keys = graph.nodes.walk_within(
                queries[a:b], graph, mask, radius, limit, budget, list_size, scratch,
                (sizes, counts[a:b]),
            )  # fmt: skip
        return split_keys(keys, sizes)

    return shared_by(threads, len(queries), run)
