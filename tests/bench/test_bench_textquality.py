"""Promises of the text quality bench: judged texts come in whole, and what Shows asks for holds."""

import gzip
import json

import pytest

from luma_lab import bench
from luma_lab.bench import textquality
from luma_lab.bench.fusionlab import as_run
from luma_lab.errors import InvalidArgument, NotFound

TEXTS = {"a": "La campaña política del año", "b": "una campana de bronce", "c": "el árbol"}
QUESTIONS = {"1": ("campañas políticas", ["a"]), "2": ("árboles", ["c"]), "3": ("bronce", ["b"])}


@pytest.fixture
def files(tmp_path):
    texts = [{"id": id, "text": text, "more": 1} for id, text in TEXTS.items()]
    asked = [{"qid": q, "query": text, "relevant": r} for q, (text, r) in QUESTIONS.items()]
    documents, queries = tmp_path / "mini_docs.jsonl.gz", tmp_path / "queries.jsonl"
    with gzip.open(documents, "wt", encoding="utf-8") as out:
        out.writelines(json.dumps(line) + "\n" for line in texts)
    queries.write_text("".join(json.dumps(line) + "\n" for line in asked), encoding="utf-8")
    return documents, queries


def test_known_items_come_in_plain_or_zipped(files):
    data = textquality.load_known_items(*files)
    assert data.name == "mini_docs"
    assert dict(zip(data.ids, data.texts, strict=True)) == TEXTS
    assert data.query_texts == tuple(text for text, _ in QUESTIONS.values())
    assert data.qrels == {"1": {"a": 1}, "2": {"c": 1}, "3": {"b": 1}}


def test_questions_for_missing_texts_and_malformed_lines_are_named(files, tmp_path):
    documents, queries = files
    with open(queries, "a") as out:
        out.write('{"qid": "4", "query": "x", "relevant": ["z"]}\n')
    with pytest.raises(InvalidArgument, match="query '4' wants 'z'"):
        textquality.load_known_items(documents, queries)
    with open(queries, "a") as out:
        out.write('{"qid": "5"}\n')
    with pytest.raises(InvalidArgument, match=r"queries\.jsonl:5: .*`query`"):
        textquality.load_known_items(documents, queries)
    (tmp_path / "none.jsonl").touch()
    with pytest.raises(InvalidArgument, match="no lines"):
        textquality.load_known_items(tmp_path / "none.jsonl", queries)
    with pytest.raises(NotFound):
        textquality.load_known_items(tmp_path / "other.jsonl", queries)


def test_the_ways_to_ask_are_told_apart(files):
    data = textquality.load_known_items(*files)
    runs = textquality.text_runs(data, "es")
    found = {name: [ids for ids, _ in answers] for name, answers in runs.items()}
    assert found["words as written"] == [[], [], ["b"]]
    assert found["analyzer es"] == [["a", "b"], ["c"], ["b"]]
    assert sorted(found["analyzer es, asked without accents"][0]) == ["a", "b"]
    assert found["words as written, asked without accents"] == [[], [], ["b"]]
    assert set(found) > {"words as written, no stop words", "analyzer es, no stop words"}
    lsa = textquality.lsa_branch(data, "es", dim=2)
    assert [ids[0] for ids, _ in lsa] == ["a", "c", "b"]


def test_on_perlfaq_the_english_analyzer_beats_plain_words_by_more_than_luck():
    data = bench.load("perlfaq")
    runs = {name: as_run(data, found) for name, found in textquality.text_runs(data, "en").items()}
    for by in ("mrr@10", "mrr"):
        table = bench.judge(data, runs, against=textquality.PLAIN, by=by, resamples=4000)
        assert table.loc["analyzer en", "verdict"] == "better"
        assert table.loc["analyzer en, no stop words", "difference_low"] > 0.05
    assert table.loc[textquality.PLAIN, "mrr"] == pytest.approx(0.543, abs=0.001)


def test_the_figures_of_a_small_set_are_complete(files):
    data = textquality.load_known_items(*files)
    table, reports = textquality.measure_quality(data, "es", resamples=100)
    assert {"words as written", "analyzer es", "lsa alone"} <= {*table.index}
    assert [*reports] == ["lsa"] and reports["lsa"].folds == 3
