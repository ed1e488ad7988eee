"""The `Lab`: one directory, one log, one object behind every face."""

import dataclasses
import html
import os
import re
import shutil
import tempfile
import threading
import uuid
import weakref
from pathlib import Path
from typing import Any

import zict

from luma_lab import codec
from luma_lab.engine import builds, compaction, filters, kinds, searching
from luma_lab.engine import meta_indexes as declared
from luma_lab.engine.choosing import default_budget
from luma_lab.engine.clock import Clock
from luma_lab.engine.collection import Collection
from luma_lab.engine.consumers import Consumers
from luma_lab.engine.documents import Documents
from luma_lab.engine.events import Events
from luma_lab.engine.follower import Follower
from luma_lab.engine.jobs import Jobs
from luma_lab.engine.operations import apply_operations
from luma_lab.engine.sql import Readers, Sql
from luma_lab.engine.state import State, StateCache
from luma_lab.engine.text_caches import TextCaches
from luma_lab.engine.text_settings import check_settings
from luma_lab.engine.transaction import Transaction
from luma_lab.engine.upkeep import Retention, Upkeep, remove_orphans
from luma_lab.engine.verify import verify
from luma_lab.engine.views import Matrices
from luma_lab.engine.writer import Writer
from luma_lab.errors import AlreadyExists, InvalidArgument, UnknownName
from luma_lab.files import DISK
from luma_lab.store import catalog, mappings
from luma_lab.store.database import Database, luma_errors
from luma_lab.types import METRICS, WriteResult

NAME_PATTERN = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9_.-]{0,63}")
MAX_DIM = 65_535
# What a search that an event loop does itself may cost, see `searching.quick`: half a millisecond.
QUICK_FLOATS = 1 << 18
MASKS = 16  # answers of filters kept, of whatever collection


@dataclasses.dataclass
class Parts:
    """What a lab is made of, handed to collections and transactions."""

    database: Database
    matrices: Matrices
    clock: Clock
    owner: str
    writer: Writer = None
    follower: Follower = None
    jobs: Jobs = None
    prepared: dict[Any, Any] = dataclasses.field(default_factory=dict)
    masks: Any = dataclasses.field(default_factory=lambda: zict.LRU(MASKS, {}))
    texts: TextCaches = None
    rebuilding: set[Any] = dataclasses.field(default_factory=set)
    embedders: dict[int, Any] = dataclasses.field(default_factory=dict)
    unfitted: dict[int, int] = dataclasses.field(default_factory=dict)
    not_before: dict[int, float] = dataclasses.field(default_factory=dict)
    auto_index: bool = True
    index_memory_bytes: int = 0
    wait_secs: float = 30.0


class Lab:
    """A lab directory, opened: collections of vectors, state, and the log of every change.

    Several processes may have one directory open; each sees the others' commits on its next
    call. Thread-safe and synchronous. Use :func:`luma_lab.open`.

    Attributes
    ----------
    state : luma_lab.engine.state.State
    events : luma_lab.engine.events.Events
    consumers : luma_lab.engine.consumers.Consumers
    sql : luma_lab.engine.sql.Sql
    path : pathlib.Path
    """

    def __init__(
        self,
        path,
        *,
        retention=None,
        auto_index=True,
        index_memory_bytes=None,
        clock=None,
        disk=DISK,
        vfs=None,
    ):
        kinds.check_count("index_memory_bytes", index_memory_bytes, 1)
        self._temporary = None
        self._closed = False
        self._close_lock = threading.Lock()
        durable = str(path) != ":memory:"
        if not durable:
            self._temporary = path = tempfile.mkdtemp(prefix="luma-")
        clock = clock or Clock()
        database = Database(
            path,
            durable=durable,
            vfs=vfs,
            disk=disk,
            functions={filters.EQUAL_FUNCTION: filters.json_equal},
        )
        self.path = Path(database.path)
        matrices = Matrices(self.path, disk)
        parts = self._parts = Parts(database, matrices, clock, uuid.uuid4().hex[:12])
        parts.auto_index = bool(auto_index)
        parts.index_memory_bytes = index_memory_bytes or default_budget()
        try:
            parts.writer = Writer(database, matrices, clock)
            parts.follower = Follower(database, matrices, lambda row: builds.load(parts, row))
            parts.writer.committed = parts.follower.nudge
            parts.jobs = Jobs(parts.writer, clock)
            parts.writer.run(lambda unit: remove_orphans(unit, matrices))
            self.state = State(
                parts.writer.run, database.reader, clock, StateCache(), parts.writer.submit_soon
            )
            self.events = Events(parts.writer.run, database, matrices, parts.follower)
            self.consumers = Consumers(parts.writer.run, database, parts.follower)
            readers = Readers(parts, self.events)
            parts.writer.guard = readers.guard(parts.writer.connection, writes=True)
            self.sql = Sql(parts.writer.run, readers)
            parts.texts = TextCaches(parts)
            self._upkeep = Upkeep(parts, retention or Retention())
        except BaseException:
            self._stop()
            raise
        self._finalizer = (
            weakref.finalize(self, _remove_temporary, self._temporary, os.getpid())
            if self._temporary
            else None
        )

    @property
    def head(self):
        """Offset of the last committed event, in any process; 0 before the first."""
        return self._parts.follower.catch_up().offset

    @property
    def first_offset(self):
        """The first offset the log still keeps."""
        return self._parts.follower.catch_up().first_offset

    @property
    def epoch(self):
        """How many times the lab was restored from a backup."""
        return self._parts.follower.catch_up().epoch

    @property
    def wal_bytes(self):
        """Size of the write-ahead log, in bytes."""
        file = self._parts.database.file
        try:
            return file.with_name(file.name + "-wal").stat().st_size
        except FileNotFoundError:
            return 0

    @property
    def point_cache_bytes(self):
        """Memory of the ids and metas kept of points that searches answered with, about."""
        return self._parts.follower.points.memory_bytes

    @property
    def writer_queue(self):
        """How many operations wait for the writer, about."""
        return self._parts.writer.waiting

    def create_collection(
        self,
        name,
        dim,
        metric="cosine",
        *,
        index="auto",
        params=None,
        meta_indexes=(),
        text_fields=None,
        language=None,
        **text_options,
    ):
        """Create a collection.

        Parameters
        ----------
        name : str
            1 to 64 of ``A-Za-z0-9_.-``, not starting with a dot.
        dim : int
            Components per vector, 1 to 65,535.
        metric : {"cosine", "dot", "l2"}
        index : {"auto", "flat", "vamana", "ivf", "diskann"}
            Its first index is built in the background once there are 10,000 rows; until then,
            and with "flat" always, every search scans all rows. "auto" picks by rows, memory
            and metric, see `luma_lab.engine.choosing`; ``index_status()["why"]`` tells.
        params : dict, optional
            Index parameters, see :meth:`Collection.build_index`. Those that do not fit the
            kind are refused; with "auto" each kind takes its own.
        meta_indexes : sequence of str
            Dotted paths into meta, at most 16, that filters find by an index of their own.
        text_fields, language, **text_options
            What `Collection.search_text` searches, see :meth:`Collection.set_text_fields`.

        Raises
        ------
        AlreadyExists, InvalidArgument, UnknownName
        """
        check_name(name)
        if type(dim) is not int or not 1 <= dim <= MAX_DIM:
            raise InvalidArgument(f"invalid dim: {dim!r}: expected an int from 1 to {MAX_DIM}")
        if metric not in METRICS:
            raise UnknownName("metric", metric, METRICS)
        kinds.check_kind(index)
        params = kinds.check_params(params, index) if params else {}
        paths = declared.check_paths(meta_indexes)
        text = check_settings(text_fields, language, **text_options)

        def operation(unit):
            if catalog.find(unit.connection, name) is not None:
                raise AlreadyExists("collection", name)
            uid = catalog.insert(
                unit.connection, name, dim, metric, index, params, unit.now_ms, list(paths), text
            )
            for statement in declared.index_statements(uid, paths):
                unit.connection.execute(statement)
            data = codec.encode({"collection": name, "dim": dim, "metric": metric})
            return unit.append("vector_collection_created", collection=name, data=data)

        self._parts.writer.run(operation)
        return Collection(name, self._parts)

    @luma_errors
    def collection(self, name):
        """Return a collection by name; raise `CollectionNotFound`."""
        catalog.require(self._parts.database.reader(), name)
        return Collection(name, self._parts)

    def quick_search(self, name, vector, k, *, search_list_size=None):
        """Return the `Hits` of a search that takes about as long as handing it to another thread.

        For event loops: None where it may take longer, or is anything but a walk in memory for
        one good vector; then `Collection.search` has the answer, or says what is wrong.
        """
        return searching.quick(self._parts, name, vector, k, search_list_size, most=QUICK_FLOATS)

    def collections(self):
        """Return every collection, by name."""
        return [Collection(name, self._parts) for name in self._parts.follower.names()]

    def drop_collection(self, name):
        """Delete a collection with its points, vectors and index.

        Raises
        ------
        CollectionNotFound
        """

        def operation(unit):
            row = catalog.require(unit.connection, name)
            for statement in declared.drop_statements(row.uid, row.meta_indexes):
                unit.connection.execute(statement)
            catalog.delete(unit.connection, row.uid)
            data = codec.encode({"collection": name})
            offset = unit.append("vector_collection_dropped", collection=name, data=data)
            return row.uid, WriteResult(offset, 1)

        uid, result = self._parts.writer.run(operation)
        self._parts.follower.catch_up()
        self._parts.matrices.forget(uid)
        shutil.rmtree(self._parts.matrices.directory(uid), ignore_errors=True)
        return result

    def documents(self, name):
        """Return the `Documents` of one collection; nothing has to be created first."""
        self._parts.database.check()
        return Documents(name, self._parts.writer.run, self._parts.database.reader)

    @luma_errors
    def document_collections(self):
        """Return the sorted names of the collections that hold a document."""
        return mappings.document_collections(self._parts.database.reader())

    def transaction(self, timeout_ms=5000):
        """Return a context manager: one commit over every engine, or nothing.

        Serialisable among writers of every process, snapshot for readers. A write on the lab
        itself from the same thread inside the block raises `InvalidArgument`.

        Parameters
        ----------
        timeout_ms : int
            A longer block is rolled back and raises `TransactionTimeout`.
        """
        return Transaction(self._parts, timeout_ms)

    def apply(self, operations, *, sql_timeout_ms=60_000):
        """Apply a list of operations of every engine in one commit, or none of them.

        Parameters
        ----------
        operations : list of dict
            See `luma_lab.engine.operations`.

        Returns
        -------
        luma_lab.engine.operations.Applied
        """
        return apply_operations(self._parts, operations, sql_timeout_ms=sql_timeout_ms)

    def wait_for(self, offset, timeout_secs=30.0):
        """Return when `offset` is readable here; raise `WaitTimeout`."""
        self._parts.follower.wait_for(offset, timeout_secs)

    def wait_beyond(self, offset, timeout_secs):
        """Return True once something after `offset` is readable, False after the time-out."""
        return self._parts.follower.wait_beyond(offset, timeout_secs)

    def on_commit(self, callback):
        """Call ``callback()`` after new events became readable; return what ends it."""
        self._parts.database.check()
        return self._parts.follower.on_commit(callback)

    def job(self, id):
        """Return a `Job` of this process by id; raise `JobNotFound`."""
        self._parts.database.check()
        return self._parts.jobs.get(id)

    def jobs(self, state=None):
        """Return the jobs of this process, or those in a state."""
        self._parts.database.check()
        return self._parts.jobs.list(state)

    def verify(self):
        """Check every checksum and SQLite's own integrity; return a `Report`."""
        return verify(self._parts)

    def compact(self):
        """Start giving back the space of dead rows and of free database pages; return the `Job`.

        Every collection is compacted, see :meth:`Collection.compact`, then the database file,
        see `luma_lab.store.vacuum`, for which writes wait.
        """
        self._parts.database.check()
        return compaction.start_all(self._parts)

    def close(self):
        """Finish what is queued, stop running jobs, free everything. May be called twice."""
        with self._close_lock:
            if self._closed:
                return
            self._closed = True
        self._stop()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def __repr__(self):
        if self._closed or self._parts.database.forked:
            return f"Lab({str(self.path)!r}, closed)"
        return f"Lab({str(self.path)!r}, collections={len(self.collections())}, head={self.head})"

    def _repr_html_(self):
        if self._closed or self._parts.database.forked:
            return html.escape(repr(self))
        rows = "".join(
            f"<tr><td>{html.escape(i.name)}</td><td>{i.live_count}</td><td>{i.dim}</td>"
            f"<td>{i.metric}</td><td>{i.index}</td></tr>"
            for i in (c.info() for c in self.collections())
        )
        return (
            f"<p><b>Lab</b> {html.escape(str(self.path))}, head {self.head}</p><table><thead><tr>"
            "<th>collection</th><th>points</th><th>dim</th><th>metric</th><th>index</th></tr>"
            f"</thead><tbody>{rows}</tbody></table>"
        )

    def _stop(self):
        parts = self._parts
        forked = parts.database.forked
        if not forked:
            upkeep = getattr(self, "_upkeep", None)
            for part in (parts.jobs, upkeep, parts.texts, parts.writer, parts.follower):
                if part is not None:
                    part.close()
            parts.matrices.close()
        parts.database.close()
        if self._temporary and not forked:
            shutil.rmtree(self._temporary, ignore_errors=True)


def _remove_temporary(path, pid):
    if os.getpid() == pid:  # the end of a forked child is not the end of the lab
        shutil.rmtree(path, ignore_errors=True)


def check_name(name):
    """Raise `InvalidArgument` unless `name` can name a collection."""
    if not isinstance(name, str) or not NAME_PATTERN.fullmatch(name):
        raise InvalidArgument(
            f"invalid collection name {name!r}: expected 1 to 64 of A-Z a-z 0-9 _ . -, "
            "not starting with a dot"
        )
