"""The tables of `luma.db`, and how those of an older format become them."""

APPLICATION_ID = 0x4C756D61  # "Luma"
FORMAT_VERSION = 2

SCHEMA = """
CREATE TABLE luma_head (
    id INTEGER PRIMARY KEY CHECK (id = 1),
    epoch INTEGER NOT NULL,
    next_offset INTEGER NOT NULL,
    first_offset INTEGER NOT NULL,
    last_ts_ms INTEGER NOT NULL,
    log_bytes INTEGER NOT NULL);
INSERT INTO luma_head VALUES (1, 0, 1, 1, 0, 0);
CREATE TABLE luma_log (
    offset INTEGER PRIMARY KEY,
    ts_ms INTEGER NOT NULL,
    type TEXT NOT NULL,
    key TEXT,
    collection TEXT,
    data BLOB NOT NULL,
    crc INTEGER NOT NULL);
CREATE TABLE luma_state (
    id INTEGER PRIMARY KEY,
    key TEXT NOT NULL UNIQUE,
    revision INTEGER NOT NULL,
    expires_at_ms INTEGER,
    crc INTEGER NOT NULL,
    value BLOB NOT NULL);
CREATE INDEX luma_state_expiry ON luma_state (expires_at_ms) WHERE expires_at_ms IS NOT NULL;
CREATE TABLE luma_collections (
    uid INTEGER PRIMARY KEY AUTOINCREMENT,
    name TEXT NOT NULL UNIQUE,
    dim INTEGER NOT NULL,
    metric TEXT NOT NULL,
    kind TEXT NOT NULL,
    params TEXT NOT NULL,
    generation INTEGER NOT NULL DEFAULT 0,
    rows INTEGER NOT NULL DEFAULT 0,
    live INTEGER NOT NULL DEFAULT 0,
    upserts INTEGER NOT NULL DEFAULT 0,
    created_at_ms INTEGER NOT NULL,
    updated_at_ms INTEGER NOT NULL,
    index_name TEXT,
    index_rows INTEGER NOT NULL DEFAULT 0,
    index_offset INTEGER NOT NULL DEFAULT 0,
    index_built_ms INTEGER,
    meta_indexes TEXT NOT NULL DEFAULT '[]');
CREATE TABLE luma_points (
    point INTEGER PRIMARY KEY,
    uid INTEGER NOT NULL,
    id TEXT NOT NULL,
    revision INTEGER NOT NULL,
    crc INTEGER NOT NULL,
    meta TEXT NOT NULL);
CREATE UNIQUE INDEX luma_points_id ON luma_points (uid, id);
CREATE TABLE luma_blocks (
    uid INTEGER NOT NULL,
    generation INTEGER NOT NULL,
    block INTEGER NOT NULL,
    rows INTEGER NOT NULL,
    crc INTEGER NOT NULL,
    PRIMARY KEY (uid, generation, block)) WITHOUT ROWID;
CREATE TABLE luma_leases (
    name TEXT PRIMARY KEY,
    owner TEXT NOT NULL,
    expires_at_ms INTEGER NOT NULL) WITHOUT ROWID;
"""

_SINCE_2 = """
CREATE TABLE luma_documents (
    document INTEGER PRIMARY KEY,
    collection TEXT NOT NULL,
    id TEXT NOT NULL,
    revision INTEGER NOT NULL,
    crc INTEGER NOT NULL,
    doc TEXT NOT NULL);
CREATE UNIQUE INDEX luma_documents_id ON luma_documents (collection, id);
CREATE TABLE luma_consumers (
    name TEXT PRIMARY KEY,
    offset INTEGER NOT NULL) WITHOUT ROWID;
"""
SCHEMA += _SINCE_2


def _to_format_2(connection):
    connection.execute(
        "ALTER TABLE luma_collections ADD COLUMN meta_indexes TEXT NOT NULL DEFAULT '[]'"
    ).fetchall()
    connection.execute(_SINCE_2).fetchall()


# Migration rule: MIGRATIONS[v] turns a lab of format v into v + 1 inside one transaction;
# the file is backed up beside itself first. A format without an entry can't be opened.
MIGRATIONS = {1: _to_format_2}
