"""Data sets to measure on: the shipped ones by name, anyone's files by path."""

import logging
import os
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import numpy as np

from luma_lab.bench import beir, formats
from luma_lab.bench.truth import exact_neighbors, pair_distances, tie_scale
from luma_lab.errors import DimensionMismatch, InvalidArgument, NotFound, UnknownName
from luma_lab.types import METRICS

logger = logging.getLogger(__name__)

HELD_OUT_MOST = 1000  # recall to two digits needs no more, and the base should stay large
TRUTH_SAMPLE = 20  # queries whose neighbours in a file are recomputed before the file is believed
TRUTH_TOLERANCE = 1e-5  # the libraries behind such files rank by float32 products


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class Dataset:
    """Base vectors, queries that are not among them, and what is known about both.

    Rows of `base`, `ids`, `texts` and `metas` belong together, and so do rows of `queries`,
    `query_ids` and `query_texts`. Treat the arrays as read-only: `truth` is cached.

    Parameters
    ----------
    name : str
    metric : {"cosine", "dot", "l2"} or None without vectors
    base : array of shape (n, dim), optional
        Kept as float32. Text sets without vectors have None.
    queries : array of shape (n_queries, dim), optional
    texts, ids, metas : sequences of length n, optional
        Text, id (str) and meta (dict, holds the text too) of each base row.
    query_texts, query_ids : sequences of length n_queries, optional
    qrels : dict, optional
        ``qrels[query_id][id]`` is the relevance of a text; absent means not relevant.
    neighbors : int array of shape (n_queries, m), optional
        Claimed nearest rows, taken from a file; `truth` checks them before it uses them.

    Raises
    ------
    InvalidArgument, DimensionMismatch, UnknownName
        Arrays, lengths or the metric do not fit together.
    """

    name: str
    metric: str | None = None
    base: np.ndarray | None = None
    queries: np.ndarray | None = None
    texts: tuple | None = None
    ids: tuple | None = None
    query_texts: tuple | None = None
    qrels: dict | None = None
    query_ids: tuple | None = None
    metas: tuple | None = None
    neighbors: np.ndarray | None = None
    _truth: dict = field(default_factory=dict, init=False)

    def __post_init__(self):
        for part in ("base", "queries"):
            if getattr(self, part) is not None:
                vectors = formats.as_vectors(getattr(self, part), f"{self.name}: {part}")
                object.__setattr__(self, part, vectors)
        if self.base is not None and self.metric not in METRICS:
            raise UnknownName("metric", self.metric, METRICS)
        if self.queries is not None:
            if self.base is None:
                raise InvalidArgument(f"{self.name}: queries without a base to search")
            if self.queries.shape[1] != self.base.shape[1]:
                raise DimensionMismatch(
                    self.queries.shape[1], self.base.shape[1], f"the base of {self.name!r}"
                )
        if self.neighbors is not None:
            if self.queries is None:
                raise InvalidArgument(f"{self.name}: neighbors without queries")
            claimed = formats.as_neighbors(
                self.neighbors, len(self.base), len(self.queries), self.name
            )
            object.__setattr__(self, "neighbors", claimed)
        self._tie(("ids", "texts", "metas"), self.base, "base rows")
        self._tie(("query_ids", "query_texts"), self.queries, "queries")

    def _tie(self, parts, vectors, what):
        lengths = {} if vectors is None else {what: len(vectors)}
        for part in parts:
            values = getattr(self, part)
            if values is not None:
                object.__setattr__(self, part, tuple(values))
                lengths[part] = len(values)
        if len(set(lengths.values())) > 1:
            told = ", ".join(f"{count} {part}" for part, count in lengths.items())
            raise InvalidArgument(f"{self.name}: {told}; expected equally many")

    def truth(self, k=10):
        """Return the k exact nearest base rows of each query; ties go to the lower row.

        Computed once and kept; a smaller `k` is cut from a larger one. Neighbours that came
        with the file are used if they prove to be the nearest for a sample of the queries; of
        rows tied at rank k they may name another choice.

        Returns
        -------
        rows : int64 array of shape (n_queries, k), padded with -1 when k > n, read-only
        distances : float32 array of shape (n_queries, k), ascending, padded with inf, read-only

        Raises
        ------
        InvalidArgument
            k below 1, or the set has no vectors or no queries.
        """
        if self.base is None:
            raise InvalidArgument(f"data set {self.name!r} has texts but no vectors: no truth")
        if self.queries is None:
            raise InvalidArgument(f"data set {self.name!r} has no queries: no truth")
        if isinstance(k, bool) or not isinstance(k, int | np.integer) or k < 1:
            raise InvalidArgument(f"k is {k!r}; expected an integer of at least 1")
        known = self._truth.get("known")
        if known is None or known[0].shape[1] < k:
            known = self._given_truth(k)
            if known is None:
                known = exact_neighbors(self.base, self.queries, k, metric=self.metric)
            for array in known:
                array.flags.writeable = False
            self._truth["known"] = known
        return known[0][:, :k], known[1][:, :k]

    def _given_truth(self, k):
        """Return the claimed neighbours, sorted by exact distance, if they deserve it."""
        if self.neighbors is None or not k <= self.neighbors.shape[1] <= len(self.base):
            return None
        exact = pair_distances(self.base, self.queries, self.neighbors, self.metric)
        order = np.lexsort((self.neighbors, exact), axis=1)
        rows = np.take_along_axis(self.neighbors, order, 1)
        exact = np.take_along_axis(exact, order, 1)
        sample = np.unique(np.linspace(0, len(rows) - 1, TRUTH_SAMPLE).astype(int))
        width = rows.shape[1]
        asked = self.queries[sample]
        found, nearest = exact_neighbors(self.base, asked, width, metric=self.metric)
        scale = tie_scale(self.base, asked, found, nearest, self.metric)
        wrong = (np.abs(exact[sample] - nearest) > TRUTH_TOLERANCE * scale).any(axis=1)
        repeated = (np.diff(np.sort(rows, axis=1), axis=1) == 0).any(axis=1)
        if wrong.any() or repeated.any():
            query = int(sample[wrong.argmax()]) if wrong.any() else int(repeated.argmax())
            logger.warning(
                "%s: the neighbours in the file are not the nearest rows of query %d; "
                "computing them instead", self.name, query,
            )  # fmt: skip
            return None
        return rows, exact.astype(np.float32)

    def __repr__(self):
        told = [repr(self.name)]
        if self.base is not None:
            told += [f"metric={self.metric!r}", f"base={len(self.base)} x {self.base.shape[1]}"]
        if self.queries is not None:
            told.append(f"queries={len(self.queries)}")
        if self.texts is not None:
            told.append("texts" if self.base is not None else f"texts={len(self.texts)}")
        if self.qrels is not None:
            told.append("qrels")
        return f"Dataset({', '.join(told)})"


def names():
    """Return the names of the shipped data sets, sorted."""
    return sorted(_SHIPPED)


def load(name_or_path, metric=None, *, queries=None, split=None):
    """Load a shipped data set by name, vector files or a folder of judged texts by path.

    Parameters
    ----------
    name_or_path : str or path
        A name from :func:`names`, or a file: ``.npy``, ``.fvecs``, ``.bvecs``, ``.ivecs``,
        ``.fbin``, ``.u8bin``, ``.i8bin``, or ann-benchmarks' ``.hdf5``; or a folder in the
        layout of BEIR (``corpus.jsonl``, ``queries.jsonl``, ``qrels/test.tsv``): texts, judged
        queries and no vectors, see :func:`luma_lab.bench.beir.read_folder`.
    metric : {"cosine", "dot", "l2"}, optional
        Default: what the set or the HDF5 file says; "l2" for files that do not say.
    queries : path, optional
        File of the queries, in any of the formats but HDF5. Default: the file standing beside
        the base under the same name with ``query`` for ``base`` (``sift_base.fvecs`` and
        ``sift_query.fvecs``); without one, the last tenth of the rows, at most 1,000, become
        the queries and leave the base.
    split : str, optional
        Of a BEIR folder: which judgements. Default: ``qrels.tsv``, else ``qrels/test.tsv``,
        else the only ones.

    Returns
    -------
    Dataset
        Vectors as float32. Half-precision vectors under cosine are re-normalised, as float16
        rounds their lengths. ``lohelp300_en`` and ``lohelp300_es`` have texts only, a BEIR
        folder texts and judgements only.

    Raises
    ------
    UnknownName
        Neither a name nor a path, or an unknown metric.
    NotFound
        No such file.
    InvalidArgument
        A format that is not read here, or a malformed or truncated file.
    """
    if metric is not None and metric not in METRICS:
        raise UnknownName("metric", metric, METRICS)
    if not isinstance(name_or_path, str | os.PathLike):
        raise InvalidArgument(f"{name_or_path!r}: expected the name of a data set or a path")
    name = os.fspath(name_or_path)
    if split is not None and not beir.is_folder(name):
        raise InvalidArgument(f"split={split!r}: only a folder in the layout of BEIR has splits")
    if name in _SHIPPED:
        if queries is not None:
            raise InvalidArgument(f"data set {name!r} brings its own queries; got {queries!r}")
        return _SHIPPED[name](name, metric)
    path = Path(name_or_path)
    if path.suffix.lower() in formats.SUFFIXES:
        return _load_file(path, metric, queries)
    if beir.is_folder(path):
        for given, value in (("metric", metric), ("queries", queries)):
            if value is not None:
                raise InvalidArgument(
                    f"{path} holds texts and judged queries; got {given}={value!r}"
                )
        return Dataset(name=path.resolve().name, **beir.read_folder(path, split))
    if path.exists():
        raise InvalidArgument(
            f"{path}: can't load {'a folder' if path.is_dir() else repr(path.suffix)}; expected a "
            f"file of type {', '.join(formats.SUFFIXES)}, a folder with corpus.jsonl, or one of "
            f"{', '.join(names())}"
        )
    if path.suffix or path.name != name:
        raise NotFound(f"{path}: no such file, nor a shipped data set ({', '.join(names())})")
    raise UnknownName("data set", name, names())


def _load_file(path, metric, queries):
    if path.suffix.lower() in formats.HDF5:
        if queries is not None:
            raise InvalidArgument(f"{path} brings its own queries; got {os.fspath(queries)!r}")
        base, asked, neighbors, own_metric = formats.read_hdf5(path)
        if metric is None and own_metric is None:
            raise InvalidArgument(f"{path}: it names no distance; pass metric=")
        if metric is not None and metric != own_metric:
            neighbors = None
        return Dataset(
            name=path.stem, metric=metric or own_metric, base=base, queries=asked,
            neighbors=neighbors,
        )  # fmt: skip
    metric = metric or "l2"
    base = _read(path, metric)
    beside = queries if queries is not None else formats.query_sibling(path)
    if beside is not None:
        asked = _read(beside, metric)
    else:
        count = min(HELD_OUT_MOST, max(1, len(base) // 10))
        if len(base) <= count:
            raise InvalidArgument(f"{path}: one vector; expected at least 2, or pass queries=")
        base, asked = base[:-count], base[-count:]
    return Dataset(name=path.stem, metric=metric, base=base, queries=asked)


def _read(path, metric):
    vectors, half = formats.read_vectors(path)
    return _normalised(vectors) if half and metric == "cosine" else vectors


def _normalised(vectors):
    norms = np.sqrt(np.square(vectors, dtype=np.float64).sum(axis=1, keepdims=True))
    return (vectors / np.where(norms > 0, norms, 1.0)).astype(np.float32)


def _wordnet2k(name, metric):
    records = _records("wordnet2k", "wordnet2k.jsonl")
    vectors = _unit_vectors("wordnet2k", "wordnet2k_minilm.f16.npy")
    base, asked = records[:-200], records[-200:]
    return Dataset(
        name=name, metric=metric or "cosine", base=vectors[:-200], queries=vectors[-200:],
        query_texts=[r["text"] for r in asked], query_ids=[r["id"] for r in asked],
        **_texts(base),
    )  # fmt: skip


def _perlfaq(name, metric):
    asked = _records("perlfaq", "perlfaq_queries.jsonl")
    return Dataset(
        name=name, metric=metric or "cosine",
        base=_unit_vectors("perlfaq", "perlfaq_docs_minilm.f16.npy"),
        queries=_unit_vectors("perlfaq", "perlfaq_queries_minilm.f16.npy"),
        query_texts=[r["query"] for r in asked], query_ids=[r["qid"] for r in asked],
        qrels={r["qid"]: dict.fromkeys(r["relevant"], 1) for r in asked},
        **_texts(_records("perlfaq", "perlfaq_docs.jsonl")),
    )  # fmt: skip


def _lohelp300(name, metric):
    if metric is not None:
        raise InvalidArgument(f"data set {name!r} has texts but no vectors; got metric={metric!r}")
    return Dataset(name=name, **_texts(_records("lohelp300", f"{name}.jsonl")))


def _sift_cc0_8k(name, metric):
    vectors, _ = formats.read_vectors(_shipped_file("sift_cc0_8k", "sift_cc0_8k.u8.npy"))
    return Dataset(name=name, metric=metric or "l2", base=vectors[:-100], queries=vectors[-100:])


_SHIPPED = {
    "lohelp300_en": _lohelp300,
    "lohelp300_es": _lohelp300,
    "perlfaq": _perlfaq,
    "sift_cc0_8k": _sift_cc0_8k,
    "wordnet2k": _wordnet2k,
}


def _texts(records):
    return {
        "ids": [r["id"] for r in records],
        "texts": [r["text"] for r in records],
        "metas": [{part: value for part, value in r.items() if part != "id"} for r in records],
    }


def _unit_vectors(folder, file):
    return _normalised(formats.read_vectors(_shipped_file(folder, file))[0])


def _records(folder, file):
    path = _shipped_file(folder, file)
    try:
        return [msgspec.json.decode(line) for line in path.read_bytes().splitlines()]
    except msgspec.DecodeError as error:
        raise InvalidArgument(f"{path}: expected one JSON object a line ({error})") from None


def _shipped_file(folder, file):
    package = Path(__file__).resolve().parents[1]
    for root in (package / "_shipped" / "datasets", package.parent / "datasets"):
        if (root / folder / file).is_file():
            return root / folder / file
    raise NotFound(f"shipped data set file {folder}/{file} is missing: reinstall luma_lab")
