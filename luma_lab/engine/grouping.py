"""What searches of every kind do with their hits: group them, cut them at a score."""

import numbers

import numpy as np

from luma_lab import codec
from luma_lab.engine import filters
from luma_lab.errors import InvalidArgument
from luma_lab.types import Group, Hits


class Grouping:
    """Folds hits into groups by the value of one field of their meta."""

    def __init__(self, group_by, group_limit):
        if not isinstance(group_by, str):
            raise InvalidArgument(f"group_by is {group_by!r}: expected a dotted path into meta")
        if type(group_limit) is not int or group_limit < 1:
            raise InvalidArgument(f"group_limit is {group_limit!r}: expected an int of at least 1")
        self.path = filters.split_path(group_by)
        self.limit = group_limit

    def __call__(self, hits, k):
        """Return the `Hits` of the best `k` groups; a hit without the field is one of its own."""
        found = {}
        for position, hit in enumerate(hits):
            value = dig(hit.meta, self.path)
            place = (position,) if value is None else codec.encode(value)
            if place not in found:
                if len(found) == k:
                    continue
                found[place] = Group(value, [])
            if len(found[place].hits) < self.limit:
                found[place].hits.append(hit)
        groups = list(found.values())
        return Hits((group.hits[0] for group in groups), groups=groups)

    def are_full(self, answers, k):
        """Return whether no further candidate could add to any answer."""
        return all(
            len(hits) == k and all(len(group.hits) == self.limit for group in hits.groups)
            for hits in answers
        )


def dig(meta, path):
    """Return what stands in a meta at a path of segments, None where nothing does."""
    for segment in path:
        if not isinstance(meta, dict) or segment not in meta:
            return None
        meta = meta[segment]
    return meta


def above(hits, min_score):
    """Return the `Hits` that score at least `min_score`, and their groups."""
    groups = hits.groups
    if groups is not None:
        groups = [
            Group(g.key, [h for h in g.hits if h.score >= min_score])
            for g in groups
            if g.hits[0].score >= min_score
        ]
    return Hits((h for h in hits if h.score >= min_score), groups=groups)


def check_k(k):
    """Return `k` as an int of at least 1, or raise `InvalidArgument`."""
    if isinstance(k, bool) or not isinstance(k, (int, np.integer)) or k < 1:
        raise InvalidArgument(f"invalid k: {k!r}: expected an int of at least 1")
    return int(k)


def check_min_score(min_score):
    """Raise unless `min_score` is None or a number that a float can be."""
    if min_score is None:
        return
    real = isinstance(min_score, numbers.Real) and not isinstance(min_score, bool)
    if not real or min_score != min_score:
        raise InvalidArgument(f"min_score is {min_score!r}: expected a number")
    try:
        float(min_score)
    except OverflowError:
        raise InvalidArgument("min_score is an int too large for a float") from None
