"""Events: the public face of the log. Publish, read pages, follow.

Rows of point changes are stored without their vector; it is read from the matrix when an
event is shown, and is null once a compaction has taken the row away (``superseded``) or when
the rows are damaged (``corrupt``).
"""

import re
import time
from functools import partial
from typing import NamedTuple

import msgspec

from luma_lab import codec
from luma_lab.engine.consumers import check_name as check_consumer
from luma_lab.engine.state import check_key
from luma_lab.errors import (
    CorruptStore,
    InvalidArgument,
    LumaError,
    RowsGone,
    StoreClosed,
)
from luma_lab.store import catalog, consumers
from luma_lab.store import log as event_log
from luma_lab.store.database import luma_errors
from luma_lab.store.log import POINT_TYPES
from luma_lab.types import Event, WriteResult

PAGE = 1000
PAGE_BYTES = 8 << 20
READ_ENTRIES = 100  # a point's entry grows when its vector is put in, so pages are read in steps
TYPE_PATTERN = re.compile(r"[A-Za-z][A-Za-z0-9_.-]{0,63}")
RESERVED_PREFIXES = ("state_", "vector_", "doc_", "index_", "job_")
RESERVED_TYPES = frozenset({"gap", "offset", "restored", "sql_executed"})


class Frame(NamedTuple):
    """An event as it goes out: `data` is compact JSON bytes."""

    offset: int
    ts_ms: int
    type: str
    key: str | None
    collection: str | None
    data: bytes


class Publisher:
    """Appends events of the user's own.

    Parameters
    ----------
    apply : callable
        Runs an operation on a write transaction and returns its result.
    """

    def __init__(self, apply):
        self._apply = apply

    def publish(self, type, data=None, *, key=None):
        """Append an event of the caller's own type.

        Parameters
        ----------
        type : str
            A letter, then up to 63 of ``A-Za-z0-9_.-``; the names the house uses itself
            (``state_…``, ``vector_…``, ``gap`` and so on) are refused.
        data : JSON value
        key : str, optional
            What ``key_prefix`` filters test.

        Returns
        -------
        WriteResult
        """
        encoded = check_event(type, data, key)
        return self._apply(partial(publish_event, type=type, key=key, data=encoded))


class Events(Publisher):
    """Reads the log: pages with :meth:`read`, an endless iterator with :meth:`follow`."""

    def __init__(self, apply, database, matrices, follower):
        super().__init__(apply)
        self._database = database
        self._matrices = matrices
        self._follower = follower

    def read(self, since=0, *, types=None, key_prefix=None, collection=None, limit=PAGE):
        """Return up to `limit` events after offset `since`, oldest first.

        Parameters
        ----------
        since : int, "earliest" or "latest"
        types : iterable of str, optional
        key_prefix : str, optional
            Only events with a key that starts so.
        collection : str, optional

        Returns
        -------
        list of Event
            Where entries asked for are gone, the first is of type ``"gap"``, with data
            ``{from_offset, to_offset, dropped, exact, reason}``.
        """
        if type(limit) is not int or limit < 1:
            raise InvalidArgument(f"limit is {limit!r}: expected an int of at least 1")
        wanted, points = _filter(types, key_prefix, collection)
        before, cursor, events = None, self._start(since), []
        while len(events) < limit and cursor != before:
            before = cursor
            frames, cursor = self.read_frames(cursor, PAGE, points=points)
            events.extend(_event(f) for f in frames if f.type == "gap" or wanted(f))
        return events[:limit]

    def follow(
        self,
        since="latest",
        *,
        types=None,
        key_prefix=None,
        collection=None,
        consumer=None,
        timeout=None,
    ):
        """Yield events as they are committed, in any process, each once and in order.

        Parameters
        ----------
        since : int, "earliest" or "latest"
            As in :meth:`read`; "latest" is the moment of this call.
        consumer : str, optional
            Resume after what this consumer acknowledged with ``lab.consumers.ack``; a new one
            starts at `since`.
        timeout : float, optional
            End after this many seconds without a matching event. The iterator also ends
            when the lab is closed.
        """
        if timeout is not None and not isinstance(timeout, (int, float)):
            raise InvalidArgument(f"timeout is {timeout!r}: expected seconds or None")
        wanted, points = _filter(types, key_prefix, collection)
        start = None
        if consumer is not None:
            check_consumer(consumer)
            start = consumers.read(self._database.reader(), consumer)
        start = self._start(since) if start is None else start
        return self._follow(start, wanted, points, timeout)

    @luma_errors
    def read_frames(self, since, limit=PAGE, max_bytes=PAGE_BYTES, *, points=True):
        """Return (frames, next_since): a page of the log after `since`, ready to send.

        A page ends at `limit` frames or once it holds `max_bytes`; there is nothing more when
        `next_since` is `since`. When entries after `since` are gone, or `since` is beyond the
        head, the first frame is a gap. Without `points` the changes of points, whose vectors
        are costly to show, are passed over.
        """
        connection = self._database.reader()
        connection.execute("BEGIN")
        try:
            return self.frames_in(connection, since, limit, max_bytes, points=points)
        finally:
            connection.execute("COMMIT")

    def frames_in(self, connection, since, limit=PAGE, max_bytes=PAGE_BYTES, *, points=True):
        """As :meth:`read_frames`, within the transaction that `connection` has open."""
        frames, names, size = [], {}, 0
        head = event_log.read_head(connection)
        gap = _gap(since, head)
        if gap is not None:
            frames.append(gap)
            since = gap.offset
        while len(frames) < limit and size < max_bytes:
            room = min(limit - len(frames), READ_ENTRIES)
            entries = event_log.read(connection, since, room, max_bytes - size, points=points)
            for entry in entries:
                frame = self._frame(connection, entry, names)
                frames.append(frame)
                since = entry.offset
                size += len(frame.data)
                if size >= max_bytes:
                    break
            if not entries:
                since = head.offset
                break
        return frames, since

    def _follow(self, cursor, wanted, points, timeout):
        idle_since = time.monotonic()
        while True:
            before = cursor
            try:
                frames, cursor = self.read_frames(cursor, points=points)
            except LumaError:
                if self._database.closed:
                    return
                raise
            for frame in frames:
                if frame.type == "gap" or wanted(frame):
                    yield _event(frame)
                    idle_since = time.monotonic()
            if cursor != before:
                continue
            left = 1.0 if timeout is None else idle_since + timeout - time.monotonic()
            if left <= 0:
                return
            try:
                self._follower.wait_beyond(cursor, min(left, 1.0))
            except LumaError:
                if self._database.closed:
                    return
                raise

    def _start(self, since):
        if since == "latest":
            return self._follower.catch_up().offset
        if since == "earliest":
            return self._follower.catch_up().first_offset - 1
        if type(since) is not int or since < 0:
            raise InvalidArgument(
                f"since is {since!r}: expected an offset of at least 0, 'earliest' or 'latest'"
            )
        return since

    def _frame(self, connection, entry, names):
        if entry.type not in POINT_TYPES:
            return Frame._make(entry)
        change = event_log.point_change_decoder.decode(entry.data)
        head = b'{"collection":%b,"id":%b' % (
            codec.encode(entry.collection),
            codec.encode(change.id),
        )
        if entry.type == "vector_deleted":
            return Frame(*entry[:5], head + b"}")
        vector, mark = self._vector(connection, change, entry.collection, names)
        data = b'%b,"vector":%b,"meta":%b%b}' % (
            head,
            vector,
            bytes(change.meta),
            mark,
        )
        return Frame(*entry[:5], data)

    def _vector(self, connection, change, collection, names):
        if collection not in names:
            names[collection] = catalog.find(connection, collection)
        row = names[collection]
        if row is None or (row.uid, row.generation) != (change.uid, change.gen):
            return b"null", b',"superseded":true'
        try:
            vector = self._matrices.checked(connection, row).read(change.row)
        except (RowsGone, StoreClosed):
            # Compacted or dropped since this read transaction began, most likely.
            self._database.check()
            if self._is_there(row):
                return b"null", b',"corrupt":true'
            return b"null", b',"superseded":true'
        except CorruptStore:  # the log goes on for everyone else
            return b"null", b',"corrupt":true'
        return msgspec.json.encode(codec.float_list(vector)), b""

    def _is_there(self, row):
        """Return whether a collection still has the place it had when a transaction began."""
        now = self._follower.row_of(row.uid)
        return now is not None and now.generation == row.generation


def check_event(type, data, key):
    """Return the data of a caller's event as JSON bytes; raise `InvalidArgument`."""
    if not isinstance(type, str) or not TYPE_PATTERN.fullmatch(type):
        raise InvalidArgument(
            f"event type {type!r}: expected a letter, then up to 63 of A-Z a-z 0-9 _ . -"
        )
    if type.startswith(RESERVED_PREFIXES) or type in RESERVED_TYPES:
        raise InvalidArgument(f"event type {type!r} is reserved: choose another name")
    if key is not None:
        check_key(key)
    return codec.encode(data, f"data of event {type!r}")


def publish_event(unit, type, key, data):
    """Append a checked event of a caller's own."""
    return WriteResult(unit.append(type, key=key, data=data), 1)


def _filter(types, key_prefix, collection):
    """Return (wanted, points): a test of frames, and whether it may pass changes of points."""
    for name, text in (("key_prefix", key_prefix), ("collection", collection)):
        if text is not None and not isinstance(text, str):
            raise InvalidArgument(f"{name} is {text!r}: expected a str")
    if isinstance(types, str):
        types = (types,)
    try:
        types = None if types is None else frozenset(types)
    except TypeError:
        raise InvalidArgument(f"types is {types!r}: expected names of event types") from None

    def wanted(frame):
        return (
            (types is None or frame.type in types)
            and (key_prefix is None or (frame.key or "").startswith(key_prefix))
            and (key_prefix is None or frame.key is not None)
            and (collection is None or frame.collection == collection)
        )

    points = key_prefix is None and (types is None or not types.isdisjoint(POINT_TYPES))
    return wanted, points


def _gap(since, head):
    if since + 1 < head.first_offset:
        first, last, reason = since + 1, head.first_offset - 1, "truncated"
        dropped = last - since
    elif since > head.offset:
        first, last, reason, dropped = since, head.offset, "ahead", 0
    else:
        return None
    data = msgspec.json.encode(
        {
            "from_offset": first,
            "to_offset": last,
            "dropped": dropped,
            "exact": True,
            "reason": reason,
        }
    )
    return Frame(last, head.last_ts_ms, "gap", None, None, data)


def _event(frame):
    return Event(*frame[:5], codec.decode(frame.data))
