"""Interactive transactions: several engines, one commit, or nothing."""

import threading

import apsw

from luma_lab.engine.documents import Documents
from luma_lab.engine.events import Publisher
from luma_lab.engine.point_verbs import PointVerbs
from luma_lab.engine.sql import Sql
from luma_lab.engine.state import State
from luma_lab.errors import InvalidArgument, LumaError, StorageError, TransactionTimeout
from luma_lab.store import catalog
from luma_lab.store.database import READING_ERRORS, as_luma_error


class Transaction:
    """The object of ``with lab.transaction() as tx``.

    It holds the writer from ``with`` to the end of the block: every call runs at once and
    returns its result; reads through it see its own writes, everyone else sees the last
    commit. An exception in the block, or a block longer than the limit, undoes everything.

    Attributes
    ----------
    state : State
    events : Publisher
    sql : Sql
        Queries see the transaction's own writes. A statement that ends the transaction
        (``INSERT OR ROLLBACK``) undoes all of it.
    first_offset, offset : int
        After the commit: the range of the log it wrote. Equal to the head when it wrote
        nothing.
    """

    def __init__(self, parts, timeout_ms):
        if type(timeout_ms) is not int or timeout_ms < 1:
            raise InvalidArgument(f"timeout_ms is {timeout_ms!r}: expected an int of at least 1")
        self._parts = parts
        self._timeout_ms = timeout_ms
        self._guard = threading.RLock()
        self._unit = None
        self._expired = False
        self.first_offset = self.offset = None
        self.state = State(self._apply, self._connection, parts.clock)
        self.events = Publisher(self._apply)
        self.sql = Sql(self._apply, self._guard_of)

    def collection(self, name):
        """Return the points of a collection as this transaction sees them.

        Raises
        ------
        CollectionNotFound
        """
        catalog.require(self._connection(), name)
        return PointVerbs(name, self._apply, self._connection, self._parts.matrices)

    def documents(self, name):
        """Return the `Documents` of one collection as this transaction sees them."""
        self._connection()
        return Documents(name, self._apply, self._connection)

    def __enter__(self):
        if self.first_offset is not None:
            raise InvalidArgument("a transaction is entered once: open another")
        try:
            self._unit = self._parts.writer.begin(self._timeout_ms / 1000)
        except apsw.Error as error:
            raise as_luma_error(error, self._parts.database.file) from error
        if self._unit is None:
            raise TransactionTimeout(
                f"another transaction kept the writer longer than {self._timeout_ms} ms"
            )
        self.first_offset = self._unit.head.next_offset
        self._timer = threading.Timer(self._timeout_ms / 1000, self._expire)
        self._timer.daemon = True
        self._timer.start()
        return self

    def __exit__(self, kind, error, trace):
        self._timer.cancel()
        with self._guard:
            if self._expired:
                if kind is None:
                    self._check()
                return
            unit, failure = self._unit, None
            try:
                if kind is None:
                    self._check()
            except LumaError as caught:
                failure = caught
            self._unit = None
            if kind is not None or failure is not None:
                database = self._parts.database
                if not (database.closed or database.forked):
                    self._parts.writer.abandon()
                if failure is not None:
                    raise failure
                return
            self.offset = unit.head.offset
            self.first_offset = min(self.first_offset, self.offset)
            self._parts.writer.end(unit)

    def _guard_of(self):
        self._check()
        return self._parts.writer.guard

    def _apply(self, operation, alone=True):
        with self._guard:
            self._check()
            try:
                return self._unit.run(operation)
            except READING_ERRORS as error:
                raise as_luma_error(error, self._parts.database.file) from error

    def _connection(self):
        self._check()
        return self._parts.writer.connection

    def _check(self):
        self._parts.database.check()
        if self._expired:
            raise TransactionTimeout(
                f"the transaction was open longer than {self._timeout_ms} ms and was rolled "
                "back: do slow work before it, or pass a larger timeout_ms"
            )
        if self._unit is None:
            raise InvalidArgument("the transaction has ended: open another")
        if not self._parts.writer.connection.in_transaction:
            raise StorageError("the database gave the transaction up after an error")

    def _expire(self):
        with self._guard:
            if self._unit is not None and not self._parts.database.closed:
                self._expired, self._unit = True, None
                self._parts.writer.abandon()
