"""Filtered search: ways to answer it, at several selectivities, and faiss beside them.

A filter is a set of rows that may be answered. It lets rows pass at random, or mostly such as are
near to the query, or only such as are far from it. Ours answers as `VamanaIndex.search` plans it,
and by each of its two ways alone: the scan of the codes of matching rows, and the walk.

Run as a program: ``python -m luma_lab.bench.filterbench wordnet2k``, or with a path as
:func:`luma_lab.bench.load` takes it, then the metric, then how many rows to use at most.
"""

import math
import sys
import time

import numpy as np

from luma_lab import codec
from luma_lab.bench.compare import _cores, qps_at
from luma_lab.bench.datasets import Dataset, load
from luma_lab.bench.measure import TIE_TOLERANCE, check_count
from luma_lab.bench.peers import ENGINES
from luma_lab.bench.truth import pair_distances, tie_scale
from luma_lab.errors import InvalidArgument, UnknownName

SELECTIVITIES = (0.5, 0.1, 0.01, 0.001, 0.0001)
CORRELATIONS = ("none", "near", "far")
WAYS = ("planned", "scan", "walk", "faiss-hnsw")
LIST_SIZES = (10, 16, 24, 32, 48, 64)
LONGEST = 8192  # of the lists of walks, ours or theirs
FAISS_SIZES = (16, 32, 64, 128, 256, 512, 1024, 2048, 4096)
GOAL = 0.95


def measure(
    data, *, k=10, selectivities=SELECTIVITIES, correlations=CORRELATIONS, ways=WAYS, rounds=3,
    queries=50, index=None,
):  # fmt: skip
    """Return a DataFrame: one row a filter, a way to answer and its setting.

    Parameters
    ----------
    data : Dataset
    selectivities : sequence of float
        Shares of the rows that match.
    correlations : sequence of {"none", "near", "far"}
        "near": of the nearest rows, twice as many as match, any half matches. "far": rows
        beyond the median distance match. Then each query has a filter of its own.
    ways : sequence of {"planned", "scan", "walk", "faiss-hnsw"}
        The last is faiss' HNSW graph with a bitmap of rows to select.
    rounds : int
        Each visits every way and setting of a filter once; the median counts.
    queries : int
        How many to ask, the first ones.
    index : VamanaIndex, optional
        Built from `data.base`; by default it is built here.

    Returns
    -------
    pandas.DataFrame
        Columns selectivity, correlation, way, value (list size; 0 without one), recall (ties by
        distance), qps (queries a second of this thread's CPU time), full (share of the queries
        that got min(k, matches) rows). ``table.attrs["at"]`` is a DataFrame with the queries a
        second of each way at a recall of 0.95, nan where it is not reached.

    Raises
    ------
    InvalidArgument, UnknownName
    Unavailable
        faiss is not installed.
    """
    import pandas

    check_count("rounds", rounds)
    check_count("queries", queries)
    for given, known, what in ((correlations, CORRELATIONS, "correlation"), (ways, WAYS, "way")):
        for name in given:
            if name not in known:
                raise UnknownName(what, name, known)
    if not all(0 < share <= 1 for share in selectivities):
        raise InvalidArgument(f"selectivities are {selectivities}: expected shares above 0, to 1")
    asked = np.ascontiguousarray(data.queries[:queries], np.float32)
    base = np.ascontiguousarray(data.base, np.float32)
    base.flags.writeable = False
    everything = np.broadcast_to(np.arange(len(base)), (len(asked), len(base)))
    far = pair_distances(base, asked, everything, data.metric)
    answers = _ways(base, data.metric, k, ways, index)
    rows = []
    for correlation in correlations:
        order = np.argsort(far, axis=1) if correlation != "none" else None
        for share in selectivities:
            chosen = _filters(order, far.shape, share, correlation)
            limits = [_limit(base, asked, far, i, rows, k, data) for i, rows in enumerate(chosen)]
            trials = [
                (way, value, call, [])
                for way, values, make in answers
                for value in values(share)
                for call in [make(value)]
            ]
            for turn in range(rounds):
                # Nobody comes always behind the one that sweeps the cache.
                first = turn * len(trials) // rounds
                for _, _, call, times in trials[first:] + trials[:first]:
                    found, seconds = _ask(call, asked, chosen)
                    times.append(seconds)
                    call.found = found
            for way, value, call, times in trials:
                recall, full = _quality(call.found, far, chosen, limits, k)
                rows.append(
                    {
                        "selectivity": share, "correlation": correlation, "way": way,
                        "value": value, "recall": recall,
                        "qps": len(asked) / float(np.median(times)), "full": full,
                    }
                )  # fmt: skip
    table = pandas.DataFrame(rows)
    groups = table.groupby(["correlation", "selectivity"], sort=False)
    table.attrs = {
        "dataset": data.name,
        "k": k,
        "at": pandas.DataFrame(
            {key: {w: qps_at(part[part.way == w], GOAL) for w in ways} for key, part in groups}
        ).T,
    }
    return table


class _Call:
    """A way with a setting: ``prepare(rows)`` untimed, then ``ask(query, prepared)``."""

    def __init__(self, prepare, ask):
        self.prepare, self.ask = prepare, ask
        self.found = None


def _ways(base, metric, k, ways, index):
    """Return a list of (way, values for a selectivity, value to `_Call`)."""
    from luma_lab.index import VamanaIndex
    from luma_lab.index.rows import read_only

    graph, made = None, []
    if set(ways) - {"faiss-hnsw"}:
        index = index or VamanaIndex(base.shape[1], metric).build(base)
        graph = index._graph

    def planned(value):
        return _Call(
            lambda rows: rows,
            lambda query, rows: index.search(query, k, search_list_size=value, rows=rows).rows[0],
        )

    def scan(value):
        def ask(query, rows):
            return graph.nodes.scan(graph.nodes.prepare(query[None]), k, rows, 1)[0][0]

        return _Call(read_only, ask)

    def walk(value):
        def prepare(rows):
            mask = np.zeros(len(base), bool)
            mask[rows] = True
            return read_only(mask)

        def ask(query, mask):
            queries = graph.nodes.prepare(query[None])
            return graph._walk(queries, k, min(LONGEST, len(base)), 1, mask, value)[0][0]

        return _Call(prepare, ask)

    def short_enough(share):
        return [size for size in LIST_SIZES if size >= k and size / share <= LONGEST]

    for way in ways:
        if way == "planned":
            made.append((way, lambda share: [size for size in LIST_SIZES if size >= k], planned))
        elif way == "scan":
            made.append((way, lambda share: [0], scan))
        elif way == "walk":
            made.append((way, short_enough, walk))
        else:
            made.append((way, lambda share: FAISS_SIZES, _faiss(base, metric, k)))
    return made


def _faiss(base, metric, k):
    engine = ENGINES["faiss-hnsw"]()
    engine.build(base, metric, _cores())
    faiss, theirs = engine._faiss, engine._index
    faiss.omp_set_num_threads(1)

    def make(value):
        def prepare(rows):
            mask = np.zeros(len(base), bool)
            mask[rows] = True
            bits = np.packbits(mask, bitorder="little")
            selector = faiss.IDSelectorBitmap(bits)
            how = faiss.SearchParametersHNSW(sel=selector, efSearch=max(value, k))
            return how, selector, bits  # faiss keeps pointers only

        def ask(query, prepared):
            return theirs.search(query[None], k, params=prepared[0])[1][0]

        return _Call(prepare, ask)

    return make


def _filters(order, shape, share, correlation, seed=0):
    """Return a list of ascending read-only row arrays, one for each query."""
    chance = np.random.default_rng(seed)
    count, (queries, total) = max(1, math.ceil(share * shape[1])), shape
    if correlation == "none":
        chosen = [np.sort(chance.permutation(total)[:count])] * queries
    elif correlation == "near":
        chosen = [np.sort(chance.permutation(near[: 2 * count])[:count]) for near in order]
    else:
        chosen = [np.sort(chance.permutation(near[total // 2 :])[:count]) for near in order]
    for rows in chosen:
        rows.setflags(write=False)
    return chosen


def _limit(base, asked, far, i, rows, k, data):
    """Return the distance up to which a row counts as one of the k nearest that match."""
    wanted = min(k, len(rows))
    last = rows[np.argpartition(far[i, rows], wanted - 1)[wanted - 1]]
    kth = far[i, last]
    place = np.array([[last]])
    scale = tie_scale(base, asked[i : i + 1], place, np.array([[kth]]), data.metric)[0, 0]
    return kth + TIE_TOLERANCE * scale


def _ask(call, asked, chosen):
    """Return (answers, seconds of CPU time) of all queries, each with its filter."""
    found, seconds = [], 0.0
    prepared, of = None, None
    for query, rows in zip(asked, chosen, strict=True):
        if rows is not of:  # what a filter costs once is not what a query costs
            prepared, of = call.prepare(rows), rows
            call.ask(query, prepared)
        began = time.thread_time()
        answer = call.ask(query, prepared)
        seconds += time.thread_time() - began
        found.append(answer)
    return found, max(seconds - len(asked) * _clock_seconds(), 1e-9)


def _clock_seconds(reads=200):
    """Return what a pair of readings of the clock takes: it is no part of an answer."""
    taken = []
    for _ in range(reads):
        began = time.thread_time()
        taken.append(time.thread_time() - began)
    return float(np.median(taken))


def _quality(found, far, chosen, limits, k):
    """Return (mean recall, share of the queries with as many rows as there can be)."""
    recalls, full = [], 0
    for i, (answer, rows, limit) in enumerate(zip(found, chosen, limits, strict=True)):
        wanted = min(k, len(rows))
        answer = np.unique(answer[answer >= 0])
        if not np.isin(answer, rows).all():
            raise InvalidArgument(f"query {i} was answered with rows that do not match")
        recalls.append((far[i, answer] <= limit).sum() / wanted)
        full += len(answer) == wanted
    return float(np.mean(recalls)), full / len(found)


def _main(arguments):
    name, metric = arguments[0], arguments[1] if len(arguments) > 1 else None
    data = load(name, metric)
    if len(arguments) > 2:
        data = Dataset(
            name=data.name, metric=data.metric, base=data.base[: int(arguments[2])],
            queries=data.queries,
        )  # fmt: skip
    table = measure(data)
    for line in table.to_dict("records"):
        sys.stdout.buffer.write(codec.encode(line) + b"\n")
    sys.stdout.buffer.write(table.attrs["at"].round(0).to_string().encode() + b"\n")


if __name__ == "__main__":
    _main(sys.argv[1:] or ["wordnet2k"])
