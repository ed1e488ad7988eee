"""``GET /v1/stream``: the log as server-sent events, replayed and live without a seam."""

import asyncio
import contextlib
import logging
import socket
import time
from typing import Any

import msgspec
from tornado.iostream import StreamClosedError

from luma_lab import codec
from luma_lab.engine.events import POINT_TYPES
from luma_lab.errors import InvalidArgument, LumaError
from luma_lab.service.base import BaseHandler
from luma_lab.service.fanout import Subscriber, frame, keepalive
from luma_lab.service.feed import Page, WireFrame, inexact
from luma_lab.service.operation import Operation, Parameter
from luma_lab.service.state import check_size
from luma_lab.service.transaction import check_publish

KEEPALIVE_SECS = 15.0
RETRY_MS = 2000
SEND_BUFFER_BYTES = 64 * 1024
MAX_OFFSET = 2**63 - 1
LAG_EVENTS = 4096  # behind which a stream that asked for it skips
ALONE_SECS = 0.05  # after which a stream tries to join the fan-out again
LAGGED = "gap lagged"  # no event's type: the frame of a gap that is exact also under a filter
GAPS = frozenset({"gap", LAGGED})
log = logging.getLogger(__name__)


class PublishRequest(msgspec.Struct):
    """Body of publish."""

    type: str
    data: Any
    key: str | None = None


class PublishAnswer(msgspec.Struct):
    """The event's offset."""

    offset: int


class StreamHandler(BaseHandler):
    """GET /v1/stream?since=&types=&key_prefix=&collection="""

    timed = False
    prefix_parameter = "key_prefix"
    has_collection = True

    async def get(self):
        wanted = Filter(
            self.query_text("types"),
            self.query_text(self.prefix_parameter),
            self.query_text("collection") if self.has_collection else None,
            self.access,
        )
        on_lag = self.query_text("on_lag", "replay")
        if on_lag not in ("replay", "skip"):
            raise InvalidArgument(f"on_lag is {on_lag!r}: expected 'replay' or 'skip'")
        cursor = await self._start()
        epoch = await self.run(lambda: self.lab.epoch)
        self.set_header("Content-Type", "text/event-stream")
        self.set_header("Cache-Control", "no-cache")
        self.set_header("X-Accel-Buffering", "no")
        self._limit_send_buffer()
        pump = asyncio.ensure_future(self._pump(epoch, cursor, wanted, on_lag == "skip"))
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
        """Return the offset to start after: Last-Event-ID, else the consumer's, since, 0."""
        last = self.request.headers.get("Last-Event-ID", "").strip()
        if last.isascii() and last.isdigit() and int(last) <= MAX_OFFSET:
            return int(last)
        consumer = self.query_text("consumer")
        if consumer is not None:
            self.access.check_unscoped("consumers")
            offset = await self.run(self.lab.consumers.offset, consumer)
            if offset is not None:
                return offset
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

    async def _pump(self, epoch, cursor, wanted, skips):
        self.write(b": epoch %d\nretry: %d\n\n" % (epoch, RETRY_MS))
        await self.flush()
        fanout, feed = self.service.fanout, self.service.feed
        # HTTP/1.0 has no chunks: there the body simply goes on to the end of the connection.
        is_chunked = self._headers.get("Transfer-Encoding") == "chunked"
        subscriber = Subscriber(self.request.connection.stream, wanted, cursor)
        was_live = False
        try:
            while True:
                page = await feed.page(subscriber.cursor, wanted.points)
                if page.next == subscriber.cursor and is_chunked:
                    lagging = fanout.join(subscriber)
                    if lagging is not None:
                        was_live = True
                        rest = await lagging
                        await self._finish_sending(subscriber, rest)
                        continue
                if skips and was_live:
                    page = await self._skip(subscriber, page)
                if page.next == subscriber.cursor:
                    await self._wait_alone(subscriber, is_chunked)
                    continue
                subscriber.cursor = page.next
                await self._send(subscriber, wanted.select(page.frames), is_chunked)
                if time.monotonic() - subscriber.sent_at >= self.service.keepalive_secs:
                    await self._send(subscriber, keepalive(subscriber), is_chunked)
        finally:
            fanout.leave(subscriber)

    async def _wait_alone(self, subscriber, is_chunked):
        """Wait for news beside the fan-out: it has moved on meanwhile, or can't serve this one."""
        news = self.service.feed.news()
        page = await self.service.feed.page(subscriber.cursor, subscriber.wanted.points)
        if page.next != subscriber.cursor:
            return
        due = subscriber.sent_at + self.service.keepalive_secs
        # Not wait_for: before 3.12 it can swallow the cancellation of a stream.
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(max(0.0, min(ALONE_SECS, due - time.monotonic()))):
                await news.wait()
        if time.monotonic() >= due:
            await self._send(subscriber, keepalive(subscriber), is_chunked)

    async def _send(self, subscriber, chunk, is_chunked):
        if chunk:
            await self._finish_sending(
                subscriber, subscriber.push(frame(chunk) if is_chunked else chunk)
            )

    async def _finish_sending(self, subscriber, rest):
        if subscriber.stream.closed():
            raise StreamClosedError
        if rest:
            await subscriber.stream.write(rest)
            subscriber.sent_at = time.monotonic()

    async def _skip(self, subscriber, page):
        """Leave out what a lagging stream missed, and say so: how many, through its filter."""
        head = await self.run(lambda: self.lab.head)
        if head - subscriber.cursor <= LAG_EVENTS:
            return page
        first, dropped, cursor = subscriber.cursor + 1, 0, subscriber.cursor
        while cursor < head:
            missed = await self.service.feed.page(cursor, subscriber.wanted.points)
            if missed.next == cursor:
                break
            dropped += subscriber.wanted.count(missed.frames)
            cursor = missed.next
        gap = {
            "from_offset": first,
            "to_offset": cursor,
            "dropped": dropped,
            "exact": True,
            "reason": "lagged",
        }
        data = codec.encode(gap)
        wire = b"event: gap\nid: %d\ndata: %b\n\n" % (cursor, data) if dropped else b""
        lagged = WireFrame(cursor, LAGGED, None, None, wire)
        return Page((lagged,), cursor, len(wire))

    def _end_of(self, error):
        if isinstance(error, (StreamClosedError, ConnectionError)):
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

    async def post(self):
        """Publish an event of one's own."""
        request = await self.read_json(PublishRequest)
        check_publish(self, request)
        size = len(self.request.body)

        def publish():
            check_size("data", request.data, size, self.limits)
            result = self.lab.events.publish(request.type, request.data, key=request.key)
            return {"offset": result.offset}

        await self.answer(publish)


class Filter:
    """Which events a stream wants; a missing part lets everything through.

    Parameters
    ----------
    types : str or None
        Comma list, each compared exactly.
    key_prefix : str or None
        Events without a key don't match.
    collection : str or None
    access : luma_lab.service.access.Access
        What the stream's key may see.
    """

    def __init__(self, types, key_prefix, collection, access):
        names = None if types is None else {name.strip() for name in types.split(",")}
        self._types = names - {""} if names else None
        self._types = self._types or None
        self._key_prefix = key_prefix or None
        self._collection = collection or None
        self._access = access if access.is_scoped else None
        self.is_filter = any((self._types, self._key_prefix, self._collection, self._access))
        self.key = (
            self._types and frozenset(self._types),
            self._key_prefix,
            self._collection,
            self._access,
        )
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
            if frame.type in GAPS or self._matches(frame)
        )

    def count(self, frames):
        """Return how many of the frames, gaps left out, match."""
        return sum(f.type not in GAPS and self._matches(f) for f in frames)

    def _matches(self, frame):
        if self._types is not None and frame.type not in self._types:
            return False
        if self._key_prefix is not None and not (frame.key or "").startswith(self._key_prefix):
            return False
        if self._collection is not None and frame.collection != self._collection:
            return False
        return self._access is None or self._access.sees_event(frame)


_STREAM = (
    Parameter("types", str, "Comma list of event types; others are left out."),
    Parameter("since", str, "Start after this offset; or 'earliest', or 'latest'."),
    Parameter("Last-Event-ID", str, "As `since`, and wins over it.", place="header"),
    Parameter("consumer", str, "Start after what this consumer acknowledged."),
    Parameter("on_lag", str, "'skip': a slow reader gets a gap instead of a replay."),
)
operations = [
    Operation(
        "GET", "/v1/stream", StreamHandler, "Follow the log as server-sent events.",
        answer=str, answer_media="text/event-stream",
        parameters=(
            *_STREAM,
            Parameter("key_prefix", str, "Only events whose key starts so."),
            Parameter("collection", str, "Only events of this collection."),
        ),
    ),
    Operation(
        "GET", "/v1/events", EventsHandler, "The older name of the stream.",
        answer=str, answer_media="text/event-stream",
        parameters=(*_STREAM, Parameter("prefix", str, "Only events whose key starts so.")),
    ),
    Operation(
        "POST", "/v1/events", EventsHandler, "Publish an event of your own.", "write",
        body=PublishRequest, answer=PublishAnswer,
    ),
]  # fmt: skip
routes = [(r"/v1/stream", StreamHandler), (r"/v1/events", EventsHandler)]
