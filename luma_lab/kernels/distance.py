"""Distance kernels: float32 rows in, one float32 out; lower is nearer.

The only fastmath code of the house. Its three liberties let LLVM add in vector lanes and fuse
multiply-add; NaN and infinity keep their meaning, and are refused before any kernel sees them.
"""

import math

import numpy as np

from luma_lab.kernels.compile import kernel

LANES = frozenset({"reassoc", "contract", "nsz"})
L2 = 0
DOT = 1
COSINE = 2
# Below this, float32 squares lose precision or vanish; the sum is done again in float64.
TINY_SQUARE = np.float32(1e-30)
LARGEST_SQUARE = 8e37  # of a vector's length, as `luma_lab.types` has it
ZERO = np.float32(0.0)
ONE = np.float32(1.0)


@kernel(fastmath=LANES, inline=True)
def squared_l2(a, b):
    """Return the squared Euclidean distance of two float32 vectors.

    Differences are squared directly: |a|^2 + |b|^2 - 2ab would cancel for near vectors.
    """
    total = ZERO
    for i in range(a.shape[0]):
        difference = a[i] - b[i]
        total += difference * difference
    return total


@kernel(fastmath=LANES, inline=True)
def dot(a, b):
    """Return the inner product of two float32 vectors."""
    total = ZERO
    for i in range(a.shape[0]):
        total += a[i] * b[i]
    return total


@kernel(fastmath=LANES, inline=True)
def dot_and_square(a, b):
    """Return (a·b, b·b) of two float32 vectors in one pass."""
    product = ZERO
    square = ZERO
    for i in range(a.shape[0]):
        product += a[i] * b[i]
        square += b[i] * b[i]
    return product, square


@kernel(fastmath=LANES, inline=True)
def wide_square(a):
    """Return the squared length of a float32 vector, summed in float64."""
    total = 0.0
    for i in range(a.shape[0]):
        value = np.float64(a[i])
        total += value * value
    return total


@kernel(inline=True)
def row_distance(query, row, metric):
    """Return the graph's distance: squared L2 when `metric` is L2, else minus the dot product.

    Under COSINE both vectors have length one (or zero), so minus the dot product is the cosine
    distance less one.
    """
    if metric == L2:
        return squared_l2(query, row)
    # 0 - x, because -x would make -0.0, which sorts below 0.0 as bits.
    return ZERO - dot(query, row)


@kernel
def cosine_distance(product, square, matrix, row):
    """Return 1 - cos from a query's dot product with matrix[row] and that row's square.

    The query has length one or zero. At least 0; 1 for a zero vector.
    """
    if square >= TINY_SQUARE:
        return max(ZERO, ONE - product / np.float32(math.sqrt(square)))
    wide = wide_square(matrix[row])
    if wide == 0.0:
        return ONE
    return max(ZERO, np.float32(1.0 - np.float64(product) / math.sqrt(wide)))


@kernel
def prepare_rows(rows, unit, padded):
    """Copy `rows` (n, dim) into `padded` (n, stride), zeros behind; to length one if `unit`.

    Zero rows stay zero.
    """
    dim = rows.shape[1]
    for i in range(rows.shape[0]):
        scale = 1.0
        if unit:
            square = wide_square(rows[i])
            if square > 0.0:
                scale = 1.0 / math.sqrt(square)
        for j in range(dim):
            padded[i, j] = np.float32(rows[i, j] * scale)
        for j in range(dim, padded.shape[1]):
            padded[i, j] = ZERO
