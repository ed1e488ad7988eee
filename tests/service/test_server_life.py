import asyncio
import threading
import time

import httpx
import pytest
from service_running import KEY

from luma_lab.config import Settings
from luma_lab.errors import Unavailable
from luma_lab.service.app import Server


def test_a_taken_port_is_named(server):
    async def start():
        await Server(server.lab, Settings(port=server.port, api_key=KEY)).start()

    with pytest.raises(Unavailable, match=f"port {server.port}"):
        asyncio.run(start())


def test_a_request_under_way_is_finished_before_the_server_stops(serve, monkeypatch):
    server = serve()
    begun = threading.Event()
    original = server.lab.state.scan

    def slow(*arguments, **options):
        begun.set()
        time.sleep(0.5)
        return original(*arguments, **options)

    server.lab.state.put("a", 1)
    monkeypatch.setattr(server.lab.state, "scan", slow)
    answers = []

    def ask():
        with server.client() as client:
            answers.append(client.get("/v1/state"))

    asker = threading.Thread(target=ask)
    asker.start()
    assert begun.wait(10)
    server.stop()
    asker.join(10)
    assert answers[0].json()[0]["value"] == 1
    with pytest.raises(httpx.ConnectError):
        httpx.get(server.url + "/v1/health")


def test_the_lab_stays_open_when_a_server_stops(server):
    server.stop()
    assert server.lab.state.put("a", 1).count == 1


def test_two_servers_serve_one_lab(serve, server):
    other = serve(lab=server.lab)
    with server.client() as one, other.client() as two:
        offset = one.put("/v1/state/a", json={"value": 1}).json()["offset"]
        assert two.get(f"/v1/state/a?min_offset={offset}").json()["value"] == 1


def test_many_clients_at_once_get_their_own_answers(server):
    results = {}

    def work(number):
        with server.client() as client:
            for i in range(20):
                client.put(f"/v1/state/{number}-{i}", json={"value": [number, i]})
            results[number] = [
                client.get(f"/v1/state/{number}-{i}").json()["value"] for i in range(20)
            ]

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert results == {n: [[n, i] for i in range(20)] for n in range(8)}
    assert server.lab.head == 160


def test_answers_come_in_order_on_a_connection_that_sends_ahead(server):
    one = f"GET /v1/health HTTP/1.1\r\nHost: {server.host}\r\n\r\n"
    two = (
        f"GET /v1/state?api_key={KEY} HTTP/1.1\r\nHost: {server.host}\r\nConnection: close\r\n\r\n"
    )
    raw = server.raw((one + two).encode())
    assert raw.count(b"HTTP/1.1 200 OK") == 2 and raw.endswith(b"[]")
