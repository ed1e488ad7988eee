"""Rankings side by side on the same judged queries, with intervals that say what is luck."""

import numpy as np

from luma_lab.bench import trec
from luma_lab.bench.measure import check_count
from luma_lab.errors import InvalidArgument, UnknownName

RESAMPLES = 10_000
CONFIDENCE = 0.95
BLOCK_RESAMPLES = 256


def judge(
    data, runs, *, against=None, by="mrr@10", measures=("mrr@10", "recall@10", "ndcg@10"),
    resamples=RESAMPLES, confidence=CONFIDENCE, seed=0,
):  # fmt: skip
    """Score several runs on one judged data set and compare them pair by pair of answers.

    Parameters
    ----------
    data : Dataset with qrels
    runs : dict of str to run
        A name for each; runs as :func:`luma_lab.bench.evaluate` takes them.
    against : str, optional
        The run the others are held against; default: the first.
    by : str
        The measure compared.
    measures : iterable of str
        Columns of the table; `by` is added if it is not among them.
    resamples, confidence, seed
        See :func:`bootstrap`.

    Returns
    -------
    pandas.DataFrame
        A row a run: the means of the measures, ``low`` and ``high`` (the interval of the mean of
        `by`), ``difference`` (its mean minus the other's), ``difference_low`` and
        ``difference_high`` (the interval of the mean difference on the same queries) and
        ``verdict``: "better", "worse", or "not distinguishable". ``table.attrs`` holds the data
        set's name, `by`, `against` and the number of queries.

    Raises
    ------
    InvalidArgument, UnknownName
    """
    import pandas

    runs = _checked(data, runs)
    against = next(iter(runs)) if against is None else against
    if against not in runs:
        raise UnknownName("run", against, runs)
    wanted = tuple(dict.fromkeys((*measures, by)))
    scores = {name: trec.evaluate(run, data.qrels, wanted) for name, run in runs.items()}
    values = np.stack([scores[name].values[by] for name in runs], axis=1)
    table = compared(values, scores[against].values[by], resamples, confidence, seed)
    table = pandas.DataFrame(table, index=pandas.Index(runs, name="run"))
    for place, name in enumerate(wanted):
        table.insert(place, name, [scores[run].mean[name] for run in runs])
    table.attrs = {
        "dataset": data.name, "by": by, "against": against, "queries": len(data.qrels),
    }  # fmt: skip
    return table


def compared(values, others, resamples=RESAMPLES, confidence=CONFIDENCE, seed=0):
    """Return the columns of :func:`judge` that tell intervals, for values of shape (n, m)."""
    both = np.concatenate([values, values - others[:, None]], axis=1)
    low, high = bootstrap(both, resamples=resamples, confidence=confidence, seed=seed)
    m = values.shape[1]
    verdicts = [verdict(*pair) for pair in zip(low[m:], high[m:], strict=True)]
    return {
        "low": low[:m], "high": high[:m], "difference": both[:, m:].mean(axis=0),
        "difference_low": low[m:], "difference_high": high[m:], "verdict": verdicts,
    }  # fmt: skip


def bootstrap(values, *, resamples=RESAMPLES, confidence=CONFIDENCE, seed=0):
    """Return the percentile interval of means over queries drawn anew with replacement.

    Columns are drawn together, so differences of paired columns may be handed in as they are.

    Parameters
    ----------
    values : array of shape (n,) or (n, m), n at least 2
    resamples : int
    confidence : float between 0 and 1
    seed : int

    Returns
    -------
    low, high : float, or float64 arrays of shape (m,)

    Raises
    ------
    InvalidArgument
    """
    values = np.asarray(values, float)
    if values.ndim not in (1, 2) or len(values) < 2 or not np.isfinite(values).all():
        raise InvalidArgument(
            f"values of shape {values.shape}: expected finite ones of at least 2 queries"
        )
    check_count("resamples", resamples)
    if not isinstance(confidence, float) or not 0 < confidence < 1:
        raise InvalidArgument(f"confidence is {confidence!r}: expected a number between 0 and 1")
    n, rng, means = len(values), np.random.default_rng(seed), []
    for start in range(0, resamples, BLOCK_RESAMPLES):
        size = min(BLOCK_RESAMPLES, resamples - start)
        means.append(rng.multinomial(n, np.full(n, 1 / n), size=size) @ values / n)
    tail = 50 * (1 - confidence)
    low, high = np.percentile(np.concatenate(means), [tail, 100 - tail], axis=0)
    return low, high


def verdict(low, high):
    """Return in a word what the interval of a difference says."""
    return "better" if low > 0 else "worse" if high < 0 else "not distinguishable"


def _checked(data, runs):
    if not getattr(data, "qrels", None):
        raise InvalidArgument(f"{data!r} has no judgements: expected a data set with qrels")
    if not isinstance(runs, dict) or not runs:
        raise InvalidArgument("runs: expected a dict of name to run, not empty")
    return runs
