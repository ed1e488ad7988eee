"""Node records kept in memory: those a walk meets first, breadth first from the entry."""

import numpy as np
from numpy.lib.stride_tricks import as_strided

from luma_lab.index.rows import read_only
from luma_lab.kernels.graph import NO_NODE

PART_BYTES = 1 << 20
NODE_BYTES = 4


def fill_cache(file, entry, cache_bytes):
    """Return the cached nodes, ascending int32 (m,), and their records, uint8 (m * record_bytes,).

    Whole levels of the graph round the entry, and of the last level that fits in part the lowest
    nodes.

    Parameters
    ----------
    file : luma_lab.index.sectors.NodeFile
    cache_bytes : int
        What nodes and records may take.
    """
    layout = file.layout
    room = min(layout.rows, cache_bytes // (layout.record_bytes + NODE_BYTES))
    nodes = nearest_nodes(file, entry, room) if room else np.empty(0, np.int32)
    records = np.empty((len(nodes), layout.record_bytes), np.uint8)
    for part, found in read_records(file, nodes):
        records[part] = found
    return read_only(nodes), read_only(records.reshape(-1))


def nearest_nodes(file, entry, room):
    """Return at most `room` nodes, the fewest edges away from `entry`: ascending int32."""
    met = np.zeros(file.layout.rows, bool)
    level = np.array([entry], np.int32)
    met[level] = True
    levels = []
    while len(level) and room:
        level = level[:room]
        levels.append(level)
        room -= len(level)
        if not room:
            break
        reached = []
        for _, records in read_records(file, level):
            links = np.ascontiguousarray(records[:, file.layout.edges_at :]).view(np.int32)
            links = links[:, 1:].ravel()
            links = np.unique(links[links != NO_NODE])
            reached.append(links[~met[links]])
            met[reached[-1]] = True
        level = np.sort(np.concatenate(reached))
    return np.sort(np.concatenate(levels))


def read_records(file, nodes):
    """Yield (slice of `nodes`, their records: uint8 (m, record_bytes)) for ascending `nodes`."""
    layout = file.layout
    for part, blocks, places in read_blocks(file, nodes):
        inside = nodes[part] % layout.per_block
        records = as_strided(
            blocks,
            (len(blocks), layout.per_block, layout.record_bytes),
            (layout.block_bytes, layout.record_bytes, 1),
            writeable=False,
        )
        yield part, records[places, inside]


def read_blocks(file, nodes):
    """Yield (slice of `nodes`, blocks, which of them holds each node) for ascending `nodes`."""
    layout = file.layout
    homes = nodes // layout.per_block
    numbers = np.unique(homes)
    step = max(1, PART_BYTES // layout.block_bytes)
    for first in range(0, len(numbers), step):
        some = numbers[first : first + step]
        start = np.searchsorted(homes, some[0])
        stop = np.searchsorted(homes, some[-1], side="right")
        yield slice(start, stop), file.read(some), np.searchsorted(some, homes[start:stop])
