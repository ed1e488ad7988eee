"""Consumers: named readers of the log, each with the offset it has acknowledged.

An acknowledgement is as durable as any write, but no event of its own: it would wake the very
readers it speaks of.
"""

import re

from luma_lab.errors import ConsumerNotFound, InvalidArgument
from luma_lab.store import consumers
from luma_lab.store.database import luma_errors
from luma_lab.types import Consumer

NAME_PATTERN = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9_.-]{0,63}")


class Consumers:
    """The consumers of a lab.

    Parameters
    ----------
    apply : callable
        Runs an operation on a write transaction and returns its result.
    database : luma_lab.store.database.Database
    follower : luma_lab.engine.follower.Follower
    """

    def __init__(self, apply, database, follower):
        self._apply = apply
        self._database = database
        self._follower = follower

    @luma_errors
    def list(self):
        """Return every `Consumer`, by name."""
        head = self._follower.catch_up().offset
        return [
            Consumer(name, offset, max(0, head - offset))
            for name, offset in consumers.read_all(self._database.reader())
        ]

    @luma_errors
    def offset(self, name):
        """Return the last offset `name` has acknowledged, or None before the first."""
        check_name(name)
        return consumers.read(self._database.reader(), name)

    def ack(self, name, offset):
        """Note that everything up to `offset` was handled; return the offset that now holds.

        The first makes the consumer known. It never moves backwards: an older offset than the
        one that holds changes nothing.

        Raises
        ------
        InvalidArgument
            The offset is beyond the head of the log.
        """
        check_name(name)
        if type(offset) is not int or offset < 0:
            raise InvalidArgument(f"offset is {offset!r}: expected an int of at least 0")

        def operation(unit):
            if offset > unit.head.offset:
                raise InvalidArgument(
                    f"offset is {offset}: the head of the log is {unit.head.offset}"
                )
            known = consumers.read(unit.connection, name)
            if known is not None and known >= offset:
                # Offsets from before a restore may lie beyond the head: then it does move.
                if known <= unit.head.offset:
                    return known
            consumers.write(unit.connection, name, offset)
            return offset

        return self._apply(operation)

    def delete(self, name):
        """Forget a consumer; raise `ConsumerNotFound`."""
        check_name(name)

        def operation(unit):
            if not consumers.delete(unit.connection, name):
                raise ConsumerNotFound(name)

        self._apply(operation)


def check_name(name):
    """Raise `InvalidArgument` unless `name` can name a consumer."""
    if not isinstance(name, str) or not NAME_PATTERN.fullmatch(name):
        raise InvalidArgument(
            f"invalid consumer name {name!r}: expected 1 to 64 of A-Z a-z 0-9 _ . -, "
            "not starting with a dot"
        )
