"""Q8 and Q4 codes: how rows and queries become bytes, and the distance between them.

A row x is kept as the bytes of ``x - mean``: component j is about ``scale * c[j] + offset``
with integers c, int8 (Q8) or 0 to 15 (Q4). A query y becomes bytes u (uint8), component j being
about ``step * (u[j] - 128) + shift``. Then, with sums over the components,

    <query, row> = scale * (step * (sum u*c - 128 * sum c) + shift * sum c) + offset * sum y

holds but for rounding, so that one integer dot product (sum u*c) and constants of the row and
of the query give every metric:

    distance = base + weight * norm + scale * (slope * e + lift * (128 * sum c)) + offset * total
    e        = sum u*c - 128 * sum c                                  (exact, int32)

l2      y = query - mean; weight 1, slope -2 step, lift -2 shift / 128, total -2 sum y; norm is
        |row|^2 and base |y|^2, both as quantised: so errors shrink with the distance itself.
dot     y = query; weight 0, base -<query, mean>, slope -step, lift -shift / 128, total -sum y.
cosine  as dot with query and rows of length one; base 1 - <query, mean>.

Shared conventions
------------------
codes    uint8 (n, row_bytes); `code_bytes` (a multiple of 64) of codes, zeros behind the last
         component, then or overlapping those zeros, in the last 16 bytes of the row, the
         constants: float32 scale, offset, norm and int32 128 * sum c
queries  uint8 (n_queries, query_bytes); one byte a component, zeros behind them up to what
         `code_bytes` hold, then float32 base, weight, slope, lift, total. The zeros cancel
         whatever the row has in their place.
"""

import numpy as np

from luma_lab.kernels.compile import kernel
from luma_lab.kernels.distance import COSINE, L2, ONE, ZERO
from luma_lab.kernels.int8 import (
    BLOCK_BYTES,
    dot_u8s8,
    dot_u8u4,
    load_float32,
    load_int32,
)

Q8 = 0
Q4 = 1
ROW_CONSTANT_BYTES = 16
QUERY_CONSTANTS = 5
MIDDLE = 128
FLAT = np.float32(1e-36)  # a row that spans less is one value: its inverse would overflow
REFINEMENTS = 4
SIGN_FLIP = np.int32(0x7FFFFFFF)
HALF = np.float32(0.5)


@kernel(inline=True)
def combine(query_constants, row_constants, product):
    """Return the distance from the two addresses of constants and the integer dot product."""
    centred = load_int32(row_constants + 12)
    inner = load_float32(query_constants + 8) * np.float32(np.int32(product - centred))
    inner += load_float32(query_constants + 12) * np.float32(centred)
    distance = load_float32(query_constants)
    distance += load_float32(query_constants + 4) * load_float32(row_constants + 8)
    distance += load_float32(query_constants + 16) * load_float32(row_constants + 4)
    return distance + load_float32(row_constants) * inner


@kernel(inline=True)
def q8_distance(query_address, row_address, code_bytes, row_bytes):
    """Return the approximate distance of a prepared query to a Q8 row, as float32.

    One integer dot product and a few multiply-adds. As users see distances, but for rounding:
    it may be a little below 0. Addresses are integers and need no alignment.
    """
    product = dot_u8s8(query_address, row_address, code_bytes)
    return combine(
        query_address + code_bytes, row_address + row_bytes - ROW_CONSTANT_BYTES, product
    )


@kernel(inline=True)
def q4_distance(query_address, row_address, code_bytes, row_bytes):
    """Return the approximate distance of a prepared query to a Q4 row, see `q8_distance`."""
    product = dot_u8u4(query_address, row_address, code_bytes)
    return combine(
        query_address + 2 * code_bytes, row_address + row_bytes - ROW_CONSTANT_BYTES, product
    )


@kernel
def extent(values):
    """Return the least and the largest of at least one float32, none of them NaN."""
    # As integers of the same order (see topk.pack_key): these the compiler compares in vectors.
    bits = values.view(np.int32)
    least = np.int32(0x7FFFFFFF)
    largest = np.int32(-0x80000000)
    for i in range(bits.shape[0]):
        ordered = np.int32(bits[i] ^ ((bits[i] >> 31) & SIGN_FLIP))
        least = min(least, ordered)
        largest = max(largest, ordered)
    least = np.int32(least ^ ((least >> 31) & SIGN_FLIP))
    largest = np.int32(largest ^ ((largest >> 31) & SIGN_FLIP))
    return np.int32(least).view(np.float32), np.int32(largest).view(np.float32)


@kernel
def round_to_levels(values, least, step, levels, out):
    """Write the level (0 to `levels`) of each value into uint8 `out`, on a grid from `least`."""
    inverse = ONE / step if step > FLAT else ZERO
    top = np.float32(levels)
    for i in range(values.shape[0]):
        place = (values[i] - least) * inverse + HALF
        place = place if place > ZERO else ZERO
        place = place if place < top else top
        out[i] = np.uint8(np.int32(place))


@kernel
def fit_grid(values, out):
    """Return (least, step) of the 16-level grid that fits float32 `values` with little error.

    From the grid over their whole extent, by turns: levels to the nearest, grid by least
    squares. `out` receives the levels.
    """
    least, largest = extent(values)
    step = np.float32((largest - least) / np.float32(15.0))
    round_to_levels(values, least, step, 15, out)
    count = np.float64(values.shape[0])
    for _ in range(REFINEMENTS):
        level_sum, square_sum, value_sum, product_sum = 0.0, 0.0, 0.0, 0.0
        for i in range(values.shape[0]):
            level, value = np.float64(out[i]), np.float64(values[i])
            level_sum += level
            square_sum += level * level
            value_sum += value
            product_sum += level * value
        spread = count * square_sum - level_sum * level_sum
        if spread <= 0.0:
            break
        slope = (count * product_sum - level_sum * value_sum) / spread
        least = np.float32((value_sum - slope * level_sum) / count)
        step = np.float32(slope)
        round_to_levels(values, least, step, 15, out)
    return least, step


@kernel
def encode_rows(rows, mean, kind, code_bytes, codes):
    """Write the codes of `rows` (n, at least dim) into `codes` (n, row_bytes).

    Parameters
    ----------
    rows : float32 array
        Of length one (or zero) under COSINE; what is behind `mean`'s length is not read.
    mean : float32 array of shape (dim,)
    kind : int
        Q8 or Q4.
    """
    dim = mean.shape[0]
    values = np.empty(dim, np.float32)
    levels = np.empty(dim, np.uint8)
    for i in range(rows.shape[0]):
        for j in range(dim):
            values[j] = rows[i, j] - mean[j]
        code = codes[i]
        code[:] = 0
        if kind == Q8:
            least, largest = extent(values)
            step = np.float32((largest - least) / np.float32(255.0))
            round_to_levels(values, least, step, 255, levels)
            offset = np.float32(np.float64(least) + MIDDLE * np.float64(step))
            total = 0
            for j in range(dim):
                code[j] = levels[j] ^ np.uint8(MIDDLE)  # two's complement of level - 128
                total += np.int64(levels[j]) - MIDDLE
        else:
            offset, step = fit_grid(values, levels)
            total = 0
            for j in range(dim):
                place = (j // (2 * BLOCK_BYTES)) * BLOCK_BYTES + j % BLOCK_BYTES
                code[place] |= levels[j] << np.uint8(4 * ((j // BLOCK_BYTES) & 1))
                total += np.int64(levels[j])
        middle = MIDDLE if kind == Q8 else 0
        norm = 0.0
        for j in range(dim):
            value = np.float64(step) * (np.float64(levels[j]) - middle) + np.float64(offset)
            norm += value * value
        tail = code[code.shape[0] - ROW_CONSTANT_BYTES :]
        floats = tail.view(np.float32)
        floats[0] = step
        floats[1] = offset
        floats[2] = np.float32(norm)
        tail.view(np.int32)[3] = MIDDLE * total


@kernel
def decode_rows(codes, mean, kind, rows):
    """Write what `codes` (n, row_bytes) stand for into float32 `rows` (n, dim)."""
    dim = mean.shape[0]
    for i in range(codes.shape[0]):
        code = codes[i]
        floats = code[code.shape[0] - ROW_CONSTANT_BYTES :].view(np.float32)
        step, offset = floats[0], floats[1]
        for j in range(dim):
            if kind == Q8:
                level = np.float32(np.int8(code[j]))
            else:
                place = (j // (2 * BLOCK_BYTES)) * BLOCK_BYTES + j % BLOCK_BYTES
                level = np.float32((code[place] >> (4 * ((j // BLOCK_BYTES) & 1))) & 15)
            rows[i, j] = step * level + offset + mean[j]


@kernel
def prepare_query(query, mean, metric, constants_at, values, prepared):
    """Write a float32 `query` (at least dim,) as bytes and constants, see the module.

    Parameters
    ----------
    query : float32 array
        Of length one (or zero) under COSINE.
    constants_at : int
        Where the constants begin in `prepared`.
    values : float32 array of shape (dim,)
        Scratch.
    prepared : uint8 array of shape (query_bytes,)
        Output.
    """
    dim = mean.shape[0]
    inner, total = 0.0, 0.0
    if metric == L2:
        for j in range(dim):
            values[j] = query[j] - mean[j]
    else:
        for j in range(dim):
            values[j] = query[j]
            inner += np.float64(query[j]) * np.float64(mean[j])
            total += np.float64(query[j])
    prepared[dim:] = 0
    least, largest = extent(values)
    step = np.float32((largest - least) / np.float32(255.0))
    round_to_levels(values, least, step, 255, prepared)
    shift = np.float64(least) + MIDDLE * np.float64(step)
    factor = 1.0
    weight = 0.0
    if metric == L2:
        factor, weight = 2.0, 1.0
        level_sum, square_sum = 0, 0
        for j in range(dim):
            level = np.int64(prepared[j]) - MIDDLE
            level_sum += level
            square_sum += level * level
        wide = np.float64(step)
        total = wide * level_sum + dim * shift
        base = wide * (wide * square_sum + 2.0 * shift * level_sum) + dim * shift * shift
    else:
        base = (1.0 if metric == COSINE else 0.0) - inner
    constants = prepared[constants_at : constants_at + 4 * QUERY_CONSTANTS].view(np.float32)
    constants[0] = np.float32(base)
    constants[1] = np.float32(weight)
    constants[2] = np.float32(-factor * np.float64(step))
    constants[3] = np.float32(-factor * shift / MIDDLE)
    constants[4] = np.float32(-factor * total)


@kernel
def prepare_queries(queries, mean, metric, constants_at, prepared):
    """Apply `prepare_query` to all of `queries` (n_queries, at least dim)."""
    values = np.empty(mean.shape[0], np.float32)
    for i in range(queries.shape[0]):
        prepare_query(queries[i], mean, metric, constants_at, values, prepared[i])


@kernel
def column_sums(rows, sums):
    """Add the columns of float32 `rows` (n, at least dim) to float64 `sums` (dim,), in order."""
    for i in range(rows.shape[0]):
        for j in range(sums.shape[0]):
            sums[j] += np.float64(rows[i, j])
