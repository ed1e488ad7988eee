import asyncio
import threading

import pytest

from luma_lab.engine.events import Frame
from luma_lab.errors import Unavailable
from luma_lab.service.feed import CACHE_BYTES, READERS, Feed


class HeldLog:
    """A lab whose log is read only when the test lets it; what is read is what was there then."""

    epoch = 0

    def __init__(self, held=True):
        self.events = self
        self.frames = []
        self.reads = []
        self.begun = threading.Semaphore(0)
        self.go_on = threading.Event()
        if not held:
            self.go_on.set()

    @property
    def head(self):
        return len(self.frames)

    def on_commit(self, callback):
        self.tell = callback
        return lambda: None

    def commit(self, data=b"null"):
        self.frames.append(Frame(len(self.frames) + 1, 0, "saved", None, None, data))
        self.tell()

    def read_frames(self, since, limit, max_bytes, *, points=True):
        found = self.frames[since:]
        self.reads.append(since)
        self.begun.release()
        assert self.go_on.wait(20)
        return found[:1], since + min(1, len(found))


def run(scenario, log):
    async def live():
        feed = Feed(log)
        try:
            return await asyncio.wait_for(scenario(feed), 30)
        finally:
            feed.close()

    return asyncio.run(live())


async def begun(log):
    await asyncio.get_running_loop().run_in_executor(None, log.begun.acquire)


def test_a_commit_while_a_page_is_read_is_not_missed_by_who_asks_after_it():
    log = HeldLog()

    async def scenario(feed):
        news = feed.news()
        early = asyncio.ensure_future(feed.page(0))
        await begun(log)
        log.commit()
        await news.wait()
        later_news = feed.news()
        late = asyncio.ensure_future(feed.page(0))
        await begun(log)
        log.go_on.set()
        assert not (await early).frames
        assert [frame.offset for frame in (await late).frames] == [1]
        assert not later_news.is_set()

    run(scenario, log)


def test_streams_at_the_same_place_share_one_read():
    log = HeldLog()

    async def scenario(feed):
        feed.news()
        log.commit()
        await asyncio.sleep(0)
        asked = [asyncio.ensure_future(feed.page(0)) for _ in range(50)]
        await begun(log)
        log.go_on.set()
        pages = await asyncio.gather(*asked)
        assert all(page is pages[0] for page in pages)
        assert (await feed.page(0)).frames[0] is pages[0].frames[0]
        assert log.reads == [0]

    run(scenario, log)


def test_a_stream_that_ends_does_not_take_the_page_of_the_others_with_it():
    log = HeldLog()

    async def scenario(feed):
        feed.news()
        log.commit()
        ending, staying = (asyncio.ensure_future(feed.page(0)) for _ in range(2))
        await begun(log)
        ending.cancel()
        await asyncio.sleep(0)
        log.go_on.set()
        assert len((await staying).frames) == 1

    run(scenario, log)


def test_the_pages_kept_are_bounded_and_the_oldest_go_first():
    log = HeldLog(held=False)
    size = CACHE_BYTES // 4

    async def scenario(feed):
        feed.news()
        for _ in range(8):
            log.commit(b'"' + b"x" * size + b'"')
        for since in range(8):
            await feed.page(since)
        assert feed._cached_bytes <= CACHE_BYTES
        assert [since for since, _ in feed._pages] == [5, 6, 7]
        await feed.page(7)
        await feed.page(0)
        assert log.reads == [*range(8), 0]

    run(scenario, log)


def test_waiting_for_an_offset_ends_with_the_commit_or_with_the_time():
    log = HeldLog(held=False)

    async def scenario(feed):
        waiting = asyncio.ensure_future(feed.reaches(2, 20))
        await asyncio.sleep(0.01)
        log.commit()
        await asyncio.sleep(0.01)
        assert not waiting.done()
        log.commit()
        assert await waiting is True
        assert await feed.reaches(3, 0.01) is False
        assert await feed.reaches(2, 0) is True

    run(scenario, log)


def test_pages_of_before_a_restore_are_forgotten():
    log = HeldLog(held=False)

    async def scenario(feed):
        feed.news()
        log.commit(b"1")
        log.commit(b"2")
        assert [(await feed.page(since)).next for since in (0, 1)] == [1, 2]
        log.frames, log.epoch = [Frame(1, 0, "saved", None, None, b"3")], 1
        log.tell()
        await asyncio.sleep(0)
        assert b'"data":3' in (await feed.page(0)).frames[0].wire
        assert [since for since, _ in feed._pages] == [0]
        assert feed._cached_bytes == (await feed.page(0)).size

    run(scenario, log)


def test_a_page_read_before_a_restore_is_not_kept():
    log = HeldLog()

    async def scenario(feed):
        feed.news()
        log.commit(b"1")
        early = asyncio.ensure_future(feed.page(0))
        await begun(log)
        log.frames, log.epoch = [Frame(1, 0, "saved", None, None, b"2")], 1
        log.tell()
        await asyncio.sleep(0)
        log.go_on.set()
        assert b'"data":1' in (await early).frames[0].wire
        assert b'"data":2' in (await feed.page(0)).frames[0].wire

    run(scenario, log)


def test_a_fault_that_nobody_waited_for_any_more_is_not_told_to_the_next():
    log = HeldLog()
    sound = log.read_frames

    def faulty(*place, **options):
        sound(*place, **options)
        raise OSError("the disk hiccups")

    async def scenario(feed):
        log.read_frames = faulty
        leaving = asyncio.ensure_future(feed.page(0))
        await begun(log)
        leaving.cancel()
        await asyncio.sleep(0)
        log.read_frames = sound
        log.go_on.set()
        while feed._reading:
            await asyncio.sleep(0.001)
        assert not (await feed.page(0)).frames

    run(scenario, log)


def test_who_waits_for_a_turn_to_look_is_told_of_the_close():
    log = HeldLog()

    async def scenario(feed):
        reading = [asyncio.ensure_future(feed.page(since)) for since in range(READERS)]
        for _ in reading:
            await begun(log)
        waiting = asyncio.ensure_future(feed.reaches(0, 20))
        await asyncio.sleep(0)
        feed.close()
        with pytest.raises(Unavailable, match="stopping"):
            await waiting
        log.go_on.set()
        await asyncio.gather(*reading)

    run(scenario, log)


def test_news_come_also_while_the_epoch_can_not_be_read():
    class Faulty(HeldLog):
        @property
        def epoch(self):
            raise Unavailable("not now")

    log = Faulty(held=False)

    async def scenario(feed):
        news = feed.news()
        log.commit()
        await asyncio.wait_for(news.wait(), 20)

    run(scenario, log)


def test_a_closed_feed_says_so():
    log = HeldLog(held=False)

    async def scenario(feed):
        waiting = asyncio.ensure_future(feed.reaches(2, 20))
        await asyncio.sleep(0.01)
        feed.close()
        for asked in (waiting, feed.reaches(0, 20), feed.page(0)):
            with pytest.raises(Unavailable, match="stopping"):
                await asked

    run(scenario, log)
