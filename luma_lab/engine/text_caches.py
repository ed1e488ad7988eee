"""The text indexes of a lab in this process: one cache a collection, and their upkeep."""

import logging
import threading
import time
from contextlib import contextmanager
from typing import NamedTuple

import apsw

from luma_lab.engine import text_files
from luma_lab.engine.text_cache import Moment, TextCache
from luma_lab.engine.text_settings import field_languages, field_weights
from luma_lab.errors import (
    CollectionNotFound,
    LeaseHeld,
    LumaError,
    NotSupported,
    StoreClosed,
    WaitTimeout,
)
from luma_lab.store import catalog, deadline, leases
from luma_lab.store import log as event_log
from luma_lab.store.catalog import CollectionRow

# Changes since an index was saved, at least and as a share of it, at which it is saved again.
LEAST_UNSAVED, SHARE_UNSAVED = 2000, 0.1
REST_SECS = 60.0  # after upkeep failed
log = logging.getLogger(__name__)


class Reading(NamedTuple):
    """A read transaction and what the text index of a collection was at its offset."""

    connection: apsw.Connection
    row: CollectionRow
    moment: Moment


class TextCaches:
    """The `TextCache` of each collection that was searched, or is to be saved.

    Parameters
    ----------
    parts : luma_lab.engine.lab.Parts
    """

    def __init__(self, parts):
        self._parts = parts
        self._caches, self._uids = {}, {}
        self._rest_until, self._not_due = {}, {}
        self._lock = threading.Lock()
        self._worker = None
        self._stopped = False

    @contextmanager
    def reading(self, name):
        """Begin a read transaction and yield its `Reading`; in one already begun, join it.

        The index is brought to the offset of the transaction. Only in a transaction that was
        begun outside may the index be later than it.

        Raises
        ------
        CollectionNotFound, NotSupported, CorruptStore
        """
        connection = self._parts.database.reader()
        if connection.in_transaction:
            row = required(connection, name)
            cache = self._cache(row.uid)
            with _locked(cache, name):
                moment = self._moment(cache, connection, row)
            yield Reading(connection, row, moment)
            return
        while True:
            uid = self._uids.get(name)
            if uid is None:
                uid = self._uids[name] = required(connection, name).uid
            cache = self._cache(uid)
            with _locked(cache, name):
                # Begun behind the lock: so no other thread is ahead of what this one sees.
                connection.execute("BEGIN")
                try:
                    row = required(connection, name)
                    if row.uid == uid:
                        moment = self._moment(cache, connection, row)
                    else:
                        self._uids.pop(name, None)  # dropped, and there again
                except BaseException:
                    connection.execute("COMMIT")
                    raise
            try:
                if row.uid == uid:
                    yield Reading(connection, row, moment)
                    return
            finally:
                if connection.in_transaction:
                    connection.execute("COMMIT")

    def home(self, uid):
        """Return the directory of a collection's indexes."""
        return self._parts.matrices.directory(uid) / "index"

    def sizes(self, uid):
        """Return counts and bytes of a collection's text index, as a dict."""
        disk_bytes = text_files.disk_bytes(self.home(uid))
        cache = self._caches.get(uid)
        moment = cache.latest if cache is not None else None
        if moment is None:
            return {
                "terms": 0,
                "segments": 0,
                "applied_offset": 0,
                "memory_bytes": 0,
                "disk_bytes": disk_bytes,
            }
        return {
            "terms": moment.index.words,
            "segments": moment.index.segments,
            "applied_offset": moment.offset,
            "memory_bytes": cache.memory_bytes,
            "disk_bytes": disk_bytes,
        }

    def tend(self):
        """Have what there is to merge and to save done by a thread; called every second or so."""
        with self._lock:
            if self._stopped or (self._worker is not None and self._worker.is_alive()):
                return
        rows = [r for r in catalog.read_all(self._parts.database.reader()) if r.text is not None]
        for uid in set(self._caches) - {row.uid for row in rows}:
            self._caches.pop(uid, None)
            self._uids.clear()
        now = time.monotonic()
        work = [
            row
            for row in rows
            if self._rest_until.get(row.uid, 0) <= now
            and (self._is_untidy(row) or self._is_due(row))
        ]
        with self._lock:
            if work and not self._stopped:
                self._worker = threading.Thread(
                    target=self._work, args=(work,), name="luma-text", daemon=True
                )
                self._worker.start()

    def close(self):
        """Wait for the thread and forget everything."""
        with self._lock:
            self._stopped = True
            worker = self._worker
        if worker is not None:
            worker.join()
        self._caches.clear()

    def _cache(self, uid):
        cache = self._caches.get(uid)
        if cache is None:
            with self._lock:
                cache = self._caches.setdefault(uid, TextCache())
        return cache

    def _moment(self, cache, connection, row):
        if cache.needs(row.text):
            head = event_log.read_head(connection)
            cache.start(row.text, text_files.load_latest(self.home(row.uid), row.text, head))
            self._not_due.pop(row.uid, None)
        return cache.moment(connection, row)

    def _is_untidy(self, row):
        cache = self._caches.get(row.uid)
        return cache is not None and cache.needs_tidying()

    def _is_due(self, row):
        state = row.text, row.generation, row.live, row.upserts
        if self._not_due.get(row.uid) == state:
            return False  # nothing happened since the last look at the files
        if not self._changed_much(row):
            self._not_due[row.uid] = state
            return False
        return True

    def _changed_much(self, row):
        saved = text_files.saved_counters(self.home(row.uid), row.text)
        if saved is None:
            return row.live >= LEAST_UNSAVED
        changes = row.upserts - saved.upserts + abs(row.live - saved.live)
        return (
            changes >= max(LEAST_UNSAVED, SHARE_UNSAVED * row.live)
            or saved.generation != row.generation
        )

    def _work(self, rows):
        for row in rows:
            if self._stopped:
                return
            name = row.name
            try:
                with self.reading(name) as reading:
                    row = reading.row
                self._caches[row.uid].tidy()
                if self._is_due(row):
                    self._save(row)
            except (StoreClosed, CollectionNotFound, NotSupported):
                continue
            except LeaseHeld:
                continue  # another process is at it
            except LumaError as error:
                self._rest_until[row.uid] = time.monotonic() + REST_SECS
                log.warning("the text index of %r was not saved (%s); trying again", name, error)
            except Exception:
                self._rest_until[row.uid] = time.monotonic() + REST_SECS
                log.exception("the text index of %r was not saved; trying again", name)

    def _save(self, row):
        parts, lease = self._parts, f"text:{row.uid}"
        owner = f"{parts.owner}:text"
        parts.writer.run(lambda unit: leases.take(unit.connection, lease, owner, unit.now_ms))
        try:
            saved = self._caches[row.uid].to_save()
            if saved is not None:
                text_files.save(self.home(row.uid), *saved)
        finally:
            parts.writer.run(lambda unit: leases.release(unit.connection, lease, owner))


@contextmanager
def _locked(cache, name):
    """Hold a cache's lock in the block; wait for it no longer than the thread's time limit."""
    left = deadline.left()
    if not cache.lock.acquire(timeout=-1 if left is None else left):
        raise WaitTimeout(f"the text index of {name!r} is still being made: try again later")
    try:
        yield
    finally:
        cache.lock.release()


def required(connection, name):
    """Return the catalog row of a collection with text fields.

    Raises
    ------
    CollectionNotFound, NotSupported
    """
    row = catalog.require(connection, name)
    if row.text is None:
        raise NotSupported(
            f"collection {name!r} has no text index: create it with text_fields=[...], or give "
            "it some with set_text_fields"
        )
    return row


def text_status(parts, row):
    """Return what `index_status` shows of the text index of a catalog row, or None.

    Of what this process has in memory: to look is not to load.
    """
    if row.text is None:
        return None
    return {
        "language": row.text["language"],
        "fields": field_weights(row.text),
        "field_languages": field_languages(row.text),
        "documents": row.live,
        **parts.texts.sizes(row.uid),
    }
