"""Readers that fall behind: replayed from the log, or told exactly what was left out."""

import contextlib
import re
import socket
import time

import pytest
from service_running import KEY, parse_block

from luma_lab.service.events import LAG_EVENTS
from luma_lab.store import log as event_log

BURST = LAG_EVENTS + 900


class Slow:
    """A stream whose client reads only when told to."""

    def __init__(self, server, query, version="1.1"):
        self._sock = socket.socket()
        self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        self._sock.settimeout(30)
        self._sock.connect(("127.0.0.1", server.port))
        request = f"GET /v1/stream?{query} HTTP/{version}\r\nHost: {server.host}\r\n"
        self._sock.sendall(f"{request}X-API-Key: {KEY}\r\n\r\n".encode())
        self._file = self._sock.makefile("rb")
        while self._file.readline().strip():
            pass
        self._is_chunked = version == "1.1"
        self._text = b""
        self.frames = []

    def read(self, count):
        """Read on until `count` frames have come, keep-alives left out; return them all."""
        while len(self.frames) < count:
            self._text += self._next()
            *blocks, self._text = self._text.split(b"\n\n")
            fields = [parse_block(block) for block in blocks]
            self.frames += [f for f in fields if f.get("event", "offset") != "offset"]
        return self.frames

    def read_text(self, wanted):
        """Read on until `wanted` has come."""
        while wanted not in self._text:
            self._text += self._next()

    def _next(self):
        if not self._is_chunked:
            return self._file.read1(1 << 14)
        chunk = self._file.read(int(self._file.readline(), 16))
        self._file.readline()
        return chunk

    def close(self):
        self._file.close()
        self._sock.close()


def wait_for(condition):
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.fixture
def slow(server):
    """A function that opens slow streams and returns them once they reached the head."""
    with contextlib.ExitStack() as stack:

        def open_slow(query):
            live = len(server.service.fanout)
            stream = Slow(server, query)
            stack.callback(stream.close)
            wait_for(lambda: len(server.service.fanout) == live + 1)
            return stream

        yield open_slow


def stall(server):
    """Give every stream more than its socket takes; return the offset of it."""
    offset = server.lab.events.publish("big", "x" * 3_000_000, key="a").offset
    wait_for(lambda: len(server.service.fanout) == 0)
    return offset


def burst(server, count=BURST):
    """Publish many events at once, types a b c a ..., keys a0 b1 a2 ..."""
    with server.lab.transaction() as tx:
        for n in range(count):
            tx.events.publish("abc"[n % 3], n, key=f"{'ab'[n % 2]}{n}")


def cut(server, first_offset):
    """Do what retention does."""

    def operation(unit):
        event_log.truncate(unit.connection, unit.head, first_offset)

    server.lab._parts.writer.run(operation)


def matching(server, since, **parts):
    return [event.offset for event in server.lab.events.read(since, limit=10**6, **parts)]


def ids(frames):
    return [frame["id"] for frame in frames]


def lagged(first, last, dropped):
    return {
        "from_offset": first,
        "to_offset": last,
        "dropped": dropped,
        "exact": True,
        "reason": "lagged",
    }


@pytest.mark.parametrize(
    ("query", "parts"),
    [
        ("", {}),
        ("&types=big,c,end", {"types": ["big", "c", "end"]}),
        ("&key_prefix=a", {"key_prefix": "a"}),
    ],
)
def test_a_slow_reader_that_asked_for_it_gets_one_gap_others_get_everything(
    server, slow, query, parts
):
    skipping, replayed = slow("on_lag=skip" + query), slow("on_lag=replay" + query)
    big = stall(server)
    burst(server)
    left_out, head = matching(server, big, **parts), server.lab.head
    frames = skipping.read(2)
    assert [frame["event"] for frame in frames] == ["big", "gap"]
    assert frames[1]["data"] == lagged(big + 1, head, len(left_out))
    assert frames[1]["id"] == head
    wait_for(lambda: len(server.service.fanout) == 1)
    end = server.lab.events.publish("end", key="a").offset
    assert ids(skipping.read(3)) == [big, head, end]
    wanted = matching(server, 0, **parts)
    assert len(wanted) == len(left_out) + 2 and ids(replayed.read(len(wanted))) == wanted


def test_nothing_is_said_of_what_the_filter_would_not_have_shown(server, slow):
    skipping = slow("on_lag=skip&types=big,end")
    big = stall(server)
    burst(server)
    skipping.read(1)
    wait_for(lambda: len(server.service.fanout) == 1)
    end = server.lab.events.publish("end").offset
    assert ids(skipping.read(2)) == [big, end]


def test_a_reader_that_lags_no_more_than_the_limit_misses_nothing(server, slow):
    skipping = slow("on_lag=skip")
    big = stall(server)
    burst(server, LAG_EVENTS)
    assert ids(skipping.read(LAG_EVENTS + 1)) == list(range(big, big + LAG_EVENTS + 1))


def test_a_replay_from_the_past_is_no_lag(server):
    burst(server)
    with server.stream("/v1/stream?on_lag=skip") as stream:
        assert ids(stream.frames(BURST)) == list(range(1, BURST + 1))


def test_without_chunks_a_slow_reader_can_skip_too(serve):
    server = serve(keepalive_secs=0.05)
    with contextlib.closing(Slow(server, "on_lag=skip", "1.0")) as skipping:
        skipping.read_text(b": keepalive")  # sent at the head
        big = server.lab.events.publish("big", "x" * 500_000).offset
        skipping.read_text(b"event: big")  # and there it waits for its reader
        burst(server)
        frames = skipping.read(2)
    assert ids(frames) == [big, server.lab.head]
    assert frames[1]["data"] == lagged(big + 1, server.lab.head, BURST)


@pytest.mark.parametrize(("query", "exact"), [("", True), ("&types=big,c", False)])
def test_what_retention_took_of_the_left_out_is_declared_as_truncated(server, slow, query, exact):
    skipping = slow("on_lag=skip" + query)
    big = stall(server)
    burst(server)
    cut(server, 1001)
    types = ["c"] if query else None
    kept, head = matching(server, 1000, types=types), server.lab.head
    frames = skipping.read(3)
    assert ids(frames) == [big, 1000, head]
    assert frames[1]["data"] == {
        "from_offset": big + 1,
        "to_offset": 1000,
        "dropped": 1000 - big,
        "exact": exact,
        "reason": "truncated",
    }
    assert frames[2]["data"] == lagged(1001, head, len(kept))


def test_retention_that_overtakes_a_slow_reader_is_declared_then_the_rest_follows(server, slow):
    replayed = slow("")
    big = stall(server)
    burst(server, 500)
    cut(server, 400)
    frames = replayed.read(2 + 501 - 399)
    assert ids(frames) == [big, *range(399, 502)]
    assert (frames[1]["event"], frames[1]["data"]["dropped"]) == ("gap", 399 - big)


def test_the_metrics_tell_how_far_the_slowest_stream_is_behind(server):
    def lag():
        with server.client() as client:
            text = client.get("/v1/metrics").text
        return float(re.search(r"^luma_sse_lag_events (\S+)$", text, re.M)[1])

    assert lag() == 0
    slow = Slow(server, "since=0")
    for i in range(400):
        server.lab.events.publish("tick", {"i": i, "text": "x" * 4000})
    wait_for(lambda: lag() > 0)
    assert len(slow.read(400)) == 400
    wait_for(lambda: lag() == 0)
    slow.close()
    wait_for(lambda: server.lab.head == 400 and lag() == 0)
