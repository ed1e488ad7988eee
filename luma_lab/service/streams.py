"""What lives longer than a request: streams and websockets, each ended when its key is."""

import asyncio

CHECK_SECS = 0.25


class Streams:
    """Open streams with the rights they were opened with.

    Parameters
    ----------
    is_alive : callable
        ``is_alive(access) -> bool``: whether its key still stands.
    """

    def __init__(self, is_alive):
        self._is_alive = is_alive
        self._open = {}
        self._watcher = None

    def add(self, stream, access):
        """Note a stream, anything with ``cancel()`` and ``done()``."""
        self._open[stream] = access
        if access.key_id is not None and (self._watcher is None or self._watcher.done()):
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
        if self._watcher is not None:
            self._watcher.cancel()
        for stream in self:
            stream.cancel()

    async def _watch(self):
        while self._open:
            await asyncio.sleep(CHECK_SECS)
            for stream, access in list(self._open.items()):
                if stream.done():
                    self.discard(stream)
                elif not self._is_alive(access):
                    stream.cancel()


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
