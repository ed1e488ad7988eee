"""Queries with signs, phrases, prefixes and slips of the pen; fields, snippets, bad input."""

import html
import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from luma_lab.errors import InvalidArgument, UnknownName
from luma_lab.index import TextIndex, terms
from luma_lab.index.textquery import has_syntax, parse

TEXTS = [
    "the quick brown fox",
    "the brown quick dog",
    "a quick brown quick brown cat",
    "foxes and foxtails",
    "slow dog",
]


@pytest.fixture(scope="module")
def index():
    return TextIndex("none", positions=True).build(TEXTS)


@pytest.mark.parametrize(
    ("query", "rows"),
    [
        ("fox dog", {0, 1, 4}),
        ("+quick dog", {0, 1, 2}),
        ("+quick +dog", {1}),
        ("quick -dog", {0, 2}),
        ("-dog", set()),
        ("+missing quick", set()),
        ("quick -missing", {0, 1, 2}),
        ('"quick brown"', {0, 2}),
        ('"brown quick"', {1, 2}),
        ('"quick brown cat"', {2}),
        ('"quick dog brown"', set()),
        ('"the quick" -fox', set()),
        ('+"quick brown" -"brown fox"', {2}),
        ('"dog"', {1, 4}),
        ('""', set()),
        ("fox*", {0, 3}),
        ("+fox* -foxtails", {0}),
        ("fix~", {0}),
        ("qiuck~", {0, 1, 2}),
        ("dogs~ cats~", {1, 2, 4}),
        ("zzz* zzz~", set()),
        ("* ~ + - ", set()),
        ("quick-dog", {0, 1, 2, 4}),
        ("+quick-dog", {1}),
        ("fox's 5\"", {0}),
    ],
)
def test_what_a_query_finds(index, query, rows):
    assert set(index.search(query).rows.tolist()) == rows


def test_plain_words_score_alike_with_and_without_syntax(index):
    plain, signed = index.search("quick dog"), index.search("+quick dog")
    scores = dict(zip(plain.rows.tolist(), plain.scores.tolist(), strict=True))
    for row, score in zip(signed.rows.tolist(), signed.scores.tolist(), strict=True):
        assert scores[row] == pytest.approx(score, rel=1e-6)


def test_a_phrase_counts_as_one_word(index):
    why = index.explain('"quick brown"', 2)
    assert [(t.form, t.df, t.count) for t in why.terms] == [("phrase", 2, 2)]
    found = index.search('"quick brown"')
    assert found.scores[found.rows.tolist().index(2)] == pytest.approx(why.score, rel=1e-6)


def test_all_words_of_a_prefix_count_as_one(index):
    why = index.explain("fox*", 3)
    assert [(t.form, t.df, t.count) for t in why.terms] == [("prefix", 2, 2)]


def test_without_syntax_signs_are_spaces(index):
    found = index.search('-dog "fox', syntax=False)
    assert set(found.rows.tolist()) == {0, 1, 4}


def test_an_excluded_word_does_not_exclude_what_it_resembles_weakly():
    index = TextIndex("es").build(["año bueno", "ano bueno", "años buenos"])
    assert set(index.search("bueno -ano").rows.tolist()) == {0, 2}
    assert set(index.search("bueno -año").rows.tolist()) == {1}


def test_phrases_see_the_gaps_that_stop_words_leave():
    index = TextIndex("en", stop_words=True, positions=True)
    index.build(["salt and pepper", "salt pepper"])
    assert index.search('"salt pepper"').rows.tolist() == [1]


@settings(max_examples=60)
@given(
    st.lists(st.lists(st.sampled_from("abc"), max_size=8), min_size=1, max_size=8),
    st.lists(st.sampled_from("abc"), min_size=2, max_size=3),
)
def test_phrases_are_found_where_they_stand(documents, phrase):
    index = TextIndex("none", positions=True).build([" ".join(d) for d in documents])
    index.add(["a b c"])
    texts = [*map("".join, documents), "abc"]
    wanted = "".join(phrase)
    expected = {row for row, text in enumerate(texts) if wanted in text}
    asked = f'"{" ".join(phrase)}"'
    assert set(index.search(asked, k=50).rows.tolist()) == expected
    for row in expected:
        count = len(re.findall(f"(?={wanted})", texts[row]))
        assert index.explain(asked, row).terms[0].count == count
    index.consolidate()
    assert set(index.search(asked, k=50).rows.tolist()) == expected


def test_a_mask_limits_the_answer_of_every_kind_of_query(index):
    mask = np.array([False, True, True, False, True])
    for query in ("quick dog fox", "+quick", '"quick brown"', "fox*", ["quick", "dog"]):
        all_rows = index.search(query).rows
        assert index.search(query, mask=mask).rows.tolist() == [r for r in all_rows if mask[r]]
    with pytest.raises(InvalidArgument):
        index.search("quick", mask=mask[:3])


def test_many_queries_answer_as_one_by_one(index):
    queries = ["fox", "", "+quick dog", ["the"]]
    for many, one in zip(index.search_many(queries, 2), map(index.search, queries), strict=True):
        assert many.rows.tolist() == one.rows[:2].tolist()
    with pytest.raises(InvalidArgument):
        index.search_many("fox")


def test_fields_add_up_by_weight():
    documents = [
        {"title": "fox", "body": "dog"},
        {"title": "dog", "body": "fox fox"},
        {"body": "cat"},
    ]
    both = TextIndex("none", fields={"title": 3, "body": 0.5}).build(documents)
    titles = TextIndex("none").build(["fox", "dog", ""])
    bodies = TextIndex("none").build(["dog", "fox fox", "cat"])
    found = dict(zip(*both.search("fox"), strict=True))
    for row in (0, 1):
        expected = 3 * titles.explain("fox", row).score + 0.5 * bodies.explain("fox", row).score
        assert found[row] == pytest.approx(expected, rel=1e-6)
        assert both.explain("fox", row).score == pytest.approx(expected, rel=1e-12)
    assert both.search("fox").rows.tolist() == [0, 1]
    silent = TextIndex("none", fields={"title": 1, "body": 0}).build(documents)
    assert silent.explain("fox", 1).score == 0


def test_fields_that_are_not_there_are_refused():
    index = TextIndex(fields={"title": 1.0})
    for documents, error in (
        ([{"titel": "x"}], UnknownName),
        (["x"], InvalidArgument),
        ([{"title": 3}], InvalidArgument),
        ({"title": "x"}, InvalidArgument),
    ):
        with pytest.raises(error):
            index.build(documents)
    for fields in ({}, [], {"a": -1}, {"a": float("nan")}, {"a": float("inf")}, {"a": "1"}, {1: 1}):
        with pytest.raises(InvalidArgument):
            TextIndex(fields=fields)


@pytest.mark.parametrize(
    "parameters",
    [
        {"variant": "bm26"}, {"k1": -1}, {"k1": float("nan")}, {"b": 1.5}, {"b": "x"},
        {"delta": float("inf")}, {"delta": True}, {"positions": 1},
    ],
)  # fmt: skip
def test_bad_parameters_are_refused(parameters):
    with pytest.raises(InvalidArgument):
        TextIndex("none", **parameters)


def test_bad_queries_are_refused(index):
    for query in (None, 3, b"fox", {"fox"}, ["fox", 3]):
        with pytest.raises(InvalidArgument):
            index.search(query)
    for k in (0, -1, 1.5, "1"):
        with pytest.raises(InvalidArgument):
            index.search("fox", k)
    with pytest.raises(UnknownName):
        index.search("fox", way="fast")
    with pytest.raises(InvalidArgument, match="character 4"):
        index.search('fox "brown dog')
    with pytest.raises(InvalidArgument, match="positions=True"):
        TextIndex("none").build(TEXTS).search('"brown fox"')
    for row in (-1, 5, "0"):
        with pytest.raises(InvalidArgument):
            index.explain("fox", row)


def test_a_prefix_of_too_many_words_is_refused(monkeypatch):
    index = TextIndex("none").build([f"a{i}" for i in range(terms.MOST_EXPANSIONS)])
    assert len(index.search("a*", k=5000).rows) == terms.MOST_EXPANSIONS
    row = index.add(["ab"])
    with pytest.raises(InvalidArgument, match="1025 words"):
        index.search("a*")
    index.delete(row)
    assert len(index.search("a*", k=5000).rows) == terms.MOST_EXPANSIONS


def test_huge_queries_are_answered_or_refused_clearly(index):
    assert set(index.search("fox dog " * 130_000).rows.tolist()) == {0, 1, 4}
    assert index.search("x" * 1_000_000).rows.tolist() == []
    assert index.search("🦊" * 250_000).rows.tolist() == []
    for language in ("none", "en"):
        other = TextIndex(language).build(TEXTS)
        with pytest.raises(InvalidArgument, match="distinct words"):
            other.search(" ".join(f"w{i}" for i in range(150_000)))


def test_repeated_words_count_each_time_however_many():
    index = TextIndex("none").build(["fox", "dog"])
    once = index.search("fox").scores[0]
    for times in (2, 64, 65, 200):
        assert index.search("fox " * times).scores[0] == pytest.approx(times * once, rel=1e-5)


def test_lone_surrogates_and_odd_characters_do_no_harm():
    index = TextIndex("none").build(["a\ud800b", "\udfff", "\x00nul\x00", ""])
    assert index.search("a").rows.tolist() == [0]
    assert index.search("b\ud800").rows.tolist() == [0]
    assert index.search("nul").rows.tolist() == [2]
    assert index.search("\udfff").rows.tolist() == []


@settings(max_examples=200)
@given(st.text(st.sampled_from('ab"+-*~ ñ\n\ud800'), max_size=20))
def test_any_query_is_answered_or_refused_in_words(query):
    index = TextIndex("es", positions=True).build(["a b ab ba", "añ ba"])
    try:
        found = index.search(query)
    except InvalidArgument as error:
        assert '"' in query or "one" in str(error)
    else:
        assert (np.diff(found.scores) <= 0).all()
        assert {*found.rows.tolist()} <= {0, 1}
        for row, score in zip(found.rows.tolist(), found.scores.tolist(), strict=True):
            assert index.explain(query, row).score == pytest.approx(score, rel=1e-5, abs=1e-6)


def test_signs_count_where_they_are_meant():
    assert not any(map(has_syntax, ["c++", "well-known", 'a 5" disk', "2*3", "a - b", "x ~ y"]))
    assert all(map(has_syntax, ["+a", "b -a", '"a b"', "x a*", "a~ b"]))
    assert [tuple(c) for c in parse("-a* b")] == [("prefix", "a", "-"), ("word", "b", "")]


def test_snippets_mark_matches_and_nothing_else():
    index = TextIndex("es")
    text = "<script>Años</script> & la CAMPANA, " + "relleno " * 100 + "fin del año"
    snippet = index.highlight("año campaña", text, size=60)
    assert [text[a:b] for a, b in snippet.spans] == ["Años", "CAMPANA", "año"]
    assert "<mark>Años</mark>" in snippet.html and "<mark>CAMPANA</mark>" in snippet.html
    assert "<script>" not in snippet.html and "&lt;script&gt;" in snippet.html
    assert snippet.html.endswith("…") and len(snippet.html) < 200
    whole = index.highlight("fin*", text, size=0)
    assert (whole.start, whole.stop) == (0, len(text))
    assert html.unescape(re.sub("</?mark>", "", whole.html)) == text
    assert index.highlight("-año", text).spans == []
    assert index.highlight("zzz", "").html == ""
    assert "<em>" in index.highlight("año", text, tag="em").html
    for tag in ("b onclick=x", "", None, "<b>"):
        with pytest.raises(InvalidArgument):
            index.highlight("año", text, tag=tag)


@settings(max_examples=60)
@given(st.text(st.sampled_from("ab <>&'\"ñ\n"), max_size=60), st.integers(0, 30))
def test_a_snippet_is_the_passage_it_says(text, size):
    snippet = TextIndex("none").highlight("a ñ", text, size=size, tag="mark")
    bare = re.sub("</?mark>", "", snippet.html)
    assert "<" not in bare
    assert html.unescape(bare).strip("…") == text[snippet.start : snippet.stop]
    for start, stop in snippet.spans:
        assert text[start:stop] in ("a", "ñ")


@pytest.mark.parametrize(
    ("query", "says"),
    [
        (" ".join(f"w{i}~" for i in range(65)), "65 words with"),
        ("a* " * 20_000, "20000 words with"),
        ("+cat " * 5000, "5000 parts"),
    ],
)
def test_a_query_that_asks_for_too_much_is_refused(query, says):
    index = TextIndex("none").build(["a cat", "a dog"])
    with pytest.raises(InvalidArgument, match=says):
        index.search(query)


def test_a_search_can_be_given_up_between_two_of_its_steps():
    index = TextIndex("none").build([f"word{i} word{i + 1}" for i in range(50)])
    left = [5]

    def check():
        left[0] -= 1
        if left[0] < 0:
            raise TimeoutError

    with pytest.raises(TimeoutError):
        index.search("word1* +word2 word3~ word4~ word5~ word6~", check=check)
    assert index.search("word7").rows.tolist() == [6, 7]


def test_a_weight_that_would_make_scores_infinite_is_refused():
    with pytest.raises(InvalidArgument, match="weight of field 't'"):
        TextIndex(fields={"t": 1e308})
