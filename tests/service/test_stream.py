import contextlib
import json
import socket
import threading
import time

import httpx
import pytest
from service_running import KEY, parse_block

SLOW_VALUE = "x" * 50_000


def write(server, count, start=0):
    for i in range(start, start + count):
        server.lab.state.put(f"k{i}", i)


def point(vector, meta):
    return {"collection": "docs", "id": "p", "vector": vector, "meta": meta}


def test_a_stream_opens_with_epoch_retry_and_headers(server):
    with server.stream() as stream:
        assert stream.block() == b": epoch 0\nretry: 2000"
        headers = stream.response.headers
        assert stream.response.status_code == 200
        assert headers["content-type"] == "text/event-stream"
        assert headers["cache-control"] == "no-cache" and headers["x-accel-buffering"] == "no"


def test_a_frame_has_its_fields_in_order_and_compact_json(server):
    server.lab.state.put("a", {"b": 1})
    with server.stream() as stream:
        stream.block()
        lines = stream.block().decode().split("\n")
    ts_ms = json.loads(lines[2].removeprefix("data: "))["ts_ms"]
    assert lines == [
        "event: state_updated",
        "id: 1",
        f'data: {{"offset":1,"ts_ms":{ts_ms},"type":"state_updated",'
        '"data":{"key":"a","revision":1,"value":{"b":1},"expires_at_ms":null}}',
    ]


def test_every_kind_of_event_has_the_data_of_the_contract(server):
    lab = server.lab
    lab.state.put("a", 1)
    lab.state.delete("a")
    docs = lab.create_collection("docs", 2, "l2")
    docs.add("p", [0.1, 2], {"m": 1})
    docs.upsert("p", [1, 2])
    docs.update("p", [3, 4])
    docs.delete("p")
    with server.stream() as stream:
        frames = stream.frames(7)
        lab.drop_collection("docs")
        frames.append(stream.frame())
    assert [(frame["event"], frame["data"]["data"]) for frame in frames] == [
        ("state_updated", {"key": "a", "revision": 1, "value": 1, "expires_at_ms": None}),
        ("state_deleted", {"key": "a", "reason": "explicit"}),
        ("vector_collection_created", {"collection": "docs", "dim": 2, "metric": "l2"}),
        ("vector_added", point([0.1, 2], {"m": 1})),
        ("vector_upserted", point([1, 2], None)),
        ("vector_updated", point([3, 4], None)),
        ("vector_deleted", {"collection": "docs", "id": "p"}),
        ("vector_collection_dropped", {"collection": "docs"}),
    ]


def test_a_vector_that_is_no_more_is_null_and_says_so(server):
    server.lab.create_collection("docs", 2, "l2").add("p", [1, 2])
    server.lab.drop_collection("docs")
    with server.stream("/v1/stream?types=vector_added") as stream:
        gone = stream.frame()["data"]["data"]
    assert gone == {**point(None, None), "superseded": True}


def test_vectors_are_sent_as_they_came(server):
    docs = server.lab.create_collection("docs", 2, "cosine")
    docs.add("p", [0.1, 20], {"m": 1})
    with server.stream() as stream:
        frame = stream.frames(2)[1]
    assert frame["data"]["data"] == {
        "collection": "docs",
        "id": "p",
        "vector": [0.1, 20],
        "meta": {"m": 1},
    }
    assert b'"vector":[0.1,20.0]' in stream.raw


def test_an_expiry_says_why(server):
    server.lab.state.put("t", 1, ttl_ms=1)
    with server.stream("/v1/stream?types=state_deleted") as stream:
        frame = stream.frame()
    assert frame["data"]["data"] == {"key": "t", "reason": "ttl"}
    assert b'"reason":"ttl"' in stream.raw


def test_a_published_event_carries_its_key_beside_its_data(server):
    server.lab.events.publish("saved", {"id": 1}, key="order:1")
    server.lab.events.publish("saved", {"id": 2})
    with server.stream() as stream:
        with_key, without = stream.frames(2)
    assert with_key["data"]["key"] == "order:1" and with_key["data"]["data"] == {"id": 1}
    assert "key" not in without["data"]


@pytest.mark.parametrize(
    ("query", "headers", "first"),
    [
        ("", {}, 1),
        ("?since=0", {}, 1),
        ("?since=3", {}, 4),
        ("?since=earliest", {}, 1),
        ("?since=1", {"Last-Event-ID": "3"}, 4),
        ("?since=1", {"Last-Event-ID": "abc"}, 2),
        ("?since=1", {"Last-Event-ID": ""}, 2),
        ("?since=latest", {"Last-Event-ID": "2"}, 3),
        ("?since=latest", {}, 6),
    ],
)
def test_a_stream_starts_after_the_header_else_since_else_zero(server, query, headers, first):
    write(server, 5)
    with server.stream(f"/v1/stream{query}", headers) as stream:
        stream.block()
        write(server, 1, start=5)
        ids = [frame["id"] for frame in stream.frames(7 - first)]
    assert ids == list(range(first, 7))


def test_replay_and_live_meet_without_loss_or_repetition(server):
    total, seen, threads = 600, {}, []

    def follow(number):
        with server.stream() as stream:
            seen[number] = [frame["id"] for frame in stream.frames(total)]

    writers = [threading.Thread(target=write, args=(server, total // 3, n)) for n in (0, 200, 400)]
    for number, writer in enumerate(writers):
        writer.start()
        threads += [threading.Thread(target=follow, args=(2 * number + i,)) for i in (0, 1)]
        for thread in threads[-2:]:
            thread.start()
        time.sleep(0.03)
    for thread in [*writers, *threads]:
        thread.join(60)
    assert seen == {number: list(range(1, total + 1)) for number in range(6)}


def test_events_of_another_lab_on_the_same_directory_arrive_too(serve, tmp_path):
    import luma_lab as luma

    with luma.open(tmp_path / "lab") as lab, luma.open(tmp_path / "lab") as other:
        server = serve(lab=lab)
        with server.stream("/v1/stream?since=latest") as stream:
            stream.block()
            other.state.put("from", "elsewhere")
            assert stream.frame()["data"]["data"]["value"] == "elsewhere"
        server.stop()


@pytest.mark.parametrize(
    ("query", "keys"),
    [
        ("types=state_updated", ["user:1", "other", "user:2"]),
        ("types=state_deleted, saved", ["user:1", "order"]),
        ("key_prefix=user:", ["user:1", "user:1", "user:2"]),
        ("key_prefix=user:&types=state_updated", ["user:1", "user:2"]),
        ("collection=docs", ["docs", "docs"]),
        ("key_prefix=&types=&collection=", ["user:1", "other", "user:1", "docs", "docs"]),
    ],
)
def test_filters_let_through_what_matches_and_nothing_else(server, query, keys):
    lab = server.lab
    lab.state.put("user:1", 1)
    lab.state.put("other", 1)
    lab.state.delete("user:1")
    lab.create_collection("docs", 1, "l2").add("p", [1])
    lab.create_collection("more", 1, "l2").add("p", [1])
    lab.events.publish("saved", {"key": "order"}, key="order")
    lab.state.put("user:2", 1)
    with server.stream(f"/v1/stream?{query}") as stream:
        frames = stream.frames(len(keys))
    assert [
        frame["data"]["data"].get("key") or frame["data"]["data"]["collection"] for frame in frames
    ] == keys


def test_the_older_route_takes_prefix_and_ignores_collection(server):
    server.lab.state.put("a1", 1)
    server.lab.state.put("b1", 1)
    with server.stream("/v1/events?prefix=b&collection=docs") as stream:
        assert stream.frame()["data"]["data"]["key"] == "b1"


def test_silence_is_broken_by_comments(serve):
    server = serve(keepalive_secs=0.05)
    with server.stream("/v1/stream?since=latest") as stream:
        stream.block()
        assert [stream.block() for _ in range(3)] == [b": keepalive"] * 3


def test_a_filtered_stream_tells_where_it_is_with_each_comment(serve):
    server = serve(keepalive_secs=0.05)
    write(server, 4)
    with server.stream("/v1/stream?types=saved") as stream:
        stream.block()
        assert (stream.block(), stream.block()) == (b": keepalive", b"event: offset\nid: 4")
        write(server, 1, start=4)
        blocks = [stream.block() for _ in range(4)]
    assert b"event: offset\nid: 5" in blocks


def test_busy_traffic_that_does_not_match_does_not_hold_the_comments_back(serve):
    server = serve(keepalive_secs=0.1)
    done = threading.Event()

    def traffic():
        while not done.is_set():
            server.lab.state.put("noise", 1)
            time.sleep(0.005)

    thread = threading.Thread(target=traffic)
    thread.start()
    try:
        with server.stream("/v1/stream?types=saved&since=latest") as stream:
            stream.block()
            first, second = (parse_block(stream.block()) for _ in range(2))
            third, fourth = (parse_block(stream.block()) for _ in range(2))
    finally:
        done.set()
        thread.join()
    assert "event" not in first and "event" not in third
    assert fourth["id"] > second["id"] > 0


def open_stalled(server):
    """Return a socket that asked for everything and reads nothing."""
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
    sock.settimeout(30)
    sock.connect(("127.0.0.1", server.port))
    request = f"GET /v1/stream HTTP/1.0\r\nHost: {server.host}\r\nX-API-Key: {KEY}\r\n\r\n"
    sock.sendall(request.encode())
    return sock


def test_a_slow_client_holds_nobody_up_and_still_gets_everything(server):
    count = 80
    stalled = open_stalled(server)
    with stalled, server.client() as client:
        with server.stream() as stream:
            for i in range(count):
                assert client.put(f"/v1/state/k{i}", json={"value": SLOW_VALUE}).status_code == 200
            assert [frame["id"] for frame in stream.frames(count)] == list(range(1, count + 1))
        assert client.get("/v1/health").json()["offset"] == count
        received = b""
        while received.count(b"\n\n") < count + 1:
            received += stalled.recv(1 << 20)
    body = received.partition(b"\r\n\r\n")[2]
    ids = [parse_block(block)["id"] for block in body.split(b"\n\n") if b"id: " in block]
    assert ids == list(range(1, count + 1))


def test_what_waits_for_a_slow_client_is_bounded(server):
    with contextlib.ExitStack() as stack:
        for _ in range(3):
            stack.enter_context(open_stalled(server))
        for i in range(350):
            server.lab.state.put(f"k{i}", SLOW_VALUE)
        with server.stream() as stream:
            stream.frames(350)
        feed = server.service.feed
        assert feed._cached_bytes <= 16 << 20
        assert sum(page.size for page in feed._pages.values()) == feed._cached_bytes


def test_short_pages_of_live_traffic_are_replayed_together(server):
    with server.stream() as stream:
        stream.block()
        for i in range(50):
            write(server, 1, start=i)
            assert stream.frame()["id"] == i + 1
    with server.stream() as stream:
        assert [frame["id"] for frame in stream.frames(50)] == list(range(1, 51))
        write(server, 1, start=50)
        assert stream.frame()["id"] == 51


def test_a_client_that_leaves_is_forgotten(server):
    with server.stream() as stream:
        stream.block()
        assert len(server.service.streams) == 1
    deadline = time.monotonic() + 20
    while server.service.streams and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not server.service.streams


def test_stopping_ends_the_streams(server):
    with server.stream() as stream:
        stream.block()
        server.stop()
        with pytest.raises((StopIteration, httpx.RemoteProtocolError)):
            while True:
                stream.block()
    assert not server.service.streams and not server.service.active
