"""Embedders: any object adapted, an endpoint asked with patience, LSA learned from texts."""

import logging

import numpy as np
import pytest
from embedding_server import EmbeddingServer, vector_of
from sklearn.decomposition import TruncatedSVD
from sklearn.feature_extraction.text import TfidfVectorizer

from luma_lab.engine import embedders
from luma_lab.engine.embedders import ObjectEmbedder, as_embedder, probe_of, same_probe
from luma_lab.engine.embedders_http import HttpEmbedder
from luma_lab.engine.embedders_lsa import LsaEmbedder
from luma_lab.errors import (
    CorruptStore,
    DimensionMismatch,
    EmbedderFailed,
    EmbedderUnavailable,
    InvalidArgument,
    NotSupported,
    UnknownName,
    WaitTimeout,
)
from luma_lab.store import deadline

KEY = "sk-very-secret"
TEXTS = [
    "the cat sat on the mat",
    "a dog sat by the cat",
    "stocks fell as markets closed",
    "markets rose and stocks gained",
    "the dog chased a cat",
    "traders sold stocks",
]


class Lengths:
    """A model of a library: ``encode`` gives float64, whatever the text."""

    model_name = "lengths"

    def encode(self, texts):
        return np.array([[len(t), t.count(" "), 1.0] for t in texts])


class Yielding:
    def embed(self, texts):
        return (np.array([len(t), 1], np.float16) for t in texts)


@pytest.fixture
def server():
    with EmbeddingServer() as running:
        yield running


@pytest.fixture
def pauses():
    return []


@pytest.fixture
def embedder(server, pauses):
    made = HttpEmbedder(server.url, "small", api_key=KEY, retries=2, sleep=pauses.append)
    yield made
    made.close()


def test_objects_with_encode_or_embed_are_adapted():
    made = as_embedder(Lengths())
    assert (made.name, made.dim, made.fingerprint) == ("lengths", 3, "lengths/3")
    vectors = made.embed(["ab c", "d"])
    assert vectors.dtype == np.float32 and vectors.tolist() == [[4, 1, 1], [1, 0, 1]]
    assert as_embedder(made) is made
    assert made.embed([]).shape == (0, 3)
    yielding = as_embedder(Yielding())
    assert yielding.embed(["abc"]).tolist() == [[3, 1]]
    assert yielding.name.endswith("Yielding")
    assert ObjectEmbedder(Yielding(), "short").fingerprint == "short/2"


@pytest.mark.parametrize(
    ("answer", "named"),
    [
        (np.ones((1, 2)), r"shape \(1, 2\) for 2 texts"),
        (np.ones(2), r"shape \(2,\)"),
        (np.array([["a"], ["b"]]), "arrays of numbers"),
        (np.array([[1.0], [np.nan]]), "no finite vector of text 1"),
        (np.array([[1e30], [1.0]]), "no finite vector of text 0"),
        (7, "TypeError"),
    ],
)
def test_wrong_answers_of_a_model_are_named(answer, named):
    made = as_embedder(Lengths())
    made._method = lambda texts: answer
    made.dim = 1
    with pytest.raises(EmbedderFailed, match=named):
        made.embed(["x", "y"])


def test_what_can_not_be_an_embedder_is_named(monkeypatch):
    with pytest.raises(InvalidArgument, match="int is no embedder"):
        as_embedder(7)
    with pytest.raises(UnknownName, match="fastembed:NAME"):
        as_embedder("fastembedd")
    with pytest.raises(InvalidArgument, match="names no model"):
        as_embedder("model2vec:")

    def absent(name):
        raise ImportError(name)

    monkeypatch.setitem(embedders.LIBRARIES, "fastembed", absent)
    with pytest.raises(NotSupported, match="pip install fastembed"):
        as_embedder("fastembed:x")
    monkeypatch.setitem(embedders.LIBRARIES, "fastembed", lambda name: Lengths())
    assert as_embedder("fastembed:x").name == "fastembed:x"
    with pytest.raises(InvalidArgument, match="text 1 is a int"):
        as_embedder(Lengths()).embed(["a", 1])
    with pytest.raises(InvalidArgument, match="expected a list of texts"):
        as_embedder(Lengths()).embed("a")


def test_probes_tell_models_apart_and_forgive_rounding():
    class Turned(Lengths):
        def encode(self, texts):
            return super().encode(texts)[:, ::-1]

    class Rounded(Lengths):
        def encode(self, texts):
            return super().encode(texts).astype(np.float16) * 1.001

    one = probe_of(as_embedder(Lengths()))
    assert not same_probe(one, probe_of(as_embedder(Turned())))
    assert same_probe(one, probe_of(as_embedder(Rounded())))


def test_the_endpoint_is_asked_in_batches_and_read_by_index(server, pauses):
    embedder = HttpEmbedder(server.url + "/v1/", "small", batch=2, sleep=pauses.append)
    texts = ["one", "two words", "ñandú ✓", "one", "five"]
    vectors = embedder.embed(texts)
    assert [r["input"] for r in server.requests] == [texts[:2], texts[2:4], texts[4:]]
    assert {r["model"] for r in server.requests} == {"small"}
    expected = np.array([vector_of(t, 8) for t in texts], np.float32)
    np.testing.assert_allclose(vectors, expected)
    assert vectors.dtype == np.float32 and embedder.dim == 8 and not pauses
    assert embedder.fingerprint == "small/8"
    assert "Authorization" not in server.headers[0]
    embedder.close()


def test_the_dimension_is_asked_once(server, embedder):
    assert embedder.dim == 8 and embedder.dim == 8
    assert len(server.requests) == 1


def test_a_busy_endpoint_is_asked_again_with_growing_pauses(server, embedder, pauses):
    server.script += [(429, {"Retry-After": "3"}), 503]
    assert embedder.embed(["a"]).shape == (1, 8)
    assert pauses[0] == 3 and 0.7 < pauses[1] < 1.3
    assert len(server.requests) == 3


def test_patience_ends(server, embedder, pauses):
    server.script += [503, "close", (429, {"Retry-After": "soon"})]
    with pytest.raises(EmbedderUnavailable, match="after 3 attempts: status 429"):
        embedder.embed(["a"])
    assert len(pauses) == 2


def test_an_endpoint_that_hangs_or_is_gone_is_unavailable(server, pauses):
    slow = HttpEmbedder(server.url, "m", timeout=0.05, retries=0)
    server.script += ["hang"]
    with pytest.raises(EmbedderUnavailable, match="no answer within 0.05 s"):
        slow.embed(["a"])
    with pytest.raises(EmbedderUnavailable, match="ConnectError"):
        HttpEmbedder("http://127.0.0.1:9", "m", retries=1, sleep=pauses.append).embed(["a"])
    assert len(pauses) == 1


def test_the_time_limit_of_the_caller_ends_the_waiting(server, embedder, pauses):
    server.script += [(503, {"Retry-After": "15"})]
    with deadline.limited(5), pytest.raises(EmbedderUnavailable, match="after 1 attempts"):
        embedder.embed(["a"])
    assert not pauses
    with deadline.limited(-1), pytest.raises(WaitTimeout):
        embedder.embed(["a"])


def test_a_refusal_is_not_repeated_and_hides_the_key(server, embedder, caplog):
    caplog.set_level(logging.DEBUG)
    server.script += [401]
    with pytest.raises(EmbedderFailed, match=r"answered 401: refused Bearer \*\*\*") as caught:
        embedder.embed(["a"])
    assert len(server.requests) == 1
    assert server.headers[0]["Authorization"] == f"Bearer {KEY}"
    server.script += [503]
    embedder.embed(["a"])
    for text in (str(caught.value), repr(embedder), caplog.text):
        assert KEY not in text


@pytest.mark.parametrize(
    ("answer", "named"),
    [
        (b"no json", "not that of /v1/embeddings"),
        ({"data": [{"index": 0}]}, "missing required field `embedding`"),
        ({"data": []}, r"vectors \[\] for 2 texts"),
        ({"data": [{"index": 1, "embedding": [1]}] * 2}, r"vectors \[1, 1\] for 2 texts"),
        (
            {"data": [{"index": 0, "embedding": [1]}, {"index": 1, "embedding": [1, 2]}]},
            "several lengths",
        ),
        (b'{"data":[{"embedding":[1e39]},{"embedding":[1]}]}', "no finite vector of text 0"),
        ((302, {"Location": "http://elsewhere"}), "answered 302"),
    ],
)
def test_senseless_answers_are_named(server, embedder, answer, named):
    server.script += [answer]
    with pytest.raises(EmbedderFailed, match=named):
        embedder.embed(["a", "b"])


def test_a_change_of_dimension_is_refused(server):
    embedder = HttpEmbedder(server.url, "m", dim=5)
    with pytest.raises(DimensionMismatch, match="got 8 components; embedder m wants 5"):
        embedder.embed(["a"])


def test_bad_settings_of_an_endpoint_are_named():
    for url in (None, "", "host:80", "ftp://x", "http://", "http://h:0"):
        with pytest.raises(InvalidArgument, match="url is"):
            HttpEmbedder(url, "m")
    for url in ("http://me:secret@h", "http://h/v1?key=secret"):
        with pytest.raises(InvalidArgument) as caught:
            HttpEmbedder(url, "m")
        assert "secret" not in str(caught.value)
    for options in ({"batch": 0}, {"retries": -1}, {"timeout": 0}, {"dim": 0}, {"api_key": "a\n"}):
        with pytest.raises(InvalidArgument, match=next(iter(options))):
            HttpEmbedder("http://h", "m", **options)
    with pytest.raises(InvalidArgument, match="name of a model"):
        HttpEmbedder("http://h", "")
    for empty in ("", " \n"):
        with pytest.raises(InvalidArgument, match="text 1 is empty"):
            HttpEmbedder("http://h", "m").embed(["a", empty])


def test_lsa_is_the_truncated_svd_of_tf_idf():
    made = LsaEmbedder(3, "none").fit(TEXTS)
    table = TfidfVectorizer(token_pattern=r"\w+", sublinear_tf=True)
    oracle = TruncatedSVD(3, algorithm="arpack").fit(table.fit_transform(TEXTS))
    asked = [*TEXTS, "cat and stocks", "cat cat dog"]
    expected = oracle.transform(table.transform(asked))
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    vectors = made.embed(asked)
    one_by_one = np.concatenate([made.embed([text]) for text in asked])
    np.testing.assert_allclose(one_by_one, vectors, atol=1e-6)
    np.testing.assert_allclose(vectors @ vectors.T, expected @ expected.T, atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)


def test_lsa_of_many_texts_agrees_with_the_whole_decomposition():
    rng = np.random.default_rng(3)
    words = [f"w{i}" for i in range(600)]
    texts = [" ".join(rng.choice(words, 12)) for _ in range(500)]
    made = LsaEmbedder(8, "none").fit(texts)
    table = TfidfVectorizer(token_pattern=r"\w+", sublinear_tf=True)
    _, _, right = np.linalg.svd(table.fit_transform(texts).toarray(), full_matrices=False)
    expected = table.transform(texts[:20]).toarray() @ right[:8].T
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    got = made.embed(texts[:20])
    np.testing.assert_allclose(got @ got.T, expected @ expected.T, atol=1e-3)


def test_lsa_finds_by_words_that_are_not_there_and_knows_nothing_of_new_ones():
    made = LsaEmbedder(2, "en").fit(TEXTS)
    traders, cats, stocks, nothing, empty = made.embed(
        ["traders", "cats", "stock market", "quantum", ""]
    )
    assert traders @ stocks > 0.8 > 0.2 > traders @ cats
    assert not nothing.any() and not empty.any()


def test_lsa_is_deterministic_and_comes_back_from_disk(tmp_path):
    one, two = LsaEmbedder(4, "es").fit(TEXTS), LsaEmbedder(4, "es").fit(TEXTS)
    assert one.fingerprint == two.fingerprint
    assert one.fingerprint != LsaEmbedder(4, "es").fit(TEXTS[1:]).fingerprint
    one.embed(["un texto con palabras nuevas"])  # learns words, which are not saved
    one.save(tmp_path / "lsa")
    back = LsaEmbedder.load(tmp_path / "lsa")
    asked = [*TEXTS, "otra campaña", "cats"]
    assert np.array_equal(one.embed(asked), back.embed(asked))
    assert (back.name, back.dim, back.fingerprint) == ("lsa-es-4", 4, one.fingerprint)
    array = next((tmp_path / "lsa").glob("components-*.npy"))
    array.write_bytes(array.read_bytes()[:-1] + b"x")
    with pytest.raises(CorruptStore):
        LsaEmbedder.load(tmp_path / "lsa")


def test_lsa_forgets_the_words_of_queries(monkeypatch):
    from luma_lab.engine import embedders_lsa

    monkeypatch.setattr(embedders_lsa, "SPARE_WORDS", 5)
    made = LsaEmbedder(2, "en").fit(TEXTS)
    before = made.embed(["dogs"])
    fitted = len(made._lexicon.words)
    for i in range(200):
        made.embed([f"new{i} words{i}"])
        assert len(made._lexicon.words) <= 2 * fitted + 10
    assert np.array_equal(made.embed(["dogs"]), before)


def test_lsa_of_few_texts_leaves_the_rest_zero():
    made = LsaEmbedder(16, "en").fit(["one text", "another text"])
    vectors = made.embed(["one", "another"])
    assert vectors.shape == (2, 16) and not vectors[:, 2:].any()


def test_bad_input_of_lsa_is_named():
    for dim in (0, 1025, "8", True, 2.0):
        with pytest.raises(InvalidArgument, match="invalid dim"):
            LsaEmbedder(dim)
    with pytest.raises(UnknownName, match="language"):
        LsaEmbedder(8, "klingon")
    for texts in ([], ["", "...", "the"]):
        with pytest.raises(InvalidArgument, match="no text holds a word"):
            LsaEmbedder(8).fit(texts)
    with pytest.raises(InvalidArgument, match="not fitted"):
        LsaEmbedder(8).embed(["a"])
