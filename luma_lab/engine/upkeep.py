"""Upkeep: what a lab does unasked. Sweeps expired state, trims the log and
the write-ahead log, renews leases, builds and grows indexes, compacts, fits embedders.
"""

import logging
import shutil
import threading
import time
from dataclasses import dataclass

from luma_lab.engine import builds, compaction, refitting, stamps, state, text_files
from luma_lab.errors import LumaError, StoreClosed
from luma_lab.store import catalog, leases, mappings
from luma_lab.store import log as event_log
from luma_lab.store.checkpoint import Checkpoints
from luma_lab.store.database import WAL_LIMIT_BYTES

TICK_SECS = 0.25
RETENTION_EVERY_SECS = 30.0
BOUND_EVERY_SECS = 1.0
FOLLOW_EVERY_SECS = 1.0
SWEEP_KEYS = 1000
# When what a process that died had under lease is removed: at opening it could not be.
ORPHANS_AFTER_SECS = 1.2 * leases.LEASE_MS / 1000
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Retention:
    """How much of the log is kept, whichever limit is met first."""

    secs: float = 7 * 24 * 3600
    events: int = 10_000_000
    bytes: int = 1 << 30


class Upkeep:
    """A thread of small regular work.

    Parameters
    ----------
    parts : luma_lab.engine.lab.Parts
    retention : Retention
    """

    def __init__(self, parts, retention):
        self._parts = parts
        self._retention = retention
        self._checkpoints = Checkpoints(parts.database, WAL_LIMIT_BYTES)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._loop, name="luma-upkeep", daemon=True)
        self._thread.start()

    def close(self):
        """Stop the thread."""
        self._stop.set()
        self._thread.join()

    def _loop(self):
        parts = self._parts
        trim_at = beat_at = bound_at = follow_at = 0.0
        opened_at, orphans_left = time.monotonic(), True
        while not self._stop.wait(TICK_SECS):
            try:
                self.sweep()
                now = time.monotonic()
                if now >= beat_at and parts.jobs.list("running"):
                    beat_at = now + leases.HEARTBEAT_SECS
                    parts.writer.run(
                        lambda u: leases.renew_all(u.connection, parts.owner, u.now_ms)
                    )
                if now >= bound_at:
                    self._checkpoints.bound()
                    bound_at = time.monotonic() + BOUND_EVERY_SECS
                if now >= follow_at:
                    compaction.follow_deaths(parts)
                    builds.follow_rows(parts)
                    refitting.follow_texts(parts)
                    parts.texts.tend()
                    follow_at = time.monotonic() + FOLLOW_EVERY_SECS
                if orphans_left and now - opened_at >= ORPHANS_AFTER_SECS:
                    orphans_left = False
                    parts.writer.run(lambda unit: remove_orphans(unit, parts.matrices))
                if now >= trim_at:
                    trim_at = now + RETENTION_EVERY_SECS
                    self.trim()
            except StoreClosed:
                return
            except LumaError as error:
                log.warning("upkeep failed (%s); trying again", error)
            except Exception:
                log.exception("upkeep failed; trying again")

    def sweep(self):
        """Delete entries whose time is over, each with its event; return how many."""
        parts, swept = self._parts, 0
        while True:
            due = mappings.next_expiry(parts.database.reader())
            if due is None or due > parts.clock.now_ms():
                return swept
            count = parts.writer.run(lambda unit: state.sweep_expired(unit, SWEEP_KEYS))
            swept += count
            if not count:
                return swept

    def trim(self):
        """Cut the log to the retention; return how many entries went."""
        parts, keep = self._parts, self._retention
        head = event_log.read_head(parts.database.reader())

        def first_kept(connection, head, now_ms):
            return event_log.retained_from(
                connection,
                head,
                now_ms=now_ms,
                max_age_ms=int(keep.secs * 1000),
                max_events=keep.events,
                max_bytes=keep.bytes,
            )

        now_ms = parts.clock.now_ms()
        if first_kept(parts.database.reader(), head, now_ms) <= head.first_offset:
            return 0

        def operation(unit):
            first = first_kept(unit.connection, unit.head, unit.now_ms)
            return event_log.truncate(unit.connection, unit.head, first)

        return parts.writer.run(operation)


def remove_orphans(unit, matrices):
    """Remove what no catalog row names; runs inside a write transaction.

    The transaction keeps other processes from creating collections meanwhile; an index
    directory or generation being written is protected by its lease.
    """
    home = matrices.path / "collections"
    if not home.is_dir():
        return
    rows = {str(row.uid): row for row in catalog.read_all(unit.connection)}
    for directory in home.iterdir():
        row = rows.get(directory.name)
        if row is None:
            shutil.rmtree(directory, ignore_errors=True)
            continue
        stamp = stamps.stamp_of(row)
        if not leases.holder(unit.connection, refitting.lease_of(row.uid), unit.now_ms):
            for embedder in directory.glob("embedder-*"):
                if stamp is None or embedder.name != stamp.directory:
                    shutil.rmtree(embedder, ignore_errors=True)
        if leases.holder(unit.connection, f"build:{row.uid}", unit.now_ms):
            continue
        compaction.sweep_generations(directory, row.generation)
        for index in (directory / "index").glob("*"):
            if row.text is not None and index.name.startswith(text_files.PREFIX):
                continue  # whoever saves the next one removes it
            if index.name != row.index_name:
                shutil.rmtree(index, ignore_errors=True)
