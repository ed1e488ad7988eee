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
from luma_lab.kernels.distance import L2, row_distance, squared_l2
from luma_lab.kernels.int8 import load_float32, load_int32
from luma_lab.kernels.prefetch import prefetch_row
from luma_lab.kernels.quantize import MIDDLE, QUERY_CONSTANTS, ROW_CONSTANT_BYTES, q8_distance

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
    """Tell whether two nodes that are 0 apart but for rounding are one row twice."""
    if isinstance(space, FloatSpace):
        return False  # their distance is 0 then, and nothing rounded
    return _same_constants(space, node, other)


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
def _same_constants(space, node, other):
    row_bytes = space.codes.shape[1]
    base = space.codes.ctypes.data + row_bytes - ROW_CONSTANT_BYTES
    one, two = base + node * row_bytes, base + other * row_bytes
    return (
        load_int32(one) == load_int32(two)
        and load_int32(one + 4) == load_int32(two + 4)
        and load_int32(one + 8) == load_int32(two + 8)
        and load_int32(one + 12) == load_int32(two + 12)
    )


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
        return lambda space, node, other: False
    return lambda space, node, other: _same_constants(space, node, other)


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
