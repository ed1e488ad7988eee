"""Languages: which words meet, and which of two comes first."""

import numpy as np
import pytest

from luma_lab.errors import InvalidArgument, UnknownName
from luma_lab.index import TextIndex
from luma_lab.index.analyzer import Analyzer
from luma_lab.index.letters import without_accents

# Words that must find each other, either way.
SPANISH_PAIRS = [
    ("año", "años"), ("luz", "luces"), ("vez", "veces"), ("pez", "peces"), ("voz", "voces"),
    ("lápiz", "lápices"), ("raíz", "raíces"), ("feliz", "felices"), ("ojo", "ojos"),
    ("uso", "usos"), ("día", "días"), ("río", "ríos"), ("tío", "tíos"), ("pie", "pies"),
    ("campaña", "campañas"), ("campaña", "campana"), ("niño", "niños"), ("niño", "nino"),
    ("año", "ano"), ("español", "espanol"), ("política", "politica"), ("política", "POLÍTICA"),
    ("política", "políticas"), ("canción", "canciones"), ("canción", "cancion"),
    ("corazón", "corazon"), ("país", "países"), ("índice", "índices"), ("ciudad", "ciudades"),
    ("árbol", "arboles"), ("pingüino", "pinguinos"), ("rey", "reyes"), ("ley", "leyes"),
    ("casa", "casas"), ("libro", "libros"), ("mujer", "mujeres"), ("lento", "lentamente"),
    ("cigüeña", "ciguenas"), ("señor", "señores"), ("montaña", "montanas"),
]  # fmt: skip
# Words that must be found by whoever leaves out their accents and tildes, and find such texts.
# Snowball alone parts the second half from their accentless selves.
ACCENTED = [
    "campaña", "año", "años", "niño", "español", "señal", "sueño", "baño", "pequeño", "contraseña",
    "política", "políticas", "canción", "razón", "público", "música", "teléfono", "número",
    "página", "última", "rápido", "difícil", "según", "sofá", "pingüino", "vergüenza", "imágenes",
    "jóvenes", "búsqueda", "configuración",
    "compañía", "compañías", "inglés", "francés", "alemán", "también", "después", "aquí", "además",
    "jamás", "corrió", "comió", "averigüe",
]  # fmt: skip
# Query, what must come first, what must not come before it.
FIRST = [
    ("año", "año", "ano"), ("ano", "ano", "año"), ("años", "años", "anos"), ("año", "años", "ano"),
    ("campaña", "campaña", "campana"), ("campana", "campana", "campaña"),
    ("campañas", "campaña", "campanas"), ("niño", "niños", "nino"), ("caña", "caña", "cana"),
    ("cana", "cana", "caña"), ("luz", "luz", "luces"), ("luces", "luces", "luz"),
]  # fmt: skip
ENGLISH_PAIRS = [("run", "running"), ("index", "indexes"), ("city", "cities"), ("café", "cafes")]


def test_there_are_forty_pairs():
    assert len(set(SPANISH_PAIRS)) == 40
    assert len(set(ACCENTED)) > 40


@pytest.mark.parametrize(("one", "other"), SPANISH_PAIRS)
def test_spanish_words_find_each_other_both_ways(one, other):
    index = TextIndex("es").build([f"un {one} aquí", f"el {other} allí", "otra cosa"])
    for query in (one, other):
        assert sorted(index.search(query).rows.tolist()) == [0, 1]


@pytest.mark.parametrize("word", ACCENTED)
def test_words_with_and_without_accents_find_each_other_the_one_asked_for_first(word):
    plain = without_accents(word)
    assert plain != word
    index = TextIndex("es").build([f"un {plain} aquel", f"un {word} aquel", "otra cosa"])
    for query, rows in ((word, [1, 0]), (plain, [0, 1]), (word.upper(), [1, 0])):
        assert index.search(query).rows.tolist() == rows
    alone = TextIndex("es").build([f"un {word} aquel", "otra cosa"])
    assert alone.search(plain).rows.tolist() == [0]


@pytest.mark.parametrize(("query", "first", "second"), FIRST)
def test_what_is_nearer_to_the_query_comes_first(query, first, second):
    # The weaker document is favoured by everything else: short, and the word thrice.
    near, far = f"{first} " + "relleno " * 20, f"{second} {second} {second}"
    for texts, best in (([near, far], 0), ([far, near], 1)):
        assert TextIndex("es").build(texts).search(query).rows[0] == best


def test_accents_and_case_do_not_change_what_is_found():
    texts = [
        "la campaña política empezó", "una campana politica", "las campañas políticas",
        "CAMPAÑA POLÍTICA", "nada de eso", "campo",
    ]  # fmt: skip
    index = TextIndex("es").build(texts)
    queries = ["campaña política", "campana politica", "CAMPAÑA POLÍTICA", "campañas políticas"]
    found = [index.search(query).rows.tolist() for query in queries]
    assert all(sorted(rows) == [0, 1, 2, 3] for rows in found)
    assert found[0][0] == 3 and found[0][-1] == 1
    assert found[0] == found[2]
    decomposed = "campan\u0303a poli\u0301tica"
    assert index.search(decomposed).rows.tolist() == found[0]


@pytest.mark.parametrize(("one", "other"), ENGLISH_PAIRS)
def test_english_words_find_each_other_both_ways(one, other):
    index = TextIndex("en").build([f"a {one}", f"the {other}", "else"])
    for query in (one, other):
        rows = index.search(query).rows.tolist()
        assert sorted(rows) == [0, 1]
        assert rows[0] == (one, other).index(query)


def test_words_nobody_wrote_are_found_by_their_stems():
    index = TextIndex("en").build(["the runners ran", "indexing"])
    assert index.search("indexed").rows.tolist() == [1]
    assert index.search("nothing").rows.tolist() == []


def test_language_none_takes_words_as_written():
    index = TextIndex("none").build(["años", "año", "ANOS"])
    assert index.search("AÑOS").rows.tolist() == [0]
    assert index.search("anos").rows.tolist() == [2]


def test_a_form_nobody_wrote_hands_its_weight_on():
    index = TextIndex("es").build(["politica nueva", "otra cosa"])
    written, accented = index.search("politica"), index.search("política")
    assert accented.scores.tolist() == pytest.approx(written.scores.tolist())


def test_analyze_shows_words_places_and_forms():
    tokens = TextIndex("es", stop_words=True).analyze("¡Los AÑOS luz!")
    assert [tuple(token) for token in tokens] == [
        ("Los", 1, 4, ()),
        ("AÑOS", 5, 9, ("años", "año", "ano")),
        ("luz", 10, 13, ("luz", "luc", "luc")),
    ]
    assert [token.is_stop_word for token in tokens] == [True, False, False]
    assert [t.forms for t in TextIndex("en").analyze("Running")] == [("running", "run")]
    assert [t.forms for t in TextIndex("none").analyze("Años")] == [("años",)]


@pytest.mark.parametrize(
    ("language", "word", "stem"),
    [("german", "Häuser", "haus"), ("fr", "continuellement", "continuel"), ("ru", "книги", "книг")],
)
def test_other_snowball_languages_go_by_name(language, word, stem):
    assert TextIndex(language).analyze(word)[0].forms[1] == stem


def test_stop_words_are_left_out_of_scores_and_lengths():
    with_them = TextIndex("es", stop_words=True).build(["la casa de la pradera", "casa"])
    without = TextIndex("es").build(["casa pradera", "casa"])
    a, b = with_them.search("la casa"), without.search("casa")
    assert a.rows.tolist() == b.rows.tolist()
    assert a.scores.tolist() == pytest.approx(b.scores.tolist())
    assert with_them.search("de la").rows.tolist() == []
    own = TextIndex("none", stop_words=["Casa"]).build(["casa grande"])
    assert own.search("casa").rows.tolist() == []


def test_tokens_skip_the_analyzer():
    index = TextIndex("en", stop_words=True).build([["the", "Running"], "the running"])
    assert index.search(["the"]).rows.tolist() == [0]
    assert index.search(["Running"]).rows.tolist() == [0]
    assert index.search(["run"]).rows.tolist() == []
    assert index.search("run").rows.tolist() == [1]


def test_unknown_languages_and_bad_stop_words_are_refused():
    for language in ("klingon", "", None, 3):
        with pytest.raises(UnknownName):
            TextIndex(language)
    for words in ("la", [3]):
        with pytest.raises(InvalidArgument):
            TextIndex("es", stop_words=words)
    with pytest.raises(InvalidArgument, match="pass the words"):
        TextIndex("de", stop_words=True)


def test_each_distinct_word_is_analysed_once(monkeypatch):
    asked = []
    stems = Analyzer.stems
    monkeypatch.setattr(
        Analyzer, "stems", lambda self, words: asked.extend(words) or stems(self, words)
    )
    index = TextIndex("es").build(["dos casas dos", "casas"])
    index.add(["dos perros"])
    index.build(["casas dos"])
    index.search("casas perros")
    assert sorted(asked) == ["casas", "dos", "perros"]


BOTH = {"es": {"weight": 2.0, "language": "es"}, "en": {"weight": 1.0}, "raw": {"language": "none"}}
PAIRS = [
    {"es": "las campañas de los años", "en": "the running dogs", "raw": "Running dogs"},
    {"es": "una campana", "en": "a dog runs", "raw": "dogs"},
    {"es": "running dogs", "en": "campañas", "raw": ""},
    {"es": "el año y la luz", "en": "light years of running", "raw": "the running dog"},
]


@pytest.mark.parametrize("stop_words", [False, {"es": ["de", "la"], "en": True}])
@pytest.mark.parametrize("variant", ["lucene", "okapi", "bm25+"])
def test_fields_of_several_languages_score_as_indexes_of_one_each(variant, stop_words, tmp_path):
    index = TextIndex("en", variant, fields=BOTH, stop_words=stop_words)
    index.add(PAIRS * 3)
    index.delete([4, 5])
    index.add(PAIRS[:2])
    kept = [*PAIRS, *PAIRS[2:], *PAIRS, *PAIRS[:2]]
    rows = [0, 1, 2, 3, 6, 7, 8, 9, 10, 11, 12, 13]
    index.save(tmp_path / "saved")
    loaded = TextIndex.load(tmp_path / "saved")
    merged = TextIndex.load(tmp_path / "saved").consolidate()
    of_one = {}
    for name, options in BOTH.items():
        own = options.get("language", "en")
        stopped = stop_words.get(own, False) if stop_words else False
        one = TextIndex(own, variant, stop_words=stopped)
        of_one[name] = one.build([pair[name] for pair in kept])
    for query in (
        "campaña",
        "running dog",
        "los años dogs dogs",
        ["dogs"],
        "the de la luz",
        "none",
    ):
        wanted = np.zeros(len(kept))
        found = np.zeros(len(kept), bool)
        for name, one in of_one.items():
            hits = one.search(query, len(kept))
            found[hits.rows] = True
            wanted += BOTH[name].get("weight", 1.0) * np.array(
                [one.explain(query, row).score for row in range(len(kept))]
            )
        for made in (index, loaded, merged):
            hits = made.search(query, 99)
            assert sorted(hits.rows.tolist()) == [rows[i] for i in np.flatnonzero(found)]
            for row, score in zip(hits.rows.tolist(), hits.scores.tolist(), strict=True):
                assert score == pytest.approx(wanted[rows.index(row)], rel=1e-5)
                assert made.explain(query, row).score == pytest.approx(score, rel=1e-5)
    assert index.search("+campaña +dog", 9).rows.tolist()
    assert set(index.search("runn* campañ*", 99).rows) == set(rows) - {1, 9, 13}
    snippet = index.highlight("campañas", "una campaña, running", field="es")
    assert snippet.html == "una <mark>campaña</mark>, running"
    assert index.highlight("run", "running", field="raw").spans == []
    assert index.analyze("running", field="raw")[0].forms == ("running",)


def test_a_field_of_no_language_or_with_an_odd_option_is_refused():
    for fields, error in (
        ({"a": {"language": "klingon"}}, UnknownName),
        ({"a": {"wait": 2}}, UnknownName),
        ({"a": {"weight": -1}}, InvalidArgument),
    ):
        with pytest.raises(error, match="klingon|'wait'|weight of field"):
            TextIndex(fields=fields)
    with pytest.raises(UnknownName, match="field 'c'"):
        TextIndex(fields={"a": 1}).analyze("x", field="c")
