"""A small lab and a small data set for the widgets to show."""

import numpy as np
import pytest

from luma_lab import bench
from luma_lab.engine.lab import Lab


@pytest.fixture
def vectors():
    """600 clustered float32 vectors of 16 components."""
    rng = np.random.default_rng(7)
    centres = rng.normal(size=(12, 16))
    return (centres[rng.integers(0, 12, 600)] + 0.6 * rng.normal(size=(600, 16))).astype("f4")


@pytest.fixture
def empty_lab():
    """A lab without collections."""
    with Lab(":memory:") as lab:
        yield lab


@pytest.fixture
def filled_lab(empty_lab, vectors):
    """A lab with the collections 'cubes' (600 points) and 'few' (3 points)."""
    cubes = empty_lab.create_collection("cubes", 16, metric="l2")
    cubes.upsert(
        [f"p{i}" for i in range(600)], vectors, [{"text": f"point <{i}>"} for i in range(600)]
    )
    few = empty_lab.create_collection("few", 4)
    few.upsert(["a", "b", "c"], np.eye(4)[:3])
    return empty_lab


@pytest.fixture
def dataset(vectors):
    """A bench data set: 560 base vectors, 40 queries not among them."""
    return bench.Dataset(name="cubes", metric="l2", base=vectors[:-40], queries=vectors[-40:])
