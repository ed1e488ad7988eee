"""Rows as lanes of blocks: 16 rows whose bytes lie side by side, see `kernels.blocks`.

The lane of a row is a run of uint32 words, (lines,): four components of a code each, then the
row's constants; or its float32 components.
"""

import numpy as np

from luma_lab.index.quantizer import SHARE_ROWS
from luma_lab.index.rows import aligned_empty, query_rows
from luma_lab.kernels.blocks import LANES, LINES_AT_ONCE
from luma_lab.kernels.quantize import ROW_CONSTANT_BYTES

COMPONENTS_AT_ONCE = 4 * LINES_AT_ONCE


def blocks_for(rows):
    """Return how many blocks hold so many rows; for a number or an array of them."""
    return -(-rows // LANES)


def line_count(dim, quantizer):
    """Return the lines of a block of rows of a quantizer, or of float rows if None."""
    if quantizer is None:
        return dim
    lines = LINES_AT_ONCE * -(-dim // COMPONENTS_AT_ONCE)
    return (lines // 2 if quantizer.KIND == "q4" else lines) + ROW_CONSTANT_BYTES // 4


def row_lanes(vectors, metric, quantizer, threads):
    """Return the lanes of vectors (n, dim): uint32 of shape (n, lines)."""
    dim = vectors.shape[1]
    if quantizer is None:
        return np.ascontiguousarray(query_rows(vectors, metric, dim)).view(np.uint32)
    codes = quantizer.encode(vectors, threads=threads)
    return q4_lanes(codes, dim) if quantizer.KIND == "q4" else q8_lanes(codes, dim)


def q8_lanes(codes, dim):
    """Return the lanes of codes of a `Q8Quantizer`."""
    width = COMPONENTS_AT_ONCE * -(-dim // COMPONENTS_AT_ONCE)
    lanes = np.zeros((len(codes), width + ROW_CONSTANT_BYTES), np.uint8)
    lanes[:, :dim] = codes[:, :dim]
    lanes[:, width:] = even_constants(codes, dim)
    return lanes.view(np.uint32)


def q4_lanes(codes, dim):
    """Return the lanes of codes of a `Q4Quantizer`: their half bytes lie in another order."""
    width = COMPONENTS_AT_ONCE * -(-dim // COMPONENTS_AT_ONCE) // 2
    lanes = np.zeros((len(codes), width + ROW_CONSTANT_BYTES), np.uint8)
    lanes[:, width:] = even_constants(codes, dim)
    half = 64  # components in the low halves of a block of the quantizer's, then in the high ones
    blocks = -(-dim // (2 * half))
    for start in range(0, len(codes), SHARE_ROWS):
        part = codes[start : start + SHARE_ROWS, :-ROW_CONSTANT_BYTES]
        packed = np.zeros((len(part), half * blocks), np.uint8)
        packed[:, : part.shape[1]] = part[:, : packed.shape[1]]
        packed = packed.reshape(len(part), blocks, half)
        levels = np.concatenate([packed & 15, packed >> 4], axis=2).reshape(len(part), -1)
        ours = np.zeros((len(part), 2 * width), np.uint8)
        ours[:, :dim] = levels[:, :dim]
        ours = ours.reshape(len(part), -1, 2, 4)
        joined = ours[:, :, 0] | (ours[:, :, 1] << 4)
        lanes[start : start + SHARE_ROWS, :width] = joined.reshape(len(part), -1)
    return lanes.view(np.uint32)


def even_constants(codes, dim):
    """Return the constants of codes, uint8 (n, 16), for L2 distances that are right on average.

    Rounding by up to half a step makes a row seem further from what is near it, by step^2 / 12 a
    component, and coarse rows more than fine ones. It is taken off their squared lengths.
    """
    constants = codes[:, -ROW_CONSTANT_BYTES:].copy().view(np.float32)
    steps = constants[:, 0].astype(np.float64)
    constants[:, 2] = np.maximum(0.0, constants[:, 2] - dim * steps**2 / 12)
    return constants.view(np.uint8)


def to_blocks(lanes, slots, blocks):
    """Return lanes (m, lines) at their slots of so many blocks, zero elsewhere."""
    lines = lanes.shape[1]
    made = aligned_empty((blocks, lines, LANES), np.uint32)
    by_slot = np.zeros((SHARE_ROWS // LANES * LANES, lines), np.uint32)
    order = np.argsort(slots, kind="stable")
    bounds = np.searchsorted(slots[order], np.arange(0, blocks * LANES + SHARE_ROWS, SHARE_ROWS))
    for part, first in enumerate(range(0, blocks * LANES, SHARE_ROWS)):
        some = order[bounds[part] : bounds[part + 1]]
        by_slot[:] = 0
        by_slot[slots[some] - first] = lanes[some]
        here = made[first // LANES : (first + SHARE_ROWS) // LANES]
        here[:] = by_slot[: len(here) * LANES].reshape(-1, LANES, lines).transpose(0, 2, 1)
    return made


def put_lanes(blocks, slots, lanes):
    """Write lanes (m, lines) to slots of blocks."""
    blocks[slots // LANES, :, slots % LANES] = lanes


def get_lanes(blocks, slots):
    """Return the lanes of slots of blocks: uint32 of shape (m, lines)."""
    return blocks[slots // LANES, :, slots % LANES]
