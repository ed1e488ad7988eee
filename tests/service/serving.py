"""``luma serve`` in processes of its own; the workbench is left out where it isn't asked for."""

import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import httpx
from children import ROOT

SERVE = "from luma_lab import cli; cli.main()"
BARE = "from luma_lab import cli; cli._pages = lambda lab: None; cli.main()"


class Serving:
    """A running ``luma serve --auth open``.

    Parameters
    ----------
    directory : path
        The lab.
    flags : str
        Further words of the command line.
    port : int
        0: any free one.
    pages : bool
        Whether there is a workbench; it takes seconds to load.
    """

    def __init__(self, directory, *flags, port=0, pages=False):
        words = ["serve", "--auth", "open", "--port", str(port), "--data-dir", str(directory)]
        self.process = subprocess.Popen(
            [sys.executable, "-c", SERVE if pages else BARE, *words, *flags],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={**os.environ, "PYTHONPATH": ROOT},
            start_new_session=True,
        )
        said = ""
        while "Ctrl-C" not in said:
            line = self.process.stdout.readline()
            assert line, said
            said += line
        self.url = re.search(r"http://[\d.]+:\d+", said).group()
        self.port = int(self.url.rpartition(":")[2])

    def client(self, **options):
        """Return a client with one connection, so that one worker answers all it asks."""
        limits = httpx.Limits(max_connections=1)
        return httpx.Client(base_url=self.url, timeout=30, limits=limits, verify=False, **options)

    def workers(self):
        """Return the process ids of the workers."""
        pid = self.process.pid
        return [int(n) for n in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]

    def client_of(self, worker):
        """Return a client whose connection is the worker's."""
        others = [pid for pid in self.workers() if pid != worker]
        for _ in range(10):
            client = self.client()
            client.timeout = 5
            for pid in others:
                os.kill(pid, signal.SIGSTOP)
            try:
                assert worker_of(client) == worker
            except httpx.ReadTimeout:
                client.close()  # one was stopped amid a write, for which the worker has to wait
            else:
                client.timeout = 30
                return client
            finally:
                for pid in others:
                    os.kill(pid, signal.SIGCONT)
            time.sleep(0.5)
        raise AssertionError(f"worker {worker} does not answer")

    def wait(self):
        """Return the exit status and what was said since the start."""
        said, _ = self.process.communicate(timeout=60)
        return self.process.returncode, said

    def kill(self):
        """Kill all its processes; nothing is tidied up."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        self.process.stdout.close()


@contextlib.contextmanager
def serving(directory, *flags, port=0, pages=False):
    """Serve a directory; everything is killed at the end."""
    server = Serving(directory, *flags, port=port, pages=pages)
    try:
        yield server
    finally:
        server.kill()


def worker_of(client):
    """Return the process id of the worker that answers a client."""
    found = re.search(r'luma_process\{pid="(\d+)"\}', client.get("/v1/metrics").text)
    return int(found[1])


def wait_until(condition):
    """Return once something holds; 30 seconds are a failure."""
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def is_running(pid):
    """Return whether a process lives (a zombie does not)."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False
