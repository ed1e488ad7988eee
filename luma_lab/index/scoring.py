"""BM25's variants by name, in float64: what `TextIndex.explain` computes with.

========== ================================= =====================================
variant    idf                               part of the count f
========== ================================= =====================================
lucene     ln(1 + (N - n + .5) / (n + .5))   f / (f + K)
robertson  ln(max(1, (N - n + .5)/(n + .5))) f / (f + K)
atire      ln(N / n)                         f (k1 + 1) / (f + K)
bm25+      ln((N + 1) / n)                   f (k1 + 1) / (f + K) + delta
bm25l      ln((N + 1) / (n + .5))            (k1 + 1)(c + delta) / (k1 + c + delta)
bm25l-rank the same                          f times that
okapi      ln((N - n + .5) / (n + .5))       f (k1 + 1) / (f + K)
========== ================================= =====================================

N documents, n of them with the term, ``norm = 1 - b + b * length / average length``,
``K = k1 * norm``, ``c = f / norm``. bm25+ and bm25l score absent terms, too. An okapi idf
below 0 becomes a quarter of the mean idf of all terms, as in the package rank-bm25.

References
----------
Robertson and Zaragoza, "The probabilistic relevance framework", 2009.
Lv and Zhai, "Lower-bounding term frequency normalization", 2011 (bm25+ and bm25l).
"""

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from luma_lab.errors import InvalidArgument, UnknownName
from luma_lab.kernels import bm25, postings

# variant: (kind of idf, kind of part)
VARIANTS = {
    "lucene": (bm25.LUCENE, postings.SATURATED),
    "robertson": (bm25.ROBERTSON, postings.SATURATED),
    "atire": (bm25.ATIRE, postings.SCALED),
    "bm25+": (bm25.PLUS, postings.SCALED),
    "bm25l": (bm25.LONG, postings.SHIFTED),
    "bm25l-rank": (bm25.LONG, postings.SHIFTED_RANK),
    "okapi": (bm25.OKAPI, postings.SCALED),
}
EPSILON = 0.25  # okapi's share of the mean idf


@dataclass(frozen=True, slots=True)
class Model:
    """A variant of BM25 with its parameters.

    Raises
    ------
    UnknownName, InvalidArgument
        `k1` or `delta` is negative, `b` is outside [0, 1], or one is no finite number.
    """

    variant: str = "lucene"
    k1: float = 1.2
    b: float = 0.75
    delta: float = 0.5

    def __post_init__(self):
        if self.variant not in VARIANTS:
            raise UnknownName("variant", self.variant, VARIANTS)
        for name, high in (("k1", math.inf), ("b", 1.0), ("delta", math.inf)):
            value = check_number(name, getattr(self, name))
            if value > high:
                raise InvalidArgument(f"{name}={value}: expected a number from 0 to 1")
            object.__setattr__(self, name, value)

    @property
    def idf_kind(self):
        """The kernels' number of the idf."""
        return VARIANTS[self.variant][0]

    @property
    def kind(self):
        """The kernels' number of the part."""
        return VARIANTS[self.variant][1]

    @property
    def absent(self):
        """Part of a term that a document does not hold."""
        if self.variant == "bm25+":
            return self.delta
        if self.variant == "bm25l" and self.delta > 0:
            return (self.k1 + 1) * self.delta / (self.k1 + self.delta)
        return 0.0

    def norms(self, lengths, average):
        """Return the float64 norms of an array of document lengths."""
        if average == 0:
            return np.ones(len(lengths))
        return 1.0 - self.b + self.b * (lengths / average)

    def idf(self, documents, df, floor=0.0):
        """Return the idf of a term in `df` of `documents`."""
        if self.variant == "lucene":
            return math.log(1 + (documents - df + 0.5) / (df + 0.5))
        if self.variant == "robertson":
            return math.log(max(1.0, (documents - df + 0.5) / (df + 0.5)))
        if self.variant == "atire":
            return math.log(documents / df)
        if self.variant == "bm25+":
            return math.log((documents + 1) / df)
        if self.variant == "okapi":
            value = math.log(documents - df + 0.5) - math.log(df + 0.5)
            return floor if value < 0 else value
        return math.log(documents + 1) - math.log(df + 0.5)

    def part(self, count, norm):
        """Return the part of a term that stands `count` times in a document of this norm."""
        if count == 0:
            return self.absent
        if self.variant in ("lucene", "robertson"):
            return count / (count + self.k1 * norm)
        if self.variant in ("atire", "okapi", "bm25+"):
            plus = self.absent
            return count * (self.k1 + 1) / (count + self.k1 * norm) + plus
        shifted = count / norm + self.delta
        part = (self.k1 + 1) * shifted / (self.k1 + shifted)
        return count * part if self.variant == "bm25l-rank" else part


class TermScore(NamedTuple):
    """What one form of one query word gives a document: ``weight * idf * part``.

    Attributes
    ----------
    word, form, term, field : str
        The word of the query; "exact", "stem", "folded", "phrase", "prefix" or "fuzzy"; what
        was looked for; where.
    df, count, length : int
        Documents that hold it, times it stands in this one, tokens of this one.
    weight, idf, part, score : float
    """

    word: str
    form: str
    term: str
    field: str
    df: int
    count: int
    length: int
    weight: float
    idf: float
    part: float
    score: float


class Explanation(NamedTuple):
    """Why a document has its score: the terms, whose scores add up to it.

    `matched` is False for a document the search would not answer; its score is then what
    absent terms give.
    """

    score: float
    matched: bool
    terms: list

    def __str__(self):
        lines = [f"{self.score:.4f}" + ("" if self.matched else "  (not matched)")]
        lines += [
            f"  {t.score:.4f}  {t.word!r} as {t.form} {t.term!r} in {t.field}: weight "
            f"{t.weight:g} x idf {t.idf:.4f} (in {t.df}) x part {t.part:.4f} "
            f"({t.count} of {t.length})"
            for t in self.terms
        ]
        return "\n".join(lines)


def check_number(name, value):
    """Return `value` as a float of at least 0, or raise `InvalidArgument` naming it."""
    if isinstance(value, bool) or not isinstance(value, int | float | np.number):
        raise InvalidArgument(f"{name}={value!r}: expected a number of at least 0")
    value = float(value)
    if not math.isfinite(value) or value < 0:
        raise InvalidArgument(f"{name}={value}: expected a finite number of at least 0")
    return value
