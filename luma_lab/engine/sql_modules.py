"""How a Python function becomes a table of SQL: an eponymous virtual table with arguments.

SQLite calls these methods several times a row, so they hold no more than they must.
"""

import apsw

from luma_lab.errors import InvalidArgument
from luma_lab.store import deadline

PAGE = 500
SEEK_COST, SCAN_COST = 10.0, 1e6


class TableFunction:
    """An eponymous read-only virtual table whose hidden columns are arguments.

    Parameters
    ----------
    columns, arguments : tuple of str
    required : int
        How many of the arguments must be given.
    keys : tuple of str
        Columns by which `rows` can look up instead of scanning.
    rows : callable
        ``rows(given)`` with a dict of what was given by name. It returns an iterator of tuples
        of the columns; or, with `rank`, a list of them with all arguments and the rank less
        one behind.
    guard : luma_lab.engine.sql_guard.Guard
    rank : str, optional
        The column that counts the rows from 1.
    """

    def __init__(self, columns, arguments, required, keys, rows, guard, rank=None):
        self.columns, self.arguments, self.required = columns, arguments, required
        self.names = (*columns, *arguments)
        self.keys = keys
        self.rows = rows
        self.guard = guard
        self.rank = None if rank is None else self.names.index(rank)
        self.plans = {}

    def Create(self, connection, module, database, table, *arguments):
        """Say what the table looks like."""
        hidden = "".join(f", {name} HIDDEN" for name in self.arguments)
        return f"CREATE TABLE x({', '.join(self.columns)}{hidden})", _Table(self)

    Connect = Create

    def call(self, text, values):
        """Return the rows for the arguments named in the text of a plan."""
        names = self.plans.get(text)
        if names is None:
            names = self.plans[text] = self._names_in(text)
        return self.rows(dict(zip(names, values, strict=True)))

    def _names_in(self, text):
        given = tuple(text.split(",")) if text else ()
        for name in self.arguments[: self.required]:
            if name not in given:
                listed = ", ".join(self.arguments[: self.required])
                raise InvalidArgument(f"the argument {name!r} is missing: expected ({listed})")
        return given


class _Table:
    def __init__(self, function):
        self._function = function

    def BestIndexObject(self, plan):
        function = self._function
        given = []
        for i in range(plan.nConstraint):
            column = plan.get_aConstraint_iColumn(i)
            name = function.names[column] if column >= 0 else None
            is_argument = name in function.arguments
            if plan.get_aConstraint_op(i) != apsw.SQLITE_INDEX_CONSTRAINT_EQ or not (
                is_argument or name in function.keys
            ):
                continue
            if not plan.get_aConstraint_usable(i):
                if is_argument:
                    return False  # a plan in which an argument comes too late
                continue
            if name in given:
                continue
            given.append(name)
            plan.set_aConstraintUsage_argvIndex(i, len(given))
            plan.set_aConstraintUsage_omit(i, is_argument)
        # A missing argument is said by Filter: a refusal here would only read "no query solution".
        plan.idxStr = ",".join(given)
        seeks = bool(function.required) or any(name in function.keys for name in given)
        plan.estimatedCost = SEEK_COST if seeks else SCAN_COST
        plan.estimatedRows = 10 if seeks else 100_000
        plan.orderByConsumed = (
            function.rank is not None
            and plan.nOrderBy == 1
            and plan.get_aOrderBy_iColumn(0) == function.rank
            and not plan.get_aOrderBy_desc(0)
        )
        return True

    def Open(self):
        function = self._function
        return _Scan(function) if function.rank is None else _Ranked(function)

    def Disconnect(self):
        pass

    Destroy = Disconnect


class _Ranked:
    """Goes over a list that is ready."""

    __slots__ = ("Column", "_function", "_row", "_rows")

    def __init__(self, function):
        self._function = function

    def Filter(self, number, text, values):
        self._rows = iter(self._function.call(text, values))
        self.Next()

    def Next(self):
        self._row = row = next(self._rows, None)
        if row is not None:
            self.Column = row.__getitem__  # of -1, the row's id, is the last

    def Eof(self):
        return self._row is None

    def Rowid(self):
        return self._row[-1]

    def Close(self):
        self._rows = self._row = None


class _Scan:
    """Goes over rows while they are read, which is trusted to read the house's tables."""

    __slots__ = ("_function", "_number", "_row", "_rows")

    def __init__(self, function):
        self._function = function

    def Filter(self, number, text, values):
        self._number = -1
        self._rows = iter(self._function.call(text, values))
        self.Next()

    def Next(self):
        self._number += 1
        if self._number % PAGE == 0:
            deadline.check()
        with self._function.guard.trusted():
            self._row = next(self._rows, None)

    def Eof(self):
        return self._row is None

    def Column(self, number):
        if number < 0:
            return self._number
        return self._row[number] if number < len(self._row) else None

    def Rowid(self):
        return self._number

    def Close(self):
        self._rows = iter(())
