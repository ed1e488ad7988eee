"""VamanaIndex that changes: what is added is found, what is deleted is gone, recall stays."""

import numpy as np
import pytest
from hypothesis import strategies as st
from index_contract import clustered, every_metric
from test_vamana import check_graph
from updates_contract import Changes, UpdatesContract, case_of, recall_of

from luma_lab.index import VamanaIndex

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


TestChanges = case_of(GraphChanges)


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
