"""Any sequence of operations on a lab, in two processes, against plain dicts that do the same."""

import shutil
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hand_clock import HandClock
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from second_process import (
    COUNTS,
    QUERY,
    WAYS,
    Elsewhere,
    build_or_drop,
    compact,
    picture,
    second_process,
)

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
WHERE = st.booleans()


@pytest.fixture(scope="module", autouse=True)
def other_process():
    """One process for all examples: starting it takes longer than what it does."""
    with second_process() as process:
        LabMachine.process = process
        yield


class LabMachine(RuleBasedStateMachine):
    """Rules run in this process or, once a second lab is open, in the other one: `elsewhere` says.

    `points` holds a dict of id to (vector, meta) per collection, `state` a dict of key to
    (value, revision, expires_at_ms), `documents` of id to (doc, revision), `table` of id to n.
    """

    process = None

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

    def create(self, name, elsewhere=False):
        self.at(elsewhere).create_collection(name, DIM, self.metrics[name])
        self.points[name] = {}
        self.head += 1

    # points

    @rule(name=NAMES, elsewhere=WHERE)
    def create_collection(self, name, elsewhere):
        if name in self.points:
            with pytest.raises(AlreadyExists):
                self.at(elsewhere).create_collection(name, DIM)
        else:
            self.create(name, elsewhere)

    @rule(name=NAMES, elsewhere=WHERE)
    def drop_collection(self, name, elsewhere):
        if name == "more" and name in self.points:
            self.at(elsewhere).drop_collection(name)
            del self.points[name]
            self.head += 1

    @rule(
        name=NAMES,
        batch=st.dictionaries(IDS, st.tuples(VECTORS, VALUES), min_size=1),
        elsewhere=WHERE,
    )
    def upsert(self, name, batch, elsewhere):
        if name in self.points:
            self.write(self.at(elsewhere).collection(name).upsert, batch)
            self.points[name].update(batch)

    @rule(
        name=NAMES,
        batch=st.dictionaries(IDS, st.tuples(VECTORS, VALUES), min_size=1),
        elsewhere=WHERE,
    )
    def add(self, name, batch, elsewhere):
        if name not in self.points:
            return
        verb = self.at(elsewhere).collection(name).add
        if batch.keys() & self.points[name].keys():
            with pytest.raises(AlreadyExists):
                self.write(verb, batch, counted=False)
        else:
            self.write(verb, batch)
            self.points[name].update(batch)

    @rule(
        name=NAMES,
        batch=st.dictionaries(IDS, st.tuples(VECTORS, VALUES), min_size=1),
        elsewhere=WHERE,
    )
    def update(self, name, batch, elsewhere):
        if name not in self.points:
            return
        verb = self.at(elsewhere).collection(name).update
        if batch.keys() <= self.points[name].keys():
            self.write(verb, batch)
            self.points[name].update(batch)
        else:
            with pytest.raises(PointNotFound):
                self.write(verb, batch, counted=False)

    @rule(name=NAMES, id=IDS, meta=VALUES, elsewhere=WHERE)
    def update_meta(self, name, id, meta, elsewhere):
        if name in self.points and id in self.points[name]:
            self.at(elsewhere).collection(name).update(id, metas=meta)
            self.points[name][id] = (self.points[name][id][0], meta)
            self.head += 1

    @rule(name=NAMES, ids=st.lists(IDS, min_size=1, max_size=4), elsewhere=WHERE)
    def delete(self, name, ids, elsewhere):
        if name in self.points:
            gone = set(ids) & self.points[name].keys()
            assert self.at(elsewhere).collection(name).delete(ids).count == len(gone)
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

    @rule(key=KEYS, value=VALUES, ttl_ms=st.none() | st.integers(1, 50), elsewhere=WHERE)
    def put(self, key, value, ttl_ms, elsewhere):
        self.sweep()
        self.note_put(key, value, ttl_ms, self.at(elsewhere).state.put(key, value, ttl_ms=ttl_ms))

    @rule(key=KEYS, value=VALUES, guess=st.sampled_from(["right", "zero", "old"]), elsewhere=WHERE)
    def compare_and_set(self, key, value, guess, elsewhere):
        self.sweep()
        actual = self.live(key)[1] if self.live(key) else 0
        state = self.at(elsewhere).state
        revision = {"right": actual, "zero": 0, "old": max(0, actual - 1)}[guess]
        if revision == actual:
            result = state.put(key, value, if_revision=revision)
            self.note_put(key, value, None, result)
        else:
            with pytest.raises(RevisionConflict):
                state.put(key, value, if_revision=revision)
            with pytest.raises(RevisionConflict):
                state.delete(key, if_revision=revision)

    @rule(key=KEYS, elsewhere=WHERE)
    def delete_key(self, key, elsewhere):
        self.sweep()
        count = self.at(elsewhere).state.delete(key).count
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

    @rule(id=IDS, doc=DOCS, guess=st.sampled_from([None, "right", "wrong"]), elsewhere=WHERE)
    def put_document(self, id, doc, guess, elsewhere):
        actual = self.documents.get(id, (None, 0))[1]
        expected = {None: None, "right": actual, "wrong": actual + 1}[guess]
        notes = self.at(elsewhere).documents("notes")
        if guess == "wrong":
            with pytest.raises(RevisionConflict):
                notes.put(id, doc, if_revision=expected)
            return
        self.head += 1
        assert notes.put(id, doc, if_revision=expected).revision == self.head
        self.documents[id] = (doc, self.head)

    @rule(
        id=IDS,
        changes=st.dictionaries(st.sampled_from("ab"), st.none() | st.integers(0, 3)),
        elsewhere=WHERE,
    )
    def patch_document(self, id, changes, elsewhere):
        notes = self.at(elsewhere).documents("notes")
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

    @rule(id=IDS, elsewhere=WHERE)
    def delete_document(self, id, elsewhere):
        there = self.documents.pop(id, None) is not None
        assert self.at(elsewhere).documents("notes").delete(id).count == there
        self.head += there

    @rule(id=IDS, n=st.integers(-1, 5), elsewhere=WHERE)
    def write_row(self, id, n, elsewhere):
        sql = self.at(elsewhere).sql
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
        elsewhere=WHERE,
    )
    def apply_a_list(self, key, value, id, doc, vector, n, bad, elsewhere):
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
                self.at(elsewhere).apply(operations)
            assert caught.value.index == 5
            return
        applied = self.at(elsewhere).apply(operations)
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
        seen = self.as_dict(docs.scroll(limit=100)[0]), dict(self.lab.state), self.lab.head
        if isinstance(self.second, Elsewhere):
            there = self.second.ask("picture")
            points = {id: (vector, meta) for id, vector, meta in there["points"]["docs"]["points"]}
            state = {key: value for key, (value, *_) in there["state"].items()}
            assert (points, state, there["head"]) == seen
        return seen

    # the lab itself

    @rule()
    def reopen(self):
        self.lab.close()
        self.lab = Lab(self.path, clock=self.clock)

    @rule(process=st.booleans())
    def open_or_close_a_second_lab(self, process):
        """In the other process, or in this one."""
        if self.second is not None:
            self.second.close()
            self.second = None
        elif process:
            self.second = Elsewhere(self.process, self.path, self.clock)
        else:
            self.second = Lab(self.path, clock=self.clock)

    @rule(elsewhere=WHERE)
    def build_or_drop_an_index(self, elsewhere):
        # Jobs and index events move the head by a number of their own.
        if elsewhere and isinstance(self.second, Elsewhere):
            self.second.ask("build_or_drop")
        else:
            build_or_drop(self.at(elsewhere))
        self.sweep()
        self.head = self.lab.head

    @rule(elsewhere=WHERE)
    def compact(self, elsewhere):
        # Jobs and the event of each move the head by a number of their own.
        if elsewhere and isinstance(self.second, Elsewhere):
            self.second.ask("compact")
        else:
            compact(self.at(elsewhere))
        self.sweep()
        self.head = self.lab.head

    @rule(keep=st.integers(0, 5))
    def trim(self, keep):
        self.lab._upkeep._retention = Retention(events=keep)
        self.lab._upkeep.trim()
        self.lab._upkeep._retention = Retention()
        self.kept_from = max(self.kept_from, self.lab.head + 1 - keep)

    def at(self, elsewhere):
        return (self.second if elsewhere else None) or self.lab

    # what must always hold

    @staticmethod
    def as_dict(points):
        return {p.id: (tuple(p.vector.tolist()), p.meta) for p in points}

    @invariant()
    def both_labs_are_as_the_dicts(self):
        self.sweep()
        pictures = [picture(self.lab)]
        if isinstance(self.second, Elsewhere):
            pictures.append(self.second.ask("picture"))
        elif self.second is not None:
            pictures.append(picture(self.second))
        for shown in pictures:
            self.check_points(shown)
            self.check_searches(shown)
            assert (shown["state"], shown["keys"]) == (self.state, len(self.state))
            assert shown["documents"] == self.documents
            assert shown["counted"] == len(self.documents)
            ones = [i for i, (d, _) in self.documents.items() if isinstance(d, dict)]
            ones = [i for i in ones if self.documents[i][0].get("a") == 1]
            assert shown["found"] == sorted(ones, key=str.encode)
            assert shown["table"] == self.table
            assert (shown["head"], shown["first"]) == (self.head, self.kept_from)
            assert shown["offsets"] == list(range(self.kept_from, self.head + 1))

    def check_points(self, shown):
        assert list(shown["points"]) == sorted(self.points)
        for name, points in self.points.items():
            found = shown["points"][name]
            assert found["after"] is None
            assert {id: (vector, meta) for id, vector, meta in found["points"]} == points
            assert [id for id, *_ in found["points"]] == sorted(points, key=str.encode)
            assert found["counts"] == (len(points), len(points))

    def check_searches(self, shown):
        """Every search is brute force."""
        for name, points in self.points.items():
            vectors = np.array([v for v, _ in points.values()]).reshape(-1, DIM)
            if self.metrics[name] == "l2":
                scores = -((vectors - QUERY) ** 2).sum(axis=1)
            else:
                scores = vectors @ QUERY
            wanted = sorted(scores, reverse=True)
            by_id = dict(zip(points, scores, strict=True))
            asked = [k for _ in WAYS for k in COUNTS]
            for k, hits in zip(asked, shown["searches"][name], strict=True):
                assert [meta for *_, meta in hits] == [points[id][1] for id, *_ in hits]
                found = [by_id[id] for id, *_ in hits]
                assert np.allclose(found, wanted[:k], atol=1e-4)
                assert np.allclose([score for _, score, _ in hits], found, atol=1e-4)

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
