"""Hybrid search: what vectors found and what words found, fused into one order.

Both branches look at the points of one read transaction and through one filter. Each hit keeps
its rank and score in the branches that found it, for the fused score speaks of ranks, not of how
well anything matches.
"""

import math
import numbers
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np

from luma_lab import codec
from luma_lab.engine import embedding, filters, fusion, planner, points, searching, texting
from luma_lab.engine.fusion import Standing
from luma_lab.engine.grouping import Grouping, check_k
from luma_lab.errors import InvalidArgument, LumaError, NotSupported, UnknownName
from luma_lab.store import catalog, deadline, mappings
from luma_lab.store.database import luma_errors
from luma_lab.store.nearest import NULL, read_nearest
from luma_lab.types import Hit, Hits

BRANCHES = ("vector", "text")
LEAST_CANDIDATES = 100
CANDIDATES_PER_HIT = 4
RETRIES = 8
WIDEN = 4


class HybridHit(Hit, frozen=True):
    """A hit of a hybrid search.

    Attributes
    ----------
    score : float
        Of the fusion, or of the reranker where there was one.
    branches : dict of str to Standing
        Rank, score and weight in ``"vector"`` and ``"text"``, where the branch found it.
    fused : float
        The score of the fusion.
    """

    branches: dict[str, Standing] | None = None
    fused: float = 0.0


@dataclass
class _Asked:
    """A hybrid search, checked."""

    text: str | None
    k: int
    method: str
    rrf_k: float
    weights: dict[str, float]
    depth: int
    tree: Any
    rerank: Any
    groups: Grouping | None
    include_vector: bool
    explain: bool
    times: dict[str, float] = field(default_factory=dict)


def search_hybrid(
    parts,
    name,
    vector=None,
    text=None,
    k=10,
    *,
    fusion="rrf",
    rrf_k=fusion.RRF_K,
    weights=None,
    candidates=None,
    filter=None,
    rerank=None,
    group_by=None,
    group_limit=1,
    min_offset=None,
    include_vector=False,
    explain=False,
):
    """Return the `Hits` of a hybrid search; see `Collection.search_hybrid`."""
    k = check_k(k)
    if vector is None and text is None:
        raise InvalidArgument("a hybrid search needs a vector, a text or both")
    if text is not None:
        texting.check_query(text)
    if rerank is not None and not callable(rerank):
        raise InvalidArgument(f"rerank is {rerank!r}: expected a callable (text, hits) -> scores")
    groups = None if group_by is None else Grouping(group_by, group_limit)
    asked = _Asked(
        text,
        k,
        *check_fusion(fusion, rrf_k, weights),
        _check_depth(candidates, k, groups),
        None if filter is None else filters.parse(filter),
        rerank,
        groups,
        bool(include_vector),
        bool(explain),
    )
    if min_offset is not None:
        parts.follower.wait_for(min_offset, parts.wait_secs)
    search = partial(_search, parts, name, asked)
    if vector is not None:
        row = parts.follower.row(name)
        return search(points.check_vectors(vector, 1, row.dim, name, single=True))
    if embedding.can_embed(parts, name):
        if text.strip():
            return embedding.answer(parts, name, [text], partial(_embedded, parts, name, search))
        if not texting.has_text(parts, name):
            raise InvalidArgument("the text is empty: there is nothing to embed")
    return search(None)


def check_fusion(fusion_, rrf_k=fusion.RRF_K, weights=None):
    """Return (method, k, weights by branch) of how to fuse.

    Parameters
    ----------
    fusion_ : str, or dict with ``method``, ``k`` and ``weights``
        What a dict leaves out the other two arguments say.

    Raises
    ------
    UnknownName, InvalidArgument
    """
    method = fusion_
    if isinstance(fusion_, dict):
        known = ("method", "k", "weights")
        for key in fusion_:
            if key not in known:
                raise UnknownName("field of fusion", key, known)
        method = fusion_.get("method", "rrf")
        rrf_k = fusion_.get("k", rrf_k)
        weights = fusion_.get("weights", weights)
    if method not in fusion.METHODS:
        raise UnknownName("fusion", method, fusion.METHODS)
    checked = fusion.check_weights(weights, BRANCHES)
    fusion.rrf({"vector": ((), ())}, k=rrf_k)
    return method, rrf_k, checked


def _check_depth(candidates, k, groups):
    if candidates is None:
        return max(LEAST_CANDIDATES, CANDIDATES_PER_HIT * k * (groups.limit if groups else 1))
    if isinstance(candidates, bool) or not isinstance(candidates, (int, np.integer)):
        raise InvalidArgument(f"candidates is {candidates!r}: expected an int")
    if candidates < k:
        raise InvalidArgument(f"candidates is {candidates}: expected at least k = {k}")
    return int(candidates)


def _embedded(parts, name, search, queries):
    # An LSA knows nothing of words it never met: under zeros points would rank by their ids.
    if not queries.any() and texting.has_text(parts, name):
        return search(None)
    return search(queries)


def _search(parts, name, asked, queries):
    depth = asked.depth
    while True:
        deadline.check()
        asked.times = dict.fromkeys(("plan", "walk", "text", "fetch", "rerank"), 0.0)
        hits, most, receipt = _fused(parts, name, asked, queries, depth)
        if asked.rerank is not None:  # outside the transaction: it may take its time, or search
            started = time.perf_counter()
            hits = _reranked(asked, hits)
            asked.times["rerank"] = _since(started)
        if asked.groups is None:
            hits = Hits(hits[: asked.k])
            break
        hits = asked.groups(hits, asked.k)
        if depth >= most or asked.groups.are_full([hits], asked.k):
            break
        depth *= WIDEN
    if asked.explain:
        hits.receipt = {**receipt, "times_ms": asked.times}
    return hits


@luma_errors
def _fused(parts, name, asked, queries, depth):
    """Return (hits in the order of the fusion, most points of a branch, receipt or None)."""
    for _ in range(RETRIES):
        started = time.perf_counter()
        with _reading(parts, name, asked, queries is not None) as (connection, row, moment):
            rows = None
            if asked.tree is not None:
                rows = searching.matching_rows(parts, connection, row, asked.tree)
            found = _Found(parts, connection, row, moment, rows, asked, queries)
            if (queries is not None or asked.include_vector) and not found.take_snapshot():
                continue  # dropped and created again, or compacted, a moment ago
            asked.times["plan"] = _since(started)
            branches = found.branches(depth)
            fused = fusion.fuse(
                branches,
                asked.method,
                k=asked.rrf_k,
                weights={name: asked.weights[name] for name in branches},
                limit=asked.k if asked.rerank is None and asked.groups is None else None,
            )
            started = time.perf_counter()
            hits = found.hits(fused)
            asked.times["fetch"] = _since(started)
            receipt = _receipt(found, asked, depth, branches) if asked.explain else None
            return hits, found.most, receipt
    raise LumaError(f"collection {name!r} changes too fast for a hybrid search: try again")


@contextmanager
def _reading(parts, name, asked, has_vector):
    """Yield (connection, catalog row, moment of the text index or None) of one transaction."""
    if asked.text is not None and texting.has_text(parts, name):
        with parts.texts.reading(name) as reading:
            yield reading
        return
    if not has_vector:
        raise NotSupported(
            f"collection {name!r} has neither text fields nor a fitted embedder: give it "
            "text_fields, or call use_embedder"
        )
    connection = parts.database.reader()
    connection.execute("BEGIN")
    try:
        yield connection, catalog.require(connection, name), None
    finally:
        connection.execute("COMMIT")


class _Found:
    """The branches of one search, and the points they name."""

    def __init__(self, parts, connection, row, moment, rows, asked, queries):
        self.parts, self.connection, self.row = parts, connection, row
        self.moment, self.rows, self.asked, self.queries = moment, rows, asked, queries
        self.snapshot = self.candidates = None
        self.ids = {}  # by matrix row
        self.row_of = {}

    @property
    def most(self):
        """How many points a branch can name."""
        return self.row.live if self.rows is None else len(self.rows)

    def take_snapshot(self):
        """Take what vectors are looked up in; return whether it has the rows of the transaction."""
        self.snapshot = self.parts.follower.snapshot(self.row.name)
        now, row = self.snapshot.row, self.row
        return (now.uid, now.generation) == (row.uid, row.generation)

    def branches(self, depth):
        """Return {name: (ids, scores)}, each up to `depth` of the best."""
        made = {}
        if self.queries is not None:
            started = time.perf_counter()
            made["vector"] = self._vector(depth)
            self.asked.times["walk"] = _since(started)
        if self.moment is not None:
            started = time.perf_counter()
            mask = None if self.rows is None else self.moment.mask(self.rows)
            rows, scores = texting.best_rows(self.moment, self.asked.text, depth, mask)
            made["text"] = self._named(rows.tolist(), scores.astype(float).tolist())
            self.asked.times["text"] = _since(started)
        return made

    def _vector(self, depth):
        wanted, rows = max(1, min(depth, self.most)), self.rows
        if rows is None:
            found = planner.find_candidates(self.snapshot, self.queries, wanted)
            made = self._nearest(found)
            if len(made[0]) >= min(wanted, self.most):
                return made
            # The snapshot is later than the transaction: some of its points are not there yet.
            rows = np.array(mappings.live_rows(self.connection, self.row.uid), np.int64)
        return self._nearest(planner.find_among(self.snapshot, self.queries, wanted, rows))

    def _nearest(self, found):
        self.candidates = found
        kept = found.rows[0] >= 0
        best = 1.0 if self.row.metric == "cosine" else 0.0
        distances = found.distances[0][kept].astype(float)
        return self._named(found.rows[0][kept].tolist(), (best - distances).tolist())

    def _named(self, rows, scores):
        """Return (ids, scores) of the rows that are points, by score and then by id."""
        new = [row for row in rows if row not in self.ids]
        self.ids |= mappings.ids_at(self.connection, self.row.uid, new)
        named = [
            (-score, self.ids[row], row)
            for row, score in zip(rows, scores, strict=True)
            if row in self.ids
        ]
        named.sort()
        self.row_of |= {id: row for _, id, row in named}
        return [id for _, id, _ in named], [-score for score, _, _ in named]

    def hits(self, fused):
        """Return the `HybridHit`s of what was fused."""
        rows = [self.row_of[hit.id] for hit in fused]
        points = read_nearest(self.connection, self.row.uid, rows, self.row.generation)
        made = []
        for row, (id, score, branches) in zip(rows, fused, strict=True):
            meta = points[row][1]
            meta = None if meta is NULL else codec.decode(meta)
            # Of the snapshot: it holds on to a matrix that is compacted meanwhile.
            vector = self.snapshot.vectors[row].copy() if self.asked.include_vector else None
            made.append(HybridHit(id, score, meta, vector, branches, score))
        return made


def _reranked(asked, hits):
    """Return hits in the order of the caller's scores, which become theirs."""
    try:
        scores = asked.rerank(asked.text, list(hits))
        scores = scores.tolist() if hasattr(scores, "tolist") else list(scores)
    except LumaError:
        raise
    except Exception as error:
        raise InvalidArgument(f"rerank raised {type(error).__name__}: {error}") from error
    if len(scores) != len(hits):
        raise InvalidArgument(f"rerank gave {len(scores)} scores for {len(hits)} hits")
    for score in scores:
        if not isinstance(score, numbers.Real) or not math.isfinite(score):
            raise InvalidArgument(f"rerank gave the score {score!r}: expected finite numbers")
    made = [
        HybridHit(h.id, float(s), h.meta, h.vector, h.branches, h.fused)
        for h, s in zip(hits, scores, strict=True)
    ]
    made.sort(key=lambda hit: (-hit.score, hit.id))
    return made


def _receipt(found, asked, depth, branches):
    made = {
        "strategy": "text" if found.candidates is None else found.candidates.strategy,
        "exact": True,
        "kind": "text",
        "hops": 0,
        "comparisons": 0,
        "reads": 0,
        "cache_hits": 0,
        "fingerprint": None,
        "offset": found.moment.offset if found.moment is not None else None,
    }
    if found.candidates is not None:
        made |= searching.receipt_of(found.snapshot, found.candidates, 0, asked.k, {})
        if found.moment is not None:
            made |= {"strategy": f"{made['strategy']}+text", "offset": found.moment.offset}
    return made | {
        "kind": f"hybrid:{made['kind']}" if len(branches) > 1 else made["kind"],
        "candidates": sum(len(ids) for ids, _ in branches.values()),
        "matches": None if found.rows is None else len(found.rows),
        "params": {
            "k": asked.k,
            "fusion": asked.method,
            "rrf_k": asked.rrf_k,
            "weights": {name: asked.weights[name] for name in branches},
            "depth": depth,
        },
    }


def _since(started):
    return (time.perf_counter() - started) * 1000
