"""Jobs: long work in threads of this process, watched through the log and through `Job`."""

import ctypes
import logging
import sys
import threading
import time
import traceback
import uuid
from functools import partial

from luma_lab import codec
from luma_lab.errors import Cancelled, Conflict, JobNotFound, LumaError, StoreClosed, WaitTimeout

PROGRESS_EVENT_SECS = 1.0
KEPT_FINISHED = 100
STATES = ("queued", "running", "done", "failed", "cancelled", "interrupted")
FINISHED = ("done", "failed", "cancelled", "interrupted")
log = logging.getLogger(__name__)


class Job:
    """A piece of long work: its state, its progress, its result.

    Attributes
    ----------
    id, kind, collection : str
    params : dict
    state : {"queued", "running", "done", "failed", "cancelled", "interrupted"}
    progress : float from 0 to 1
    error : LumaError or Exception, when failed
    unasked : bool
        Whether upkeep began it: it gives way to what a caller asks for.
    """

    def __init__(self, kind, collection, params, clock, unasked=False):
        self.unasked = unasked
        self.id = uuid.uuid4().hex[:16]
        self.kind = kind
        self.collection = collection
        self.params = dict(params)
        self.state = "queued"
        self.progress = 0.0
        self.error = None
        self.created_at_ms = clock.now_ms()
        self.started_at_ms = self.finished_at_ms = None
        self._clock = clock
        self._result = None
        self._cancel = threading.Event()
        self._done = threading.Event()

    def result(self, timeout=None):
        """Wait up to `timeout` seconds for the end and return the result.

        Raises
        ------
        WaitTimeout
            It is still running.
        Cancelled
        LumaError
            Whatever the work raised.
        """
        if not self._done.wait(timeout):
            raise WaitTimeout(
                f"job {self.id} ({self.kind}) is still {self.state} after {timeout} s"
            )
        if self.error is not None:
            raise self.error
        return self._result

    def cancel(self):
        """Ask the work to stop; raise `Conflict` when it has already ended."""
        if self.state in FINISHED:
            raise Conflict(f"job {self.id} is already {self.state}")
        self._cancel.set()
        return self

    def report(self, fraction):
        """Called by the work: note progress; raise `Cancelled` if someone asked to stop."""
        if self._cancel.is_set():
            raise Cancelled(f"job {self.id} ({self.kind}) was cancelled")
        self.progress = max(self.progress, min(1.0, float(fraction)))

    @property
    def eta_secs(self):
        """Estimated seconds left, or None."""
        if self.state != "running" or self.progress <= 0:
            return None
        elapsed = (self._clock.now_ms() - self.started_at_ms) / 1000
        return elapsed * (1 - self.progress) / self.progress

    def as_json(self):
        """Return the job as the REST contract shows it."""
        return {
            "id": self.id,
            "kind": self.kind,
            "collection": self.collection,
            "params": self.params,
            "state": self.state,
            "progress": self.progress,
            "eta_secs": self.eta_secs,
            "created_at_ms": self.created_at_ms,
            "started_at_ms": self.started_at_ms,
            "finished_at_ms": self.finished_at_ms,
            "result": self._result if self.state == "done" else None,
            "error": None if self.error is None else str(self.error),
        }

    def __repr__(self):
        return f"Job({self.id!r}, {self.kind!r}, {self.state}, {self.progress:.0%})"


class Jobs:
    """The jobs of this process, newest last."""

    def __init__(self, writer, clock):
        self._writer = writer
        self._clock = clock
        self._jobs = {}
        self._threads = []
        self._lock = threading.Lock()
        self._closing = False

    def start(self, kind, work, *, collection=None, params=(), unasked=False):
        """Run ``work(job) -> JSON value`` in a thread of its own and return the `Job`."""
        job = Job(kind, collection, dict(params), self._clock, unasked)
        with self._lock:
            if self._closing:
                raise StoreClosed("the lab is closing: no new jobs")
            finished = [id for id, j in self._jobs.items() if j.state in FINISHED]
            for id in finished[: max(0, len(finished) - KEPT_FINISHED)]:
                del self._jobs[id]
            self._jobs[job.id] = job
            thread = threading.Thread(
                target=self._run, args=(job, work), name=f"luma-job-{kind}", daemon=True
            )
            self._threads = [t for t in self._threads if t.is_alive()] + [thread]
            thread.start()
        return job

    def get(self, id):
        """Return a job by id; raise `JobNotFound`."""
        if id not in self._jobs:
            raise JobNotFound(id)
        return self._jobs[id]

    def clear_way(self, collection):
        """Cancel what was begun unasked on a collection and return once it has ended."""
        for job in self.list():
            if job.unasked and job.collection == collection and job.state not in FINISHED:
                job._cancel.set()
                job._done.wait()

    def list(self, state=None):
        """Return the jobs, or those in `state`."""
        with self._lock:
            return [job for job in self._jobs.values() if state is None or job.state == state]

    def close(self):
        """Cancel what runs and wait for it to stop."""
        with self._lock:
            self._closing = True
            running = [job for job in self._jobs.values() if job.state not in FINISHED]
        for job in running:
            job._cancel.set()
        for thread in self._threads:
            thread.join()

    def _run(self, job, work):
        job.state, job.started_at_ms = "running", self._clock.now_ms()
        self._tell(job, "job_started")
        watcher = threading.Thread(target=self._watch, args=(job,), daemon=True)
        watcher.start()
        try:
            result = work(job)
            job._result, job.progress, state = result, 1.0, "done"
        except Cancelled as error:
            job.error, state = error, "interrupted" if self._closing else "cancelled"
        except Exception as error:
            if not isinstance(error, LumaError):
                log.exception("job %s (%s) failed", job.id, job.kind)
            job.error, state = error, "failed"
        if job.error is not None:  # a kept job must not keep the arrays its work had in hand
            traceback.clear_frames(job.error.__traceback__)
        job.finished_at_ms = self._clock.now_ms()
        job.state = state
        self._tell(job, "job_finished")
        job._done.set()
        watcher.join()
        _give_back_memory()

    def _watch(self, job):
        told, next_at = 0.0, time.monotonic() + PROGRESS_EVENT_SECS
        while not job._done.wait(max(0.0, next_at - time.monotonic())):
            next_at += PROGRESS_EVENT_SECS
            if job.progress != told and job.state == "running":
                told = job.progress
                self._tell(job, "job_progress")

    def _tell(self, job, type):
        data = codec.encode({"job": job.as_json()}, "job")
        try:
            self._writer.run(
                partial(_append_job_event, type=type, collection=job.collection, data=data)
            )
        except LumaError as error:
            log.warning("event %s of job %s was not written: %s", type, job.id, error)


def _append_job_event(unit, type, collection, data):
    return unit.append(type, collection=collection, data=data)


def _give_back_memory():
    """Hand memory that a job freed back to the system; the C library of Linux keeps it else."""
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if trim is not None:
            trim(0)
