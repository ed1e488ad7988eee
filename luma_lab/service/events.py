"""``GET /v1/stream``: the log as server-sent events, replayed and live without a seam."""

import asyncio
import contextlib
import logging
import socket
import time

from tornado.iostream import StreamClosedError

from luma_lab.engine.events import POINT_TYPES
from luma_lab.errors import InvalidArgument, LumaError, NotSupported
from luma_lab.service.base import BaseHandler
from luma_lab.service.feed import inexact

KEEPALIVE_SECS = 15.0
RETRY_MS = 2000
SEND_BUFFER_BYTES = 64 * 1024
MAX_OFFSET = 2**63 - 1
log = logging.getLogger(__name__)


class StreamHandler(BaseHandler):
    """GET /v1/stream?since=&types=&key_prefix=&collection="""

    timed = False
    prefix_parameter = "key_prefix"
    has_collection = True

    async def get(self):
        for name in ("consumer", "on_lag"):
            if self.query_text(name) is not None:
                raise NotSupported(f"the stream parameter {name!r} is not supported yet")
        wanted = Filter(
            self.query_text("types"),
            self.query_text(self.prefix_parameter),
            self.query_text("collection") if self.has_collection else None,
        )
        cursor = await self._start()
        epoch = await self.run(lambda: self.lab.epoch)
        self.set_header("Content-Type", "text/event-stream")
        self.set_header("Cache-Control", "no-cache")
        self.set_header("X-Accel-Buffering", "no")
        self._limit_send_buffer()
        pump = asyncio.ensure_future(self._pump(epoch, cursor, wanted))
        self.service.streams.add(pump, self.access)
        self.service.active.discard(self)
        self._pump_task = pump
        try:
            await asyncio.wait({pump})
        finally:
            self.service.streams.discard(pump)
        if not pump.cancelled() and pump.exception() is not None:
            self._end_of(pump.exception())

    def on_connection_close(self):
        super().on_connection_close()
        pump = getattr(self, "_pump_task", None)
        if pump is not None:
            pump.cancel()

    async def _start(self):
        """Return the offset to start after: Last-Event-ID, else since, else 0."""
        last = self.request.headers.get("Last-Event-ID", "").strip()
        if last.isascii() and last.isdigit() and int(last) <= MAX_OFFSET:
            return int(last)
        since = self.query_text("since")
        if since == "latest":
            return await self.run(lambda: self.lab.head)
        if since == "earliest":
            return await self.run(lambda: self.lab.first_offset - 1)
        if since is not None and not (since.isascii() and since.isdigit()):
            raise InvalidArgument(f"since is {since!r}: expected an offset, 'latest' or 'earliest'")
        cursor = int(since or 0)
        if cursor > MAX_OFFSET:
            raise InvalidArgument(f"since is {since}: expected at most {MAX_OFFSET}")
        return cursor

    async def _pump(self, epoch, cursor, wanted):
        feed = self.service.feed
        await self._send(b": epoch %d\nretry: %d\n\n" % (epoch, RETRY_MS))
        while True:
            news = feed.news()
            page = await feed.page(cursor, wanted.points)
            moved, cursor = page.next != cursor, page.next
            chunk = wanted.select(page.frames)
            if chunk:
                await self._send(chunk)
            due = self._sent_at + self.service.keepalive_secs
            if not moved:
                # Not wait_for: before 3.12 it can swallow the cancellation of a stream.
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(max(0.0, due - time.monotonic())):
                        await news.wait()
                    continue
            if time.monotonic() >= due:
                await self._send(_keepalive(cursor if wanted.is_filter else None))

    async def _send(self, chunk):
        self.write(chunk)
        await self.flush()
        self._sent_at = time.monotonic()

    def _end_of(self, error):
        if isinstance(error, StreamClosedError):
            return
        log.error("a stream ended: %s", error, exc_info=not isinstance(error, LumaError))

    def _limit_send_buffer(self):
        # A stalled client would otherwise hide megabytes of backlog in the kernel.
        stream = self.request.connection.stream
        stream.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER_BYTES)


class EventsHandler(StreamHandler):
    """GET /v1/events?since=&types=&prefix=: the older name, without a collection filter."""

    prefix_parameter = "prefix"
    has_collection = False

    def post(self):
        """Publishing over HTTP is not there yet."""
        raise NotSupported("POST /v1/events is not supported yet")


class Filter:
    """Which events a stream wants; a missing part lets everything through.

    Parameters
    ----------
    types : str or None
        Comma list, each compared exactly.
    key_prefix : str or None
        Events without a key don't match.
    collection : str or None
    """

    def __init__(self, types, key_prefix, collection):
        names = None if types is None else {name.strip() for name in types.split(",")}
        self._types = names - {""} if names else None
        self._types = self._types or None
        self._key_prefix = key_prefix or None
        self._collection = collection or None
        self.is_filter = any((self._types, self._key_prefix, self._collection))
        # Changes of points have no key.
        self.points = self._key_prefix is None and (
            self._types is None or not self._types.isdisjoint(POINT_TYPES)
        )

    def select(self, frames):
        """Return the wire bytes of the frames that match; gaps always do."""
        if not self.is_filter:
            return b"".join(frame.wire for frame in frames)
        return b"".join(
            inexact(frame.wire) if frame.type == "gap" else frame.wire
            for frame in frames
            if frame.type == "gap" or self._matches(frame)
        )

    def _matches(self, frame):
        if self._types is not None and frame.type not in self._types:
            return False
        if self._key_prefix is not None and not (frame.key or "").startswith(self._key_prefix):
            return False
        return self._collection is None or frame.collection == self._collection


def _keepalive(cursor):
    offset = b"" if cursor is None else b"event: offset\nid: %d\n\n" % cursor
    return b": keepalive\n\n" + offset


routes = [(r"/v1/stream", StreamHandler), (r"/v1/events", EventsHandler)]
