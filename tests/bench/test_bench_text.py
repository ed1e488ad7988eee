"""The text bench: every engine answers the same questions, and the figures are of them."""

import gzip
import json

import pytest

from luma_lab.bench import textbench
from luma_lab.errors import InvalidArgument, Unavailable, UnknownName

TEXTS = [f"uno dos tres palabra{i % 90} otra{i % 7} más{i} y{i} z{i}" for i in range(400)]
ENGINES = ["luma", "bm25s", "bm25s-numba", "fts5", "rank-bm25"]


def test_queries_are_words_of_one_text():
    common = set("uno dos tres".split())
    for frequent in (True, False):
        queries = textbench.make_queries(TEXTS, 20, frequent=frequent, seed=1)
        assert queries == textbench.make_queries(TEXTS, 20, frequent=frequent, seed=1)
        for query in queries:
            words = set(query.split())
            assert 2 <= len(words) <= 4
            assert any(words <= set(text.split()) for text in TEXTS)
            assert frequent or not words & common
    with pytest.raises(InvalidArgument):
        textbench.make_queries(["uno"], 5, frequent=True)


@pytest.mark.parametrize("name", ENGINES)
def test_engines_find_the_text_the_words_are_of(name):
    engine = textbench.MAKERS[name]()
    engine.build(TEXTS)
    for row in (3, 250):
        assert engine.ask(TEXTS[row], 5)[0] == row
    assert len(engine.ask("uno", 5)) == 5


def test_figures_are_of_the_engines_asked_for():
    table = textbench.measure(TEXTS, engines=["luma", "fts5"], rounds=2, queries=30)
    assert [row["engine"] for row in table] == ["luma", "fts5"]
    assert table[0]["build_under_luma"] == table[0]["content_over_luma"] == 1
    for row in table:
        assert row["build_docs_per_sec"] > 0
        assert 0 < row["any_p50_us"] <= row["any_p99_us"]


def test_a_text_is_added_and_found_by_every_engine():
    (figures,) = textbench.measure_adding(TEXTS, engines=["luma"], count=3)
    assert figures["engine"] == "luma" and figures["over_luma"] == 1
    assert 0 < figures["p50_ms"] <= figures["p90_ms"]
    with pytest.raises(UnknownName, match="engine 'lucene'"):
        textbench.measure_adding(TEXTS, engines=["lucene"])


def test_tantivy_adds_and_finds():
    pytest.importorskip("tantivy")
    figures = textbench.measure_adding(TEXTS, count=3)
    assert [row["engine"] for row in figures] == ["luma", "tantivy"]


def test_engines_that_are_not_there_are_named(monkeypatch):
    with pytest.raises(UnknownName):
        textbench.measure(TEXTS, engines=["lucene"])
    monkeypatch.setitem(__import__("sys").modules, "tantivy", None)
    with pytest.raises(Unavailable, match="tantivy"):
        textbench.measure(TEXTS, engines=["tantivy"])


def test_texts_come_from_plain_and_zipped_lines(tmp_path):
    lines = "".join(json.dumps({"text": text}) + "\n" for text in ("año", "b"))
    (tmp_path / "a.jsonl").write_text(lines, encoding="utf-8")
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(lines.encode()))
    for name in ("a.jsonl", "a.jsonl.gz"):
        assert textbench.load_texts(tmp_path / name) == ["año", "b"]
