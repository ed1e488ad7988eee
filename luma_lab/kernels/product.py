"""Product quantisation: a row as one byte for each of its parts, the number of a centroid.

Shared conventions
------------------
bounds     int64 (parts + 1,); part p holds components bounds[p] to bounds[p + 1]
centroids  float32 (parts, width, CENTROIDS), zeros behind the components of a narrower part
codes      uint8 (n, parts)
queries    uint8 (n_queries, query_bytes); for each part a uint16 table of CENTROIDS distances,
           then float32 base and scale: a distance is base + scale * (sum of the parts' entries),
           an integer sum, so that its order does not matter
"""

import math

import numpy as np

from luma_lab.kernels.compile import kernel
from luma_lab.kernels.distance import COSINE, L2, ZERO
from luma_lab.kernels.int8 import load_byte, load_float32, load_uint16
from luma_lab.kernels.quantize import HALF, extent

CENTROIDS = 256
TABLE_BYTES = 2 * CENTROIDS
CONSTANT_BYTES = 8
LARGEST_ENTRY = np.float32(65535.0)
FLAT = np.float32(1e-33)  # distances closer than that count as one: their inverse would overflow
NONE_LEAST = np.int32(0x7FFFFFFF)


@kernel(inline=True)
def pq_distance(query_address, row_address, parts):
    """Return the approximate distance of a prepared query to a row's code, as float32."""
    total = 0
    for part in range(parts):
        entry = query_address + TABLE_BYTES * part + 2 * np.intp(load_byte(row_address + part))
        total += np.intp(load_uint16(entry))
    constants = query_address + TABLE_BYTES * parts
    return load_float32(constants) + load_float32(constants + 4) * np.float32(total)


@kernel
def nearest_centroid(row, start, stop, centroids, distances):
    """Return the centroid nearest to row[start:stop] by squared L2; ties go to the lower one.

    centroids : float32 (width, CENTROIDS)
    distances : float32 (CENTROIDS,), scratch
    """
    distances[:] = ZERO
    for j in range(start, stop):
        value = row[j]
        column = centroids[j - start]
        for c in range(CENTROIDS):
            difference = value - column[c]
            distances[c] += difference * difference
    # Floats of at least 0 order as their bits do, and integers are compared in vectors.
    bits = distances.view(np.int32)
    least = NONE_LEAST
    for c in range(CENTROIDS):
        least = min(least, bits[c])
    nearest = CENTROIDS
    for c in range(CENTROIDS):
        nearest = min(nearest, c if bits[c] == least else CENTROIDS)
    return nearest


@kernel
def fit_part(rows, start, stop, rounds, centroids):
    """Improve the centroids of components start:stop by `rounds` of Lloyd's k-means.

    A centroid without rows takes half of the one whose rows lie furthest from it, all in all.
    Single-threaded and in order, so that the outcome is determined.

    Parameters
    ----------
    rows : float32 array of shape (n, dim)
    centroids : float32 array of shape (width, CENTROIDS)
        First guess in, centroids out.
    """
    width = stop - start
    distances = np.empty(CENTROIDS, np.float32)
    sums = np.empty((CENTROIDS, width), np.float64)
    counts = np.empty(CENTROIDS, np.int64)
    errors = np.empty(CENTROIDS, np.float64)
    for done in range(rounds):
        sums[:] = 0.0
        counts[:] = 0
        errors[:] = 0.0
        for i in range(rows.shape[0]):
            nearest = nearest_centroid(rows[i], start, stop, centroids, distances)
            counts[nearest] += 1
            errors[nearest] += np.float64(distances[nearest])
            for j in range(width):
                sums[nearest, j] += np.float64(rows[i, start + j])
        for c in range(CENTROIDS):
            if counts[c] > 0:
                for j in range(width):
                    centroids[j, c] = np.float32(sums[c, j] / counts[c])
        if done + 1 == rounds:
            break  # what is moved now would find no mean any more
        for c in range(CENTROIDS):
            worst = np.argmax(errors)
            if counts[c] > 0 or errors[worst] == 0.0:
                continue
            apart = np.float32(math.sqrt(errors[worst] / counts[worst] / width) / 2.0)
            for j in range(width):
                centre = centroids[j, worst]
                centroids[j, c] = centre + apart
                centroids[j, worst] = centre - apart
            counts[c] = counts[worst]
            errors[worst] /= 4.0
            errors[c] = errors[worst]


@kernel
def encode_parts(rows, bounds, centroids, codes):
    """Write the number of each part's nearest centroid into `codes` (n, parts)."""
    distances = np.empty(CENTROIDS, np.float32)
    # Part by part, so that one part's centroids stay in the first cache.
    for part in range(codes.shape[1]):
        start, stop = bounds[part], bounds[part + 1]
        for i in range(rows.shape[0]):
            nearest = nearest_centroid(rows[i], start, stop, centroids[part], distances)
            codes[i, part] = np.uint8(nearest)


@kernel
def decode_parts(codes, bounds, centroids, rows):
    """Write the centroids that `codes` name into float32 `rows` (n, dim)."""
    for i in range(codes.shape[0]):
        for part in range(codes.shape[1]):
            start = bounds[part]
            for j in range(start, bounds[part + 1]):
                rows[i, j] = centroids[part, j - start, codes[i, part]]


@kernel
def prepare_tables(queries, bounds, centroids, metric, prepared):
    """Write the tables of float32 `queries` (n_queries, dim), see the module.

    queries : of length one (or zero) under COSINE.
    """
    parts = centroids.shape[0]
    distances = np.empty((parts, CENTROIDS), np.float32)
    least = np.empty(parts, np.float32)
    for i in range(queries.shape[0]):
        widest = ZERO
        base = 1.0 if metric == COSINE else 0.0
        for part in range(parts):
            table = distances[part]
            table[:] = ZERO
            start = bounds[part]
            for j in range(start, bounds[part + 1]):
                value = queries[i, j]
                column = centroids[part, j - start]
                if metric == L2:
                    for c in range(CENTROIDS):
                        difference = value - column[c]
                        table[c] += difference * difference
                else:
                    for c in range(CENTROIDS):
                        table[c] -= value * column[c]
            low, high = extent(table)
            least[part] = low
            base += np.float64(low)
            widest = max(widest, high - low)
        scale, inverse = ZERO, ZERO
        if widest > FLAT:
            scale = widest / LARGEST_ENTRY
            inverse = LARGEST_ENTRY / widest
        tables = prepared[i, : parts * TABLE_BYTES].view(np.uint16)
        for part in range(parts):
            for c in range(CENTROIDS):
                place = (distances[part, c] - least[part]) * inverse + HALF
                place = place if place < LARGEST_ENTRY else LARGEST_ENTRY
                tables[part * CENTROIDS + c] = np.uint16(np.int32(place))
        constants = prepared[i, parts * TABLE_BYTES :].view(np.float32)
        constants[0] = np.float32(base)
        constants[1] = scale
