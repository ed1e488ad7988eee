"""The fan-out: streams that have reached the head of the log get its news from one loop.

News are encoded once, filtered once for each distinct filter, and handed to each socket directly.
A socket that does not take all of it at once leaves the fan-out: its own coroutine waits until
the rest is gone and goes on from the log, so nothing is ever queued for a slow reader.
"""

import asyncio
import contextlib
import logging
import time

COALESCE_SECS = 0.002
KEEPALIVE = b": keepalive\n\n"
log = logging.getLogger(__name__)


class Subscriber:
    """One stream.

    Parameters
    ----------
    stream : tornado.iostream.IOStream
        Past the response's head.
    wanted : luma_lab.service.events.Filter
    cursor : int
        Offset of the last event it has got.
    """

    def __init__(self, stream, wanted, cursor):
        self.stream = stream
        self.wanted = wanted
        self.cursor = cursor
        self.sent_at = time.monotonic()
        self.lagging = None

    def push(self, framed):
        """Hand bytes to the socket; return what it did not take.

        Raises
        ------
        ConnectionError
            The client is gone.
        """
        self.sent_at = time.monotonic()
        if self.stream.closed():
            raise ConnectionError("the client is gone")
        if self.stream.writing():
            return framed
        try:
            sent = self.stream.socket.send(framed)
        except (BlockingIOError, InterruptedError):
            sent = 0
        except OSError as error:
            self.stream.close()
            raise ConnectionError(str(error)) from error
        return framed[sent:] if sent < len(framed) else b""


class Fanout:
    """The streams at the head of the log.

    Parameters
    ----------
    feed : luma_lab.service.feed.Feed
    keepalive_secs : float
    """

    def __init__(self, feed, keepalive_secs):
        self._feed = feed
        self._keepalive_secs = keepalive_secs
        self._live = {}
        self._task = None
        self.cursor = None

    def __len__(self):
        return len(self._live)

    def join(self, subscriber):
        """Take over a stream that stands at :attr:`cursor`.

        Returns
        -------
        asyncio.Future or None
            Resolved with the bytes its socket did not take, when it has to go on alone. None:
            the stream stands elsewhere and has to read on.
        """
        if not self._live:
            self.cursor = subscriber.cursor
        elif subscriber.cursor != self.cursor:
            return None
        subscriber.lagging = asyncio.get_running_loop().create_future()
        self._live[subscriber] = None
        if self._task is None or self._task.done():
            self._task = asyncio.ensure_future(self._run())
        return subscriber.lagging

    def leave(self, subscriber):
        """Forget a stream."""
        self._live.pop(subscriber, None)

    def close(self):
        """Stop."""
        if self._task is not None:
            self._task.cancel()

    async def _run(self):
        tick = max(0.01, min(1.0, self._keepalive_secs / 4))
        while self._live:
            news = self._feed.news()
            points = any(s.wanted.points for s in self._live)
            try:
                page = await self._feed.page(self.cursor, points)
            except Exception:
                log.exception("the log could not be read; the streams read on alone")
                self._release(b"")
                return
            if page.next != self.cursor:
                self._deliver(page)
                await asyncio.sleep(COALESCE_SECS)
            else:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(tick):
                        await news.wait()
            self._keep_alive()

    def _deliver(self, page):
        # A stream that joined while the page was read stands at the page's beginning too.
        chunks = {}
        self.cursor = page.next
        for subscriber in list(self._live):
            wanted = subscriber.wanted
            framed = chunks.get(wanted.key)
            if framed is None:
                framed = chunks[wanted.key] = frame(wanted.select(page.frames))
            subscriber.cursor = page.next
            if framed:
                self._push(subscriber, framed)

    def _keep_alive(self):
        due = time.monotonic() - self._keepalive_secs
        for subscriber in list(self._live):
            if subscriber.sent_at <= due:
                self._push(subscriber, frame(keepalive(subscriber)))

    def _push(self, subscriber, framed):
        try:
            rest = subscriber.push(framed)
        except ConnectionError:
            rest = b""
        else:
            if not rest:
                return
        self._live.pop(subscriber, None)
        if not subscriber.lagging.done():
            subscriber.lagging.set_result(rest)

    def _release(self, rest):
        for subscriber in list(self._live):
            if not subscriber.lagging.done():
                subscriber.lagging.set_result(rest)
        self._live.clear()


def keepalive(subscriber):
    """Return a comment, for filtered streams with a frame that moves Last-Event-ID."""
    if not subscriber.wanted.is_filter:
        return KEEPALIVE
    return KEEPALIVE + b"event: offset\nid: %d\n\n" % subscriber.cursor


def frame(chunk):
    """Return bytes as one chunk of a chunked body; nothing for nothing, which would end it."""
    return b"%x\r\n%b\r\n" % (len(chunk), chunk) if chunk else b""
