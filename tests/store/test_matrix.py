"""Matrix files: rows as sent, orphans overwritten, every block under a checksum."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from luma_lab.errors import CorruptStore
from luma_lab.store.matrix import BLOCK_ROWS, Matrix, damaged_blocks, extend_checksums


@pytest.fixture
def matrix(tmp_path):
    matrix = Matrix(tmp_path / "collections" / "1" / "vectors-0.f32", 3)
    yield matrix
    matrix.close()


def numbers(count, seed=0, dim=3):
    return np.random.default_rng(seed).normal(size=(count, dim)).astype(np.float32)


def test_rows_come_back_exactly_one_by_one_and_as_a_map(matrix):
    rows = numbers(50)
    rows[3] = [np.float32(1e-42), -0.0, np.finfo(np.float32).max]
    matrix.write(0, rows)
    matrix.sync()
    assert matrix.rows(50).tobytes() == rows.tobytes()
    assert matrix.read(3).tobytes() == rows[3].tobytes()
    with pytest.raises(ValueError, match="read-only"):
        matrix.rows(50)[0, 0] = 1


def test_a_map_taken_before_growth_stays_true_after_it(matrix):
    rows = numbers(70_000)
    matrix.write(0, rows[:10])
    early = matrix.rows(10)
    kept = early.copy()
    for start in range(10, 70_000, 9_998):
        matrix.write(start, rows[start : start + 9_998])
    assert matrix.rows(70_000).tobytes() == rows.tobytes()
    assert np.array_equal(early, kept)


def test_no_rows_need_no_file(tmp_path):
    matrix = Matrix(tmp_path / "never", 5)
    assert matrix.rows(0).shape == (0, 5)


def test_rows_that_were_never_committed_are_written_over(tmp_path):
    file = tmp_path / "collections" / "1" / "vectors-0.f32"
    first = Matrix(file, 3)
    first.write(0, numbers(4))
    first.write(4, numbers(9, seed=1))  # the process dies before this is committed
    first.close()
    second = Matrix(file, 3)
    second.write(4, numbers(2, seed=2))
    assert np.array_equal(second.rows(6), np.concatenate([numbers(4), numbers(2, seed=2)]))
    second.close()


def test_rows_beyond_the_file_are_refused_not_invented(matrix):
    matrix.write(0, numbers(2))
    room = matrix.path.stat().st_size // 12
    with pytest.raises(CorruptStore, match=f"holds {room} rows, expected {room + 1}"):
        matrix.rows(room + 1)
    with pytest.raises(CorruptStore, match=f"row {room}"):
        matrix.read(room)


def test_a_missing_file_is_refused_by_name(tmp_path):
    with pytest.raises(CorruptStore, match=r"vectors-0\.f32"):
        Matrix(tmp_path / "vectors-0.f32", 3).rows(1)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(1, 1500), min_size=1, max_size=8), st.integers(0, 2**32 - 1))
def test_checksums_do_not_depend_on_how_rows_were_split_into_writes(sizes, seed):
    rows = numbers(sum(sizes), seed, dim=2)
    blocks, start = {}, 0
    for size in sizes:
        for block, count, crc in extend_checksums(blocks.get, start, rows[start : start + size]):
            blocks[block] = (count, crc)
        start += size
    at_once = extend_checksums(lambda block: None, 0, rows)
    assert [(b, *blocks[b]) for b in sorted(blocks)] == at_once
    assert damaged_blocks(rows, at_once) == []


def test_one_flipped_bit_names_the_block_it_is_in():
    rows = numbers(2 * BLOCK_ROWS + 500)
    blocks = extend_checksums(lambda block: None, 0, rows)
    for row in (0, BLOCK_ROWS - 1, BLOCK_ROWS, 2 * BLOCK_ROWS + 499):
        hurt = rows.copy()
        hurt.view(np.uint32)[row, 1] ^= 1
        assert damaged_blocks(hurt, blocks) == [row // BLOCK_ROWS]


def test_a_block_that_is_missing_or_short_is_noticed():
    rows = numbers(BLOCK_ROWS + 5)
    blocks = extend_checksums(lambda block: None, 0, rows)
    assert damaged_blocks(rows, blocks[:1]) == [-1]
    assert 1 in damaged_blocks(rows[:-1], blocks)
    assert damaged_blocks(rows, []) == [-1]
