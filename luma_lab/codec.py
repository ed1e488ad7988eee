"""Strict JSON: what goes in comes out again, or is refused by name.

Encoders of the msgspec and orjson kind turn NaN into null and sets, dates and integer
keys into something else without a word; stored data must not change like that.
"""

import math

import msgspec
import numpy as np

from luma_lab.errors import InvalidArgument, PayloadTooLarge

MAX_DEPTH = 128
LONG_BYTES = 4096
_QUOTE = ord('"')
_LARGEST = 2**64
_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder()


def encode(value, what="value", max_bytes=None):
    """Return compact UTF-8 JSON bytes of a plain JSON value.

    Parameters
    ----------
    value : None, bool, int, float, str, list, tuple or dict with str keys, nested at most 128 deep
    what : str
        How to name the value in an error.
    max_bytes : int, optional
        Limit on the encoded size.

    Raises
    ------
    InvalidArgument
        NaN or infinity, an integer beyond 64 bits, another type, a key that is not a str,
        a lone surrogate.
    PayloadTooLarge
        The encoded value is over `max_bytes`.
    """
    _check(value, what, 0)
    try:
        data = _encoder.encode(value)
    except UnicodeEncodeError as error:
        raise InvalidArgument(f"{what} holds text that is not valid Unicode: {error}") from None
    if max_bytes is not None and len(data) > max_bytes:
        raise PayloadTooLarge(f"{what} too large: {len(data)} bytes, at most {max_bytes}")
    return data


def decode(data):
    """Return the value of JSON bytes or text written by :func:`encode`."""
    if len(data) >= LONG_BYTES and type(data) is bytes and data[0] == _QUOTE and b"\\" not in data:
        # A long string without escapes: a copy is several times faster than a scan for them.
        return str(memoryview(data)[1:-1], "utf-8")
    return _decoder.decode(data)


def _check(value, what, depth):
    kind = type(value)
    if kind is str or kind is bool or value is None:
        return
    if kind is int:
        if not -(_LARGEST >> 1) <= value < _LARGEST:
            raise InvalidArgument(f"{what} holds {value}: integers must fit in 64 bits")
        return
    if kind is float:
        if not math.isfinite(value):
            raise InvalidArgument(f"{what} holds {value}: JSON has no such number; use null")
        return
    if depth >= MAX_DEPTH:
        raise InvalidArgument(f"{what} is nested deeper than {MAX_DEPTH} levels")
    if kind is dict:
        for key, item in value.items():
            if type(key) is not str:
                raise InvalidArgument(f"{what} has the key {key!r}: JSON keys are strings")
            _check(item, what, depth + 1)
    elif kind is list or kind is tuple:
        for item in value:
            _check(item, what, depth + 1)
    else:
        raise InvalidArgument(
            f"{what} holds a {kind.__name__}: expected plain JSON (None, bool, int, float, str, "
            "list, dict); turn arrays into lists with .tolist()"
        )


def float_list(vector):
    """Return a float32 array as the list of shortest decimals that read back to the same float32.

    A client that sent 0.1 sees 0.1 again, not 0.10000000149011612.
    """
    values = vector.tolist()
    short = [float(f"{value:.7g}") for value in values]
    for digits in (8, 9):
        wrong = np.flatnonzero(np.asarray(short, np.float32) != vector)
        if not len(wrong):
            break
        for i in wrong:
            short[i] = float(f"{values[i]:.{digits}g}")
    return short
