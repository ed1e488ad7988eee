"""The cost of each layer over the one below is told; whether it is small, a quiet machine says."""

import numpy as np

from luma_lab.bench import overhead


def test_each_layer_is_timed_and_held_against_the_one_below():
    figures = overhead.measure(rows=300, dim=32, k=3, queries=5, rounds=2)
    assert (figures["rows"], figures["dim"], figures["k"]) == (300, 32, 3)
    for name, lower in overhead.BELOW.items():
        assert figures[f"{name}_us"] > 0 and figures[f"{lower}_us"] > 0
        assert f"{name}_over_{lower}_us" in figures


def test_made_vectors_are_near_a_space_of_fewer_dimensions():
    vectors, asked = overhead.made_vectors(500, 64, 10)
    assert vectors.shape == (500, 64) and asked.shape == (10, 64)
    assert vectors.dtype == asked.dtype == np.float32
    strength = np.linalg.svd(vectors, compute_uv=False) ** 2
    assert strength[: overhead.REAL_DIM].sum() > 0.9 * strength.sum()
