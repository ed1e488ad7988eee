"""Other libraries' indexes under our `search`, so that the same trials measure them.

Each is imported when it is built; one that is not installed says how to get it. Parameters are
those their authors recommend for some hundred thousand vectors.
"""

import os
import tempfile
from typing import NamedTuple

import numpy as np

from luma_lab.errors import Unavailable

LIST_SIZES = (10, 16, 24, 32, 48, 64, 96, 128, 192, 256)
PROBES = (1, 2, 4, 8, 12, 16, 24, 32, 48, 64, 96, 128)


class Answer(NamedTuple):
    """What a `Trial` reads: int64 rows of shape (n_queries, k)."""

    rows: np.ndarray


class Luma:
    """Our own index, `VamanaIndex` or `FlatIndex`."""

    knob, values = "search_list_size", LIST_SIZES

    def __init__(self, kind, **parameters):
        self._kind, self._parameters = kind, parameters

    def build(self, base, metric, threads):
        """Build from float32 rows (n, dim)."""
        from luma_lab import index

        made = getattr(index, self._kind)(base.shape[1], metric, **self._parameters)
        if hasattr(made, "threads"):
            made.threads = threads
        self.index = made.build(base)
        self.memory_bytes = made.memory_bytes

    def search(self, queries, k, threads=1, **setting):
        """Return the `Answer`."""
        return self.index.search(queries, k=k, threads=threads, **setting)


class LumaFlat(Luma):
    """Our exact scan."""

    knob, values = None, (None,)


class LumaIVF(Luma):
    """Our cells of codes."""

    knob, values = "nprobe", PROBES


class Hnswlib:
    """hnswlib, M 16, efConstruction 200."""

    knob, values = "ef", LIST_SIZES

    def build(self, base, metric, threads):
        """Build from float32 rows (n, dim)."""
        hnswlib = _import("hnswlib", "pip install hnswlib (needs a C++ compiler)")
        space = {"l2": "l2", "cosine": "cosine", "dot": "ip"}[metric]
        self._index = hnswlib.Index(space, base.shape[1])
        self._index.init_index(len(base), M=16, ef_construction=200)
        self._index.add_items(base, num_threads=threads)
        self.memory_bytes = _saved_bytes(self._index.save_index)

    def search(self, queries, k, threads=1, ef=64):
        """Return the `Answer`."""
        self._index.set_ef(max(ef, k))
        return Answer(self._index.knn_query(queries, k, num_threads=threads)[0].astype(np.int64))


class Faiss:
    """A faiss index by its factory text; ``{nlist}`` stands for about 4 sqrt(n) cells.

    Parameters
    ----------
    factory : str
    knob : {"efSearch", "nprobe"}
    """

    def __init__(self, factory, knob):
        self._factory, self.knob = factory, knob
        self.values = LIST_SIZES if knob == "efSearch" else PROBES

    def build(self, base, metric, threads):
        """Build from float32 rows (n, dim); of length one under "cosine"."""
        self._faiss = faiss = _import("faiss", "pip install faiss-cpu")
        self._unit = metric == "cosine"
        base = _unit(base) if self._unit else base
        kind = faiss.METRIC_L2 if metric == "l2" else faiss.METRIC_INNER_PRODUCT
        factory = self._factory.format(nlist=max(1, int(4 * len(base) ** 0.5)))
        faiss.omp_set_num_threads(threads)
        self._index = faiss.index_factory(base.shape[1], factory, kind)
        if self.knob == "efSearch":
            self._index.hnsw.efConstruction = 200
        self._index.train(base)
        self._index.add(base)
        self.memory_bytes = len(faiss.serialize_index(self._index))

    def search(self, queries, k, threads=1, **setting):
        """Return the `Answer`."""
        self._faiss.omp_set_num_threads(threads)
        target = self._index.hnsw if self.knob == "efSearch" else self._index
        for name, value in setting.items():
            setattr(target, name, max(value, k) if name == "efSearch" else value)
        return Answer(self._index.search(_unit(queries) if self._unit else queries, k)[1])


class Usearch:
    """usearch, connectivity 16, expansion 200."""

    knob, values = "expansion", LIST_SIZES

    def build(self, base, metric, threads):
        """Build from float32 rows (n, dim)."""
        usearch = _import("usearch.index", "pip install usearch")
        kind = {"l2": "l2sq", "cosine": "cos", "dot": "ip"}[metric]
        self._index = usearch.Index(
            ndim=base.shape[1], metric=kind, connectivity=16, expansion_add=200
        )
        self._index.add(np.arange(len(base)), base, threads=threads)
        self.memory_bytes = _saved_bytes(self._index.save)

    def search(self, queries, k, threads=1, expansion=64):
        """Return the `Answer`."""
        self._index.expansion_search = max(expansion, k)
        keys = self._index.search(queries, k, threads=threads).keys
        return Answer(np.atleast_2d(keys).astype(np.int64))


class Svs:
    """Intel's scalable-vs: a Vamana graph of degree 32 over LVQ codes.

    Parameters
    ----------
    primary, residual : int
        Bits of the two levels.
    """

    knob, values = "window", LIST_SIZES

    def __init__(self, primary, residual):
        self._bits = primary, residual

    def build(self, base, metric, threads):
        """Build from float32 rows (n, dim); of length one under "cosine"."""
        svs = _import("svs", "pip install scalable-vs")
        self._unit = metric == "cosine"
        base = _unit(base) if self._unit else base
        kind = svs.DistanceType.L2 if metric == "l2" else svs.DistanceType.MIP
        alpha = 1.2 if metric == "l2" else 0.95
        parameters = svs.VamanaBuildParameters(alpha=alpha, graph_max_degree=32, window_size=128)
        with tempfile.TemporaryDirectory() as home:
            file = os.path.join(home, "base.fvecs")
            svs.write_vecs(base, file)
            loader = svs.VectorDataLoader(file, svs.DataType.float32, dims=base.shape[1])
            codes = svs.LVQLoader(loader, primary=self._bits[0], residual=self._bits[1])
            self._index = svs.Vamana.build(parameters, codes, kind, num_threads=threads)
            folders = [os.path.join(home, name) for name in "cgv"]
            self._index.save(*folders)
            self.memory_bytes = sum(
                os.path.getsize(os.path.join(folder, name))
                for folder in folders
                for name in os.listdir(folder)
            )

    def search(self, queries, k, threads=1, window=64):
        """Return the `Answer`."""
        self._index.search_window_size = max(window, k)
        if self._index.num_threads != threads:
            self._index.num_threads = threads
        rows, _ = self._index.search(_unit(queries) if self._unit else queries, k)
        return Answer(np.atleast_2d(rows).astype(np.int64))


ENGINES = {
    "vamana": lambda: Luma("VamanaIndex"),
    "vamana-r32": lambda: Luma("VamanaIndex", max_degree=32, build_list_size=75),
    "vamana-f32": lambda: Luma("VamanaIndex", quantizer=None),
    "ivf": lambda: LumaIVF("IVFIndex"),
    "flat": lambda: LumaFlat("FlatIndex"),
    "hnswlib": Hnswlib,
    "faiss-hnsw": lambda: Faiss("HNSW16", "efSearch"),
    "faiss-ivf-sq8": lambda: Faiss("IVF{nlist},SQ8", "nprobe"),
    "faiss-ivf-flat": lambda: Faiss("IVF{nlist},Flat", "nprobe"),
    "usearch": Usearch,
    "svs-lvq8": lambda: Svs(8, 0),
    "svs-lvq4x8": lambda: Svs(4, 8),
}


def _import(name, install):
    import importlib

    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise Unavailable(f"{name} is not installed: {install}") from error


def _unit(rows):
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    return np.ascontiguousarray(rows / np.maximum(lengths, np.finfo(np.float32).tiny))


def _saved_bytes(save):
    with tempfile.TemporaryDirectory() as home:
        file = os.path.join(home, "index")
        save(file)
        return os.path.getsize(file)
