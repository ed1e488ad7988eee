"""Plain values that cross room borders: frozen, small, no behaviour beyond showing themselves."""

import html
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import msgspec
import numpy as np

METRICS = ("cosine", "dot", "l2")
SHOWN_ROWS = 50
LARGEST_SQUARE = 8e37  # of a vector's length: beyond it a distance would not fit float32


class Neighbors(NamedTuple):
    """Answer of an index: the nearest rows of each query, best first.

    Attributes
    ----------
    rows : int64 array of shape (n_queries, k), padded with -1
    distances : float32 array of shape (n_queries, k), ascending, padded with inf
        cosine: 1 - cos; dot: minus the inner product; l2: squared.
    stats : SearchStats, CodedStats or DiskStats
    """

    rows: np.ndarray
    distances: np.ndarray
    stats: "SearchStats | CodedStats | DiskStats"


class RangeNeighbors(NamedTuple):
    """Answer of a range search: all rows within a radius of each query, best first.

    Those of query i are ``rows[limits[i]:limits[i + 1]]``; ties go to the lower row.

    Attributes
    ----------
    limits : int64 array of shape (n_queries + 1,)
    rows : int64 array of shape (limits[-1],)
    distances : float32 array of shape (limits[-1],), ascending within a query
        As in `Neighbors`.
    stats : SearchStats, CodedStats or DiskStats
    scanned : bool array of shape (n_queries,) or None
        Whether all rows that may be answered were compared, so that the answer is exact; None
        where that is always so.
    """

    limits: np.ndarray
    rows: np.ndarray
    distances: np.ndarray
    stats: "SearchStats | CodedStats | DiskStats"
    scanned: "np.ndarray | None" = None


class SearchStats(NamedTuple):
    """Work done per query, each an int64 array of shape (n_queries,)."""

    hops: np.ndarray
    comparisons: np.ndarray
    reads: np.ndarray


class CodedStats(Sequence):
    """Work done per query of an index that searches codes, each an int64 array (n_queries,).

    `rerank_nanoseconds` is what the exact second look took. Also the sequence of all four.

    Parameters
    ----------
    counts : int64 array of shape (n_queries, 3) or wider
        Hops, comparisons and nanoseconds.
    """

    __slots__ = ("_counts",)

    def __init__(self, counts):
        self._counts = counts  # most searches never ask for them

    @property
    def hops(self):
        """Nodes expanded, or cells looked into."""
        return self._counts[:, 0]

    @property
    def comparisons(self):
        """Distances computed by codes."""
        return self._counts[:, 1]

    @property
    def reads(self):
        """Reads from disk: none."""
        return np.zeros(len(self._counts), np.int64)

    @property
    def rerank_nanoseconds(self):
        """What the exact second look took."""
        return self._counts[:, 2]

    def __len__(self):
        return 4

    def __getitem__(self, place):
        return (self.hops, self.comparisons, self.reads, self.rerank_nanoseconds)[place]

    def __repr__(self):
        return (
            f"CodedStats(hops={self.hops}, comparisons={self.comparisons}, reads={self.reads}, "
            f"rerank_nanoseconds={self.rerank_nanoseconds})"
        )


class DiskStats(NamedTuple):
    """Work done per query of an index on disk, each an int64 array of shape (n_queries,)."""

    hops: np.ndarray
    comparisons: np.ndarray
    reads: np.ndarray
    cache_hits: np.ndarray
    microseconds: np.ndarray


@dataclass(frozen=True, slots=True)
class Point:
    """A stored point: the caller's id, its float32 vector of shape (dim,), its JSON meta."""

    id: str
    vector: np.ndarray
    meta: Any = None


# Hits refer to nothing that refers to them: the collector of cycles need not go through them.
class Hit(msgspec.Struct, frozen=True, gc=False):
    """One search answer; higher `score` is better in every metric."""

    id: str
    score: float
    meta: Any = None
    vector: np.ndarray | None = None


class TextHit(Hit, frozen=True):
    """A hit of a text search.

    Attributes
    ----------
    highlights : dict of str to luma_lab.index.highlight.Snippet, or None
        By field, where there is text.
    explanation : luma_lab.index.scoring.Explanation, or None
    """

    highlights: dict[str, Any] | None = None
    explanation: Any = None


@dataclass(frozen=True, slots=True)
class Group:
    """Hits with one value of the field they were grouped by, best first."""

    key: Any
    hits: list[Hit]


class Hits(list):
    """List of `Hit`, best first, with the receipt of the search and, if asked for, its groups.

    Attributes
    ----------
    receipt : dict or None
    groups : list of Group, or None
    facets : dict of str to list of (value, count), or None
    truncated : bool or None
        Of a range search: whether there are more than its limit.
    """

    facets = truncated = None

    def __init__(self, hits=(), receipt=None, groups=None):
        super().__init__(hits)
        self.receipt = receipt
        self.groups = groups

    def to_pandas(self):
        """Return a DataFrame with columns id, score, meta."""
        import pandas

        return pandas.DataFrame(
            [(hit.id, hit.score, hit.meta) for hit in self], columns=["id", "score", "meta"]
        )

    def _repr_html_(self):
        rows = "".join(
            f"<tr><td>{html.escape(hit.id)}</td><td>{hit.score:.4f}</td>"
            f"<td>{html.escape(_shorten(hit.meta))}</td></tr>"
            for hit in self
        )
        return (
            "<table><thead><tr><th>id</th><th>score</th><th>meta</th></tr></thead>"
            f"<tbody>{rows}</tbody></table>"
        )


class Rows:
    """The answer of an SQL query; it iterates as dicts.

    Attributes
    ----------
    columns : list of str
        Distinct names, in order.
    rows : list of tuple
    truncated : bool
        Whether a cap cut it short.
    """

    def __init__(self, columns, rows, truncated=False):
        self.columns, self.rows, self.truncated = columns, rows, truncated

    def __len__(self):
        return len(self.rows)

    def __iter__(self):
        return (dict(zip(self.columns, row, strict=True)) for row in self.rows)

    def __getitem__(self, place):
        if isinstance(place, slice):
            return Rows(self.columns, self.rows[place], self.truncated)
        return dict(zip(self.columns, self.rows[place], strict=True))

    def to_pandas(self):
        """Return a DataFrame."""
        import pandas

        return pandas.DataFrame(self.rows, columns=self.columns)

    def __repr__(self):
        more = ", truncated" if self.truncated else ""
        return f"Rows({len(self.rows)} x {self.columns}{more})"

    def _repr_html_(self):
        head = "".join(f"<th>{html.escape(name)}</th>" for name in self.columns)
        body = "".join(
            "<tr>" + "".join(f"<td>{html.escape(_shorten(v))}</td>" for v in row) + "</tr>"
            for row in self.rows[:SHOWN_ROWS]
        )
        hidden = len(self.rows) - SHOWN_ROWS
        note = f"<p>and {hidden} more</p>" if hidden > 0 else ""
        return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>{note}"


def _shorten(value, limit=120):
    text = "" if value is None else str(value)
    return text if len(text) <= limit else text[: limit - 1] + "…"


@dataclass(frozen=True, slots=True)
class StateItem:
    """A state entry. `revision` is the offset of the event that wrote it."""

    key: str
    value: Any
    revision: int
    expires_at_ms: int | None = None


@dataclass(frozen=True, slots=True)
class Document:
    """A stored document: any JSON value. `revision` is the offset of the event that wrote it."""

    id: str
    doc: Any
    revision: int


@dataclass(frozen=True, slots=True)
class Consumer:
    """A named reader of the log: `offset` is the last it acknowledged, `lag` how many follow."""

    name: str
    offset: int
    lag: int


@dataclass(frozen=True, slots=True)
class Event:
    """One entry of the log, or a gap (``type == "gap"``) where entries are gone."""

    offset: int
    ts_ms: int
    type: str
    key: str | None = None
    collection: str | None = None
    data: Any = None


class WriteResult(msgspec.Struct, frozen=True, gc=False):
    """What a write did: the log offset that tells of it and how many things it touched.

    A write that changed nothing answers with the head of the log and count 0.
    """

    offset: int
    count: int
    revision: int | None = None
    expires_at_ms: int | None = None
