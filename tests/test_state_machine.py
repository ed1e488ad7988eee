"""Any sequence of operations on a lab, against plain dicts that do the same."""

import shutil
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hand_clock import HandClock
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from luma_lab.engine.lab import Lab
from luma_lab.engine.upkeep import Retention
from luma_lab.errors import (
    AlreadyExists,
    DocumentNotFound,
    LumaError,
    PointNotFound,
    RevisionConflict,
    SqlError,
)

DIM = 3
IDS = st.sampled_from(["a", "b", "c", "d", "é", "f" * 40])
KEYS = st.sampled_from(["k", "l", "user:1", "user:2", "\U0001f600"])
FLOATS = st.integers(-40, 40).map(lambda n: n / 8)
VECTORS = st.tuples(*[FLOATS] * DIM)
VALUES = st.none() | st.integers(-5, 5) | st.text(max_size=3) | st.just({"big": "x" * 6000})
DOCS = st.none() | st.integers(0, 2) | st.dictionaries(st.sampled_from("abc"), st.integers(0, 2))
NAMES = st.sampled_from(["docs", "more"])


class LabMachine(RuleBasedStateMachine):
    """`points` holds a dict of id to (vector, meta) per collection, `state` a dict of key to
    (value, revision, expires_at_ms), `documents` of id to (doc, revision), `table` of id to n."""

    def __init__(self):
        super().__init__()
        self.path = Path(tempfile.mkdtemp(prefix="luma-machine-"))
        self.clock = HandClock()
        self.metrics = {"docs": "l2", "more": "dot"}
        self.points = {}
        self.state = {}
        self.documents = {}
        self.table = {}
        self.head = 0
        self.kept_from = 1
        self.lab = Lab(self.path, clock=self.clock)
        self.second = None

    @initialize()
    def first_collection(self):
        self.create("docs")
        self.lab.sql.execute("CREATE TABLE t (id TEXT PRIMARY KEY, n INTEGER CHECK (n >= 0))")
        self.head += 1

    def create(self, name):
        self.lab.create_collection(name, DIM, self.metrics[name])
        self.points[name] = {}
        self.head += 1

    # points

    @rule(name=NAMES)
    def create_collection(self, name):
        if name in self.points:
            with pytest.raises(AlreadyExists):
                self.lab.create_collection(name, DIM)
        else:
            self.create(name)

    @rule(name=NAMES)
    def drop_collection(self, name):
        if name == "more" and name in self.points:
            self.lab.drop_collection(name)
            del self.points[name]
            self.head += 1

    @rule(name=NAMES, batch=st.dictionaries(IDS, st.tuples(VECTORS, VALUES), min_size=1))
    def upsert(self, name, batch):
        if name in self.points:
            self.write(self.either().collection(name).upsert, batch)
            self.points[name].update(batch)

    @rule(name=NAMES, batch=st.dictionaries(IDS, st.tuples(VECTORS, VALUES), min_size=1))
    def add(self, name, batch):
        if name not in self.points:
            return
        verb = self.lab.collection(name).add
        if batch.keys() & self.points[name].keys():
            with pytest.raises(AlreadyExists):
                self.write(verb, batch, counted=False)
        else:
            self.write(verb, batch)
            self.points[name].update(batch)

    @rule(name=NAMES, batch=st.dictionaries(IDS, st.tuples(VECTORS, VALUES), min_size=1))
    def update(self, name, batch):
        if name not in self.points:
            return
        verb = self.lab.collection(name).update
        if batch.keys() <= self.points[name].keys():
            self.write(verb, batch)
            self.points[name].update(batch)
        else:
            with pytest.raises(PointNotFound):
                self.write(verb, batch, counted=False)

    @rule(name=NAMES, id=IDS, meta=VALUES)
    def update_meta(self, name, id, meta):
        if name in self.points and id in self.points[name]:
            self.lab.collection(name).update(id, metas=meta)
            self.points[name][id] = (self.points[name][id][0], meta)
            self.head += 1

    @rule(name=NAMES, ids=st.lists(IDS, min_size=1, max_size=4))
    def delete(self, name, ids):
        if name in self.points:
            gone = set(ids) & self.points[name].keys()
            assert self.either().collection(name).delete(ids).count == len(gone)
            for id in gone:
                del self.points[name][id]
            self.head += len(gone)

    def write(self, verb, batch, counted=True):
        vectors = [vector for vector, _ in batch.values()]
        result = verb(list(batch), vectors, [meta for _, meta in batch.values()])
        assert (result.count, result.offset) == (len(batch), self.head + len(batch))
        assert counted
        self.head += len(batch)

    # state

    def live(self, key):
        entry = self.state.get(key)
        if entry is None or (entry[2] is not None and entry[2] <= self.clock.now_ms()):
            return None
        return entry

    def note_put(self, key, value, ttl_ms, result):
        self.head += 1
        expires = None if ttl_ms is None else self.clock.now_ms() + ttl_ms
        assert (result.offset, result.revision) == (self.head, self.head)
        assert result.expires_at_ms == expires
        self.state[key] = (value, self.head, expires)

    @rule(key=KEYS, value=VALUES, ttl_ms=st.none() | st.integers(1, 50))
    def put(self, key, value, ttl_ms):
        self.sweep()
        self.note_put(key, value, ttl_ms, self.either().state.put(key, value, ttl_ms=ttl_ms))

    @rule(key=KEYS, value=VALUES, guess=st.sampled_from(["right", "zero", "old"]))
    def compare_and_set(self, key, value, guess):
        self.sweep()
        actual = self.live(key)[1] if self.live(key) else 0
        revision = {"right": actual, "zero": 0, "old": max(0, actual - 1)}[guess]
        if revision == actual:
            result = self.lab.state.put(key, value, if_revision=revision)
            self.note_put(key, value, None, result)
        else:
            with pytest.raises(RevisionConflict):
                self.lab.state.put(key, value, if_revision=revision)
            with pytest.raises(RevisionConflict):
                self.lab.state.delete(key, if_revision=revision)

    @rule(key=KEYS)
    def delete_key(self, key):
        self.sweep()
        count = self.either().state.delete(key).count
        assert count == (self.state.pop(key, None) is not None)
        self.head += count

    @rule(ms=st.integers(1, 40))
    def time_goes_by(self, ms):
        self.clock.advance(ms)

    @rule()
    def sweep(self):
        """Bring lab and dict to the same side of every expiry before the head is compared."""
        self.lab._upkeep.sweep()
        expired = [key for key in self.state if self.live(key) is None]
        for key in expired:
            del self.state[key]
        self.head += len(expired)

    # documents and SQL

    @rule(id=IDS, doc=DOCS, guess=st.sampled_from([None, "right", "wrong"]))
    def put_document(self, id, doc, guess):
        actual = self.documents.get(id, (None, 0))[1]
        expected = {None: None, "right": actual, "wrong": actual + 1}[guess]
        notes = self.either().documents("notes")
        if guess == "wrong":
            with pytest.raises(RevisionConflict):
                notes.put(id, doc, if_revision=expected)
            return
        self.head += 1
        assert notes.put(id, doc, if_revision=expected).revision == self.head
        self.documents[id] = (doc, self.head)

    @rule(id=IDS, changes=st.dictionaries(st.sampled_from("ab"), st.none() | st.integers(0, 3)))
    def patch_document(self, id, changes):
        notes = self.either().documents("notes")
        if id not in self.documents:
            with pytest.raises(DocumentNotFound):
                notes.update(id, changes)
            return
        doc = self.documents[id][0]
        merged = dict(doc) if isinstance(doc, dict) else {}
        for name, value in changes.items():
            if value is None:
                merged.pop(name, None)
            else:
                merged[name] = value
        self.head += 1
        found = notes.update(id, changes)
        assert (found.doc, found.revision) == (merged, self.head)
        self.documents[id] = (merged, self.head)

    @rule(id=IDS)
    def delete_document(self, id):
        there = self.documents.pop(id, None) is not None
        assert self.either().documents("notes").delete(id).count == there
        self.head += there

    @rule(id=IDS, n=st.integers(-1, 5))
    def write_row(self, id, n):
        sql = self.either().sql
        if n < 0:
            with pytest.raises(SqlError):
                sql.execute("INSERT OR ROLLBACK INTO t VALUES (?, ?)", (id, n))
            return
        result = sql.execute("INSERT OR REPLACE INTO t VALUES (?, ?)", (id, n))
        self.head += 1
        self.table[id] = n
        assert (result.offset, result.count) == (self.head, 1)

    @rule(
        key=KEYS,
        value=VALUES,
        id=IDS,
        doc=DOCS,
        vector=VECTORS,
        n=st.integers(0, 5),
        bad=st.booleans(),
    )
    def apply_a_list(self, key, value, id, doc, vector, n, bad):
        """All five kinds in one commit, or, where the last can't be, none."""
        self.sweep()
        operations = [
            {"op": "state.put", "key": key, "value": value},
            {"op": "doc.put", "collection": "notes", "id": id, "doc": doc},
            {"op": "vector.upsert", "collection": "docs", "id": id, "vector": vector, "meta": n},
            {"op": "sql", "sql": "INSERT OR REPLACE INTO t VALUES (?, ?)", "params": [id, n]},
            {"op": "publish", "type": "told", "data": n},
        ]
        if bad:
            operations.append({"op": "state.put", "key": key, "value": 1, "if_revision": 10**9})
            with pytest.raises(RevisionConflict) as caught:
                self.either().apply(operations)
            assert caught.value.index == 5
            return
        applied = self.either().apply(operations)
        first = self.head + 1
        assert (applied.first_offset, applied.offset) == (first, first + 4)
        self.state[key] = (value, first, None)
        self.documents[id] = (doc, first + 1)
        self.points["docs"][id] = (vector, n)
        self.table[id] = n
        self.head += 5

    # transactions

    @rule(
        commit=st.booleans(),
        batch=st.dictionaries(IDS, st.tuples(VECTORS, VALUES), max_size=3),
        gone=st.lists(IDS, max_size=2, unique=True),
        puts=st.dictionaries(KEYS, VALUES, max_size=2),
        drop=st.none() | KEYS,
        publish=st.booleans(),
        refused=st.booleans(),
    )
    def transaction(self, commit, batch, gone, puts, drop, publish, refused):
        self.sweep()
        points, state, head = dict(self.points["docs"]), dict(self.state), self.head
        documents, table = dict(self.documents), dict(self.table)
        outside = self.seen()
        try:
            with self.lab.transaction(timeout_ms=60_000) as tx:
                docs = tx.collection("docs")
                if batch:
                    self.write(docs.upsert, batch)
                    self.points["docs"].update(batch)
                if refused:
                    with pytest.raises(LumaError):
                        docs.add(["new", *list(self.points["docs"])[:1], "new"], [[1] * DIM] * 3)
                for id in gone:
                    there = self.points["docs"].pop(id, None) is not None
                    assert docs.delete(id).count == there
                    self.head += there
                for key, value in puts.items():
                    self.note_put(key, value, None, tx.state.put(key, value))
                if drop is not None:
                    there = self.state.pop(drop, None) is not None
                    assert tx.state.delete(drop).count == there
                    self.head += there
                for id in gone:
                    self.head += 2
                    tx.documents("notes").put(id, {"in": "tx"})
                    tx.sql.execute("INSERT OR REPLACE INTO t VALUES (?, 4)", (id,))
                    self.documents[id] = ({"in": "tx"}, self.head - 1)
                    self.table[id] = 4
                assert dict(tx.sql("SELECT id, n FROM t").rows) == self.table
                if publish:
                    self.head += 1
                    assert tx.events.publish("told", "inside").offset == self.head
                inside, _ = docs.scroll(limit=100)
                assert self.as_dict(inside) == self.points["docs"]
                assert dict(tx.state) == {k: v[0] for k, v in self.state.items()}
                assert self.seen() == outside
                if not commit:
                    raise Aborted
        except Aborted:
            self.points["docs"], self.state, self.head = points, state, head
            self.documents, self.table = documents, table
            assert self.seen() == outside
        else:
            assert tx.offset == self.head

    def seen(self):
        docs = self.lab.collection("docs")
        return self.as_dict(docs.scroll(limit=100)[0]), dict(self.lab.state), self.lab.head

    # the lab itself

    @rule()
    def reopen(self):
        self.lab.close()
        self.lab = Lab(self.path, clock=self.clock)

    @rule()
    def open_or_close_a_second_lab(self):
        if self.second is None:
            self.second = Lab(self.path, clock=self.clock)
        else:
            self.second.close()
            self.second = None

    @rule()
    def build_or_drop_an_index(self):
        # Jobs and index events move the head by a number of their own.
        docs = self.lab.collection("docs")
        if docs.index_status()["available"]:
            docs.drop_index()
        else:
            docs.build_index("vamana", max_degree=6, build_list_size=10).result(60)
            for job in self.lab.jobs():
                job._done.wait(60)
        self.sweep()
        self.head = self.lab.head

    @rule(keep=st.integers(0, 5))
    def trim(self, keep):
        self.lab._upkeep._retention = Retention(events=keep)
        self.lab._upkeep.trim()
        self.lab._upkeep._retention = Retention()
        self.kept_from = max(self.kept_from, self.lab.head + 1 - keep)

    def either(self):
        return self.second or self.lab

    # what must always hold

    @staticmethod
    def as_dict(points):
        return {p.id: (tuple(p.vector.tolist()), p.meta) for p in points}

    @invariant()
    def everything_is_as_in_the_dicts(self):
        self.sweep()
        for lab in filter(None, (self.lab, self.second)):
            assert [c.name for c in lab.collections()] == sorted(self.points)
            for name, points in self.points.items():
                docs = lab.collection(name)
                page, after = docs.scroll(limit=100)
                assert after is None
                assert self.as_dict(page) == points
                assert [p.id for p in page] == sorted(points, key=str.encode)
                assert len(docs) == docs.info().live_count == len(points)
            assert {i.key: (i.value, i.revision, i.expires_at_ms) for i in lab.state.scan()} == (
                self.state
            )
            assert len(lab.state) == len(self.state)
            found = lab.documents("notes").find(limit=100)
            assert {d.id: (d.doc, d.revision) for d in found} == self.documents
            assert [d.id for d in lab.documents("notes").find("a = 1", limit=100)] == sorted(
                (
                    i
                    for i, (d, _) in self.documents.items()
                    if isinstance(d, dict) and d.get("a") == 1
                ),
                key=str.encode,
            )
            assert dict(lab.sql("SELECT id, n FROM t").rows) == self.table
            assert lab.sql("SELECT count(*) FROM documents('notes')").rows == [
                (len(self.documents),)
            ]
            assert lab.head == self.head
            assert lab.first_offset == self.kept_from

    @invariant()
    def searches_are_brute_force(self):
        query = np.array([0.3, -1.7, 2.2])
        for lab in filter(None, (self.lab, self.second)):
            for name, points in self.points.items():
                vectors = np.array([v for v, _ in points.values()]).reshape(-1, DIM)
                if self.metrics[name] == "l2":
                    scores = -((vectors - query) ** 2).sum(axis=1)
                else:
                    scores = vectors @ query
                wanted = sorted(scores, reverse=True)
                by_id = dict(zip(points, scores, strict=True))
                for options in ({"exact": True}, {"search_list_size": 64}):
                    for k in (2, 50):
                        hits = lab.collection(name).search(query, k=k, **options)
                        assert [h.meta for h in hits] == [points[h.id][1] for h in hits]
                        found = [by_id[h.id] for h in hits]
                        assert np.allclose(found, wanted[:k], atol=1e-4)
                        assert np.allclose([h.score for h in hits], found, atol=1e-4)

    @invariant()
    def the_log_is_whole(self):
        events = self.lab.events.read("earliest", limit=10**6)
        assert [e.offset for e in events] == list(range(self.kept_from, self.head + 1))

    def teardown(self):
        try:
            assert self.lab.verify().ok
        finally:
            if self.second is not None:
                self.second.close()
            self.lab.close()
            shutil.rmtree(self.path, ignore_errors=True)


class Aborted(Exception):
    """Leaves a transaction on purpose."""


TestLab = LabMachine.TestCase
TestLab.settings = settings(
    max_examples=60,
    stateful_step_count=30,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
