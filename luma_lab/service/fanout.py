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
        """Hand bytes to the socket.

        Returns
        -------
        asyncio.Future or None
            Resolved once the socket has taken what it did not take at once. None: it took all.

        Raises
        ------
        ConnectionError
            The client is gone.
        """
        self.sent_at = time.monotonic()
        if self.stream.closed():
            raise ConnectionError("the client is gone")
        if self.stream.writing():
            return self.stream.write(framed)
        try:
            sent = self.stream.socket.send(framed)
        except (BlockingIOError, InterruptedError):
            sent = 0
        except OSError as error:
            self.stream.close()
            raise ConnectionError(str(error)) from error
        if sent == len(framed):
            return None
        # The rest must follow even if the stream is cancelled meanwhile: behind half a chunk
        # the client could not tell the end of the body. A view, for many may stall at one page.
        return self.stream.write(memoryview(framed)[sent:])


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
        self._reads_blindly = False
        self.cursor = None

    def __len__(self):
        return len(self._live)

    def join(self, subscriber):
        """Take over a stream that stands at :attr:`cursor`.

        Returns
        -------
        asyncio.Future or None
            Resolved when it has to go on alone, with what :meth:`Subscriber.push` returned.
            None: the stream stands elsewhere, or wants changes of points while a page without
            them is being read; it has to read on.
        """
        if self._reads_blindly and subscriber.wanted.points:
            return None
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
        try:
            while self._live:
                await self._turn()
        except Exception:
            log.exception("the fan-out failed; the streams read on alone")
            for subscriber in list(self._live):
                self._let_go(subscriber, None)

    async def _turn(self):
        news, since = self._feed.news(), self.cursor
        page = await self._read(since)
        if self.cursor != since:
            return  # everyone left, and who came meanwhile stands elsewhere
        if page.next != since:
            self._deliver(page)
            await asyncio.sleep(COALESCE_SECS)
        else:
            tick = max(0.01, min(1.0, self._keepalive_secs / 4))
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(tick):
                    await news.wait()
        self._keep_alive()

    async def _read(self, since):
        points = any(s.wanted.points for s in self._live)
        self._reads_blindly = not points
        try:
            return await self._feed.page(since, points)
        finally:
            self._reads_blindly = False

    def _deliver(self, page):
        # A stream that joined while the page was read stands at the page's beginning too.
        chunks = {}
        self.cursor = page.next
        for subscriber in list(self._live):
            wanted = subscriber.wanted
            framed = chunks.get(wanted.key)
            if framed is None:
                framed = chunks[wanted.key] = frame(wanted.select(page.frames))
            if framed:
                self._push(subscriber, framed)
            subscriber.cursor = page.next

    def _keep_alive(self):
        due = time.monotonic() - self._keepalive_secs
        for subscriber in list(self._live):
            if subscriber.sent_at <= due:
                self._push(subscriber, frame(keepalive(subscriber)))

    def _push(self, subscriber, framed):
        try:
            pending = subscriber.push(framed)
        except ConnectionError:
            self._let_go(subscriber, None)
        else:
            if pending is not None:
                self._let_go(subscriber, pending)

    def _let_go(self, subscriber, pending):
        self._live.pop(subscriber, None)
        if not subscriber.lagging.done():
            subscriber.lagging.set_result(pending)


def keepalive(subscriber):
    """Return a comment, for filtered streams with a frame that moves Last-Event-ID."""
    if not subscriber.wanted.is_filter:
        return KEEPALIVE
    return KEEPALIVE + b"event: offset\nid: %d\n\n" % subscriber.cursor


def frame(chunk):
    """Return bytes as one chunk of a chunked body; nothing for nothing, which would end it."""
    return b"%x\r\n%b\r\n" % (len(chunk), chunk) if chunk else b""
