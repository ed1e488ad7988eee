"""The users' own SQL: guarded queries beside the engine, statements in the one transaction.

A query runs on a read-only connection behind a guard, with a deadline and caps. A statement runs
on the writer in a transaction that no other operation shares, for SQL can end the transaction it
runs in (``INSERT OR ROLLBACK``); each leaves the event ``sql_executed``.
"""

import contextlib
import threading

import apsw

from luma_lab import codec
from luma_lab.engine import sql_guard, sql_tables
from luma_lab.engine.sql_guard import Guard, Passed
from luma_lab.engine.sql_parameters import check_cap, check_parameters, check_text
from luma_lab.errors import InvalidArgument, LumaError, SqlError, SqlTimeout
from luma_lab.store import deadline
from luma_lab.types import Rows, WriteResult

EXECUTE_TIMEOUT_MS = 60_000
# The caller's own to explain, and what is explained already.
PASSED_ON = (
    apsw.FullError,
    apsw.IOError,
    apsw.CorruptError,
    apsw.ConnectionClosedError,
    InvalidArgument,
    SqlTimeout,
)


class Sql:
    """``lab.sql(...)`` queries, ``lab.sql.execute(...)`` changes; also inside a transaction.

    Parameters
    ----------
    apply : callable
        ``apply(operation, alone=True)`` runs an operation on a write transaction.
    open_reader : callable
        Returns the guard of a connection to query with, of the calling thread.
    """

    def __init__(self, apply, open_reader):
        self._apply = apply
        self._open_reader = open_reader

    def __call__(self, text, params=(), *, timeout_ms=None, max_rows=None, max_bytes=None):
        """Run one statement that only reads and return its `Rows`.

        Parameters
        ----------
        text : str
            ``SELECT``, ``WITH``, ``VALUES`` or ``EXPLAIN``. Beside the users' own tables there
            are the table functions of `luma_lab.engine.sql_tables`.
        params : sequence or dict
            None, bool, int, float, str, bytes, or a float32 array (bound as a blob).
        timeout_ms : int, optional
            Stop it after so long; where that is 500 or more, within twice the time.
        max_rows, max_bytes : int, optional
            Stop before more; ``truncated`` then says so.

        Raises
        ------
        InvalidArgument
            It would change something, or is not exactly one statement; a cap is no int.
        SqlError, SqlTimeout
        """
        guard = self._open_reader()
        params = check_parameters(params)
        check_cap("max_rows", max_rows)
        check_cap("max_bytes", max_bytes)
        if timeout_ms is None:
            return _explained(guard, True, _query, guard, text, params, max_rows, max_bytes)
        check_cap("timeout_ms", timeout_ms)
        with deadline.limited(timeout_ms / 1000):
            return _explained(guard, True, _query, guard, text, params, max_rows, max_bytes)

    def execute(self, text, params=(), *, timeout_ms=EXECUTE_TIMEOUT_MS):
        """Run one statement that changes tables of the users' own.

        Returns
        -------
        WriteResult
            `count` rows were affected.

        Raises
        ------
        InvalidArgument, SqlError, SqlTimeout
            Nothing was changed.
        """
        return self.execute_many([(text, params)], timeout_ms=timeout_ms)[0]

    def execute_many(self, statements, *, timeout_ms=EXECUTE_TIMEOUT_MS):
        """Run (text, params) pairs as one transaction; return a `WriteResult` for each.

        Raises
        ------
        As :meth:`execute`, with the position as ``.index``; nothing was changed.
        """
        checked = [checked_statement(text, params) for text, params in statements]
        if not checked:
            raise InvalidArgument("the batch is empty: expected at least one statement")
        check_cap("timeout_ms", timeout_ms)
        return self._apply(lambda unit: run_statements(unit, checked, timeout_ms), alone=True)


class Readers:
    """The guarded reading connections of a lab, one a thread.

    Parameters
    ----------
    parts : luma_lab.engine.lab.Parts
    events : luma_lab.engine.events.Events
    """

    def __init__(self, parts, events):
        self._parts = parts
        self._events = events
        self._local = threading.local()

    def __call__(self):
        """Return the `Guard` of the calling thread's connection."""
        self._parts.database.check()
        guard = getattr(self._local, "guard", None)
        if guard is None:
            connection = self._parts.database.connect(read_only=True)
            guard = self._local.guard = self.guard(connection, writes=False)
        return guard

    def guard(self, connection, *, writes):
        """Put a guard before a connection and give it the table functions."""
        guard = Guard(connection, writes=writes)
        sql_tables.register(connection, guard, self._parts, self._events)
        return guard


def checked_statement(text, params):
    """Return (text, params) as :func:`run_statements` takes them."""
    return check_text(text), check_parameters(params)


def run_statements(unit, statements, timeout_ms):
    """Run checked (text, params) pairs on an open transaction; return their `WriteResult`s.

    An operation for the writer, which must give it a transaction of its own.
    """
    guard = unit.guard
    results = []
    with deadline.limited(timeout_ms / 1000) if timeout_ms else contextlib.nullcontext():
        for index, (text, params) in enumerate(statements):
            try:
                count = _explained(guard, False, _run, guard, text, params)
            except LumaError as error:
                if len(statements) > 1:
                    error.index = index
                raise
            data = codec.encode({"rows_affected": count})
            results.append(WriteResult(unit.append("sql_executed", data=data), count))
    return results


def _query(guard, text, params, max_rows, max_bytes):
    passed = guard.passed.get(text) if type(text) is str else None
    if passed is None:
        sql_guard.check_some(check_text(text))
    elif passed.is_kept and not guard.writes:
        guard.begin(passed.cost, known=True)
        try:
            cursor = guard.connection.execute(text, params)
            if max_rows is None and max_bytes is None:
                return Rows(passed.columns.copy(), cursor.fetchall())
            return Rows(passed.columns.copy(), *_cut(cursor, max_rows, max_bytes))
        except apsw.Error:
            if not guard.was_judged:
                raise
            # SQLite had dropped it, or the schema has changed: prepared anew, so measured anew.
        finally:
            guard.end()
    found = []

    def look(cursor, statement, bindings):
        sql_guard.check_single(text, statement)
        if not cursor.is_readonly:
            raise InvalidArgument(
                "sql query endpoint only accepts SELECT statements: this one changes something"
            )
        # One that was kept may be of an older schema, until its first step.
        described = _description(guard, text, params) if is_kept else cursor.get_description()
        columns = _distinct([name for name, *_ in described])
        cost = guard.measure(cursor, text, statement, bindings)
        found.append(Passed(columns, cost, is_kept))
        return True

    # A text that passed the guard once may be kept: none of the house's own statements, which
    # SQLite keeps by their text too, could have passed.
    is_kept = passed is not None
    with guard.guarding():
        cursor = guard.connection.cursor()
        cursor.exec_trace = look
        cursor.execute(text, params, can_cache=is_kept)
        rows, truncated = _cut(cursor, max_rows, max_bytes)
    guard.remember(text, found[0])
    return Rows(found[0].columns.copy(), rows, truncated)


def _description(guard, text, params):
    """Return the columns of a query, prepared for this alone."""
    found = []

    def look(cursor, statement, bindings):
        found.extend(cursor.get_description())
        return False

    cursor = guard.connection.cursor()
    cursor.exec_trace = look
    with contextlib.suppress(apsw.ExecTraceAbort):
        cursor.execute(text, params, can_cache=False)
    return found


def _cut(cursor, max_rows, max_bytes):
    """Return (rows, truncated) of a statement that has begun, up to the caps."""
    rows, size = [], 0
    for row in cursor:
        if max_bytes is not None:
            for value in row:
                size += len(value) if isinstance(value, (str, bytes)) else 8
            if size > max_bytes:
                cursor.close()
                return rows, True
        if len(rows) == max_rows:
            cursor.close()
            return rows, True
        rows.append(row)
    return rows, False


def _run(guard, text, params):
    sql_guard.check_some(text)
    connection = guard.connection
    before = connection.total_changes()

    def look(cursor, statement, bindings):
        sql_guard.check_single(text, statement)
        if cursor.is_explain or (cursor.is_readonly and cursor.get_description()):
            raise InvalidArgument(
                "the statement changes nothing: expected one that does; ask with a query"
            )
        guard.measure(cursor, text, statement, bindings)
        return True

    schema = _definitions(connection)
    with guard.guarding():
        cursor = connection.cursor()
        cursor.exec_trace = look
        for _ in cursor.execute(text, params, can_cache=False):
            pass
        cursor.close()
        defined = guard.has_defined
    if not connection.in_transaction:
        raise SqlError("the statement ended the transaction it ran in: nothing was changed")
    if defined:
        # A new name given by ALTER TABLE, and what a view or trigger will ask for one day, are
        # not shown to the authorizer.
        for name, definition in _definitions(connection) - schema:
            if sql_guard.is_reserved(name) or sql_guard.names_house(definition):
                raise SqlError(
                    "names that begin with luma_, and those of table functions, are reserved"
                )
        if any(sql_guard.is_reserved(name) for name, _ in schema - _definitions(connection)):
            raise SqlError("the statement would change a table of the house")
    changed = connection.total_changes() != before and not defined
    return connection.changes() if changed else 0


def _definitions(connection):
    """Return the set of (name, text) of everything defined that has to do with the house."""
    found = connection.execute("SELECT name, sql FROM sqlite_schema WHERE sql IS NOT NULL")
    return {(n, s) for n, s in found if sql_guard.is_reserved(n) or "luma_" in s.lower()}


def _explained(guard, reading, call, *args):
    """Return what a call returns; SQLite's refusals leave it as the house's errors."""
    try:
        return call(*args)
    except PASSED_ON:
        raise
    except (LumaError, apsw.Error, MemoryError, OverflowError, UnicodeDecodeError) as error:
        raise _in_words(guard, reading, error) from None


def _in_words(guard, reading, error):
    stopped = isinstance(error, apsw.InterruptError)
    denied = isinstance(error, apsw.Error) and guard.refused == sql_guard.TOO_LATE
    if deadline.passed() and (stopped or denied or isinstance(error, LumaError)):
        return SqlTimeout(
            "the statement was stopped: its time limit had passed; nothing was changed"
        )
    if isinstance(error, LumaError):
        return error
    if stopped and guard.is_exhausted:
        return SqlError(
            "the statement was stopped: SQL in this process takes more than "
            f"{sql_guard.MAX_MEMORY_BYTES >> 20} MiB of memory"
        )
    if stopped:
        return SqlError("the statement was interrupted")
    if guard.refused == sql_guard.TOO_LARGE or isinstance(error, (apsw.NoMemError, MemoryError)):
        return SqlError("the statement, or its program, is too large for memory")
    if isinstance(error, apsw.AuthError):
        what = guard.refused or "this"
        if reading and not what.startswith(("READ", "FUNCTION")):
            return InvalidArgument(
                f"sql query endpoint only accepts SELECT statements: {what} is refused"
            )
        return SqlError(f"not authorized: {what} is refused")
    if isinstance(error, apsw.BindingsError):
        return SqlError(f"parameters do not fit the statement: {error}")
    if isinstance(error, apsw.TooBigError):
        return SqlError(guard.too_long())
    if isinstance(error, OverflowError):
        return SqlError("unsupported parameter: integers must fit in 64 bits")
    if isinstance(error, UnicodeDecodeError):
        return SqlError("a text is not valid UTF-8: ask for it as CAST(... AS BLOB)")
    return SqlError(str(error).removeprefix("SQLError: "))


def _distinct(names):
    """Return column names without repeats: the second ``a`` becomes ``a_2``."""
    found, taken, repeats = [], set(), {}
    for name in names:
        candidate, number = name, repeats.get(name, 1)
        while candidate in taken:
            number += 1
            candidate = f"{name}_{number}"
        repeats[name] = number
        taken.add(candidate)
        found.append(candidate)
    return found
