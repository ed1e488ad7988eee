"""Functions of SQLite whose time is the product of their arguments' lengths, within bounds.

Nothing stops a function once SQLite has called it. These answer exactly as SQLite's own, which
do the work on a connection beside, after a look at the lengths.
"""

import apsw

from luma_lab.errors import SqlError
from luma_lab.store import deadline

# Name to (number of arguments, most of the product of the lengths of the first two).
BOUNDED = {
    "instr": (2, 1 << 28),
    "ltrim": (2, 1 << 26),
    "replace": (3, 1 << 28),
    "rtrim": (2, 1 << 26),
    "trim": (2, 1 << 26),
    "unhex": (2, 1 << 26),
}
# Merging two objects compares every key with every other; a snippet every match.
REFUSED = frozenset({"json_patch", "jsonb_patch", "snippet"})


def register(connection):
    """Replace the functions of :data:`BOUNDED` on a connection."""
    beside = apsw.Connection(":memory:")
    for name, (count, most) in BOUNDED.items():
        connection.create_scalar_function(
            name,
            _bounded(name, count, most, beside),
            count,
            deterministic=True,
            flags=apsw.SQLITE_INNOCUOUS,
        )


def _bounded(name, count, most, beside):
    text = f"SELECT {name}({', '.join('?' * count)})"

    def function(*arguments):
        work = 1
        for value in arguments[:2]:
            work *= len(value) if isinstance(value, (str, bytes)) else 1
        if work > most:
            raise SqlError(
                f"{name}() was given arguments whose lengths multiply to {work}: expected at "
                f"most {most}"
            )
        deadline.check()  # many calls may follow each other without a loop
        return beside.execute(text, arguments).get

    return function
