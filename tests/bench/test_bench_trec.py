"""Promises of judged rankings: trec_eval's figures exactly, and files that read back the same."""

import numpy as np
import pytest
import pytrec_eval
from hypothesis import given
from hypothesis import strategies as st

from luma_lab.bench import trec
from luma_lab.errors import InvalidArgument, NotFound

OTHERS = {
    "mrr": "recip_rank", "ndcg": "ndcg", "map": "map", "recall": "set_recall",
    "precision": "set_P", "recall@3": "recall_3", "recall@10": "recall_10",
    "ndcg@3": "ndcg_cut_3", "ndcg@10": "ndcg_cut_10", "precision@3": "P_3",
    "precision@10": "P_10", "map@3": "map_cut_3",
}  # fmt: skip
ASKED = {
    "recip_rank", "ndcg", "map", "set_recall", "set_P", "recall.3,10", "ndcg_cut.3,10", "P.3,10",
    "map_cut.3",
}  # fmt: skip
documents = st.sampled_from([f"d{i}" for i in range(8)] + ["é", "D1"])
grades = st.dictionaries(documents, st.integers(0, 3), min_size=1)  # the other dies of negatives
few = st.sampled_from([0.0, 1.0, 1.0 + 1e-12, -1.5, 2.5, 1e30])
answers = st.dictionaries(documents, few | st.floats(-10, 10, width=32))
qrels_of = st.dictionaries(st.sampled_from("abcd"), grades, min_size=1)
runs_of = st.dictionaries(st.sampled_from("abcde"), answers)


@given(runs_of, qrels_of)
def test_figures_are_those_of_trec_eval(run, qrels):
    mine = trec.evaluate(run, qrels, OTHERS)
    other = pytrec_eval.RelevanceEvaluator(qrels, ASKED).evaluate(
        {query: answer for query, answer in run.items() if answer}
    )
    assert mine.query_ids == tuple(qrels)
    assert mine.unanswered == sum(not run.get(query) for query in qrels)
    for place, query in enumerate(qrels):
        for name, theirs in OTHERS.items():
            expected = other.get(query, {}).get(theirs, 0.0)
            assert mine.values[name][place] == pytest.approx(expected, abs=1e-12), (name, query)
            assert mine.mean[name] == pytest.approx(mine.values[name].mean())


@given(runs_of, qrels_of)
def test_negative_grades_count_as_0(run, qrels):
    lower = {q: {d: grade or -2 for d, grade in row.items()} for q, row in qrels.items()}
    assert trec.evaluate(run, lower, OTHERS).mean == trec.evaluate(run, qrels, OTHERS).mean


@given(answers, grades, st.integers(1, 4))
def test_the_reciprocal_rank_can_be_cut_off_like_the_others(answer, judged, k):
    whole = trec.evaluate({"q": answer}, {"q": judged}, ["mrr"]).mean["mrr"]
    cut = trec.evaluate({"q": answer}, {"q": judged}, [f"mrr@{k}"]).mean[f"mrr@{k}"]
    assert cut == (whole if whole >= 1 / k else 0)


def test_ties_go_to_the_greater_id_and_lists_stay_as_they_are():
    assert trec.ranking({"a": 1, "c": 1, "b": 2}) == ["b", "c", "a"]
    assert trec.ranking(["a", "c", "b"]) == ["a", "c", "b"]


def test_means_are_over_all_judged_queries():
    qrels = {"a": {"x": 1}, "b": {"y": 2}, "c": {"z": 0}}
    scores = trec.evaluate({"a": ["x"], "unjudged": ["x"]}, qrels, ["recall@5"])
    assert scores.mean == {"recall@5": 1 / 3}
    assert scores.unanswered == 2
    assert repr(scores) == "Scores(recall@5 0.333; 3 queries, 2 unanswered)"
    assert scores.table()["recall@5"].to_dict() == {"a": 1.0, "b": 0.0, "c": 0.0}


@given(runs_of)
def test_run_files_read_back_the_same(tmp_path_factory, run):
    path = tmp_path_factory.mktemp("run") / "run.txt"
    trec.write_run(path, run)
    assert trec.read_run(path) == {query: answer for query, answer in run.items() if answer}


@given(qrels_of)
def test_judgements_read_back_the_same_and_as_others_read_them(tmp_path_factory, qrels):
    path = tmp_path_factory.mktemp("qrels") / "qrels.txt"
    trec.write_qrels(path, qrels)
    assert trec.read_qrels(path) == qrels
    with open(path, encoding="utf-8") as lines:
        assert pytrec_eval.parse_qrel(lines) == qrels


def test_a_run_file_of_lists_keeps_their_order(tmp_path):
    trec.write_run(tmp_path / "run", {"q": ["a", "c", "b"]}, tag="mine")
    lines = (tmp_path / "run").read_text().splitlines()
    assert lines == ["q Q0 a 1 3 mine", "q Q0 c 2 2 mine", "q Q0 b 3 1 mine"]
    with open(tmp_path / "run") as run:
        assert pytrec_eval.parse_run(run) == trec.read_run(tmp_path / "run")
    assert trec.ranking(trec.read_run(tmp_path / "run")["q"]) == ["a", "c", "b"]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("q Q0 a 1 0.5\n", "run:1: 5 columns"),
        ("\nq Q0 a 1 high x\n", "run:2: score 'high'"),
        ("q Q0 a 1 nan x\n", "run:1: score 'nan'"),
        ("q Q0 a 1 1 x\nq Q0 a 2 1 x\n", "run:2: document 'a' of query 'q' is there twice"),
    ],
)
def test_malformed_runs_are_refused_by_line(tmp_path, text, told):
    (tmp_path / "run").write_text(text)
    with pytest.raises(InvalidArgument, match=told):
        trec.read_run(tmp_path / "run")


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "no judgements"),
        ("query-id\tcorpus-id\tscore\n", "no judgements"),
        ("q a\n", "qrels:1: 2 columns"),
        ("q 0 a 1.5\n", "qrels:1: grade '1.5'"),
        ("q 0 a inf\n", "qrels:1: grade 'inf'"),
        ("q\ta\tnan\n", "qrels:1: grade 'nan'"),
        ("q 0 a 1\nq 0 a 2\n", "qrels:2: document 'a'"),
        ("\ta\t1\n", "qrels:1: an empty id"),
    ],
)
def test_malformed_judgements_are_refused_by_line(tmp_path, text, told):
    (tmp_path / "qrels").write_text(text)
    with pytest.raises(InvalidArgument, match=told):
        trec.read_qrels(tmp_path / "qrels")


def test_what_no_file_can_hold_is_refused_and_nothing_written(tmp_path):
    path = tmp_path / "out"
    for run in ({"q r": ["a"]}, {"q": ["a b"]}, {"q": [""]}, {"q": ["a", "a"]}, {"q": {"a": None}}):
        with pytest.raises(InvalidArgument):
            trec.write_run(path, run)
    with pytest.raises(InvalidArgument, match="tag"):
        trec.write_run(path, {"q": ["a"]}, tag="my run")
    with pytest.raises(InvalidArgument, match=r"grade 0\.5"):
        trec.write_qrels(path, {"q": {"a": 0.5}})
    assert not path.exists()
    with pytest.raises(NotFound):
        trec.read_run(path)


def test_bad_measures_and_scores_are_named():
    for measure in ("bleu", "ndcg@0", "ndcg@x", 10):
        with pytest.raises(InvalidArgument, match="measure"):
            trec.evaluate({}, {"q": {"a": 1}}, [measure])
    with pytest.raises(InvalidArgument, match="no judgements"):
        trec.evaluate({"q": ["a"]}, {})
    with pytest.raises(InvalidArgument, match="'q': document 'a' has score nan"):
        trec.evaluate({"q": {"a": np.nan}}, {"q": {"a": 1}})
