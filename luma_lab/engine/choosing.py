"""Which index ``index="auto"`` stands for: by rows, memory and metric, and the reason in words."""

import os
from pathlib import Path
from typing import NamedTuple

from luma_lab.engine.kinds import AUTO, FLAT, KINDS, defaults_of

SHARE_OF_MEMORY = 4  # indexes of a collection get a quarter of what the machine has
CGROUP_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")
MB = 1 << 20


class Choice(NamedTuple):
    """An index kind, parameters that go with it, and why."""

    kind: str
    params: dict
    why: str


def choose(rows, dim, metric, params, *, least_rows, budget):
    """Return the `Choice` for a collection.

    Few rows are scanned. More get the graph in memory, the fastest kind, if the budget holds
    it; then cells, which need no links, unless under "dot", where cells tell little of long
    vectors; then the graph on disk, with as fine codes as the budget holds.

    Parameters
    ----------
    params : dict
        What the user set; kinds take theirs of it.
    least_rows : int
        Below, everything is scanned.
    budget : int
        Bytes an index may hold in memory.
    """
    if rows < least_rows:
        return Choice(FLAT, {}, f"{rows} rows, fewer than {least_rows}: a scan is fast")
    needs = {
        name: kind.memory_of(rows, dim, {**defaults_of(name), **params})
        for name, kind in KINDS.items()
    }
    of = f"of a budget of {_shown(budget)} for {rows} rows"
    if needs["vamana"] <= budget:
        why = f"the graph in memory takes about {_shown(needs['vamana'])} {of}"
        return Choice("vamana", {}, why)
    over = f"the graph in memory would take about {_shown(needs['vamana'])} {of}"
    if needs["ivf"] <= budget and metric != "dot":
        return Choice("ivf", {}, f"{over}; cells take about {_shown(needs['ivf'])}")
    if needs["ivf"] <= budget:
        over += "; cells tell little under the metric 'dot'"
    else:
        over += f", cells {_shown(needs['ivf'])}"
    if needs["diskann"] <= budget:
        return Choice("diskann", {}, f"{over}; on disk it takes {_shown(needs['diskann'])}")
    limited = {"search_memory_bytes": budget}
    return Choice("diskann", limited, f"{over}; on disk, its codes are made to fit")


def wanted(parts, row, least_rows):
    """Return the `Choice` for a collection: the kind it was created with, or one by rules."""
    if row.kind != AUTO:
        return Choice(row.kind, {}, f"the collection was created with {row.kind!r}")
    return choose(
        row.rows,
        row.dim,
        row.metric,
        row.params,
        least_rows=least_rows,
        budget=parts.index_memory_bytes,
    )


def default_budget():
    """Return the bytes an index may hold where nobody said: a quarter of the machine's memory."""
    return machine_memory() // SHARE_OF_MEMORY


def machine_memory():
    """Return the bytes of memory this process may use: the machine's, or its group's limit."""
    found = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    for path in CGROUP_LIMITS:
        try:
            found.append(int(Path(path).read_text()))
        except (OSError, ValueError):  # not there, or "max"
            continue
    return min(size for size in found if size > 0)


def _shown(size):
    return f"{size / MB:.1f} MB" if size < 100 * MB else f"{size / MB:.0f} MB"
