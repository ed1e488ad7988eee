"""What is read of all points that match, and not only of the k best: facets and order."""

import numpy as np

from luma_lab import codec
from luma_lab.engine import filters
from luma_lab.engine.grouping import dig
from luma_lab.errors import InvalidArgument
from luma_lab.store import deadline
from luma_lab.store.mappings import ROWS_A_QUERY
from luma_lab.store.nearest import read_nearest

MAX_FACETS = 16
MAX_FACET_SIZE = 10_000
NUMBER, STRING, BOOLEAN, MISSING = range(4)


def read_metas(connection, collection, rows, readers):
    """Hand the meta of each matrix row to each of `readers` that is not None.

    Parameters
    ----------
    collection : luma_lab.store.catalog.CollectionRow
    readers : iterable of objects with ``take(row, meta)``
    """
    readers = [reader for reader in readers if reader is not None]
    rows = rows.tolist()
    for start in range(0, len(rows), ROWS_A_QUERY):
        deadline.check()
        some = rows[start : start + ROWS_A_QUERY]
        found = read_nearest(connection, collection.uid, some, collection.generation)
        for row, (_, meta, _) in found.items():
            meta = codec.decode(meta)
            for reader in readers:
                reader.take(row, meta)


class Facets:
    """Counts how many points have which value in certain fields.

    Parameters
    ----------
    paths : list of str
        Dotted paths into meta, at most 16.
    size : int
        Values kept of each, the most frequent.

    Raises
    ------
    InvalidArgument, InvalidFilter
    """

    def __init__(self, paths, size):
        if isinstance(paths, str) or not isinstance(paths, (list, tuple)):
            raise InvalidArgument(f"facets is {paths!r}: expected a list of dotted paths into meta")
        if len(paths) > MAX_FACETS:
            raise InvalidArgument(f"{len(paths)} facets: expected at most {MAX_FACETS}")
        if type(size) is not int or not 1 <= size <= MAX_FACET_SIZE:
            raise InvalidArgument(
                f"facet_size is {size!r}: expected an int from 1 to {MAX_FACET_SIZE}"
            )
        self._size, self._counts = size, {}
        for path in paths:
            if not isinstance(path, str):
                raise InvalidArgument(f"facets holds {path!r}: expected a dotted path into meta")
            self._counts[path] = filters.split_path(path), {}

    def take(self, row, meta):
        """Count one point: each value of a list once, a missing field or null not at all."""
        for segments, counts in self._counts.values():
            value = dig(meta, segments)
            if value is None:
                continue
            for key, item in _keyed(value if isinstance(value, list) else [value]).items():
                entry = counts.setdefault(key, [item, 0])
                entry[1] += 1

    def counts(self):
        """Return, by path, the list of (value, count), the most frequent first."""
        return {
            path: [
                tuple(entry)
                for _, entry in sorted(counts.items(), key=lambda item: (-item[1][1], item[0]))
            ][: self._size]
            for path, (_, counts) in self._counts.items()
        }


def _keyed(values):
    """Return values by what makes two of them equal: type and value, numbers by value."""
    return {_key(value): value for value in values if value is not None}


def _key(value):
    if isinstance(value, float) and value.is_integer() and abs(value) < 2**63:
        value = int(value)
    if isinstance(value, (dict, list)):
        return repr(_plain(value)).encode()
    return codec.encode(value)


def _plain(value):
    if isinstance(value, dict):
        return sorted((name, _plain(item)) for name, item in value.items())
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return _key(value)


class Order:
    """Sorts points by one field of their meta.

    Numbers come first, by value, then strings, by code point, then false and true; behind them
    whatever else there is and what has no such field. Points that are equal so stay in their
    order by score. Descending turns each kind round, not the order of kinds.

    Parameters
    ----------
    sort : str
        Dotted path into meta; with a leading ``-`` descending.

    Raises
    ------
    InvalidArgument, InvalidFilter
    """

    def __init__(self, sort):
        if not isinstance(sort, str) or sort.strip("-") == "":
            raise InvalidArgument(
                f"sort is {sort!r}: expected a dotted path into meta, with a leading '-' to descend"
            )
        self._descends = sort.startswith("-")
        self._path = filters.split_path(sort[1:] if self._descends else sort)
        self._values = {}

    def take(self, row, meta):
        """Note the value of one point."""
        self._values[row] = dig(meta, self._path)

    def sorted(self, rows, scores):
        """Return (rows, scores) in the new order."""
        kinds = [[], [], [], []]
        for place, row in enumerate(rows.tolist()):
            value = self._values.get(row)
            kinds[_kind(value)].append((value, place))
        places = []
        for kind in kinds[:MISSING]:
            # Sorting is stable, in reverse as well.
            kind.sort(key=lambda pair: pair[0], reverse=self._descends)
            places += [place for _, place in kind]
        places += [place for _, place in kinds[MISSING]]
        order = np.array(places, np.int64)
        return rows[order], scores[order]


def _kind(value):
    if isinstance(value, bool):
        return BOOLEAN
    if isinstance(value, (int, float)):
        return NUMBER
    return STRING if isinstance(value, str) else MISSING
