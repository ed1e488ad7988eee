"""Streams and websockets end with the key they were opened with, whatever fails meanwhile."""

import asyncio
import re
import socket
import time

import httpx
import pytest
from service_running import KEY

from luma_lab.engine.keys import KeyStore
from luma_lab.service import streams
from luma_lab.service.access import ANYONE, Access
from luma_lab.service.guard import COOKIE
from luma_lab.service.streams import Streams


class Stream:
    def __init__(self, fault=None):
        self.cancelled = False
        self.ended = False
        self.fault = fault

    def cancel(self):
        self.cancelled = True
        if self.fault is not None:
            raise self.fault
        self.ended = True

    def done(self):
        return self.ended


class Keys:
    """Keys that stand until they are revoked, and look-ups that fail when told to."""

    def __init__(self):
        self.revoked = set()
        self.faults = {}

    def is_alive(self, access):
        if access.key_id in self.faults:
            raise self.faults[access.key_id]
        return access.key_id not in self.revoked


async def until(condition):
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.002)


@pytest.fixture
def watch(monkeypatch):
    """A function that runs a scenario with streams that are checked every few ms."""
    monkeypatch.setattr(streams, "CHECK_SECS", 0.005)

    def run(scenario):
        async def live():
            keys = Keys()
            opened = Streams(keys.is_alive)
            try:
                await scenario(opened, keys)
            finally:
                opened.close()

        asyncio.run(live())

    return run


def access(id):
    return Access(id, "read", fingerprint=id.encode())


def test_a_key_revoked_after_a_look_up_failed_still_ends_its_streams(watch, caplog):
    async def scenario(opened, keys):
        stream, other = Stream(), Stream()
        keys.faults["a"] = OSError("the disk hiccups")
        opened.add(stream, access("a"))
        opened.add(other, access("b"))
        await until(lambda: caplog.records)
        await asyncio.sleep(0.05)
        assert not stream.cancelled
        keys.revoked |= {"a", "b"}
        await until(lambda: other.cancelled)
        assert not stream.cancelled
        del keys.faults["a"]
        await until(lambda: stream.cancelled)
        await until(lambda: len(opened) == 0)

    watch(scenario)
    assert [record.levelname for record in caplog.records] == ["ERROR"], "once, not every time"


def test_a_key_that_can_not_be_looked_up_for_long_counts_as_gone(watch, monkeypatch):
    monkeypatch.setattr(streams, "UNSURE_SECS", 0.05)

    async def scenario(opened, keys):
        unsure, sure, open_to_all = Stream(), Stream(), Stream()
        keys.faults["a"] = OSError("the disk is gone")
        opened.add(unsure, access("a"))
        opened.add(sure, access("b"))
        opened.add(open_to_all, ANYONE)
        await until(lambda: unsure.cancelled)
        await asyncio.sleep(0.05)
        assert not sure.cancelled and not open_to_all.cancelled

    watch(scenario)


def test_a_stream_that_can_not_be_ended_does_not_keep_the_others_open(watch):
    async def scenario(opened, keys):
        broken, sound = Stream(fault=OSError("no such socket")), Stream()
        opened.add(broken, access("a"))
        opened.add(sound, access("a"))
        keys.revoked.add("a")
        await until(lambda: broken.cancelled and sound.cancelled)
        broken.fault = None
        await until(lambda: len(opened) == 0)

    watch(scenario)


def test_what_has_ended_is_forgotten_where_nobody_is_asked_for_a_key(watch):
    async def scenario(opened, keys):
        stream = Stream()
        opened.add(stream, ANYONE)
        stream.ended = True
        await until(lambda: len(opened) == 0)

    watch(scenario)


def test_a_stream_that_comes_after_the_close_is_ended_at_once(watch):
    async def scenario(opened, keys):
        opened.close()
        stream = Stream()
        opened.add(stream, ANYONE)
        assert stream.cancelled and len(opened) == 0

    watch(scenario)


def wait(condition):
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def end_of(frames):
    """Read a stream to its end."""
    with pytest.raises((StopIteration, httpx.RemoteProtocolError)):
        while True:
            frames.block()


@pytest.mark.parametrize("change", ["revoke", "rotate"])
def test_the_open_streams_of_a_key_end_when_it_is_revoked_in_any_process(server, change):
    keys = server.service.keys
    id, token = keys.create("reader", "read")
    _, kept = keys.create("other", "read", {"collections": ["docs"], "key_prefixes": ["a"]})
    with server.stream(key=token) as whole, server.stream("/v1/stream?types=x", key=token) as part:
        with server.stream(key=kept) as other, server.stream() as configured:
            for stream in (whole, part, other, configured):
                stream.block()
            wait(lambda: len(server.service.fanout) == 4)
            elsewhere = KeyStore(server.lab.path)
            getattr(elsewhere, change)(id)
            elsewhere.close()
            end_of(whole)
            end_of(part)
            server.lab.state.put("a", 1)
            assert other.frame()["id"] == configured.frame()["id"] == 1
    with server.client(key=token) as client:
        assert client.get("/v1/stream").status_code == 401


def test_the_stalled_stream_of_a_revoked_key_gets_nothing_that_came_after(server):
    id, token = server.service.keys.create("reader", "read")
    head = f"GET /v1/stream HTTP/1.1\r\nHost: {server.host}\r\nX-API-Key: {token}\r\n"
    with socket.socket() as stalled:
        stalled.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        stalled.settimeout(20)
        stalled.connect(("127.0.0.1", server.port))
        stalled.sendall((head + "Connection: close\r\n\r\n").encode())
        wait(lambda: len(server.service.fanout) == 1)
        server.lab.state.put("big", "x" * 2_000_000)
        wait(lambda: len(server.service.fanout) == 0)
        server.service.keys.revoke(id)
        wait(lambda: len(server.service.streams) == 0)
        server.lab.state.put("secret", "told later")
        received = b""
        while part := stalled.recv(1 << 20):
            received += part
    assert received.count(b"\nid: ") == 1 and b"told later" not in received
    assert received.endswith(b"\r\n0\r\n\r\n"), "the body has its end"


def test_the_open_websocket_of_a_revoked_key_is_closed(serve):
    panel = pytest.importorskip("panel")
    server = serve(pages={"/": lambda: panel.pane.Markdown("a page")})
    id, token = server.service.keys.create("writer", "write")
    with open_page(server, token) as revoked, open_page(server, KEY) as kept:
        assert len(server.service.sockets) == 2
        server.service.keys.revoke(id)
        assert revoked.recv(1 << 16) == b""
        wait(lambda: len(server.service.sockets) == 1)
        kept.settimeout(0.6)
        with pytest.raises(TimeoutError):
            kept.recv(1)
    with server.client(key=None) as client:
        assert client.post("/lab/login", data={"key": token}).status_code == 401


def open_page(server, key):
    """Return the websocket of a workbench opened with a key, as a socket after its first word."""
    with server.client(key=None) as client:
        assert client.post("/lab/login", data={"key": key}).status_code == 303
        cookie = f"{COOKIE}={client.cookies[COOKIE]}"
        session = re.search(r'"token":"([^"]+)"', client.get("/lab/").text)[1]
    sock = socket.create_connection(("127.0.0.1", server.port), timeout=20)
    sock.sendall(
        f"GET /lab/ws HTTP/1.1\r\nHost: {server.host}\r\nCookie: {cookie}\r\n"
        "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
        f"Sec-WebSocket-Protocol: bokeh, {session}\r\n\r\n".encode()
    )
    heard = b""
    while b"ACK" not in heard:
        part = sock.recv(1 << 16)
        assert part, heard
        heard += part
    time.sleep(0.1)
    sock.setblocking(False)
    try:
        while sock.recv(1 << 16):
            pass
    except BlockingIOError:
        pass
    sock.settimeout(20)
    return sock
