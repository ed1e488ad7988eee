"""The tables that map a caller's name to bytes: state keys, point ids, document ids.

Functions on a connection: reads work on any, writes belong inside a write transaction.
Every row carries a CRC32 and is checked when read.
"""

from typing import NamedTuple
from zlib import crc32

from luma_lab.errors import CorruptStore

ROW_BITS = 32
ROWS_A_QUERY = 500
_READ_STATE_VALUE = "SELECT value, revision, expires_at_ms, crc FROM luma_state WHERE key=?"
_WRITE_STATE = (
    "INSERT INTO luma_state (key, revision, expires_at_ms, crc, value) VALUES (?, ?, ?, ?, ?) "
    "ON CONFLICT (key) DO UPDATE SET revision=excluded.revision, "
    "expires_at_ms=excluded.expires_at_ms, crc=excluded.crc, value=excluded.value"
)
_READ_STATE = "SELECT key, revision, expires_at_ms, value, crc FROM luma_state WHERE key=?"


class StateRow(NamedTuple):
    """A stored state entry; `value` is JSON bytes."""

    key: str
    revision: int
    expires_at_ms: int | None
    value: bytes


class PointRow(NamedTuple):
    """A stored point; `meta` is JSON bytes, `row` its position in the matrix."""

    row: int
    id: str
    revision: int
    meta: bytes


class DocumentRow(NamedTuple):
    """A stored document; `doc` is JSON bytes."""

    collection: str
    id: str
    revision: int
    doc: bytes


def read_state(connection, key):
    """Return the `StateRow` of `key`, expired or not, or None."""
    row = connection.execute(_READ_STATE, (key,)).fetchone()
    return None if row is None else _state_row(row)


def read_state_value(connection, key):
    """Return (value, expires_at_ms) of `key`, expired or not, or None: the lean `read_state`."""
    row = connection.execute(_READ_STATE_VALUE, (key,)).fetchone()
    if row is None:
        return None
    value, revision, expires_at_ms, crc = row
    if crc32(value, crc32(f"{key}\x1f{revision}\x1f{expires_at_ms}".encode())) != crc:
        raise CorruptStore(f"state entry {key!r} does not match its checksum")
    return value, expires_at_ms


def read_state_head(connection, key):
    """Return (revision, expires_at_ms) of `key` without touching its value, or None."""
    return connection.execute(
        "SELECT revision, expires_at_ms FROM luma_state WHERE key=?", (key,)
    ).fetchone()


def read_state_size(connection, key):
    """Return (bytes of the value, expires_at_ms) of `key` without reading the value, or None."""
    return connection.execute(
        "SELECT length(value), expires_at_ms FROM luma_state WHERE key=?", (key,)
    ).fetchone()


def scan_state(connection, prefix, after, limit, now_ms):
    """Return up to `limit` live `StateRow`s whose key starts with `prefix`, in byte order."""
    low = max(prefix, after) if after is not None else prefix
    strictly = after is not None and after >= prefix
    rows = connection.execute(
        f"SELECT key, revision, expires_at_ms, value, crc FROM luma_state "
        f"WHERE key {'>' if strictly else '>='} ? AND (? IS NULL OR key < ?) "
        "AND (expires_at_ms IS NULL OR expires_at_ms > ?) ORDER BY key LIMIT ?",
        (low, *([_successor(prefix)] * 2), now_ms, limit),
    )
    return [_state_row(row) for row in rows]


def count_state(connection, now_ms):
    """Return the number of live entries."""
    return connection.execute(
        "SELECT count(*) FROM luma_state WHERE expires_at_ms IS NULL OR expires_at_ms > ?",
        (now_ms,),
    ).get


def write_states(connection, rows):
    """Insert or replace `StateRow`s, or tuples of their four fields, in order."""
    connection.executemany(
        _WRITE_STATE,
        [
            (
                key,
                revision,
                expires_at_ms,
                crc32(value, crc32(f"{key}\x1f{revision}\x1f{expires_at_ms}".encode())),
                value,
            )
            for key, revision, expires_at_ms, value in rows
        ],
    )


def delete_state(connection, key):
    """Remove `key`."""
    connection.execute("DELETE FROM luma_state WHERE key=?", (key,))


def next_expiry(connection):
    """Return the earliest expiry, ms since 1970, or None."""
    return connection.execute(
        "SELECT min(expires_at_ms) FROM luma_state WHERE expires_at_ms IS NOT NULL"
    ).get


def expired_keys(connection, now_ms, limit):
    """Return up to `limit` keys whose time is over, oldest first."""
    rows = connection.execute(
        "SELECT key FROM luma_state WHERE expires_at_ms <= ? ORDER BY expires_at_ms LIMIT ?",
        (now_ms, limit),
    )
    return [key for (key,) in rows]


def all_state(connection):
    """Yield (key, sound) of every entry, for verification."""
    for row in connection.execute(
        "SELECT key, revision, expires_at_ms, value, crc FROM luma_state"
    ):
        yield row[0], _state_checksum(StateRow._make(row[:4])) == row[4]


def find_row(connection, uid, id):
    """Return the matrix row of a point, or None."""
    found = connection.execute(
        "SELECT point FROM luma_points WHERE uid=? AND id=?", (uid, id)
    ).fetchone()
    return None if found is None else found[0] & ((1 << ROW_BITS) - 1)


def read_point(connection, uid, id):
    """Return the `PointRow` of `id`, or None."""
    row = connection.execute(
        "SELECT point, id, revision, meta, crc FROM luma_points WHERE uid=? AND id=?", (uid, id)
    ).fetchone()
    return None if row is None else _point_row(row)


def ids_at(connection, uid, rows):
    """Return a dict from matrix row to id, of those of `rows` that are alive."""
    found = {}
    for start in range(0, len(rows), ROWS_A_QUERY):
        part = [uid << ROW_BITS | row for row in rows[start : start + ROWS_A_QUERY]]
        marks = ",".join("?" * len(part))
        found |= connection.execute(
            f"SELECT point & {(1 << ROW_BITS) - 1}, id FROM luma_points WHERE point IN ({marks})",
            part,
        )
    return found


def read_points_at(connection, uid, rows):
    """Return a dict from matrix row to `PointRow`, of those of `rows` that are alive."""
    found = {}
    for start in range(0, len(rows), ROWS_A_QUERY):
        part = [uid << ROW_BITS | row for row in rows[start : start + ROWS_A_QUERY]]
        marks = ",".join("?" * len(part))
        for values in connection.execute(
            f"SELECT point, id, revision, meta, crc FROM luma_points WHERE point IN ({marks})", part
        ):
            point = _point_row(values)
            found[point.row] = point
    return found


def scan_points(connection, uid, after, limit, condition="1", bindings=()):
    """Return up to `limit` `PointRow`s with ids after `after`, in byte order of id.

    Parameters
    ----------
    condition : str
        Trusted SQL over the column ``meta``.
    """
    rows = connection.execute(
        "SELECT point, id, revision, meta, crc FROM luma_points WHERE uid=? AND id > ? "
        f"AND {condition} ORDER BY id LIMIT ?",
        (uid, after, *bindings, limit),
    )
    return [_point_row(row) for row in rows]


def rows_where(connection, condition, bindings):
    """Yield the matrix rows of the points that meet a condition, trusted SQL."""
    found = connection.execute(f"SELECT point FROM luma_points WHERE {condition}", bindings)
    return (point & ((1 << ROW_BITS) - 1) for (point,) in found)


def count_points(connection, condition, bindings):
    """Return how many points meet a condition, trusted SQL."""
    return connection.execute(f"SELECT count(*) FROM luma_points WHERE {condition}", bindings).get


def ids_where(connection, condition, bindings):
    """Return the ids of the points that meet a condition, trusted SQL."""
    found = connection.execute(f"SELECT id FROM luma_points WHERE {condition}", bindings)
    return [id for (id,) in found]


def points_range(uid):
    """Return the SQL that says where a collection's points lie."""
    return "point >= {} AND point < {}".format(*point_range(uid))


def point_range(uid):
    """Return (first, end): between which keys a collection's points lie."""
    return uid << ROW_BITS, (uid + 1) << ROW_BITS


def live_rows(connection, uid):
    """Return the ascending list of matrix rows of every point of a collection."""
    rows = connection.execute(
        "SELECT point FROM luma_points WHERE point >= ? AND point < ? ORDER BY point",
        point_range(uid),
    )
    return [point & ((1 << ROW_BITS) - 1) for (point,) in rows]


def points_at(connection, uid, rows):
    """Yield the `PointRow` of each of the matrix rows that is alive, page by page."""
    for start in range(0, len(rows), ROWS_A_QUERY):
        yield from read_points_at(connection, uid, rows[start : start + ROWS_A_QUERY]).values()


def ids_by_row(connection, uid):
    """Return the list of (row, id) of every point of a collection, ascending by row."""
    rows = connection.execute(
        "SELECT point, id FROM luma_points WHERE point >= ? AND point < ? ORDER BY point",
        point_range(uid),
    )
    return [(point & ((1 << ROW_BITS) - 1), id) for point, id in rows]


def write_points(connection, uid, points):
    """Insert `PointRow`s; their ids and rows must be free."""
    connection.executemany(
        "INSERT INTO luma_points (point, uid, id, revision, crc, meta) VALUES (?, ?, ?, ?, ?, ?)",
        [
            (uid << ROW_BITS | p.row, uid, p.id, p.revision, _point_checksum(p), p.meta.decode())
            for p in points
        ],
    )


def delete_points(connection, uid, rows):
    """Remove the points that lie at matrix rows `rows`."""
    connection.executemany(
        "DELETE FROM luma_points WHERE point=?", [(uid << ROW_BITS | row,) for row in rows]
    )


def all_points(connection):
    """Yield (uid, id, sound) of every point, for verification."""
    for row in connection.execute("SELECT point, id, revision, meta, crc, uid FROM luma_points"):
        try:
            sound = row[0] >> ROW_BITS == row[5] and _point_row(row[:5]) is not None
        except CorruptStore:
            sound = False
        yield row[5], row[1], sound


def read_document(connection, collection, id):
    """Return the `DocumentRow` of `id`, or None."""
    row = connection.execute(
        "SELECT collection, id, revision, doc, crc FROM luma_documents WHERE collection=? AND id=?",
        (collection, id),
    ).fetchone()
    return None if row is None else _document_row(row)


def document_revision(connection, collection, id):
    """Return the revision of a document without touching its content, or None."""
    return connection.execute(
        "SELECT revision FROM luma_documents WHERE collection=? AND id=?", (collection, id)
    ).get


def find_documents(connection, collection, condition, bindings, after, limit):
    """Return up to `limit` `DocumentRow`s with ids after `after` that meet a condition.

    Parameters
    ----------
    condition : str
        Trusted SQL over the column ``doc``, in byte order of id.
    """
    rows = connection.execute(
        "SELECT collection, id, revision, doc, crc FROM luma_documents "
        f"WHERE collection=? AND id > ? AND {condition} ORDER BY id LIMIT ?",
        (collection, after, *bindings, limit),
    )
    return [_document_row(row) for row in rows]


def count_documents(connection, collection, condition, bindings):
    """Return how many documents of a collection meet a condition; see `find_documents`."""
    return connection.execute(
        f"SELECT count(*) FROM luma_documents WHERE collection=? AND {condition}",
        (collection, *bindings),
    ).get


def document_collections(connection):
    """Return the sorted names of all collections that hold a document."""
    # One seek a name: DISTINCT would walk every document.
    names, name = [], ""
    while True:
        row = connection.execute(
            "SELECT collection FROM luma_documents WHERE collection > ? "
            "ORDER BY collection LIMIT 1",
            (name,),
        ).fetchone()
        if row is None:
            return names
        name = row[0]
        names.append(name)


def write_document(connection, row):
    """Insert or replace a `DocumentRow`."""
    connection.execute(
        "INSERT INTO luma_documents (collection, id, revision, crc, doc) VALUES (?, ?, ?, ?, ?) "
        "ON CONFLICT (collection, id) DO UPDATE SET revision=excluded.revision, "
        "crc=excluded.crc, doc=excluded.doc",
        (row.collection, row.id, row.revision, _document_checksum(row), row.doc.decode()),
    )


def delete_document(connection, collection, id):
    """Remove a document."""
    connection.execute("DELETE FROM luma_documents WHERE collection=? AND id=?", (collection, id))


def all_documents(connection):
    """Yield (collection, id, sound) of every document, for verification."""
    for row in connection.execute("SELECT collection, id, revision, doc, crc FROM luma_documents"):
        try:
            sound = _document_row(row) is not None
        except CorruptStore:
            sound = False
        yield row[0], row[1], sound


def _state_row(values):
    key, revision, expires_at_ms, value, crc = values
    if crc32(value, crc32(f"{key}\x1f{revision}\x1f{expires_at_ms}".encode())) != crc:
        raise CorruptStore(f"state entry {key!r} does not match its checksum")
    return StateRow(key, revision, expires_at_ms, value)


def _point_row(values):
    point, id, revision, meta, crc = values
    if isinstance(meta, str):
        found = PointRow(point & ((1 << ROW_BITS) - 1), id, revision, meta.encode())
        if _point_checksum(found) == crc:
            return found
    raise CorruptStore(f"point {id!r} does not match its checksum")


def _document_row(values):
    collection, id, revision, doc, crc = values
    if isinstance(doc, str):
        row = DocumentRow(collection, id, revision, doc.encode())
        if _document_checksum(row) == crc:
            return row
    raise CorruptStore(f"document {id!r} of {collection!r} does not match its checksum")


def _document_checksum(row):
    return crc32(row.doc, crc32(f"{row.collection}\x1f{row.id}\x1f{row.revision}".encode()))


def _state_checksum(row):
    return crc32(row.value, crc32(f"{row.key}\x1f{row.revision}\x1f{row.expires_at_ms}".encode()))


def _point_checksum(point):
    return crc32(point.meta, crc32(f"{point.row}\x1f{point.id}\x1f{point.revision}".encode()))


def _successor(prefix):
    """Return the least string greater than every string that starts with `prefix`, or None."""
    for cut in range(len(prefix), 0, -1):
        point = ord(prefix[cut - 1]) + 1
        if 0xD800 <= point <= 0xDFFF:
            point = 0xE000
        if point <= 0x10FFFF:
            return prefix[: cut - 1] + chr(point)
    return None
