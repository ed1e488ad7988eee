"""Points get new matrix rows: what a compaction changes in the tables.

A point's row is part of its key and of its checksum, so each that moves is written again. What
can be reckoned before the transaction is: then it only updates.
"""

from typing import NamedTuple
from zlib import crc32

import numpy as np

from luma_lab.store.mappings import ROW_BITS, point_range, read_points_at

PAGE = 4000


class Prepared(NamedTuple):
    """Points as they were read some time ago, ascending by row.

    Attributes
    ----------
    rows, revisions : int64 arrays of shape (n,)
    checksums : uint32 array of shape (n,)
        Of each point at its new row.
    """

    rows: np.ndarray
    revisions: np.ndarray
    checksums: np.ndarray


def prepare(connection, uid, numbers, report):
    """Read all points page by page and return them `Prepared`, each checked.

    Parameters
    ----------
    numbers : int64 array
        The new row of each old one; points beyond its end are left out.
    report : callable
        Called with the finished fraction.

    Raises
    ------
    CorruptStore
        A point does not match its checksum.
    """
    rows, revisions, checksums = [], [], []
    after = -1
    while True:
        page = _page(connection, uid, after)
        if not page:
            break
        after = page[-1]
        if after >= len(numbers):
            page = [row for row in page if row < len(numbers)]
        for row, point in sorted(read_points_at(connection, uid, page).items()):
            rows.append(row)
            revisions.append(point.revision)
            checksums.append(_checksum(point, int(numbers[row])))
        report(min(1.0, after / max(1, len(numbers))))
        if after >= len(numbers):
            break
    return Prepared(
        np.array(rows, np.int64), np.array(revisions, np.int64), np.array(checksums, np.uint32)
    )


def places(connection, uid):
    """Return (rows, revisions): int64 arrays over every point, ascending by row."""
    found = connection.execute(
        "SELECT point, revision FROM luma_points WHERE point >= ? AND point < ? ORDER BY point",
        point_range(uid),
    ).fetchall()
    table = np.array(found, np.int64).reshape(-1, 2)
    return table[:, 0] & ((1 << ROW_BITS) - 1), table[:, 1]


def move(connection, uid, rows, revisions, numbers, prepared):
    """Give every point its new row; returns how many moved.

    Parameters
    ----------
    rows, revisions : int64 arrays
        From :func:`places`, in the same transaction.
    numbers : int64 array
        The new row of each old one: ascending, and never beyond the old one.
    prepared : Prepared
        Points whose revision is another by now are read again.
    """
    moving = numbers[rows] != rows
    rows, revisions = rows[moving], revisions[moving]
    at = np.searchsorted(prepared.rows, rows)
    at[at == len(prepared.rows)] = 0
    checksums = np.zeros(len(rows), np.int64)
    known = np.zeros(len(rows), bool)
    if len(prepared.rows):
        known = (prepared.rows[at] == rows) & (prepared.revisions[at] == revisions)
        checksums[known] = prepared.checksums[at[known]]
    others = rows[~known].tolist()
    found = read_points_at(connection, uid, others)
    checksums[~known] = [_checksum(found[row], int(numbers[row])) for row in others]
    high = uid << ROW_BITS
    # Ascending: a place is free before the next point comes to it.
    connection.executemany(
        "UPDATE luma_points SET point=?, crc=? WHERE point=?",
        zip(
            (high | numbers[rows]).tolist(), checksums.tolist(), (high | rows).tolist(), strict=True
        ),
    )
    return len(rows)


def _page(connection, uid, after):
    low, high = point_range(uid)
    found = connection.execute(
        "SELECT point FROM luma_points WHERE point >= ? AND point < ? ORDER BY point LIMIT ?",
        (low + after + 1, high, PAGE),
    )
    return [point & ((1 << ROW_BITS) - 1) for (point,) in found]


def _checksum(point, row):
    return crc32(point.meta, crc32(f"{row}\x1f{point.id}\x1f{point.revision}".encode()))
