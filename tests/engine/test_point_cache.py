"""What searches keep of points in memory never answers what the tables no longer hold."""

import tempfile

import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from luma_lab.engine.lab import Lab
from luma_lab.engine.point_cache import ENTRY_BYTES, LONGEST_META, PointCaches

IDS = [f"p{i}" for i in range(12)]


class TwoLabs(RuleBasedStateMachine):
    """Two labs on one directory write and search in any order, against a dict."""

    def __init__(self):
        super().__init__()
        self.home = tempfile.TemporaryDirectory()
        self.labs = [Lab(self.home.name), Lab(self.home.name)]
        self.labs[0].create_collection("docs", 2, "l2")
        self.docs = [lab.collection("docs") for lab in self.labs]
        self.kept, self.places = {}, 0

    def teardown(self):
        for lab in self.labs:
            lab.close()
        self.home.cleanup()

    @rule(who=st.integers(0, 1), ids=st.sets(st.sampled_from(IDS), min_size=1, max_size=5))
    def upsert(self, who, ids):
        metas = [{"n": self.places + i} if i % 2 else None for i in range(len(ids))]
        vectors = [[self.places + i, 1] for i in range(len(ids))]
        self.places += len(ids)
        self.docs[who].upsert(sorted(ids), vectors, metas)
        self.kept.update(
            {id: (v[0], m) for id, v, m in zip(sorted(ids), vectors, metas, strict=True)}
        )

    @rule(who=st.integers(0, 1), id=st.sampled_from(IDS), n=st.integers(0, 9))
    def change_meta(self, who, id, n):
        if id in self.kept:
            self.docs[who].update(id, metas={"n": n})
            self.kept[id] = self.kept[id][0], {"n": n}

    @rule(who=st.integers(0, 1), id=st.sampled_from(IDS))
    def delete(self, who, id):
        self.docs[who].delete(id)
        self.kept.pop(id, None)

    @rule(who=st.integers(0, 1))
    def start_again(self, who):
        """Drop the collection, so that row numbers mean other points."""
        self.labs[who].drop_collection("docs")
        self.labs[who].create_collection("docs", 2, "l2")
        self.kept = {}

    @rule(who=st.integers(0, 1), least=st.integers(0, 9))
    def search_filtered(self, who, least):
        hits = self.docs[who].search([0, 1], 20, filter={"n": {"$gte": least}})
        wanted = sorted((v, id, m) for id, (v, m) in self.kept.items() if m and m["n"] >= least)
        assert [(h.id, h.meta) for h in hits] == [(id, m) for _, id, m in wanted]

    @invariant()
    def both_answer_what_is_stored(self):
        wanted = sorted((v, id, m) for id, (v, m) in self.kept.items())
        for docs in self.docs:
            hits = docs.search([0, 1], 20)
            assert [(h.id, h.meta) for h in hits] == [(id, m) for _, id, m in wanted]


TestTwoLabs = TwoLabs.TestCase
TestTwoLabs.settings = settings(
    max_examples=12, stateful_step_count=20, deadline=None, suppress_health_check=list(HealthCheck)
)


@pytest.fixture
def points(lab):
    """A lab's connection, the uid of 50 points p0... with meta {"n": i}, and a cache of them."""
    docs = lab.create_collection("docs", 1, "l2")
    docs.upsert([f"p{i}" for i in range(50)], [[i] for i in range(50)], [{"n": 1}] * 50)
    head = lab.head
    return docs, lab._parts.database.reader(), docs._row().uid, head


def refused():
    raise AssertionError("the tables were read")


def test_what_is_known_is_not_read_again(points):
    _, connection, uid, head = points
    cache = PointCaches().make(head)
    first = cache.find(lambda: connection, uid, 0, [3, 5, 99])
    assert first == {3: ("p3", '{"n":1}', 5), 5: ("p5", '{"n":1}', 7)}
    assert cache.find(refused, uid, 0, [5, 3]) == first
    cache.forget(5, head + 1)
    assert set(cache.young) == {3}
    cache.clear()
    with pytest.raises(AssertionError, match="were read"):
        cache.find(refused, uid, 0, [3])


def test_a_search_that_sees_an_older_moment_gets_that_moments_meta(points, lab):
    docs, connection, uid, head = points
    cache = PointCaches().make(head)
    connection.execute("BEGIN")
    connection.execute("SELECT count(*) FROM luma_points").fetchall()
    try:
        docs.update("p3", metas={"n": 2})
        cache.forget(3, lab.head)  # as the view does
        now = lab._parts.follower._connection
        assert cache.find(lambda: now, uid, 0, [3])[3][1] == '{"n":2}'
        assert cache.find(lambda: connection, uid, 0, [3], head)[3][1] == '{"n":1}'
        assert cache.find(refused, uid, 0, [3])[3][1] == '{"n":2}'
        # Nor is what an older moment held kept for those who come.
        cache.clear()
        assert cache.find(lambda: connection, uid, 0, [3, 4], head)[3][1] == '{"n":1}'
        assert not cache.young
    finally:
        connection.execute("COMMIT")


def test_what_changed_while_it_was_read_is_not_kept(points):
    _, connection, uid, head = points
    cache = PointCaches().make(head)

    def changed_meanwhile():
        cache.forget(3, head + 1)
        return connection

    assert set(cache.find(changed_meanwhile, uid, 0, [3, 4])) == {3, 4}
    assert not cache.young and not cache.old


def test_the_caches_of_a_lab_stay_within_their_limit_together(points):
    _, connection, uid, head = points
    limit = 20 * (ENTRY_BYTES + 200)
    caches = PointCaches(limit)
    one, two = caches.make(head), caches.make(head)
    for start in range(45):
        for cache in (one, two):
            found = cache.find(lambda: connection, uid, 0, list(range(start, start + 5)))
            assert len(found) == 5
            cache.find(lambda: connection, uid, 0, [0])
            assert caches.memory_bytes <= limit
    assert 0 in one.young or 0 in one.old, "what is asked for again and again stays"
    assert 10 not in one.young and 10 not in one.old
    del two
    assert caches.memory_bytes <= limit


def test_a_long_meta_is_not_kept(points):
    docs, connection, uid, head = points
    docs.upsert("p3", [3], "x" * LONGEST_META)
    cache = PointCaches().make(head + 1)
    assert cache.find(lambda: connection, uid, 0, [50, 4])[50][0] == "p3"
    assert set(cache.young) == {4}


def test_a_lab_tells_how_much_it_keeps(points, lab):
    docs, *_ = points
    assert lab.point_cache_bytes == 0
    docs.search([3], 10)
    assert 10 * ENTRY_BYTES < lab.point_cache_bytes < 10 * (ENTRY_BYTES + 200)


def test_hits_share_nothing_with_what_is_kept(points):
    docs, *_ = points
    docs.search([3], 1)[0].meta["n"] = 77
    assert docs.search([3], 1)[0].meta == {"n": 1}


def test_vectors_are_handed_out_as_copies(points):
    docs, *_ = points
    docs.search([3], 1)
    hit = docs.search([3], 1, include_vector=True)[0]
    hit.vector[0] = 9
    assert np.array_equal(docs.search([3], 1, include_vector=True)[0].vector, [3])
