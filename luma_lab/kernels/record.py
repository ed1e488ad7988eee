"""Node records in blocks: what one read of a disk index brings, checked and taken apart.

A record is the vector in its own type, zeros up to a multiple of 4 bytes, the number of edges
and the edges (int32). A block holds `per_block` records of nodes with running numbers, zeros,
and in its last 4 bytes the CRC-32 of all before, with the block's number as seed, so that a
block in the wrong place is noticed too.
"""

from typing import NamedTuple

import numpy as np

from luma_lab.kernels.compile import kernel
from luma_lab.kernels.crc import CRC_BYTES, crc32
from luma_lab.kernels.distance import (
    DOT,
    L2,
    ZERO,
    cosine_distance,
    dot,
    dot_and_square,
    squared_l2,
)
from luma_lab.kernels.topk import pack_key, push_least

FLOAT32, UINT8, INT8 = 0, 1, 2


class Layout(NamedTuple):
    """How `rows` nodes lie in a file; `kind` is the type of a component, the rest is in bytes."""

    rows: int
    dim: int
    kind: int
    max_degree: int
    edges_at: int
    record_bytes: int
    per_block: int
    block_bytes: int


@kernel
def seal_blocks(blocks, first):
    """Write the checksums of blocks (m, block_bytes), the first of which has number `first`."""
    end = blocks.shape[1] - CRC_BYTES
    for i in range(blocks.shape[0]):
        blocks[i, end:].view(np.uint32)[0] = crc32(blocks[i], 0, end, first + i)


@kernel
def is_sound(data, start, block, layout):
    """Tell whether data[start : start + block_bytes] is block number `block`.

    Its checksum fits, and what it says of edges leads no kernel astray.
    """
    end = start + layout.block_bytes - CRC_BYTES
    if data[end : end + CRC_BYTES].view(np.uint32)[0] != crc32(data, start, end, block):
        return False
    first = block * layout.per_block
    for i in range(min(layout.per_block, layout.rows - first)):
        edges = edges_of(data, start + i * layout.record_bytes, layout)
        degree = edges[0]
        if degree < 0 or degree > layout.max_degree:
            return False
        for j in range(1, degree + 1):
            if edges[j] < 0 or edges[j] >= layout.rows:
                return False
    return True


@kernel
def edges_of(data, at, layout):
    """Return the number of edges of the record at byte `at`, and behind it the edges."""
    start = at + layout.edges_at
    return data[start : start + 4 * (layout.max_degree + 1)].view(np.int32)


@kernel
def vector_distance(query, vector, metric):
    """Return the distance users see; `query` has length one (or zero) under COSINE."""
    if metric == L2:
        return squared_l2(query, vector)
    if metric == DOT:
        return ZERO - dot(query, vector)
    product, square = dot_and_square(query, vector)
    return cosine_distance(product, square, vector.reshape(1, vector.shape[0]), 0)


@kernel
def record_distance(query, data, at, layout, vector, metric):
    """Return the exact distance of a query to the record at byte `at`.

    vector : float32 array of shape (dim,)
        Scratch.
    """
    dim = layout.dim
    if layout.kind == FLOAT32:
        return vector_distance(query, data[at : at + 4 * dim].view(np.float32), metric)
    if layout.kind == UINT8:
        for j in range(dim):
            vector[j] = np.float32(data[at + j])
    else:
        for j in range(dim):
            vector[j] = np.float32(np.int8(data[at + j]))
    return vector_distance(query, vector, metric)


@kernel
def scan_records(queries, data, places, nodes, layout, vector, metric, heaps, sizes):
    """Offer every record to every query's heap of the least keys, see `topk.push_least`.

    Parameters
    ----------
    places, nodes : int64 arrays of shape (m,)
        Where each record begins in `data`, and its node.
    heaps, sizes : int64 arrays of shape (n_queries, k) and (n_queries,)
    """
    for j in range(places.shape[0]):
        for i in range(queries.shape[0]):
            distance = record_distance(queries[i], data, places[j], layout, vector, metric)
            sizes[i] = push_least(heaps[i], sizes[i], pack_key(distance, nodes[j]))
