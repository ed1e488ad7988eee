"""Reading the points a search found, leanly: ten of them at a time, thousands of times a second."""

from zlib import crc32

from luma_lab.errors import CorruptStore
from luma_lab.store.mappings import ROW_BITS, ROWS_A_QUERY

_ROW = (1 << ROW_BITS) - 1
# In one statement, for a compaction may come between two.
_TEXT = (
    "SELECT point, id, revision, meta, crc FROM luma_points WHERE point IN ({}) "
    "AND (SELECT generation FROM luma_collections WHERE uid=?) = ?"
)
_TEXTS = {}
NULL = "null"  # every meta that is null is this very object


def read_nearest(connection, uid, rows, generation):
    """Return a dict from matrix row to (id, meta as JSON text, revision), of `rows` that live.

    None does where the collection has come to another generation: rows have other numbers then.

    Raises
    ------
    CorruptStore
        A point does not match the checksum that `luma_lab.store.mappings` wrote.
    """
    if len(rows) > ROWS_A_QUERY:
        found = {}
        for start in range(0, len(rows), ROWS_A_QUERY):
            part = rows[start : start + ROWS_A_QUERY]
            found |= read_nearest(connection, uid, part, generation)
        return found
    text = _TEXTS.get(len(rows))
    if text is None:
        text = _TEXTS[len(rows)] = _TEXT.format(",".join("?" * len(rows)))
    high = uid << ROW_BITS
    found = {}
    bindings = [high | row for row in rows]
    bindings += uid, generation
    for point, id, revision, meta, crc in connection.execute(text, bindings):
        row = point & _ROW
        if (
            not isinstance(meta, str)
            or crc32(meta.encode(), crc32(f"{row}\x1f{id}\x1f{revision}".encode())) != crc
        ):
            raise CorruptStore(f"point {id!r} does not match its checksum")
        found[row] = id, NULL if meta == NULL else meta, revision
    return found
