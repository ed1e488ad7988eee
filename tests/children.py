"""Child processes that run a few lines of Python against a lab."""

import os
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import luma_lab

ROOT = str(Path(luma_lab.__file__).parents[1])


@contextmanager
def child(script, *arguments):
    """Run a script in a process of its own, with pipes to it; it is dead at the end."""
    paths = [ROOT, os.environ.get("PYTHONPATH", "")]
    process = subprocess.Popen(
        [sys.executable, "-c", script, *map(str, arguments)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(p for p in paths if p)},
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait()
        process.stdin.close()
        process.stdout.close()


def tell(process, line=""):
    """Send one line and return the line that is answered."""
    process.stdin.write(f"{line}\n")
    process.stdin.flush()
    return process.stdout.readline().rstrip("\n")
