"""The catalog: which collections exist, where their rows lie, which index is current."""

from typing import Any, NamedTuple

from luma_lab import codec
from luma_lab.errors import CollectionNotFound

_COLUMNS = (
    "uid, name, dim, metric, kind, params, generation, rows, live, upserts, "
    "created_at_ms, updated_at_ms, index_name, index_rows, index_offset, index_built_ms, "
    "meta_indexes"
)
# Stands among the index parameters, so that labs written before it need no other format.
TEXT, EMBEDDER = "text", "embedder"


class CollectionRow(NamedTuple):
    """A row of the catalog.

    `rows` counts committed matrix rows, live and dead; `live` the points; `upserts` every
    point ever written. `kind` and `params` are what the user asked for, `index_name` is the
    directory of the index in use. `text` is what makes the points searchable by words, see
    `luma_lab.engine.text_settings`, or None; `embedder` the stamp of what makes the vectors,
    see `luma_lab.engine.stamps`, or None.
    """

    uid: int
    name: str
    dim: int
    metric: str
    kind: str
    params: dict[str, Any]
    generation: int
    rows: int
    live: int
    upserts: int
    created_at_ms: int
    updated_at_ms: int
    index_name: str | None
    index_rows: int
    index_offset: int
    index_built_ms: int | None
    meta_indexes: list[str]
    text: dict[str, Any] | None = None
    embedder: dict[str, Any] | None = None


def read_all(connection):
    """Return every `CollectionRow`, by name."""
    return [
        _row(r)
        for r in connection.execute(f"SELECT {_COLUMNS} FROM luma_collections ORDER BY name")
    ]


def find(connection, name):
    """Return the `CollectionRow` called `name`, or None."""
    row = connection.execute(
        f"SELECT {_COLUMNS} FROM luma_collections WHERE name = ?", (name,)
    ).fetchone()
    return _row(row) if row else None


def require(connection, name):
    """Return the `CollectionRow` called `name`; raise `CollectionNotFound` when there is none."""
    row = find(connection, name)
    if row is None:
        raise CollectionNotFound(name)
    return row


def insert(connection, name, dim, metric, kind, params, now_ms, meta_indexes=(), text=None):
    """Add a collection and return its uid, which no other collection ever gets."""
    stored = params if text is None else {**params, TEXT: text}
    connection.execute(
        "INSERT INTO luma_collections (name, dim, metric, kind, params, created_at_ms, "
        "updated_at_ms, meta_indexes) VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
        (
            name,
            dim,
            metric,
            kind,
            codec.encode(stored).decode(),
            now_ms,
            now_ms,
            codec.encode(list(meta_indexes)).decode(),
        ),
    )
    return connection.last_insert_rowid()


def delete(connection, uid):
    """Remove a collection with its points and block checksums."""
    for table in ("luma_collections", "luma_points", "luma_blocks"):
        connection.execute(f"DELETE FROM {table} WHERE uid = ?", (uid,))


def count_rows(connection, uid, rows, live, upserts, now_ms):
    """Store a collection's new counters."""
    connection.execute(
        "UPDATE luma_collections SET rows=?, live=?, upserts=?, updated_at_ms=? WHERE uid=?",
        (rows, live, upserts, now_ms, uid),
    )


def set_index(connection, uid, index_name, rows, offset, built_ms):
    """Name the index in use (None: exact search), the rows it covers and its applied offset."""
    connection.execute(
        "UPDATE luma_collections SET index_name=?, index_rows=?, index_offset=?, "
        "index_built_ms=? WHERE uid=?",
        (index_name, rows, offset, built_ms, uid),
    )


def set_generation(connection, uid, generation, rows, now_ms):
    """Store which generation of the matrix holds the rows, and how many; forget older checksums."""
    connection.execute(
        "UPDATE luma_collections SET generation=?, rows=?, updated_at_ms=? WHERE uid=?",
        (generation, rows, now_ms, uid),
    )
    connection.execute("DELETE FROM luma_blocks WHERE uid=? AND generation<>?", (uid, generation))


def read_generation(connection, uid):
    """Return the generation of a collection by its uid, None when it is gone."""
    return connection.execute("SELECT generation FROM luma_collections WHERE uid=?", (uid,)).get


def set_params(connection, uid, params):
    """Store the index parameters of a collection."""
    kept = ", ".join(f"'{name}', json_extract(params, '$.{name}')" for name in (TEXT, EMBEDDER))
    connection.execute(
        f"UPDATE luma_collections SET params=json_patch(?, json_object({kept})) WHERE uid=?",
        (codec.encode(params).decode(), uid),
    )


def set_text(connection, uid, text):
    """Store what makes a collection searchable by words (None: nothing)."""
    bare = f"json_remove(params, '$.{TEXT}')"
    if text is None:
        connection.execute(f"UPDATE luma_collections SET params={bare} WHERE uid=?", (uid,))
        return
    connection.execute(
        f"UPDATE luma_collections SET params=json_set({bare}, '$.{TEXT}', json(?)) WHERE uid=?",
        (codec.encode(text).decode(), uid),
    )


def set_embedder(connection, uid, stamp):
    """Store the stamp of what makes a collection's vectors."""
    connection.execute(
        f"UPDATE luma_collections SET params=json_set(params, '$.{EMBEDDER}', json(?)) WHERE uid=?",
        (codec.encode(stamp).decode(), uid),
    )


def read_block(connection, uid, generation, block):
    """Return (rows, crc) of a checksummed block, or None."""
    return connection.execute(
        "SELECT rows, crc FROM luma_blocks WHERE uid=? AND generation=? AND block=?",
        (uid, generation, block),
    ).fetchone()


def read_blocks(connection, uid, generation):
    """Return the list of (block, rows, crc) of a generation."""
    return connection.execute(
        "SELECT block, rows, crc FROM luma_blocks WHERE uid=? AND generation=? ORDER BY block",
        (uid, generation),
    ).fetchall()


def write_blocks(connection, uid, generation, blocks):
    """Store changed blocks, a list of (block, rows, crc)."""
    connection.executemany(
        "INSERT OR REPLACE INTO luma_blocks VALUES (?, ?, ?, ?, ?)",
        [(uid, generation, *block) for block in blocks],
    )


def _row(values):
    values = list(values)
    values[5] = codec.decode(values[5])
    values[16] = codec.decode(values[16])
    return CollectionRow(*values, values[5].pop(TEXT, None), values[5].pop(EMBEDDER, None))
