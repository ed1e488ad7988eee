"""Kernels of the disk index: checksums, shards, merged edges, asynchronous reads."""

import ctypes
import itertools
import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from luma_lab.index.rows import read_only
from luma_lab.kernels.aio import call_function
from luma_lab.kernels.beam import choose_beam, find_cached
from luma_lab.kernels.crc import crc32
from luma_lab.kernels.distance import L2
from luma_lab.kernels.partition import NO_SHARD, assign_shards, fit_centres, merge_edges
from luma_lab.kernels.record import Layout, is_sound, seal_blocks
from luma_lab.kernels.space import FloatSpace
from luma_lab.kernels.topk import EXPANDED, pack_key


@given(st.binary(min_size=0, max_size=300), st.integers(0, 2**32 - 1), st.integers(0, 5))
def test_the_checksum_is_that_of_zlib(data, seed, start):
    data = data[: len(data) // 4 * 4]
    start = min(4 * start, len(data))
    array = read_only(np.frombuffer(data, np.uint8))
    assert crc32(array, start, len(data), seed) == zlib.crc32(data[start:], seed)


@given(st.integers(0, 2**31 - 1), st.integers(0, 8 * 4096 - 1))
def test_any_flipped_bit_makes_a_block_unsound(block, bit):
    layout = Layout(2**31 - 1, 1, 0, 1, 4, 12, 1, 4096)
    blocks = np.zeros((1, 4096), np.uint8)
    blocks[0, :4] = 7
    seal_blocks(blocks, block)
    assert is_sound(read_only(blocks[0]), 0, block, layout)
    assert not is_sound(read_only(blocks[0]), 0, block ^ 1, layout)
    blocks[0, bit // 8] ^= np.uint8(1 << (bit % 8))
    assert not is_sound(read_only(blocks[0]), 0, block, layout)


@given(st.sets(st.integers(0, 50), max_size=20), st.integers(-1, 51))
def test_a_cached_node_is_found_at_its_place(nodes, node):
    ordered = sorted(nodes)
    expected = ordered.index(node) if node in nodes else -1
    assert find_cached(read_only(np.array(ordered, np.int32)), node) == expected


def test_a_beam_takes_the_nearest_that_were_not_expanded():
    keys = np.array([pack_key(np.float32(i), 10 + i) for i in range(6)])
    keys[0] |= EXPANDED
    keys[2] |= EXPANDED
    beam = np.zeros(4, np.int64)
    assert choose_beam(keys, 5, beam, 2) == 2 and beam[:2].tolist() == [11, 13]
    assert choose_beam(keys, 5, beam, 4) == 1 and beam[0] == 14
    assert choose_beam(keys, 5, beam, 4) == 0
    assert choose_beam(keys, 6, beam, 4) == 1 and beam[0] == 15


@pytest.mark.parametrize("capacity", [50, 60, 500])
def test_rows_go_to_the_two_nearest_shards_with_room(capacity):
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(100, 3)).astype(np.float32)
    centres = rows[:5].copy()
    first, second = (np.full(100, NO_SHARD, np.int16) for _ in range(2))
    room = np.full(5, capacity, np.int64)
    assign_shards(read_only(rows), read_only(centres), room, first, second)
    left = np.full(5, capacity)
    for row, a, b in zip(rows, first, second, strict=True):
        order = ((row - centres) ** 2).sum(axis=1).argsort()
        open_ones = [c for c in order if left[c] > 0]
        assert [a, b] == [*open_ones, NO_SHARD][:2]
        for c in {a, b} - {NO_SHARD}:
            left[c] -= 1
    assert left.tolist() == room.tolist() and (left >= 0).all()


def test_centres_move_to_the_middle_of_their_rows():
    rng = np.random.default_rng(0)
    middles = np.array([[0, 0], [50, 0], [0, 50]])
    rows = (middles[np.arange(300) % 3] + rng.normal(size=(300, 2))).astype(np.float32)
    centres = rows[:4].copy()
    centres[3] = 1000  # nobody's: stays
    fit_centres(read_only(rows), 5, centres)
    np.testing.assert_allclose(centres[:3], middles, atol=0.5)
    assert centres[3].tolist() == [1000, 1000]


def test_merged_edges_are_all_where_they_fit_and_pruned_where_they_do_not():
    rng = np.random.default_rng(0)
    vectors = np.zeros((40, 16), np.float32)
    vectors[:, :4] = rng.normal(size=(40, 4))
    space = FloatSpace(read_only(vectors), L2)
    few = np.full((10, 12), -1, np.int32)
    few[:, 1] = few[:, 7] = 20 + np.arange(10)  # the same from both shards
    few[:, 4] = 30 + np.arange(10)
    many = np.array([rng.permutation(np.arange(10, 40))[:12] for _ in range(10)], np.int32)
    for candidates, most in itertools.product((few, many), (2, 6, 12)):
        merged = np.full((10, most), 99, np.int32)
        merge_edges(space, 10, 0, 10, candidates, np.float32(1.2), merged, np.empty(0, np.uint8))
        for i in range(10):
            given_ids = {*candidates[i].tolist()} - {-1}
            kept = [e for e in merged[i].tolist() if e != -1]
            assert len(kept) == len(set(kept)) and set(kept) <= given_ids
            assert merged[i, len(kept) :].tolist() == [-1] * (most - len(kept))
            away = ((vectors[kept] - vectors[10 + i]) ** 2).sum(axis=1)
            if len(given_ids) <= most:
                assert set(kept) == given_ids and (np.diff(away) >= 0).all()
            else:
                nearest = min(
                    given_ids - {10 + i}, key=lambda e: ((vectors[e] - vectors[10 + i]) ** 2).sum()
                )
                assert kept[0] == nearest and 0 < len(kept) <= most


def test_a_function_is_called_at_its_address_with_its_arguments():
    from luma_lab.kernels import kernel

    seen = []

    @ctypes.CFUNCTYPE(*[ctypes.c_int64] * 7)
    def note(*arguments):
        seen.append(arguments)
        return -(2**40)

    @kernel
    def call(address):
        return call_function(address, 1, -2, 3, 2**50, 5, 6)

    assert call(ctypes.cast(note, ctypes.c_void_p).value) == -(2**40)
    assert seen == [(1, -2, 3, 2**50, 5, 6)]
