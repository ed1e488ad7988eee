"""What a user's SQL may do: an authorizer that stands between SQLite and the tables of the house.

It judges what SQLite is about to do, not what the text looks like, so no spelling gets around it.
A name in a FROM clause is never trusted: a common table expression may be called like a view of
ours. Therefore users never read ``luma_*`` tables, not even through views; they read the table
functions, which are Python.
"""

import contextlib
import re
from collections import OrderedDict

import apsw

from luma_lab.errors import InvalidArgument

TABLE_FUNCTIONS = (
    "collections",
    "documents",
    "events",
    "hybrid_search",
    "points",
    "state",
    "text_search",
    "vector_search",
)
READING = {
    apsw.SQLITE_SELECT,
    apsw.SQLITE_READ,
    apsw.SQLITE_FUNCTION,
    apsw.SQLITE_RECURSIVE,
}
ROWS = {apsw.SQLITE_INSERT, apsw.SQLITE_UPDATE, apsw.SQLITE_DELETE}
# Operation to the positions of the names it speaks of.
DEFINING = {
    apsw.SQLITE_CREATE_TABLE: (0,),
    apsw.SQLITE_CREATE_VIEW: (0,),
    apsw.SQLITE_CREATE_INDEX: (0, 1),
    apsw.SQLITE_CREATE_TRIGGER: (0, 1),
    apsw.SQLITE_DROP_TABLE: (0,),
    apsw.SQLITE_DROP_VIEW: (0,),
    apsw.SQLITE_DROP_INDEX: (0, 1),
    apsw.SQLITE_DROP_TRIGGER: (0, 1),
    apsw.SQLITE_CREATE_VTABLE: (0,),
    apsw.SQLITE_DROP_VTABLE: (0,),
    apsw.SQLITE_ALTER_TABLE: (1,),
    apsw.SQLITE_REINDEX: (0,),
}
VIRTUAL_TABLES = {"fts5", "rtree"}
FORBIDDEN_FUNCTIONS = {"load_extension", "fts3_tokenizer", "readfile", "writefile", "edit"}
SCHEMA_TABLES = {"sqlite_master", "sqlite_schema"}
TEMPORARY_SCHEMA = {"sqlite_temp_master", "sqlite_temp_schema"}  # empty; ALTER TABLE looks there
INTERNAL_TABLES = {"dbstat", "bytecode", "tables_used", "completion"}
MAX_PASSED = 100
MAX_VALUE_BYTES = 32 << 20
LIMITS = {
    apsw.SQLITE_LIMIT_LENGTH: MAX_VALUE_BYTES,
    apsw.SQLITE_LIMIT_SQL_LENGTH: 1 << 20,
    apsw.SQLITE_LIMIT_EXPR_DEPTH: 200,
    apsw.SQLITE_LIMIT_COMPOUND_SELECT: 200,
    apsw.SQLITE_LIMIT_ATTACHED: 0,
    apsw.SQLITE_LIMIT_LIKE_PATTERN_LENGTH: 1000,
    apsw.SQLITE_LIMIT_TRIGGER_DEPTH: 20,
    apsw.SQLITE_LIMIT_VDBE_OP: 100_000,
}
_NOTHING = re.compile(r"(?:\s|;|--[^\n]*(?:\n|$)|/\*.*?(?:\*/|$))*", re.DOTALL)


class Guard:
    """The authorizer of one connection.

    Parameters
    ----------
    connection : apsw.Connection
    writes : bool
        Whether its users may change tables of their own.

    Attributes
    ----------
    writes : bool
    refused : str or None
        What the last refusal was about.
    passed : OrderedDict
        The texts of queries that were let through lately.
    """

    def __init__(self, connection, *, writes):
        self.connection = connection
        self.refused = None
        self.writes = writes
        self._guarding = False
        self._defined = set()
        self.passed = OrderedDict()
        connection.authorizer = self._authorize
        for option in (apsw.SQLITE_DBCONFIG_DQS_DML, apsw.SQLITE_DBCONFIG_DQS_DDL):
            connection.config(option, 0)
        connection.config(apsw.SQLITE_DBCONFIG_DEFENSIVE, 1)
        if not writes:
            for kind, value in LIMITS.items():
                connection.limit(kind, value)

    @contextlib.contextmanager
    def guarding(self):
        """Judge what the block prepares, under :data:`LIMITS`; elsewhere nothing is judged."""
        before = {}
        if self.writes:  # the house's own statements on a writer know no such limits
            before = {kind: self.connection.limit(kind, value) for kind, value in LIMITS.items()}
        self._guarding, self.refused, self._defined = True, None, set()
        try:
            yield self
        finally:
            self._guarding = False
            for kind, value in before.items():
                self.connection.limit(kind, value)

    @contextlib.contextmanager
    def trusted(self):
        """Let the block read the tables of the house, within a guarded statement."""
        before, self._guarding = self._guarding, False
        try:
            yield
        finally:
            self._guarding = before

    def remember(self, text):
        """Note that a text has passed."""
        self.passed[text] = None
        while len(self.passed) > MAX_PASSED:
            self.passed.popitem(last=False)

    @property
    def has_defined(self):
        """Whether the statement changes the schema."""
        return bool(self._defined)

    def _authorize(self, operation, first, second, database, source):
        if not self._guarding:
            return apsw.SQLITE_OK
        if operation == apsw.SQLITE_PRAGMA:
            # Full-text and R*Tree tables ask for these; neither changes anything.
            allowed = first in ("data_version", "page_size") and second is None
        elif operation in READING:
            allowed = self._may_read(operation, first, second)
        else:
            allowed = self.writes and self._may_write(operation, first, second, database)
        if allowed:
            return apsw.SQLITE_OK
        word = apsw.mapping_authorizer_function.get(operation, str(operation))
        names = " ".join(str(n) for n in (first, second) if n)
        self.refused = f"{word.removeprefix('SQLITE_').replace('_', ' ')} {names}".strip()
        return apsw.SQLITE_DENY

    def _may_read(self, operation, first, second):
        if operation == apsw.SQLITE_FUNCTION:
            name = (second or "").lower()
            return name not in FORBIDDEN_FUNCTIONS and not name.startswith("luma_")
        if operation == apsw.SQLITE_READ:
            name = (first or "").lower()
            if name.startswith("sqlite_"):
                return name in SCHEMA_TABLES | TEMPORARY_SCHEMA or name == "sqlite_sequence"
            return not name.startswith("luma_") and name not in INTERNAL_TABLES
        return True

    def _may_write(self, operation, first, second, database):
        if operation == apsw.SQLITE_UPDATE and first in TEMPORARY_SCHEMA:
            return apsw.SQLITE_ALTER_TABLE in self._defined
        if operation in ROWS:
            return database == "main" and self._may_change(operation, (first or "").lower())
        places = DEFINING.get(operation)
        if places is None:
            return False
        if operation == apsw.SQLITE_ALTER_TABLE:
            database = first
        if database != "main":
            return False
        if operation == apsw.SQLITE_CREATE_VTABLE and (second or "").lower() not in VIRTUAL_TABLES:
            return False
        self._defined.add(operation)
        return not any(is_reserved((first, second)[place]) for place in places)

    def _may_change(self, operation, name):
        if name in SCHEMA_TABLES:
            return True  # a definition does so; SQLite itself refuses it of anything else
        if name == "sqlite_sequence":
            # Numbers of our own are kept there too: only dropping and renaming may touch it.
            return bool(self._defined & {apsw.SQLITE_DROP_TABLE, apsw.SQLITE_ALTER_TABLE})
        return not is_reserved(name)


def is_reserved(name):
    """Return whether a name belongs to the house or to SQLite."""
    low = (name or "").lower()
    if low.startswith("sqlite_autoindex_"):
        return False
    return low.startswith(("luma_", "sqlite_")) or low in TABLE_FUNCTIONS


def check_some(text):
    """Raise `InvalidArgument` when a text holds no statement."""
    if _NOTHING.fullmatch(text) is not None:
        raise InvalidArgument("the text holds no statement: expected one")


def check_single(text, statement):
    """Raise `InvalidArgument` when something follows the first statement of a text."""
    rest = text[len(statement) :]
    if _NOTHING.fullmatch(rest) is None:
        raise InvalidArgument(
            "the text holds more than one statement: expected one; send several as a batch"
        )
