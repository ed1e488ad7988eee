"""Clients that follow an event stream and come back by themselves, as an EventSource does."""

import asyncio

from service_running import parse_block

RETRY_SECS = 0.05


class Follower:
    """Follows from offset `since` on; after a break it goes on behind the last id it heard.

    Attributes
    ----------
    heard : list of (str, int)
        Type and id of every event, keep-alives left out.
    last : int
        The last id heard, as sent with the next connection.
    connections : int
        How often it connected.
    """

    def __init__(self, port, query="", *, since=0, key=None):
        self._port = port
        self._query = query
        self._key = key
        self.heard = []
        self.last = since
        self.connections = 0

    async def follow(self, leaves_after=None):
        """Follow for ever; or to a break, or until `leaves_after` events were heard."""
        while True:
            try:
                await self._connect(leaves_after)
            except (OSError, asyncio.IncompleteReadError):
                pass
            if leaves_after is not None:
                return
            await asyncio.sleep(RETRY_SECS)

    async def _connect(self, leaves_after):
        reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
        try:
            key = f"X-API-Key: {self._key}\r\n" if self._key else ""
            writer.write(
                f"GET /v1/stream?{self._query} HTTP/1.1\r\nHost: 127.0.0.1\r\n{key}"
                f"Last-Event-ID: {self.last}\r\n\r\n".encode()
            )
            head = await reader.readuntil(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 200 "), head
            self.connections += 1
            await self._read(reader, leaves_after)
        finally:
            writer.close()

    async def _read(self, reader, leaves_after):
        text, leaves_at = b"", len(self.heard) + (leaves_after or 0)
        while size := int(await reader.readline() or b"0", 16):
            try:
                text += (await reader.readexactly(size + 2))[:size]
            except asyncio.IncompleteReadError as cut:
                text += cut.partial[:size]
                self._take(text)
                raise
            text = self._take(text)
            if leaves_after is not None and len(self.heard) >= leaves_at:
                return

    def _take(self, text):
        """Note the whole frames of `text`; return what is left."""
        *blocks, rest = text.split(b"\n\n")
        for fields in map(parse_block, blocks):
            if "id" in fields:
                self.last = fields["id"]
                if fields["event"] != "offset":
                    self.heard.append((fields["event"], fields["id"]))
        return rest


async def until(condition, seconds=60):
    """Return once something holds."""
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.01)
