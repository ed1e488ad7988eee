"""What tests of range search share."""

import itertools

import numpy as np


def parts_of(found):
    """Return the rows of each query, as lists."""
    return [found.rows[a:b].tolist() for a, b in itertools.pairwise(found.limits)]


def same(a, b):
    return all((x == y).all() for x, y in zip(a[:3], b[:3], strict=True))


def radius_of(index, queries, count):
    """Return a radius that `count` rows a query are within on average, between two distances."""
    far = np.sort(index.search(queries, k=len(index)).distances.ravel())
    cut = count * len(queries)
    return float(np.float64(far[cut - 1]) + far[cut]) / 2
