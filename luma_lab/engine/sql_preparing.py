"""What preparing a statement may take of the memory of the process."""

import threading

import apsw

# A statement of a few lines can make the planner copy expressions without end, which SQLite
# counts nowhere: what preparing one may take.
PREPARING_BYTES = 32 << 20  # seen when SQLite asks the guard, as it mostly does in between
PREPARING_BYTES_AT_ONCE = 128 << 20


class _Preparing(threading.local):
    """Bounds the memory of the process while a thread prepares a statement with subqueries.

    SQLite can bound it only for all at once, so each thread that begins makes room for itself.
    Should one run into the bound, another may meet it too: so it is as rare and short as can be.
    """

    _lock = threading.Lock()
    _count = 0  # of threads that prepare
    _outer = 0  # the limit that was in force before

    def __init__(self):
        self._is_on = False
        self._room = 0

    def begin(self):
        """Bound what is prepared from now on, until :meth:`end`."""
        if self._is_on:
            return
        with self._lock:
            if _Preparing._count == 0:
                _Preparing._outer = apsw.hard_heap_limit(-1)
            _Preparing._count += 1
            self._room = apsw.memory_used() + PREPARING_BYTES
            room = self._room + PREPARING_BYTES_AT_ONCE - PREPARING_BYTES
            apsw.hard_heap_limit(min(room, self._outer) if self._outer else room)
        self._is_on = True

    def is_too_large(self):
        """Return whether this thread is preparing something that takes too much."""
        return self._is_on and apsw.memory_used() > self._room

    def end(self):
        """Bound it no longer: the statement is prepared, or has failed."""
        if self._is_on:
            self._is_on = False
            with self._lock:
                _Preparing._count -= 1
                if _Preparing._count == 0:
                    apsw.hard_heap_limit(self._outer)


preparing = _Preparing()
