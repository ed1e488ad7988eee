"""IVFIndex that changes: what is added is found, what is deleted is gone, bytes stay bounded."""

import threading

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from index_contract import brute_force, clustered, every_metric

from luma_lab import errors
from luma_lab.index import IVFIndex
from luma_lab.index.lanes import get_lanes

every_quantizer = pytest.mark.parametrize("quantizer", ["q8", "q4", None])


def made(dim, metric="l2", quantizer="q8", **parameters):
    return IVFIndex(dim, metric, quantizer=quantizer, **parameters)


def check_cells(index):
    """Assert that every live row lies in one slot, and every slot in one cell."""
    cells = index._cells
    slots = cells.held_slots()
    assert len(set(slots.tolist())) == len(slots) == cells.live_count + cells.dead_count
    held = cells.numbers[slots]
    assert len(set(held.tolist())) == len(held)
    assert set(np.flatnonzero(cells.live).tolist()) <= set(held.tolist())
    assert (cells.sizes <= cells.rooms).all()
    if cells.quantizer is not None:  # what bounds the doubt of a cell holds for all its rows
        constants = get_lanes(cells.blocks, slots)[:, -4:].copy().view(np.float32)
        homes = np.repeat(np.arange(len(cells.sizes)), cells.sizes)
        assert (constants[:, 0] <= cells.extremes[homes, 0]).all()
        assert (constants[:, 2] <= cells.extremes[homes, 1]).all()


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
    check_cells(index)
    kept = dict(enumerate(vectors.astype(np.float32)))
    assert recall_of(index, kept, queries) >= 0.95
    assert recall_of(index, kept, queries, nprobe=2500) >= 0.999
    if metric != "dot":  # by inner product others may be nearer to a row than itself
        found = index.search(vectors[1800:1810], k=1)
        assert found.rows[:, 0].tolist() == list(range(1800, 1810))


@every_quantizer
@pytest.mark.parametrize("nlist", [None, 5])
def test_rows_added_one_by_one_are_found_at_once(quantizer, nlist):
    vectors = clustered(400, 12)
    index = made(12, quantizer=quantizer, nlist=nlist).build(vectors[:1])
    for i in range(1, 400):
        assert index.add(vectors[i]).tolist() == [i]
        assert index.search(vectors[i], k=1).rows.tolist() == [[i]]
    check_cells(index)
    # Asked for cells stay what they are; others follow the rows.
    assert len(index.centroids_) == (1 if nlist else 21)


@every_quantizer
@every_metric
def test_deleted_rows_are_never_answered_and_the_others_still_found(metric, quantizer):
    vectors, queries = clustered(2000, 16), clustered(60, 16, seed=1)
    index = made(16, metric, quantizer).build(vectors)
    gone = np.random.default_rng(0).permutation(2000)[:1200]
    index.delete(gone)
    kept = {i: v for i, v in enumerate(vectors.astype(np.float32)) if i not in {*gone.tolist()}}
    assert len(index) == 800 and index.total_rows == 2000
    before = recall_of(index, kept, queries)
    assert before >= 0.95
    held = index.memory_bytes
    index.consolidate()
    assert len(index) == 800 and index.memory_bytes < held
    assert recall_of(index, kept, queries) >= before, "cells without rows are passed over"
    assert not np.isin(index._cells.numbers, gone).any()
    everything = index.search(queries[0], k=2000)
    assert {*everything.rows[0].tolist()} == {*kept, -1}


@every_quantizer
def test_freed_numbers_are_handed_out_again_and_memory_stays_bounded(quantizer):
    vectors = clustered(3000, 16)
    index = made(16, quantizer=quantizer).build(vectors[:1000])
    index.delete(np.arange(100))
    assert index.add(vectors[1000:1010]).tolist() == list(range(1000, 1010)), "not yet consolidated"
    index.consolidate()
    assert index.add(vectors[1010:1110]).tolist() == list(range(100))
    sizes = []
    for turn in range(12):
        rows = np.flatnonzero(np.random.default_rng(turn).random(1010) < 0.5)
        index.delete(rows)
        index.consolidate()
        again = index.add(vectors[1110 : 1110 + len(rows)])
        assert sorted(again.tolist()) == rows.tolist()
        check_cells(index)
        sizes.append(index.memory_bytes)
    assert max(sizes[6:]) <= 1.2 * max(sizes[:6])
    assert len(index._cells.numbers) <= 2 * 1010 + 8 * len(index._cells.sizes)


def test_additions_to_one_cell_do_not_waste_memory():
    vectors = clustered(1000, 8)
    index = made(8, nlist=40).build(vectors)
    for _ in range(200):
        index.add(vectors[:1].repeat(7, axis=0))
        check_cells(index)
    assert len(index._cells.numbers) <= 2 * len(index) + 8 * 40
    found = index.search(vectors[0], k=1401)
    assert (found.distances[0] == 0).sum() == 1401


@every_metric
def test_rounds_of_turnover_keep_the_recall(metric):
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
    check_cells(index)
    fresh = made(24, metric).build(np.stack([kept[row] for row in sorted(kept)]))
    relabelled = dict(enumerate(kept[row] for row in sorted(kept)))
    assert recall_of(index, kept, queries) >= recall_of(fresh, relabelled, queries) - 0.03


@every_quantizer
def test_an_index_deleted_down_to_nothing_takes_rows_again(quantizer):
    vectors = clustered(300, 8)
    index = made(8, quantizer=quantizer).build(vectors)
    index.delete(np.arange(300))
    assert index.search(vectors[0], k=3).rows.tolist() == [[-1, -1, -1]]
    index.consolidate()
    assert index.search(vectors[0], k=3).rows.tolist() == [[-1, -1, -1]] and len(index) == 0
    rows = index.add(vectors[:50])
    assert rows.tolist() == list(range(50))
    assert index.search(vectors[:50], k=1).rows[:, 0].tolist() == rows.tolist()


@every_quantizer
def test_an_index_of_no_rows_takes_some(quantizer):
    index = made(8, quantizer=quantizer).build(np.empty((0, 8)))
    vectors = clustered(50, 8)
    assert index.add(vectors).tolist() == list(range(50))
    assert index.search(vectors, k=1).rows[:, 0].tolist() == list(range(50))


@every_quantizer
@every_metric
def test_growth_trains_the_cells_again_and_keeps_every_number(metric, quantizer):
    vectors = clustered(4000, 12).astype(np.float32)
    index = made(12, metric, quantizer).build(vectors[:400])
    index.delete([7, 8])
    index.consolidate()
    rows = index.add(vectors[400:3000])
    assert rows[:3].tolist() == [7, 8, 400] and len(index.centroids_) > 150
    kept = dict(enumerate(vectors[:400])) | dict(zip(rows.tolist(), vectors[400:3000], strict=True))
    check_cells(index)
    assert recall_of(index, kept, clustered(50, 12, seed=1), nprobe=3000) >= 0.999
    index.add(vectors[3000:])
    assert len(index) == index.total_rows == 3998


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
    before = index.fingerprint
    with pytest.raises(errors.InvalidArgument, match="row 1"):
        index.add(bad)
    with pytest.raises(errors.DimensionMismatch):
        index.add(np.ones((2, 7)))
    assert len(index) == index.total_rows == 100 and index.fingerprint == before
    assert index.add(np.empty((0, 8))).tolist() == []
    for change in (lambda: made(8).add(np.ones(8)), lambda: made(8).delete(0)):
        with pytest.raises(errors.IndexNotBuilt):
            change()


@every_quantizer
@pytest.mark.parametrize("mmap", [True, False])
def test_a_changed_index_is_saved_and_loaded_as_it_is(tmp_path, quantizer, mmap):
    vectors = clustered(600, 12)
    index = made(12, quantizer=quantizer).build(vectors[:500])
    index.delete(np.arange(50))
    index.consolidate()
    index.add(vectors[500:520])
    index.delete([300, 301])
    index.save(tmp_path / "index")
    loaded = IVFIndex.load(tmp_path / "index", mmap=mmap)
    assert loaded.fingerprint == index.fingerprint and len(loaded) == len(index) == 468
    for one in (index, loaded):
        assert one.search(vectors[300], k=1).rows[0, 0] not in (300, 301)
        assert one.add(vectors[520:525]).tolist() == list(range(20, 25)), "freed ones first"
        check_cells(one)
    assert (
        loaded.search(vectors[:9], k=5).rows.tolist()
        == index.search(vectors[:9], k=5).rows.tolist()
    )


@pytest.mark.parametrize("quantizer", ["q8", "q4"])
def test_vectors_kept_elsewhere_are_given_at_load(tmp_path, quantizer):
    vectors = clustered(500, 12)
    vectors.flags.writeable = False
    index = made(12, quantizer=quantizer).build(vectors)
    index.save(tmp_path / "spare", vectors=False)
    index.save(tmp_path / "whole")
    with pytest.raises(errors.InvalidArgument, match="without its vectors"):
        IVFIndex.load(tmp_path / "spare")
    loaded = IVFIndex.load(tmp_path / "spare", vectors=vectors)
    assert loaded.fingerprint == index.fingerprint
    assert loaded.disk_bytes <= IVFIndex.load(tmp_path / "whole").disk_bytes - vectors.nbytes
    with pytest.raises(errors.CorruptStore):
        IVFIndex.load(tmp_path / "spare", vectors=vectors[:499])


def test_an_index_of_floats_is_not_saved_without_its_vectors(tmp_path):
    with pytest.raises(errors.InvalidArgument, match="save it with them"):
        made(8, quantizer=None).build(clustered(50, 8)).save(tmp_path / "x", vectors=False)


@every_quantizer
def test_a_mask_and_deletions_hold_together(quantizer):
    vectors = clustered(6000, 8)
    index = made(8, quantizer=quantizer).build(vectors)
    index.delete(np.arange(0, 6000, 3))
    for share in (2, 5, 50):
        mask = np.arange(6000) % share == 0
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
    """Any order of changes, against a dict."""

    @rule(
        count=st.integers(1, 40),
        seed=st.integers(0, 99),
        quantizer=st.sampled_from(["q8", "q4", None]),
        nlist=st.sampled_from([None, 4]),
    )
    @precondition(lambda self: not hasattr(self, "index"))
    def build(self, count, seed, quantizer, nlist):
        vectors = clustered(count, 4, seed).astype(np.float32)
        self.index = made(4, quantizer=quantizer, nlist=nlist).build(vectors)
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
    def all_that_lives_is_found_and_as_far_as_it_is(self):
        if not hasattr(self, "index"):
            return
        assert len(self.index) == len(self.kept)
        found = self.index.search(np.ones(4), k=max(1, self.index.total_rows), nprobe=1)
        rows = [row for row in found.rows[0].tolist() if row >= 0]
        assert sorted(rows) == sorted(self.kept)
        far = [((self.kept[row].astype(float) - 1) ** 2).sum() for row in rows]
        np.testing.assert_allclose(found.distances[0][: len(rows)], far, rtol=1e-5)


TestChanges = Changes.TestCase
TestChanges.settings = settings(max_examples=40, stateful_step_count=20, deadline=None)
