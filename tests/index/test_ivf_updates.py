"""IVFIndex that changes: what is added is found, what is deleted is gone, bytes stay bounded."""

import numpy as np
import pytest
from hypothesis import strategies as st
from index_contract import clustered, every_metric
from updates_contract import Changes, UpdatesContract, case_of, recall_of

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


class TestIVFUpdates(UpdatesContract):
    thorough = {"nprobe": 10_000}

    def make(self, dim, metric="l2", **parameters):
        return made(dim, metric, self.quantizer, **parameters)

    def check(self, index):
        check_cells(index)

    def check_consolidated(self, index, gone):
        assert not np.isin(index._cells.numbers, gone).any()

    def check_room(self, index):
        assert len(index._cells.numbers) <= 2 * 1010 + 8 * len(index._cells.sizes)

    def test_consolidating_shrinks_cells_and_looks_into_no_empty_one(self):
        vectors, queries = clustered(2000, 16), clustered(60, 16, seed=1)
        index = self.make(16).build(vectors)
        gone = np.random.default_rng(0).permutation(2000)[:1200]
        index.delete(gone)
        kept = {i: v for i, v in enumerate(vectors) if i not in {*gone.tolist()}}
        before, held = recall_of(index, kept, queries), index.memory_bytes
        index.consolidate()
        assert index.memory_bytes < held and recall_of(index, kept, queries) >= before

    @pytest.mark.parametrize("nlist", [None, 5])
    def test_cells_asked_for_stay_what_they_are_and_others_follow_the_rows(self, nlist):
        vectors = clustered(400, 12)
        index = self.make(12, nlist=nlist).build(vectors[:1])
        for i in range(1, 400):
            index.add(vectors[i])
            assert index.search(vectors[i], k=1).rows.tolist() == [[i]]
        check_cells(index)
        assert len(index.centroids_) == (1 if nlist else 21)


class TestIVFUpdatesOfHalfBytes(TestIVFUpdates):
    quantizer = "q4"


class TestIVFUpdatesOfFloats(TestIVFUpdates):
    quantizer = None


def test_additions_to_one_cell_do_not_waste_memory():
    vectors = clustered(1000, 8)
    index = made(8, nlist=40).build(vectors)
    for _ in range(200):
        index.add(vectors[:1].repeat(7, axis=0))
        check_cells(index)
    assert len(index._cells.numbers) <= 2 * len(index) + 8 * 40
    found = index.search(vectors[0], k=1401)
    assert (found.distances[0] == 0).sum() == 1401


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


class CellChanges(Changes):
    def make(self, data):
        quantizer = data.draw(st.sampled_from(["q8", "q4", None]))
        return made(4, quantizer=quantizer, nlist=data.draw(st.sampled_from([None, 4])))

    def everything(self, rows):
        return {"nprobe": 1}  # further cells are looked into until k rows are found


TestChanges = case_of(CellChanges)
