"""Bodies of one JSON value a line."""

from luma_lab.errors import InvalidArgument, LumaError
from luma_lab.service.base import decode_body


def read_lines(body, model):
    """Return the lines of NDJSON bytes as `model`s; blank ones are passed over.

    Raises
    ------
    LumaError
        Naming the line.
    """
    lines = [line for line in body.split(b"\n") if line.strip()]
    if not lines:
        raise InvalidArgument("items required: expected at least one line")
    return [with_line(index, decode_body, line, model) for index, line in enumerate(lines)]


def with_line(index, call, *args):
    """Return ``call(*args)``; an error of it says in which line, counted from 1."""
    try:
        return call(*args)
    except LumaError as error:
        error.args = (f"line {index + 1}: {error.args[0]}", *error.args[1:])
        raise
