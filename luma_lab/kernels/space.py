"""What the nodes of a graph are compared by: float32 rows, or Q8 codes of them.

Kernels that walk or build are written once and compiled for each kind of space they meet. A
distance is measured from a probe: under a `FloatSpace` a float32 row (stride,), under a
`Q8Space` the address of prepared bytes, see `quantize`.

Each function is plain Python for runs without a compiler, and below it what numba compiles
instead, chosen by the kind of space.
"""

from typing import NamedTuple

import numpy as np
from numba import types
from numba.extending import overload

from luma_lab.kernels.compile import kernel
from luma_lab.kernels.distance import L2, ZERO, row_distance, squared_l2
from luma_lab.kernels.int8 import load_byte, load_float32, load_int32
from luma_lab.kernels.prefetch import prefetch_row
from luma_lab.kernels.quantize import MIDDLE, QUERY_CONSTANTS, ROW_CONSTANT_BYTES, q8_distance

# Marks are polynomials over the words of a row, modulo a prime: nothing overflows.
MARK_PRIME, WORD_MASK = np.int64(2**31 - 1), np.int64(2**32 - 1)
MARK_FACTORS = np.int64(1_103_515_245), np.int64(1_664_525_333)
INLINED = {"forceinline": True, "nogil": True, "error_model": "numpy"}


class FloatSpace(NamedTuple):
    """float32 rows (n, stride), compared by `metric`, L2 or DOT."""

    vectors: np.ndarray
    metric: int


class Q8Space(NamedTuple):
    """Q8 codes (n, row_bytes) of vectors of `dim` components; the probe knows the metric."""

    codes: np.ndarray
    code_bytes: int
    dim: int


def distance_to(space, probe, node):
    """Return the distance from the probe to a node, float32; lower is nearer."""
    if isinstance(space, FloatSpace):
        return row_distance(probe, space.vectors[node], space.metric)
    return _code_distance(space, probe, node)


def apart(space, probe, node):
    """Return the squared L2 distance from a probe of `stand_at` to a node, in every metric."""
    if isinstance(space, FloatSpace):
        return squared_l2(probe, space.vectors[node])
    return _code_distance(space, probe, node)


def are_copies(space, node, other):
    """Tell whether two nodes are one row twice."""
    if isinstance(space, FloatSpace):
        return _same_floats(space, node, other)
    return _same_code(space, node, other)


def mark_of(space, node):
    """Return an int64 that copies have in common, and hardly any other nodes."""
    if isinstance(space, FloatSpace):
        return _mark_of_floats(space, node)
    return _mark_of_code(space, node)


def orders_by_l2(space):
    """Tell whether `distance_to` is the squared L2 distance when the probe is a node."""
    return not isinstance(space, FloatSpace) or space.metric == L2


def stand_at(space, node, prepared):
    """Return the probe that measures from a node.

    prepared : uint8 array of shape (query_bytes,), zero behind the components
        Scratch, which the probe lives in under a `Q8Space`.
    """
    if isinstance(space, FloatSpace):
        return space.vectors[node]
    return _prepare_row(space, node, prepared)


def probe_at(queries, i):
    """Return the probe of a query: a row of float32 `queries`, or the address of prepared ones."""
    if queries.dtype == np.float32:
        return queries[i]
    return queries.ctypes.data + i * queries.shape[1]


def prefetch_node(space, node):
    """Ask the processor for the row of a node."""


@kernel(inline=True)
def _code_distance(space, probe, node):
    row_bytes = space.codes.shape[1]
    row = space.codes.ctypes.data + node * row_bytes
    return q8_distance(probe, row, space.code_bytes, row_bytes)


@kernel(inline=True)
def _same_floats(space, node, other):
    size = space.vectors.shape[1] * 4
    base = space.vectors.ctypes.data
    if space.vectors[node, 0] != space.vectors[other, 0]:
        return False
    return _equal_floats(base + node * size, base + other * size, size)


@kernel(inline=True)
def _same_code(space, node, other):
    row_bytes = space.codes.shape[1]
    one = space.codes.ctypes.data + node * row_bytes
    two = space.codes.ctypes.data + other * row_bytes
    # The last word is a constant of the row, if it has some, and mostly differs.
    last = row_bytes - 4
    if last >= 0 and load_int32(one + last) != load_int32(two + last):
        return False
    return _equal_bytes(one, two, row_bytes)


@kernel
def _equal_floats(one, two, size):
    for at in range(0, size, 4):
        if load_float32(one + at) != load_float32(two + at):
            return False
    return True


@kernel
def _equal_bytes(one, two, size):
    at = size
    while at >= 4:
        at -= 4
        if load_int32(one + at) != load_int32(two + at):
            return False
    while at > 0:
        at -= 1
        if load_byte(one + at) != load_byte(two + at):
            return False
    return True


@kernel(inline=True)
def _mark_of_floats(space, node):
    low, high = np.int64(0), np.int64(0)
    row = space.vectors[node]
    for j in range(row.shape[0]):
        bits = np.int64(np.float32(row[j] + ZERO).view(np.int32))  # -0.0 becomes 0.0: its equal
        low = (low * MARK_FACTORS[0] + (bits & WORD_MASK)) % MARK_PRIME
        high = (high * MARK_FACTORS[1] + (bits & WORD_MASK)) % MARK_PRIME
    return (high << 31) | low


@kernel(inline=True)
def _mark_of_code(space, node):
    low, high = np.int64(0), np.int64(0)
    row = space.codes.ctypes.data + node * space.codes.shape[1]
    for at in range(0, space.codes.shape[1], 4):
        bits = np.int64(load_int32(row + at))
        low = (low * MARK_FACTORS[0] + (bits & WORD_MASK)) % MARK_PRIME
        high = (high * MARK_FACTORS[1] + (bits & WORD_MASK)) % MARK_PRIME
    return (high << 31) | low


@kernel
def _prepare_row(space, node, prepared):
    """Write a row's code as the bytes of a query with metric L2; return their address."""
    code = space.codes[node]
    for j in range(space.dim):
        prepared[j] = code[j] ^ np.uint8(MIDDLE)
    row = code.ctypes.data + code.shape[0] - ROW_CONSTANT_BYTES
    scale, offset, norm = load_float32(row), load_float32(row + 4), load_float32(row + 8)
    centred = np.float64(load_int32(row + 12))
    total = np.float64(scale) * centred / MIDDLE + np.float64(space.dim) * np.float64(offset)
    constants = prepared[space.code_bytes : space.code_bytes + 4 * QUERY_CONSTANTS]
    values = constants.view(np.float32)
    values[0] = norm
    values[1] = np.float32(1.0)
    values[2] = np.float32(-2.0) * scale
    values[3] = np.float32(-2.0 / MIDDLE) * offset
    values[4] = np.float32(-2.0 * total)
    return prepared.ctypes.data


@overload(distance_to, jit_options=INLINED)
def _distance_to(space, probe, node):
    if _is_float(space):
        return lambda space, probe, node: row_distance(probe, space.vectors[node], space.metric)
    return lambda space, probe, node: _code_distance(space, probe, node)


@overload(apart, jit_options=INLINED)
def _apart(space, probe, node):
    if _is_float(space):
        return lambda space, probe, node: squared_l2(probe, space.vectors[node])
    return lambda space, probe, node: _code_distance(space, probe, node)


@overload(are_copies, jit_options=INLINED)
def _are_copies(space, node, other):
    if _is_float(space):
        return lambda space, node, other: _same_floats(space, node, other)
    return lambda space, node, other: _same_code(space, node, other)


@overload(mark_of, jit_options=INLINED)
def _mark_of(space, node):
    if _is_float(space):
        return lambda space, node: _mark_of_floats(space, node)
    return lambda space, node: _mark_of_code(space, node)


@overload(orders_by_l2, jit_options=INLINED)
def _orders_by_l2(space):
    if _is_float(space):
        return lambda space: space.metric == L2
    return lambda space: True


@overload(stand_at, jit_options=INLINED)
def _stand_at(space, node, prepared):
    if _is_float(space):
        return lambda space, node, prepared: space.vectors[node]
    return lambda space, node, prepared: _prepare_row(space, node, prepared)


@overload(probe_at, jit_options=INLINED)
def _probe_at(queries, i):
    if queries.dtype == types.float32:
        return lambda queries, i: queries[i]
    return lambda queries, i: queries.ctypes.data + i * queries.shape[1]


@overload(prefetch_node, jit_options=INLINED)
def _prefetch_node(space, node):
    if _is_float(space):

        def fetch(space, node):
            size = space.vectors.shape[1] * 4
            prefetch_row(space.vectors.ctypes.data + node * size, size)

    else:

        def fetch(space, node):
            size = space.codes.shape[1]
            prefetch_row(space.codes.ctypes.data + node * size, size)

    return fetch


def _is_float(space):
    return space.instance_class is FloatSpace
