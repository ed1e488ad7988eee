"""The filter language: both spellings, compiled to SQLite, against a plain-Python oracle."""

import apsw
import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from luma_lab.engine import filters
from luma_lab.errors import InvalidFilter, PayloadTooLarge

MISSING = object()
SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 3),
    st.sampled_from([0.0, 1.0, 1.5, -2.5]),
    st.sampled_from(["", "a", "b", "1", "ñ", "it's", "%"]),
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.sampled_from("xy"), inner, max_size=2)
    ),
    max_leaves=4,
)
FIELDS = st.sampled_from(["a", "b", "a.x", "b.y.x", '"odd name"', "ñ"])
METAS = st.one_of(
    st.dictionaries(st.sampled_from(["a", "b", "odd name", "ñ"]), VALUES, max_size=4), VALUES
)
COMPARABLE = st.one_of(st.integers(-3, 3), st.sampled_from([0.5, -1.5]), st.sampled_from("ab1"))
TESTS = st.one_of(
    st.builds(lambda f, v: {f: v}, FIELDS, VALUES),
    st.builds(lambda f, o, v: {f: {o: v}}, FIELDS, st.sampled_from(["$eq", "$ne"]), VALUES),
    st.builds(
        lambda f, o, v: {f: {o: v}}, FIELDS, st.sampled_from(list(filters.RANGES)), COMPARABLE
    ),
    st.builds(
        lambda f, o, v: {f: {o: v}},
        FIELDS,
        st.sampled_from(["$in", "$nin"]),
        st.lists(VALUES, max_size=3),
    ),
    st.builds(lambda f, v: {f: {"$exists": v}}, FIELDS, st.booleans()),
)
TREES = st.recursive(
    TESTS,
    lambda inner: st.one_of(
        st.builds(lambda v: {"$and": v}, st.lists(inner, max_size=3)),
        st.builds(lambda v: {"$or": v}, st.lists(inner, max_size=3)),
        st.builds(lambda v: {"$not": v}, inner),
    ),
    max_leaves=6,
)


def select(metas, filter):
    connection = apsw.Connection(":memory:")
    connection.create_scalar_function(
        filters.EQUAL_FUNCTION, filters.json_equal, 2, deterministic=True
    )
    connection.execute("CREATE TABLE t (id INTEGER PRIMARY KEY, meta TEXT)")
    for meta in metas:
        connection.execute("INSERT INTO t (meta) VALUES (?)", (msgspec.json.encode(meta).decode(),))
    tree = filters.parse(filter)
    sql, bindings = filters.compile_filter(tree, "meta") if tree else ("1", [])
    rows = connection.execute(f"SELECT id - 1 FROM t WHERE {sql} ORDER BY id", bindings)
    return [row for (row,) in rows]


def lookup(meta, name):
    for segment in filters.split_path(name):
        if not isinstance(meta, dict) or segment not in meta:
            return MISSING
        meta = meta[segment]
    return meta


def same(left, right):
    if isinstance(left, bool) or isinstance(right, bool):
        return left is right
    if isinstance(left, dict) and isinstance(right, dict):
        return left.keys() == right.keys() and all(same(left[k], right[k]) for k in left)
    if isinstance(left, list) and isinstance(right, list):
        return len(left) == len(right) and all(map(same, left, right))
    if isinstance(left, (int, float)) and isinstance(right, (int, float)):
        return left == right
    return type(left) is type(right) and left == right


def equals(found, value):
    if found is MISSING:
        return False
    return same(found, value) or (isinstance(found, list) and any(same(f, value) for f in found))


def ranged(found, operator, value):
    number = (int, float)
    if isinstance(found, bool) or found is MISSING:
        return False
    if not (isinstance(found, number) and isinstance(value, number)) and not (
        isinstance(found, str) and isinstance(value, str)
    ):
        return False
    return {"$gt": found > value, "$gte": found >= value, "$lt": found < value}.get(
        operator, found <= value
    )


def oracle(meta, filter):
    for name, value in filter.items():
        if name == "$and":
            ok = all(oracle(meta, f) for f in value)
        elif name == "$or":
            ok = any(oracle(meta, f) for f in value)
        elif name == "$not":
            ok = not oracle(meta, value)
        else:
            found = lookup(meta, name)
            if isinstance(value, dict) and any(k.startswith("$") for k in value):
                ok = all(operate(found, o, v) for o, v in value.items())
            else:
                ok = equals(found, value)
        if not ok:
            return False
    return True


def operate(found, operator, value):
    if operator in ("$eq", "$ne"):
        return equals(found, value) == (operator == "$eq")
    if operator in ("$in", "$nin"):
        return any(equals(found, v) for v in value) == (operator == "$in")
    if operator == "$exists":
        return (found is not MISSING) == value
    return ranged(found, operator, value)


@settings(max_examples=400, deadline=None)
@given(st.lists(METAS, min_size=1, max_size=8), TREES)
def test_a_dict_filter_selects_what_plain_python_selects(metas, filter):
    assert select(metas, filter) == [i for i, m in enumerate(metas) if oracle(m, filter)]


@pytest.mark.parametrize(
    ("expression", "filter"),
    [
        ("a = 1 AND b != 'x'", {"a": 1, "b": {"$ne": "x"}}),
        ("a <> 1 or not b = true", {"$or": [{"a": {"$ne": 1}}, {"$not": {"b": True}}]}),
        ("a IN (1, 'x', null)", {"a": {"$in": [1, "x", None]}}),
        ("a NOT IN (1.5)", {"a": {"$nin": [1.5]}}),
        ("a BETWEEN 1 AND 2", {"a": {"$gte": 1, "$lte": 2}}),
        (
            "(a < 2 OR a > 3) AND b.c >= 'm'",
            {"$or": [{"a": {"$lt": 2}}, {"a": {"$gt": 3}}], "b.c": {"$gte": "m"}},
        ),
        ("\"odd name\".x = 'it''s'", {'"odd name".x': "it's"}),
        ("a = -2.5e0", {"a": -2.5}),
    ],
)  # fmt: skip
def test_an_expression_means_the_same_as_its_dict(expression, filter):
    values = [None, True, False, 0, 1, 1.5, 2, 3, 4, -2.5, "x", "z", "it's", [1, "x"], {"c": "n"}]
    metas = [{}, *({"a": v} for v in values), *({"b": v, "a": 1} for v in values)]
    metas += [{"odd name": {"x": "it's"}}, {"b": {"c": "n"}, "a": 5}]
    assert select(metas, expression) == select(metas, filter)


def test_is_null_takes_a_missing_field_for_null_and_like_takes_only_text():
    metas = [{}, {"a": None}, {"a": 1}, {"a": "Perl"}, {"a": ["Perl"]}]
    assert select(metas, "a IS NULL") == [0, 1]
    assert select(metas, "a IS NOT NULL") == [2, 3, 4]
    assert select(metas, "a LIKE 'pe%'") == [3]
    assert select(metas, {"a": None}) == [1]


@pytest.mark.parametrize(
    "bad",
    [
        "a =", "a", "1 = 1", "a = 1; DROP TABLE t", "length(a) = 1", "a = 'x", "a = 1 -- c",
        "a == 1",
        "a = (SELECT 1)", "a LIKE 1", "a IN ()", "a BETWEEN 1", "a > true", "AND", "a = 1 AND",
        "a..b = 1", 'a"b = 1', "(" * 40 + "a = 1" + ")" * 40,
        {"$where": "1"}, {"a": {"$regex": "x"}}, {"a": {"$in": 3}}, {"a": {"$exists": 1}},
        {"a": {"$gt": None}}, {"a": {"$gt": [1]}}, {"$and": {"a": 1}}, {"$or": [1]}, {"$not": 1},
        {"": 1}, {"a.": 1}, {'a"b': 1}, {"a\\b": 1}, {"a\n": 1}, {1: 2}, 5, ["a"], {"a": {1, 2}},
        {"$or": [{"a": i} for i in range(1001)]}, {"a": {"$in": list(range(1001))}},
    ],
    ids=repr,
)  # fmt: skip
def test_a_filter_that_is_no_filter_is_refused_in_words(bad):
    with pytest.raises(InvalidFilter) as caught:
        filters.parse(bad)
    assert str(caught.value)


def test_a_filter_nested_too_deep_is_refused():
    deep = {"a": 1}
    for _ in range(40):
        deep = {"$not": deep}
    with pytest.raises(InvalidFilter, match="deeper than 32"):
        filters.parse(deep)


def test_a_filter_over_a_megabyte_is_refused():
    with pytest.raises(PayloadTooLarge):
        filters.parse({"a": "x" * (1 << 20)})


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=30))
def test_any_text_is_a_filter_or_is_refused(text):
    try:
        tree = filters.parse(text)
    except InvalidFilter:
        return
    if tree is not None:
        select([{"a": 1}], text)


def test_paths_stay_inside_their_literal():
    connection = apsw.Connection(":memory:")
    tree = filters.parse({"a' OR 1=1 --": 1})
    sql, bindings = filters.compile_filter(tree, "meta")
    connection.execute("CREATE TABLE t (meta TEXT)")
    connection.execute("INSERT INTO t VALUES ('{}')")
    assert connection.execute(f"SELECT count(*) FROM t WHERE {sql}", bindings).get == 0
