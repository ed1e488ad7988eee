"""What lives longer than a request: streams and websockets, each ended when its key is."""

import asyncio
import logging
import time

CHECK_SECS = 0.25
UNSURE_SECS = 5.0  # after which a key that can't be looked up counts as gone
log = logging.getLogger(__name__)


class Streams:
    """Open streams with the rights they were opened with.

    Parameters
    ----------
    is_alive : callable
        ``is_alive(access) -> bool``: whether its key still stands. While it raises, the
        streams stay open for `UNSURE_SECS`, then they end.
    """

    def __init__(self, is_alive):
        self._is_alive = is_alive
        self._open = {}
        self._unsure = {}
        self._watcher = None
        self._closed = False

    def add(self, stream, access):
        """Note a stream, anything with ``cancel()`` and ``done()``; after `close` cancel it."""
        if self._closed:
            stream.cancel()
            return
        self._open[stream] = access
        if self._watcher is None or self._watcher.done():
            self._watcher = asyncio.ensure_future(self._watch())

    def discard(self, stream):
        """Forget a stream that has ended."""
        self._open.pop(stream, None)

    def __iter__(self):
        return iter(list(self._open))

    def __len__(self):
        return len(self._open)

    def close(self):
        """Cancel every stream."""
        self._closed = True
        if self._watcher is not None:
            self._watcher.cancel()
        for stream in self:
            stream.cancel()

    async def _watch(self):
        while self._open:
            await asyncio.sleep(CHECK_SECS)
            self._check()

    def _check(self):
        stands, unsure = {}, {}
        for stream, access in list(self._open.items()):
            try:
                if stream.done():
                    self.discard(stream)
                    continue
                if access not in stands:
                    stands[access] = self._stands(access, unsure)
                if not stands[access]:
                    stream.cancel()
            except Exception:  # of one stream; the others are watched on
                log.exception("an open stream could not be ended; trying again")
        self._unsure = unsure

    def _stands(self, access, unsure):
        try:
            return self._is_alive(access)
        except Exception:
            now = time.monotonic()
            since = unsure[access] = self._unsure.get(access, now)
            if since == now:
                log.exception("the key of an open stream could not be looked up; trying again")
            return now - since < UNSURE_SECS


class Socket:
    """A websocket's connection, as :class:`Streams` wants it."""

    def __init__(self, stream):
        self._stream = stream

    def cancel(self):
        """Close it."""
        self._stream.close()

    def done(self):
        """Return whether it is closed."""
        return self._stream.closed()
