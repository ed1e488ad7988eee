"""What the layers above a walk cost: the index around its kernel, the collection around its index.

Each layer answers all queries in turn, round by round, so that the difference of two layers in
one round tells what the upper adds, whatever else the machine does.

Run as a program: ``python -m luma_lab.bench.overhead``.
"""

import statistics
import sys
import time

import numpy as np

from luma_lab import codec
from luma_lab.engine.lab import Lab
from luma_lab.index.graph import LEAST_FITTING, NO_MASK
from luma_lab.index.rows import read_only

SIZES = ((5000, 64), (60_000, 384))
REAL_DIM = 24  # of the made vectors: like embeddings, they lie near a flatter space
LIST_SIZE = 64
# Each layer, and the one below it that it is held against.
BELOW = {
    "index": "kernel",
    "null_meta": "index",
    "meta": "index",
    "filter": "index_filter",
    "meta_first": "index",
}


def measure(rows=5000, dim=64, k=10, queries=300, *, rounds=7):
    """Return a dict of medians in microseconds, one query at a time.

    Parameters
    ----------
    rows, dim : int
        Of a collection with a Vamana index, more than 16 components.

    Returns
    -------
    dict
        ``kernel_us``, ``index_us`` (`VamanaIndex.search`), ``null_meta_us`` and ``meta_us``
        (`Collection.search` of points without and with a meta of three fields),
        ``meta_first_us`` (with nothing kept in memory of the points), ``index_filter_us`` and
        ``filter_us`` (a tenth of the rows match); with ``_over_`` what one layer adds to
        another.
    """
    vectors, asked = made_vectors(rows, dim, queries)
    metas = [{"year": 1900 + i % 120, "title": f"number {i}", "tenth": i % 10} for i in range(rows)]
    with Lab(":memory:") as lab:
        plain, full = (lab.create_collection(name, dim, "cosine") for name in ("plain", "full"))
        for start in range(0, rows, 2000):
            part = slice(start, min(rows, start + 2000))
            ids = [f"doc-{i}" for i in range(part.start, part.stop)]
            plain.upsert(ids, vectors[part])
            full.upsert(ids, vectors[part], metas[part])
        for docs in (plain, full):
            docs.build_index("vamana").result()
        layers = _layers(lab, plain, full, k)
        times = {name: [] for name in layers}
        for call in layers.values():
            _median(call, asked)
        for _ in range(rounds):
            for name, call in layers.items():
                times[name].append(_median(call, asked))
    figures = {f"{name}_us": statistics.median(values) for name, values in times.items()}
    for name, lower in BELOW.items():
        figures[f"{name}_over_{lower}_us"] = statistics.median(
            a - b for a, b in zip(times[name], times[lower], strict=True)
        )
    return {"rows": rows, "dim": dim, "k": k, **figures}


def made_vectors(rows, dim, queries, seed=0):
    """Return float32 vectors (rows, dim) and queries (queries, dim) of `REAL_DIM` real dimensions.

    Some noise in all `dim` is added.
    """
    chance = np.random.default_rng(seed)
    spread = chance.normal(size=(min(dim, REAL_DIM), dim))
    few = chance.normal(size=(rows + queries, len(spread)))
    both = few @ spread + 0.5 * chance.normal(size=(rows + queries, dim))
    both = both.astype(np.float32)
    return both[:rows], both[rows:]


def _layers(lab, plain, full, k):
    """Return a dict from the name of a layer to what asks it one query, the lowest first."""
    follower = lab._parts.follower
    # The very index the collection walks: building another would take minutes.
    index = follower.snapshot(full.name).index.index
    mask = np.arange(index.total_rows) % 10 == 0
    chosen = np.flatnonzero(mask)
    size = {"search_list_size": LIST_SIZE}
    tenth = {"tenth": 0}

    def forgetful(query):
        points = follower.snapshot(full.name).points
        known = points.young, points.old
        points.clear()
        began = time.perf_counter()
        full.search(query, k)
        spent = time.perf_counter() - began
        points.young, points.old = known  # the other layers are to find them again
        return spent

    return {
        "kernel": _kernel_call(index, k),
        "index": lambda query: index.search(query, k, **size),
        "null_meta": lambda query: plain.search(query, k),
        "meta": lambda query: full.search(query, k),
        "meta_first": forgetful,
        "index_filter": lambda query: index.search(query, k, rows=chosen, **size),
        "filter": lambda query: full.search(query, k, filter=tenth),
    }


def _kernel_call(index, k):
    """Return what walks for one query and nothing else, with all arguments at hand."""
    graph = index._graph
    nodes, scratch = graph.nodes, graph.scratches.take()
    answer = np.empty((1, k), np.int64), np.empty((1, k), np.float32), np.zeros((1, 4), np.int64)
    prepared = {}

    def walk(query):
        place = query.ctypes.data
        ready = prepared.get(place)
        if ready is None:
            ready = prepared[place] = read_only(query[None])
        began = time.perf_counter()
        nodes.walk(
            ready, graph.neighbors, graph.entry, NO_MASK, 0, LEAST_FITTING, LIST_SIZE, scratch,
            answer,
        )  # fmt: skip
        return time.perf_counter() - began

    return walk


def _median(call, asked):
    """Return the median time of a call in microseconds; one that times itself returns it."""
    times = []
    for query in asked:
        began = time.perf_counter()
        told = call(query)
        times.append(told if type(told) is float else time.perf_counter() - began)
    return statistics.median(times) * 1e6


if __name__ == "__main__":
    for rows, dim in SIZES:
        sys.stdout.buffer.write(codec.encode(measure(rows, dim)) + b"\n")
