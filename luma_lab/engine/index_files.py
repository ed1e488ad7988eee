"""Where indexes of a collection lie, what their folders are called, and who may work on them."""

import contextlib
import os

from luma_lab.errors import Conflict
from luma_lab.store import leases


def directory(parts, uid, index_name):
    """Return ``collections/<uid>/index/<name>``."""
    return parts.matrices.directory(uid) / "index" / index_name


def kind_of(index_name):
    """Return the kind in a directory name such as ``vamana-3``."""
    return index_name.rsplit("-", 1)[0]


def make_directory(parts, uid, kind, serial):
    """Make an empty folder for an index; return its name."""
    # Numbered by offset, so that no name comes twice: a view tells indexes apart by name.
    return make_numbered(parts.matrices.directory(uid) / "index", kind, serial)


def make_numbered(home, prefix, serial):
    """Make an empty folder ``prefix-serial``, or of the next free number; return its name."""
    home.mkdir(parents=True, exist_ok=True)
    while True:
        try:
            os.mkdir(home / f"{prefix}-{serial}")
            return f"{prefix}-{serial}"
        except FileExistsError:
            serial += 1


@contextlib.contextmanager
def working_alone(parts, row, job):
    """Hold the lease over builds and compactions of a collection for a block.

    What upkeep began on it in this process gives way to what was asked for.

    Yields
    ------
    callable
        ``still_alone(unit)`` raises `Conflict` inside a write transaction when the lease was
        lost to another process.
    """
    if not job.unasked:
        parts.jobs.clear_way(row.name)
    name, owner = f"build:{row.uid}", f"{parts.owner}:{job.id}"
    parts.writer.run(lambda unit: leases.take(unit.connection, name, owner, unit.now_ms))

    def still_alone(unit):
        held = leases.owner(unit.connection, name)
        if held != owner:
            raise Conflict(f"the lease {name!r} went to {held or 'nobody'} meanwhile: start again")

    try:
        yield still_alone
    finally:
        parts.writer.run(lambda unit: leases.release(unit.connection, name, owner))


def is_busy(parts, uid):
    """Return whether someone holds the lease, in any process."""
    now_ms = parts.clock.now_ms()
    return leases.holder(parts.database.reader(), f"build:{uid}", now_ms) is not None
