"""Verification: every checksum of a lab, and SQLite's own integrity check."""

from dataclasses import dataclass, field

from luma_lab.engine import stamps, text_files
from luma_lab.engine.index_files import directory, kind_of
from luma_lab.errors import LumaError, RowsGone, StoreClosed
from luma_lab.files import load_arrays
from luma_lab.store import catalog, mappings
from luma_lab.store import log as event_log
from luma_lab.store.database import sqlite_errors
from luma_lab.store.matrix import damaged_blocks

RETRIES = 8


@dataclass
class Report:
    """What `Lab.verify` found: `problems` in words, `checked` counts by kind of thing."""

    problems: list[str] = field(default_factory=list)
    checked: dict[str, int] = field(default_factory=dict)

    @property
    def ok(self):
        """Whether nothing is damaged."""
        return not self.problems

    def __str__(self):
        counts = ", ".join(f"{count} {what}" for what, count in self.checked.items())
        found = "\n".join(f"damaged: {problem}" for problem in self.problems) or "no damage found"
        return f"checked {counts}\n{found}"


def verify(parts):
    """Return the `Report` of a lab at one moment; damage is listed, not raised."""
    for _ in range(RETRIES):
        report = _verify_once(parts)
        if report is not None:
            return report
    raise LumaError("collections are compacted faster than they can be verified: try again")


def _verify_once(parts):
    """Return a `Report`, or None when rows it was about to read were compacted away."""
    report = Report()
    connection = parts.database.connect()
    try:
        with sqlite_errors(parts.database.file):
            connection.execute("BEGIN")
            _check_database(connection, report)
            _check_log(connection, report)
            _check_rows(connection, report)
            for row in catalog.read_all(connection):
                _check_collection(connection, parts, row, report)
    except _Moved:
        return None
    except LumaError as error:
        report.problems.append(str(error))
    finally:
        connection.close()
    return report


class _Moved(Exception):
    """A collection was compacted since the check began."""


def _check_database(connection, report):
    for (line,) in connection.execute("PRAGMA integrity_check"):
        if line != "ok":
            report.problems.append(f"luma.db: {line}")
    report.checked["database"] = 1


def _check_log(connection, report):
    head, count, expected = event_log.read_head(connection), 0, None
    for values in connection.execute("SELECT * FROM luma_log ORDER BY offset"):
        entry = event_log.Entry._make(values[:6])
        if event_log.checksum(entry) != values[6]:
            report.problems.append(f"log entry {entry.offset} does not match its checksum")
        jump = expected is not None and entry.offset != expected
        if jump and entry.offset % event_log.EPOCH_STEP:
            report.problems.append(f"log: entries {expected} to {entry.offset - 1} are missing")
        expected = entry.offset + 1
        count += 1
    if count and expected != head.next_offset:
        report.problems.append(f"log ends at {expected - 1}, its head says {head.offset}")
    report.checked["log entries"] = count


def _check_rows(connection, report):
    for what, rows in (
        ("state entries", ((f"state entry {k!r}", ok) for k, ok in mappings.all_state(connection))),
        (
            "points",
            ((f"point {i!r} of {u}", ok) for u, i, ok in mappings.all_points(connection)),
        ),
        (
            "documents",
            ((f"document {i!r} of {c!r}", ok) for c, i, ok in mappings.all_documents(connection)),
        ),
    ):
        count = 0
        for name, sound in rows:
            count += 1
            if not sound:
                report.problems.append(f"{name} does not match its checksum")
        report.checked[what] = count


def _check_collection(connection, parts, row, report):
    matrix = parts.matrices.of(row.uid, row.generation, row.dim)
    blocks = catalog.read_blocks(connection, row.uid, row.generation)
    try:
        for block in damaged_blocks(matrix.rows(row.rows), blocks):
            report.problems.append(
                f"collection {row.name!r}: block {block} of {matrix.path.name} "
                "does not match its checksum"
            )
    except (RowsGone, StoreClosed) as error:
        now = parts.follower.row_of(row.uid)
        if now is None or now.generation != row.generation:
            raise _Moved from None
        report.problems.append(str(error))
    except LumaError as error:
        report.problems.append(str(error))
    live = len(mappings.live_rows(connection, row.uid))
    if live != row.live:
        report.problems.append(f"collection {row.name!r}: {live} points, catalog says {row.live}")
    report.checked["blocks"] = report.checked.get("blocks", 0) + len(blocks)
    stamp = stamps.stamp_of(row)
    if stamp is not None and stamp.directory is not None:
        try:
            load_arrays(parts.matrices.directory(row.uid) / stamp.directory, verify=True)
        except LumaError as error:
            report.problems.append(f"collection {row.name!r}: its embedder: {error}")
        report.checked["embedders"] = report.checked.get("embedders", 0) + 1
    if row.index_name is not None:
        path = directory(parts, row.uid, row.index_name)
        try:
            _check_index(path)
        except (LumaError, OSError) as error:
            now = parts.follower.row_of(row.uid)
            if now is None or now.index_name != row.index_name:
                raise _Moved from None
            report.problems.append(f"collection {row.name!r}: index {row.index_name}: {error}")
        report.checked["indexes"] = report.checked.get("indexes", 0) + 1
    for problem in text_files.problems(parts.texts.home(row.uid), report.checked):
        report.problems.append(f"collection {row.name!r}: {problem}")


def _check_index(path):
    load_arrays(path, verify=True)
    if kind_of(path.name) == "diskann":
        from luma_lab.index import DiskIndex

        with DiskIndex.open(path, cache_bytes=0) as index:
            index.verify()
