"""A thread's time limit: what reads check, so that work given up on really stops."""

import contextlib
import time
from contextvars import ContextVar

from luma_lab.errors import WaitTimeout

_deadline = ContextVar("luma_deadline", default=None)


@contextlib.contextmanager
def limited(seconds):
    """Give the block at most `seconds`; an outer, earlier limit stays in force."""
    ends = time.monotonic() + seconds
    outer = _deadline.get()
    token = _deadline.set(ends if outer is None else min(outer, ends))
    try:
        yield
    finally:
        _deadline.reset(token)


def left():
    """Return the seconds left of the present limit, at least 0, or None without one."""
    ends = _deadline.get()
    return None if ends is None else max(0.0, ends - time.monotonic())


def passed():
    """Return whether there is a limit and it has passed."""
    ends = _deadline.get()
    return ends is not None and time.monotonic() > ends


def check():
    """Raise `WaitTimeout` when the limit has passed; for long work between two steps."""
    ends = _deadline.get()
    if ends is not None and time.monotonic() > ends:
        raise WaitTimeout("the work was stopped: its time limit had passed")
