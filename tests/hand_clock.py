"""A clock that tests move by hand."""


class HandClock:
    """Time that stands still until :meth:`advance` is called."""

    def __init__(self, now_ms=1_700_000_000_000):
        self._now_ms = now_ms

    def now_ms(self):
        return self._now_ms

    def advance(self, ms):
        self._now_ms += ms
