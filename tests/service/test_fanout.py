"""The fan-out by itself: who joins and leaves while a page is read, sockets that take little."""

import asyncio

import pytest
from tornado.iostream import StreamClosedError

from luma_lab.service.access import ANYONE
from luma_lab.service.events import Filter
from luma_lab.service.fanout import KEEPALIVE, Fanout, Subscriber, frame
from luma_lab.service.feed import Page, WireFrame


class Events:
    """A feed whose log is a list of event types and which reads only when the test lets it."""

    def __init__(self, types):
        self.types = list(types)
        self.asked = asyncio.Queue()
        self.may_read = asyncio.Semaphore(0)
        self.fault = None
        self.reading = 0
        self._changed = asyncio.Event()

    def news(self):
        return self._changed

    def commit(self, *types):
        self.types += types
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    async def page(self, since, points=True):
        self.asked.put_nowait((since, points))
        self.reading += 1
        await self.may_read.acquire()
        self.reading -= 1
        if self.fault is not None:
            raise self.fault
        frames = tuple(
            WireFrame(offset, kind, None, None, wire(offset))
            for offset, kind in enumerate(self.types, 1)
            if offset > since and (points or not kind.startswith("vector_"))
        )
        return Page(frames, len(self.types), 0)


class Wire:
    """A stream and its socket that takes `room` bytes at once, the rest when it is drained."""

    def __init__(self, room=10**9):
        self.room = room
        self.got = b""
        self.socket = self
        self._waiting = b""
        self._written = None
        self._closed = False

    def send(self, data):
        assert not self._waiting, "sent past what waits"
        if not self.room:
            raise BlockingIOError
        taken = data[: self.room]
        self.room -= len(taken)
        self.got += taken
        return len(taken)

    def write(self, data):
        if self._closed:
            raise StreamClosedError
        self._waiting += data
        self._written = asyncio.get_running_loop().create_future()
        return self._written

    def drain(self):
        self.room = 10**9
        self.got, self._waiting = self.got + self._waiting, b""
        if not self._written.done():
            self._written.set_result(None)

    def writing(self):
        return bool(self._waiting)

    def closed(self):
        return self._closed

    def close(self):
        self._closed = True


def wire(offset):
    return b"<%d>" % offset


def wires(*offsets):
    """What arrives of events handed on together."""
    return frame(b"".join(map(wire, offsets)))


def subscriber(cursor, types=None, stream=None):
    return Subscriber(stream or Wire(), Filter(types, None, None, ANYONE), cursor)


async def until(condition):
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.001)


async def idle(feed):
    """Return once nobody waits for a page any more."""
    await until(lambda: feed.may_read.locked() and not feed.reading)
    await asyncio.sleep(0)


def run(scenario, types=(), keepalive_secs=1000.0):
    async def live():
        feed = Events(types)
        fanout = Fanout(feed, keepalive_secs)
        try:
            await asyncio.wait_for(scenario(feed, fanout), 30)
        finally:
            fanout.close()

    asyncio.run(live())


def test_who_wants_points_does_not_get_a_page_read_without_them():
    async def scenario(feed, fanout):
        blind, seeing = subscriber(0, "saved"), subscriber(0)
        assert fanout.join(blind) is not None
        assert await feed.asked.get() == (0, False)
        assert fanout.join(seeing) is None
        feed.may_read.release()
        assert await feed.asked.get() == (2, False)
        assert blind.stream.got == wires(2)
        feed.may_read.release()
        await idle(feed)
        seeing.cursor = 2  # it has read on alone
        assert fanout.join(seeing) is not None
        feed.commit("vector_added", "saved")
        assert await feed.asked.get() == (2, True)
        feed.may_read.release()
        await until(lambda: seeing.stream.got)
        assert blind.stream.got == wires(2) + wires(4)
        assert seeing.stream.got == wires(3, 4)

    run(scenario, ["vector_added", "saved"])


def test_who_wants_points_does_not_join_a_blind_reading_that_everyone_left():
    async def scenario(feed, fanout):
        blind = subscriber(0, "saved")
        fanout.join(blind)
        await feed.asked.get()
        fanout.leave(blind)
        assert fanout.join(subscriber(0)) is None

    run(scenario, ["vector_added"])


def test_a_page_that_everyone_left_is_not_given_to_who_stands_further_on():
    async def scenario(feed, fanout):
        gone, new = subscriber(0), subscriber(1)
        fanout.join(gone)
        assert await feed.asked.get() == (0, True)
        fanout.leave(gone)
        assert fanout.join(new) is not None
        feed.may_read.release()
        assert await feed.asked.get() == (1, True)
        feed.may_read.release()
        await until(lambda: new.stream.got)
        assert (new.stream.got, new.cursor, gone.stream.got) == (wires(2), 2, b"")

    run(scenario, ["saved", "saved"])


def test_who_joins_while_the_page_is_read_gets_it_once():
    async def scenario(feed, fanout):
        first, second, elsewhere = subscriber(0), subscriber(0), subscriber(1)
        fanout.join(first)
        await feed.asked.get()
        assert fanout.join(second) is not None
        assert fanout.join(elsewhere) is None
        feed.may_read.release()
        await until(lambda: second.stream.got)
        assert first.stream.got == second.stream.got == wires(1, 2)

    run(scenario, ["saved", "saved"])


def test_what_a_socket_did_not_take_follows_even_when_its_stream_is_cancelled():
    async def scenario(feed, fanout):
        slow, quick = subscriber(0, stream=Wire(room=4)), subscriber(0)
        lagging = fanout.join(slow)
        fanout.join(quick)
        feed.may_read.release()
        pending = await lagging
        assert len(fanout) == 1 and not pending.done()
        fanout.leave(slow)
        slow.stream.drain()
        assert slow.stream.got == quick.stream.got == wires(1)
        await pending

    run(scenario, ["saved"])


def test_a_socket_that_takes_nothing_gets_all_of_it_later():
    async def scenario(feed, fanout):
        slow = subscriber(0, stream=Wire(room=0))
        lagging = fanout.join(slow)
        feed.may_read.release()
        await lagging
        slow.stream.drain()
        assert slow.stream.got == wires(1)

    run(scenario, ["saved"])


def test_no_comment_is_sent_into_an_unfinished_frame():
    async def scenario(feed, fanout):
        slow, quick = subscriber(0, stream=Wire(room=3)), subscriber(0)
        lagging = fanout.join(slow)
        fanout.join(quick)
        for _ in range(1000):
            feed.may_read.release()
        await lagging
        slow.push(frame(KEEPALIVE))
        await until(lambda: frame(KEEPALIVE) in quick.stream.got)
        slow.stream.drain()
        assert slow.stream.got == wires(1) + frame(KEEPALIVE)

    run(scenario, ["saved"], keepalive_secs=0.02)


def test_a_client_that_is_gone_leaves_and_the_others_go_on():
    async def scenario(feed, fanout):
        gone, there = subscriber(0), subscriber(0)
        lagging = fanout.join(gone)
        fanout.join(there)
        gone.stream.close()
        feed.may_read.release()
        assert await lagging is None
        assert len(fanout) == 1 and there.stream.got == wires(1)

    run(scenario, ["saved"])


@pytest.mark.parametrize("fault", [OSError("the disk is gone"), StreamClosedError()])
def test_when_the_log_can_not_be_read_everyone_goes_on_alone_from_where_it_stands(fault):
    async def scenario(feed, fanout):
        streams = [subscriber(0) for _ in range(3)]
        lagging = [fanout.join(stream) for stream in streams]
        feed.fault = fault
        feed.may_read.release()
        assert await asyncio.gather(*lagging) == [None] * 3
        assert len(fanout) == 0 and {stream.cursor for stream in streams} == {0}
        feed.fault = None
        assert fanout.join(streams[0]) is not None
        feed.may_read.release()
        await until(lambda: streams[0].stream.got)

    run(scenario, ["saved"])


def test_a_fault_with_one_stream_loses_no_event_of_the_others():
    class Broken(Filter):
        def select(self, frames):
            raise ValueError("a filter that fails")

    async def scenario(feed, fanout):
        before, after = subscriber(0), subscriber(0)
        broken = Subscriber(Wire(), Broken("saved", None, None, ANYONE), 0)
        lagging = [fanout.join(stream) for stream in (before, broken, after)]
        feed.may_read.release()
        assert await asyncio.gather(*lagging) == [None] * 3
        assert (before.cursor, before.stream.got) == (1, wires(1))
        assert (after.cursor, after.stream.got) == (0, b"")
        assert broken.cursor == 0 and len(fanout) == 0

    run(scenario, ["saved"])
