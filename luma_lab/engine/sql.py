"""The users' own SQL: guarded queries beside the engine, statements in the one transaction.

A query runs on a read-only connection behind a guard, with a deadline and caps. A statement runs
on the writer in a transaction that no other operation shares, for SQL can end the transaction it
runs in (``INSERT OR ROLLBACK``); each leaves the event ``sql_executed``.
"""

import contextlib
import threading
import time

import apsw
import numpy as np

from luma_lab import codec
from luma_lab.engine import sql_guard, sql_tables
from luma_lab.engine.sql_guard import Guard
from luma_lab.errors import InvalidArgument, LumaError, SqlError, SqlTimeout
from luma_lab.store import deadline
from luma_lab.types import Rows, WriteResult

PROGRESS_STEPS = 1000
EXECUTE_TIMEOUT_MS = 60_000
PARAMETERS = (type(None), bool, int, float, str, bytes)


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
            Stop it after so long.
        max_rows, max_bytes : int, optional
            Stop before more; ``truncated`` then says so.

        Raises
        ------
        InvalidArgument
            It would change something, or is not exactly one statement.
        SqlError, SqlTimeout
        """
        guard = self._open_reader()
        params = _parameters(params)
        with _limited(guard, timeout_ms), _explained(guard, reading=True):
            return _query(guard, _text(text), params, max_rows, max_bytes)

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
        _check_timeout(timeout_ms)
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
    return _text(text), _parameters(params)


def run_statements(unit, statements, timeout_ms):
    """Run checked (text, params) pairs on an open transaction; return their `WriteResult`s.

    An operation for the writer, which must give it a transaction of its own.
    """
    guard = unit.guard
    results = []
    with _limited(guard, timeout_ms):
        for index, (text, params) in enumerate(statements):
            try:
                with _explained(guard, reading=False):
                    count = _run(guard, text, params)
            except LumaError as error:
                if len(statements) > 1:
                    error.index = index
                raise
            data = codec.encode({"rows_affected": count})
            results.append(WriteResult(unit.append("sql_executed", data=data), count))
    return results


def _query(guard, text, params, max_rows, max_bytes):
    sql_guard.check_some(text)
    connection = guard.connection
    ours = not connection.in_transaction
    if ours:
        connection.execute("BEGIN")
    try:
        with guard.guarding():
            cursor, seen = connection.cursor(), []
            cursor.exec_trace = lambda c, statement, bindings: _look(
                guard, c, text, statement, seen
            )
            rows, size, truncated = [], 0, False
            # A text that passed the guard once may be prepared no more: none of the house's own
            # statements, which SQLite keeps by their text too, could have passed.
            passed = text in guard.passed
            for row in cursor.execute(text, params, can_cache=passed):
                if max_bytes is not None:
                    size += sum(len(v) if isinstance(v, (str, bytes)) else 8 for v in row)
                over = max_bytes is not None and size > max_bytes
                if over or (max_rows is not None and len(rows) >= max_rows):
                    truncated = True
                    break
                rows.append(row)
            cursor.close()
        if not passed:
            guard.remember(text)
        return Rows(_distinct(seen[0]), rows, truncated)
    finally:
        if ours and connection.in_transaction:
            connection.execute("COMMIT")


def _look(guard, cursor, text, statement, seen):
    if text not in guard.passed:
        sql_guard.check_single(text, statement)
    if not cursor.is_readonly:
        raise InvalidArgument(
            "sql query endpoint only accepts SELECT statements: this one changes something"
        )
    seen.append([d[0] for d in cursor.get_description()])
    return True


def _run(guard, text, params):
    sql_guard.check_some(text)
    connection = guard.connection
    before, seen = connection.total_changes(), []

    def look(cursor, statement, bindings):
        sql_guard.check_single(text, statement)
        if cursor.is_explain or (cursor.is_readonly and cursor.get_description()):
            raise InvalidArgument(
                "the statement changes nothing: expected one that does; ask with a query"
            )
        seen.append(statement)
        return True

    schema = _house(connection)
    with guard.guarding():
        cursor = connection.cursor()
        cursor.exec_trace = look
        for _ in cursor.execute(text, params, can_cache=False):
            pass
        cursor.close()
        defined = guard.has_defined
    if not connection.in_transaction:
        raise SqlError("the statement ended the transaction it ran in: nothing was changed")
    if defined and _house(connection) != schema:
        # A new name given by ALTER TABLE is not shown to the authorizer.
        raise SqlError("names that begin with luma_, and those of table functions, are reserved")
    changed = connection.total_changes() != before and not defined
    return connection.changes() if changed else 0


def _house(connection):
    found = connection.execute(
        "SELECT name, sql FROM sqlite_schema WHERE type IN ('table', 'view', 'index', 'trigger')"
    )
    return sorted((n, s) for n, s in found if sql_guard.is_reserved(n))


@contextlib.contextmanager
def _limited(guard, timeout_ms):
    """Stop what runs on the guard's connection after `timeout_ms`, or at the thread's deadline."""
    _check_timeout(timeout_ms)
    if timeout_ms is None and deadline.left() is None:
        yield
        return
    connection = guard.connection
    connection.set_progress_handler(deadline.passed, PROGRESS_STEPS)
    began = time.monotonic()
    try:
        with deadline.limited(timeout_ms / 1000) if timeout_ms else contextlib.nullcontext():
            try:
                yield
            except (apsw.InterruptError, LumaError) as error:
                if deadline.passed() and not isinstance(error, (InvalidArgument, SqlTimeout)):
                    raise SqlTimeout(
                        f"the statement was stopped after {time.monotonic() - began:.1f} s: its "
                        "time limit had passed; nothing was changed"
                    ) from None
                raise
    finally:
        if guard.writes:
            connection.set_progress_handler(None)


@contextlib.contextmanager
def _explained(guard, *, reading):
    """Turn SQLite's refusals into the house's errors."""
    try:
        yield
    except apsw.InterruptError:
        if deadline.passed():
            raise SqlTimeout(
                "the statement was stopped: its time limit had passed; nothing was changed"
            ) from None
        raise SqlError("the statement was interrupted") from None
    except apsw.AuthError:
        what = guard.refused or "this"
        if reading and not what.startswith(("READ", "FUNCTION")):
            raise InvalidArgument(
                f"sql query endpoint only accepts SELECT statements: {what} is refused"
            ) from None
        raise SqlError(f"not authorized: {what} is refused") from None
    except (apsw.FullError, apsw.IOError, apsw.CorruptError, apsw.ConnectionClosedError):
        raise
    except apsw.BindingsError as error:
        raise SqlError(f"parameters do not fit the statement: {error}") from None
    except apsw.Error as error:
        raise SqlError(str(error).removeprefix("SQLError: ")) from None
    except OverflowError:
        raise SqlError("unsupported parameter: integers must fit in 64 bits") from None
    except UnicodeDecodeError:
        raise SqlError("a text is not valid UTF-8: ask for it as CAST(... AS BLOB)") from None


def _text(text):
    if not isinstance(text, str):
        raise InvalidArgument(f"sql is a {type(text).__name__}: expected a str")
    if "\0" in text:
        raise InvalidArgument("sql holds a NUL character")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise InvalidArgument("sql is not valid Unicode text") from None
    return text


def _check_timeout(timeout_ms):
    if timeout_ms is not None and (type(timeout_ms) is not int or timeout_ms < 1):
        raise InvalidArgument(f"timeout_ms is {timeout_ms!r}: expected an int of at least 1")


def _parameters(params):
    if isinstance(params, dict):
        return {name: _parameter(value) for name, value in params.items()}
    if params is None:
        return ()
    if isinstance(params, (str, bytes)) or not hasattr(params, "__iter__"):
        raise SqlError(f"params is a {type(params).__name__}: expected a sequence or a dict")
    return tuple(_parameter(value) for value in params)


def _parameter(value):
    if isinstance(value, np.ndarray):
        if value.ndim != 1 or value.dtype.kind not in "fiu":
            raise SqlError(f"unsupported parameter type: an array of shape {value.shape}")
        return np.ascontiguousarray(value, "<f4").tobytes()
    if isinstance(value, np.generic):
        value = value.item()
    if type(value) not in PARAMETERS:
        raise SqlError(
            f"unsupported parameter type {type(value).__name__}: expected None, bool, int, "
            "float, str, bytes or a vector"
        )
    if type(value) is int and not -(2**63) <= value < 2**63:
        raise SqlError("unsupported parameter: integers must fit in 64 bits")
    if type(value) is str:
        _text_parameter(value)
    return value


def _text_parameter(value):
    try:
        value.encode()
    except UnicodeEncodeError:
        raise SqlError("unsupported parameter: text that is not valid Unicode") from None


def _distinct(names):
    """Return column names without repeats: the second ``a`` becomes ``a_2``."""
    found = []
    for name in names:
        candidate, number = name, 1
        while candidate in found:
            number += 1
            candidate = f"{name}_{number}"
        found.append(candidate)
    return found
