"""Filtered searches against brute force: min(k, matches) hits, the nearest, each a match."""

import threading

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from luma_lab.engine import filters, meta_indexes, planner

DIM = 6
COUNT = 400


def metas(count, seed):
    chance = np.random.default_rng(seed)
    made = []
    for i in range(count):
        meta = {"n": int(chance.integers(0, 20)), "tag": "abc"[int(chance.integers(0, 3))]}
        if chance.random() < 0.3:
            meta["list"] = [int(x) for x in chance.integers(0, 4, 2)]
        if chance.random() < 0.5:
            meta["a"] = {"b": None if chance.random() < 0.2 else bool(chance.random() < 0.5)}
        made.append(None if i % 37 == 0 else meta)
    return made


CASES = [
    ({"n": 3}, lambda m: m.get("n") == 3),
    ("n = 3", lambda m: m.get("n") == 3),
    ({"n": {"$gte": 5, "$lt": 9}}, lambda m: 5 <= m.get("n", -1) < 9),
    ("n BETWEEN 5 AND 8 AND tag != 'c'", lambda m: 5 <= m.get("n", -1) < 9 and m["tag"] != "c"),
    ({"list": 2}, lambda m: 2 in m.get("list", [])),
    ({"tag": {"$ne": "a"}}, lambda m: m.get("tag") != "a"),
    ({"$not": {"n": {"$gt": 2}}}, lambda m: not m.get("n", -1) > 2),
    ({"a.b": None}, lambda m: "b" in m.get("a", {}) and m["a"]["b"] is None),
    ({"a.b": {"$exists": False}}, lambda m: "b" not in m.get("a", {})),
    ({"$or": [{"n": 1}, {"tag": "c"}]}, lambda m: m.get("n") == 1 or m.get("tag") == "c"),
    ({"n": {"$in": []}}, lambda m: False),
    ({"n": {"$nin": [1, 2]}}, lambda m: m.get("n") not in (1, 2)),
]  # fmt: skip


@pytest.fixture(params=["flat", "vamana", "vamana and tail", "declared"])
def docs(request, lab):
    chance = np.random.default_rng(1)
    declared = ["n", "a.b", "list"] if request.param == "declared" else []
    docs = lab.create_collection("docs", DIM, "l2", meta_indexes=declared)
    ids = [f"p{i}" for i in range(COUNT)]
    docs.upsert(ids, chance.normal(size=(COUNT, DIM)), metas(COUNT, 2))
    if "vamana" in request.param:
        docs.build_index("vamana", max_degree=12, build_list_size=32).result(120)
    if "tail" in request.param:
        docs.upsert(ids[:60], chance.normal(size=(60, DIM)), metas(60, 3))
        docs.delete(ids[60:80])
        docs.update(ids[80:120], metas=metas(40, 4))
    return docs


def brute(docs, query, test):
    points = docs.scroll(limit=10**6)[0]
    found = [
        (float(((p.vector - np.asarray(query, np.float32)) ** 2).sum()), p.id)
        for p in points
        if test(p.meta or {})
    ]
    return sorted(found)


@pytest.mark.parametrize("filter, test", CASES, ids=[str(f) for f, _ in CASES])
@pytest.mark.parametrize("scanned", [True, False], ids=["scan", "by index"])
def test_the_nearest_matches_are_found_all_of_them(docs, monkeypatch, filter, test, scanned):
    if not scanned:
        monkeypatch.setattr(planner, "SCANNED_ROWS", 0)
    query = np.linspace(-1, 1, DIM)
    wanted = brute(docs, query, test)
    for k in (1, 10, 500):
        hits = docs.search(query, k, filter=filter, explain=True, search_list_size=max(k, 400))
        assert [h.id for h in hits] == [id for _, id in wanted[:k]]
        assert hits.receipt["matches"] == len(wanted)
        assert all(test(h.meta or {}) for h in hits)
    assert docs.count(filter) == len(wanted)
    points, after = docs.scroll(limit=1000, filter=filter)
    assert after is None
    assert sorted(p.id for p in points) == sorted(id for _, id in wanted)


@pytest.mark.parametrize("k", [1, 5, 40])
def test_even_a_poor_walk_gives_as_many_hits_as_there_are_matches(docs, monkeypatch, k):
    monkeypatch.setattr(planner, "SCANNED_ROWS", 0)
    for filter, test in CASES:
        wanted = brute(docs, [0] * DIM, test)
        assert len(docs.search([0] * DIM, k, filter=filter)) == min(k, len(wanted))


def test_many_queries_are_filtered_like_one(docs):
    queries = np.random.default_rng(5).normal(size=(7, DIM))
    many = docs.search_many(queries, 4, filter={"tag": "a"})
    assert many == [docs.search(q, 4, filter={"tag": "a"}) for q in queries]
    assert docs.search_many([], 4, filter={"tag": "a"}) == []


def test_scrolling_with_a_filter_pages_through_every_match_once(docs):
    seen, after = [], None
    while True:
        points, after = docs.scroll(after, 7, filter={"tag": "b"})
        seen += [p.id for p in points]
        if after is None:
            break
    everything = {p.id for p in docs.scroll(limit=10**6)[0] if (p.meta or {}).get("tag") == "b"}
    assert len(seen) == len(set(seen)) and set(seen) == everything


def test_deleting_by_filter_deletes_the_matches_and_tells_of_each(docs, lab):
    wanted = {p.id for p in docs.scroll(limit=10**6)[0] if (p.meta or {}).get("n") == 4}
    before = lab.head
    result = docs.delete(filter={"n": 4})
    assert result.count == len(wanted) and result.offset == lab.head == before + len(wanted)
    told = lab.events.read(since=before, types="vector_deleted")
    assert {e.data["id"] for e in told} == wanted
    assert docs.count({"n": 4}) == 0
    assert docs.delete(filter={"n": 4}).count == 0


def test_inside_a_transaction_filters_see_its_own_writes(docs, lab):
    with lab.transaction() as tx:
        inside = tx.collection("docs")
        inside.upsert("new", [0] * DIM, {"n": 777})
        assert inside.count({"n": 777}) == 1
        assert docs.count({"n": 777}) == 0
        assert [p.id for p in inside.scroll(filter="n = 777")[0]] == ["new"]
        assert inside.delete(filter="n = 777").count == 1
    assert docs.count({"n": 777}) == 0


def test_groups_hold_the_best_of_each_value(docs):
    query = np.zeros(DIM)
    everything = docs.search(query, 10**6, exact=True)
    for filter, test in ((None, lambda m: True), ({"n": {"$lt": 5}}, lambda m: m.get("n", 9) < 5)):
        for k in (1, 2, 5, 30, 1000):
            hits = docs.search(query, k, group_by="n", group_limit=3, filter=filter, exact=True)
            groups = {}
            for place, hit in enumerate(everything):
                if test(hit.meta or {}):
                    value = (hit.meta or {}).get("n")
                    groups.setdefault(("none", place) if value is None else value, []).append(hit)
            wanted = list(groups.values())[:k]
            assert list(hits) == [g[0] for g in wanted]
            assert [g.hits for g in hits.groups] == [g[:3] for g in wanted]


def test_hits_match_the_filter_while_metas_change_under_the_search(docs, lab):
    stop, trouble = threading.Event(), []

    def flip():
        turn = 0
        while not stop.is_set():
            turn += 1
            ids = [f"p{i}" for i in range(turn % 7, COUNT, 11) if not 60 <= i < 80]
            docs.update(ids, metas=[{"n": turn % 3}] * len(ids))
            docs.upsert(ids[:5], np.full((5, DIM), turn % 5), [{"n": turn % 3}] * 5)

    writer = threading.Thread(target=flip)
    writer.start()
    try:
        for i in range(120):
            hits = docs.search([0] * DIM, 20, filter={"n": i % 3})
            if not all(h.meta["n"] == i % 3 for h in hits) or not hits:
                trouble.append(hits)
    finally:
        stop.set()
        writer.join()
    assert not trouble


PATHS = st.sampled_from(["n", "tag", "list", "a.b", "missing"])
SCALARS = st.none() | st.booleans() | st.integers(0, 5) | st.sampled_from(["a", "b", ""])


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(path=PATHS, values=st.lists(SCALARS, min_size=1, max_size=4))
def test_a_declared_index_never_changes_an_answer(lab_pair, path, values):
    plain, declared = lab_pair
    for filter in ({path: values[0]}, {path: {"$in": values}}, {path: {"$nin": values}}):
        assert plain.search([0] * DIM, 50, filter=filter) == declared.search(
            [0] * DIM, 50, filter=filter
        )
        assert plain.count(filter) == declared.count(filter)


@pytest.fixture(scope="module")
def lab_pair():
    import luma_lab as luma

    with luma.open(":memory:") as lab:
        vectors = np.random.default_rng(6).normal(size=(COUNT, DIM))
        pair = []
        for name, declared in (("plain", ()), ("declared", ("n", "tag", "list", "a.b"))):
            docs = lab.create_collection(name, DIM, "l2", meta_indexes=declared)
            docs.upsert([str(i) for i in range(COUNT)], vectors, metas(COUNT, 7))
            pair.append(docs)
        yield pair


def plan(lab, docs, filter):
    """Return SQLite's plan of the statement that finds the rows of a filter."""
    from luma_lab.store import catalog

    row = catalog.require(lab._parts.database.reader(), docs.name)
    condition, bindings = meta_indexes.where_points(filters.parse(filter), row)
    sql = f"SELECT point FROM luma_points WHERE {condition}"
    found = lab._parts.database.reader().execute(f"EXPLAIN QUERY PLAN {sql}", bindings)
    return "\n".join(line[3] for line in found)


@pytest.mark.parametrize(
    "filter",
    [
        {"year": 2020},
        {"year": {"$in": [2020, 2021]}},
        {"year": {"$gte": 2020}},
        {"name": "x", "other": 1},
        "year = 2020 OR name = 'x'",
        "year BETWEEN 2019 AND 2020 AND other != 3",
    ],
)
def test_a_declared_index_is_what_sqlite_searches(lab, filter):
    declared = ["year", "name", "a.b"]
    docs = lab.create_collection("docs", 2, meta_indexes=declared)
    lab.create_collection("more", 2, meta_indexes=declared)
    ids = [str(i) for i in range(3000)]
    fields = [
        {"year": 1900 + i % 100, "name": f"n{i}", "a": {"b": i % 2 == 0}} for i in range(3000)
    ]
    docs.upsert(ids, np.zeros((3000, 2)), fields)
    text = plan(lab, docs, filter)
    assert "luma_meta_1_" in text
    assert "SCAN luma_points" not in text and "PRIMARY KEY" not in text, text


def test_dropping_a_collection_drops_its_indexes_and_no_others(lab):
    for name in ("a", "b"):
        lab.create_collection(name, 2, meta_indexes=["x", "y"])
    assert lab.collection("a").info().meta_indexes == ("x", "y")
    lab.drop_collection("a")
    names = lab._parts.database.reader().execute(
        "SELECT name FROM sqlite_schema WHERE name LIKE 'luma_meta%' ORDER BY name"
    )
    assert [n for (n,) in names] == [
        "luma_meta_2_0", "luma_meta_2_0_array", "luma_meta_2_1", "luma_meta_2_1_array",
    ]  # fmt: skip
    lab.collection("b").upsert("p", [1, 2], {"x": [1, 2]})
    assert [h.id for h in lab.collection("b").search([0, 0], filter={"x": 2})] == ["p"]


def test_the_index_walks_for_many_matches_and_scans_codes_for_few(lab):
    chance = np.random.default_rng(0)
    vectors = chance.normal(size=(3100, 24)).astype(np.float32)
    docs = lab.create_collection("coded", 24, "l2")
    docs.upsert(list(range(3000)), vectors[:3000], [{"n": i % 10} for i in range(3000)])
    docs.build_index("vamana").result()
    small = {"k": 5, "search_list_size": 10, "explain": True}
    for filter, strategy, test in (
        ("n <> 0", "filter+walk", lambda n: n != 0),
        ("n = 3", "filter+scan", lambda n: n == 3),
    ):
        hits = docs.search(vectors[7], filter=filter, **small)
        assert hits.receipt["strategy"] == strategy and not hits.receipt["exact"]
        assert all(test(hit.meta["n"]) for hit in hits)
        wanted = {id for _, id in brute(docs, vectors[7], lambda meta, t=test: t(meta["n"]))[:5]}
        assert len({hit.id for hit in hits} & wanted) >= 3
        exact = docs.search(vectors[7], filter=filter, exact=True, **small)
        assert exact[0].id in {hit.id for hit in hits}
    docs.upsert("late", vectors[3000], {"n": 3})
    hits = docs.search(vectors[3000], filter="n = 3", **small)
    assert hits[0].id == "late" and hits.receipt["strategy"] == "filter+scan+tail"
