"""A thread of one's own for a widget: the page stays quick while work is done."""

import logging
import threading
from collections import OrderedDict

from luma_lab.errors import LumaError

log = logging.getLogger(__name__)


class Worker:
    """Run tasks one after another, off the page's thread.

    A task submitted under a name replaces one of that name still waiting, so a slider that
    moves faster than its work can follow leaves only its last position to be worked on.
    The thread lives while there is work. Safe to call from any thread.

    Parameters
    ----------
    on_error : callable(Exception)
        Told of every exception a task raises, in the worker's thread.
    name : str
        The thread's name.
    """

    def __init__(self, on_error, *, name):
        self._on_error = on_error
        self._name = name
        self._waiting = OrderedDict()
        self._thread = None
        self._closed = False
        self._lock = threading.Lock()

    def submit(self, name, task):
        """Queue `task()`; it replaces a waiting task of the same name. Ignored once closed."""
        with self._lock:
            if self._closed:
                return
            self._waiting.pop(name, None)
            self._waiting[name] = task
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name=self._name, daemon=True)
                self._thread.start()

    def wait(self, timeout=None):
        """Block until nothing is left to do or `timeout` seconds passed; return whether idle."""
        thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            thread.join(timeout)
        return self._thread is None

    def close(self):
        """Forget what waits and take no more; the running task ends by itself."""
        with self._lock:
            self._closed = True
            self._waiting.clear()

    def _run(self):
        while True:
            with self._lock:
                if not self._waiting:
                    # Inside the lock: a submit after this starts a new thread.
                    self._thread = None
                    return
                _, task = self._waiting.popitem(last=False)
            try:
                task()
            except Exception as error:
                self._on_error(error)


def in_words(error):
    """Return what to show a user for an exception; one that is not ours goes to the log too."""
    if isinstance(error, LumaError):
        return str(error)
    log.error("a widget's work failed", exc_info=error)
    return f"{type(error).__name__}: {error}"
