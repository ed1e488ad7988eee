"""Several engines side by side: built one after another, searched in turns, in one table."""

import math
import time

import numpy as np

from luma_lab.bench.measure import Trial, check_count
from luma_lab.bench.peers import ENGINES
from luma_lab.errors import InvalidArgument, UnknownName

RECALLS = (0.90, 0.95, 0.99)


def compare(
    data, engines=("vamana", "hnswlib", "faiss-hnsw"), *, k=10, rounds=3, threads=1, batch=False,
    build_threads=None, progress=False,
):  # fmt: skip
    """Measure engines on a data set; every round visits every setting of every engine once.

    Parameters
    ----------
    data : Dataset
    engines : list of str
        Names of `luma_lab.bench.peers.ENGINES`; the first is what the others are held against.
    k, rounds, threads, batch
        As in :func:`luma_lab.bench.measure`; one query at a time unless `batch`.
    build_threads : int, optional
        Default: all cores.
    progress : bool
        Show a progress bar.

    Returns
    -------
    pandas.DataFrame
        One row a setting: engine, parameter, value, recall (ties by distance), qps, p50_ms,
        p99_ms, build_s, memory (bytes). ``table.attrs["at"]`` is a DataFrame: the queries a
        second of each engine at a recall of 0.90, 0.95 and 0.99, interpolated, nan where it is
        not reached; ``table.attrs["ratios"]`` those of the first engine
        over each.

    Raises
    ------
    InvalidArgument, UnknownName
    Unavailable
        An engine is not installed.
    """
    import pandas

    check_count("rounds", rounds)
    engines = list(engines)
    if not engines:
        raise InvalidArgument("engines is empty: expected at least one name")
    for name in engines:
        if name not in ENGINES:
            raise UnknownName("engine", name, ENGINES)
    base = np.ascontiguousarray(data.base, np.float32)
    base.flags.writeable = False
    trials = []
    for name in engines:
        engine = ENGINES[name]()
        began = time.perf_counter()
        engine.build(base, data.metric, build_threads or _cores())
        seconds = time.perf_counter() - began
        for value in engine.values:
            setting = {} if engine.knob is None else {engine.knob: value}
            trial = Trial(engine, data, k, threads, batch, setting)
            trials.append((name, engine.knob, value, seconds, trial))
    visits = [trial for _ in range(rounds) for *_, trial in trials]
    if progress:
        from tqdm.auto import tqdm

        visits = tqdm(visits, desc="compare")
    for trial in visits:
        trial.run()
    rows = []
    for name, knob, value, seconds, trial in trials:
        found = trial.summary()
        rows.append(
            {
                "engine": name,
                "parameter": knob,
                "value": value,
                **{measure: found[measure] for measure in ("recall", "qps", "p50_ms", "p99_ms")},
                "build_s": seconds,
                "memory": found["memory_bytes"],
            }
        )
    table = pandas.DataFrame(rows)
    at = pandas.DataFrame(
        {
            level: {name: qps_at(table[table.engine == name], level) for name in engines}
            for level in RECALLS
        }
    ).loc[engines]
    table.attrs = {
        "dataset": data.name, "k": k, "at": at, "ratios": at.iloc[0] / at,
    }  # fmt: skip
    return table


def qps_at(table, level):
    """Return the queries a second at a recall: log-linear between the settings beside it.

    Only settings that no other beats in both count. nan where the level is not reached.

    Parameters
    ----------
    table : DataFrame with columns recall and qps, of one engine
    level : float
    """
    best = []
    for recall, qps in sorted(zip(table.recall, table.qps, strict=True), reverse=True):
        if not best or qps > best[-1][1]:
            best.append((recall, qps))
    best.reverse()
    if not best or best[-1][0] < level:
        return math.nan
    if best[0][0] >= level:
        return best[0][1]
    above = next(i for i, (recall, _) in enumerate(best) if recall >= level)
    (low, slower), (high, faster) = best[above - 1], best[above]
    share = (level - low) / (high - low)
    return math.exp(math.log(slower) * (1 - share) + math.log(faster) * share)


def _cores():
    import os

    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
