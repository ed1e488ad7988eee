"""The log as encoded frames: read once, encoded once, shared by every stream.

A stream is only a cursor. It asks for the page after its cursor; streams at the same place get
the same page from one read. So memory is bounded by the page cache and one page per stream,
and a slow client merely lags: when its socket drains it goes on where it was, from the log.
"""

import asyncio
import contextlib
from collections import OrderedDict
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import NamedTuple

import msgspec

from luma_lab.engine.events import RESERVED_PREFIXES, RESERVED_TYPES
from luma_lab.errors import LumaError, Unavailable

READERS = 4
PAGE_FRAMES = 1000
PAGE_BYTES = 256 * 1024
CACHE_BYTES = 16 * 1024 * 1024
FRAME_OVERHEAD_BYTES = 200


class WireFrame(NamedTuple):
    """An event ready to send; `wire` is its whole SSE frame."""

    offset: int
    type: str
    key: str | None
    collection: str | None
    wire: bytes


class Page(NamedTuple):
    """The events after one offset: `frames` lead to `next`, from where to go on."""

    frames: tuple[WireFrame, ...]
    next: int
    size: int


class Feed:
    """Pages of the log for streams, and the news that there is more.

    Everything here belongs to the event loop's thread; the reading is done in a pool.

    Parameters
    ----------
    lab : luma_lab.Lab
    """

    def __init__(self, lab):
        self._lab = lab
        # Of its own: many readers of old pages must not keep requests waiting.
        self._pool = ThreadPoolExecutor(READERS, thread_name_prefix="luma-feed")
        self._unsubscribe = None
        self._changed = asyncio.Event()
        self._pages = OrderedDict()
        self._cached_bytes = 0
        self._reading = {}
        self._epoch = -1
        self._closed = False

    def news(self):
        """Return an `asyncio.Event` that is set by the next commit after this call.

        Take it before reading a page: a commit in between then sets it, and is not missed.
        """
        if self._unsubscribe is None:
            loop = asyncio.get_running_loop()

            def tell():
                try:
                    epoch = self._lab.epoch
                except LumaError:
                    epoch = -1  # who reads the log next will hear why
                # The loop may end before the lab does; then nobody listens any more.
                with contextlib.suppress(RuntimeError):
                    loop.call_soon_threadsafe(self._on_commit, epoch)

            self._unsubscribe = self._lab.on_commit(tell)
        return self._changed

    async def page(self, since, points=True):
        """Return the `Page` after offset `since`; its `next` is `since` when there is none yet.

        Without `points` it passes over the changes of points, whose vectors are costly to show.

        Raises
        ------
        Unavailable
            The server is stopping.
        """
        self._check_open()
        self.news()  # whoever shares the reading must be able to hear that it is out of date
        place = since, points
        if place in self._pages:
            return self._remembered(since, points)
        if place not in self._reading:
            loop = asyncio.get_running_loop()
            reading = loop.run_in_executor(self._pool, self._read, since, points)
            self._reading[place] = reading
            reading.add_done_callback(partial(self._forget_reading, place))
        # A stream that ends must not take the others' page with it.
        epoch, page = await asyncio.shield(self._reading[place])
        self._turn_to(epoch)
        if page.frames and place not in self._pages and epoch == self._epoch:
            self._remember(place, page)
        return page

    async def reaches(self, offset, timeout_secs):
        """Return whether the head is at `offset` or beyond, waiting at most `timeout_secs`.

        Raises
        ------
        Unavailable
            The server is stopping.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout_secs
        while True:
            self._check_open()
            news = self.news()
            try:
                head = await loop.run_in_executor(self._pool, self._head)
            except asyncio.CancelledError:
                self._check_open()  # closed before its turn came
                raise
            if head >= offset:
                return True
            left = deadline - loop.time()
            if left <= 0:
                return False
            with contextlib.suppress(TimeoutError):  # then one last look
                async with asyncio.timeout(left):
                    await news.wait()

    def close(self):
        """Hear of no further commits, and wake everybody."""
        self._closed = True
        if self._unsubscribe is not None:
            self._unsubscribe()
        self._wake()
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _check_open(self):
        if self._closed:
            raise Unavailable("the server is stopping")

    def _head(self):
        return self._lab.head

    def _on_commit(self, epoch):
        self._turn_to(epoch)
        self._wake()

    def _turn_to(self, epoch):
        if epoch > self._epoch:  # what the pages tell of was undone by a restore
            self._epoch = epoch
            self._pages.clear()
            self._cached_bytes = 0

    def _wake(self):
        changed, self._changed = self._changed, asyncio.Event()
        # A page whose reading began before this commit must not pass for the present end.
        self._reading.clear()
        changed.set()

    def _forget_reading(self, place, reading):
        if self._reading.get(place) is reading:
            del self._reading[place]

    def _read(self, since, points):
        """Return (epoch, page); the epoch first, so that an old page is never called new."""
        epoch = self._lab.epoch
        frames, following = self._lab.events.read_frames(
            since, PAGE_FRAMES, PAGE_BYTES, points=points
        )
        wires = tuple(
            WireFrame(frame.offset, frame.type, frame.key, frame.collection, encode_frame(frame))
            for frame in frames
        )
        size = sum(len(frame.wire) + FRAME_OVERHEAD_BYTES for frame in wires)
        return epoch, Page(wires, following, size)

    def _remembered(self, since, points):
        """Return the known pages after `since` as one: live traffic leaves very short ones."""
        frames, size = [], 0
        while (since, points) in self._pages and size < PAGE_BYTES:
            self._pages.move_to_end((since, points))
            page = self._pages[since, points]
            frames += page.frames
            size += page.size
            since = page.next
        return Page(tuple(frames), since, size)

    def _remember(self, place, page):
        if page.frames[0].type == "gap":
            return  # what is gone grows; the next one to ask must hear of all of it
        self._pages[place] = page
        self._cached_bytes += page.size
        while self._cached_bytes > CACHE_BYTES and self._pages:
            _, oldest = self._pages.popitem(last=False)
            self._cached_bytes -= oldest.size


def encode_frame(frame):
    """Return the SSE bytes of an engine frame.

    A published event carries its key beside `data`; in the others the key is in `data`.
    """
    if frame.type == "gap":
        return b"event: gap\nid: %d\ndata: %b\n\n" % (frame.offset, frame.data)
    kind = frame.type.encode()
    key = b""
    if frame.key is not None and is_published(frame.type):
        key = b',"key":%b' % msgspec.json.encode(frame.key)
    return b'event: %b\nid: %d\ndata: {"offset":%d,"ts_ms":%d,"type":"%b","data":%b%b}\n\n' % (
        kind,
        frame.offset,
        frame.offset,
        frame.ts_ms,
        kind,
        frame.data,
        key,
    )


def inexact(wire):
    """Return a gap's frame as a filtered stream gets it: nobody knows what would have matched."""
    return wire.replace(b'"exact":true', b'"exact":false')


def is_published(kind):
    """Return whether `kind` is the type of a caller's own event, not one of the house."""
    return not kind.startswith(RESERVED_PREFIXES) and kind not in RESERVED_TYPES
