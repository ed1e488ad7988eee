"""Streams over the end of their server: nothing is missed, nothing is told twice."""

import asyncio
import itertools

import httpx
import pytest
from followers import Follower, until
from serving import Serving

import luma_lab as luma

pytestmark = pytest.mark.crash
QUERIES = {
    "": {},
    "types=odd,end": {"types": ["odd", "end"]},
    "key_prefix=a": {"key_prefix": "a"},
}
EVENTS = 300
KILLED_AFTER = (80, 200)
KINDS = ("even", "odd")


class Writer:
    """Publishes numbered events, each until it is acknowledged."""

    def __init__(self, url):
        self._url = url
        self.acknowledged = {}

    def run(self, numbers):
        with httpx.Client(base_url=self._url, timeout=30, verify=False) as client:
            for n in numbers:
                event = {"type": KINDS[n % 2], "key": f"{'abc'[n % 3]}{n}", "data": n}
                self.acknowledged[self._publish(client, event)] = n

    def _publish(self, client, event):
        while True:
            try:
                answer = client.post("/v1/events", json=event)
            except httpx.TransportError:
                continue
            assert answer.status_code == 200
            return answer.json()["offset"]


@pytest.mark.timeout(180)
def test_subscribers_of_a_server_killed_again_and_again_miss_and_repeat_nothing(tmp_path):
    directory = tmp_path / "lab"
    server = Serving(directory)

    async def scenario():
        nonlocal server
        queries = list(itertools.islice(itertools.cycle(QUERIES), 20))
        followers = [Follower(server.port, query) for query in queries]
        tasks = [asyncio.ensure_future(follower.follow()) for follower in followers]
        writer = Writer(server.url)
        writing = asyncio.ensure_future(asyncio.to_thread(writer.run, range(EVENTS)))
        for count in KILLED_AFTER:
            await until(lambda count=count: len(writer.acknowledged) >= count)
            server.kill()
            server = await asyncio.to_thread(Serving, directory, port=server.port)
        await writing
        with luma.open(directory) as lab:
            end = lab.events.publish("end", key="a").offset
            log = lab.events.read(limit=10**6)
            wanted = {
                query: [
                    (event.type, event.offset) for event in lab.events.read(limit=10**6, **parts)
                ]
                for query, parts in QUERIES.items()
            }
        await until(lambda: all(follower.last >= end for follower in followers))
        for task in tasks:
            task.cancel()
        assert {event.offset: event.data for event in log}.items() >= writer.acknowledged.items()
        assert list(writer.acknowledged.values()) == list(range(EVENTS))
        for query, follower in zip(queries, followers, strict=True):
            assert follower.heard == wanted[query]
            assert follower.connections > len(KILLED_AFTER)

    try:
        asyncio.run(scenario())
    finally:
        server.kill()
