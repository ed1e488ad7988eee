"""Text search of a collection: mask, candidates, order, groups, facets, snippets, receipt.

Everything is read in one read transaction, and the text index stands at exactly its offset. So
each hit matches with the very meta it is returned with, and counts are counts of one moment.
"""

import time
from typing import Any, NamedTuple

import numpy as np

from luma_lab import codec
from luma_lab.engine import filters, searching
from luma_lab.engine.grouping import Grouping, check_k, check_min_score
from luma_lab.engine.text_caches import required
from luma_lab.engine.text_counting import Facets, Order, read_metas
from luma_lab.engine.text_settings import Texts, make_index
from luma_lab.errors import InvalidArgument, LumaError, PointNotFound, RowsGone, StoreClosed
from luma_lab.store import catalog, deadline, mappings
from luma_lab.store.database import luma_errors
from luma_lab.store.nearest import NULL, read_nearest
from luma_lab.types import Hits, TextHit

TIES = 6  # candidates beyond k, for those of equal score to be told apart
WIDEN = 4
RETRIES = 8
MOST_HIGHLIGHTED = 1_000_000  # characters of a field that are looked through for snippets


@luma_errors
def has_text(parts, name):
    """Return whether a collection has text fields; raise `CollectionNotFound`."""
    return catalog.require(parts.database.reader(), name).text is not None


@luma_errors
def text_candidates(parts, name, query, k, *, rows=None):
    """Return (matrix rows, scores) of the `k` best points of a query, best first.

    Inside a read transaction on ``parts.database.reader()`` the answer is of its moment, unless
    another thread has searched a later one: then points that came or went since are among the
    candidates and to be left out by whoever fetches them. For an answer of exactly one moment
    begin the transaction with ``parts.texts.reading(name)``.

    Parameters
    ----------
    query : str
    k : int
    rows : int64 array, optional
        Matrix rows: only these.

    Returns
    -------
    rows : int64 array of shape (found,), found <= k
    scores : float32 array of shape (found,)
        Descending; of equal scores the lower row comes first.

    Raises
    ------
    CollectionNotFound, InvalidArgument
    NotSupported
        The collection has no text fields.
    """
    with parts.texts.reading(name) as reading:
        moment = reading.moment
        mask = None if rows is None else moment.mask(np.asarray(rows, np.int64))
        return best_rows(moment, check_query(query), k, mask)


def best_rows(moment, query, k, mask=None):
    """Return (matrix rows, scores) of the `k` best of a `Moment`; k None: of all that match."""
    index = moment.index
    total = max(1, index.total_rows)
    wanted = total if k is None else min(total, k + TIES)
    while True:
        deadline.check()
        found, scores = index.search(query, wanted, mask=mask, check=deadline.check)
        if len(scores) < wanted or wanted >= total or scores[k - 1] > scores[-1]:
            break
        wanted = min(total, WIDEN * wanted)
    rows = moment.rows[found]
    if (scores[1:] == scores[:-1]).any():
        # Numbers of text rows are of this process; those of matrix rows are the same in all.
        order = np.lexsort((rows, -scores))
        rows, scores = rows[order], scores[order]
    return rows[:k], scores[:k]


def check_query(query):
    """Return a query; raise `InvalidArgument` unless it is a string."""
    if not isinstance(query, str):
        raise InvalidArgument(f"query is a {type(query).__name__}: expected a string")
    return query


@luma_errors
def search_text(
    parts,
    name,
    query,
    k,
    *,
    filter=None,
    min_score=None,
    min_offset=None,
    group_by=None,
    group_limit=1,
    facets=None,
    facet_size=10,
    sort=None,
    highlight=False,
    include_vector=False,
    explain=False,
):
    """Return the `Hits` of a query; see `Collection.search_text`."""
    query, k = check_query(query), check_k(k)
    check_min_score(min_score)
    tree = None if filter is None else filters.parse(filter)
    groups = None if group_by is None else Grouping(group_by, group_limit)
    if facets is not None:
        Facets(facets, facet_size)
    order = None if sort is None else Order(sort)
    if min_offset is not None:
        parts.follower.wait_for(min_offset, parts.wait_secs)
    asked = _Asked(
        query, k, tree, min_score, groups, facets, facet_size, order, highlight, include_vector,
        explain,
    )  # fmt: skip
    for _ in range(RETRIES):
        try:
            return _answer(parts, name, asked)
        except (RowsGone, StoreClosed):
            # The vectors were compacted away after the transaction began: read in another.
            parts.database.check()
            if not include_vector or parts.database.reader().in_transaction:
                raise
    raise LumaError(f"collection {name!r} changes too fast for a text search: try again")


class _Asked(NamedTuple):
    """The checked arguments of a search."""

    query: str
    k: int
    tree: Any
    min_score: float | None
    groups: Grouping | None
    facets: list | None
    facet_size: int
    order: Order | None
    highlight: bool
    include_vector: bool
    explain: bool


def _answer(parts, name, asked):
    query, k, tree, min_score, groups, facets, facet_size, order, *shown = asked
    explain = asked.explain
    counted = None if facets is None else Facets(facets, facet_size)
    started = time.perf_counter()
    with parts.texts.reading(name) as reading:
        connection, row, moment = reading
        mask = None
        if tree is not None:
            mask = moment.mask(searching.matching_rows(parts, connection, row, tree))
        planned = time.perf_counter()
        whole = explain or counted is not None or order is not None or groups is not None
        rows, scores = best_rows(moment, query, None if whole else k, mask)
        matches = len(rows)
        if min_score is not None:
            rows, scores = rows[scores >= min_score], scores[scores >= min_score]
        walked = time.perf_counter()
        if counted is not None or order is not None:
            read_metas(connection, row, rows, (counted, order))
        if order is not None:
            rows, scores = order.sorted(rows, scores)
        reranked = time.perf_counter()
        fetch = _Fetch(parts, reading, query, *shown)
        if groups is None:
            hits = fetch.best(rows[:k], scores[:k])
        else:
            hits = fetch.groups(groups, rows, scores, k)
    if counted is not None:
        hits.facets = counted.counts()
    if explain:
        ended = time.perf_counter()
        model = moment.index.model
        hits.receipt = {
            "strategy": "text" if tree is None else "filter+text",
            "exact": True,
            "kind": "text",
            "hops": 0,
            "comparisons": 0,
            "reads": 0,
            "cache_hits": 0,
            "candidates": len(rows),
            "matches": matches,
            "params": {"k": k, "variant": model.variant, "k1": model.k1, "b": model.b},
            "fingerprint": None,
            "offset": moment.offset,
            "times_ms": {
                "plan": (planned - started) * 1000,
                "walk": (walked - planned) * 1000,
                "rerank": (reranked - walked) * 1000,
                "fetch": (ended - reranked) * 1000,
            },
        }
    return hits


class _Fetch:
    """Makes hits of candidates."""

    def __init__(self, parts, reading, query, highlight, include_vector, explain):
        self._connection, self._row, self._moment = reading
        self._query, self._explain = query, explain
        self._texts = Texts(self._row.text) if highlight else None
        self._adorns = highlight or explain
        self._rows = {}
        self._matrix = None
        if include_vector:
            self._matrix = parts.matrices.checked(self._connection, self._row)

    def best(self, rows, scores):
        """Return the `Hits` of these candidates."""
        hits = Hits(self._fetched(rows, scores))
        if self._adorns:
            hits[:] = map(self._adorned, hits)
        return hits

    def groups(self, grouping, rows, scores, k):
        """Return the `Hits` of the best `k` groups."""
        hits, size = Hits(), k * grouping.limit * WIDEN
        while True:
            deadline.check()
            done = len(hits)
            hits += self._fetched(rows[done : done + size], scores[done : done + size])
            grouped = grouping(hits, k)
            if len(hits) >= len(rows) or grouping.are_full([grouped], k):
                break
            size *= WIDEN
        if self._adorns:
            for group in grouped.groups:
                group.hits[:] = map(self._adorned, group.hits)
            grouped[:] = [group.hits[0] for group in grouped.groups]
        return grouped

    def _fetched(self, rows, scores):
        rows, hits = rows.tolist(), []
        found = read_nearest(self._connection, self._row.uid, rows, self._row.generation)
        for row, score in zip(rows, scores.tolist(), strict=True):
            if row not in found:
                continue
            id, meta, _ = found[row]
            meta = None if meta is NULL else codec.decode(meta)
            vector = None if self._matrix is None else self._matrix.read(row)
            hits.append(TextHit(id, score, meta, vector))
            if self._adorns:
                self._rows[id] = row
        return hits

    def _adorned(self, hit):
        """Return a hit with its snippets and its explanation."""
        index, highlights, explanation = self._moment.index, None, None
        if self._texts is not None:
            highlights = {
                field: index.highlight(self._query, text[:MOST_HIGHLIGHTED], field=field)
                for field, text in self._texts.of_value(hit.meta).items()
                if text
            }
        if self._explain:
            explanation = index.explain(self._query, self._moment.place(self._rows[hit.id]))
        return TextHit(hit.id, hit.score, hit.meta, hit.vector, highlights, explanation)


@luma_errors
def explain_text(parts, name, query, id):
    """Return the `Explanation` of one point's score; see `Collection.explain_text`."""
    query = check_query(query)
    with parts.texts.reading(name) as reading:
        row = mappings.find_row(reading.connection, reading.row.uid, id)
        place = None if row is None else reading.moment.place(row)
        if place is None:
            raise PointNotFound(name, id)
        return reading.moment.index.explain(query, place)


@luma_errors
def analyze(parts, name, text, field=None):
    """Return the tokens of a text; see `Collection.analyze`."""
    return make_index(required(parts.database.reader(), name).text).analyze(text, field)
