"""Fusing ranked lists: one order out of what several branches of a search found.

A branch is a list of ids, best first, with their scores. Pure functions over them: nothing here
knows of collections. Every fused hit keeps the rank, score and weight it had in each branch, for
a fused score alone says little: the best that `rrf` gives two branches is 0.033.
"""

import math
import numbers
from operator import ge
from typing import Any, NamedTuple

import msgspec

from luma_lab.errors import InvalidArgument, UnknownName

RRF_K = 60
METHODS = ("rrf", "weighted", "distribution")
MAX_WEIGHT = 1e9
SPREAD = 3.0  # standard deviations from the mean to an end of the scale of `distribution`


class Standing(msgspec.Struct, frozen=True):
    """Where a hit stood in one branch; `rank` counts from 1."""

    rank: int
    score: float
    weight: float


class Fused(NamedTuple):
    """A hit of a fusion.

    Attributes
    ----------
    id : str or int
    score : float
    branches : dict of str to Standing
        Only of the branches that found it.
    """

    id: Any
    score: float
    branches: dict[str, Standing]


def rrf(branches, *, k=RRF_K, weights=None, limit=None):
    """Fuse by reciprocal rank: a hit scores the sum of ``weight / (k + rank)``.

    Scores of branches need not be comparable, for only their order counts.

    Parameters
    ----------
    branches : dict of str to (ids, scores)
        Best first, each id once; ids of all branches are of one type.
    k : float
        At least 0. The larger, the less the first ranks stand out.
    weights : dict of str to float, optional
        By branch, 0 to 1e9, not all 0; 1 for a branch left out. What only branches of weight
        0 found is left out.
    limit : int, optional
        Return only so many of the best.

    Returns
    -------
    list of Fused
        By descending score, then ascending id: the same input gives the same order.

    Raises
    ------
    InvalidArgument, UnknownName
    """
    if not _is_number(k) or not 0 <= k < math.inf:
        raise InvalidArgument(f"the k of rrf is {k!r}: expected a number of at least 0")

    def count(scores):
        return [1 / (k + rank) for rank in range(1, len(scores) + 1)]

    return _fuse(branches, weights, count, limit=limit)


def weighted(branches, *, weights=None, limit=None):
    """Fuse by scores brought to one scale: the weighted mean of min-max normalised scores.

    In each branch the best hit counts 1, the worst 0 and the others in between; where all score
    the same (or there is but one) each counts 1. A hit counts 0 in a branch that did not find
    it. See :func:`rrf` for parameters and order; scores are from 0 to 1.
    """
    return _fuse(branches, weights, min_max, mean=True, limit=limit)


def distribution(branches, *, weights=None, limit=None):
    """Fuse by scores brought to one scale by their distribution in each branch.

    Three standard deviations below the branch's mean count 0, three above 1, linear in between
    and cut off beyond; where all score the same each counts 0.5. One outlier moves the others
    less than in :func:`weighted`, and the last hit of a branch counts more than none.
    """
    return _fuse(branches, weights, by_distribution, mean=True, limit=limit)


def fuse(branches, method="rrf", *, k=RRF_K, weights=None, limit=None):
    """Fuse by the name of the method, one of :data:`METHODS`; `k` is for ``"rrf"`` alone."""
    if method == "rrf":
        return rrf(branches, k=k, weights=weights, limit=limit)
    if method == "weighted":
        return weighted(branches, weights=weights, limit=limit)
    if method == "distribution":
        return distribution(branches, weights=weights, limit=limit)
    raise UnknownName("fusion", method, METHODS)


def min_max(scores):
    """Return scores moved and scaled to 0..1; all 1 where they are equal."""
    low, high = min(scores), max(scores)
    if high - low <= 0:
        return [1.0] * len(scores)
    if math.isinf(high - low):
        return [(s / 2 - low / 2) / (high / 2 - low / 2) for s in scores]
    return [(s - low) / (high - low) for s in scores]


def by_distribution(scores):
    """Return scores on the scale from mean - 3 sd to mean + 3 sd, cut to 0..1; 0.5 where equal."""
    largest = max(map(abs, scores)) or 1.0
    scaled = [s / largest for s in scores]  # squares of large scores would overflow
    mean = math.fsum(scaled) / len(scaled)
    spread = math.sqrt(math.fsum((s - mean) ** 2 for s in scaled) / len(scaled))
    if min(scaled) == max(scaled) or spread == 0:
        return [0.5] * len(scores)
    low, width = mean - SPREAD * spread, 2 * SPREAD * spread
    return [min(1.0, max(0.0, (s - low) / width)) for s in scaled]


def check_weights(weights, names):
    """Return {name: weight} of all branches.

    Raises
    ------
    UnknownName
        A weight for a branch that is not there.
    InvalidArgument
        Negative, not a number, too large, or all 0.
    """
    if weights is None:
        return dict.fromkeys(names, 1.0)
    if not isinstance(weights, dict):
        raise InvalidArgument(f"weights is {weights!r}: expected a dict of branch to weight")
    for name, weight in weights.items():
        if name not in names:
            raise UnknownName("branch in weights", name, names)
        if not _is_number(weight) or not 0 <= weight <= MAX_WEIGHT:
            raise InvalidArgument(
                f"the weight of {name!r} is {weight!r}: expected a number from 0 to {MAX_WEIGHT:g}"
            )
    made = {name: float(weights.get(name, 1.0)) for name in names}
    if names and not any(made.values()):
        raise InvalidArgument("all weights are 0: expected at least one branch that counts")
    return made


def _fuse(branches, weights, count, mean=False, limit=None):
    if not isinstance(branches, dict) or not branches:
        raise InvalidArgument(
            f"branches is {branches!r}: expected a dict of name to (ids, scores), not empty"
        )
    weights = check_weights(weights, tuple(branches))
    total = math.fsum(weights.values()) if mean else 1.0
    checked, counted = {}, []
    for name, branch in branches.items():
        ids, scores = checked[name] = _check_branch(name, branch)
        if ids and weights[name]:
            factor = weights[name] / total
            counted.append((ids, [factor * share for share in count(scores)]))
    sums = _sums(counted)
    best = sorted(sums)
    best.sort(key=sums.__getitem__, reverse=True)  # stable: equal ones stay in the order of ids
    places = {name: {id: i for i, id in enumerate(ids)} for name, (ids, _) in checked.items()}
    fused = []
    for id in best[:limit]:
        standings = {}
        for name, (_, scores) in checked.items():
            place = places[name].get(id)
            if place is not None:
                standings[name] = Standing(place + 1, scores[place], weights[name])
        fused.append(Fused(id, sums[id], standings))
    return fused


def _sums(counted):
    """Return {id: sum of its shares}, which depends on the shares alone, not on their order."""
    if len(counted) <= 2:  # so does the sum of two
        sums = dict(zip(*counted[0], strict=True)) if counted else {}
        for id, share in zip(*counted[1], strict=True) if len(counted) == 2 else ():
            sums[id] = sums[id] + share if id in sums else share
        return sums
    parts = {}
    for ids, shares in counted:
        for id, share in zip(ids, shares, strict=True):
            parts.setdefault(id, []).append(share)
    return {id: math.fsum(shares) for id, shares in parts.items()}


def _check_branch(name, branch):
    try:
        ids, scores = branch
        ids, scores = _plain(ids), list(map(float, _plain(scores)))
    except (TypeError, ValueError):
        raise InvalidArgument(f"branch {name!r} is not (ids, scores of numbers)") from None
    if len(ids) != len(scores):
        raise InvalidArgument(f"branch {name!r} has {len(ids)} ids and {len(scores)} scores")
    if len(set(ids)) != len(ids):
        seen = set()
        twice = next(id for id in ids if id in seen or seen.add(id))
        raise InvalidArgument(f"branch {name!r} holds id {twice!r} twice")
    if not all(map(math.isfinite, scores)):
        bad = next(score for score in scores if not math.isfinite(score))
        raise InvalidArgument(f"branch {name!r} holds the score {bad}: expected finite ones")
    if not all(map(ge, scores, scores[1:])):
        place = next(i for i in range(1, len(scores)) if scores[i] > scores[i - 1])
        raise InvalidArgument(
            f"branch {name!r} is not best first: rank {place + 1} scores {scores[place]}, the one "
            f"before it {scores[place - 1]}"
        )
    return ids, scores


def _plain(values):
    return values.tolist() if hasattr(values, "tolist") else list(values)


def _is_number(value):
    return isinstance(value, numbers.Real) and not isinstance(value, bool)
