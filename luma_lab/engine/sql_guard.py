"""What a user's SQL may do: an authorizer that stands between SQLite and the tables of the house.

It judges what SQLite is about to do, not what the text looks like, so no spelling gets around it.
A name in a FROM clause is never trusted: a common table expression may be called like a view of
ours. Therefore users never read ``luma_*`` tables, not even through views; they read the table
functions, which are Python.
"""

import contextlib
import re
from collections import OrderedDict
from dataclasses import dataclass

import apsw

from luma_lab.engine import sql_cost, sql_functions
from luma_lab.engine.sql_preparing import preparing
from luma_lab.errors import InvalidArgument, SqlError
from luma_lab.store import deadline

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
FORBIDDEN_FUNCTIONS = sql_functions.REFUSED | {
    "edit",
    "fts3_tokenizer",
    "fts5",
    "load_extension",
    "matchinfo",
    "offsets",
    "optimize",
    "readfile",
    "rtreecheck",
    "rtreedepth",
    "rtreenode",
    "sqlite_log",
    "writefile",
}
FORBIDDEN_PREFIXES = ("luma_", "geopoly_")
SCHEMA_TABLES = {"sqlite_master", "sqlite_schema"}
TEMPORARY_SCHEMA = {"sqlite_temp_master", "sqlite_temp_schema"}  # empty; ALTER TABLE looks there
INTERNAL_TABLES = {"dbstat", "bytecode", "tables_used", "completion"}
RTREE_SHADOWS = ("_node", "_rowid", "_parent")
HOUSE_VALUE_BYTES = 1_000_000_000
MAX_PASSED = 100
# Of all SQLite of the process; a statement that is running when it is passed is stopped.
MAX_MEMORY_BYTES = 2 << 30
LIMITS = {
    apsw.SQLITE_LIMIT_LENGTH: sql_cost.MAX_VALUE_BYTES,
    apsw.SQLITE_LIMIT_SQL_LENGTH: 1 << 20,
    apsw.SQLITE_LIMIT_EXPR_DEPTH: 200,
    apsw.SQLITE_LIMIT_COMPOUND_SELECT: 200,
    apsw.SQLITE_LIMIT_ATTACHED: 0,
    apsw.SQLITE_LIMIT_FUNCTION_ARG: sql_cost.MAX_ARGUMENTS,
    apsw.SQLITE_LIMIT_LIKE_PATTERN_LENGTH: sql_cost.MAX_PATTERN_BYTES,
    apsw.SQLITE_LIMIT_TRIGGER_DEPTH: 20,
    apsw.SQLITE_LIMIT_VDBE_OP: 100_000,
}
TOO_LATE = "a statement whose time limit has passed"
TOO_LARGE = "a statement too large to prepare"
# Quoted names, which count, and texts and comments, which don't.
_QUOTED = re.compile(
    r"""("(?:[^"]|"")*"|\[[^\]]*\]|`[^`]*`)|'(?:[^']|'')*'|--[^\n]*|/\*.*?\*/""", re.DOTALL
)
_HOUSE = re.compile(r"(?<!\w)luma_", re.IGNORECASE)
_NOTHING = re.compile(r"(?:\s|;|--[^\n]*(?:\n|$)|/\*.*?(?:\*/|$))*", re.DOTALL)


@dataclass(slots=True)
class Passed:
    """What is known of a text that was let through.

    `is_kept` says that SQLite keeps it prepared under its text, as judged by the guard.
    """

    columns: list[str]
    cost: sql_cost.Cost
    is_kept: bool


class Guard:
    """The authorizer of one connection, and the limits of what it lets through.

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
        From the texts of queries that were let through lately to `Passed`.
    was_judged : bool
        Whether SQLite asked about anything since :meth:`guarding` began.
    value_bytes : int
        How long a value may be in the present statement.
    """

    def __init__(self, connection, *, writes):
        self.connection = connection
        self.refused = None
        self.writes = writes
        self.was_judged = self.is_exhausted = False
        self._guarding = self._known = False
        self._defined = set()
        self._selects = 0
        self._sources = set()  # of what was judged: views, triggers, common table expressions
        self.passed = OrderedDict()
        self.value_bytes = sql_cost.MAX_VALUE_BYTES
        self._steps = None
        sql_functions.register(connection)
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
        self.begin(sql_cost.UNKNOWN)
        try:
            yield self
        finally:
            self.end()
            for kind, value in before.items():
                self.connection.limit(kind, value)
            if self.writes:
                self.connection.set_progress_handler(None)
                self._steps = None

    def begin(self, cost, *, known=False):
        """Judge what is prepared, and limit what runs, until :meth:`end`.

        With `known` nothing ought to be prepared any more, and whatever is, is refused.
        """
        self._guarding, self._known, self.refused = True, known, None
        self.was_judged = self.is_exhausted = False
        if not known:
            self._defined, self._sources, self._selects = set(), set(), 0
        if cost.steps != self._steps or cost.value_bytes != self.value_bytes or self.writes:
            self.allow(cost)

    def end(self):
        """Judge no longer."""
        if not self._known:
            preparing.end()
        self._guarding = self._known = False

    def allow(self, cost):
        """Set the limits of the statement that is about to run."""
        if cost.value_bytes != self.value_bytes or self.writes:
            self.connection.limit(apsw.SQLITE_LIMIT_LENGTH, cost.value_bytes)
            self.value_bytes = cost.value_bytes
        if cost.steps != self._steps:
            self.connection.set_progress_handler(self._must_stop, cost.steps)
            self._steps = cost.steps

    def measure(self, cursor, text, statement, bindings):
        """Limit a statement that was prepared by what its program does; return its `Cost`.

        Raises
        ------
        SqlError
            A parameter, or a literal, is longer than that.
        """
        if cursor.is_explain:
            preparing.end()
            return sql_cost.UNKNOWN
        # The text tells how many arguments there are, unless a part of it stands elsewhere.
        hidden = any(self._is_stored(name) for name in self._sources)
        arguments = None if hidden else text.count(",") + text.count("->") + 1
        program = self.connection.cursor().execute(
            "EXPLAIN " + statement, bindings, can_cache=False
        )
        cost, literal = sql_cost.of_program(program, arguments)
        values = bindings.values() if isinstance(bindings, dict) else bindings or ()
        longest = max(
            [literal, *(len(value) for value in values if isinstance(value, (str, bytes)))]
        )
        if longest > cost.value_bytes:
            raise SqlError(self.too_long(cost.value_bytes))
        self.allow(cost)
        preparing.end()
        return cost

    def _is_stored(self, name):
        with self.trusted():
            return self.connection.execute(
                "SELECT count(*) FROM sqlite_schema "
                "WHERE name = ? COLLATE NOCASE AND type IN ('view', 'trigger')",
                (name,),
            ).get

    def too_long(self, value_bytes=None):
        """Return what to say of a value that is too long."""
        return (
            "a value is too long: in this statement values may have at most "
            f"{value_bytes or self.value_bytes} bytes, "
            "the fewer the more a statement does with them"
        )

    def _must_stop(self):
        if apsw.memory_used() > MAX_MEMORY_BYTES:
            self.is_exhausted = True
            return True
        return deadline.passed()

    @contextlib.contextmanager
    def trusted(self):
        """Let the block read the tables of the house, within a guarded statement."""
        before, self._guarding = self._guarding, False
        self.connection.limit(apsw.SQLITE_LIMIT_LENGTH, HOUSE_VALUE_BYTES)
        try:
            yield
        finally:
            self._guarding = before
            self.connection.limit(apsw.SQLITE_LIMIT_LENGTH, self.value_bytes)

    def remember(self, text, passed):
        """Note that a text has passed."""
        self.passed[text] = passed
        while len(self.passed) > MAX_PASSED:
            self.passed.popitem(last=False)

    @property
    def has_defined(self):
        """Whether the statement changes the schema."""
        return bool(self._defined)

    def _authorize(self, operation, first, second, database, source):
        if not self._guarding:
            return apsw.SQLITE_OK
        self.was_judged = True
        if self._known:
            return apsw.SQLITE_DENY
        if source is not None:
            self._sources.add(source)
        if operation == apsw.SQLITE_SELECT:
            self._selects += 1
            if self._selects == 2:
                preparing.begin()  # the outer one is known: its parts may be multiplied now
        if preparing.is_too_large():
            self.refused = TOO_LARGE
            return apsw.SQLITE_DENY
        if deadline.passed():  # preparing takes no time limit of its own
            self.refused = TOO_LATE
            return apsw.SQLITE_DENY
        if operation == apsw.SQLITE_PRAGMA:
            # Full-text and R*Tree tables ask for these; neither changes anything.
            allowed = first in ("data_version", "page_size") and second is None
        elif operation in READING:
            allowed = self._may_read(operation, first, second)
        elif self.writes:
            allowed = self._may_write(operation, first, second, database)
        else:
            # An R*Tree prepares its writes when it is first read. The connection takes none.
            allowed = operation in ROWS and (first or "").lower().endswith(RTREE_SHADOWS)
        if allowed:
            return apsw.SQLITE_OK
        word = apsw.mapping_authorizer_function.get(operation, str(operation))
        names = " ".join(str(n) for n in (first, second) if n)
        self.refused = f"{word.removeprefix('SQLITE_').replace('_', ' ')} {names}".strip()
        return apsw.SQLITE_DENY

    def _may_read(self, operation, first, second):
        if operation == apsw.SQLITE_FUNCTION:
            name = (second or "").lower()
            return name not in FORBIDDEN_FUNCTIONS and not name.startswith(FORBIDDEN_PREFIXES)
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


def names_house(definition):
    """Return whether a definition speaks of a table, or anything, that begins with ``luma_``."""
    if not definition.lstrip()[:14].upper().startswith("CREATE VIRTUAL"):
        definition = _QUOTED.sub(lambda found: found[1] or " ", definition)
    return _HOUSE.search(definition) is not None


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
