"""What every vector index promises; a test class per index inherits it and gives `make`."""

import functools
import pickle
import threading

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from luma_lab import errors
from luma_lab.index import FlatIndex
from luma_lab.index.protocol import VectorIndex

METRICS = ("cosine", "dot", "l2")
ODD_DATA = {
    "none": np.zeros((0, 4)),
    "one": np.ones((1, 4)),
    "two": np.eye(2, 4),
    "all zero": np.zeros((500, 4)),
    "each twenty times": np.repeat(np.random.default_rng(0).normal(size=(25, 4)), 20, axis=0),
    "far clusters": np.concatenate(
        [np.random.default_rng(i).normal(100 * i, 1, (40, 4)) for i in range(9)]
    ),
    "on a line": np.arange(400.0).reshape(400, 1) * np.ones(4),
}
every_metric = pytest.mark.parametrize("metric", METRICS)


def each_of(data):
    """Return a mark that runs a test with ``vectors`` each of a dict of arrays."""
    return pytest.mark.parametrize("vectors", data.values(), ids=data.keys())


def clustered(n, dim, seed=0):
    """Points round 20 centres, of unlike lengths: neither uniform nor normalised."""
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(99).normal(size=(20, dim)) * 2
    points = centres[rng.integers(0, 20, n)] + rng.normal(size=(n, dim))
    return (points * rng.lognormal(0, 0.2, size=(n, 1))).astype(np.float32)


def brute_force(vectors, queries, metric):
    """Return all distances (n_queries, n) in float64, as users see them."""
    vectors = np.atleast_2d(np.asarray(vectors, np.float64))
    queries = np.atleast_2d(np.asarray(queries, np.float64))
    if metric == "l2":
        return ((queries[:, None] - vectors[None]) ** 2).sum(2)
    if metric == "cosine":
        vectors, queries = (
            rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-300)
            for rows in (vectors, queries)
        )
    product = queries @ vectors.T
    return 1 - product if metric == "cosine" else -product


def recall(found, expected):
    """Return the share of expected rows that were found."""
    pairs = zip(found.rows.tolist(), expected.rows.tolist(), strict=True)
    hits = sum(len({*a} & {*b} - {-1}) for a, b in pairs)
    return hits / (expected.rows >= 0).sum()


def same_answers(a, b):
    return (a.rows == b.rows).all() and (a.distances == b.distances).all()


class IndexContract:
    """Inherit, and define ``make(dim, metric, **parameters)``."""

    recall_floor = 0.95
    least_memory_share = 1.0  # of the vectors' bytes; less where codes are all there is
    reads_records = False  # from disk, while it searches
    holds_vectors = True  # in memory

    def make(self, dim, metric="cosine", **parameters):
        raise NotImplementedError

    @functools.cache  # noqa: B019 - one build serves many examples
    def built(self, metric):
        vectors = clustered(1500, 20)
        return vectors, self.make(20, metric).build(vectors)

    def test_it_offers_what_the_protocol_names(self):
        index = self.make(4).build(np.ones((2, 4)))
        named = [*VectorIndex.__annotations__, *(n for n in vars(VectorIndex) if n[0] != "_")]
        assert {"dim", "build", "search", "save", "fingerprint", "total_rows"} <= set(named)
        assert [name for name in named if not hasattr(index, name)] == []

    @every_metric
    def test_answers_have_the_promised_shapes_types_and_order(self, metric):
        vectors, index = self.built(metric)
        found = index.search(vectors[:7], k=5)
        assert found.rows.shape == found.distances.shape == (7, 5)
        assert found.rows.dtype == np.int64 and found.distances.dtype == np.float32
        assert (np.diff(found.distances) >= 0).all()
        assert all(stat.shape == (7,) and stat.dtype == np.int64 for stat in found.stats)
        assert (found.stats.comparisons > 0).all()
        assert ((found.stats.reads > 0) == self.reads_records).all()
        single = index.search(vectors[3], k=5)
        assert single.rows.tolist() == found.rows[3:4].tolist()
        assert index.search(vectors[:0], k=5).rows.shape == (0, 5)

    @every_metric
    def test_distances_are_those_of_brute_force(self, metric):
        vectors, index = self.built(metric)
        queries = clustered(30, 20, seed=1)
        found = index.search(queries, k=10)
        expected = np.take_along_axis(brute_force(vectors, queries, metric), found.rows, 1)
        scale = np.abs(brute_force(vectors, queries, metric)).max()
        np.testing.assert_allclose(found.distances, expected, rtol=1e-5, atol=2e-7 * scale)

    @every_metric
    def test_recall_against_the_exact_answer_is_above_the_floor(self, metric):
        vectors, index = self.built(metric)
        queries = clustered(100, 20, seed=2)
        exact = FlatIndex(20, metric).build(vectors).search(queries, k=10)
        assert recall(index.search(queries, k=10), exact) >= self.recall_floor

    @pytest.mark.parametrize("metric", ["cosine", "l2"])  # the largest dot may be another's
    def test_a_row_asked_for_finds_itself_at_distance_zero(self, metric):
        vectors, index = self.built(metric)
        found = index.search(vectors[:50], k=1)
        assert found.rows[:, 0].tolist() == list(range(50))
        assert (found.distances >= 0).all() and found.distances.max() < 1e-6

    @every_metric
    def test_k_above_the_rows_pads_with_minus_one_and_inf(self, metric):
        vectors = clustered(5, 8)
        found = self.make(8, metric).build(vectors).search(vectors[:2], k=8)
        assert np.sort(found.rows[:, :5]).tolist() == [[0, 1, 2, 3, 4]] * 2
        assert (found.rows[:, 5:] == -1).all() and (found.distances[:, 5:] == np.inf).all()
        assert np.isfinite(found.distances[:, :5]).all()

    @every_metric
    def test_no_rows_answer_with_padding_only(self, metric, tmp_path):
        index = self.make(6, metric).build(np.empty((0, 6)))
        index.save(tmp_path / "empty")
        for empty in (index, type(index).load(tmp_path / "empty")):
            assert len(empty) == empty.total_rows == 0
            found = empty.search(np.ones(6), k=3)
            assert found.rows.tolist() == [[-1] * 3]
            assert found.distances.tolist() == [[np.inf] * 3]
            masked = empty.search(np.ones(6), k=3, mask=np.zeros(0, bool))
            assert masked.rows.tolist() == [[-1] * 3]

    @every_metric
    def test_one_row_is_found(self, metric):
        index = self.make(6, metric).build(np.ones((1, 6)))
        assert index.search(np.ones(6), k=2).rows.tolist() == [[0, -1]]

    @every_metric
    def test_equal_vectors_are_all_found(self, metric):
        vectors = np.tile(np.float32([1, 2, 3, 4]), (100, 1))
        found = self.make(4, metric).build(vectors).search(vectors[:1], k=100)
        assert sorted(found.rows[0].tolist()) == list(range(100))
        assert len(set(found.distances[0].tolist())) == 1
        assert found.rows[0].tolist() == list(range(100)), "ties go to the lower row"

    def test_a_zero_vector_has_cosine_distance_one_to_everything(self):
        vectors = clustered(50, 8)
        vectors[7] = 0
        index = self.make(8, "cosine").build(vectors)
        found = index.search(np.zeros(8), k=50)
        assert sorted(found.rows[0].tolist()) == list(range(50))
        assert (found.distances == 1.0).all()
        found = index.search(vectors[3], k=50)
        assert found.distances[0][found.rows[0] == 7] == 1.0

    @every_metric
    def test_float64_lists_and_strided_input_are_converted(self, metric):
        wide = clustered(200, 16).astype(np.float64)
        strided = np.asfortranarray(wide.astype(np.float32))
        backwards = np.ascontiguousarray(wide[:, ::-1])[:, ::-1]
        expected = self.make(16, metric).build(wide.astype(np.float32))
        for same in (wide, wide.tolist(), strided, backwards):
            index = self.make(16, metric).build(same)
            assert index.fingerprint == expected.fingerprint
            assert same_answers(index.search(same[:5]), expected.search(wide[:5]))

    def test_changing_the_callers_array_afterwards_changes_nothing(self):
        vectors = clustered(100, 8)
        index = self.make(8, "l2").build(vectors)
        before = index.fingerprint
        vectors[:] = 0
        assert index.fingerprint == before

    def test_another_dimension_is_refused(self):
        index = self.make(8, "l2")
        with pytest.raises(errors.DimensionMismatch, match="got 7 components; the index wants 8"):
            index.build(np.ones((3, 7)))
        with pytest.raises(errors.IndexNotBuilt):
            index.search(np.ones(8))
        index.build(np.ones((3, 8)))
        for query in (np.ones(7), np.ones((2, 9))):
            with pytest.raises(errors.DimensionMismatch):
                index.search(query)

    @pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 1e30])
    def test_a_row_that_is_no_finite_vector_is_refused_by_name(self, bad):
        vectors = clustered(5000, 8)
        vectors[4567, 3] = bad
        index = self.make(8, "l2").build(clustered(10, 8))
        before = index.fingerprint
        with pytest.raises(errors.InvalidArgument, match="row 4567"):
            index.build(vectors)
        with pytest.raises(errors.InvalidArgument, match="queries: row 2 "):
            index.search(vectors[4565:4568])
        assert index.fingerprint == before

    @pytest.mark.parametrize(
        ("arguments", "named"),
        [
            ({"k": 0}, "k=0"),
            ({"k": -3}, "k=-3"),
            ({"k": 2.5}, "k=2.5"),
            ({"k": True}, "k=True"),
            ({"threads": -1}, "threads=-1"),
            ({"mask": np.ones(3, bool)}, "shape"),
            ({"mask": np.ones(10)}, "float64"),
        ],
    )
    def test_a_wrong_argument_is_named(self, arguments, named):
        index = self.make(4, "l2").build(clustered(10, 4))
        with pytest.raises(errors.InvalidArgument, match=named):
            index.search(np.ones(4), **arguments)

    @pytest.mark.parametrize(
        "bad", ["text", [["a"] * 4], [[1j] * 4], [[1], [1, 2]], np.ones((2, 2, 4))]
    )
    def test_what_is_no_array_of_numbers_is_refused(self, bad):
        with pytest.raises(errors.InvalidArgument):
            self.make(4, "l2").build(bad)

    def test_wrong_parameters_are_named(self):
        with pytest.raises(errors.UnknownName, match="did you mean 'cosine'"):
            self.make(4, "cosin")
        for dim in (0, -1, 2.0, "4", None):
            with pytest.raises(errors.InvalidArgument, match="dim="):
                self.make(dim)

    def test_what_was_not_built_can_not_be_used(self, tmp_path):
        index = self.make(4)
        assert len(index) == index.memory_bytes == index.disk_bytes == 0
        assert "rows=0" in repr(index)
        for use in (lambda: index.search(np.ones(4)), lambda: index.save(tmp_path / "x")):
            with pytest.raises(errors.IndexNotBuilt, match="call build or load first"):
                use()
        assert not (tmp_path / "x").exists()

    @every_metric
    @pytest.mark.parametrize("mmap", [True, False])
    def test_a_saved_index_answers_as_before(self, metric, mmap, tmp_path):
        vectors, index = self.built(metric)
        index.save(tmp_path / "saved")
        loaded = type(index).load(tmp_path / "saved", mmap=mmap)
        queries = clustered(20, 20, seed=3)
        assert same_answers(loaded.search(queries), index.search(queries))
        assert loaded.fingerprint == index.fingerprint
        assert (len(loaded), loaded.dim, loaded.metric) == (1500, 20, metric)
        assert loaded.memory_bytes == index.memory_bytes
        if self.holds_vectors:
            assert index.memory_bytes >= self.least_memory_share * vectors.nbytes
        else:
            assert index.memory_bytes < vectors.nbytes
        assert loaded.disk_bytes == index.disk_bytes >= vectors.nbytes
        loaded.save(tmp_path / "again")
        assert type(index).load(tmp_path / "again").fingerprint == index.fingerprint

    def test_a_flipped_byte_is_never_served(self, tmp_path):
        self.make(8, "l2").build(clustered(100, 8)).save(tmp_path)
        for file in sorted(tmp_path.iterdir()):
            whole = file.read_bytes()
            file.write_bytes(whole[:-9] + bytes([whole[-9] ^ 1]) + whole[-8:])
            with pytest.raises(errors.CorruptStore):
                type(self.make(8)).load(tmp_path)
            file.write_bytes(whole)
        assert len(type(self.make(8)).load(tmp_path)) == 100

    def test_what_is_no_saved_index_of_this_kind_is_refused(self, tmp_path):
        from luma_lab.files import save_arrays

        kind = type(self.make(4))
        with pytest.raises(errors.InvalidArgument, match="no directory"):
            kind.load(tmp_path / "missing")
        with pytest.raises(errors.CorruptStore, match="not a saved directory"):
            kind.load(tmp_path)
        save_arrays(tmp_path / "other", {"vectors": np.ones(3)}, {"kind": "other", "version": 1})
        with pytest.raises(errors.InvalidArgument, match="holds 'other'"):
            kind.load(tmp_path / "other")
        for manifest in (
            {},
            {"parameters": {"dim": 4}},
            {"parameters": {"dim": 4, "metric": "l2"}},
        ):
            manifest = {"kind": kind.KIND, "version": 1, **manifest}
            save_arrays(tmp_path / "odd", {"vectors": np.ones(3)}, manifest)
            with pytest.raises(errors.CorruptStore):
                kind.load(tmp_path / "odd")

    @every_metric
    def test_answers_do_not_depend_on_threads(self, metric):
        _, index = self.built(metric)
        queries = clustered(40, 20, seed=4)
        one = index.search(queries, threads=1)
        for threads in (0, 2, 3, 64):
            other = index.search(queries, threads=threads)
            assert same_answers(one, other)
            assert other.stats.comparisons.tolist() == one.stats.comparisons.tolist()

    def test_many_threads_may_search_at_once(self):
        _, index = self.built("l2")
        queries = clustered(30, 20, seed=5)
        expected, wrong = index.search(queries), []

        def work():
            for i in range(len(queries)):
                if index.search(queries[i]).rows.tolist() != expected.rows[i : i + 1].tolist():
                    wrong.append(i)

        workers = [threading.Thread(target=work) for _ in range(6)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        assert wrong == []

    def test_a_pickled_index_answers_as_before(self):
        _, index = self.built("cosine")
        copy = pickle.loads(pickle.dumps(index))
        queries = clustered(5, 20, seed=6)
        assert same_answers(copy.search(queries), index.search(queries))

    def test_progress_is_told_up_to_one_and_may_end_the_build(self):
        told = []
        index = self.make(8, "l2").build(clustered(300, 8), progress=told.append)
        assert told == sorted(told) and told[-1] == 1.0 and told[0] >= 0.0
        before = index.fingerprint

        def refuse(fraction):
            raise errors.Cancelled("stopped")

        fresh = self.make(8, "l2")
        for other in (index, fresh):
            with pytest.raises(errors.Cancelled):
                other.build(clustered(200, 8, seed=1), progress=refuse)
        assert index.fingerprint == before
        with pytest.raises(errors.IndexNotBuilt):
            fresh.search(np.ones(8))
        self.make(8, "l2").build(clustered(10, 8), progress=True)

    @every_metric
    @settings(max_examples=60)
    @given(seed=st.integers(0, 2**32 - 1), share=st.floats(0, 1), k=st.integers(1, 60))
    def test_a_mask_is_obeyed_and_every_match_counts(self, metric, seed, share, k):
        vectors, index = self.built(metric)
        rng = np.random.default_rng(seed)
        # Of a contiguous block on top, so that whole clusters and whole regions go missing too.
        mask = rng.random(1500) < share
        mask[rng.integers(0, 1500) :] &= rng.random() < 0.5
        query = clustered(1, 20, seed=seed)
        found = index.search(query, k=k, mask=mask)
        rows = found.rows[0][found.rows[0] >= 0]
        assert len(rows) == len(set(rows.tolist())) == min(k, mask.sum())
        assert mask[rows].all()
        assert (np.diff(found.distances[0][: len(rows)]) >= 0).all()
        exact = FlatIndex(20, metric).build(vectors).search(query, k=k, mask=mask)
        if len(rows):
            assert recall(found, exact) >= self.recall_floor - 0.25

    @every_metric
    def test_a_mask_against_the_query_still_recalls(self, metric):
        vectors, index = self.built(metric)
        queries = clustered(20, 20, seed=7)
        flat = FlatIndex(20, metric).build(vectors)
        worse, expected = [], []
        for query in queries:
            far = brute_force(vectors, query, metric)[0]
            mask = far > np.median(far)  # what is near does not match
            worse.append(recall(index.search(query, mask=mask), flat.search(query, mask=mask)))
            expected.append(recall(index.search(query), flat.search(query)))
        assert np.mean(worse) >= np.mean(expected) - 0.1
