"""State: a durable key-value store with revisions, compare-and-set and time to live.

A key's revision is the offset of the event that wrote it, so it never comes back after a
delete. An expired entry is hidden from every read at once and swept soon after.
"""

from collections.abc import MutableMapping
from functools import partial

import msgspec
import zict

from luma_lab import codec
from luma_lab.engine.writer import refuses_first
from luma_lab.errors import InvalidArgument, LumaError, NotSupported, RevisionConflict
from luma_lab.store import mappings
from luma_lab.store.database import READING_ERRORS, as_luma_error, luma_errors
from luma_lab.types import StateItem, WriteResult

MAX_KEY_BYTES = 512
SURELY_SHORT = MAX_KEY_BYTES // 4  # characters: no more than MAX_KEY_BYTES of UTF-8
CACHE_FROM_BYTES = 4096
CACHE_BYTES = 64 << 20
PAGE = 512
_MISSING = object()
_encode_text = msgspec.json.Encoder().encode  # of keys that were checked


class State(MutableMapping):
    """Keys (str, at most 512 bytes of UTF-8) and JSON values, as a mapping and as verbs.

    Parameters
    ----------
    apply : callable
        Runs an operation on a write transaction and returns its result.
    connection : callable
        Returns the connection to read with.
    clock : luma_lab.engine.clock.Clock
    cache : StateCache, optional
    submit_soon : callable, optional
        Queues an operation from a coroutine and returns an `asyncio.Future`.

    Notes
    -----
    Thread-safe. It composes with zict, for example ``zict.Func(dump, load, lab.state)``;
    values returned are always the caller's own.
    """

    def __init__(self, apply, connection, clock, cache=None, submit_soon=None):
        self._submit_soon = submit_soon
        self._apply = apply
        self._connection = connection
        self._clock = clock
        self._cache = cache

    def put(self, key, value, *, ttl_ms=None, if_revision=None):
        """Set `key` to a JSON value.

        Parameters
        ----------
        ttl_ms : int, optional
            Milliseconds to live, at least 1. Without it the entry stays, also when the one
            it replaces had a limit.
        if_revision : int, optional
            Write only if the key is at this revision; 0: only if it does not exist.

        Returns
        -------
        WriteResult
            With `revision` and `expires_at_ms`.

        Raises
        ------
        InvalidArgument, RevisionConflict
        """
        return self._apply(checked_put(key, value, ttl_ms, if_revision))

    def put_async(self, key, value, *, ttl_ms=None, if_revision=None):
        """As :meth:`put`, for coroutines: return an awaitable of the `WriteResult`.

        Many coroutines that wait at once share one commit and one wake-up. Cancelling it
        before its turn leaves the write out.
        """
        if self._submit_soon is None:
            raise NotSupported("put_async inside a transaction is not supported: use put")
        return self._submit_soon(checked_put(key, value, ttl_ms, if_revision))

    def delete(self, key, *, if_revision=None):
        """Remove `key`; the result's `count` tells whether it was there.

        Raises
        ------
        InvalidArgument, RevisionConflict
        """
        check_key(key)
        check_revision(if_revision)
        return self._apply(partial(delete_entry, key=key, if_revision=if_revision))

    def put_each(self, operations, *, atomic=False):
        """Put many entries in one commit, applied in order.

        Parameters
        ----------
        operations : list of dict
            Each with ``key``, ``value`` and optionally ``ttl_ms``, ``if_revision``.
        atomic : bool
            True: all or none, the first refusal is raised with its position as ``.index``.
            False: each for itself.

        Returns
        -------
        list of WriteResult or LumaError
        """
        puts = []
        for index, fields in enumerate(operations):
            try:
                for name in ("key", "value"):
                    if name not in fields:
                        raise InvalidArgument(f"operation at position {index} has no {name!r}")
                puts.append(
                    checked_put(
                        fields["key"],
                        fields["value"],
                        fields.get("ttl_ms"),
                        fields.get("if_revision"),
                    )
                )
            except LumaError as error:
                if atomic:
                    error.index = index
                    raise
                puts.append(error)
        return self._apply(partial(_run_each, operations=puts, atomic=atomic))

    @luma_errors
    def item(self, key):
        """Return the `StateItem` of `key`, or None when it is missing or expired."""
        check_key(key)
        row = self._read(key)
        if row is None or self._expired(row.expires_at_ms):
            return None
        return StateItem(row.key, codec.decode(row.value), row.revision, row.expires_at_ms)

    @luma_errors
    def size_of(self, key):
        """Return how many bytes of JSON the value of `key` has, or None when there is none."""
        check_key(key)
        found = mappings.read_state_size(self._connection(), key)
        return None if found is None or self._expired(found[1]) else found[0]

    @luma_errors
    def encoded_item(self, key):
        """Return the `StateItem` of `key` as a JSON object in bytes, or None.

        The value is copied as it is stored, never decoded.
        """
        check_key(key)
        row = self._read(key)
        if row is None or self._expired(row.expires_at_ms):
            return None
        return b'{"key":%b,"value":%b,"revision":%d,"expires_at_ms":%b}' % (
            _encode_text(row.key),
            row.value,
            row.revision,
            _number_or_null(row.expires_at_ms),
        )

    def get(self, key, default=None):
        """Return the value of `key`, or `default`."""
        # The commonest read of all: one statement, one look at the checksum, no objects.
        if type(key) is not str or not 0 < len(key) <= SURELY_SHORT:
            check_key(key)
        cache = self._cache
        try:
            connection = self._connection()
            if cache is not None and key in cache:
                row = cache.read(connection, key)
                found = row and (row.value, row.expires_at_ms)
            else:
                found = mappings.read_state_value(connection, key)
                if found is not None and len(found[0]) >= CACHE_FROM_BYTES and cache is not None:
                    cache.read(connection, key)
        except READING_ERRORS as error:
            raise as_luma_error(error) from error
        if found is None:
            return default
        value, expires_at_ms = found
        if expires_at_ms is not None and expires_at_ms <= self._clock.now_ms():
            return default
        return codec.decode(value)

    @luma_errors
    def scan(self, prefix="", *, after=None, limit=100):
        """Return up to `limit` `StateItem`s whose keys start with `prefix`, in byte order.

        Parameters
        ----------
        after : str, optional
            Only keys beyond this one: the last key of the page before.
        """
        check_key(prefix, "prefix", least=0)
        if after is not None:
            check_key(after, "after", least=0)
        if type(limit) is not int or limit < 0:
            raise InvalidArgument(f"limit is {limit!r}: expected an int of at least 0")
        if limit == 0:
            return []
        rows = mappings.scan_state(self._connection(), prefix, after, limit, self._clock.now_ms())
        return [
            StateItem(row.key, codec.decode(row.value), row.revision, row.expires_at_ms)
            for row in rows
        ]

    def __getitem__(self, key):
        value = self.get(key, _MISSING)
        if value is _MISSING:
            raise KeyError(key)
        return value

    def __setitem__(self, key, value):
        self.put(key, value)

    def update(self, other=(), /, **more):
        """Put every entry of a mapping or of (key, value) pairs, in one commit, or none."""
        entries = {**dict(other), **more}
        if entries:
            puts = [{"key": key, "value": value} for key, value in entries.items()]
            self.put_each(puts, atomic=True)

    def __delitem__(self, key):
        if not self.delete(key).count:
            raise KeyError(key)

    @luma_errors
    def __contains__(self, key):
        check_key(key)
        head = mappings.read_state_head(self._connection(), key)
        return head is not None and not self._expired(head[1])

    def __iter__(self):
        after = None
        while True:
            page = self.scan(after=after, limit=PAGE)
            yield from (item.key for item in page)
            if len(page) < PAGE:
                return
            after = page[-1].key

    @luma_errors
    def __len__(self):
        return mappings.count_state(self._connection(), self._clock.now_ms())

    def __repr__(self):
        return f"State(entries={len(self)})"

    def _expired(self, expires_at_ms):
        return expires_at_ms is not None and expires_at_ms <= self._clock.now_ms()

    def _read(self, key):
        if self._cache is None:
            return mappings.read_state(self._connection(), key)
        return self._cache.read(self._connection(), key)


class StateCache:
    """Encoded bytes of large values, checked against the stored revision at every use.

    Small values are faster from SQLite itself than from any cache that must stay coherent.
    """

    def __init__(self, max_bytes=CACHE_BYTES):
        self._kept = {}
        self._rows = zict.LRU(max_bytes, self._kept, weight=lambda key, row: len(row.value))

    def __contains__(self, key):
        return key in self._kept

    def read(self, connection, key):
        """Return the `StateRow` of `key`, or None; from memory if the revision still holds."""
        try:
            row = self._rows[key]
        except KeyError:
            row = None
        if row is not None:
            if mappings.read_state_head(connection, key) == (row.revision, row.expires_at_ms):
                return row
            self._rows.pop(key, None)
        row = mappings.read_state(connection, key)
        if row is not None and len(row.value) >= CACHE_FROM_BYTES:
            self._rows[key] = row
        return row


def put_entries(unit, calls):
    """Write many entries with few statements; return a `WriteResult` or `LumaError` for each.

    Parameters
    ----------
    calls : list of dict
        The arguments of :func:`put_entry`, applied in order.
    """
    results, rows, events = [], [], []
    revision, now_ms = unit.head.next_offset, unit.now_ms
    for call in calls:
        key, value, ttl_ms, if_revision = call.values()
        if if_revision is not None:
            _write_entries(unit, rows, events)
            try:
                _check_and_set(unit, key, if_revision)
            except LumaError as error:
                results.append(error)
                continue
        expires = None if ttl_ms is None else now_ms + ttl_ms
        rows.append((key, revision, expires, value))
        events.append((key, _updated(key, revision, value, expires)))
        results.append(WriteResult(revision, 1, revision, expires))
        revision += 1
    _write_entries(unit, rows, events)
    return results


def _write_entries(unit, rows, events):
    if rows:
        mappings.write_states(unit.connection, rows)
        unit.append_keyed("state_updated", events)
        rows.clear()
        events.clear()


@refuses_first(together=put_entries)
def put_entry(unit, key, value, ttl_ms, if_revision):
    """Write one entry and its event; `value` is JSON bytes."""
    (result,) = put_entries(
        unit, [{"key": key, "value": value, "ttl_ms": ttl_ms, "if_revision": if_revision}]
    )
    if isinstance(result, LumaError):
        raise result
    return result


def _updated(key, revision, value, expires):
    return b'{"key":%b,"revision":%d,"value":%b,"expires_at_ms":%b}' % (
        _encode_text(key),
        revision,
        value,
        _number_or_null(expires),
    )


def _number_or_null(number):
    return b"null" if number is None else b"%d" % number


@refuses_first()
def delete_entry(unit, key, if_revision=None, reason="explicit"):
    """Remove one entry and append its event; nothing when it is missing."""
    if not _check_and_set(unit, key, if_revision):
        return WriteResult(unit.head.offset, 0)
    mappings.delete_state(unit.connection, key)
    return WriteResult(_append_deleted(unit, key, reason), 1)


def sweep_expired(unit, limit):
    """Remove up to `limit` expired entries, each with its event; return how many."""
    keys = mappings.expired_keys(unit.connection, unit.now_ms, limit)
    for key in keys:
        mappings.delete_state(unit.connection, key)
        _append_deleted(unit, key, "ttl")
    return len(keys)


def check_key(key, what="key", least=1):
    """Raise `InvalidArgument` unless `key` is a str of `least` to 512 bytes of UTF-8."""
    if not isinstance(key, str):
        raise InvalidArgument(f"{what} is a {type(key).__name__}: expected a str")
    try:
        size = len(key.encode())
    except UnicodeEncodeError:
        raise InvalidArgument(f"{what} {key!r} is not valid Unicode text") from None
    if size > MAX_KEY_BYTES:
        raise InvalidArgument(f"{what} too long: {size} bytes, at most {MAX_KEY_BYTES}")
    if size < least:
        raise InvalidArgument(f"{what} is empty: expected at least one character")


def check_revision(if_revision):
    """Raise `InvalidArgument` unless `if_revision` is None or an int of at least 0."""
    if if_revision is not None and (type(if_revision) is not int or if_revision < 0):
        raise InvalidArgument(f"if_revision is {if_revision!r}: expected an int of at least 0")


def checked_put(key, value, ttl_ms, if_revision):
    """Return the operation that puts a checked entry; raise `InvalidArgument`."""
    check_key(key)
    check_revision(if_revision)
    if ttl_ms is not None and (type(ttl_ms) is not int or not 1 <= ttl_ms < 1 << 53):
        raise InvalidArgument(f"ttl_ms is {ttl_ms!r}: expected an int of at least 1")
    data = codec.encode(value, f"value of {key!r}")
    key = str.__str__(key)  # numpy.str_ is a str too
    return partial(put_entry, key=key, value=data, ttl_ms=ttl_ms, if_revision=if_revision)


def _check_and_set(unit, key, if_revision):
    """Return whether `key` lives; raise `RevisionConflict` when it is not at `if_revision`."""
    found = mappings.read_state_head(unit.connection, key)
    lives = found is not None and (found[1] is None or found[1] > unit.now_ms)
    actual = found[0] if lives else 0
    if if_revision is not None and if_revision != actual:
        raise RevisionConflict(key, if_revision, actual)
    return lives


def _append_deleted(unit, key, reason):
    data = b'{"key":%b,"reason":"%b"}' % (codec.encode(str.__str__(key)), reason.encode())
    return unit.append("state_deleted", key=key, data=data)


def _run_each(unit, operations, atomic):
    results = []
    for index, operation in enumerate(operations):
        if isinstance(operation, LumaError):
            results.append(operation)
            continue
        try:
            results.append(operation(unit) if atomic else unit.run(operation))
        except LumaError as error:
            if atomic:
                error.index = index
                raise
            results.append(error)
    return results
