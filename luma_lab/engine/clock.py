"""Wall time in milliseconds that never runs backwards."""

import threading
import time


class Clock:
    """The lab's time; tests hand in one they move themselves."""

    def __init__(self):
        self._last = 0
        self._lock = threading.Lock()

    def now_ms(self):
        """Return milliseconds since 1970, at least what was returned before."""
        with self._lock:
            self._last = max(self._last, time.time_ns() // 1_000_000)
            return self._last
