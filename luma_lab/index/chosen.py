"""Rows that may be answered, as a caller names them: checked once, turned into a mask once."""

import weakref

import numpy as np

from luma_lab.index.protocol import check_ascending
from luma_lab.index.rows import read_only

REMEMBERED = 4  # masks of `total_rows` bytes each, at most


class ChosenRows:
    """Ascending row numbers of a table of `total` rows, also as a mask.

    Parameters
    ----------
    rows : int64 array
    total : int
    made : list
        Holds the mask once it is made; shared by all that stand for the same rows.
    """

    __slots__ = ("_made", "_total", "rows")

    def __init__(self, rows, total, made):
        self.rows = rows
        self._total = total
        self._made = made

    def mask(self):
        """Return the read-only bool array of shape (total,), made when first asked for."""
        if not self._made:
            mask = np.zeros(self._total, bool)
            mask[self.rows] = True
            self._made.append(read_only(mask))
        return self._made[0]


class RowChoices:
    """Makes `ChosenRows`, and knows again a read-only array that it was given before.

    A read-only array that owns its memory is taken at its word; it is not kept alive.
    Thread-safe.
    """

    def __init__(self):
        self._known = {}

    def take(self, rows, total):
        """Return the `ChosenRows` of ascending integers without repeats, below `total`.

        Raises
        ------
        InvalidArgument
        """
        known = self._known.get(id(rows))
        if known is not None and known[0]() is rows and known[1] == total:
            return ChosenRows(rows, total, known[2])
        checked = check_ascending(rows, total)
        chosen = ChosenRows(read_only(checked), total, [])
        if checked is rows and not rows.flags.writeable and rows.base is None:
            if len(self._known) >= REMEMBERED:
                self._known = {}
            self._known[id(rows)] = weakref.ref(rows), total, chosen._made
        return chosen
