"""kill -9 at random moments: what was acknowledged is there, nothing is torn, the lab opens.

A killed process leaves the page cache, so this proves atomicity and recovery; that the syncs
for a power loss are made, and in which order, is in test_promises.
"""

import random
import shutil
import time

import numpy as np
import pytest
from children import child

from luma_lab.engine.lab import Lab

pytestmark = pytest.mark.crash

# Every turn writes a point and a state key that must agree, then says so. The third thread
# rewrites large metas and values so that commits span many pages.
WRITER = """
import os, sys, threading
import luma_lab as luma
path, first = sys.argv[1], int(sys.argv[2])
lab = luma.open(path)
docs = lab.collection("docs")
out = threading.Lock()
def say(line):
    with out:
        os.write(1, (line + "\\n").encode())
def together():
    n = first
    while True:
        n += 1
        with lab.transaction() as tx:
            tx.collection("docs").upsert(["pair", f"t{n % 50}"], [[n, 1], [n, 2]], [n, n])
            tx.state["pair"] = n
            tx.documents("notes").put("pair", {"n": n})
            tx.sql.execute("INSERT OR REPLACE INTO pairs VALUES ('pair', ?)", (n,))
            tx.events.publish("pair", n)
        say(f"pair {n}")
def listed():
    n = first
    while True:
        n += 1
        lab.apply([
            {"op": "state.put", "key": "listed", "value": n},
            {"op": "doc.put", "collection": "notes", "id": "listed", "doc": n},
            {"op": "vector.upsert", "collection": "lists", "id": "listed", "vector": [n, n]},
            {"op": "sql", "sql": "REPLACE INTO pairs VALUES ('listed', ?)", "params": [n]},
            {"op": "publish", "type": "listed", "data": n},
        ])
        say(f"listed {n}")
def alone(kind):
    n = first
    while True:
        n += 1
        if kind == "state":
            lab.state[f"s{n % 20}"] = n
        elif n % 7 == 0:
            docs.delete(f"p{n % 30}")
        else:
            docs.upsert(f"p{n % 30}", [n, 3], {"n": n, "text": "x" * (n * 37 % 9000)})
        say(f"{kind} {n}")
for target, args in ((together, ()), (listed, ()), (alone, ("state",)), (alone, ("point",))):
    threading.Thread(target=target, args=args).start()
"""


def acknowledged(output):
    """Return the last n of each kind; a half line at the end was not acknowledged."""
    last = {}
    for line in output.split("\n")[:-1]:
        kind, n = line.split()
        last[kind] = int(n)
    return last


def check(lab, last, first):
    """Compare a reopened lab with what its killed writer had said."""
    docs = lab.collection("docs")
    points = {p.id: p for p in docs.scroll(limit=1000)[0]}
    state = dict(lab.state)

    # both or neither, and nothing acknowledged is lost; one more may have been committed
    pair = state.get("pair", 0)
    assert pair in (last["pair"], last["pair"] + 1)
    if pair:
        assert points["pair"].vector.tolist() == [pair, 1]
        assert points["pair"].meta == pair
        assert points[f"t{pair % 50}"].vector.tolist() == [pair, 2]
    assert [e.data for e in lab.events.read(types="pair", limit=10**6)][-1:] == (
        [pair] if pair else []
    )

    assert (lab.documents("notes").get("pair").doc if pair else {"n": 0}) == {"n": pair}
    rows = dict(lab.sql("SELECT id, n FROM pairs").rows)
    assert rows.get("pair", 0) == pair

    # the same of a list of operations over all five kinds
    listed = state.get("listed", 0)
    assert listed in (last["listed"], last["listed"] + 1)
    if listed:
        assert lab.documents("notes").get("listed").doc == listed == rows["listed"]
        assert lab.collection("lists").get("listed").vector.tolist() == [listed, listed]
        assert [e.data for e in lab.events.read(types="listed", limit=10**6)][-1:] == [listed]

    newest = max([n for k, n in state.items() if k not in ("pair", "listed")], default=first)
    assert newest in (last["state"], last["state"] + 1)
    for n in range(max(first + 1, newest - 19), newest + 1):
        assert state[f"s{n % 20}"] == n

    reached = last["point"]
    done = [reached]
    for candidate in (reached, reached + 1):  # was the next one committed before the kill?
        wanted = expected_points(first, candidate)
        found = {id: p.vector.tolist()[0] for id, p in points.items() if id.startswith("p")}
        found.pop("pair", None)
        if all(found.get(id) == n for id, n in wanted.items()):
            done.append(candidate)
    assert len(done) > 1, f"points stand neither at {reached} nor one later"
    for id, point in points.items():
        if id.startswith("p") and id != "pair":
            n = point.meta["n"]
            assert (point.vector.tolist(), point.meta["text"]) == ([n, 3], "x" * (n * 37 % 9000))

    # the index of everything agrees with the tables
    found = {h.id for h in docs.search([0, 0], k=1000)}
    assert found == points.keys()
    report = lab.verify()
    assert report.ok, report
    return {"pair": pair, "listed": listed, "state": newest, "point": reached}


def expected_points(first, reached):
    wanted = {}
    for n in range(first + 1, reached + 1):
        wanted[f"p{n % 30}"] = None if n % 7 == 0 else n
    return wanted


def kill_again_and_again(path, kills, seed):
    chance = random.Random(seed)
    with Lab(path) as lab:
        lab.create_collection("docs", 2, "l2")
        lab.create_collection("lists", 2, "l2")
        lab.sql.execute("CREATE TABLE pairs (id TEXT PRIMARY KEY, n INTEGER)")
    first, total = 0, 0
    for _ in range(kills):
        with child(WRITER, path, first) as writer:
            heard = writer.stdout.readline()  # it is writing now
            time.sleep(chance.random() * 0.25)
            writer.kill()
            heard += writer.stdout.read()
        last = {"pair": 0, "listed": 0, "state": 0, "point": 0, **acknowledged(heard)}
        began = time.perf_counter()
        with Lab(path) as lab:
            print(f"reopened in {time.perf_counter() - began:.3f} s after {last}")
            check_since(lab, last, first)
            total += sum(n - first for n in last.values() if n)
            # every kind starts the next round from one number beyond all of them
            first = 1 + max(*last.values(), first) + 1
            start_round(lab, first)
    assert total > kills, "the writers were killed before they wrote anything"


def check_since(lab, last, first):
    """As `check`; kinds of which nothing was acknowledged stand where the round began."""
    check(lab, {kind: n or first for kind, n in last.items()}, first)


def start_round(lab, first):
    docs = lab.collection("docs")
    with lab.transaction() as tx:
        inside = tx.collection("docs")
        inside.delete([p.id for p in docs.scroll(limit=1000)[0]])
        for key in list(lab.state):
            tx.state.delete(key)
        inside.upsert(["pair", f"t{first % 50}"], [[first, 1], [first, 2]], [first, first])
        tx.state["pair"] = tx.state["listed"] = first
        tx.documents("notes").put("pair", {"n": first})
        tx.documents("notes").put("listed", first)
        tx.collection("lists").upsert("listed", [first, first])
        for id in ("pair", "listed"):
            tx.sql.execute("INSERT OR REPLACE INTO pairs VALUES (?, ?)", (id, first))
            tx.events.publish(id, first)


def test_eight_kills_lose_nothing_and_tear_nothing(path):
    kill_again_and_again(path, 8, seed=1)


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_hundred_kills_lose_nothing_and_tear_nothing(path):
    kill_again_and_again(path, 100, seed=2)


BUILDER = """
import os, sys, luma_lab as luma
lab = luma.open(sys.argv[1])
docs = lab.collection("docs")
n = 0
while True:
    n += 1
    os.write(1, b"building\\n")
    try:
        docs.build_index("vamana", max_degree=8, build_list_size=16, seed=n).result()
    except luma.LumaError as error:
        os.write(1, type(error).__name__.encode() + b"\\n")
        continue
    os.write(1, b"built\\n")
"""


def test_a_kill_during_a_build_leaves_the_old_index_or_the_new_one(path, clock):
    chance = random.Random(3)
    vectors = np.random.default_rng(0).normal(size=(600, 6)).astype(np.float32)
    with Lab(path) as lab:
        docs = lab.create_collection("docs", 6, "l2")
        docs.upsert([f"p{i}" for i in range(600)], vectors)
        exact = docs.search_many(vectors[:5], k=9)
    for _ in range(4):
        with child(BUILDER, path) as builder:
            assert builder.stdout.readline() == "building\n"
            time.sleep(chance.random() * 0.4)
        with Lab(path) as lab:
            docs = lab.collection("docs")
            assert docs.search_many(vectors[:5], k=9, exact=True) == exact
            status = docs.index_status()
            answers = docs.search_many(vectors[:5], k=9, search_list_size=600)
            assert [len(hits) for hits in answers] == [9] * 5
            if status["available"]:
                assert status["indexed_points"] == 600
            assert lab.verify().ok
            assert lab.jobs() == [], "a whole index was rebuilt"
    # The lease of a killed builder lasts ten seconds and no longer: a clock beyond it sweeps
    # what the dead left behind, and builds.
    clock.advance(10 * 365 * 86_400_000)
    with Lab(path, clock=clock) as lab:
        folders = [p.name for p in path.glob("collections/*/index/*")]
        assert len(folders) <= 1
        docs = lab.collection("docs")
        assert docs.build_index("vamana", max_degree=8, build_list_size=16).result(120)
        assert docs.search_many(vectors[:5], k=9, exact=True) == exact
        assert lab.verify().ok


TURNER = """
import os, sys, luma_lab as luma
lab = luma.open(sys.argv[1])
n = int(sys.argv[2])
while True:
    n += 1
    docs = lab.create_collection(f"c{n}", 3)
    docs.upsert(["a", "b"], [[n, 1, 1], [n, 2, 2]])
    os.write(1, f"made {n}\\n".encode())
    lab.drop_collection(f"c{n}")
    os.write(1, f"dropped {n}\\n".encode())
"""


def test_a_kill_while_collections_come_and_go_leaves_each_whole_or_gone(path):
    chance = random.Random(4)
    with Lab(path) as lab:
        lab.create_collection("kept", 3).upsert("a", [1, 2, 3])
    n = 0
    for _ in range(4):
        with child(TURNER, path, n) as turner:
            heard = turner.stdout.readline()
            time.sleep(chance.random() * 0.15)
            turner.kill()
            heard += turner.stdout.read()
        word, number = heard.split("\n")[-2].split()
        n = int(number)
        with Lab(path) as lab:
            names = {c.name for c in lab.collections()} - {"kept"}
            if word == "made":
                assert names <= {f"c{n}"}  # the drop may have been committed
            else:
                assert names <= {f"c{n + 1}"}  # the next may have been created
            for name in names:
                points = lab.collection(name).scroll()[0]
                assert [p.id for p in points] in ([], ["a", "b"])
                lab.drop_collection(name)
            assert lab.collection("kept").get("a").vector.tolist() == [1, 2, 3]
            assert lab.verify().ok
            kept = {str(r.uid) for r in _catalog(lab)}
            assert {p.name for p in (path / "collections").iterdir()} <= kept
        n += 1


def _catalog(lab):
    from luma_lab.store import catalog

    return catalog.read_all(lab._parts.database.reader())


def test_a_copy_of_the_files_of_a_running_lab_taken_after_a_kill_opens(path, tmp_path):
    with Lab(path) as lab:
        lab.create_collection("docs", 2, "l2")
        lab.create_collection("lists", 2, "l2")
        lab.sql.execute("CREATE TABLE pairs (id TEXT PRIMARY KEY, n INTEGER)")
    with child(WRITER, path, 0) as writer:
        for _ in range(30):
            writer.stdout.readline()
    shutil.copytree(path, tmp_path / "copy")
    with Lab(tmp_path / "copy") as lab:
        assert lab.verify().ok
        assert lab.state["pair"] >= 1
