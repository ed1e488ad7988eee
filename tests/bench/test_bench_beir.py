"""Promises of BEIR folders: what is judged comes in whole, what does not fit is named."""

import json
import logging

import pytest

from luma_lab import bench
from luma_lab.errors import InvalidArgument, NotFound

CORPUS = [
    {"_id": "d1", "title": "Años", "text": "dos años", "metadata": {"year": 2020}},
    {"_id": "d2", "title": "", "text": "a text"},
    {"_id": "d3", "text": "third", "extra": [1]},
]
QUERIES = [{"_id": "q1", "text": "uno"}, {"_id": "q2", "text": "dos", "metadata": {}}]


def lines(path, records):
    path.write_text("".join(json.dumps(r) + "\n" for r in records), encoding="utf-8")


@pytest.fixture
def folder(tmp_path):
    root = tmp_path / "mini"
    (root / "qrels").mkdir(parents=True)
    lines(root / "corpus.jsonl", CORPUS)
    lines(root / "queries.jsonl", QUERIES)
    judge(root, "q2\td1\t2", "q2\td3\t0")
    return root


def judge(root, *rows, split="test"):
    table = "query-id\tcorpus-id\tscore\n" + "".join(row + "\n" for row in rows)
    (root / "qrels" / f"{split}.tsv").write_text(table)


def test_a_folder_comes_in_with_judged_queries_only(folder):
    data = bench.load(folder)
    assert data.name == "mini"
    assert data.ids == ("d1", "d2", "d3")
    assert data.texts == ("Años\ndos años", "a text", "third")
    assert data.metas[0] == {"year": 2020, "title": "Años", "text": "dos años"}
    assert (data.query_ids, data.query_texts) == (("q2",), ("dos",))
    assert data.qrels == {"q2": {"d1": 2, "d3": 0}}
    assert data.base is None and data.metric is None


def test_splits_are_taken_by_name_and_never_guessed(folder):
    judge(folder, "q1\td2\t1", split="dev")
    assert bench.load(str(folder), split="dev").query_ids == ("q1",)
    assert bench.load(folder).query_ids == ("q2",)
    with pytest.raises(NotFound, match=r"train\.tsv"):
        bench.load(folder, split="train")
    (folder / "qrels" / "test.tsv").unlink()
    assert bench.load(folder).query_ids == ("q1",)
    judge(folder, "q1\td2\t1", split="train")
    with pytest.raises(InvalidArgument, match="dev, train; name one with split="):
        bench.load(folder)
    (folder / "qrels.tsv").write_text("q1\td1\t1\nq2\td2\t1\n")
    assert bench.load(folder).query_ids == ("q1", "q2")


def test_judged_documents_that_are_missing_are_told_and_count_against_recall(folder, caplog):
    judge(folder, "q1\tgone\t1", "q2\td1\t1", "q2\taway\t1")
    with caplog.at_level(logging.WARNING):
        data = bench.load(folder)
    assert "2 of 3 judged documents are not in corpus.jsonl, such as 'away'" in caplog.text
    assert data.qrels["q2"] == {"d1": 1, "away": 1}
    found = bench.evaluate({"q2": ["d1"]}, data.qrels, ["recall@10"])
    assert found.values["recall@10"].tolist() == [0, 0.5]


def test_judgements_of_another_set_are_refused(folder):
    judge(folder, "q1\tgone\t1")
    with pytest.raises(InvalidArgument, match="none of the 1 judged documents"):
        bench.load(folder)
    judge(folder, "q1\td1\t1", "q9\td1\t1", "q8\td1\t1")
    with pytest.raises(InvalidArgument, match="2 judged queries are not in queries.jsonl.*'q8'"):
        bench.load(folder)


@pytest.mark.parametrize(
    ("file", "line", "told"),
    [
        ("corpus.jsonl", "{", r"corpus\.jsonl:4"),
        ("corpus.jsonl", '{"_id": 7, "text": "x"}', r"corpus\.jsonl:4: Expected `str`"),
        ("corpus.jsonl", '{"_id": "d1", "text": "x"}', r"corpus\.jsonl:4: id 'd1' is there twice"),
        ("queries.jsonl", '{"_id": "q7"}', r"queries\.jsonl:3.*`text`"),
    ],
)
def test_malformed_lines_are_refused_by_place(folder, file, line, told):
    with open(folder / file, "a") as out:
        out.write(line + "\n")
    with pytest.raises(InvalidArgument, match=told):
        bench.load(folder)


def test_missing_and_empty_files_are_named(folder):
    (folder / "queries.jsonl").write_text("\n")
    with pytest.raises(InvalidArgument, match=r"queries\.jsonl: no lines"):
        bench.load(folder)
    (folder / "queries.jsonl").unlink()
    with pytest.raises(NotFound, match=r"queries\.jsonl"):
        bench.load(folder)
    (folder / "qrels" / "test.tsv").unlink()
    with pytest.raises(NotFound, match=r"qrels\.tsv or qrels/test\.tsv"):
        bench.load(folder)


def test_options_of_other_kinds_are_refused(folder):
    with pytest.raises(InvalidArgument, match="metric='l2'"):
        bench.load(folder, "l2")
    with pytest.raises(InvalidArgument, match="only a folder in the layout of BEIR"):
        bench.load("perlfaq", split="test")
