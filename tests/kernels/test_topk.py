"""Packed keys and the bounded heap, against Python's own sorting."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from luma_lab.kernels import topk

FLOATS = st.floats(width=32, allow_nan=False).filter(lambda x: x != 0 or not np.signbit(x))
ROWS = st.integers(0, 2**31 - 1)


@given(FLOATS, ROWS)
def test_a_key_gives_back_its_distance_and_row(distance, row):
    key = topk.pack_key(np.float32(distance), row)
    assert topk.key_distance(key) == np.float32(distance)
    assert topk.key_row(key) == row
    assert topk.key_row(key | topk.EXPANDED) == row


@given(st.lists(st.tuples(FLOATS, ROWS), min_size=2, max_size=30))
def test_keys_order_by_distance_and_then_by_row(pairs):
    keys = [int(topk.pack_key(np.float32(distance), row)) for distance, row in pairs]
    by_key = [pair for _, pair in sorted(zip(keys, pairs, strict=True))]
    assert by_key == sorted(pairs)


KEYS = st.lists(st.integers(-(2**63), 2**63 - 1), max_size=60)


@given(KEYS, st.integers(1, 20))
def test_the_heap_keeps_the_least_keys(keys, capacity):
    heap = np.empty(capacity, np.int64)
    size = 0
    for key in keys:
        size = topk.push_least(heap, size, np.int64(key))
    topk.sort_heap(heap, size)
    assert heap[:size].tolist() == sorted(keys)[:capacity]


@given(KEYS)
def test_keys_are_sorted_in_place(keys):
    array = np.array([*keys, -1], np.int64)
    topk.sort_keys(array, len(keys))
    assert array.tolist() == [*sorted(keys), -1]
