"""``text_search`` and ``hybrid_search``: what the engine's searches find, as tables of SQL."""

import json

import numpy as np
import pytest

from luma_lab.errors import LumaError

TEXTS = ["the cat sat", "a dog sat by the cat", "stocks fell", "markets and stocks"]


@pytest.fixture
def docs(lab):
    docs = lab.create_collection("docs", 2, text_fields=["text"])
    metas = [{"text": text, "n": n} for n, text in enumerate(TEXTS)]
    docs.upsert(list("abcd"), [[1, n] for n in range(4)], metas)
    lab.sql.execute("CREATE TABLE t (id TEXT PRIMARY KEY, price REAL)")
    lab.sql.execute("INSERT INTO t VALUES ('a', 1.5), ('c', 2.5), ('d', 3.5)")
    return docs


def test_text_search_is_that_of_the_collection_and_joins(lab, docs):
    hits = docs.search_text("stocks", 5)
    rows = lab.sql("SELECT id, score, meta, rank FROM text_search('docs', 'stocks', 5)").rows
    assert [row[:2] for row in rows] == [(h.id, h.score) for h in hits]
    assert [json.loads(row[2]) for row in rows] == [h.meta for h in hits]
    assert [row[3] for row in rows] == [1, 2]
    joined = lab.sql(
        "SELECT s.id, t.price FROM text_search('docs', ?, 5, ?) AS s JOIN t USING (id) "
        "ORDER BY s.rank", ("cat stocks", "n < 3"),
    )  # fmt: skip
    assert sorted(joined.rows) == [("a", 1.5), ("c", 2.5)]
    assert lab.sql("SELECT * FROM text_search('docs', '', 5)").rows == []


def test_hybrid_search_is_that_of_the_collection_with_both_ranks(lab, docs):
    text = (
        "SELECT id, score, meta, rank, vector_rank, text_rank "
        "FROM hybrid_search('docs', ?, ?, ?, ?) ORDER BY rank"
    )
    for vector in ("[1, 0]", np.array([1, 0], "<f4").tobytes(), np.array([1.0, 0.0]), None):
        given = None if vector is None else [1, 0]
        for query in ("stocks cat", None):
            if given is None and query is None:
                continue
            for condition, parsed in ((None, None), ('{"n": {"$gt": 0}}', {"n": {"$gt": 0}})):
                hits = docs.search_hybrid(given, query, 3, filter=parsed)
                assert lab.sql(text, (query, vector, 3, condition)).rows == [
                    (
                        h.id,
                        h.score,
                        json.dumps(h.meta, separators=(",", ":")),
                        rank,
                        *(getattr(h.branches.get(b), "rank", None) for b in ("vector", "text")),
                    )
                    for rank, h in enumerate(hits, 1)
                ]


def test_arguments_may_come_from_another_table_and_reads_of_a_transaction(lab, docs):
    lab.sql.execute("CREATE TABLE q (words TEXT)")
    lab.sql.execute("INSERT INTO q VALUES ('dog'), ('markets')")
    text = "SELECT q.words, s.id FROM q, text_search('docs', q.words, 1) AS s ORDER BY 1"
    assert lab.sql(text).rows == [("dog", "b"), ("markets", "d")]
    with lab.transaction() as tx:
        assert tx.sql(text).rows == [("dog", "b"), ("markets", "d")]
    lab.sql.execute("CREATE TABLE found AS SELECT id FROM hybrid_search('docs', 'dog', NULL, 1)")
    assert lab.sql("SELECT * FROM found").rows == [("b",)]


def test_an_lsa_is_asked_inside_statements_too(lab):
    docs = lab.create_collection("learned", 2, text_fields=["text"])
    docs.use_embedder("lsa")
    docs.upsert(list("abcd"), metas=[{"text": text} for text in TEXTS])
    docs.fit_embedder().result(20)
    text = "SELECT id, vector_rank FROM hybrid_search('learned', 'stocks', NULL, 2)"
    rows = lab.sql(text).rows
    assert len(rows) == 2 and all(rank is not None for _, rank in rows)
    lab.sql.execute("CREATE TABLE found AS " + text)
    assert lab.sql("SELECT * FROM found").rows == rows


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("text_search('docs', 'cat')", "'k' is missing"),
        ("text_search('docs', 5, 3)", "'query' is 5"),
        ("text_search('docs', NULL, 3)", "'query' is None"),
        ("text_search('docs', 'cat', 0)", "k"),
        ("text_search('docs', 'cat', 'many')", "k"),
        ("text_search('nope', 'cat', 3)", "not found"),
        ("text_search('bare', 'cat', 3)", "text"),
        ("text_search('docs', 'cat', 3, '{\"$x\": 1}')", "x"),
        ("text_search('docs', 'cat', 3, '{')", "no valid JSON"),
        ("hybrid_search('docs', 'cat', '[1, 0]')", "'k' is missing"),
        ("hybrid_search('docs', 'cat', 'no vector', 3)", "neither a JSON array"),
        ("hybrid_search('docs', 'cat', '[1, 0, 0]', 3)", "dimension"),
        ("hybrid_search('docs', 'cat', x'00', 3)", "neither a JSON array"),
        ("hybrid_search('docs', NULL, NULL, 3)", "a vector, a text or both"),
        ("hybrid_search('docs', 5, NULL, 3)", "'query' is 5"),
        ("hybrid_search('bare', 'cat', NULL, 3)", "neither text fields"),
        ("hybrid_search('docs', 'cat', NULL, 3, 'n =')", "expected a value"),
    ],
)
def test_bad_arguments_are_named(lab, docs, text, named):
    lab.create_collection("bare", 2)
    with pytest.raises(LumaError, match=named):
        lab.sql(f"SELECT * FROM {text}")


def test_a_meta_too_long_for_a_statement_reads_as_null(lab, docs):
    docs.upsert("long", [1, 1], {"text": "lengthy", "x": "x" * (17 << 20)})
    assert lab.sql("SELECT id, meta FROM text_search('docs', 'lengthy', 1)").rows == [
        ("long", None)
    ]
