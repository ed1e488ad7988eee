"""A writer that is kept busy, so that what is asked of it meanwhile waits."""

import contextlib
import threading


@contextlib.contextmanager
def held_writer(lab):
    """Keep the writer of a lab busy for a block."""
    inside, leave = threading.Event(), threading.Event()

    def hold(unit):
        inside.set()
        leave.wait(10)

    held = lab._parts.writer.submit(hold)
    assert inside.wait(10)
    try:
        yield
    finally:
        leave.set()
        held.result(10)
