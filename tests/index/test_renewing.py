"""Indexes made of older ones, which stay as they are: with more rows, or with only the living."""

import numpy as np
import pytest
from index_contract import brute_force, clustered

from luma_lab.errors import IndexNotBuilt
from luma_lab.index import IVFIndex, VamanaIndex

DIM = 24
MADE = {
    "vamana": (VamanaIndex, {"max_degree": 12, "build_list_size": 32}, {"search_list_size": 64}),
    "ivf": (IVFIndex, {"nlist": 20}, {"nprobe": 8}),
}
every_kind = pytest.mark.parametrize("kind", MADE)
every_quantizer = pytest.mark.parametrize("quantizer", ["q8", None])
every_metric = pytest.mark.parametrize("metric", ["cosine", "dot", "l2"])


def rows(count=1500, seed=0):
    vectors = np.array(clustered(count, DIM, seed=seed), np.float32)
    vectors.flags.writeable = False
    return vectors


def made(kind, metric, quantizer, vectors):
    index_class, parameters, _ = MADE[kind]
    return index_class(DIM, metric, quantizer=quantizer, **parameters).build(vectors)


def recall(kind, index, vectors, metric, numbers):
    """Recall of the rows `numbers`, against brute force; no other row is answered."""
    queries = rows(60, seed=1)
    found = index.search(queries, k=10, **MADE[kind][2])
    assert {*np.unique(found.rows)} <= {*numbers}
    wanted = numbers[np.argsort(brute_force(vectors[numbers], queries, metric), axis=1)[:, :10]]
    shared = [len({*a} & {*b}) for a, b in zip(found.rows.tolist(), wanted.tolist(), strict=True)]
    return np.mean(shared) / 10


@every_kind
@every_quantizer
@every_metric
def test_the_living_alone_are_found_under_their_new_numbers(kind, quantizer, metric, tmp_path):
    vectors = rows()
    index = made(kind, metric, quantizer, vectors)
    before = index.fingerprint
    live = np.random.default_rng(2).random(len(vectors)) > 0.3
    index.delete(np.flatnonzero(~live)[:50])  # some it knew of, most it did not
    known = index.fingerprint
    kept = np.ascontiguousarray(vectors[live])
    kept.flags.writeable = False
    new = index.compacted(kept, live)
    assert (len(new), new.total_rows) == (len(kept), len(kept))
    everything = np.arange(len(kept))
    fresh = recall(kind, made(kind, metric, quantizer, kept), kept, metric, everything)
    assert recall(kind, new, kept, metric, everything) > fresh - 0.03
    all_of_them = new.search(kept[0], k=len(kept), **{n: 5000 for n in MADE[kind][2]})
    assert sorted(all_of_them.rows[0]) == everything.tolist()
    assert index.fingerprint == known != before  # and the old one is as it was
    assert np.array_equal(
        index.compacted(kept, live).search(kept[:9]).rows, new.search(kept[:9])[0]
    )
    if quantizer:
        assert np.shares_memory(new._vectors, kept)
    new.save(tmp_path / "new")
    assert type(new).load(tmp_path / "new").fingerprint == new.fingerprint


@every_kind
@every_quantizer
def test_rows_that_come_behind_are_found_and_the_dead_are_not(kind, quantizer):
    vectors = rows()
    index = made(kind, "l2", quantizer, vectors[:1000])
    before = index.fingerprint
    live = np.random.default_rng(2).random(len(vectors)) > 0.2
    grown = index.grown(vectors, live)
    assert (len(grown), grown.total_rows) == (live.sum(), 1500)
    assert recall(kind, grown, vectors, "l2", np.flatnonzero(live)) > 0.9
    assert (index.fingerprint, index.total_rows) == (before, 1000)
    if quantizer:
        assert np.shares_memory(grown._vectors, vectors)
    # and once more, of one that has grown
    again = grown.grown(vectors, live & (np.arange(1500) % 2 == 0))
    half = np.flatnonzero(live & (np.arange(1500) % 2 == 0))
    assert recall(kind, again, vectors, "l2", half) > 0.9


@every_kind
def test_of_no_living_rows_an_empty_index_is_made(kind):
    index = made(kind, "l2", "q8", rows(100))
    empty = index.compacted(np.empty((0, DIM), np.float32), np.zeros(100, bool))
    assert (len(empty), empty.total_rows) == (0, 0)
    assert (empty.search(rows(1)[0], k=3).rows == -1).all()


@every_kind
def test_before_a_build_there_is_nothing_to_renew(kind):
    index_class, parameters, _ = MADE[kind]
    index = index_class(DIM, "l2", **parameters)
    for renew in (index.compacted, index.grown):
        with pytest.raises(IndexNotBuilt):
            renew(rows(10), np.ones(10, bool))


@pytest.mark.parametrize("kind", ["ivf"])
def test_rows_are_given_as_numbers_or_as_a_mask(kind):
    index = made(kind, "l2", "q8", rows())
    chosen = np.arange(0, 1500, 7)
    mask = np.zeros(1500, bool)
    mask[chosen] = True
    by_rows, by_mask = (index.search(rows(20, 5), k=5, **o) for o in ({"rows": chosen},
                                                                     {"mask": mask}))  # fmt: skip
    assert np.array_equal(by_rows.rows, by_mask.rows)
    assert set(np.unique(by_rows.rows)) <= {*chosen.tolist()}


def test_who_searches_a_grown_graph_meets_no_row_that_is_added_where_it_does_not_look():
    rng = np.random.default_rng(8)
    vectors = rng.normal(size=(301, 24)).astype(np.float32)
    index = VamanaIndex(24, "l2").build(vectors[:300]).grown(vectors, np.ones(301, bool))
    searched = index._graph
    index.add(vectors[:20] + np.float32(0.01))
    # The vectors had no room behind them and have moved; the edges had some and could stay.
    assert index._graph.nodes.vectors.base is not searched.nodes.vectors.base
    assert searched.neighbors.max() < len(searched.nodes.vectors)
    found = index.search(vectors[:20], 2)
    assert (np.sort(found.rows) == np.stack([np.arange(20), np.arange(301, 321)], axis=1)).all()
