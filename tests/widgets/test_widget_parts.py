"""The parts widgets are made of: worker, markup, held-out points."""

import threading

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from luma_lab.errors import InvalidArgument
from luma_lab.widgets import markup
from luma_lab.widgets.subject import hold_out
from luma_lab.widgets.worker import Worker, in_words


def test_a_waiting_task_is_replaced_by_a_newer_one_of_its_name():
    done, gate = [], threading.Event()
    worker = Worker(done.append, name="test")
    worker.submit("first", lambda: gate.wait(30))
    for number in range(5):
        worker.submit("slide", lambda number=number: done.append(number))
    worker.submit("other", lambda: done.append("other"))
    gate.set()
    assert worker.wait(30)
    assert done == [4, "other"]


def test_a_failing_task_is_told_and_the_next_one_runs():
    errors, done = [], []
    worker = Worker(errors.append, name="test")
    worker.submit("bad", lambda: 1 / 0)
    worker.submit("good", lambda: done.append(True))
    assert worker.wait(30)
    assert [type(error) for error in errors] == [ZeroDivisionError] and done == [True]


def test_a_closed_worker_takes_no_more():
    done = []
    worker = Worker(done.append, name="test")
    worker.close()
    worker.submit("late", lambda: done.append(True))
    assert worker.wait(30) and done == []


def test_a_task_may_queue_its_successor():
    done = []
    worker = Worker(done.append, name="test")

    def step(left):
        done.append(left)
        if left:
            worker.submit("step", lambda: step(left - 1))

    worker.submit("step", lambda: step(3))
    assert worker.wait(30) and done == [3, 2, 1, 0]


def test_foreign_errors_keep_their_type_in_words():
    assert in_words(InvalidArgument("k is 0")) == "k is 0"
    assert in_words(ValueError("odd")) == "ValueError: odd"


@given(st.text())
def test_no_text_can_leave_its_tag(text):
    for made in (
        markup.note(text),
        markup.hint(text),
        markup.heading(text),
        markup.table([(text, "text")], [(text,)]),
        markup.tiles([(text, text, text)]),
        markup.bar(0.5, text),
    ):
        bare = made.replace(markup.escape(text), "") if text else made
        assert "<script" not in bare
        assert made.count("<") == made.count(">")


@given(st.floats(1e-9, 1e12))
def test_figures_are_plain_and_near_the_number(number):
    written = markup.figures(number)
    assert "e" not in written
    assert float(written) == pytest.approx(number, rel=0.005, abs=1e-9)


@given(st.integers(20, 3000))
def test_held_out_points_and_the_base_share_nothing_and_lose_nothing(n):
    rows = np.arange(n, dtype=np.float32)[:, None]
    base, queries = hold_out(rows)
    assert len(queries) == min(100, n // 10)
    assert sorted([*base[:, 0], *queries[:, 0]]) == rows[:, 0].tolist()


def test_too_few_points_to_hold_any_out_are_refused():
    with pytest.raises(InvalidArgument, match="19 points"):
        hold_out(np.zeros((19, 2), np.float32))
