"""One setting of one index, measured: how good, how fast, how much work."""

import gc
import time

import numpy as np

from luma_lab.bench.truth import pair_distances, tie_scale
from luma_lab.errors import InvalidArgument

MEASURES = (
    "recall", "qps", "p50_ms", "p99_ms", "hops", "comparisons", "reads", "memory_bytes",
)  # fmt: skip
TIE_TOLERANCE = 1e-6  # some ten float32 roundings: nearer than that an index can't tell rows apart


def recall(found, data, *, k=10, per_query=False):
    """Return the share of the k nearest rows that an answer holds, ties counted fairly.

    A row counts if its exact distance, recomputed from `data.base`, is at most that of the
    k-th true neighbour plus 1e-6 of the scale (l2: that distance; cosine: 1; dot: the product
    of the two lengths). So any choice among rows tied at rank k is right. A row named twice
    counts once, padding (-1) not at all. When k exceeds the rows, all rows are wanted.

    Parameters
    ----------
    found : Neighbors, or int array of shape (n_queries, at least k)
        Answers of an index built from `data.base` in its order, to `data.queries`.
    data : Dataset
    k : int
    per_query : bool
        Return a float64 array of shape (n_queries,) instead of its mean.

    Raises
    ------
    InvalidArgument
        `found` has another shape or names rows that do not exist.
    """
    true_rows, _ = data.truth(k)
    wanted = min(k, len(data.base))
    rows = _checked_rows(getattr(found, "rows", found), data, wanted)[:, :k]
    last = true_rows[:, wanted - 1 : wanted]
    kth = pair_distances(data.base, data.queries, last, data.metric)
    limit = kth + TIE_TOLERANCE * tie_scale(data.base, data.queries, last, kth, data.metric)
    good = pair_distances(data.base, data.queries, rows, data.metric) <= limit
    ordered = np.sort(np.where(good, rows, -1), axis=1)
    first = np.diff(ordered, axis=1, prepend=-1) > 0
    shares = first.sum(axis=1) / wanted
    return shares if per_query else float(shares.mean())


def measure(
    index, data, *, k=10, rounds=3, warm=True, threads=1, batch=False, **search_params
):  # fmt: skip
    """Search all queries of a data set with one setting and say how it went.

    Parameters
    ----------
    index : object with ``search(queries, k=..., **search_params) -> Neighbors``
        Built from `data.base` in its order.
    data : Dataset
    k, rounds : int
    warm : bool
        Search everything once untimed first, so that compiling and page faults do not count.
    threads : int
        More than 1 needs ``batch=True`` and is handed to the index.
    batch : bool
        One call with all queries, instead of one call a query.
    search_params
        Handed to the index as they are.

    Returns
    -------
    dict
        The search parameters, then ``recall`` (see :func:`recall`), ``qps`` (queries a second
        of wall time), ``p50_ms`` and ``p99_ms`` (latency of a query in milliseconds; nan with
        `batch`, where no single query is seen), ``hops``, ``comparisons`` and ``reads`` (means
        a query; nan if the index does not tell), ``memory_bytes`` (None if it does not tell).
        Times are medians over the rounds.

    Raises
    ------
    InvalidArgument
        A bad number, a data set without vectors or queries, or whatever the index refuses.
    """
    trial = Trial(index, data, k, threads, batch, search_params)
    check_count("rounds", rounds)
    for _ in range(rounds):
        trial.run(warm)
    return trial.summary()


class Trial:
    """One setting under measurement: run it round by round, then ask for the summary."""

    def __init__(self, index, data, k, threads, batch, search_params):
        check_count("k", k)
        check_count("threads", threads)
        if threads > 1 and not batch:
            raise InvalidArgument(f"threads is {threads}; one query at a time uses 1: pass batch")
        if not callable(getattr(index, "search", None)):
            raise InvalidArgument(f"index is {index!r}; expected an object with a search method")
        taken = sorted(set(search_params) & {*MEASURES, "memory", "k", "threads"})
        if taken:
            raise InvalidArgument(f"search parameter {taken[0]!r} is the name of a measure")
        data.truth(k)
        self.index, self.data, self.k, self.batch = index, data, k, batch
        self.search_params = search_params
        self._call_params = {**search_params, **({"threads": threads} if threads > 1 else {})}
        self._found = None
        self._times = []

    def run(self, warm=True):
        """Search all queries once, timed; before the first time once untimed if `warm`."""
        if self._found is None and warm:
            self._found, _ = self._search()
        found, seconds = self._search()
        self._found = self._found or found
        self._times.append(seconds)

    def summary(self):
        """Return what :func:`measure` returns, of the rounds run so far."""
        rows = np.concatenate([np.atleast_2d(np.asarray(answer.rows)) for answer in self._found])
        qps = [len(self.data.queries) / seconds.sum() for seconds in self._times]
        p50, p99 = (
            [
                np.nan if self.batch else np.percentile(seconds, rank) * 1e3
                for seconds in self._times
            ]
            for rank in (50, 99)
        )
        return {
            **self.search_params,
            "recall": recall(rows, self.data, k=self.k),
            "qps": float(np.median(qps)),
            "p50_ms": float(np.median(p50)),
            "p99_ms": float(np.median(p99)),
            **{name: self._mean(name) for name in ("hops", "comparisons", "reads")},
            "memory_bytes": getattr(self.index, "memory_bytes", None),
        }

    def _search(self):
        """Return (answers, seconds of each call), garbage collection held off."""
        queries, call = self.data.queries, self.index.search
        calls = [queries] if self.batch else [queries[i : i + 1] for i in range(len(queries))]
        answers, seconds = [], np.empty(len(calls))
        collecting = gc.isenabled()
        gc.disable()
        try:
            for i, asked in enumerate(calls):
                start = time.perf_counter()
                answer = call(asked, k=self.k, **self._call_params)
                seconds[i] = time.perf_counter() - start
                answers.append(answer)
        finally:
            if collecting:
                gc.enable()
        return answers, np.maximum(seconds, 1e-9)

    def _mean(self, name):
        parts = [getattr(getattr(answer, "stats", None), name, None) for answer in self._found]
        if any(part is None for part in parts):
            return float("nan")
        return float(np.concatenate([np.atleast_1d(part) for part in parts]).mean())


def check_count(name, value):
    """Refuse anything but an integer of at least 1."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < 1:
        raise InvalidArgument(f"{name} is {value!r}; expected an integer of at least 1")


def _checked_rows(rows, data, wanted):
    rows, n = np.asarray(rows), len(data.base)
    if rows.ndim != 2 or rows.dtype.kind not in "iu":
        raise InvalidArgument(f"rows are {rows.dtype} of shape {rows.shape}; expected 2-D integers")
    if len(rows) != len(data.queries):
        raise InvalidArgument(f"{len(rows)} answers; expected {len(data.queries)}, one a query")
    if rows.shape[1] < wanted:
        raise InvalidArgument(f"answers have {rows.shape[1]} rows; expected at least {wanted}")
    rows = rows.astype(np.int64)
    if rows.min() < -1 or rows.max() >= n:
        bad = int(rows[(rows < -1) | (rows >= n)][0])
        raise InvalidArgument(f"the answer names row {bad}; the base has rows 0 to {n - 1}")
    return rows
