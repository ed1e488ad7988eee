"""The fusion lab: many ways to fuse branches of a search, judged so that luck is no argument.

Trying sixty settings and telling the best figure flatters: it was chosen on the queries it is
told of. So the lab chooses on some of the queries and scores on the others, fold by fold, and
compares that with each branch alone on the same queries.
"""

import itertools

import numpy as np

from luma_lab.bench import trec
from luma_lab.bench.fusionreport import FusionReport
from luma_lab.bench.judge import CONFIDENCE, compared
from luma_lab.bench.measure import check_count
from luma_lab.bench.truth import exact_neighbors
from luma_lab.engine.fusion import METHODS, RRF_K, fuse
from luma_lab.errors import InvalidArgument, UnknownName

DEPTH = 100
RRF_KS = (0, 2, 5, 10, 20, 60)
WEIGHT_STEPS = 10
MOST_SETTINGS = 2000


def fusion_lab(
    data, branches=None, *, by="mrr@10", measures=("mrr@10", "recall@10", "ndcg@10"),
    methods=METHODS, rrf_ks=RRF_KS, weight_steps=WEIGHT_STEPS, folds=5, resamples=5000,
    confidence=CONFIDENCE, seed=0, progress=False,
):  # fmt: skip
    """Sweep the fusion of search branches on judged queries.

    Parameters
    ----------
    data : Dataset with qrels
    branches : dict of str to branch, optional
        A branch is a list, in the order of ``data.query_ids``, of (ids, scores), best first.
        Default: ``{"vector": vector_branch(data), "text": text_branch(data)}``.
    by : str
        The measure that settings are chosen by.
    measures : iterable of str
        Columns of the table; `by` is added if it is not among them.
    methods : iterable of {"rrf", "weighted", "distribution"}
        See `luma_lab.engine.fusion`.
    rrf_ks : iterable of float
    weight_steps : int
        Weights are all multiples of 1 / weight_steps above 0 that add up to 1; halves are
        always among those of two branches.
    folds : int
        Parts the queries are split into at random: each part is scored with the setting that is
        best on the others.
    resamples, confidence, seed
        See :func:`luma_lab.bench.judge.bootstrap`; the seed also splits the queries.
    progress : bool
        Show a progress bar.

    Returns
    -------
    FusionReport

    Raises
    ------
    InvalidArgument, UnknownName
        No judgements, fewer than two branches, fewer queries than folds, a branch that does not
        fit; more than `MOST_SETTINGS` settings.
    """
    if not data.qrels:
        raise InvalidArgument(f"{data!r} has no judgements: expected a data set with qrels")
    if branches is None:
        branches = {"vector": vector_branch(data), "text": text_branch(data)}
    queries = _judged(data, branches)
    check_count("folds", folds)
    if not 2 <= folds <= len(queries):
        raise InvalidArgument(f"folds={folds}: expected from 2 to the {len(queries)} queries")
    wanted = tuple(dict.fromkeys((*measures, by)))
    settings = _settings(tuple(branches), tuple(methods), tuple(rrf_ks), weight_steps)
    values = {name: np.empty((len(queries), len(branches) + len(settings))) for name in wanted}

    def keep(place, run):
        scores = trec.evaluate(run, queries, wanted)
        for name in wanted:
            values[name][:, place] = scores.values[name]

    places = {query: place for place, query in enumerate(data.query_ids)}
    for place, found in enumerate(branches.values()):
        keep(place, {query: _listed(found[places[query]][0]) for query in queries})
    steps = enumerate(settings, len(branches))
    if progress:
        from tqdm.auto import tqdm

        steps = tqdm(steps, total=len(settings), desc="fusions")
    for place, setting in steps:
        keep(place, {q: _fused(branches, places[q], setting) for q in queries})
    picked, held_out = _held_out(values, by, len(branches), folds, seed)
    held = np.stack(list(held_out.values()), axis=1)
    best = int(values[by][:, : len(branches)].mean(axis=0).argmax())
    both = np.concatenate([values[by], held_out[by][:, None]], axis=1)
    tail = resamples, confidence, seed
    return FusionReport(
        data.name, by, wanted, tuple(branches), settings, confidence, folds,
        values={name: v.mean(axis=0) for name, v in values.items()},
        held_out=dict(zip(held_out, held.mean(axis=0), strict=True)),
        picked=[settings[i] for i in picked],
        against={
            name: compared(both, values[by][:, i], *tail) for i, name in enumerate(branches)
        },
        best_branch=tuple(branches)[best], n_queries=len(queries),
    )  # fmt: skip


def vector_branch(data, depth=DEPTH):
    """Return what an exact search of a data set's vectors finds, as `fusion_lab` takes it.

    Scores are higher for nearer rows: cosine, inner product, or minus the squared distance.

    Raises
    ------
    InvalidArgument
        The set has no vectors, no queries or no ids.
    """
    if data.base is None or data.queries is None or data.ids is None:
        raise InvalidArgument(f"{data!r}: expected vectors, query vectors and ids")
    depth = min(depth, len(data.base))
    rows, distances = exact_neighbors(data.base, data.queries, depth, metric=data.metric)
    scores = 1 - distances if data.metric == "cosine" else -distances
    ids = np.array(data.ids, dtype=object)
    return [(ids[found].tolist(), near.tolist()) for found, near in zip(rows, scores, strict=True)]


def text_branch(data, depth=DEPTH, *, index=None, language="en", **options):
    """Return what BM25 finds of a data set's texts, as `fusion_lab` takes it.

    Parameters
    ----------
    data : Dataset with texts, ids and query texts
    depth : int
    index : TextIndex, optional
        Built from ``data.texts`` in their order. Default: a `TextIndex` of this language with
        these options.

    Raises
    ------
    InvalidArgument
    """
    if data.texts is None or data.query_texts is None or data.ids is None:
        raise InvalidArgument(f"{data!r}: expected texts, query texts and ids")
    if index is None:
        from luma_lab.index import TextIndex  # late, for it loads numba

        index = TextIndex(language, **options).build(data.texts)
    found = index.search_many(data.query_texts, depth, syntax=False)
    return [([data.ids[row] for row in hits.rows], hits.scores.tolist()) for hits in found]


def as_run(data, branch):
    """Return a branch as a run, a dict of query id to ids, best first."""
    return {q: _listed(ids) for q, (ids, _) in zip(data.query_ids, branch, strict=True)}


def _judged(data, branches):
    """Return the judgements of the queries that branches answer, after checking all."""
    if not isinstance(branches, dict) or len(branches) < 2:
        raise InvalidArgument("branches: expected a dict of at least two, name to answers")
    if data.query_ids is None:
        raise InvalidArgument(f"{data!r} has no query ids: expected those of its judgements")
    for name, found in branches.items():
        if len(found) != len(data.query_ids):
            raise InvalidArgument(
                f"branch {name!r} answers {len(found)} queries; expected {len(data.query_ids)}"
            )
    asked = set(data.query_ids)
    strangers = [query for query in data.qrels if query not in asked]
    if strangers:
        raise InvalidArgument(f"judged query {strangers[0]!r} is not among the query ids")
    return data.qrels


def _settings(names, methods, rrf_ks, weight_steps):
    """Return all settings as arguments of `fuse`, the usual one first."""
    check_count("weight_steps", weight_steps)
    if weight_steps < len(names):
        raise InvalidArgument(
            f"weight_steps={weight_steps}: expected at least {len(names)}, one a branch"
        )
    for method in methods:
        if method not in METHODS:
            raise UnknownName("fusion", method, METHODS)
    parts = [
        tuple(b - a for a, b in itertools.pairwise((0, *cuts, weight_steps)))
        for cuts in itertools.combinations(range(1, weight_steps), len(names) - 1)
    ]
    shares = [tuple(round(part / weight_steps, 6) for part in split) for split in parts]
    if len(names) == 2 and weight_steps % 2:
        shares = sorted({*shares, (0.5, 0.5)})
    weights = [dict(zip(names, share, strict=True)) for share in shares]
    settings = [
        {"method": method, "k": k, "weights": weight} if method == "rrf"
        else {"method": method, "weights": weight}
        for method in methods
        for k in (rrf_ks if method == "rrf" else (None,))
        for weight in weights
    ]  # fmt: skip
    usual = {"method": "rrf", "k": RRF_K, "weights": dict.fromkeys(names, round(1 / len(names), 6))}
    settings = [usual, *(setting for setting in settings if setting != usual)]
    if len(settings) > MOST_SETTINGS:
        raise InvalidArgument(
            f"{len(settings)} settings: expected at most {MOST_SETTINGS}; lower weight_steps"
        )
    return settings


def _fused(branches, place, setting):
    answer = {name: found[place] for name, found in branches.items()}
    return [hit.id for hit in fuse(answer, **setting)]


def _held_out(values, by, first, folds, seed):
    """Return (per fold the chosen setting, per measure what the held-out queries scored)."""
    n = len(values[by])
    order = np.random.default_rng(seed).permutation(n)
    picked, held = [], {name: np.empty(n) for name in values}
    for part in np.array_split(order, folds):
        others = np.setdiff1d(order, part)
        choice = int(values[by][others, first:].mean(axis=0).argmax())
        picked.append(choice)
        for name, column in values.items():
            held[name][part] = column[part, first + choice]
    return picked, held


def _listed(ids):
    return ids.tolist() if hasattr(ids, "tolist") else list(ids)
