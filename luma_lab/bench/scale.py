"""How a graph grows: the same data in several sizes, built and searched, with slopes.

Run as a program: ``python -m luma_lab.bench.scale BASE [METRIC [SIZE ...]]``, where BASE is a path
as :func:`luma_lab.bench.load` takes it. It prints a line a size, then the slopes; a last argument
that ends in ``.html`` gets the plot.
"""

import itertools
import math
import sys
import time

import numpy as np

from luma_lab import codec
from luma_lab.bench.compare import qps_at
from luma_lab.bench.datasets import Dataset, load
from luma_lab.bench.measure import check_count
from luma_lab.bench.sweep import sweep
from luma_lab.errors import InvalidArgument

SIZES = (100_000, 200_000, 500_000, 1_000_000)
LIST_SIZES = (10, 16, 24, 32, 48, 64, 96, 128)
RECALL = 0.95
NOISE = 0.25  # of a component's standard deviation, in rows made of other rows


def measure(
    data, sizes=SIZES, *, k=10, rounds=3, queries=500, list_sizes=LIST_SIZES, max_degree=32,
    build_list_size=75, threads=0, report=None,
):  # fmt: skip
    """Build and search the first rows of a data set in several sizes; return a DataFrame.

    Parameters
    ----------
    data : Dataset
        A size beyond its rows is made up of them, see :func:`enlarged`.
    sizes : sequence of int
        Ascending.
    queries : int
        How many to ask, one at a time.
    max_degree, build_list_size, threads
        Of `VamanaIndex`.
    report : callable, optional
        Gets each row of the answer, a dict, once it is known.

    Returns
    -------
    pandas.DataFrame
        One row a size: rows, build_s, build_cpu_s, memory_bytes; at a recall of 0.95
        (log-interpolated; nan where no list size reaches it) qps, comparisons and hops;
        best_recall. ``table.attrs["slopes"]`` is what :func:`slopes` makes of it.

    Raises
    ------
    InvalidArgument
    """
    import pandas

    from luma_lab.index import VamanaIndex

    sizes = list(sizes)
    for size in sizes:
        check_count("size", size)
    if not sizes or any(low >= high for low, high in itertools.pairwise(sizes)):
        raise InvalidArgument(f"sizes are {sizes}: expected ascending numbers of rows")
    asked = np.ascontiguousarray(data.queries[:queries])
    rows = []
    for size in sizes:
        part = Dataset(
            name=f"{data.name}[{size}]", metric=data.metric, base=enlarged(data.base, size),
            queries=asked,
        )  # fmt: skip
        part.base.flags.writeable = False
        index = VamanaIndex(
            part.base.shape[1], data.metric, max_degree=max_degree,
            build_list_size=build_list_size, threads=threads,
        )  # fmt: skip
        began, cpu = time.perf_counter(), time.process_time()
        index.build(part.base)
        built, built_cpu = time.perf_counter() - began, time.process_time() - cpu
        table = sweep(index, part, k=k, rounds=rounds, search_list_size=list_sizes)
        found = {
            "rows": size,
            "build_s": built,
            "build_cpu_s": built_cpu,
            "memory_bytes": index.memory_bytes,
            "qps": qps_at(table, RECALL),
            "comparisons": 1 / qps_at(table.assign(qps=1 / table.comparisons), RECALL),
            "hops": 1 / qps_at(table.assign(qps=1 / table.hops), RECALL),
            "best_recall": float(table.recall.max()),
        }
        rows.append(found)
        if report is not None:
            report(found)
    table = pandas.DataFrame(rows)
    table.attrs = {"dataset": data.name, "k": k, "slopes": slopes(table)}
    return table


def enlarged(base, rows, seed=0):
    """Return `rows` float32 rows: those of `base` in order, then again with noise.

    Parameters
    ----------
    base : array of shape (n, dim)
    rows : int
        Up to `n` they are copied as they are. Later ones get normal noise, a quarter of the
        standard deviation of their component.
    """
    out = np.empty((rows, base.shape[1]), np.float32)
    first = min(rows, len(base))
    out[:first] = base[:first]
    chance = np.random.default_rng(seed)
    spread = NOISE * base.std(axis=0, dtype=np.float64).astype(np.float32)
    for start in range(first, rows, len(base)):
        part = out[start : start + len(base)]
        part[:] = base[: len(part)]
        part += spread * chance.standard_normal(part.shape, dtype=np.float32)
    return out


def slopes(table):
    """Return a dict from measure to the slope of its logarithm over that of the rows.

    0 means that the size does not matter, 1 that twice the rows take twice as much. nan with
    fewer than two sizes that have the measure.
    """
    found = {}
    for name in ("qps", "comparisons", "build_cpu_s"):
        known = table[np.isfinite(table[name].to_numpy(float))]
        if len(known) < 2:
            found[name] = math.nan
        else:
            logs = (np.log(known[column].to_numpy(float)) for column in ("rows", name))
            found[name] = float(np.polyfit(*logs, 1)[0])
    return found


def _main(arguments):
    from luma_lab.bench.plots import plot_scale

    def tell(line):
        sys.stdout.buffer.write(codec.encode(_plain(line)) + b"\n")
        sys.stdout.flush()

    page = arguments.pop() if arguments[-1].endswith(".html") else None
    metric = arguments[1] if len(arguments) > 1 else None
    sizes = [int(size) for size in arguments[2:]] or SIZES
    table = measure(load(arguments[0], metric), sizes, report=tell)
    tell(table.attrs["slopes"])
    if page is not None:
        with open(page, "w", encoding="utf-8") as file:
            file.write(plot_scale(table)._repr_html_())


def _plain(line):
    return {
        name: None if isinstance(value, float) and math.isnan(value) else value
        for name, value in line.items()
    }


if __name__ == "__main__":
    _main(sys.argv[1:])
