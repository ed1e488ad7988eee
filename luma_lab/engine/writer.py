"""The write path: a queue, one thread, and one transaction for whatever waited in the queue.

Each operation runs in a savepoint of its own, so one that is refused takes no neighbour with
it. Nothing is acknowledged before the commit, and the commit comes after the sync of every
matrix file it speaks of. If a group's commit fails, each of its operations is run again alone.
"""

import contextlib
import logging
import queue
import threading
from concurrent.futures import Future, wait

import apsw

from luma_lab.engine.answers import LoopFuture, answer_all
from luma_lab.errors import InvalidArgument, LumaError, StoreClosed, WaitTimeout
from luma_lab.store import deadline
from luma_lab.store import log as event_log
from luma_lab.store.database import READING_ERRORS, as_luma_error

MAX_GROUP = 512
log = logging.getLogger(__name__)
_STOP = object()


def refuses_first(together=None):
    """Mark an operation that raises a `LumaError` only before its first write.

    It needs no savepoint. Where anything else goes wrong half-way, its whole group is undone
    and its neighbours are run again alone.

    Parameters
    ----------
    together : callable, optional
        ``together(unit, calls)`` does a run of such operations at once: given the keyword
        arguments of each, it returns a result or a `LumaError` for each.
    """

    def mark(operation):
        operation.refuses_first = True
        operation.together = together
        return operation

    return mark


class Unit:
    """An open write transaction, handed to operations.

    Attributes
    ----------
    connection : apsw.Connection
        Inside ``BEGIN IMMEDIATE``.
    now_ms : int
        The transaction's time; never before that of an earlier one.
    head : luma_lab.store.log.Head
        Advanced by :meth:`append`, stored at the end.
    guard : luma_lab.engine.sql_guard.Guard
        What stands before users' SQL on the connection.
    """

    def __init__(self, connection, clock, matrices, guard=None):
        self.connection = connection
        self.guard = guard
        self.head = event_log.read_head(connection)
        self.now_ms = max(clock.now_ms(), self.head.last_ts_ms)
        self.head.last_ts_ms = self.now_ms
        self._stored = event_log.Head(**vars(self.head))
        self._matrices = matrices
        self._touched = set()

    def append(self, type, *, key=None, collection=None, data=b"null"):
        """Append an event and return its offset."""
        return event_log.append(self.connection, self.head, type, key, collection, data)

    def append_keyed(self, type, entries):
        """Append an event for each (key, data) of `entries`; return the first offset."""
        return event_log.append_keyed(self.connection, self.head, type, entries)

    def append_many(self, type, collection, datas):
        """Append an event for each of `datas`; return the first offset."""
        return event_log.append_many(self.connection, self.head, type, collection, datas)

    def matrix(self, row):
        """Return the `Matrix` of a catalog row."""
        return self._matrices.of(row.uid, row.generation, row.dim)

    def write_vectors(self, row, vectors):
        """Write vectors behind the committed rows of a catalog row; synced before the commit."""
        matrix = self.matrix(row)
        self._touched.add(matrix)
        matrix.write(row.rows, vectors)

    def run(self, operation):
        """Run one operation in a savepoint; a refused one leaves no trace."""
        before = event_log.Head(**vars(self.head))
        self.connection.execute("SAVEPOINT operation")
        try:
            result = operation(self)
        except BaseException:
            if self.connection.in_transaction:
                self.connection.execute("ROLLBACK TO operation")
                self.connection.execute("RELEASE operation")
            self.head = before
            raise
        self.connection.execute("RELEASE operation")
        return result

    def commit(self, database):
        """Sync the matrix files, store the head, commit."""
        if database.durable:
            for matrix in self._touched:
                matrix.sync()
        if self.head != self._stored:
            event_log.write_head(self.connection, self.head)
        number = database.mark.begin()
        try:
            self.connection.execute("COMMIT")
        finally:
            database.mark.end(number)


class Writer:
    """The one writer of a process.

    Parameters
    ----------
    database : luma_lab.store.database.Database
    matrices : luma_lab.engine.views.Matrices
    clock : luma_lab.engine.clock.Clock
    """

    def __init__(self, database, matrices, clock):
        self._database = database
        self._matrices = matrices
        self._clock = clock
        self.connection = database.connect(writes=True)
        self._lock = threading.Lock()
        self._door = threading.Lock()
        self._ending = threading.Lock()
        self._closed = False
        self._session_thread = None
        self._queue = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._loop, name="luma-writer", daemon=True)
        self._thread.start()
        self.committed = lambda: None
        self.guard = None

    def submit(self, operation, *, alone=False):
        """Queue ``operation(unit) -> result``; return a Future resolved after the commit.

        Parameters
        ----------
        alone : bool
            Give it a transaction of its own: for user SQL, which can end the transaction it
            runs in and take the neighbours with it.

        Raises
        ------
        InvalidArgument
            This thread is inside ``lab.transaction()``: use its methods instead.
        StoreClosed
        """
        self._database.check()
        if self._session_thread == threading.get_ident():
            raise InvalidArgument(
                "a write on the lab inside its own transaction would wait for itself: "
                "call the method on the transaction object"
            )
        future = Future()
        self._enqueue(operation, future, alone)
        return future

    def submit_soon(self, operation):
        """Queue an operation from a coroutine; return an `asyncio.Future` of its loop."""
        self._database.check()
        future = LoopFuture()
        self._enqueue(operation, future, False)
        return future.future

    def run(self, operation, *, alone=False):
        """Queue an operation and wait for its result.

        Raises
        ------
        WaitTimeout
            The thread's deadline passed while it still waited in the queue: nothing is written.
            One that had begun is waited for.
        """
        future = self.submit(operation, alone=alone)
        left = deadline.left()
        if left is None:
            return future.result()
        finished, _ = wait((future,), left)
        if not finished and future.cancel():
            raise WaitTimeout("the write still waited for its turn: nothing was written")
        return future.result()

    @property
    def is_held_here(self):
        """Whether the calling thread is the one that writes: another write would wait for it."""
        return threading.get_ident() in (self._session_thread, self._thread.ident)

    @property
    def waiting(self):
        """How many operations are queued, about."""
        return self._queue.qsize()

    def begin(self, timeout_secs):
        """Open an interactive transaction for the calling thread; return its `Unit` or None.

        None means that another transaction of this process kept the writer longer than
        `timeout_secs`. End it with :meth:`end` or :meth:`abandon`.
        """
        self._database.check()
        if self._session_thread == threading.get_ident():
            raise InvalidArgument("this thread is already inside a transaction")
        if not self._lock.acquire(timeout=timeout_secs):
            return None
        try:
            self._database.check()
            if self._closed:
                raise StoreClosed("the lab is closed: open it again")
            unit = self._open_unit()
        except BaseException:
            self._rollback()
            self._lock.release()
            raise
        self._session_thread = threading.get_ident()
        return unit

    def end(self, unit):
        """Commit an interactive transaction and free the writer."""
        try:
            unit.commit(self._database)
        except apsw.Error as error:
            raise as_luma_error(error, self._database.file) from error
        finally:
            self.abandon()
        self.committed()

    def abandon(self):
        """Roll back what is open and free the writer; nothing when that was done."""
        with self._ending:
            if self._session_thread is not None:
                self._rollback()
                self._session_thread = None
                self._lock.release()

    @contextlib.contextmanager
    def paused(self):
        """Let nothing of this process be written for a block; what is queued meanwhile waits."""
        self._database.check()
        with self._lock:
            yield

    def close(self):
        """Finish what is queued, then stop the thread.

        A transaction of another thread ends first; one of this thread is rolled back, for
        waiting would never end.
        """
        with self._door:
            self._closed = True
            self._queue.put((_STOP, None, False))
        if self._session_thread == threading.get_ident():
            self.abandon()
        self._thread.join()
        with self._lock:
            pass

    def _enqueue(self, operation, future, alone):
        with self._door:
            if self._closed:
                raise StoreClosed("the lab is closed: open it again")
            self._queue.put((operation, future, alone))

    def _loop(self):
        stopping = False
        while not stopping:
            group = [self._queue.get()]
            while len(group) < MAX_GROUP:
                try:
                    group.append(self._queue.get_nowait())
                except queue.Empty:
                    break
            stopping = any(operation is _STOP for operation, *_ in group)
            group = [item for item in group if item[0] is not _STOP]
            for together in _split(group):
                with self._lock:
                    # A cancelled future can't be answered: its operation is left out.
                    together = [i for i in together if i[1].set_running_or_notify_cancel()]
                    self._commit_group(together)
                self.committed()

    def _commit_group(self, group):
        if not group:
            return
        try:
            answers = self._attempt(group)
        except Exception as error:
            if len(group) > 1 and not isinstance(error, apsw.BusyError):
                log.warning("a group commit failed (%s); running its operations alone", error)
                for item in group:
                    self._commit_group([item])
                return
            answers = [(None, self._explain(error))] * len(group)
        answer_all([future for _, future, _ in group], answers)

    def _attempt(self, group):
        try:
            unit = self._open_unit()
            answers = []
            for run in _runs([operation for operation, *_ in group]):
                answers += self._run_together(unit, run)
            unit.commit(self._database)
            return answers
        finally:
            self._rollback()

    def _run_together(self, unit, run):
        """Return (result, error) for each operation of a run from :func:`_runs`."""
        first = run[0]
        function = getattr(first, "func", None)
        quick = getattr(function, "refuses_first", False)
        try:
            if len(run) > 1:
                results = function.together(unit, [operation.keywords for operation in run])
                return [(None, r) if isinstance(r, LumaError) else (r, None) for r in results]
            return [(first(unit) if quick else unit.run(first), None)]
        except Exception as error:
            # Some failures (a full disk) end the whole transaction, and one in the middle of an
            # operation without a savepoint leaves half of it: the group is lost.
            torn = quick and not isinstance(error, LumaError)
            if torn or not self.connection.in_transaction:
                raise
            return [(None, self._explain(error))]

    def _open_unit(self):
        self.connection.execute("BEGIN IMMEDIATE")
        return Unit(self.connection, self._clock, self._matrices, self.guard)

    def _rollback(self):
        if self.connection.in_transaction:
            self.connection.execute("ROLLBACK")

    def _explain(self, error):
        if isinstance(error, LumaError) or not isinstance(error, READING_ERRORS):
            return error
        explained = as_luma_error(error, self._database.file)
        explained.__cause__ = error
        return explained


def _split(group):
    """Yield the parts of a group that share a transaction, in order."""
    together = []
    for item in group:
        if item[2]:
            if together:
                yield together
            yield [item]
            together = []
        else:
            together.append(item)
    if together:
        yield together


def _runs(operations):
    """Yield the operations as lists: those in a row that can be done together, or one."""
    run, function = [], None
    for operation in operations:
        of = getattr(operation, "func", None)
        if run and of is function and getattr(of, "together", None) is not None:
            run.append(operation)
            continue
        if run:
            yield run
        run, function = [operation], of
    if run:
        yield run
