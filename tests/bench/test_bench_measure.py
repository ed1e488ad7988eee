"""Promises of recall, measure and sweep."""

import gc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from luma_lab import bench
from luma_lab.errors import InvalidArgument
from luma_lab.types import METRICS, Neighbors, SearchStats


class Listening:
    """An exact index that notes every call and drops the last `forget` neighbours."""

    memory_bytes = 123

    def __init__(self, data):
        self.data, self.calls = data, []

    def search(self, queries, k, forget=0, colour="red", threads=1):
        assert not gc.isenabled()
        self.calls.append((len(queries), forget, colour, threads))
        rows, distances = bench.exact_neighbors(self.data.base, queries, k, metric=self.data.metric)
        rows[:, k - forget :] = -1
        ones = np.ones(len(queries), dtype=np.int64)
        return Neighbors(rows, distances, SearchStats(3 * ones, 5 * ones, 7 * ones))


@pytest.fixture
def data():
    rng = np.random.default_rng(5)
    base, queries = rng.normal(size=(60, 4)), rng.normal(size=(6, 4))
    return bench.Dataset(name="points", metric="l2", base=base, queries=queries)


@st.composite
def tied_sets(draw):
    n, dim = draw(st.integers(1, 30)), draw(st.integers(1, 3))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    base, queries = (rng.integers(-2, 3, (size, dim)) for size in (n, 3))
    return bench.Dataset(
        name="tied", metric=draw(st.sampled_from(METRICS)), base=base, queries=queries
    )


@settings(max_examples=150, deadline=None)
@given(tied_sets(), st.integers(1, 12), st.integers(0, 2**32 - 1))
def test_any_choice_among_tied_rows_has_full_recall(data, k, seed):
    n = len(data.base)
    all_rows, _ = bench.exact_neighbors(data.base, data.queries, n, metric=data.metric)
    exact = bench.truth.pair_distances(data.base, data.queries, all_rows, data.metric)
    shuffle = np.random.default_rng(seed).random(all_rows.shape)
    order = np.lexsort((shuffle, exact.round(9)), axis=1)
    answer = np.full((3, k), -1)
    width = min(k, n)
    answer[:, :width] = np.take_along_axis(all_rows, order, 1)[:, :width]
    assert bench.recall(answer, data, k=k) == 1.0


@settings(max_examples=150, deadline=None)
@given(tied_sets(), st.integers(1, 12), st.data())
def test_recall_counts_the_distinct_rows_within_the_kth_distance(data, k, draw):
    n = len(data.base)
    answer = np.array(
        [[draw.draw(st.integers(-1, n - 1)) for _ in range(k)] for _ in range(len(data.queries))]
    )
    _, distances = bench.exact_neighbors(data.base, data.queries, n, metric=data.metric)
    wanted = min(k, n)
    expected = []
    for i, rows in enumerate(answer):
        found = {int(row) for row in rows} - {-1}
        exact = bench.exact_neighbors(data.base, data.queries[i], n, metric=data.metric)
        by_row = dict(zip(exact[0][0].tolist(), exact[1][0].tolist(), strict=True))
        near = sum(by_row[row] <= distances[i, wanted - 1] + 1e-5 for row in found)
        expected.append(min(near, wanted) / wanted)
    shares = bench.recall(answer, data, k=k, per_query=True)
    np.testing.assert_allclose(shares, np.minimum(expected, 1.0))
    assert bench.recall(answer, data, k=k) == pytest.approx(np.mean(expected))


def test_recall_does_not_trust_the_distances_an_index_reports(data):
    lie = Neighbors(np.tile(np.arange(50, 60), (6, 1)), np.zeros((6, 10)), None)
    honest = bench.recall(np.tile(np.arange(50, 60), (6, 1)), data)
    assert bench.recall(lie, data) == honest < 1.0


def test_answers_that_name_no_row_are_refused(data):
    rows = data.truth(10)[0].copy()
    for row in (60, -2):
        bad = rows.copy()
        bad[2, 3] = row
        with pytest.raises(InvalidArgument, match=f"names row {row}"):
            bench.recall(bad, data)
    with pytest.raises(InvalidArgument, match="5 answers; expected 6"):
        bench.recall(rows[:5], data)
    with pytest.raises(InvalidArgument, match="answers have 9 rows; expected at least 10"):
        bench.recall(rows[:, :9], data)
    with pytest.raises(InvalidArgument, match="expected 2-D integers"):
        bench.recall(rows.astype(float), data)


def test_measure_tells_quality_speed_and_work(data):
    index = Listening(data)
    found = bench.measure(index, data, k=10, rounds=2, forget=4)
    assert list(found) == ["forget", *bench.measure.__globals__["MEASURES"]]
    assert found["forget"] == 4 and found["recall"] == pytest.approx(0.6)
    assert (found["hops"], found["comparisons"], found["reads"]) == (3, 5, 7)
    assert found["memory_bytes"] == 123
    assert found["qps"] > 0 and 0 < found["p50_ms"] <= found["p99_ms"]
    assert index.calls == [(1, 4, "red", 1)] * 6 * 3, "one warm round, two timed, one query a call"
    assert gc.isenabled()


def test_cold_and_batched_measures_call_as_they_say(data):
    index = Listening(data)
    found = bench.measure(index, data, rounds=2, warm=False, batch=True, threads=3)
    assert index.calls == [(6, 0, "red", 3)] * 2
    assert found["recall"] == 1.0 and np.isnan(found["p50_ms"]) and found["qps"] > 0


def test_measure_leaves_out_what_an_index_does_not_tell(data):
    class Plain:
        def search(self, queries, k):
            return Neighbors(np.tile(data.truth(k)[0][0], (len(queries), 1)), None, None)

    found = bench.measure(Plain(), data, rounds=1)
    assert np.isnan(found["hops"]) and found["memory_bytes"] is None


def test_measure_refuses_what_it_cannot_do(data):
    index = Listening(data)
    for bad in ({"k": 0}, {"rounds": 0}, {"threads": 0}, {"threads": 2}, {"recall": 1}):
        with pytest.raises(InvalidArgument, match=next(iter(bad))):
            bench.measure(index, data, **bad)
    with pytest.raises(InvalidArgument, match="search method"):
        bench.measure(object(), data)
    with pytest.raises(InvalidArgument, match="no vectors"):
        bench.measure(index, bench.load("lohelp300_en"))
    assert index.calls == []


def test_sweep_measures_every_combination_in_a_row_of_its_own(data):
    pandas = pytest.importorskip("pandas")
    table = bench.sweep(Listening(data), data, k=5, rounds=1, forget=[0, 1, 5], colour="blue")
    assert isinstance(table, pandas.DataFrame)
    assert list(table.columns) == [
        "forget", "colour", "recall", "qps", "p50_ms", "p99_ms", "hops", "comparisons", "memory",
        "reads",
    ]  # fmt: skip
    assert table["forget"].tolist() == [0, 1, 5] and set(table["colour"]) == {"blue"}
    assert table["recall"].tolist() == pytest.approx([1.0, 0.8, 0.0])
    assert table["memory"].tolist() == [123] * 3
    assert table.attrs == {"dataset": "points", "k": 5, "parameters": ["forget", "colour"]}


def test_sweep_visits_every_setting_once_a_round(data):
    index = Listening(data)
    bench.sweep(
        index, data, rounds=2, warm=False, batch=True, forget=range(2), colour=["red", "blue"]
    )
    visit = [(6, 0, "red", 1), (6, 0, "blue", 1), (6, 1, "red", 1), (6, 1, "blue", 1)]
    assert index.calls == visit * 2


def test_sweep_without_parameters_measures_once_and_an_empty_list_is_refused(data):
    assert len(bench.sweep(Listening(data), data, rounds=1)) == 1
    with pytest.raises(InvalidArgument, match="forget is an empty list"):
        bench.sweep(Listening(data), data, forget=[])


def test_our_vamana_index_can_be_swept():
    from luma_lab.index import VamanaIndex

    data = bench.load("wordnet2k")
    index = VamanaIndex(dim=384, metric="cosine", max_degree=24, build_list_size=50)
    index.build(data.base)
    table = bench.sweep(index, data, k=10, rounds=1, search_list_size=[10, 80])
    assert table["recall"].iloc[1] > 0.95 and table["recall"].is_monotonic_increasing
    assert table["comparisons"].is_monotonic_increasing
    assert (table["memory"] == index.memory_bytes).all()


def test_our_flat_index_is_exact():
    from luma_lab.index import FlatIndex

    for name in ("wordnet2k", "sift_cc0_8k"):
        data = bench.load(name)
        index = FlatIndex(data.base.shape[1], data.metric).build(data.base)
        assert bench.recall(index.search(data.queries, 10), data) == 1.0
