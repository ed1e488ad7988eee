"""Scores of all variants, against two other implementations and our own float64."""

import math

import bm25s
import numpy as np
import pytest
import rank_bm25
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from luma_lab.index import TextIndex

WORDS = st.sampled_from([f"w{i}" for i in range(12)])
CORPORA = st.lists(st.lists(WORDS, max_size=12), min_size=1, max_size=25)
QUERIES = st.lists(WORDS, min_size=1, max_size=5)
PARAMETERS = st.tuples(st.floats(0.1, 3), st.floats(0, 1), st.floats(0, 2))
RANK = {
    "okapi": rank_bm25.BM25Okapi,
    "bm25+": rank_bm25.BM25Plus,
    "bm25l-rank": rank_bm25.BM25L,
}


def dense(index, query, total):
    """Return the score of each row, nan where it was not found."""
    scores = np.full(total, np.nan)
    found = index.search(query, k=total)
    scores[found.rows] = found.scores
    return scores


def check_found(index, query, corpus, expected, rtol):
    scores = dense(index, query, len(corpus))
    holds = np.array([bool(set(query) & set(document)) for document in corpus])
    assert (~np.isnan(scores) == holds).all()
    np.testing.assert_allclose(scores[holds], expected[holds], rtol=rtol, atol=1e-6)


@pytest.mark.parametrize("variant", ["lucene", "robertson", "atire", "bm25l", "bm25+"])
@settings(max_examples=40)
@given(corpus=CORPORA, query=QUERIES, parameters=PARAMETERS)
def test_scores_are_those_of_bm25s(variant, corpus, query, parameters):
    assume(any(corpus))
    k1, b, delta = parameters
    other = bm25s.BM25(method=variant, k1=k1, b=b, delta=delta, dtype="float64")
    other.index(corpus, show_progress=False)
    known = [word for word in query if any(word in document for document in corpus)]
    assume(known)
    index = TextIndex("none", variant, k1, b, delta).build(corpus)
    check_found(index, query, corpus, other.get_scores(known), 1e-5)


@pytest.mark.parametrize("variant", RANK)
@settings(max_examples=40)
@given(corpus=CORPORA, query=QUERIES, parameters=PARAMETERS)
@example(corpus=[["w0", "w1"], ["w0"], ["w0", "w2"]], query=["w0", "w0"], parameters=(1.5, 0.75, 1))
def test_scores_are_those_of_rank_bm25(variant, corpus, query, parameters):
    assume(any(corpus))
    k1, b, delta = parameters
    extra = {} if variant == "okapi" else {"delta": delta}
    with np.errstate(invalid="ignore"):
        other = RANK[variant](corpus, k1=k1, b=b, **extra).get_scores(query)
    assume(np.isfinite(other).all())  # it divides 0 by 0 for empty documents when b is 1
    index = TextIndex("none", variant, k1, b, delta).build(corpus)
    check_found(index, query, corpus, other, 1e-5)
    for row in range(len(corpus)):
        why = index.explain(query, row)
        assert math.isclose(why.score, other[row], rel_tol=1e-9, abs_tol=1e-12)
        assert why.matched == bool(set(query) & set(corpus[row]))


def test_bm25_plus_with_delta_1_is_rank_bm25s_default():
    corpus = [["a", "b"], ["a", "c", "c"], ["d"]]
    other = rank_bm25.BM25Plus(corpus).get_scores(["c", "a"])
    index = TextIndex("none", "bm25+", k1=1.5, delta=1).build(corpus)
    np.testing.assert_allclose(dense(index, ["c", "a"], 3)[:2], other[:2], rtol=1e-5)


def made_corpus(rows, seed):
    """Documents with words of Zipf's law, some long."""
    rng = np.random.default_rng(seed)
    lengths = rng.geometric(1 / 8, rows)
    drawn = np.minimum(rng.zipf(1.3, int(lengths.sum())), 3000)
    names = [f"t{i}" for i in range(3001)]
    return [[names[t] for t in part] for part in np.split(drawn, np.cumsum(lengths)[:-1])]


@pytest.mark.parametrize("variant", ["lucene", "robertson", "bm25+", "okapi", "bm25l-rank"])
def test_every_way_to_sum_answers_alike(variant):
    rows = 20_000
    index = TextIndex("none", variant).build(made_corpus(rows, 5))
    rng = np.random.default_rng(6)
    mask = rng.random(rows) < 0.5
    for _ in range(60):
        query = [f"t{t}" for t in np.minimum(rng.zipf(1.3, rng.integers(1, 6)), 3000)]
        for given_mask in (None, mask):
            best = index.search(query, 10, mask=given_mask, way="exhaustive")
            assert (np.diff(best.scores) <= 0).all()
            for way in ("touched", "windowed", "auto"):
                found = index.search(query, 10, mask=given_mask, way=way)
                np.testing.assert_allclose(found.scores, best.scores, rtol=2e-6)
                clear = best.scores > best.scores[-1] * (1 + 1e-5) if len(best.scores) else []
                assert {*best.rows[clear]} <= {*found.rows}


def test_ties_go_to_the_lower_row_whatever_the_way():
    index = TextIndex("none").build([["a", "b"]] * 30_000)
    for way in ("touched", "windowed", "exhaustive"):
        assert index.search(["a"], 5, way=way).rows.tolist() == [0, 1, 2, 3, 4]


def test_explain_agrees_with_search_in_every_form():
    texts = ["Las campañas políticas", "una campana politica", "año nuevo", "los años", "ano"]
    index = TextIndex("es", stop_words=True).build(texts)
    for query in ["campaña política", "campana", "año ano", "los años nuevos", "+año -ano años*"]:
        found = index.search(query)
        assert len(found.rows)
        for row, score in zip(found.rows, found.scores, strict=True):
            why = index.explain(query, int(row))
            assert why.matched
            assert math.isclose(why.score, score, rel_tol=1e-5)
            assert math.isclose(why.score, sum(t.score for t in why.terms), rel_tol=1e-12)
            assert f"{why.score:.4f}" in str(why)


@pytest.mark.parametrize("variant", ["lucene", "bm25+", "bm25l", "okapi"])
def test_signs_do_not_change_how_much_a_word_adds(variant):
    index = TextIndex("none", variant).build(["uno dos", "uno uno tres", "dos tres", "tres"])
    plain, signed = index.search("uno dos"), index.search("+uno dos")
    scores = dict(zip(plain.rows.tolist(), plain.scores.tolist(), strict=True))
    assert set(signed.rows.tolist()) == {0, 1}
    for row, score in zip(signed.rows.tolist(), signed.scores.tolist(), strict=True):
        assert score == pytest.approx(scores[row], rel=1e-6)
        assert score == pytest.approx(index.explain("+uno dos", row).score, rel=1e-6)
