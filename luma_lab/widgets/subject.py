"""What a tuning session measures on: base vectors, queries not among them, exact answers."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from luma_lab.errors import DimensionMismatch, InvalidArgument

HELD_OUT = 100  # enough for recall to two digits, few enough to measure while a slider moves
SEED = 0  # the same stored points are held out every time, so that runs can be compared


@dataclass(frozen=True)
class Subject:
    """One collection or data set, ready to be measured.

    Attributes
    ----------
    data : luma_lab.bench.Dataset
    held_out : int
        Stored points used as queries and left out of `data.base`; 0 if queries were given.
    note : str
        Says in words where the queries come from.
    """

    data: Any
    held_out: int
    note: str

    @property
    def n_points(self):
        """Number of base vectors."""
        return len(self.data.base)

    @property
    def dim(self):
        """Components of a vector."""
        return self.data.base.shape[1]


def subject_of_collection(collection, *, queries=None):
    """Snapshot a collection into a `Subject`.

    Raises `InvalidArgument` for too few points, `DimensionMismatch` for queries of another
    length.
    """
    info = collection.info()
    vectors = collection.snapshot().vectors
    return _subject(f"collection {info.name!r}", info.name, info.metric, vectors, queries)


def subject_of_dataset(data, *, queries=None):
    """Make a `Subject` of a bench `Dataset`, with its own queries unless others are given."""
    if data.base is None:
        raise InvalidArgument(f"data set {data.name!r} has texts but no vectors to index")
    if queries is None and data.queries is not None and len(data.queries):
        note = f"{len(data.queries)} queries of the data set; none of them is in the index."
        return Subject(data, 0, note)
    return _subject(f"data set {data.name!r}", data.name, data.metric, data.base, queries)


def _subject(what, name, metric, vectors, queries):
    from luma_lab.bench import Dataset

    base, asked, held_out = np.asarray(vectors, dtype=np.float32), queries, 0
    if asked is None:
        base, asked = hold_out(base, what=what)
        held_out = len(asked)
        note = (
            f"No queries were given: {held_out} stored points, drawn at random with seed {SEED}, "
            "are the queries and are left out of the index built here."
        )
    else:
        asked = as_queries(asked, base.shape[1], what)
        note = f"{len(asked)} queries were given."
    data = Dataset(name=name, metric=metric, base=base, queries=asked)
    return Subject(data, held_out, note)


def hold_out(vectors, *, what="the data"):
    """Split vectors into a base and queries taken from it.

    Parameters
    ----------
    vectors : float32 array of shape (n, dim)

    Returns
    -------
    base, queries : float32 arrays, disjoint rows of `vectors` in their order
        100 queries, or a tenth of the rows when there are fewer than 1,000.
    """
    n = len(vectors)
    if n < 20:
        raise InvalidArgument(
            f"{what} has {n} points; tuning wants at least 20, or queries of its own"
        )
    size = min(HELD_OUT, n // 10)
    taken = np.zeros(n, dtype=bool)
    taken[np.random.default_rng(SEED).choice(n, size=size, replace=False)] = True
    return np.ascontiguousarray(vectors[~taken]), np.ascontiguousarray(vectors[taken])


def as_queries(queries, dim, what):
    """Check queries: a finite array of shape (n_queries, dim), at least one row."""
    array = np.asarray(queries, dtype=np.float32)
    if array.ndim != 2 or len(array) == 0:
        raise InvalidArgument(f"queries have shape {array.shape}; expected (n_queries, {dim})")
    if array.shape[1] != dim:
        raise DimensionMismatch(array.shape[1], dim, what)
    if not np.isfinite(array).all():
        raise InvalidArgument("queries hold NaN or infinity; expected finite numbers")
    return np.ascontiguousarray(array)
