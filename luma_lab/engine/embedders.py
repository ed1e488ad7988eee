"""Embedders: what turns texts into vectors.

The protocol is small: ``embed(texts)`` returns float32 of shape (len(texts), dim); ``dim``;
``name`` for people; and ``fingerprint``, which no two embedders share whose vectors differ.
Anything with ``encode`` or ``embed`` is adapted by :func:`as_embedder`, models of installed
libraries by their name.
"""

import threading

import numpy as np

from luma_lab.errors import (
    DimensionMismatch,
    EmbedderFailed,
    InvalidArgument,
    NotSupported,
    UnknownName,
)

PROBE = "The quick brown fox jumps over the lazy dog."
PROBE_SIZE = 16
PROBE_TOLERANCE = 0.02  # half precision and other processors stay far below, other models above
LARGEST_SQUARE = 8e37


class ObjectEmbedder:
    """Adapts any object with ``encode(texts)`` or ``embed(texts)``.

    Parameters
    ----------
    model : object
        Its answer for a list of str is an array, or anything that yields one vector for each.
    name : str, optional
        Names the model in stamps and errors. Default: the model's own name where it tells one,
        else its class.

    Raises
    ------
    InvalidArgument
        It has neither method.
    EmbedderFailed
        It can't embed a probe.
    """

    local = False  # may be slow, or ask someone else: never called inside a write

    def __init__(self, model, name=None, *, cacheable=False):
        method = getattr(model, "encode", None) or getattr(model, "embed", None)
        if not callable(method):
            raise InvalidArgument(
                f"{type(model).__name__} is no embedder: expected an object with encode(texts) "
                "or embed(texts)"
            )
        self.model = model
        self.cacheable = cacheable
        self._method = method
        self.name = name or _own_name(model)
        if not isinstance(self.name, str):
            raise InvalidArgument(f"name is {name!r}: expected a str")
        self.dim = self._ask([PROBE], None).shape[1]

    @property
    def fingerprint(self):
        """The name and the dimension; that it is the same model a probe tells."""
        return f"{self.name}/{self.dim}"

    def embed(self, texts):
        """Return the vectors of texts, float32 of shape (len(texts), dim)."""
        texts = check_texts(texts)
        if not texts:
            return np.zeros((0, self.dim), np.float32)
        return self._ask(texts, self.dim)

    def _ask(self, texts, dim):
        try:
            answer = self._method(list(texts))
            vectors = answer if isinstance(answer, np.ndarray) else np.stack(list(answer))
        except Exception as error:
            raise EmbedderFailed(
                f"embedder {self.name}: {type(error).__name__}: {error}"
            ) from error
        return check_answer(vectors, len(texts), dim, self.name)

    def __repr__(self):
        return f"ObjectEmbedder({self.name!r}, dim={self.dim})"


def as_embedder(thing):
    """Return an embedder: one as it is, another object adapted, or a model by its name.

    Parameters
    ----------
    thing : embedder, object with encode or embed, or str
        ``"sentence-transformers:NAME"``, ``"fastembed:NAME"`` or ``"model2vec:NAME"``, where
        the library is installed.

    Raises
    ------
    InvalidArgument, UnknownName
    NotSupported
        The library is not installed.
    """
    if isinstance(thing, str):
        return _named(thing)
    wanted = ("embed", "dim", "name", "fingerprint")
    if all(hasattr(thing, attribute) for attribute in wanted):
        return thing
    return ObjectEmbedder(thing)


def check_texts(texts):
    """Return texts as a list; raise `InvalidArgument` for anything that is no str."""
    if isinstance(texts, (str, bytes)) or not hasattr(texts, "__iter__"):
        raise InvalidArgument(f"texts is a {type(texts).__name__}: expected a list of texts")
    texts = list(texts)
    for place, text in enumerate(texts):
        if not isinstance(text, str):
            raise InvalidArgument(f"text {place} is a {type(text).__name__}: expected a str")
    return texts


def check_answer(vectors, count, dim, name):
    """Return an embedder's answer as float32 of shape (count, dim); any dim where it is None.

    Raises
    ------
    EmbedderFailed, DimensionMismatch
    """
    try:
        vectors = np.asarray(vectors)
        if vectors.dtype.kind not in "fiu":
            raise TypeError
        with np.errstate(over="ignore"):
            vectors = np.ascontiguousarray(vectors, dtype=np.float32)
    except (TypeError, ValueError):
        raise EmbedderFailed(f"embedder {name} did not answer with arrays of numbers") from None
    if vectors.ndim != 2 or len(vectors) != count or not vectors.shape[1]:
        raise EmbedderFailed(
            f"embedder {name} answered with shape {vectors.shape} for {count} texts: expected "
            f"({count}, {dim or 'dim'})"
        )
    if dim is not None and vectors.shape[1] != dim:
        raise DimensionMismatch(vectors.shape[1], dim, f"embedder {name}")
    with np.errstate(over="ignore", invalid="ignore"):
        good = np.einsum("ij,ij->i", vectors, vectors) <= LARGEST_SQUARE
    if not good.all():
        raise EmbedderFailed(
            f"embedder {name} made no finite vector of text {int(np.argmin(good))}"
        )
    return vectors


def probe_of(embedder):
    """Return the first components of what it makes of a fixed text: which model it is.

    Names can be shared; two models that agree in these up to rounding are the same.
    """
    vector = embedder.embed([PROBE])[0][:PROBE_SIZE].astype(np.float64)
    length = np.linalg.norm(vector)
    return [round(float(x), 4) for x in vector / (length or 1.0)]


def same_probe(one, other):
    """Return whether two probes are of one model."""
    return len(one) == len(other) and bool(np.allclose(one, other, rtol=0, atol=PROBE_TOLERANCE))


def _own_name(model):
    for attribute in ("model_name", "base_model_name", "name"):
        value = getattr(model, attribute, None)
        if isinstance(value, str) and value:
            return value
    card = getattr(model, "model_card_data", None)
    for attribute in ("model_id", "base_model"):
        value = getattr(card, attribute, None)
        if isinstance(value, str) and value:
            return value
    return f"{type(model).__module__}.{type(model).__qualname__}"


def _sentence_transformers(name):
    from sentence_transformers import SentenceTransformer

    return SentenceTransformer(name)


def _fastembed(name):
    from fastembed import TextEmbedding

    return TextEmbedding(model_name=name)


def _model2vec(name):
    from model2vec import StaticModel

    return StaticModel.from_pretrained(name)


LIBRARIES = {
    "sentence-transformers": _sentence_transformers,
    "fastembed": _fastembed,
    "model2vec": _model2vec,
}
_loading = threading.Lock()


def _named(text):
    library, colon, name = text.partition(":")
    if not colon or library not in LIBRARIES:
        raise UnknownName("embedder", text, [f"{known}:NAME" for known in LIBRARIES])
    if not name:
        raise InvalidArgument(f"embedder {text!r} names no model: expected {library}:NAME")
    try:
        with _loading:
            model = LIBRARIES[library](name)
    except ImportError:
        raise NotSupported(
            f"embedder {text!r} needs the library {library}: pip install {library}"
        ) from None
    return ObjectEmbedder(model, text)
