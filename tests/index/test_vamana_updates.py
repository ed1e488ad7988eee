"""VamanaIndex that changes: what is added is found, what is deleted is gone, recall stays."""

import threading

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from index_contract import brute_force, clustered, every_metric
from test_vamana import check_graph

from luma_lab import errors
from luma_lab.index import VamanaIndex, graph
from luma_lab.index.flat import exact_search

SMALL = {"max_degree": 16, "build_list_size": 40}
every_quantizer = pytest.mark.parametrize("quantizer", ["q8", None])


def made(dim, metric="l2", quantizer="q8", **parameters):
    return VamanaIndex(dim, metric, quantizer=quantizer, **{**SMALL, **parameters})


def recall_of(index, kept, queries, k=10, **options):
    """Recall against brute force over a dict from row number to vector; checks the answer."""
    numbers = np.array(sorted(kept))
    far = brute_force(np.stack([kept[n] for n in numbers]), queries, index.metric)
    exact = np.argsort(far, axis=1, kind="stable")
    found = index.search(queries, k=k, **options)
    assert set(np.unique(found.rows)) <= {*kept}
    assert (np.diff(found.distances, axis=1) >= 0).all()
    wanted = numbers[exact[:, :k]]
    return np.mean([len({*a} & {*b}) for a, b in zip(found.rows, wanted, strict=True)]) / k


@every_quantizer
@every_metric
def test_what_is_added_is_found_like_what_was_built(metric, quantizer):
    vectors, queries = clustered(2500, 24), clustered(100, 24, seed=1)
    index = made(24, metric, quantizer).build(vectors[:1000])
    rows = index.add(vectors[1000:])
    assert rows.dtype == np.int64 and rows.tolist() == list(range(1000, 2500))
    assert len(index) == index.total_rows == 2500
    kept = dict(enumerate(vectors.astype(np.float32)))
    fresh = recall_of(made(24, metric, quantizer).build(vectors), kept, queries)
    assert recall_of(index, kept, queries) >= fresh - 0.02
    if metric != "dot":  # by inner product others may be nearer to a row than itself
        found = index.search(vectors[1800:1810], k=1)
        assert found.rows[:, 0].tolist() == list(range(1800, 1810))


@every_quantizer
def test_rows_added_one_by_one_are_found_at_once(quantizer):
    vectors = clustered(400, 12)
    index = made(12, quantizer=quantizer).build(vectors[:1])
    for i in range(1, 400):
        assert index.add(vectors[i]).tolist() == [i]
        assert index.search(vectors[i], k=1).rows.tolist() == [[i]]
    check_graph(index)


@every_quantizer
@every_metric
def test_deleted_rows_are_never_answered_and_the_others_still_found(metric, quantizer):
    vectors, queries = clustered(2000, 16), clustered(60, 16, seed=1)
    index = made(16, metric, quantizer).build(vectors)
    gone = np.random.default_rng(0).permutation(2000)[:1200]
    index.delete(gone)
    kept = {i: v for i, v in enumerate(vectors.astype(np.float32)) if i not in {*gone.tolist()}}
    assert len(index) == 800 and index.total_rows == 2000
    assert recall_of(index, kept, queries) >= 0.97
    index.consolidate()
    assert len(index) == 800
    assert recall_of(index, kept, queries) >= 0.97
    live = np.zeros(2000, bool)
    live[list(kept)] = True
    assert (index.neighbors_[~live] == -1).all() and not np.isin(index.neighbors_, gone).any()
    everything = index.search(queries[0], k=2000, search_list_size=2000)
    assert {*everything.rows[0].tolist()} == {*kept, -1}


def test_freed_numbers_are_handed_out_again_and_memory_does_not_grow():
    vectors = clustered(3000, 16)
    index = made(16).build(vectors[:1000])
    index.delete(np.arange(100))
    assert index.add(vectors[1000:1010]).tolist() == list(range(1000, 1010)), "not yet consolidated"
    index.consolidate()
    assert index.add(vectors[1010:1110]).tolist() == list(range(100))
    before = index.memory_bytes
    for turn in range(4):
        rows = np.flatnonzero(np.random.default_rng(turn).random(1010) < 0.5)
        index.delete(rows)
        index.consolidate()
        again = index.add(vectors[1110 : 1110 + len(rows)])
        assert sorted(again.tolist()) == rows.tolist()
    assert index.memory_bytes <= before


@every_metric
def test_rounds_of_turnover_keep_the_recall_of_a_fresh_build(metric):
    vectors, queries = clustered(6000, 24), clustered(100, 24, seed=1)
    index = made(24, metric).build(vectors[:2000])
    kept = dict(enumerate(vectors[:2000].astype(np.float32)))
    rng = np.random.default_rng(0)
    for turn in range(4):
        gone = rng.permutation(sorted(kept))[:1000]
        index.delete(gone)
        index.consolidate()
        new = vectors[2000 + 1000 * turn : 3000 + 1000 * turn].astype(np.float32)
        kept = {row: v for row, v in kept.items() if row not in {*gone.tolist()}}
        kept.update(zip(index.add(new).tolist(), new, strict=True))
    fresh = made(24, metric).build(np.stack([kept[row] for row in sorted(kept)]))
    relabelled = dict(enumerate(kept[row] for row in sorted(kept)))
    size = {"search_list_size": 24}
    difference = recall_of(fresh, relabelled, queries, **size) - recall_of(
        index, kept, queries, **size
    )
    assert difference <= (0.03 if metric == "dot" else 0.01)


def test_an_index_deleted_down_to_nothing_takes_rows_again():
    vectors = clustered(300, 8)
    index = made(8).build(vectors)
    index.delete(np.arange(300))
    assert index.search(vectors[0], k=3).rows.tolist() == [[-1, -1, -1]]
    index.consolidate()
    assert index.search(vectors[0], k=3).rows.tolist() == [[-1, -1, -1]] and len(index) == 0
    rows = index.add(vectors[:50])
    assert index.search(vectors[:50], k=1).rows[:, 0].tolist() == rows.tolist()


@pytest.mark.parametrize(
    ("rows", "named"),
    [
        ([5, 100], "row 100"), ([-1], "row -1"), ([3, 3], "twice"), ([1.5], "float64"),
        ([[1]], r"shape \(1, 1\)"), ([7], "row 7"),
    ],
)  # fmt: skip
def test_rows_that_are_not_there_are_refused_and_nothing_is_deleted(rows, named):
    index = made(8).build(clustered(100, 8))
    index.delete(7)
    with pytest.raises(errors.InvalidArgument, match=named):
        index.delete(rows)
    assert len(index) == 99


def test_a_wrong_vector_is_refused_and_nothing_is_added():
    index = made(8).build(clustered(100, 8))
    bad = np.ones((3, 8))
    bad[1, 2] = np.nan
    with pytest.raises(errors.InvalidArgument, match="row 1"):
        index.add(bad)
    with pytest.raises(errors.DimensionMismatch):
        index.add(np.ones((2, 7)))
    assert len(index) == index.total_rows == 100
    assert index.add(np.empty((0, 8))).tolist() == []
    with pytest.raises(errors.IndexNotBuilt):
        made(8).add(np.ones(8))


@every_quantizer
def test_a_changed_index_is_saved_and_loaded_as_it_is(tmp_path, quantizer):
    vectors = clustered(600, 12)
    index = made(12, quantizer=quantizer).build(vectors[:500])
    index.delete(np.arange(50))
    index.consolidate()
    index.add(vectors[500:520])
    index.delete([300, 301])
    index.save(tmp_path / "index")
    loaded = VamanaIndex.load(tmp_path / "index")
    assert loaded.fingerprint == index.fingerprint and len(loaded) == len(index) == 468
    for one in (index, loaded):
        assert one.search(vectors[300], k=1).rows[0, 0] not in (300, 301)
        assert one.add(vectors[520:525]).tolist() == list(range(20, 25)), "freed ones first"
    assert (
        loaded.search(vectors[:9], k=5).rows.tolist()
        == index.search(vectors[:9], k=5).rows.tolist()
    )


def test_a_mask_and_deletions_hold_together():
    vectors = clustered(3000, 8)
    index = made(8).build(vectors)
    index.delete(np.arange(0, 3000, 3))
    for share in (2, 50):
        mask = np.arange(3000) % share == 0
        found = index.search(vectors[:20], k=10, mask=mask)
        assert (found.rows % share == 0).all() and (found.rows % 3 != 0).all()
        assert (found.rows >= 0).all()


def test_searches_go_on_while_rows_come_and_go():
    vectors = clustered(4000, 16)
    index = made(16, threads=1).build(vectors[:2000])
    index.delete(np.arange(0, 1000))
    stop, faults, asked = threading.Event(), [], [0]

    def search():
        try:
            while not stop.is_set():
                found = index.search(vectors[1000:1032], k=1)
                assert found.rows[:, 0].tolist() == list(range(1000, 1032))
                mask = np.ones(index.total_rows, bool)
                try:
                    index.search(vectors[1000:1004], k=3, mask=mask)
                except errors.InvalidArgument:
                    pass  # rows came between the mask and the search
                asked[0] += 1
        except BaseException as error:
            faults.append(error)

    threads = [threading.Thread(target=search) for _ in range(3)]
    for thread in threads:
        thread.start()
    for turn in range(8):
        index.add(vectors[2000 + 250 * turn : 2250 + 250 * turn])
        index.consolidate()
        index.delete(np.arange(1100 + 100 * turn, 1200 + 100 * turn))
    stop.set()
    for thread in threads:
        thread.join()
    assert not faults and asked[0] > 0


class Changes(RuleBasedStateMachine):
    """Any order of changes, against a dict."""

    @rule(count=st.integers(1, 40), seed=st.integers(0, 99))
    @precondition(lambda self: not hasattr(self, "index"))
    def build(self, count, seed):
        vectors = clustered(count, 4, seed).astype(np.float32)
        self.index = made(4).build(vectors)
        self.kept = dict(enumerate(vectors))

    @rule(count=st.integers(1, 30), seed=st.integers(0, 99))
    @precondition(lambda self: hasattr(self, "index"))
    def add(self, count, seed):
        vectors = clustered(count, 4, seed).astype(np.float32)
        rows = self.index.add(vectors).tolist()
        assert len(set(rows)) == count and not {*rows} & {*self.kept}
        self.kept.update(zip(rows, vectors, strict=True))

    @rule(seed=st.integers(0, 99), share=st.sampled_from([0.1, 0.5, 1.0]))
    @precondition(lambda self: getattr(self, "kept", None))
    def delete(self, seed, share):
        rows = np.random.default_rng(seed).permutation(sorted(self.kept))
        rows = rows[: max(1, int(share * len(rows)))]
        self.index.delete(rows)
        for row in rows.tolist():
            del self.kept[row]

    @rule()
    @precondition(lambda self: hasattr(self, "index"))
    def consolidate(self):
        self.index.consolidate()

    @invariant()
    def all_that_lives_is_found(self):
        if not hasattr(self, "index"):
            return
        assert len(self.index) == len(self.kept)
        size = max(1, self.index.total_rows)
        found = self.index.search(np.ones(4), k=size, search_list_size=max(64, size))
        assert sorted(row for row in found.rows[0].tolist() if row >= 0) == sorted(self.kept)

    @invariant()
    def all_that_lives_and_matches_is_found_by_scan_and_by_walk(self):
        if not hasattr(self, "index"):
            return
        total = self.index.total_rows
        mask = np.arange(total) % 3 > 0
        wanted = sorted(row for row in self.kept if mask[row])
        scan, walk = graph.COMPARISONS_PER_PLACE, 1e-6
        for cost, how in ((scan, {"rows": np.flatnonzero(mask)}), (walk, {"mask": mask})):
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(graph, "COMPARISONS_PER_PLACE", cost)
                found = self.index.search(np.ones(4), max(1, total), **how)
                assert sorted(row for row in found.rows[0].tolist() if row >= 0) == wanted
                few = self.index.search(np.ones(4), 3, search_list_size=3, **how)
                assert (few.rows >= 0).sum() == min(3, len(wanted))
                assert {*few.rows[0].tolist()} <= {*wanted, -1}


TestChanges = Changes.TestCase
TestChanges.settings = settings(max_examples=40, stateful_step_count=20, deadline=None)


@every_quantizer
@every_metric
def test_an_index_grown_by_rows_recalls_them_and_leaves_the_old_one_as_it_was(metric, quantizer):
    vectors, queries = clustered(3000, 24), clustered(80, 24, seed=1)
    index = made(24, metric, quantizer).build(vectors[:2000])
    before, answers = index.fingerprint, index.search(queries).rows
    live = np.random.default_rng(0).random(3000) < 0.8
    grown = index.grown(vectors, live)
    assert index.fingerprint == before and (index.search(queries).rows == answers).all()
    assert grown.total_rows == 3000 and len(grown) == live.sum()
    kept = {i: v for i, v in enumerate(vectors.astype(np.float32)) if live[i]}
    assert recall_of(grown, kept, queries) >= 0.95
    again = grown.grown(vectors, live)
    assert again.fingerprint == grown.fingerprint


def test_clumps_stay_reachable_when_many_of_their_rows_go_at_once():
    rng = np.random.default_rng(0)
    centers = 2 * rng.normal(size=(4, 128))
    vectors = (centers[rng.integers(0, 4, 8000)] + rng.normal(size=(8000, 128))).astype(np.float32)
    live = rng.random(8000) > 0.4
    index = VamanaIndex(128, "l2", max_degree=32, build_list_size=40).build(vectors)
    index.delete(np.flatnonzero(~live))
    index.consolidate()
    queries = vectors[:200] + np.float32(0.1)
    exact = exact_search(vectors, queries, 10, "l2", mask=live)[0]
    found = index.search(queries, k=10).rows
    shared = [len({*a} & {*b}) for a, b in zip(found.tolist(), exact.tolist(), strict=True)]
    assert np.mean(shared) > 9.7
