"""Table functions: collections, points, state, documents and events as tables of SQL.

``vector_search(collection, vector, k, filter)``, ``state(prefix)``, ``documents(collection)``,
``events(since, until)``, and the plain ``points`` and ``collections``. Those over tables read on
the very connection of the query, so one query sees one snapshot; a vector search sees the last
commit.
"""

from itertools import count

import apsw
import msgspec
import numpy as np

from luma_lab.engine import searching
from luma_lab.errors import InvalidArgument
from luma_lab.store import catalog, deadline, mappings

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
        Columns by which :meth:`rows` can look up instead of scanning.
    rows : callable
        ``rows(given) -> list or iterator of tuples``, with a dict of what was given by name.
    guard : luma_lab.engine.sql_guard.Guard
    """

    def __init__(self, columns, arguments, required, keys, rows, guard):
        self.columns, self.arguments, self.required = columns, arguments, required
        self.names = (*columns, *arguments)
        self.keys = keys
        self.rows = rows
        self.guard = guard

    def Create(self, connection, module, database, table, *arguments):
        """Say what the table looks like."""
        hidden = "".join(f", {name} HIDDEN" for name in self.arguments)
        return f"CREATE TABLE x({', '.join(self.columns)}{hidden})", _Table(self)

    Connect = Create


class _Table:
    def __init__(self, function):
        self._function = function

    def BestIndexObject(self, plan):
        function = self._function
        given = []
        for i in range(plan.nConstraint):
            name = (
                function.names[plan.get_aConstraint_iColumn(i)]
                if (plan.get_aConstraint_iColumn(i) >= 0)
                else None
            )
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
        return True

    def Open(self):
        return _Cursor(self._function)

    def Disconnect(self):
        pass

    Destroy = Disconnect


class _Cursor:
    def __init__(self, function):
        self._function = function
        self._rows, self._row, self._number = iter(()), None, 0
        self._is_ready = True

    def Filter(self, number, names, values):
        function = self._function
        given = dict(zip(names.split(",") if names else (), values, strict=True))
        for name in function.arguments[: function.required]:
            if name not in given:
                listed = ", ".join(function.arguments[: function.required])
                raise InvalidArgument(f"the argument {name!r} is missing: expected ({listed})")
        self._number = -1
        rows = function.rows(given)
        self._is_ready = type(rows) is list  # nothing more to be read, so nothing to be trusted
        self._rows = iter(rows)
        self.Next()

    def Next(self):
        self._number += 1
        if self._is_ready:
            self._row = next(self._rows, None)
            return
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


def register(connection, guard, parts, events):
    """Give a connection the table functions.

    Parameters
    ----------
    guard : luma_lab.engine.sql_guard.Guard
        Of the connection.
    parts : luma_lab.engine.lab.Parts
    events : luma_lab.engine.events.Events
    """

    def vector_search(given):
        return _search(parts, given)

    def state(given):
        prefix = _text(given, "prefix", "")
        key = given.get("key")
        if key is not None:
            row = mappings.read_state(connection, key) if isinstance(key, str) else None
            rows = [row] if row is not None and key.startswith(prefix) else []
        else:
            rows = _state_pages(connection, parts.clock, prefix)
        now = parts.clock.now_ms()
        for row in rows:
            if row.expires_at_ms is None or row.expires_at_ms > now:
                yield row.key, row.value.decode(), row.revision, row.expires_at_ms

    def documents(given):
        name = _text(given, "collection", None)
        if "id" in given:
            row = mappings.read_document(connection, name, given["id"])
            rows = [] if row is None else [row]
        else:
            rows = _document_pages(connection, name)
        for row in rows:
            yield row.id, row.doc.decode(), row.revision

    def event_rows(given):
        since, until = _offset(given, "since", 0), _offset(given, "until", None)
        before = None
        while before != since:
            before = since
            frames, since = events.frames_in(connection, since, PAGE)
            for frame in frames:
                if until is not None and frame.offset > until:
                    return
                yield (*frame[:5], frame.data.decode())

    def points(given):
        names = [given["collection"]] if "collection" in given else None
        found = (
            catalog.read_all(connection)
            if names is None
            else ([catalog.find(connection, name) for name in names if isinstance(name, str)])
        )
        for collection in filter(None, found):
            if "id" in given:
                row = mappings.read_point(connection, collection.uid, given["id"])
                rows = [] if row is None else [row]
            else:
                rows = _point_pages(connection, collection.uid)
            for row in rows:
                yield collection.name, row.id, row.meta.decode(), row.revision

    def collections(given):
        for row in catalog.read_all(connection):
            kind = row.index_name.rsplit("-", 1)[0] if row.index_name else "flat"
            yield row.name, row.dim, row.metric, kind, row.live, row.created_at_ms

    for name, *shape, rows in (
        (
            "vector_search",
            ("id", "score", "meta", "rank"),
            ("collection", "vector", "k", "filter"),
            3,
            (),
            vector_search,
        ),
        ("state", ("key", "value", "revision", "expires_at_ms"), ("prefix",), 0, ("key",), state),
        ("documents", ("id", "doc", "revision"), ("collection",), 1, ("id",), documents),
        (
            "events",
            ("offset", "ts_ms", "type", "key", "collection", "data"),
            ("since", "until"),
            0,
            (),
            event_rows,
        ),
        (
            "points",
            ("collection", "id", "meta", "revision"),
            (),
            0,
            ("collection", "id"),
            points,
        ),
        (
            "collections",
            ("name", "dim", "metric", "index_kind", "points", "created_at_ms"),
            (),
            0,
            (),
            collections,
        ),
    ):
        function = TableFunction(*shape, rows, guard)
        connection.create_module(
            name, function, use_bestindex_object=True, eponymous_only=True, read_only=True
        )


def _search(parts, given):
    name, k = _text(given, "collection", None), given["k"]
    vector = given["vector"]
    try:
        if isinstance(vector, bytes):
            vector = np.frombuffer(vector, "<f4")
        else:
            vector = msgspec.json.decode(vector, type=list[float])
    except (ValueError, TypeError, msgspec.MsgspecError):
        raise InvalidArgument(
            "the vector is neither a JSON array of numbers nor a blob of float32"
        ) from None
    text = given.get("filter")
    if isinstance(text, str) and text.lstrip().startswith("{"):
        try:
            text = msgspec.json.decode(text)
        except msgspec.DecodeError as error:
            raise InvalidArgument(f"the filter is no valid JSON: {error}") from None
    hits = searching.search(parts, name, [vector], k, filter=text)[0]
    return [
        (hit.id, hit.score, msgspec.json.encode(hit.meta).decode(), rank, name, None, k)
        for hit, rank in zip(hits, count(1), strict=False)
    ]


def _text(given, name, default):
    value = given.get(name, default)
    if not isinstance(value, str):
        raise InvalidArgument(f"the argument {name!r} is {value!r}: expected a text")
    return value


def _offset(given, name, default):
    value = given.get(name, default)
    if value is not None and (type(value) is not int or value < 0):
        raise InvalidArgument(f"the argument {name!r} is {value!r}: expected an offset")
    return value


def _state_pages(connection, clock, prefix):
    after = None
    while True:
        rows = mappings.scan_state(connection, prefix, after, PAGE, clock.now_ms())
        yield from rows
        if len(rows) < PAGE:
            return
        after = rows[-1].key


def _document_pages(connection, name):
    after = ""
    while True:
        rows = mappings.find_documents(connection, name, "1", (), after, PAGE)
        yield from rows
        if len(rows) < PAGE:
            return
        after = rows[-1].id


def _point_pages(connection, uid):
    after = ""
    while True:
        rows = mappings.scan_points(connection, uid, after, PAGE)
        yield from rows
        if len(rows) < PAGE:
            return
        after = rows[-1].id
