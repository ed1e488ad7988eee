"""Luma Lab: try out vector search, state and events in a notebook, then serve them unchanged.

>>> import luma_lab as luma
>>> with luma.open(":memory:") as lab:
...     docs = lab.create_collection("docs", dim=2)
...     _ = docs.upsert(["a", "b"], [[1, 0], [0, 1]], [{"title": "east"}, {"title": "north"}])
...     docs.search([0.9, 0.1], k=1)[0].id
'a'
"""

from luma_lab.engine.collection import Collection
from luma_lab.engine.jobs import Job
from luma_lab.engine.lab import Lab
from luma_lab.engine.upkeep import Retention
from luma_lab.errors import LumaError
from luma_lab.types import Event, Hit, Hits, Point, StateItem, WriteResult

__all__ = [
    "Collection",
    "Event",
    "Hit",
    "Hits",
    "Job",
    "Lab",
    "LumaError",
    "Point",
    "Retention",
    "StateItem",
    "WriteResult",
    "__version__",
    "open",
]


def __getattr__(name):
    if name != "__version__":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    # Here, because it takes a fifth of the whole import.
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("luma_lab")
    except PackageNotFoundError:
        return "0+checkout"


def open(path, *, retention=None, auto_index=True, index_memory_bytes=None):
    """Open the lab in a directory, created when missing or empty.

    Parameters
    ----------
    path : path or ":memory:"
        ":memory:" is a private temporary directory, not synced, removed at close.
    retention : Retention, optional
        How much of the log to keep; by default 7 days, 10 million events, 1 GiB.
    auto_index : bool
        Build the first index of a collection in the background once it has enough rows.
    index_memory_bytes : int, optional
        What an index that is picked by ``index="auto"`` may hold in memory; by default a
        quarter of the machine's.

    Returns
    -------
    Lab
        A context manager.

    Raises
    ------
    NotALab
        The directory holds other things, or lies on a network file system.
    NewerFormat
        A newer version wrote it.
    CorruptStore
    """
    return Lab(
        path, retention=retention, auto_index=auto_index, index_memory_bytes=index_memory_bytes
    )
