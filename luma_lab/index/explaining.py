"""Explanations: what each word of a query adds to the score of one text."""

import math

import numpy as np

from luma_lab.index.scoring import Explanation, TermScore
from luma_lab.index.terms import evaluate, weigh_terms
from luma_lab.index.textquery import MUST_NOT


def explained(view, asked, row, fields, sums):
    """Return the `Explanation` of the score of a live row, computed in float64.

    Parameters
    ----------
    asked : list of (sign, terms)
        The query, see `luma_lab.index.terms`.
    row : int
    fields : list of str
    sums : float32 array of the widest segment's rows
        Scratch; zero.
    """
    wanted = [term for sign, terms in asked if sign != MUST_NOT for term in terms]
    place = next(i for i, s in enumerate(view.segments) if row < s.stop_row)
    segment = view.segments[place]
    scores, model = [], view.model
    for term, idf in zip(wanted, weigh_terms(view, wanted), strict=True):
        count = _count_in(term.lists[place], row - segment.first_row)
        length = int(segment.lengths[term.field, row - segment.first_row])
        part = model.part(count, _norm(model, length, view.averages[term.field]))
        scores.append(
            TermScore(
                term.word, term.form, term.text, fields[term.field], term.df,
                count, length, term.share, idf, part, term.share * idf * part,
            )
        )  # fmt: skip
    heap, only = np.empty(view.total_rows, np.int64), np.zeros(view.total_rows, bool)
    only[row] = True
    size, _ = evaluate(view, asked, only, heap, sums)
    return Explanation(math.fsum(score.score for score in scores), size == 1, scores)


def _norm(model, length, average):
    return float(model.norms(np.array([length]), average)[0])


def _count_in(rows_and_counts, row):
    rows, counts = rows_and_counts
    place = int(np.searchsorted(rows, row))
    return int(counts[place]) if place < len(rows) and rows[place] == row else 0
