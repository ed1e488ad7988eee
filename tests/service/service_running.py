"""A real server in a thread, and readers of what it sends."""

import asyncio
import contextlib
import json
import socket
import threading

import httpx

from luma_lab.service.app import Server

KEY = "test-key"


class Running:
    """A server on a free port, in a thread of its own."""

    def __init__(self, lab, settings, pages=None, **options):
        self.lab = lab
        self._server = Server(lab, settings, pages, **options)
        self._loop = asyncio.new_event_loop()
        self._started = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        assert self._started.wait(60)
        self.port = self._server.port
        self.url = f"http://127.0.0.1:{self.port}"
        self.host = f"127.0.0.1:{self.port}"

    def _run(self):
        asyncio.set_event_loop(self._loop)
        self._stop = asyncio.Event()

        async def live():
            await self._server.start()
            self._started.set()
            await self._stop.wait()
            await self._server.stop()

        self._loop.run_until_complete(live())
        self._loop.close()

    @property
    def service(self):
        return self._server._service

    def stop(self):
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._stop.set)
            self._thread.join(30)
        assert not self._thread.is_alive()

    def client(self, key=KEY, **options):
        headers = {"X-API-Key": key} if key else {}
        # verify=False: nothing here is TLS, and loading certificates is slow.
        return httpx.Client(base_url=self.url, headers=headers, timeout=30, verify=False, **options)

    def raw(self, data, timeout=10):
        """Send bytes, return everything that comes back until the server closes."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=timeout) as sock:
            with contextlib.suppress(ConnectionError):
                sock.sendall(data)
            return read_all(sock)

    @contextlib.contextmanager
    def stream(self, path="/v1/stream", headers=(), key=KEY):
        with self.client(key) as client:
            with client.stream("GET", path, headers=dict(headers)) as response:
                yield Frames(response)


class Frames:
    """Server-sent events of an open response."""

    def __init__(self, response):
        self.response = response
        self.raw = b""
        self._chunks = response.iter_raw()
        self._left = b""

    def block(self):
        """Return the next block of lines (a frame or a comment) as bytes."""
        while b"\n\n" not in self._left:
            chunk = next(self._chunks)
            self.raw += chunk
            self._left += chunk
        block, self._left = self._left.split(b"\n\n", 1)
        return block

    def frame(self):
        """Return the next frame as a dict; comments are passed over."""
        while True:
            fields = parse_block(self.block())
            if "event" in fields:
                return fields

    def frames(self, count):
        return [self.frame() for _ in range(count)]


def parse_block(block):
    fields = {}
    for line in block.decode().split("\n"):
        name, _, value = line.partition(": ")
        fields[name] = value
    if "data" in fields:
        fields["data"] = json.loads(fields["data"])
    if "id" in fields:
        fields["id"] = int(fields["id"])
    return fields


def read_all(sock):
    parts = []
    with contextlib.suppress(ConnectionError, TimeoutError):
        while part := sock.recv(65536):
            parts.append(part)
    return b"".join(parts)


def parse_response(raw):
    """Return (status, headers by lower-case name, body) of the one response in `raw`."""
    head, _, body = raw.partition(b"\r\n\r\n")
    lines = head.decode().split("\r\n")
    headers = {name.lower(): value for name, value in (line.split(": ", 1) for line in lines[1:])}
    return int(lines[0].split()[1]), headers, body
