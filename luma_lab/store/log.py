"""The event log: what happened, in order, appended in the transaction that made it happen.

Offsets start at 1, never repeat and never run backwards: the next one is kept in the head
row, which survives retention. A restore jumps to the next multiple of 2**32 (a new epoch).
Every row carries a CRC32 over all its columns.
"""

import zlib
from dataclasses import dataclass
from typing import NamedTuple

import msgspec

from luma_lab.errors import CorruptStore

EPOCH_STEP = 1 << 32
ROW_OVERHEAD_BYTES = 48
_APPEND = "INSERT INTO luma_log VALUES (?, ?, ?, ?, ?, ?, ?)"
_READ = (
    "SELECT offset, ts_ms, type, key, collection, data, crc FROM luma_log "
    "WHERE offset > ? ORDER BY offset LIMIT ?"
)


class Entry(NamedTuple):
    """One row of the log; `data` is JSON bytes, for point changes in the stored form."""

    offset: int
    ts_ms: int
    type: str
    key: str | None
    collection: str | None
    data: bytes


class PointChange(msgspec.Struct, omit_defaults=True):
    """Stored form of a point's log row: where its vector lies instead of the vector.

    `row` is the point's row after the change (-1 when deleted), `old` the row that died
    with it (-1 when none).
    """

    uid: int
    gen: int
    id: str
    row: int = -1
    old: int = -1
    meta: msgspec.Raw = msgspec.Raw(b"null")


POINT_TYPES = frozenset({"vector_added", "vector_upserted", "vector_updated", "vector_deleted"})
_LISTED = ", ".join(f"'{name}'" for name in sorted(POINT_TYPES))
_READ_OTHERS = _READ.replace("WHERE", f"WHERE type NOT IN ({_LISTED}) AND")
point_change_decoder = msgspec.json.Decoder(PointChange)
point_change_encoder = msgspec.json.Encoder()


@dataclass
class Head:
    """The log's counters, one row of the database."""

    epoch: int
    next_offset: int
    first_offset: int
    last_ts_ms: int
    log_bytes: int

    @property
    def offset(self):
        """Offset of the last entry, 0 when there never was one."""
        return self.next_offset - 1


def read_head(connection):
    """Return the `Head` that `connection` sees."""
    row = connection.execute(
        "SELECT epoch, next_offset, first_offset, last_ts_ms, log_bytes FROM luma_head"
    ).fetchone()
    return Head(*row)


def write_head(connection, head):
    """Store the counters; inside the transaction that changed them."""
    connection.execute(
        "UPDATE luma_head SET epoch=?, next_offset=?, first_offset=?, last_ts_ms=?, log_bytes=?",
        (head.epoch, head.next_offset, head.first_offset, head.last_ts_ms, head.log_bytes),
    )


def append(connection, head, type, key, collection, data):
    """Append one entry and return its offset; `head` is advanced, not stored."""
    offset = head.next_offset
    entry = (offset, head.last_ts_ms, type, key, collection, data)
    connection.execute(_APPEND, (*entry, checksum(entry)))
    head.next_offset = offset + 1
    head.log_bytes += len(data) + ROW_OVERHEAD_BYTES
    return offset


def append_keyed(connection, head, type, keyed):
    """Append one entry for each (key, data) of `keyed` and return the first offset."""
    first, ts_ms = head.next_offset, head.last_ts_ms
    middle = f"\x1f{ts_ms}\x1f{type}\x1f"
    rows, size, offset = [], 0, first
    for key, data in keyed:
        crc = zlib.crc32(data, zlib.crc32(f"{offset}{middle}{key}\x1fNone\x1f".encode()))
        rows.append((offset, ts_ms, type, key, None, data, crc))
        size += len(data)
        offset += 1
    connection.executemany(_APPEND, rows)
    head.next_offset = offset
    head.log_bytes += size + ROW_OVERHEAD_BYTES * len(rows)
    return first


def append_many(connection, head, type, collection, datas):
    """Append one keyless entry for each of `datas` and return the first offset."""
    first = head.next_offset
    entries = [
        (first + i, head.last_ts_ms, type, None, collection, data) for i, data in enumerate(datas)
    ]
    connection.executemany(_APPEND, [(*entry, checksum(entry)) for entry in entries])
    head.next_offset = first + len(entries)
    head.log_bytes += sum(map(len, datas)) + ROW_OVERHEAD_BYTES * len(entries)
    return first


def read(connection, since, limit, max_bytes=None, *, points=True):
    """Return up to `limit` entries after offset `since`, in order.

    With `max_bytes` it stops after the entry that brings their data to that size. Without
    `points` the entries of `POINT_TYPES` are passed over.

    Raises
    ------
    CorruptStore
        A row does not match its checksum.
    """
    entries, size = [], 0
    for row in connection.execute(_READ if points else _READ_OTHERS, (since, limit)):
        entry = Entry._make(row[:6])
        if checksum(entry) != row[6]:
            raise CorruptStore(f"log entry {entry.offset} does not match its checksum")
        entries.append(entry)
        size += len(entry.data)
        if max_bytes is not None and size >= max_bytes:
            break
    return entries


def truncate(connection, head, first_offset):
    """Forget the entries before `first_offset`; what was cut stays known in the head."""
    first_offset = min(first_offset, head.next_offset)
    if first_offset <= head.first_offset:
        return 0
    freed, count = connection.execute(
        "SELECT coalesce(sum(length(data)), 0), count(*) FROM luma_log WHERE offset < ?",
        (first_offset,),
    ).fetchone()
    connection.execute("DELETE FROM luma_log WHERE offset < ?", (first_offset,))
    head.first_offset = first_offset
    head.log_bytes = max(0, head.log_bytes - freed - count * ROW_OVERHEAD_BYTES)
    return count


def retained_from(connection, head, *, now_ms, max_age_ms, max_events, max_bytes):
    """Return the first offset that age, count and bytes allow to keep."""
    keep = max(head.first_offset, head.next_offset - max_events)
    row = connection.execute(
        "SELECT offset FROM luma_log WHERE offset >= ? AND ts_ms >= ? ORDER BY offset LIMIT 1",
        (keep, now_ms - max_age_ms),
    ).fetchone()
    keep = max(keep, row[0] if row else head.next_offset)
    excess = head.log_bytes - max_bytes
    if excess > 0:
        for offset, size in connection.execute(
            "SELECT offset, length(data) FROM luma_log ORDER BY offset"
        ):
            excess -= size + ROW_OVERHEAD_BYTES
            if excess <= 0:
                keep = max(keep, offset + 1)
                break
    return keep


def start_epoch(head):
    """Move `head` to a new epoch: offsets given out since the backup can't come again."""
    head.epoch += 1
    head.next_offset = (head.next_offset // EPOCH_STEP + 1) * EPOCH_STEP


def checksum(entry):
    """Return the CRC32 of an entry's six columns."""
    offset, ts_ms, type, key, collection, data = entry
    prefix = f"{offset}\x1f{ts_ms}\x1f{type}\x1f{key}\x1f{collection}\x1f"
    return zlib.crc32(data, zlib.crc32(prefix.encode()))
