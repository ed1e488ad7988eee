"""What a user hands to SQL: the text, its parameters, the caps; checked before SQLite sees them."""

import numpy as np

from luma_lab.errors import InvalidArgument, SqlError

FLOAT32 = np.dtype("<f4")
PARAMETERS = (type(None), bool, int, float, str, bytes)


def check_text(text):
    """Return the text of a statement; raise `InvalidArgument` when it can't be one."""
    if not isinstance(text, str):
        raise InvalidArgument(f"sql is a {type(text).__name__}: expected a str")
    if "\0" in text:
        raise InvalidArgument("sql holds a NUL character")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise InvalidArgument("sql is not valid Unicode text") from None
    return text


def check_cap(name, value):
    """Raise `InvalidArgument` unless a cap is None or an int of at least 1."""
    if value is not None and (type(value) is not int or value < 1):
        raise InvalidArgument(f"{name} is {value!r}: expected an int of at least 1")


def check_parameters(params):
    """Return parameters as SQLite takes them; raise `SqlError` for those it can't."""
    if isinstance(params, dict):
        return {name: _parameter(value) for name, value in params.items()}
    if params is None:
        return ()
    if isinstance(params, (str, bytes)) or not hasattr(params, "__iter__"):
        raise SqlError(f"params is a {type(params).__name__}: expected a sequence or a dict")
    return [_parameter(value) for value in params]


def _parameter(value):
    if type(value) is int and -(2**63) <= value < 2**63:
        return value
    if isinstance(value, np.ndarray):
        if value.dtype is FLOAT32 and value.ndim == 1:
            return value.tobytes()
        if value.ndim != 1 or value.dtype.kind not in "fiu":
            raise SqlError(f"unsupported parameter type: an array of shape {value.shape}")
        return np.ascontiguousarray(value, "<f4").tobytes()
    if isinstance(value, np.generic):
        value = value.item()
    if type(value) not in PARAMETERS:
        raise SqlError(
            f"unsupported parameter type {type(value).__name__}: expected None, bool, int, "
            "float, str, bytes or a vector"
        )
    if type(value) is int and not -(2**63) <= value < 2**63:
        raise SqlError("unsupported parameter: integers must fit in 64 bits")
    if type(value) is str:
        _text_parameter(value)
    return value


def _text_parameter(value):
    try:
        value.encode()
    except UnicodeEncodeError:
        raise SqlError("unsupported parameter: text that is not valid Unicode") from None
