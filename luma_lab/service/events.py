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
MAX_DIGITS = 100  # zeros in front are no harm
SHOWN_CHARACTERS = 60
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
        if self.request.connection.stream.closed():
            return
        self.set_header("Content-Type", "text/event-stream")
        self.set_header("Cache-Control", "no-cache")
        self.set_header("X-Accel-Buffering", "no")
        self._prepare_socket()
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
        if not self._is_chunked():
            await self._end_connection()

    def on_connection_close(self):
        super().on_connection_close()
        pump = getattr(self, "_pump_task", None)
        if pump is not None:
            pump.cancel()

    async def _start(self):
        """Return the offset to start after: Last-Event-ID, else the consumer's, since, 0."""
        last = self.request.headers.get("Last-Event-ID", "").strip()
        if _is_offset(last):
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
        if since is None:
            return 0
        if not _is_offset(since):
            raise InvalidArgument(
                f"since is {since[:SHOWN_CHARACTERS]!r}: expected an offset of at most "
                f"{MAX_OFFSET}, 'latest' or 'earliest'"
            )
        return int(since)

    async def _pump(self, epoch, cursor, wanted, skips):
        self.write(b": epoch %d\nretry: %d\n\n" % (epoch, RETRY_MS))
        await self.flush()
        fanout, feed = self.service.fanout, self.service.feed
        # HTTP/1.0 has no chunks: there the body simply goes on to the end of the connection.
        is_chunked = self._is_chunked()
        subscriber = Subscriber(self.request.connection.stream, wanted, cursor)
        was_live = False
        self.service.subscribers.add(subscriber)
        try:
            while True:
                page = await feed.page(subscriber.cursor, wanted.points)
                if page.next == subscriber.cursor:
                    was_live = True
                    lagging = fanout.join(subscriber) if is_chunked else None
                    if lagging is not None:
                        await self._finish_sending(subscriber, await lagging)
                    else:
                        await self._wait_alone(subscriber, is_chunked)
                    continue
                if skips and was_live:
                    page = await self._skip(subscriber, page, is_chunked)
                subscriber.cursor = page.next
                await self._send(subscriber, wanted.select(page.frames), is_chunked)
                await self._keep_alive(subscriber, is_chunked)
        finally:
            self.service.subscribers.discard(subscriber)
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
        await self._keep_alive(subscriber, is_chunked)

    async def _keep_alive(self, subscriber, is_chunked):
        if time.monotonic() - subscriber.sent_at >= self.service.keepalive_secs:
            await self._send(subscriber, keepalive(subscriber), is_chunked)

    async def _send(self, subscriber, chunk, is_chunked):
        if chunk:
            await self._finish_sending(
                subscriber, subscriber.push(frame(chunk) if is_chunked else chunk)
            )

    async def _finish_sending(self, subscriber, pending):
        if subscriber.stream.closed():
            raise StreamClosedError
        if pending is not None:
            await pending
            subscriber.sent_at = time.monotonic()

    async def _skip(self, subscriber, page, is_chunked):
        """Leave out what a lagging stream missed, and say so: how many, through its filter.

        What retention has taken of it can't be counted; that part is declared as truncated.
        """
        wanted, cursor = subscriber.wanted, subscriber.cursor
        head = await self.run(lambda: self.lab.head)
        if head - cursor <= LAG_EVENTS:
            return page
        frames, first, dropped = [], cursor + 1, 0
        while cursor < head:
            missed = await self.service.feed.page(cursor, wanted.points)
            if missed.next == cursor:
                break
            if missed.frames and missed.frames[0].type == "gap":
                frames += _lagged(first, cursor, dropped)
                frames.append(missed.frames[0])
                first, dropped = missed.frames[0].offset + 1, 0
            dropped += wanted.count(missed.frames)
            cursor = missed.next
            await self._keep_alive(subscriber, is_chunked)
        frames += _lagged(first, cursor, dropped)
        return Page(tuple(frames), cursor, sum(len(frame.wire) for frame in frames))

    def _end_of(self, error):
        if isinstance(error, (StreamClosedError, ConnectionError)):
            return
        log.error("a stream ended: %s", error, exc_info=not isinstance(error, LumaError))

    def _prepare_socket(self):
        stream = self.request.connection.stream
        # A stalled client would otherwise hide megabytes of backlog in the kernel.
        stream.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER_BYTES)
        # Else an event waits until the client has acknowledged the one before: up to 40 ms.
        stream.set_nodelay(True)

    def _is_chunked(self):
        return self._headers.get("Transfer-Encoding") == "chunked"

    async def _end_connection(self):
        """Close after the last byte: without chunks nothing else tells the end of the body."""
        with contextlib.suppress(StreamClosedError):
            await self.finish()
        self.request.connection.stream.close()


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


def _is_offset(text):
    # The length first: int() refuses thousands of digits with an error of its own.
    return text.isascii() and text.isdigit() and len(text) <= MAX_DIGITS and int(text) <= MAX_OFFSET


def _lagged(first, last, dropped):
    """Return the frames, one or none, that tell of `dropped` events left out."""
    if not dropped:
        return []
    gap = {
        "from_offset": first,
        "to_offset": last,
        "dropped": dropped,
        "exact": True,
        "reason": "lagged",
    }
    wire = b"event: gap\nid: %d\ndata: %b\n\n" % (last, codec.encode(gap))
    return [WireFrame(last, LAGGED, None, None, wire)]


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
