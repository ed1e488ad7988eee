"""VamanaIndex that changes: what is added is found, what is deleted is gone, recall stays."""

import numpy as np
import pytest
from hypothesis import strategies as st
from hypothesis.stateful import invariant
from index_contract import clustered, every_metric
from test_vamana import check_graph
from updates_contract import Changes, UpdatesContract, case_of, recall_of

from luma_lab.index import VamanaIndex, graph
from luma_lab.index.flat import exact_search

SMALL = {"max_degree": 16, "build_list_size": 40}
every_quantizer = pytest.mark.parametrize("quantizer", ["q8", None])


def made(dim, metric="l2", quantizer="q8", **parameters):
    return VamanaIndex(dim, metric, quantizer=quantizer, **{**SMALL, **parameters})


class TestVamanaUpdates(UpdatesContract):
    thorough = {"search_list_size": 1000}
    usual = {"search_list_size": 24}
    lost_by_turnover = 0.01

    def make(self, dim, metric="l2", **parameters):
        return made(dim, metric, self.quantizer, **parameters)

    def check(self, index):
        assert index.neighbors_.max(initial=-1) < index.total_rows

    def check_consolidated(self, index, gone):
        assert (index.neighbors_[gone] == -1).all() and not np.isin(index.neighbors_, gone).any()

    def check_room(self, index):
        assert index.memory_bytes <= 1.3 * self.make(16).build(clustered(1010, 16)).memory_bytes

    def test_rows_added_one_by_one_make_a_sound_graph(self):
        vectors = clustered(200, 12)
        index = self.make(12).build(vectors[:1])
        for row in vectors[1:]:
            index.add(row)
        check_graph(index)


class TestVamanaUpdatesOfFloats(TestVamanaUpdates):
    quantizer = None


class GraphChanges(Changes):
    def make(self, data):
        return made(4, quantizer=data.draw(st.sampled_from(["q8", None])))

    def everything(self, rows):
        return {"search_list_size": max(64, rows)}

    @invariant()
    def all_that_lives_and_matches_is_found_by_scan_and_by_walk(self):
        if self.index is None:
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


TestChanges = case_of(GraphChanges)


@every_quantizer
@pytest.mark.parametrize("rows", [1, 2, 40])
@pytest.mark.parametrize("is_consolidated", [True, False])
def test_an_index_whose_rows_are_all_deleted_is_saved_and_loaded(
    is_consolidated, rows, quantizer, tmp_path
):
    vectors = clustered(40, 8)
    index = made(8, quantizer=quantizer).build(vectors[:rows])
    index.delete(np.arange(rows))
    if is_consolidated:
        index.consolidate()
    index.save(tmp_path / "index")
    loaded = VamanaIndex.load(tmp_path / "index")
    for chosen in ({}, {"mask": np.ones(rows, bool)}, {"rows": np.arange(rows)}):
        assert (loaded.search(vectors[0], k=3, **chosen).rows == -1).all()
    assert len(loaded.search_range(vectors[0], 1e9).rows) == 0
    places = loaded.add(vectors)
    assert loaded.search(vectors[7], k=1).rows[0, 0] == places[7]


def test_a_deleted_row_that_leads_nowhere_is_not_answered_by_a_loaded_index(tmp_path):
    vectors = clustered(200, 8)
    index = made(8).build(vectors)
    neighbors = index.neighbors_.copy()
    neighbors[9] = -1  # as where all that a row pointed to went
    index._adopt(index._graph.nodes, neighbors, index.entry_)
    index.delete(9)
    index.save(tmp_path / "index")
    found = VamanaIndex.load(tmp_path / "index").search(vectors[9], k=200, search_list_size=400)
    assert 9 not in found.rows and (found.rows >= 0).sum() == 199


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
