"""Rows that are there by the hundred and thousand: searches with filters find what lies about them.

Copies have one distance from any query, so recall counts what is as near as the k nearest.
"""

import numpy as np
import pytest

from luma_lab.index import DiskIndex, FlatIndex, VamanaIndex

BUILD = {"max_degree": 24, "build_list_size": 50}
MANY, CLUMPS, SOME = 2500, 5, 300


class Crowded:
    """Rows of few directions: one of them there 2,500 times and five 300 times."""

    def __init__(self, n, dim):
        self.rng = np.random.default_rng(1)
        self.ways = self.rng.normal(size=(12, dim)) / np.sqrt(12)
        centres = self.rng.normal(size=(20, 12)) * 2
        points = centres[self.rng.integers(0, 20, n)] + self.rng.normal(size=(n, 12))
        rows = points @ self.ways + 0.05 * self.rng.normal(size=(n, dim))
        self.rows = rows.astype(np.float32)
        order = self.rng.permutation(n)
        ends = np.cumsum([MANY] + [SOME] * CLUMPS)
        *self.groups, self.others = np.split(order, ends)
        for group in self.groups:
            self.rows[group] = self.rows[group[0]]
        self.once = np.zeros(n, bool)
        self.once[self.others] = True
        self.but_many = np.ones(n, bool)
        self.but_many[self.groups[0]] = False
        self.half = self.rng.random(n) < 0.5
        # Of each group those with high numbers: ties go to the lower row.
        self.behind = np.arange(n) >= np.median(self.groups[0])

    def near(self, rows, count=50):
        moves = self.rng.normal(size=(count * len(rows), 12)) @ self.ways * 0.3
        return np.repeat(self.rows[rows], count, axis=0) + moves.astype(np.float32)

    def queries(self):
        """Return queries by what they are near to."""
        return {
            "many": self.near(self.groups[0][:1]),
            "some": self.near([group[0] for group in self.groups[1:]], 10),
            "others": self.near(self.others[:50], 1),
        }


def recall(found, truth):
    """Return the share of places whose row is as near as the truth's last."""
    bound = truth.distances[:, -1:]
    bound = bound + 1e-5 * np.maximum(1, np.abs(bound))
    return ((found.distances <= bound) & (found.rows >= 0)).mean()


def check_recall(index, crowded, flat, masks, floor=0.95, **options):
    for name, queries in crowded.queries().items():
        for mask in masks:
            chosen = None if mask is None else getattr(crowded, mask)
            truth = flat.search(queries, k=10, mask=chosen)
            found = index.search(queries, k=10, mask=chosen, **options)
            assert recall(found, truth) >= floor, (name, mask)
            assert chosen is None or chosen[found.rows].all()


@pytest.fixture(scope="module")
def crowded():
    return Crowded(20_000, 24)


@pytest.mark.parametrize("quantizer", ["q8", None])
@pytest.mark.parametrize("metric", ["l2", "cosine"])
def test_copies_in_a_filters_way_hide_nothing_behind_them(crowded, quantizer, metric):
    flat = FlatIndex(24, metric).build(crowded.rows)
    index = VamanaIndex(24, metric, quantizer=quantizer, **BUILD).build(crowded.rows)
    masks = "once", "but_many", "half", "behind"
    for size in (16, 64):
        check_recall(index, crowded, flat, masks, search_list_size=size)
    # Copies that pass are an answer, not a reason to compare every row.
    found = index.search(crowded.queries()["many"], k=10, mask=crowded.half, search_list_size=16)
    assert found.stats.hops.all() and found.stats.comparisons.max() < 5000


@pytest.mark.parametrize("budget", [None, 3_000_000], ids=["whole", "shards"])
@pytest.mark.parametrize("metric", ["l2", "cosine"])
def test_copies_on_disk_hide_nothing_behind_them(budget, metric, tmp_path):
    crowded = Crowded(8000, 192)
    flat = FlatIndex(192, metric).build(crowded.rows)
    build = {**BUILD, "metric": metric, "build_memory_bytes": budget}
    with DiskIndex.build(crowded.rows, tmp_path / "disk", **build) as index:
        masks = None, "once", "but_many", "half", "behind"
        check_recall(index, crowded, flat, masks, search_list_size=32)
        found = index.search(crowded.queries()["some"], k=10, mask=crowded.once)
        assert found.stats.hops.all() and found.stats.reads.mean() < 1000


def reached(index):
    """Return which nodes a path from the entry leads to."""
    neighbors, seen = index.neighbors_, np.zeros(index.total_rows, bool)
    front = np.array([index.entry_])
    while len(front):
        seen[front] = True
        front = np.unique(neighbors[front])
        front = front[(front >= 0) & ~seen[front]]
    return seen


def rings(index, copies):
    """Return the sets of copies that lead to each other by first edges."""
    left, found = {*copies}, []
    while left:
        at = start = min(left)
        ring = set()
        while at not in ring:
            ring.add(at)
            at = int(index.neighbors_[at, 0])
        assert at == start, "first edges of copies lead back to where they began"
        found.append(ring)
        left -= ring
    return found


@pytest.mark.parametrize("quantizer", ["q8", None])
@pytest.mark.parametrize("metric", ["cosine", "dot", "l2"])
def test_copies_that_are_built_are_in_one_ring(metric, quantizer):
    vectors = np.random.default_rng(0).normal(size=(1500, 16)).astype(np.float32)
    vectors[1::5], vectors[2::9] = vectors[1], vectors[2]
    index = VamanaIndex(16, metric, quantizer=quantizer, **BUILD).build(vectors)
    for first in (1, 2):
        copies = np.flatnonzero((vectors == vectors[first]).all(axis=1)).tolist()
        assert rings(index, copies) == [{*copies}]
    assert reached(index).all()


@pytest.mark.parametrize("quantizer", ["q8", None])
@pytest.mark.parametrize("metric", ["cosine", "l2"])
@pytest.mark.parametrize("step", [1, 30, 120])
@pytest.mark.parametrize("is_known", [True, False])
def test_copies_that_come_later_are_found_all_of_them(is_known, step, metric, quantizer):
    rng = np.random.default_rng(step)
    vectors = rng.normal(size=(1000, 16)).astype(np.float32)
    copy = vectors[7] if is_known else rng.normal(size=16).astype(np.float32)
    index = VamanaIndex(16, metric, quantizer=quantizer, **BUILD).build(vectors)
    copies = [7] if is_known else []
    for _ in range(120 // step):
        copies += index.add(np.tile(copy, (step, 1))).tolist()
        # What makes those prune their edges that point to the copies.
        index.add(copy + 0.1 * rng.normal(size=(1 + step // 10, 16)).astype(np.float32))
    assert reached(index)[copies].all() and rings(index, copies) == [{*copies}]
    found = index.search(copy, k=len(copies), search_list_size=2 * len(copies))
    assert {*found.rows[0].tolist()} == {*copies}
    index.delete(copies[1::2])
    index.consolidate()
    assert reached(index)[copies[0::2]].all() and rings(index, copies[0::2]) == [{*copies[0::2]}]


def test_rows_of_other_order_are_not_taken_for_copies():
    # Their codes have the same step, offset, length and sum.
    vectors = np.zeros((400, 400), np.float32)
    for i in range(400):
        vectors[i, (i + np.arange(40)) % 400] = 1
    index = VamanaIndex(400, "l2", **BUILD).build(vectors)
    assert (index.neighbors_ >= 0).sum(axis=1).mean() > 6
    exact = FlatIndex(400, "l2").build(vectors).search(vectors[::9], k=10)
    assert recall(index.search(vectors[::9], k=10), exact) > 0.95
