"""Judged rankings: TREC run and qrels files, and the usual measures, as trec_eval counts them.

A *run* is a dict of query id to its answer: a dict of document id to score, or a list of
document ids, best first. *Judgements* (qrels) are a dict of query id to a dict of document id
to grade; a grade of 1 or more is relevant, and what is not judged is not.
"""

import math
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from luma_lab.bench.formats import existing_file
from luma_lab.errors import InvalidArgument

MEASURES = ("mrr", "recall", "ndcg", "map", "precision")
USUAL = ("mrr@10", "recall@10", "ndcg@10", "map", "precision@10")
BEIR_HEADER = ["query-id", "corpus-id", "score"]
RUN_COLUMNS = "query Q0 document rank score tag"
_MEASURE = re.compile(rf"({'|'.join(MEASURES)})(?:@([1-9]\d*))?")


@dataclass(frozen=True, eq=False, repr=False)
class Scores:
    """What a run scored, query by query.

    Attributes
    ----------
    query_ids : tuple of str
        All judged queries, in the order of the judgements.
    values : dict of str to float64 array of shape (n_queries,)
        Per measure. A query the run does not answer scores 0.
    unanswered : int
        Queries the run has no document for.
    """

    query_ids: tuple
    values: dict
    unanswered: int

    @property
    def mean(self):
        """Mean over all judged queries, a dict of measure to float."""
        return {name: float(values.mean()) for name, values in self.values.items()}

    def table(self):
        """Return a DataFrame: a row a query, a column a measure."""
        import pandas

        return pandas.DataFrame(self.values, index=pandas.Index(self.query_ids, name="query"))

    def __repr__(self):
        told = ", ".join(f"{name} {value:.3f}" for name, value in self.mean.items())
        left = f", {self.unanswered} unanswered" if self.unanswered else ""
        return f"Scores({told}; {len(self.query_ids)} queries{left})"


def evaluate(run, qrels, measures=USUAL):
    """Score a run by judgements.

    Parameters
    ----------
    run : dict
        See the module. Scored documents are ordered by falling score; scores are compared as
        float32 and ties go to the greater id, both as trec_eval does. Queries that are not
        judged are left out.
    qrels : dict of str to dict of str to int
    measures : iterable of str
        ``mrr``, ``recall``, ``ndcg``, ``map``, ``precision``, each alone or cut off, as in
        ``ndcg@10``. nDCG takes the grade itself as gain (negative ones as 0) and divides by
        ``log2(rank + 1)``; precision@k divides by k, however few there are. A query without a
        relevant document scores 0.

    Returns
    -------
    Scores

    Raises
    ------
    InvalidArgument
        No judgements; an unknown measure; a document ranked twice; a score that is no number.
    """
    if isinstance(measures, str):
        measures = (measures,)
    wanted = {name: _measure(name) for name in measures}
    if not qrels:
        raise InvalidArgument("no judgements: expected a dict of at least one query")
    values = {name: np.zeros(len(qrels)) for name in wanted}
    unanswered = 0
    for place, (query, grades) in enumerate(qrels.items()):
        order = ranking(run.get(query, ()), query)
        unanswered += not order
        gains = np.array([max(0, grades.get(document, 0)) for document in order], float)
        ideal = np.sort([float(grade) for grade in grades.values() if grade > 0])[::-1]
        for name, (kind, cut) in wanted.items():
            values[name][place] = _score(kind, cut, gains, ideal)
    return Scores(tuple(qrels), values, unanswered)


def ranking(answer, query=""):
    """Return the document ids of an answer, best first, ties as :func:`evaluate` says.

    Raises
    ------
    InvalidArgument
        A document stands there twice, or a score is no number.
    """
    if not isinstance(answer, dict):
        order = list(answer)
        if len(set(order)) != len(order):
            twice = next(document for document in order if order.count(document) > 1)
            raise InvalidArgument(f"query {query!r}: document {twice!r} is ranked twice")
        return order
    for document, score in answer.items():
        if not isinstance(score, int | float | np.number) or math.isnan(score):
            raise InvalidArgument(
                f"query {query!r}: document {document!r} has score {score!r}; expected a number"
            )
    with np.errstate(over="ignore"):
        rounded = {document: np.float32(score) for document, score in answer.items()}
    return sorted(rounded, key=lambda document: (rounded[document], document), reverse=True)


def _measure(name):
    found = _MEASURE.fullmatch(name) if isinstance(name, str) else None
    if found is None:
        raise InvalidArgument(
            f"measure {name!r}: expected one of {', '.join(MEASURES)}, alone or cut off at a "
            "rank, as in 'ndcg@10'"
        )
    return found[1], int(found[2]) if found[2] else None


def _score(kind, cut, gains, ideal):
    """Return one measure of gains in ranked order; ideal are all positive grades, descending."""
    gains = gains[:cut]
    if len(ideal) == 0 or len(gains) == 0:
        return 0.0
    hits = gains > 0
    if kind == "ndcg":
        return _discounted(gains) / _discounted(ideal[:cut])
    if kind == "mrr":
        return 1.0 / (1 + hits.argmax()) if hits.any() else 0.0
    if kind == "recall":
        return hits.sum() / len(ideal)
    if kind == "precision":
        return hits.sum() / (cut or len(gains))
    ranks = np.flatnonzero(hits) + 1
    return float((np.arange(1, len(ranks) + 1) / ranks).sum() / len(ideal))


def _discounted(gains):
    return float((gains / np.log2(np.arange(2, len(gains) + 2))).sum())


def write_run(path, run, tag="luma"):
    """Write a run as a TREC run file: query, Q0, document, rank from 1, score, tag.

    Lists of ids get the scores n, n - 1, ..., 1. Scores are written so that they read back
    the same.

    Raises
    ------
    InvalidArgument
        An id or the tag is empty or holds a space, or as :func:`ranking`. Nothing is written.
    """
    lines, tag = [], _word(tag, "tag")
    for query, answer in run.items():
        query = _word(query, "query id")
        order = ranking(answer, query)
        for rank, document in enumerate(order, 1):
            score = float(answer[document]) if isinstance(answer, dict) else len(order) - rank + 1
            lines.append(f"{query} Q0 {_word(document, 'document id')} {rank} {score!r} {tag}\n")
    Path(path).write_text("".join(lines), encoding="utf-8")


def write_qrels(path, qrels):
    """Write judgements as a TREC qrels file: query, 0, document, grade.

    Raises
    ------
    InvalidArgument
        An id is empty or holds a space, or a grade is not an integer. Nothing is written.
    """
    lines = []
    for query, grades in qrels.items():
        for document, grade in grades.items():
            if isinstance(grade, bool) or not isinstance(grade, int | np.integer):
                raise InvalidArgument(
                    f"query {query!r}: document {document!r} has grade {grade!r}; "
                    "expected an integer"
                )
            lines.append(
                f"{_word(query, 'query id')} 0 {_word(document, 'document id')} {int(grade)}\n"
            )
    Path(path).write_text("".join(lines), encoding="utf-8")


def read_run(path):
    """Read a TREC run file as a dict of query id to a dict of document id to score.

    Ranks and tag are not used: the score gives the order.

    Raises
    ------
    NotFound
    InvalidArgument
        The file and line of what is malformed, or of a document that stands there twice.
    """
    run = {}
    for where, parts in _lines(path):
        if len(parts) != 6:
            raise InvalidArgument(f"{where}: {len(parts)} columns; expected {RUN_COLUMNS}")
        query, _, document, _, score, _ = parts
        try:
            score = float(score)
        except ValueError:
            score = math.nan
        if math.isnan(score):
            raise InvalidArgument(f"{where}: score {parts[4]!r}; expected a number")
        _put(run, query, document, score, where)
    return run


def read_qrels(path):
    """Read judgements as a dict of query id to a dict of document id to grade.

    A TREC qrels file (query, iteration, document, grade), or BEIR's table (query-id,
    corpus-id, score, parted by tabs, with or without a header).

    Raises
    ------
    NotFound
    InvalidArgument
        The file and line of what is malformed, or of a document judged twice; no judgement.
    """
    qrels = {}
    for where, parts in _lines(path):
        if parts == BEIR_HEADER and not qrels:
            continue
        if len(parts) not in (3, 4):
            raise InvalidArgument(
                f"{where}: {len(parts)} columns; expected query, iteration, document, grade, or "
                "query, document, grade"
            )
        query, document, grade = parts[0], parts[-2], parts[-1]
        try:
            value = float(grade)
        except ValueError:
            value = math.nan
        if not value.is_integer():
            raise InvalidArgument(f"{where}: grade {grade!r}; expected an integer")
        _put(qrels, query, document, int(value), where)
    if not qrels:
        raise InvalidArgument(f"{path}: no judgements in it")
    return qrels


def _lines(path):
    """Yield (place, columns) of each line that is not empty."""
    path = existing_file(path)
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise InvalidArgument(f"{path}: not UTF-8 text ({error})") from None
    for number, line in enumerate(text.split("\n"), 1):
        line = line.rstrip("\r")
        parts = line.split("\t") if "\t" in line else line.split()
        if "\t" in line and len(parts) > 4:  # a TREC file may be parted by any white space
            parts = line.split()
        if any(parts):
            yield f"{path}:{number}", [part.strip() for part in parts]


def _put(table, query, document, value, where):
    if not query or not document:
        raise InvalidArgument(f"{where}: an empty id; expected one without spaces")
    row = table.setdefault(query, {})
    if document in row:
        raise InvalidArgument(f"{where}: document {document!r} of query {query!r} is there twice")
    row[document] = value


def _word(value, what):
    if not isinstance(value, str) or not value or value.split() != [value]:
        raise InvalidArgument(
            f"{what} {value!r}: expected a string without spaces, which part the columns"
        )
    return value
