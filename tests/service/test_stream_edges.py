"""How a stream begins and ends: odd offsets, clients that left early, a restore, a stop."""

import socket
import threading
import time

import pytest
from service_running import KEY

from luma_lab.store import log as event_log


def write(server, count):
    for i in range(count):
        server.lab.state.put(f"k{i}", i)


def wait_for(condition):
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.parametrize("since", ["9" * 19, "9" * 5000, "-1", "", "1.0", "²", "x" * 5000])
def test_a_since_that_is_no_offset_is_refused(client, since):
    answer = client.get("/v1/stream", params={"since": since})
    assert (answer.status_code, answer.json()["error"]) == (400, "invalid_argument")
    assert "expected an offset" in answer.json()["message"] and len(answer.text) < 300


@pytest.mark.parametrize("last", ["9" * 19, "9" * 5000, "-1", "1.0"])
def test_a_last_event_id_that_is_no_offset_is_passed_over(server, last):
    write(server, 3)
    with server.stream("/v1/stream?since=1", {"Last-Event-ID": last}) as stream:
        assert stream.frame()["id"] == 2


def test_zeros_in_front_of_an_offset_are_no_harm(server):
    write(server, 3)
    with server.stream("/v1/stream?since=" + "0" * 30 + "2") as stream:
        assert stream.frame()["id"] == 3


def test_an_event_does_not_wait_until_the_one_before_was_acknowledged(server):
    with server.stream():
        wait_for(lambda: len(server.service.fanout) == 1)
        (subscriber,) = server.service.fanout._live
        assert subscriber.stream.socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


def test_a_client_that_left_before_its_stream_began_is_no_fault(server, monkeypatch, caplog):
    consumers, begun, go_on = server.lab.consumers, threading.Event(), threading.Event()
    original = consumers.offset

    def held(name):
        begun.set()
        assert go_on.wait(20)
        return original(name)

    monkeypatch.setattr(consumers, "offset", held)
    with socket.create_connection(("127.0.0.1", server.port), timeout=20) as sock:
        request = f"GET /v1/stream?consumer=c HTTP/1.1\r\nHost: {server.host}\r\n"
        sock.sendall(f"{request}X-API-Key: {KEY}\r\n\r\n".encode())
        assert begun.wait(20)
        assert len(server.service.active) == 1
    wait_for(lambda: not server.service.active)  # it was noticed
    go_on.set()
    time.sleep(0.2)
    with server.client() as client:
        assert client.get("/v1/health").status_code == 200
    assert [record.getMessage() for record in caplog.records if record.levelname == "ERROR"] == []


def test_without_chunks_the_end_of_a_stream_is_the_end_of_its_connection(server):
    id, token = server.service.keys.create("reader", "read")
    write(server, 1)
    headers = "Connection: keep-alive\r\n"
    with socket.create_connection(("127.0.0.1", server.port), timeout=20) as sock:
        request = f"GET /v1/stream HTTP/1.0\r\nHost: {server.host}\r\n{headers}"
        sock.sendall(f"{request}X-API-Key: {token}\r\n\r\n".encode())
        received = b""
        while b"id: 1" not in received:
            received += sock.recv(1 << 16)
        server.service.keys.revoke(id)
        while part := sock.recv(1 << 16):
            received += part
    assert received.endswith(b"\n\n")


def restore_to(server, offset):
    """Do to the log what the restore of a backup does that was made at `offset`."""

    def operation(unit):
        unit.connection.execute("DELETE FROM luma_log WHERE offset > ?", (offset,))
        event_log.start_epoch(unit.head)
        unit.append("restored")

    server.lab._parts.writer.run(operation)


def test_a_restore_is_told_to_who_listens_and_what_it_undid_is_told_no_more(server):
    write(server, 5)
    first = event_log.EPOCH_STEP
    with server.stream() as live, server.stream("/v1/stream?types=restored") as filtered:
        assert [frame["id"] for frame in live.frames(5)] == [1, 2, 3, 4, 5]
        wait_for(lambda: len(server.service.fanout) == 2)
        restore_to(server, 3)
        assert live.frame()["event"] == filtered.frame()["event"] == "restored"
        with server.stream() as late, server.stream(headers={"Last-Event-ID": "4"}) as old:
            assert [frame["id"] for frame in late.frames(4)] == [1, 2, 3, first]
            assert old.frame()["id"] == first
            assert late.raw.startswith(b": epoch 1\n")
        write(server, 1)
        assert live.frame()["id"] == first + 1


def test_a_request_that_waits_for_an_offset_is_told_when_the_server_stops(server):
    server.lab.state.put("a", 1)
    answers = []

    def ask():
        with server.client() as client:
            answers.append(client.get("/v1/state/a?min_offset=100"))

    asking = threading.Thread(target=ask)
    asking.start()
    wait_for(lambda: server.service.active)
    server.stop()
    asking.join(20)
    assert answers[0].status_code == 503
    assert answers[0].json() == {"error": "unavailable", "message": "the server is stopping"}
