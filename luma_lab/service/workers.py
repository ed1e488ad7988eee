"""Several processes on one port over one directory.

The parent binds the port and forks before anything is opened: locks, threads and SQLite
connections do not survive a fork. Each worker opens the lab itself; what one commits the others
see within a few milliseconds. A worker that dies is replaced.
"""

import contextlib
import logging
import os
import signal
import time

from luma_lab.errors import LumaError, Unavailable

QUICK_DEATH_SECS = 5.0
MAX_QUICK_DEATHS = 5
PAUSE_SECS = 0.5
log = logging.getLogger(__name__)


class Workers:
    """The children of this process.

    Parameters
    ----------
    sockets : list of socket
        Bound and listening; every child accepts on them.
    work : callable
        ``work(sockets)`` serves until it is asked to stop; it runs in a child.
    """

    def __init__(self, sockets, work):
        self._sockets = sockets
        self._work = work
        self._running = {}
        self._stopping = False
        self._quick_deaths = 0

    def run(self, count, announce):
        """Keep `count` children running until SIGTERM or SIGINT; wait for all of them.

        Parameters
        ----------
        announce : callable
            Called without arguments once they were started.

        Raises
        ------
        Unavailable
            They die as soon as they start.
        """
        for kind in (signal.SIGTERM, signal.SIGINT):
            signal.signal(kind, lambda number, frame: self._stop(number))
        for number in range(count):
            self._start(number)
        announce()
        failed = None
        while self._running:
            try:
                pid, status = os.wait()
            except (InterruptedError, ChildProcessError):
                continue
            number, since = self._running.pop(pid, (None, 0.0))
            if number is None or self._stopping:
                continue
            log.error("worker %d (process %d) ended with status %d", number, pid, status)
            quick = time.monotonic() - since < QUICK_DEATH_SECS
            self._quick_deaths = self._quick_deaths + 1 if quick else 0
            if self._quick_deaths >= MAX_QUICK_DEATHS:
                failed = Unavailable("the workers end as soon as they start; the log says why")
                self._stop(signal.SIGTERM)
                continue
            time.sleep(PAUSE_SECS)
            if not self._stopping:
                self._start(number)
        if failed is not None:
            raise failed

    def _start(self, number):
        pid = os.fork()
        if pid == 0:
            self._become(number)
        self._running[pid] = (number, time.monotonic())

    def _become(self, number):
        """Be a child: serve, and leave without the parent's clean-up."""
        status = 1
        try:
            for kind in (signal.SIGTERM, signal.SIGINT):
                signal.signal(kind, signal.SIG_DFL)
            self._work(self._sockets)
            status = 0
        except LumaError as error:
            log.error("worker %d: %s", number, error)
        except BaseException:
            log.exception("worker %d failed", number)
        finally:
            logging.shutdown()
            os._exit(status)

    def _stop(self, number):
        self._stopping = True
        for pid in list(self._running):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)
