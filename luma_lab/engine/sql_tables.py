"""Table functions: collections, points, state, documents and events as tables of SQL.

``state(prefix)``, ``documents(collection)``, ``events(since, until)``, and the plain ``points`` and
``collections``; `sql_searches` has those that search. These read on the very connection of the
query, so one query sees one snapshot.

A stored value that is longer than the statement may hold reads as NULL, which no stored value is
(JSON's null reads as the text ``null``); the column ``bytes`` beside it tells its size.
"""

from luma_lab.engine import sql_searches
from luma_lab.engine.sql_modules import TableFunction
from luma_lab.errors import InvalidArgument
from luma_lab.store import catalog, mappings, pages

EVENTS_PAGE = 500


def register(connection, guard, parts, events):
    """Give a connection the table functions.

    Parameters
    ----------
    guard : luma_lab.engine.sql_guard.Guard
        Of the connection.
    parts : luma_lab.engine.lab.Parts
    events : luma_lab.engine.events.Events
    """

    def shown(value):
        """Return JSON bytes as text, or None where the statement can't hold it, and the size."""
        size = len(value)
        return (value.decode() if size <= guard.value_bytes else None), size

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
                value, size = shown(row.value)
                yield row.key, value, row.revision, row.expires_at_ms, size

    def documents(given):
        name = _text(given, "collection", None)
        if "id" in given:
            row = mappings.read_document(connection, name, given["id"])
            rows = [] if row is None else [row]
        else:
            rows = _document_pages(connection, name)
        for row in rows:
            doc, size = shown(row.doc)
            yield row.id, doc, row.revision, size

    def event_rows(given):
        since, until = _offset(given, "since", 0), _offset(given, "until", None)
        before = None
        while before != since:
            before = since
            frames, since = events.frames_in(connection, since, EVENTS_PAGE)
            for frame in frames:
                if until is not None and frame.offset > until:
                    return
                yield (*frame[:5], *shown(frame.data))

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
                meta, size = shown(row.meta)
                yield collection.name, row.id, meta, row.revision, size

    def collections(given):
        for row in catalog.read_all(connection):
            kind = row.index_name.rsplit("-", 1)[0] if row.index_name else "flat"
            yield row.name, row.dim, row.metric, kind, row.live, row.created_at_ms

    for name, *shape, rows in (
        (
            "state",
            ("key", "value", "revision", "expires_at_ms", "bytes"),
            ("prefix",),
            0,
            ("key",),
            state,
        ),
        ("documents", ("id", "doc", "revision", "bytes"), ("collection",), 1, ("id",), documents),
        (
            "events",
            ("offset", "ts_ms", "type", "key", "collection", "data", "bytes"),
            ("since", "until"),
            0,
            (),
            event_rows,
        ),
        (
            "points",
            ("collection", "id", "meta", "revision", "bytes"),
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
    sql_searches.register(connection, guard, parts)


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
        now = clock.now_ms()
        limit = pages.state_page(connection, prefix, after, now)
        rows = mappings.scan_state(connection, prefix, after, limit, now)
        if not rows:
            return
        yield from rows
        after = rows[-1].key


def _document_pages(connection, name):
    after = ""
    while limit := pages.documents_page(connection, name, after):
        rows = mappings.find_documents(connection, name, "1", (), after, limit)
        yield from rows
        after = rows[-1].id


def _point_pages(connection, uid):
    after = ""
    while limit := pages.points_page(connection, uid, after):
        rows = mappings.scan_points(connection, uid, after, limit)
        yield from rows
        after = rows[-1].id
