"""Index kinds of collections: with what each is built and searched, and how it is kept.

A kind is an object without state; an index in use is an `Attached`. Imports numba only where an
index is made or opened.
"""

from typing import Any

import numpy as np

from luma_lab.errors import CorruptStore, InvalidArgument, UnknownName

AUTO, FLAT = "auto", "flat"
# Beside the parameters in the catalog: who decided on the index, or that it was dropped.
BY, BY_CHOICE, BY_HAND, DROPPED = "_by", "choice", "hand", "dropped"
CODED_DIM = 17  # below, codes and their constants take no less room than float32
MAX_LIST_SIZE, MOST_ROWS = 65_535, 2**31 - 1
GRAPH = {"max_degree": 48, "build_list_size": 100, "alpha": 1.2, "seed": 0}


class Attached:
    """An index in use by a collection.

    Attributes
    ----------
    kind : str
    index : luma_lab.index.VamanaIndex, IVFIndex or DiskIndex
    lost : callable
        ``lost(error)`` is told when someone meets damage, and has the index built anew.
    has_walked : bool
        Whether it has answered without a filter in this process: its kernels are compiled then.
    """

    def __init__(self, kind, index, lost):
        self.kind, self.index, self.lost = kind, index, lost
        self.search = index.search
        self.has_walked = False
        self._fingerprint = None

    @property
    def fingerprint(self):
        """Hash of the index's bytes, read once: an attached index does not change.

        None where they turn out to be damaged.
        """
        if self._fingerprint is None:
            try:
                self._fingerprint = self.index.fingerprint
            except CorruptStore as error:
                self.lost(error)
        return self._fingerprint

    @property
    def memory_bytes(self):
        """Bytes held in memory beside the matrix."""
        return self.index.memory_bytes

    @property
    def total_rows(self):
        """Rows the index covers, dead ones too."""
        return self.index.total_rows


class Vamana:
    """A graph in memory that walks by codes; grows by the rows behind it."""

    name = "vamana"
    build_defaults = GRAPH
    search_defaults = {"search_list_size": 64}
    share_behind = 0.1
    most_growth = 2  # times: then it is built anew, for its codes keep their first rows' mean

    def check(self, params):
        """Raise unless the index takes these values, a dict of some of its parameters."""
        for name in ("max_degree", "build_list_size", "seed"):
            _check_int(params, name)
        check_list_size(params.get("search_list_size"), 1)
        self._new(1, "l2", {**self.build_defaults, **params}, 1)

    def options(self, row, asked, k):
        """Return the keywords of the index's search, from what is asked and what is stored."""
        size = asked.get("search_list_size") or row.params.get(
            "search_list_size", self.search_defaults["search_list_size"]
        )
        return {"search_list_size": max(size, k)}

    def range_options(self, row):
        """Return the keywords of the index's search by radius, from what is stored."""
        return self.options(row, {}, 1)

    def build(self, row, params, threads, vectors, path, progress):
        """Build an index of `vectors` (n, dim), save it in directory `path`, return it."""
        index = self._new(row.dim, row.metric, params, threads)
        index.build(vectors, progress=progress)
        self.save(index, path)
        return index

    def grown(self, index, params, vectors, live):
        """Return the index with the rows behind it, or None where to build it anew."""
        if len(vectors) > self.most_growth * index.total_rows:
            return None
        if any(getattr(index, name) != params[name] for name in self.build_defaults):
            return None
        return index.grown(vectors, live)

    def compacted(self, index, vectors, live):
        """Return the index of the live rows alone, which are `vectors`, or None: build it anew."""
        if 2 * len(vectors) < index.total_rows:
            return None  # most links are to be mended then, and fewer rows are sooner built
        return index.compacted(vectors, live)

    def save(self, index, path):
        """Save an index in directory `path`, without the vectors where codes stand for them."""
        index.save(path, vectors=index.quantizer is None)

    def load(self, path, vectors):
        """Return the index in directory `path`, over the matrix rows it was built of."""
        from luma_lab.index import VamanaIndex

        return VamanaIndex.load(path, vectors=vectors)

    def memory_of(self, rows, dim, params):
        """Return about how many bytes an index of so many rows holds beside the matrix."""
        row_bytes = dim + 16 if dim >= CODED_DIM else 4 * (dim + 15)
        return rows * (row_bytes + 4 * params["max_degree"] + 1)

    def _new(self, dim, metric, params, threads):
        from luma_lab.index import VamanaIndex

        return VamanaIndex(
            dim,
            metric,
            **{name: params[name] for name in self.build_defaults},
            quantizer="q8" if dim >= CODED_DIM else None,
            threads=threads,
        )


class Ivf(Vamana):
    """Cells of k-means in memory; grows by the rows behind it."""

    name = "ivf"
    build_defaults = {"nlist": None, "seed": 0}
    search_defaults = {"nprobe": 16, "rerank": None}

    def check(self, params):
        """As `Vamana.check`."""
        check_count("nprobe", params.get("nprobe"), 1, MOST_ROWS)
        check_count("rerank", params.get("rerank"), 1, MOST_ROWS)
        for name in ("nlist", "seed"):
            _check_int(params, name)
        self._new(1, "l2", {**self.build_defaults, **params}, 1)

    def options(self, row, asked, k):
        """As `Vamana.options`."""
        nprobe = asked.get("nprobe") or row.params.get("nprobe", self.search_defaults["nprobe"])
        rerank = asked.get("rerank") or row.params.get("rerank")
        return {"nprobe": nprobe, "rerank": None if rerank is None else max(rerank, k)}

    def range_options(self, row):
        """As `Vamana.range_options`: what may be within is measured exactly, however much."""
        return {"nprobe": self.options(row, {}, 1)["nprobe"]}

    def compacted(self, index, vectors, live):
        """As `Vamana.compacted`."""
        return index.compacted(vectors, live)

    def load(self, path, vectors):
        """As `Vamana.load`."""
        from luma_lab.index import IVFIndex

        return IVFIndex.load(path, vectors=vectors)

    def memory_of(self, rows, dim, params):
        """As `Vamana.memory_of`."""
        row_bytes = dim + 16 if dim >= CODED_DIM else 4 * dim
        cells = params.get("nlist") or max(1, min(int(4 * rows**0.5), rows // 16))
        slots = rows + 8 * cells  # cells end in whole blocks of 16
        return slots * (row_bytes + 4) + rows + cells * (5 * dim + 60)

    def _new(self, dim, metric, params, threads):
        from luma_lab.index import IVFIndex

        return IVFIndex(
            dim,
            metric,
            **{name: params[name] for name in self.build_defaults},
            quantizer="q8" if dim >= CODED_DIM else None,
            threads=threads,
        )


class DiskAnn(Vamana):
    """A graph on disk with codes in memory; built anew where rows come or go."""

    name = "diskann"
    build_defaults = {**GRAPH, "search_memory_bytes": None, "build_memory_bytes": None}
    search_defaults = {"search_list_size": 64, "beam_width": 4}
    share_behind = 0.25  # a whole build is dear: five are paid in all while rows come

    def check(self, params):
        """As `Vamana.check`."""
        super().check({n: v for n, v in params.items() if n in VAMANA_NAMES})
        check_count("beam_width", params.get("beam_width"), 1, 256)
        for name in ("search_memory_bytes", "build_memory_bytes"):
            check_count(name, params.get(name), 1)

    def _new(self, dim, metric, params, threads):
        return Vamana._new(KINDS["vamana"], dim, metric, params, threads)

    def options(self, row, asked, k):
        """As `Vamana.options`."""
        width = row.params.get("beam_width", self.search_defaults["beam_width"])
        return {**super().options(row, asked, k), "beam_width": width}

    def build(self, row, params, threads, vectors, path, progress):
        """As `Vamana.build`."""
        from luma_lab.index import DiskIndex

        return DiskIndex.build(
            vectors,
            path,
            metric=row.metric,
            **{name: params[name] for name in self.build_defaults},
            threads=threads,
            progress=progress,
        )

    def grown(self, index, params, vectors, live):
        """As `Vamana.grown`."""
        return None

    def compacted(self, index, vectors, live):
        """As `Vamana.compacted`: a graph on disk can't be mended."""
        return None

    def load(self, path, vectors):
        """As `Vamana.load`."""
        from luma_lab.index import DiskIndex

        return DiskIndex.open(path)

    def memory_of(self, rows, dim, params):
        """As `Vamana.memory_of`."""
        return params.get("search_memory_bytes") or rows * (dim + 18)


KINDS = {kind.name: kind for kind in (Vamana(), Ivf(), DiskAnn())}
NAMES = (AUTO, FLAT, *KINDS)
VAMANA_NAMES = (*GRAPH, *Vamana.search_defaults)


def names_of(kind):
    """Return the parameters that an index kind takes; for "auto" those of all kinds."""
    if kind == AUTO:
        return tuple(dict.fromkeys(n for k in KINDS for n in names_of(k)))
    if kind == FLAT:
        return ()
    return (*KINDS[kind].build_defaults, *KINDS[kind].search_defaults)


def defaults_of(kind):
    """Return every parameter of a kind with its default; "auto" and "flat" show the graph's."""
    shown = KINDS["vamana" if kind in (AUTO, FLAT) else kind]
    return {**shown.build_defaults, **shown.search_defaults}


def check_kind(kind):
    """Raise unless `kind` names an index kind."""
    if kind not in NAMES:
        raise UnknownName("index kind", kind, NAMES)


def check_params(params, kind=AUTO):
    """Return index parameters as a plain dict without Nones.

    Raises
    ------
    UnknownName
        No kind has such a parameter.
    InvalidArgument
        `kind` does not take one, or not such a value.
    """
    if not isinstance(params, dict):
        raise InvalidArgument(f"params is {params!r}: expected a dict")
    for name in params:
        if name not in names_of(AUTO):
            raise UnknownName("index parameter", name, names_of(AUTO))
        if name not in names_of(kind):
            takes = ", ".join(names_of(kind)) or "no parameters"
            raise InvalidArgument(f"{name} does not fit index kind {kind!r}: it takes {takes}")
    params = {
        name: value.item() if isinstance(value, np.generic) else value
        for name, value in params.items()
        if value is not None
    }
    for each in KINDS.values():
        if kind in (AUTO, each.name):
            fitting = fitting_params(params, each.name)
            if fitting:
                each.check(fitting)
    return params


def fitting_params(params, kind):
    """Return those of `params` that a kind takes."""
    names = names_of(kind)
    return {name: value for name, value in params.items() if name in names}


def check_list_size(size, k):
    """Raise unless `size` is None or an int that can hold the `k` answers."""
    if size is None:
        return
    if isinstance(size, bool) or not isinstance(size, (int, np.integer)):
        raise InvalidArgument(f"search_list_size is {size!r}: expected an int")
    if not max(1, k) <= size <= MAX_LIST_SIZE:
        raise InvalidArgument(
            f"search_list_size is {size}: expected at least k = {k} and at most {MAX_LIST_SIZE}"
        )


def check_count(name, value: Any, least, most=2**63 - 1):
    """Raise unless `value` is None or an int from `least` to `most`."""
    if value is None:
        return
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)):
        raise InvalidArgument(f"{name} is {value!r}: expected an int")
    if not least <= value <= most:
        limits = f"at least {least}" if most == 2**63 - 1 else f"from {least} to {most}"
        raise InvalidArgument(f"{name} is {value}: expected {limits}")


def _check_int(params, name):
    if name in params and type(params[name]) is not int:
        raise InvalidArgument(f"{name} is {params[name]!r}: expected an int")
