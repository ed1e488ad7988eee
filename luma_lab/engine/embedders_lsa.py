"""Latent semantic analysis: vectors learned from the collection's own texts, without any model.

A text is the TF-IDF vector of its words' stems, brought to few dimensions by a truncated singular
value decomposition of the texts it was fitted on. Words that occur together come to lie together,
so a text can be found by words it does not hold; words that no fitted text held say nothing.
"""

import hashlib
import threading

import numpy as np

from luma_lab.engine.embedders import check_texts
from luma_lab.errors import CorruptStore, InvalidArgument
from luma_lab.files import load_arrays, save_arrays
from luma_lab.index.analyzer import Analyzer
from luma_lab.index.lexicon import Lexicon
from luma_lab.index.snowball import check_language
from luma_lab.index.stopwords import STOP_WORDS

KIND = "lsa"
VERSION = 1
MOST_DIM = 1024
MOST_FITTED = 50_000  # texts; beyond, every n-th: more moves the dimensions little
RARE_FROM = 1000  # texts from which a word has to be in two of them to count
DENSE_SIDE = 400  # of a matrix, up to which the whole decomposition is as fast
EMBED_AT_ONCE = 4096  # texts
OWN_ARRAYS = ("columns", "idf", "components")
SPARE_WORDS = 100_000  # unknown words learned until the lexicon is read again


class LsaEmbedder:
    """An embedder fitted on texts; see :meth:`fit`.

    Parameters
    ----------
    dim : int
        Components of its vectors, 1 to 1,024. A corpus of less rank leaves the last ones 0.
    language : str
        As of a `TextIndex`: how words become stems.

    Attributes
    ----------
    dim : int
    name : str
    fingerprint : str
        Tells one fitted embedder from every other: it is a hash of all that makes its vectors.

    Notes
    -----
    Same texts in the same order, dimension and language give the same embedder, up to rounding
    of the linear algebra library. Vectors are of length 1; a text without known words gets
    zeros, which under cosine scores 0 with everything. Thread-safe once fitted.
    """

    local = True
    cacheable = False

    def __init__(self, dim=128, language="en"):
        if isinstance(dim, bool) or not isinstance(dim, int) or not 1 <= dim <= MOST_DIM:
            raise InvalidArgument(f"invalid dim of LSA: {dim!r}: expected 1 to {MOST_DIM}")
        self.dim = dim
        self.language = check_language(language)
        self._lock = threading.Lock()
        self._lexicon = self._words = None
        self._columns = self._idf = self._components = None
        self.fingerprint = None

    @property
    def name(self):
        """``lsa-<language>-<dim>``"""
        return f"lsa-{self.language}-{self.dim}"

    @property
    def is_fitted(self):
        """Whether :meth:`fit` or :meth:`load` was called."""
        return self._components is not None

    def fit(self, texts):
        """Learn from texts and return self; of more than 50,000 every n-th is taken.

        Raises
        ------
        InvalidArgument
            No text holds a word.
        """
        from scipy.sparse import csr_matrix

        step = -(-len(texts) // MOST_FITTED) or 1
        texts = list(texts[::step])
        self._lexicon = Lexicon(self._analyzer())
        features, ends = self._features(texts)
        self._words = self._lexicon.arrays()
        if not len(features):
            raise InvalidArgument("no text holds a word: there is nothing to fit LSA on")
        count = int(features.max()) + 1
        counts = csr_matrix(
            (np.ones(len(features)), features, np.concatenate([[0], ends])), (len(texts), count)
        )
        counts.sum_duplicates()
        holders = np.bincount(counts.indices, minlength=count)
        kept = np.flatnonzero(holders >= (2 if len(texts) >= RARE_FROM else 1))
        self._columns = np.full(count, -1, np.int32)
        self._columns[kept] = np.arange(len(kept), dtype=np.int32)
        self._idf = (np.log((1 + len(texts)) / (1 + holders[kept])) + 1).astype(np.float32)
        self._components = _decompose(self._weigh(counts), self.dim)
        self.fingerprint = self._hash()
        return self

    def embed(self, texts):
        """Return the vectors of texts, float32 of shape (len(texts), dim).

        Raises
        ------
        InvalidArgument
            It is not fitted, or something is no text.
        """
        if not self.is_fitted:
            raise InvalidArgument("this LsaEmbedder is not fitted: call fit(texts) first")
        texts = check_texts(texts)
        made = np.zeros((len(texts), self.dim), np.float32)
        for start in range(0, len(texts), EMBED_AT_ONCE):
            part = slice(start, start + EMBED_AT_ONCE)
            self._embed(texts[part], made[part])
        return made

    def save(self, path):
        """Save it as a directory that appears in one step."""
        own = (self._columns, self._idf, self._components)
        arrays = {**self._words, **dict(zip(OWN_ARRAYS, own, strict=True))}
        manifest = {
            "kind": KIND,
            "version": VERSION,
            "dim": self.dim,
            "language": self.language,
            "fingerprint": self.fingerprint,
        }
        save_arrays(path, arrays, manifest)

    @classmethod
    def load(cls, path):
        """Return the embedder saved in a directory.

        Raises
        ------
        CorruptStore
            Bytes do not match their checksum, or do not make an embedder.
        """
        arrays, manifest = load_arrays(path, mmap=False)
        if manifest.get("kind") != KIND or manifest.get("version") != VERSION:
            raise CorruptStore(f"{path}: holds no LSA embedder of version {VERSION}")
        made = cls(manifest["dim"], manifest["language"])
        try:
            made._columns, made._idf, made._components = map(arrays.pop, OWN_ARRAYS)
            made._words = arrays
            made._lexicon = Lexicon.of_arrays(made._analyzer(), arrays)
        except (KeyError, InvalidArgument) as error:
            raise CorruptStore(f"{path}: its arrays make no embedder ({error})") from None
        made.fingerprint = made._hash()
        if made.fingerprint != manifest["fingerprint"]:
            raise CorruptStore(f"{path}: its arrays do not make the embedder it was saved as")
        return made

    def __repr__(self):
        return f"LsaEmbedder(dim={self.dim}, language={self.language!r}, {self.fingerprint})"

    def _analyzer(self):
        return Analyzer(self.language, self.language in STOP_WORDS)

    def _features(self, texts):
        """Return the stems' numbers, text after text, and how many there are up to each's end."""
        tokens, _, lengths = self._lexicon.read(texts)
        tokens = tokens[tokens >= 0]
        forms = self._lexicon.forms
        features = tokens if forms.count == 1 else forms.table[tokens, 1]
        return features, np.cumsum(lengths)

    def _embed(self, texts, made):
        with self._lock:  # it learns the words that are new
            features, ends = self._features(texts)
            if len(self._lexicon.words) > SPARE_WORDS + 2 * len(self._columns):
                # Queries bring new words without end.
                self._lexicon = Lexicon.of_arrays(self._analyzer(), self._words)
        known = features < len(self._columns)
        before = np.concatenate([[0], np.cumsum(known)])
        ends = before[np.concatenate([[0], ends])]
        features = features[known]
        if len(texts) == 1:
            vectors = self._weigh_one(features)[None]
        else:
            vectors = self._weigh_many(features, ends) @ self._components
        lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
        np.divide(vectors, lengths, out=vectors, where=lengths > 1e-6)
        vectors[lengths[:, 0] <= 1e-6] = 0
        made[:, : vectors.shape[1]] = vectors

    def _weigh_one(self, features):
        """Return the product of one text's TF-IDF row with the components, in a hurry."""
        columns, counts = np.unique(self._columns[features], return_counts=True)
        if len(columns) and columns[0] < 0:
            columns, counts = columns[1:], counts[1:]
        values = (1 + np.log(counts)).astype(np.float32) * self._idf[columns]
        length = np.sqrt(np.square(values).sum()) or 1
        return (values / length) @ self._components[columns]

    def _weigh_many(self, features, ends):
        from scipy.sparse import csr_matrix

        counts = csr_matrix(
            (np.ones(len(features)), features, ends), (len(ends) - 1, len(self._columns))
        )
        counts.sum_duplicates()
        return self._weigh(counts)

    def _weigh(self, counts):
        """Return the TF-IDF rows of counts, each of length 1, as float32."""
        from scipy.sparse import csr_matrix

        columns = self._columns[counts.indices]
        kept = columns >= 0
        before = np.concatenate([[0], np.cumsum(kept)])
        columns = columns[kept]
        values = (1 + np.log(counts.data[kept])).astype(np.float32) * self._idf[columns]
        rows = csr_matrix(
            (values, columns, before[counts.indptr]), (counts.shape[0], len(self._idf))
        )
        lengths = np.sqrt(np.asarray(rows.multiply(rows).sum(axis=1))).ravel()
        rows.data /= np.repeat(np.where(lengths > 0, lengths, 1), np.diff(rows.indptr))
        return rows.astype(np.float32)

    def _hash(self):
        digest = hashlib.sha256(f"{KIND} {VERSION} {self.language} {self.dim}".encode())
        words = [self._words[name] for name in sorted(self._words)]
        for array in (*words, self._columns, self._idf, self._components):
            digest.update(np.ascontiguousarray(array).tobytes())
        return f"{self.name}-{digest.hexdigest()[:16]}"


def _decompose(rows, dim):
    """Return the first right singular vectors as columns: float32 of shape (terms, at most dim)."""
    from scipy.sparse.linalg import svds

    side = min(rows.shape)
    if side <= max(DENSE_SIDE, dim + 1):
        _, values, vectors = np.linalg.svd(rows.toarray().astype(np.float64), full_matrices=False)
    else:
        # A fixed start makes the iteration the same each time.
        start = np.random.default_rng(0).standard_normal(side)
        _, values, vectors = svds(rows.astype(np.float64), k=dim, v0=start)
        order = np.argsort(-values, kind="stable")
        values, vectors = values[order], vectors[order]
    rank = min(dim, int((values > 1e-6 * max(values.max(initial=0), 1e-300)).sum()))
    vectors = vectors[:rank]
    # A singular vector has no sign of its own: the largest component is made positive.
    largest = np.abs(vectors).argmax(axis=1)
    signs = np.sign(vectors[np.arange(rank), largest])
    return np.ascontiguousarray((vectors * signs[:, None]).T, dtype=np.float32)
