"""Several processes on one port over one directory.

The parent binds the port and forks before anything is opened: locks, threads and SQLite
connections do not survive a fork. Each worker opens the lab itself; what one commits the others
see within a few milliseconds. A worker that dies is replaced.

A wish to stop often reaches a worker twice, from the parent and beside it: Ctrl-C goes to every
process of the terminal, supervisors signal a whole group. Two of them mean one wish; only one
that comes later means "at once". A worker whose parent is gone stops by itself.
"""

import _thread
import contextlib
import logging
import os
import signal
import threading
import time

from luma_lab.errors import LumaError, Unavailable

QUICK_DEATH_SECS = 5.0
MAX_QUICK_DEATHS = 5
PAUSE_SECS = 0.5
SAME_WISH_SECS = 2.0
STOPPING = (signal.SIGTERM, signal.SIGINT)
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
        self._alive = None

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
        # Ignored by whoever started us, the system would keep the children's ends from us.
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        for kind in STOPPING:
            signal.signal(kind, lambda *_: self._stop())
        # Nobody writes: its end is the end of this process, which no signal tells.
        watched, self._alive = os.pipe()
        try:
            for number in range(count):
                self._start(number, watched)
            announce()
            self._wait(watched)
        finally:
            os.close(watched)
            os.close(self._alive)

    def _wait(self, watched):
        failed = None
        while self._running:
            pid, status = os.wait()
            number, since = self._running.pop(pid, (None, 0.0))
            if number is None or self._stopping:
                continue
            log.error("worker %d (process %d) ended with status %d", number, pid, status)
            quick = time.monotonic() - since < QUICK_DEATH_SECS
            self._quick_deaths = self._quick_deaths + 1 if quick else 0
            if self._quick_deaths >= MAX_QUICK_DEATHS:
                failed = Unavailable("the workers end as soon as they start; the log says why")
                self._stop()
                continue
            time.sleep(PAUSE_SECS)
            self._start(number, watched)
        if failed is not None:
            raise failed

    def _start(self, number, watched):
        # A signal between the fork and the note of the child would pass it by, or be taken by
        # the child for its parent's.
        signal.pthread_sigmask(signal.SIG_BLOCK, STOPPING)
        try:
            if self._stopping:
                return
            pid = os.fork()
            if pid == 0:
                self._become(number, watched)
            self._running[pid] = (number, time.monotonic())
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, STOPPING)

    def _become(self, number, watched):
        """Be a child: serve, and leave without the parent's clean-up."""
        status = 1
        try:
            for kind in STOPPING:
                signal.signal(kind, lambda *_: os._exit(0))  # until `work` knows better
            os.close(self._alive)
            # The signals stay blocked in this thread and in all that it starts.
            for target, arguments in ((_hear, ()), (_follow_parent, (watched,))):
                threading.Thread(target=target, args=arguments, daemon=True).start()
            self._work(self._sockets)
            status = 0
        except LumaError as error:
            log.error("worker %d: %s", number, error)
        except BaseException:
            log.exception("worker %d failed", number)
        finally:
            logging.shutdown()
            os._exit(status)

    def _stop(self):
        self._stopping = True
        # The workers stop listening at once; the port must not look open for longer than that.
        for sock in self._sockets:
            sock.close()
        for pid in list(self._running):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGTERM)


def _hear():
    """Hand the first signal to the main thread's handler; a late second one ends the process."""
    signal.sigwait(STOPPING)
    _thread.interrupt_main(signal.SIGTERM)
    heard = time.monotonic()
    while True:
        signal.sigwait(STOPPING)
        if time.monotonic() - heard > SAME_WISH_SECS:
            os._exit(1)


def _follow_parent(watched):
    """Stop this process when its parent has ended without saying so."""
    os.read(watched, 1)
    os.kill(os.getpid(), signal.SIGTERM)
