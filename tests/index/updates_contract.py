"""What every vector index that changes promises; a test class per index gives `make`, `check`."""

import threading

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from index_contract import brute_force, clustered, every_metric

from luma_lab import errors


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


class UpdatesContract:
    """Inherit, and define ``make(dim, metric="l2", **parameters)`` and ``check(index)``."""

    quantizer = "q8"
    thorough = {}  # options of a search that looks nearly everywhere
    usual = {}  # and of one that misses some
    lost_by_turnover = 0.03  # recall, against a fresh build

    def make(self, dim, metric="l2", **parameters):
        raise NotImplementedError

    def check(self, index):
        """Assert the invariants of a changed index."""
        raise NotImplementedError

    def check_consolidated(self, index, gone):
        """Assert that nothing leads to rows that are gone."""
        raise NotImplementedError

    def check_room(self, index):
        """Assert that an index that once held 1,010 rows takes no more than it should."""
        raise NotImplementedError

    @every_metric
    def test_what_is_added_is_found_like_what_was_built(self, metric):
        vectors, queries = clustered(2500, 24), clustered(100, 24, seed=1)
        index = self.make(24, metric).build(vectors[:1000])
        rows = index.add(vectors[1000:])
        assert rows.dtype == np.int64 and rows.tolist() == list(range(1000, 2500))
        assert len(index) == index.total_rows == 2500
        self.check(index)
        kept = dict(enumerate(vectors))
        fresh = recall_of(self.make(24, metric).build(vectors), kept, queries)
        assert recall_of(index, kept, queries) >= max(0.95, fresh - 0.02)
        assert recall_of(index, kept, queries, **self.thorough) >= 0.999
        if metric != "dot":  # by inner product others may be nearer to a row than itself
            found = index.search(vectors[1800:1810], k=1)
            assert found.rows[:, 0].tolist() == list(range(1800, 1810))

    def test_rows_added_one_by_one_are_found_at_once(self):
        vectors = clustered(200, 12)
        index = self.make(12).build(vectors[:1])
        for i in range(1, 200):
            assert index.add(vectors[i]).tolist() == [i]
            assert index.search(vectors[i], k=1).rows.tolist() == [[i]]
        self.check(index)

    @every_metric
    def test_deleted_rows_are_never_answered_and_the_others_still_found(self, metric):
        vectors, queries = clustered(2000, 16), clustered(60, 16, seed=1)
        index = self.make(16, metric).build(vectors)
        gone = np.random.default_rng(0).permutation(2000)[:1200]
        index.delete(gone)
        kept = {i: v for i, v in enumerate(vectors) if i not in {*gone.tolist()}}
        assert len(index) == 800 and index.total_rows == 2000
        assert recall_of(index, kept, queries) >= 0.95
        held = index.memory_bytes
        index.consolidate()
        assert len(index) == 800 and index.memory_bytes <= held
        assert recall_of(index, kept, queries) >= 0.95
        self.check_consolidated(index, gone)
        everything = index.search(queries[0], k=2000)
        assert {*everything.rows[0].tolist()} == {*kept, -1}

    def test_freed_numbers_are_handed_out_again_and_memory_stays_bounded(self):
        vectors = clustered(3000, 16)
        index = self.make(16).build(vectors[:1000])
        index.delete(np.arange(100))
        added = index.add(vectors[1000:1010]).tolist()
        assert added == list(range(1000, 1010)), "not yet consolidated"
        index.consolidate()
        assert index.add(vectors[1010:1110]).tolist() == list(range(100))
        sizes = []
        for turn in range(8):
            rows = np.flatnonzero(np.random.default_rng(turn).random(1010) < 0.5)
            index.delete(rows)
            index.consolidate()
            again = index.add(vectors[1110 : 1110 + len(rows)])
            assert sorted(again.tolist()) == rows.tolist()
            self.check(index)
            sizes.append(index.memory_bytes)
        assert max(sizes[4:]) <= 1.2 * max(sizes[:4])
        self.check_room(index)

    @every_metric
    def test_rounds_of_turnover_keep_the_recall_of_a_fresh_build(self, metric):
        vectors, queries = clustered(3000, 24), clustered(100, 24, seed=1)
        index = self.make(24, metric).build(vectors[:1000])
        kept = dict(enumerate(vectors[:1000]))
        rng = np.random.default_rng(0)
        for turn in range(4):
            gone = rng.permutation(sorted(kept))[:500]
            index.delete(gone)
            index.consolidate()
            new = vectors[1000 + 500 * turn : 1500 + 500 * turn]
            kept = {row: v for row, v in kept.items() if row not in {*gone.tolist()}}
            kept.update(zip(index.add(new).tolist(), new, strict=True))
        self.check(index)
        fresh = self.make(24, metric).build(np.stack([kept[row] for row in sorted(kept)]))
        relabelled = dict(enumerate(kept[row] for row in sorted(kept)))
        reached = recall_of(fresh, relabelled, queries, **self.usual)
        lost = reached - recall_of(index, kept, queries, **self.usual)
        assert lost <= (0.03 if metric == "dot" else self.lost_by_turnover)

    def test_an_index_deleted_down_to_nothing_takes_rows_again(self):
        vectors = clustered(300, 8)
        index = self.make(8).build(vectors)
        index.delete(np.arange(300))
        assert index.search(vectors[0], k=3).rows.tolist() == [[-1, -1, -1]]
        index.consolidate()
        assert index.search(vectors[0], k=3).rows.tolist() == [[-1, -1, -1]] and len(index) == 0
        assert index.add(vectors[:50]).tolist() == list(range(50))
        assert index.search(vectors[:50], k=1).rows[:, 0].tolist() == list(range(50))

    def test_an_index_of_no_rows_takes_some(self):
        index = self.make(8).build(np.empty((0, 8)))
        vectors = clustered(50, 8)
        assert index.add(vectors).tolist() == list(range(50))
        assert index.search(vectors, k=1).rows[:, 0].tolist() == list(range(50))

    def test_rows_that_are_not_there_are_refused_and_nothing_is_deleted(self):
        index = self.make(8).build(clustered(100, 8))
        index.delete(7)
        before = index.fingerprint
        for rows, named in (
            ([5, 100], "row 100"), ([-1], "row -1"), ([3, 3], "twice"), ([1.5], "float64"),
            ([[1]], r"shape \(1, 1\)"), ([7], "row 7"),
        ):  # fmt: skip
            with pytest.raises(errors.InvalidArgument, match=named):
                index.delete(rows)
        assert len(index) == 99 and index.fingerprint == before

    def test_a_wrong_vector_is_refused_and_nothing_is_added(self):
        index = self.make(8).build(clustered(100, 8))
        bad = np.ones((3, 8))
        bad[1, 2] = np.nan
        before = index.fingerprint
        with pytest.raises(errors.InvalidArgument, match="row 1"):
            index.add(bad)
        with pytest.raises(errors.DimensionMismatch):
            index.add(np.ones((2, 7)))
        assert len(index) == index.total_rows == 100 and index.fingerprint == before
        assert index.add(np.empty((0, 8))).tolist() == []
        unbuilt = self.make(8)
        for change in (lambda: unbuilt.add(np.ones(8)), lambda: unbuilt.delete(0)):
            with pytest.raises(errors.IndexNotBuilt):
                change()

    def test_rows_and_marks_that_do_not_fit_make_no_index_of_an_older_one(self):
        vectors = clustered(60, 8).astype(np.float32)
        index, live = self.make(8).build(vectors[:50]), np.arange(60) % 2 == 0
        for bad in (vectors[:40], vectors[:, :4], vectors.astype(float), vectors[::-1], None):
            with pytest.raises(errors.InvalidArgument, match="vectors"):
                index.grown(bad, live)
        with pytest.raises(errors.InvalidArgument, match="live"):
            index.grown(vectors, live[:50])
        with pytest.raises(errors.InvalidArgument, match="live"):
            index.compacted(vectors[:25], live)
        with pytest.raises(errors.InvalidArgument, match="24 vectors: expected 25"):
            index.compacted(vectors[:24], live[:50])
        assert len(index.compacted(vectors[:50:2].copy(), live[:50])) == 25

    @pytest.mark.parametrize("mmap", [True, False])
    def test_a_changed_index_is_saved_and_loaded_as_it_is(self, tmp_path, mmap):
        vectors = clustered(600, 12)
        index = self.make(12).build(vectors[:500])
        index.delete(np.arange(50))
        index.consolidate()
        index.add(vectors[500:520])
        index.delete([300, 301])
        index.save(tmp_path / "index")
        loaded = type(index).load(tmp_path / "index", mmap=mmap)
        assert loaded.fingerprint == index.fingerprint and len(loaded) == len(index) == 468
        for one in (index, loaded):
            assert one.search(vectors[300], k=1).rows[0, 0] not in (300, 301)
            assert one.add(vectors[520:525]).tolist() == list(range(20, 25)), "freed ones first"
            self.check(one)
        answers = [one.search(vectors[:9], k=5).rows.tolist() for one in (index, loaded)]
        assert answers[0] == answers[1]

    def test_a_mask_and_deletions_hold_together(self):
        vectors = clustered(3000, 8)
        index = self.make(8).build(vectors)
        index.delete(np.arange(0, 3000, 3))
        for share in (2, 5, 50):
            mask = np.arange(3000) % share == 0
            found = index.search(vectors[:20], k=10, mask=mask)
            assert (found.rows % share == 0).all() and (found.rows % 3 != 0).all()
            assert (found.rows >= 0).all()

    def test_searches_go_on_while_rows_come_and_go(self):
        vectors = clustered(4000, 16)
        index = self.make(16, threads=1).build(vectors[:2000])
        index.delete(np.arange(0, 1000))
        stop, faults, asked = threading.Event(), [], [0]

        def search():
            try:
                while not stop.is_set():
                    found = index.search(vectors[1900:1932], k=1)
                    assert found.rows[:, 0].tolist() == list(range(1900, 1932))
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
            index.delete(np.arange(1000 + 100 * turn, 1100 + 100 * turn))
        stop.set()
        for thread in threads:
            thread.join()
        assert not faults and asked[0] > 0


class Changes(RuleBasedStateMachine):
    """Any order of changes, against a dict; inherit and define `make` and `everything`."""

    index = None

    def make(self, data):
        """Return an index of 4 components under l2 that is not built yet."""
        raise NotImplementedError

    def everything(self, rows):
        """Return options of a search that finds all of `rows` rows."""
        raise NotImplementedError

    @rule(count=st.integers(1, 40), seed=st.integers(0, 99), data=st.data())
    @precondition(lambda self: self.index is None)
    def build(self, count, seed, data):
        vectors = clustered(count, 4, seed)
        self.index = self.make(data).build(vectors)
        self.kept = dict(enumerate(vectors))

    @rule(count=st.integers(1, 30), seed=st.integers(0, 99))
    @precondition(lambda self: self.index is not None)
    def add(self, count, seed):
        vectors = clustered(count, 4, seed)
        rows = self.index.add(vectors).tolist()
        assert len(set(rows)) == count and not {*rows} & {*self.kept}
        self.kept.update(zip(rows, vectors, strict=True))

    @rule(seed=st.integers(0, 99), share=st.sampled_from([0.1, 0.5, 1.0]))
    @precondition(lambda self: self.index is not None and self.kept)
    def delete(self, seed, share):
        rows = np.random.default_rng(seed).permutation(sorted(self.kept))
        rows = rows[: max(1, int(share * len(rows)))]
        self.index.delete(rows)
        for row in rows.tolist():
            del self.kept[row]

    @rule()
    @precondition(lambda self: self.index is not None)
    def consolidate(self):
        self.index.consolidate()

    @invariant()
    def all_that_lives_is_found_and_as_far_as_it_is(self):
        if self.index is None:
            return
        assert len(self.index) == len(self.kept)
        size = max(1, self.index.total_rows)
        found = self.index.search(np.ones(4), k=size, **self.everything(size))
        rows = [row for row in found.rows[0].tolist() if row >= 0]
        assert sorted(rows) == sorted(self.kept)
        far = [((self.kept[row].astype(float) - 1) ** 2).sum() for row in rows]
        np.testing.assert_allclose(found.distances[0][: len(rows)], far, rtol=1e-5)


def case_of(machine):
    """Return the test case of a `Changes` machine."""
    case = machine.TestCase
    case.settings = settings(max_examples=40, stateful_step_count=20, deadline=None)
    return case
