"""What fusing is worth on judged questions: the shipped perlfaq, reciprocal rank at 10."""

import numpy as np
import pytest

import luma_lab as luma
from luma_lab import bench
from luma_lab.index.textquery import as_words


@pytest.fixture(scope="module")
def judged():
    """Return a function: name of a search to the reciprocal rank of each question."""
    data = bench.load("perlfaq")
    metas = [{"text": text} for text in data.texts]
    with luma.open(":memory:") as lab:
        shipped = lab.create_collection("shipped", data.base.shape[1], text_fields=["text"])
        shipped.upsert(data.ids, data.base, metas)
        learned = lab.create_collection("learned", 256, text_fields=["text"])
        learned.use_embedder("lsa")
        learned.upsert(data.ids, metas=metas)
        learned.fit_embedder().result(60)
        tuned = {"method": "weighted", "weights": {"vector": 5}}
        searches = {
            "words": lambda text, vector: shipped.search_text(text),
            "lsa": lambda text, vector: learned.search(text),
            "lsa and words": lambda text, vector: learned.search_hybrid(
                text=text, fusion="weighted"
            ),
            "lsa and words by rank": lambda text, vector: learned.search_hybrid(text=text),
            "vectors": lambda text, vector: shipped.search(vector),
            "vectors and words, tuned": lambda text, vector: shipped.search_hybrid(
                vector, text, fusion=tuned
            ),
        }

        def rank(search, text, vector, relevant):
            hits = searches[search](as_words(text), vector)
            return next((1 / n for n, h in enumerate(hits, 1) if relevant.get(h.id)), 0.0)

        known = {
            search: np.array(
                [
                    rank(search, text, vector, data.qrels[id])
                    for id, text, vector in zip(
                        data.query_ids, data.query_texts, data.queries, strict=True
                    )
                ]
            )
            for search in searches
        }
        yield known


def interval(differences):
    """Return the 95 % bootstrap interval of a mean of paired differences."""
    rng = np.random.default_rng(0)
    places = rng.integers(0, len(differences), (2000, len(differences)))
    return np.percentile(differences[places].mean(axis=1), [2.5, 97.5])


@pytest.mark.parametrize("hybrid", ["lsa and words", "lsa and words by rank"])
def test_words_and_what_is_learned_of_them_beat_words_alone(judged, hybrid):
    low, _ = interval(judged[hybrid] - judged["words"])
    assert low > 0
    assert judged[hybrid].mean() >= judged["lsa"].mean() - 0.001


def test_tuned_fusion_is_at_least_as_good_as_good_vectors_alone(judged):
    assert judged["vectors and words, tuned"].mean() >= judged["vectors"].mean()


def test_none_is_worse_than_it_was(judged):
    for search, least in (
        ("words", 0.56), ("lsa", 0.61), ("lsa and words", 0.63), ("vectors", 0.78),
        ("vectors and words, tuned", 0.79),
    ):  # fmt: skip
        assert judged[search].mean() > least, search
