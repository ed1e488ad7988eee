"""Strict JSON: what goes in comes out, or is refused by name; vectors in their shortest form."""

import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from luma_lab import codec
from luma_lab.errors import InvalidArgument, PayloadTooLarge

TEXT = st.text(st.characters(exclude_categories=["Cs"]))
JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=15,
)


def same(left, right):
    if type(left) is not type(right):
        return False
    if isinstance(left, dict):
        return left.keys() == right.keys() and all(same(left[k], right[k]) for k in left)
    if isinstance(left, list):
        return len(left) == len(right) and all(map(same, left, right))
    if isinstance(left, float):
        return left == right and math.copysign(1, left) == math.copysign(1, right)
    return left == right


@given(JSON)
def test_every_json_value_comes_back_as_it_was_with_its_types(value):
    data = codec.encode(value)
    assert same(codec.decode(data), value)
    assert same(json.loads(data), value)  # and any other reader sees the same


@given(TEXT, st.integers(0, 40))
def test_a_long_string_comes_back_as_it_was_whatever_stands_in_it(middle, padding):
    value = "ñ" * (codec.LONG_BYTES // 2 - padding) + middle + "x" * padding
    data = codec.encode(value)
    assert codec.decode(data) == codec.decode(data.decode()) == value


@pytest.mark.parametrize(
    ("value", "word"),
    [
        (math.nan, "nan"),
        (math.inf, "inf"),
        (-math.inf, "-inf"),
        (2**64, str(2**64)),
        (-(2**63) - 1, str(-(2**63) - 1)),
        (10**400, "10000"),
        ("\ud800", "Unicode"),
        ({"\udfff": 1}, "Unicode"),
        ({1: 2}, "1"),
        ({None: 2}, "None"),
        ({True: 2}, "True"),
        (b"bytes", "bytes"),
        ({1, 2}, "set"),
        (1j, "complex"),
        (object(), "object"),
        (np.float32(1), "float32"),
        (np.int64(1), "int64"),
        (np.zeros(2), "ndarray"),
        (type("Sub", (str,), {})("x"), "Sub"),
    ],
)
@pytest.mark.parametrize("wrap", [lambda v: v, lambda v: [1, v], lambda v: {"a": {"b": [v]}}])
def test_what_json_can_not_say_is_refused_by_name_at_any_depth(value, word, wrap):
    with pytest.raises(InvalidArgument, match="the thing") as caught:
        codec.encode(wrap(value), "the thing")
    assert word in str(caught.value)


def nested(depth):
    value = 1
    for _ in range(depth):
        value = [value]
    return value


def test_nesting_is_allowed_to_128_levels_and_refused_beyond():
    assert codec.decode(codec.encode(nested(128))) == nested(128)
    with pytest.raises(InvalidArgument, match="deeper than 128"):
        codec.encode(nested(129))
    with pytest.raises(InvalidArgument, match="deeper than 128"):
        codec.encode(nested(100_000))
    loop = []
    loop.append(loop)
    with pytest.raises(InvalidArgument, match="deeper than 128"):
        codec.encode(loop)


def test_a_value_over_the_limit_is_refused_with_both_sizes():
    assert codec.encode("abcd", max_bytes=6) == b'"abcd"'
    with pytest.raises(PayloadTooLarge, match=r"meta too large: 7 bytes, at most 6"):
        codec.encode("abcde", "meta", max_bytes=6)


FLOAT32 = st.floats(width=32, allow_nan=False, allow_infinity=False)


@given(hnp.arrays(np.float32, st.integers(0, 20), elements=FLOAT32))
def test_a_vector_in_json_reads_back_to_the_same_float32s(vector):
    text = json.dumps(codec.float_list(vector))
    assert np.asarray(json.loads(text), np.float32).tobytes() == vector.tobytes()


@given(st.decimals(-1000, 1000, places=4))
def test_a_client_that_sent_a_short_decimal_sees_it_again(decimal):
    short = float(f"{float(decimal):.6g}")
    assert codec.float_list(np.asarray([short], np.float32)) == [short]


@given(hnp.arrays(np.float32, 5, elements=FLOAT32))
def test_no_float32_needs_more_than_nine_digits(vector):
    for value in codec.float_list(vector):
        digits = f"{value!r}".split("e")[0].replace("-", "").replace(".", "").strip("0")
        assert len(digits) <= 9
