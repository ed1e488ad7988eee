"""The follower: reads the log in order, whichever process wrote it, and moves the views.

Every read calls :meth:`Follower.catch_up` first; when nothing was committed since, that is one
look at a mapped number, see `luma_lab.store.commits`. A thread does the same every 10 ms, so that
subscribers hear of other processes' commits, and asks SQLite itself.
"""

import logging
import threading
import time

import apsw

from luma_lab.engine.point_cache import PointCaches
from luma_lab.engine.views import View
from luma_lab.errors import (
    CollectionNotFound,
    CorruptStore,
    InvalidArgument,
    RowsGone,
    StoreClosed,
    WaitTimeout,
)
from luma_lab.store import catalog
from luma_lab.store import log as event_log
from luma_lab.store.database import as_luma_error, luma_errors

POLL_SECS = 0.01
RETRIES = 8
CATALOG_TYPES = frozenset(
    {
        "vector_collection_created",
        "vector_collection_dropped",
        "vector_collection_compacted",
        "index_built",
        "index_dropped",
        "index_tuned",
        "vector_embedder_changed",
    }
)
_WATCHED = ", ".join(f"'{t}'" for t in sorted(event_log.POINT_TYPES | CATALOG_TYPES))
_CHANGES = (
    "SELECT offset, ts_ms, type, key, collection, data, crc FROM luma_log "
    f"WHERE offset > ? AND type IN ({_WATCHED}) ORDER BY offset"
)
log = logging.getLogger(__name__)


class Follower:
    """Keeps the process's views in step with the log.

    Parameters
    ----------
    database : luma_lab.store.database.Database
    matrices : luma_lab.engine.views.Matrices
    load_index : callable
        ``load_index(catalog_row) -> index or None``.
    """

    def __init__(self, database, matrices, load_index):
        self._database = database
        self._matrices = matrices
        self._load_index = load_index
        self._connection = database.connect()
        # Absorbed half-way at one caller's time limit, the views would be wrong for all.
        self._connection.set_progress_handler(None)
        self._lock = threading.RLock()
        self._moved = threading.Condition()
        self._wake = threading.Event()
        self._callbacks = []
        self._waiting = 0
        self._views = {}
        self.points = PointCaches()
        self._catalog = {}
        self._version = None
        self._mark = database.mark
        self._seen = None  # where the mark stood when the views were last brought up to it
        self._stopped = False
        self.head = event_log.Head(0, 1, 1, 0, 0)
        self._reload()
        self._thread = threading.Thread(target=self._loop, name="luma-follower", daemon=True)
        self._thread.start()

    def catch_up(self, *, thorough=False):
        """Absorb everything committed so far, in any process; return the log's `Head`.

        Parameters
        ----------
        thorough : bool
            Also what another program may have written.
        """
        self._database.check()  # before the lock: after a fork nobody would ever release it
        with self._lock:
            self._look(thorough)
            return self.head

    def _look(self, thorough=False):
        """Do what :meth:`catch_up` does; under the lock."""
        mark = self._mark.look()
        if mark == self._seen and not thorough:
            return
        try:
            version = self._connection.execute("PRAGMA data_version").get
            if version != self._version:
                self._absorb()
                self._version = version
            self._seen = mark
        except apsw.Error as error:
            raise as_luma_error(error, self._database.file) from error

    def snapshot(self, name):
        """Return the `Snapshot` of a collection, caught up.

        Raises
        ------
        CollectionNotFound, CorruptStore
        """
        return self.ready(name) or self._snapshot(name)

    def ready(self, name):
        """Return what :meth:`snapshot` does if that takes no reading and no waiting, or None."""
        self._database.check()
        # In this order, so that what is found is at least as new as the mark: no lock is needed.
        if self._mark.look() != self._seen:
            return None
        view = self._views.get(name)
        return None if view is None else view.taken

    @luma_errors
    def _snapshot(self, name):
        for attempt in range(RETRIES):
            with self._lock:
                self._look()
                try:
                    view = self._views.get(name) or self._load_view(name)
                    return view.snapshot()
                except RowsGone:
                    # Compacted by another process since: that is in the log by now.
                    if attempt == RETRIES - 1 or not self._is_behind(name):
                        raise
        raise AssertionError("not reached")

    def lose_index(self, name, index_name):
        """Search a collection without the index so called, which is damaged, from now on."""
        with self._lock:
            view = self._views.get(name)
            if view is not None and view.index_name == index_name:
                view.use_index(None, index_name, 0)

    @luma_errors
    def row(self, name):
        """Return the present `CollectionRow` of a collection, with counters caught up."""
        self._database.check()
        with self._lock:
            self._look()
            return catalog.require(self._connection, name)

    def row_of(self, uid):
        """Return the `CollectionRow` of a uid as of the last change of the catalog, or None."""
        with self._lock:
            self.catch_up()
            return next((row for row in self._catalog.values() if row.uid == uid), None)

    @luma_errors
    def names(self):
        """Return the names of all collections, sorted."""
        self._database.check()
        with self._lock:
            self._look()
            return sorted(self._catalog)

    def wait_for(self, offset, timeout_secs):
        """Return when `offset` is readable; raise `WaitTimeout` after `timeout_secs`."""
        if type(offset) is not int or offset < 0:
            raise InvalidArgument(f"offset is {offset!r}: expected an int of at least 0")
        if self.catch_up().offset < offset and not self.wait_beyond(offset - 1, timeout_secs):
            raise WaitTimeout(
                f"offset {offset} was not reached within {timeout_secs} s: "
                f"the log's head is {self.head.offset}"
            )

    def wait_beyond(self, offset, timeout_secs):
        """Return True once the head is beyond `offset`, False after `timeout_secs`."""
        if self.catch_up().offset > offset:
            return True
        deadline = time.monotonic() + timeout_secs
        with self._moved:
            self._waiting += 1
            try:
                while self.head.offset <= offset:
                    self._database.check()
                    left = deadline - time.monotonic()
                    if left <= 0 or self._stopped:
                        return False
                    self._moved.wait(left)
            finally:
                self._waiting -= 1
        return True

    def on_commit(self, callback):
        """Call ``callback()`` in the follower's thread after new entries became readable.

        Returns
        -------
        callable
            Ends the subscription.
        """
        self._callbacks.append(callback)

        def unsubscribe():
            if callback in self._callbacks:
                self._callbacks.remove(callback)

        return unsubscribe

    def nudge(self):
        """Look at the log now instead of at the next tick, if anyone waits for it."""
        if self._callbacks or self._waiting:
            self._wake.set()

    def close(self):
        """Stop the thread and wake everyone who waits."""
        self._stopped = True
        self._wake.set()
        self._thread.join()
        with self._lock:
            self._views.clear()  # mapped arrays go, even while someone keeps the Lab object
        with self._moved:
            self._moved.notify_all()

    def _loop(self):
        told = self.head.offset
        while not self._stopped:
            self._wake.wait(POLL_SECS)
            self._wake.clear()
            try:
                head = self.catch_up(thorough=True).offset
            except StoreClosed:
                break
            except Exception:
                log.exception("the follower could not read the log; trying again")
                time.sleep(0.5)
                continue
            if head != told:
                told = head
                with self._moved:
                    self._moved.notify_all()
                for callback in list(self._callbacks):
                    try:
                        callback()
                    except Exception:
                        log.exception("a subscriber failed")

    def _absorb(self):
        connection = self._connection
        connection.execute("BEGIN")
        try:
            head = event_log.read_head(connection)
            if head.first_offset > self.head.next_offset or head.epoch != self.head.epoch:
                self._reload(connection, head)
                return
            try:
                catalog_changed = self._apply_changes(connection)
            except (CorruptStore, UnicodeDecodeError) as error:
                log.error("the log is damaged (%s); reading the tables instead", error)
                self._reload(connection, head)
                return
            if catalog_changed:
                self._read_catalog(connection)
            for view in self._views.values():
                view.applied = max(view.applied, head.offset)
            self.head = head
        finally:
            if connection.in_transaction:  # some faults end it, and are not to be hidden
                connection.execute("COMMIT")

    def _apply_changes(self, connection):
        """Move the views by the log's new entries; return whether the catalog changed."""
        catalog_changed = False
        by_uid = {view.row.uid: view for view in self._views.values()}
        for values in connection.execute(_CHANGES, (self.head.offset,)):
            entry = event_log.Entry._make(values[:6])
            if event_log.checksum(entry) != values[6]:
                raise CorruptStore(f"log entry {entry.offset} does not match its checksum")
            if entry.type in CATALOG_TYPES:
                catalog_changed = True
                continue
            change = event_log.point_change_decoder.decode(entry.data)
            view = by_uid.get(change.uid)
            if view is not None and entry.offset > view.applied:
                view.apply(entry.offset, change)
        return catalog_changed

    @luma_errors
    def _reload(self, connection=None, head=None):
        connection = connection or self._connection
        self._views.clear()
        self._read_catalog(connection)
        self.head = head or event_log.read_head(connection)

    def _read_catalog(self, connection):
        known = {row.uid: row.generation for row in self._catalog.values()}
        self._catalog = {row.name: row for row in catalog.read_all(connection)}
        now = {row.uid: row.generation for row in self._catalog.values()}
        for uid, generation in known.items():
            if now.get(uid) != generation:
                self._matrices.forget(uid, now.get(uid))
        for name, view in list(self._views.items()):
            row = self._catalog.get(name)
            if row is None or (row.uid, row.generation) != (view.row.uid, view.row.generation):
                del self._views[name]
                continue
            view.row = row
            if row.index_name != view.index_name:
                view.use_index(self._load_index(row), row.index_name, row.index_rows)

    def _is_behind(self, name):
        """Return whether a collection has another place than this follower knew of."""
        known, row = self._catalog.get(name), catalog.find(self._connection, name)
        if known is None or row is None:
            return True
        return (row.uid, row.generation) != (known.uid, known.generation)

    def _load_view(self, name):
        if name not in self._catalog:
            raise CollectionNotFound(name)
        connection = self._connection
        connection.execute("BEGIN")
        try:
            row = catalog.require(connection, name)
            matrix = self._matrices.checked(connection, row)
            applied = event_log.read_head(connection).offset
            view = View(connection, row, matrix, applied, self.points.make(applied))
        finally:
            connection.execute("COMMIT")
        if row.index_name is not None:
            view.use_index(self._load_index(row), row.index_name, row.index_rows)
        self._views[name] = view
        return view
