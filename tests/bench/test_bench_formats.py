"""Promises of the file readers: each format is read back exactly, damage is refused by name."""

import numpy as np
import pytest

from luma_lab import bench
from luma_lab.bench import formats
from luma_lab.errors import DimensionMismatch, InvalidArgument, LumaError, NotFound, UnknownName

h5py = pytest.importorskip("h5py", reason="h5py reads ann-benchmarks files; it is in luma_lab[lab]")


def write_xvecs(path, vectors, dtype):
    with open(path, "wb") as stream:
        for vector in vectors:
            stream.write(np.int32(len(vector)).tobytes())
            stream.write(np.asarray(vector, dtype=dtype).tobytes())


def write_bigann(path, vectors, dtype):
    header = np.array(vectors.shape, dtype="<u4").tobytes()
    path.write_bytes(header + np.asarray(vectors, dtype=dtype).tobytes())


def write(path, vectors):
    suffix = path.suffix
    if suffix == ".npy":
        np.save(path, vectors)
    elif suffix in formats.XVECS:
        write_xvecs(path, vectors, formats.XVECS[suffix])
    else:
        write_bigann(path, vectors, formats.BIGANN[suffix])


def write_hdf5(path, base, queries, distance="euclidean", neighbors=None):
    with h5py.File(path, "w") as file:
        file["train"], file["test"] = base, queries
        if neighbors is not None:
            file["neighbors"] = neighbors
        if distance is not None:
            file.attrs["distance"] = distance


@pytest.fixture
def vectors():
    return np.random.default_rng(0).integers(0, 100, (30, 7)).astype(np.float32)


@pytest.mark.parametrize("suffix", formats.VECTOR_SUFFIXES)
def test_every_format_gives_back_the_vectors_that_were_written(tmp_path, vectors, suffix):
    write(tmp_path / f"x_base{suffix}", vectors[:20])
    write(tmp_path / f"x_query{suffix}", vectors[20:])
    data = bench.load(tmp_path / f"x_base{suffix}")
    np.testing.assert_array_equal(data.base, vectors[:20])
    np.testing.assert_array_equal(data.queries, vectors[20:])
    assert data.base.dtype == data.queries.dtype == np.float32
    assert data.metric == "l2"


@pytest.mark.parametrize("suffix", formats.VECTOR_SUFFIXES)
@pytest.mark.parametrize("cut", [0, 3, -1])
def test_a_truncated_file_is_refused_by_name(tmp_path, vectors, suffix, cut):
    whole = tmp_path / f"whole{suffix}"
    write(whole, vectors)
    short = tmp_path / f"short{suffix}"
    short.write_bytes(whole.read_bytes()[:cut])
    with pytest.raises(LumaError, match=f"short{suffix}"):
        bench.load(short)


def test_fvecs_with_vectors_of_two_lengths_are_refused(tmp_path):
    path = tmp_path / "odd.fvecs"
    write_xvecs(path, [np.zeros(3)] * 2, "<f4")
    data = bytearray(path.read_bytes())
    data[16] = 4
    path.write_bytes(data)
    with pytest.raises(InvalidArgument, match=r"vector 1 claims 4 components; expected 3"):
        bench.load(path)


@pytest.mark.parametrize("claimed", [0, -5])
def test_fvecs_of_no_components_are_refused(tmp_path, claimed):
    path = tmp_path / "none.fvecs"
    path.write_bytes(np.int32(claimed).tobytes() * 3)
    with pytest.raises(InvalidArgument, match=r"none\.fvecs: the first vector claims"):
        bench.load(path)


def test_a_big_ann_file_longer_than_its_header_says_is_refused(tmp_path, vectors):
    path = tmp_path / "long.u8bin"
    write_bigann(path, vectors, "u1")
    path.write_bytes(path.read_bytes() + b"x")
    with pytest.raises(InvalidArgument, match=r"long\.u8bin: 219 bytes; expected 218"):
        bench.load(path)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_vectors_that_are_not_finite_are_refused_by_row(tmp_path, vectors, bad):
    vectors[17, 3] = bad
    np.save(tmp_path / "x.npy", vectors)
    with pytest.raises(InvalidArgument, match=r"x\.npy: row 17 holds NaN, infinity"):
        bench.load(tmp_path / "x.npy")


def test_integers_that_float32_would_change_are_refused(tmp_path):
    write_xvecs(tmp_path / "x.ivecs", [[1, 2**24 + 1]] * 3, "<i4")
    with pytest.raises(InvalidArgument, match="16777217"):
        bench.load(tmp_path / "x.ivecs")


def test_pickles_and_other_shapes_in_npy_files_are_refused(tmp_path):
    np.save(tmp_path / "objects.npy", np.array([{}, []], dtype=object), allow_pickle=True)
    np.save(tmp_path / "flat.npy", np.zeros(5))
    np.save(tmp_path / "words.npy", np.array([["a", "b"]] * 3))
    (tmp_path / "text.npy").write_text("hello")
    for name in ("objects", "flat", "words", "text"):
        with pytest.raises(InvalidArgument, match=rf"{name}\.npy"):
            bench.load(tmp_path / f"{name}.npy")


def test_without_a_query_file_the_last_tenth_is_held_out(tmp_path, vectors):
    np.save(tmp_path / "x.npy", vectors)
    data = bench.load(tmp_path / "x.npy")
    np.testing.assert_array_equal(data.base, vectors[:27])
    np.testing.assert_array_equal(data.queries, vectors[27:])


def test_one_vector_alone_cannot_be_split(tmp_path, vectors):
    np.save(tmp_path / "x.npy", vectors[:1])
    with pytest.raises(InvalidArgument, match="one vector"):
        bench.load(tmp_path / "x.npy")


def test_query_files_are_found_by_name_and_never_guessed_between_two(tmp_path, vectors):
    base = tmp_path / "base.10M.fbin"
    write(base, vectors[:20])
    write(tmp_path / "query.public.fbin", vectors[20:])
    assert len(bench.load(base).queries) == 10
    write(tmp_path / "query.private.fbin", vectors[25:])
    with pytest.raises(InvalidArgument, match=r"query\.private\.fbin, query\.public\.fbin"):
        bench.load(base)
    assert len(bench.load(base, queries=tmp_path / "query.private.fbin").queries) == 5


def test_a_named_query_file_may_have_another_format(tmp_path, vectors):
    write(tmp_path / "a.fvecs", vectors[:20])
    write(tmp_path / "b.npy", vectors[20:])
    data = bench.load(tmp_path / "a.fvecs", queries=tmp_path / "b.npy")
    assert data.base.shape == (20, 7) and data.queries.shape == (10, 7)


def test_queries_of_another_dimension_are_refused(tmp_path, vectors):
    np.save(tmp_path / "a.npy", vectors)
    np.save(tmp_path / "b.npy", vectors[:, :3])
    with pytest.raises(DimensionMismatch, match="got 3 components"):
        bench.load(tmp_path / "a.npy", queries=tmp_path / "b.npy")


def test_half_precision_vectors_are_renormalised_under_cosine_only(tmp_path):
    raw = np.random.default_rng(1).normal(size=(40, 16))
    half = (raw / np.linalg.norm(raw, axis=1, keepdims=True)).astype(np.float16)
    np.save(tmp_path / "x.npy", half)
    cosine = bench.load(tmp_path / "x.npy", metric="cosine").base
    np.testing.assert_allclose(np.linalg.norm(cosine, axis=1), 1.0, atol=1e-6)
    plain = bench.load(tmp_path / "x.npy", metric="l2").base
    np.testing.assert_array_equal(plain, half[:36].astype(np.float32))


@pytest.mark.parametrize(
    ("distance", "metric"), [("euclidean", "l2"), ("angular", "cosine"), (b"dot", "dot")]
)
def test_hdf5_files_bring_their_metric(tmp_path, vectors, distance, metric):
    path = tmp_path / "x.hdf5"
    write_hdf5(path, vectors[:20], vectors[20:], distance)
    data = bench.load(path)
    assert data.metric == metric
    np.testing.assert_array_equal(data.base, vectors[:20])
    np.testing.assert_array_equal(data.queries, vectors[20:])


def test_hdf5_files_without_a_distance_want_a_metric(tmp_path, vectors):
    path = tmp_path / "x.hdf5"
    write_hdf5(path, vectors[:20], vectors[20:], None)
    with pytest.raises(InvalidArgument, match=r"x\.hdf5: it names no distance"):
        bench.load(path)
    assert bench.load(path, metric="l2").metric == "l2"


def test_malformed_hdf5_files_are_refused_by_name(tmp_path, vectors):
    base, queries = vectors[:20], vectors[20:]
    (tmp_path / "text.hdf5").write_text("hello")
    write_hdf5(tmp_path / "jaccard.hdf5", base, queries, "jaccard")
    write_hdf5(tmp_path / "narrow.hdf5", base, queries[:, :2])
    write_hdf5(tmp_path / "rows.hdf5", base, queries, neighbors=np.full((10, 3), 20))
    write_hdf5(tmp_path / "few.hdf5", base, queries, neighbors=np.zeros((9, 3), dtype=int))
    with h5py.File(tmp_path / "empty.hdf5", "w") as file:
        file.create_group("train")
    whole = tmp_path / "whole.hdf5"
    write_hdf5(whole, base, queries)
    (tmp_path / "short.hdf5").write_bytes(whole.read_bytes()[:-100])
    for name in ("text", "jaccard", "narrow", "rows", "few", "empty", "short"):
        with pytest.raises(InvalidArgument, match=rf"{name}\.hdf5"):
            bench.load(tmp_path / f"{name}.hdf5")


def test_right_neighbours_in_a_file_are_used_and_wrong_ones_replaced(tmp_path, caplog):
    rng = np.random.default_rng(2)
    base, queries = rng.normal(size=(200, 8)), rng.normal(size=(50, 8))
    base, queries = base.astype(np.float32), queries.astype(np.float32)
    rows, distances = bench.exact_neighbors(base, queries, 10)
    path = tmp_path / "x.hdf5"
    write_hdf5(path, base, queries, neighbors=rows[:, ::-1].astype(np.int32))
    data = bench.load(path)
    np.testing.assert_array_equal(data.truth(10)[0], rows)
    np.testing.assert_allclose(data.truth(10)[1], distances, rtol=1e-6)
    assert not caplog.records

    write_hdf5(path, base, queries, neighbors=(rows + 1) % 200)
    np.testing.assert_array_equal(bench.load(path).truth(10)[0], rows)
    assert "not the nearest rows of query 0" in caplog.text

    np.testing.assert_array_equal(
        bench.load(path, metric="cosine").truth(10)[0],
        bench.exact_neighbors(base, queries, 10, metric="cosine")[0],
    )


def test_formats_that_are_not_read_are_refused_with_what_is(tmp_path):
    (tmp_path / "x.csv").write_text("1,2\n")
    for path in (tmp_path / "x.csv", tmp_path):
        with pytest.raises(InvalidArgument, match=r"\.fvecs.*wordnet2k"):
            bench.load(path)


def test_what_does_not_exist_is_told_apart_from_what_is_unknown(tmp_path):
    with pytest.raises(NotFound, match=r"gone\.fvecs: no such file"):
        bench.load(tmp_path / "gone.fvecs")
    with pytest.raises(NotFound, match=r"gone\.csv: no such file"):
        bench.load(tmp_path / "gone.csv")
    with pytest.raises(UnknownName, match="did you mean 'wordnet2k'"):
        bench.load("wordnet")
    with pytest.raises(UnknownName, match="'cosine'"):
        bench.load("wordnet2k", metric="cosin")
    with pytest.raises(InvalidArgument, match="expected the name of a data set or a path"):
        bench.load(7)
