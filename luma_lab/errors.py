"""One family of errors: everything the house raises on purpose descends from `LumaError`.

Each class carries a stable machine `code` (also the ``error`` field of a REST body) and
inherits the natural builtin, so ``except ValueError`` works in a notebook. Messages say
what was wrong, what was expected, and how to fix it. All arguments go to `Exception`, so
every error pickles.
"""

import difflib


class LumaError(Exception):
    """Ancestor of every error raised by Luma Lab."""

    code = "internal"


class InvalidArgument(LumaError, ValueError):
    """An argument has the wrong type or value."""

    code = "invalid_argument"


class DimensionMismatch(InvalidArgument):
    """A vector has another number of components than its collection or index."""

    code = "dim_mismatch"

    def __init__(self, actual, expected, where="the index"):
        super().__init__(actual, expected, where)
        self.actual, self.expected, self.where = actual, expected, where

    def __str__(self):
        return (
            f"vector dimension mismatch: got {self.actual} components; "
            f"{self.where} wants {self.expected}"
        )


class UnknownName(InvalidArgument):
    """A name is not one of the known ones (metric, index kind, data set, ...)."""

    def __init__(self, what, name, known):
        super().__init__(what, name, tuple(known))
        self.what, self.name, self.known = what, name, tuple(known)

    def __str__(self):
        close = difflib.get_close_matches(str(self.name), [str(k) for k in self.known], n=1)
        hint = f"; did you mean {close[0]!r}?" if close else ""
        listed = ", ".join(repr(k) for k in self.known)
        return f"unknown {self.what} {self.name!r}: expected one of {listed}{hint}"


class InvalidFilter(InvalidArgument):
    """A filter can't be understood."""

    code = "invalid_filter"


class SqlError(InvalidArgument):
    """SQLite refused a statement, or its parameters; carries SQLite's own words."""

    code = "sqlite_error"


class PayloadTooLarge(InvalidArgument):
    """A value, a meta object or a body is over its limit."""

    code = "payload_too_large"


class NotFound(LumaError, LookupError):
    """Something asked for by name does not exist."""

    code = "not_found"


class CollectionNotFound(NotFound):
    """No collection has this name."""

    def __init__(self, name):
        super().__init__(name)
        self.name = name

    def __str__(self):
        return f"collection not found: {self.name!r}; create it with create_collection first"


class PointNotFound(NotFound):
    """No live point has this id."""

    def __init__(self, collection, id):
        super().__init__(collection, id)
        self.collection, self.id = collection, id

    def __str__(self):
        return f"id not found: {self.id!r} in collection {self.collection!r}"


class KeyNotFound(NotFound):
    """No live state entry has this key."""

    def __init__(self, key):
        super().__init__(key)
        self.key = key

    def __str__(self):
        return f"key not found: {self.key!r}"


class DocumentNotFound(NotFound):
    """No document has this id."""

    def __init__(self, collection, id):
        super().__init__(collection, id)
        self.collection, self.id = collection, id

    def __str__(self):
        return f"document not found: {self.id!r} in collection {self.collection!r}"


class ConsumerNotFound(NotFound):
    """No consumer has this name."""

    def __init__(self, name):
        super().__init__(name)
        self.name = name

    def __str__(self):
        return f"consumer not found: {self.name!r}"


class ApiKeyNotFound(NotFound):
    """No key of the key store has this id."""

    def __init__(self, id):
        super().__init__(id)
        self.id = id

    def __str__(self):
        return f"key id not found: {self.id!r}"


class NotEnabled(NotFound):
    """A part of the server that its settings switch off."""

    code = "not_enabled"


class JobNotFound(NotFound):
    """No job of this process has this id."""

    def __init__(self, id):
        super().__init__(id)
        self.id = id

    def __str__(self):
        return f"job not found: {self.id!r}"


class AlreadyExists(LumaError):
    """A thing to be created is already there."""

    code = "already_exists"

    def __init__(self, kind, name):
        super().__init__(kind, name)
        self.kind, self.name = kind, name

    def __str__(self):
        return f"{self.kind} already exists: {self.name!r}"


class Conflict(LumaError):
    """The operation does not fit the present state."""

    code = "conflict"


class EmbedderMismatch(Conflict):
    """Vectors of two embedding models would come to lie in one collection."""

    def __init__(self, collection, expected, actual):
        super().__init__(collection, expected, actual)
        self.collection, self.expected, self.actual = collection, expected, actual

    def __str__(self):
        return (
            f"the vectors of collection {self.collection!r} were made by {self.expected}, not by "
            f"{self.actual}: use that embedder, or replace every vector with "
            "use_embedder(embedder, replace=True)"
        )


class RevisionConflict(Conflict):
    """The key changed since the caller read it; read again and retry."""

    code = "revision_mismatch"

    def __init__(self, key, expected, actual):
        super().__init__(key, expected, actual)
        self.key, self.expected, self.actual = key, expected, actual

    def __str__(self):
        now = f"is at revision {self.actual}" if self.actual else "does not exist"
        return f"if_revision mismatch: key {self.key!r} {now}, expected {self.expected}"


class LeaseHeld(Conflict):
    """Another owner holds the lease."""

    def __init__(self, name, owner, expires_at_ms):
        super().__init__(name, owner, expires_at_ms)
        self.name, self.owner, self.expires_at_ms = name, owner, expires_at_ms

    def __str__(self):
        return f"lease {self.name!r} is held by {self.owner} until {self.expires_at_ms} ms"


class TransactionTimeout(LumaError, TimeoutError):
    """A transaction stayed open longer than its limit and was rolled back."""

    code = "timeout"


class SqlTimeout(LumaError, TimeoutError):
    """A statement ran longer than its limit and was stopped."""

    code = "sql_timeout"


class WaitTimeout(LumaError, TimeoutError):
    """What was waited for (an offset, a job) did not come in time."""

    code = "timeout"


class NotSupported(LumaError, NotImplementedError):
    """A documented name that this version does not offer."""

    code = "not_supported"


class IndexNotBuilt(LumaError, RuntimeError):
    """The index was searched or saved before `build` or `load`."""

    code = "conflict"


class Unavailable(LumaError, RuntimeError):
    """The service can't answer now."""

    code = "unavailable"


class EmbedderUnavailable(Unavailable):
    """The embedder's endpoint can't be reached, is too busy or too slow."""


class EmbedderFailed(LumaError, RuntimeError):
    """An embedder refused a text, or answered with what is no vector of it."""

    code = "embedder_failed"


class Cancelled(LumaError, RuntimeError):
    """The job was cancelled before it ended."""

    code = "conflict"


class StorageError(LumaError, OSError):
    """The disk or the database refused."""

    def __str__(self):
        return " ".join(str(a) for a in self.args)


class StoreClosed(StorageError):
    """The lab was closed, or belongs to the process before a fork."""

    code = "unavailable"


class StoreFull(StorageError):
    """No space is left; nothing of the refused write was kept."""

    code = "store_full"


class NotALab(StorageError):
    """The directory is not a lab and is not empty, or can't safely hold one."""

    code = "invalid_argument"


class NewerFormat(StorageError):
    """The lab was written by a newer version."""

    code = "invalid_argument"


class CorruptStore(StorageError):
    """Stored bytes do not match their checksum; they are never served."""

    code = "corrupt"


class RowsGone(CorruptStore):
    """A file of vectors is not there: lost, or compacted away a moment ago."""
