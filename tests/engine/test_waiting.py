"""Time limits that stop work, coroutines that wait for commits, operations without a savepoint."""

import asyncio
import time

import apsw
import pytest
from held_writer import held_writer

from luma_lab.engine import writer as writing
from luma_lab.engine.lab import Lab
from luma_lab.errors import (
    InvalidArgument,
    NotSupported,
    RevisionConflict,
    StoreClosed,
    WaitTimeout,
)
from luma_lab.store import deadline


def test_a_read_beyond_the_thread_s_time_limit_is_stopped(lab):
    connection = lab._parts.database.reader()
    endless = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT max(i) FROM n"
    with deadline.limited(0.05), pytest.raises(apsw.InterruptError):
        connection.execute(endless).fetchall()
    assert lab.state.get("after") is None, "the connection works on"


def test_a_write_that_waits_longer_than_its_limit_is_left_out(lab):
    with (
        held_writer(lab),
        deadline.limited(0.05),
        pytest.raises(WaitTimeout, match="nothing was written"),
    ):
        lab.state.put("late", 1)
    lab.state.put("next", 1)
    assert "late" not in lab.state


def test_an_inner_limit_never_lengthens_an_outer_one():
    with deadline.limited(0.01):
        with deadline.limited(100):
            assert deadline.left() < 1
        time.sleep(0.02)
        assert deadline.passed()
        with pytest.raises(WaitTimeout):
            deadline.check()
    assert deadline.left() is None
    assert not deadline.passed()


def test_coroutines_put_together_and_each_gets_its_own_answer(lab):
    async def everyone():
        puts = [lab.state.put_async(f"k{i}", i) for i in range(300)]
        refused = lab.state.put_async("k0", "again", if_revision=10**6)
        answers = await asyncio.gather(*puts, refused, return_exceptions=True)
        return answers[:-1], answers[-1]

    answers, refused = asyncio.run(everyone())
    assert [a.revision for a in answers] == list(range(1, 301))
    assert isinstance(refused, RevisionConflict)
    assert dict(lab.state) == {f"k{i}": i for i in range(300)}


def test_a_cancelled_coroutine_s_put_is_left_out(lab):
    async def give_up():
        with held_writer(lab):
            put = lab.state.put_async("late", 1)
            put.cancel()
        await lab.state.put_async("next", 1)

    asyncio.run(give_up())
    assert list(lab.state) == ["next"]


def test_put_async_checks_at_once_and_knows_its_place(lab):
    async def wrong():
        with pytest.raises(InvalidArgument):
            lab.state.put_async("", 1)
        with lab.transaction() as tx, pytest.raises(NotSupported):
            tx.state.put_async("k", 1)

    asyncio.run(wrong())
    lab.close()

    async def late():
        with pytest.raises(StoreClosed):
            lab.state.put_async("k", 1)

    asyncio.run(late())


def test_a_loop_that_ended_before_its_answer_harms_nobody(lab):
    async def ask():
        lab.state.put_async("orphan", 1)

    with held_writer(lab):
        loop = asyncio.new_event_loop()
        loop.run_until_complete(ask())
        loop.close()
    lab.state.put("next", 1)
    assert lab.state["orphan"] == 1


def test_half_an_operation_without_a_savepoint_is_never_committed(path):
    """Its neighbours of the same group are run again alone and succeed."""

    @writing.refuses_first()
    def torn(unit, count):
        unit.connection.execute("DELETE FROM luma_state")
        unit.append("half", data=b"1")
        raise apsw.FullError("a fault in the middle")

    from functools import partial

    with Lab(path) as lab:
        lab.state["kept"] = 1
        with held_writer(lab):
            before = lab._parts.writer.submit(lambda unit: unit.append("before"))
            bad = lab._parts.writer.submit(partial(torn, count=1))
            after = lab._parts.writer.submit(lambda unit: unit.append("after"))
        with pytest.raises(OSError, match="no space left"):
            bad.result(10)
        assert (before.result(10), after.result(10)) == (2, 3)
        assert dict(lab.state) == {"kept": 1}
        assert [e.type for e in lab.events.read()] == ["state_updated", "before", "after"]
        assert lab.verify().ok


def test_a_large_value_is_served_from_memory_and_never_stale(lab):
    large = "x" * 10_000
    for value in (large, large + "y", 1, large):
        lab.state["k"] = value
        assert [lab.state.get("k") for _ in range(3)] == [value] * 3
    with Lab(lab.path) as other:
        other.state["k"] = large + "z"
    assert lab.state.get("k") == large + "z"
    lab.state.delete("k")
    assert lab.state.get("k", "gone") == "gone"
