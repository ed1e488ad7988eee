"""Many settings of one index, measured side by side in a table."""

import itertools
from collections.abc import Iterable

from luma_lab.bench.measure import Trial, check_count
from luma_lab.errors import InvalidArgument


def sweep(
    index, data, *, k=10, rounds=3, warm=True, threads=1, batch=False, progress=False, **lists
):  # fmt: skip
    """Measure every combination of search parameters.

    Every round visits every setting once, so that a slow moment of the machine falls on all
    alike; each figure is the median over the rounds.

    Parameters
    ----------
    index, data, k, rounds, warm, threads, batch
        As in :func:`luma_lab.bench.measure`.
    progress : bool
        Show a progress bar.
    lists
        One keyword a search parameter: a list of values, or one value.

    Returns
    -------
    pandas.DataFrame
        One row a combination, in the order given: a column for each parameter, then recall,
        qps, p50_ms, p99_ms, hops, comparisons, memory (bytes) and reads. ``table.attrs`` holds
        the data set's name, k and the names of the parameters.

    Raises
    ------
    InvalidArgument
        An empty list, or whatever `measure` refuses.

    Examples
    --------
    >>> table = bench.sweep(index, data, search_list_size=[16, 32, 64])  # doctest: +SKIP
    """
    import pandas

    check_count("rounds", rounds)
    values = {name: _values(name, value) for name, value in lists.items()}
    settings = [
        dict(zip(values, choice, strict=True)) for choice in itertools.product(*values.values())
    ]
    trials = [Trial(index, data, k, threads, batch, setting) for setting in settings]
    visits = [trial for _ in range(rounds) for trial in trials]
    if progress:
        from tqdm.auto import tqdm

        visits = tqdm(visits, desc="sweep")
    for trial in visits:
        trial.run(warm)
    table = pandas.DataFrame([trial.summary() for trial in trials])
    table = table.rename(columns={"memory_bytes": "memory"})
    measures = ("recall", "qps", "p50_ms", "p99_ms", "hops", "comparisons", "memory", "reads")
    table = table[[*values, *measures]]
    table.attrs = {"dataset": data.name, "k": k, "parameters": list(values)}
    return table


def _values(name, value):
    if isinstance(value, str | bytes) or not isinstance(value, Iterable):
        return [value]
    values = list(value)
    if not values:
        raise InvalidArgument(f"{name} is an empty list; expected at least one value")
    return values
