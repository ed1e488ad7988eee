"""The one SQLite file of a lab: how it is created, recognised, migrated and connected to."""

import contextlib
import functools
import logging
import os
import threading
import time
import weakref
from pathlib import Path

import apsw

from luma_lab.errors import (
    CorruptStore,
    NewerFormat,
    NotALab,
    StorageError,
    StoreClosed,
    StoreFull,
    WaitTimeout,
)
from luma_lab.files import DISK, NETWORK_FILE_SYSTEMS, file_system_type
from luma_lab.store import deadline
from luma_lab.store.commits import CommitMark
from luma_lab.store.schema import APPLICATION_ID, FORMAT_VERSION, MIGRATIONS, SCHEMA

FILE_NAME = "luma.db"
MARK_NAME = "luma.db-commits"
BUSY_LIMIT_SECS = 60.0
WAL_LIMIT_BYTES = 64 << 20
CHECKPOINT_PAGES = 4000  # 16 MB: rows written again and again meanwhile are copied back once
DEADLINE_STEPS = 10_000  # of SQLite's virtual machine, about a millisecond
CLOSING_ERRORS = (
    apsw.ConnectionClosedError,
    apsw.CursorClosedError,
    apsw.ThreadingViolationError,
)
CLOSE_LIMIT_SECS = 10.0
HARMLESS_ENTRIES = {"lost+found", "keys.db", "keys.db-wal", "keys.db-shm"}
READING_ERRORS = (apsw.Error, UnicodeDecodeError)  # a flipped bit may leave no UTF-8 behind
log = logging.getLogger(__name__)


class _Process:
    """Knows this process's id without a system call, for every read compares it."""

    def __init__(self):
        self.look()
        os.register_at_fork(after_in_child=self.look)

    def look(self):
        self.id = os.getpid()


process = _Process()


class Database:
    """Connections to the `luma.db` of one lab directory.

    Parameters
    ----------
    path : path
        The lab's directory. Created when missing.
    durable : bool
        False turns syncing off, for labs that are thrown away on close.
    vfs : str, optional
        Name of a registered SQLite VFS, for tests that record or refuse file calls.
    functions : dict, optional
        From name to a deterministic Python function that every connection gets.

    Attributes
    ----------
    mark : luma_lab.store.commits.CommitMark

    Raises
    ------
    NotALab
        The directory holds other things, or lies on a network file system.
    NewerFormat
        The lab was written by a newer version.
    CorruptStore
        `luma.db` is not a readable SQLite database.
    """

    def __init__(self, path, *, durable=True, vfs=None, disk=DISK, functions=None):
        self.path = Path(path).absolute()
        self.file = self.path / FILE_NAME
        self.durable = durable
        self._vfs = vfs
        self._disk = disk
        self._functions = dict(functions or {})
        self._pid = process.id
        self._closed = False
        self._local = threading.local()
        self._connections = weakref.WeakSet()
        self._prepare_directory()
        with sqlite_errors(self.file):
            self._prepare_file()
        self.mark = CommitMark(self.path / MARK_NAME, self.file)

    def check(self):
        """Raise `StoreClosed` when the lab was closed, or opened before a fork."""
        if self._closed:
            raise StoreClosed(f"the lab at {self.path} is closed: open it again")
        if self._pid != process.id:
            raise StoreClosed(
                f"the lab at {self.path} was opened by process {self._pid} before a fork: "
                "open it again in this process"
            )

    @property
    def closed(self):
        """Whether :meth:`close` was called."""
        return self._closed

    @property
    def forked(self):
        """Whether this process is a fork of the one that opened the lab."""
        return self._pid != process.id

    def connect(self, *, writes=False, read_only=False):
        """Return a new apsw connection; without `writes` it refuses to change anything.

        Reads on it stop with `WaitTimeout` when the calling thread's deadline has passed.
        `read_only` opens the file itself so, for connections that run a stranger's text.
        """
        self.check()
        writable = apsw.SQLITE_OPEN_READWRITE | apsw.SQLITE_OPEN_CREATE
        connection = apsw.Connection(
            str(self.file),
            flags=apsw.SQLITE_OPEN_READONLY if read_only else writable,
            vfs=self._vfs,
        )
        for name, function in self._functions.items():
            connection.create_scalar_function(name, function, deterministic=True)
        connection.set_busy_handler(_patience())
        if writes:
            connection.execute("PRAGMA cache_size=-16384").fetchall()
            connection.execute("PRAGMA journal_mode=WAL").fetchall()
            level = "FULL" if self.durable else "OFF"
            connection.execute(f"PRAGMA synchronous={level}").fetchall()
            connection.execute(f"PRAGMA journal_size_limit={WAL_LIMIT_BYTES}").fetchall()
            connection.execute(f"PRAGMA wal_autocheckpoint={CHECKPOINT_PAGES}").fetchall()
        else:
            # One for each thread of a server: what they do not hold the system's cache does.
            connection.execute("PRAGMA cache_size=-4096").fetchall()
            connection.execute("PRAGMA query_only=ON").fetchall()
            connection.set_progress_handler(deadline.passed, DEADLINE_STEPS)
        self._connections.add(connection)
        return connection

    def reader(self):
        """Return this thread's reading connection."""
        self.check()
        connection = getattr(self._local, "connection", None)
        if connection is None:
            with sqlite_errors(self.file):
                connection = self._local.connection = self.connect()
        return connection

    def close(self):
        """Close every connection; may be called twice, and after a fork does nothing."""
        self._closed = True
        if self.forked:
            return
        for connection in list(self._connections):
            _close(connection)
        self.mark.close()

    def _prepare_directory(self):
        path = self.path
        if path.exists() and not path.is_dir():
            raise NotALab(f"{path} is a file: expected a directory")
        kind = file_system_type(path)
        if kind in NETWORK_FILE_SYSTEMS:
            raise NotALab(
                f"{path} is on a network file system ({kind}), where locks and mappings are "
                "not safe: use a local disk"
            )
        if path.is_dir() and not self.file.exists():
            others = [e.name for e in path.iterdir() if not e.name.startswith(".")]
            others = sorted(set(others) - HARMLESS_ENTRIES)
            # Two processes may create one lab at once: the other's file counts as ours.
            if others and not any(name.startswith(FILE_NAME) for name in others):
                raise NotALab(
                    f"{path} is not a lab and not empty (it holds {others[0]!r}): "
                    "expected a lab or an empty directory"
                )
        if not path.exists():
            try:
                path.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise StorageError(f"can't create {path}: {error.strerror}") from error
            self._disk.sync_directory(path.parent)

    def _prepare_file(self):
        fresh = not self.file.exists()
        connection = apsw.Connection(
            str(self.file),
            flags=apsw.SQLITE_OPEN_READWRITE | apsw.SQLITE_OPEN_CREATE,
            vfs=self._vfs,
        )
        connection.set_busy_handler(_patience())
        try:
            # One read transaction: another process may be creating the lab at this moment.
            connection.execute("BEGIN")
            application = connection.pragma("application_id")
            version = connection.pragma("user_version")
            empty = application == 0 and version == 0 and not self._has_tables(connection)
            connection.execute("COMMIT")
            if empty:
                self._create(connection)
                version = FORMAT_VERSION
            elif application != APPLICATION_ID:
                raise NotALab(f"{self.file} is another program's SQLite database, not a lab")
            else:
                version = connection.pragma("user_version")
            if version > FORMAT_VERSION:
                raise NewerFormat(
                    f"{self.path} has format {version}, this version reads up to "
                    f"{FORMAT_VERSION}: upgrade luma_lab"
                )
            if version < FORMAT_VERSION:
                self._migrate(connection, version)
        finally:
            connection.close()
        if fresh:
            self._disk.sync_directory(self.path)

    @staticmethod
    def _has_tables(connection):
        return bool(connection.execute("SELECT count(*) FROM sqlite_schema").get)

    def _create(self, connection):
        _switch_to_wal(connection)
        connection.execute(f"PRAGMA synchronous={'FULL' if self.durable else 'OFF'}").fetchall()
        with immediate(connection):
            if not self._has_tables(connection):
                connection.execute(SCHEMA).fetchall()
                connection.execute(f"PRAGMA application_id={APPLICATION_ID}").fetchall()
                connection.execute(f"PRAGMA user_version={FORMAT_VERSION}").fetchall()

    def _migrate(self, connection, version):
        missing = [v for v in range(version, FORMAT_VERSION) if v not in MIGRATIONS]
        if missing:
            raise NotALab(f"{self.path} has format {version}; no way leads from {missing[0]}")
        copy = self.path / f"luma-format{version}.backup.db"
        target = apsw.Connection(str(copy))
        try:
            with target.backup("main", connection, "main") as backup:
                backup.step()
        finally:
            target.close()
        log.info("migrating %s from format %d, backup in %s", self.path, version, copy.name)
        with immediate(connection):
            for step in range(connection.pragma("user_version"), FORMAT_VERSION):
                MIGRATIONS[step](connection)
                connection.execute(f"PRAGMA user_version={step + 1}").fetchall()


@contextlib.contextmanager
def immediate(connection):
    """Run the block in one write transaction of `connection`."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise
    connection.execute("COMMIT")


def as_luma_error(error, file=FILE_NAME):
    """Return the `StorageError` that says what an apsw error means to a user."""
    if isinstance(error, apsw.FullError):
        return StoreFull(f"no space left for {file}: free some and try again; nothing was kept")
    if isinstance(error, (apsw.CorruptError, apsw.NotADBError)):
        return CorruptStore(f"{file} is damaged ({error}): run luma verify, restore a backup")
    if isinstance(error, UnicodeDecodeError):
        return CorruptStore(f"{file} holds text that is not UTF-8: run luma verify")
    # No connection is shared by threads, so only close() can be the other thread.
    if isinstance(error, CLOSING_ERRORS):
        return StoreClosed(f"the lab of {file} is closed: open it again")
    if isinstance(error, apsw.InterruptError):
        return WaitTimeout("the read was stopped: its time limit had passed")
    if isinstance(error, apsw.BusyError):
        return StorageError(f"{file} stayed locked for {BUSY_LIMIT_SECS:.0f} s by another process")
    return StorageError(f"{file}: {type(error).__name__}: {error}")


@contextlib.contextmanager
def sqlite_errors(file=FILE_NAME):
    """Turn apsw errors of the block into the house's own."""
    try:
        yield
    except READING_ERRORS as error:
        raise as_luma_error(error, file) from error


def luma_errors(method):
    """Decorate a reading method: apsw errors leave it as the house's own."""

    @functools.wraps(method)
    def guarded(*args, **kwargs):
        try:
            return method(*args, **kwargs)
        except READING_ERRORS as error:
            raise as_luma_error(error) from error

    return guarded


def _switch_to_wal(connection):
    """Set the journal mode; of two that do so at once SQLite refuses one without waiting."""
    deadline = time.monotonic() + BUSY_LIMIT_SECS
    while True:
        try:
            connection.execute("PRAGMA journal_mode=WAL").fetchall()
            return
        except apsw.BusyError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.001)


def _close(connection):
    """Close a connection between two calls of the thread that reads with it."""
    deadline = time.monotonic() + CLOSE_LIMIT_SECS
    while True:
        try:
            connection.close()
            return
        except (apsw.ThreadingViolationError, apsw.BusyError):
            if time.monotonic() > deadline:
                log.warning("a connection stays open: another thread has been reading for long")
                return
            time.sleep(0.001)


def _patience():
    """Busy handler that tries each millisecond: SQLite's own backs off and starves a writer."""
    started = 0.0

    def wait(attempts):
        nonlocal started
        now = time.monotonic()
        if attempts == 0:
            started = now
        if now - started > BUSY_LIMIT_SECS:
            return False
        time.sleep(0.0003 if attempts < 10 else 0.001)
        return True

    return wait
