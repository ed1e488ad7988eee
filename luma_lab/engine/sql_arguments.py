"""Arguments of the table functions that search, as SQL gives them."""

import msgspec
import numpy as np

from luma_lab.errors import InvalidArgument


def text_of(given, name):
    """Return a text argument."""
    value = given.get(name)
    if not isinstance(value, str):
        raise InvalidArgument(f"the argument {name!r} is {value!r}: expected a text")
    return value


def vector_of(given):
    """Return the argument ``vector``: a JSON array of numbers, or a blob of float32."""
    vector = given["vector"]
    try:
        if isinstance(vector, bytes):
            return np.frombuffer(vector, "<f4")
        return msgspec.json.decode(vector, type=list[float])
    except (ValueError, TypeError, msgspec.MsgspecError):
        raise InvalidArgument(
            "the vector is neither a JSON array of numbers nor a blob of float32"
        ) from None


def filter_of(given):
    """Return the argument ``filter``, an expression or JSON as text, or None."""
    text = given.get("filter")
    if isinstance(text, str) and text.lstrip().startswith("{"):
        try:
            return msgspec.json.decode(text)
        except msgspec.DecodeError as error:
            raise InvalidArgument(f"the filter is no valid JSON: {error}") from None
    return text


def fits(text, value_bytes):
    """Return whether a statement may hold a text."""
    # No character has more than four bytes.
    return 4 * len(text) <= value_bytes or len(text.encode()) <= value_bytes
