"""Filters: two spellings of one tree, compiled to SQLite.

A filter is a dict (``{"year": {"$gte": 2020}}``) or an expression (``"year >= 2020"``). User
text never reaches SQLite: values are bound, and a path is a literal made by :func:`json_path`
from checked segments, the same literal that declared indexes are made with.

Equality compares JSON type and value: 1 equals 1.0, true is not 1. A field that holds an array
also equals each of its elements. Ranges compare numbers with numbers and strings with strings;
anything else does not match. ``$ne``, ``$nin`` and ``$not`` match where the field is missing.
"""

import re
from dataclasses import dataclass
from typing import Any

import msgspec

from luma_lab import codec
from luma_lab.errors import InvalidArgument, InvalidFilter, PayloadTooLarge

MAX_DEPTH = 32
MAX_NODES = 1000
MAX_BYTES = 1 << 20
RANGES = {"$gt": ">", "$gte": ">=", "$lt": "<", "$lte": "<="}
OPERATORS = ("$eq", "$ne", "$in", "$nin", "$exists", "$not", *RANGES)
EQUAL_FUNCTION = "luma_json_equal"


@dataclass(frozen=True)
class Test:
    """One test of one field: `operator` is ``eq in exists like null`` or a range sign."""

    path: tuple[str, ...]
    operator: str
    value: Any = None


@dataclass(frozen=True)
class Group:
    """Children joined by ``AND`` or ``OR``; without children AND is true, OR false."""

    joint: str
    children: tuple[Any, ...]


@dataclass(frozen=True)
class Not:
    """True exactly where its child is not."""

    child: Any


def parse(filter):
    """Return the tree of a filter in either spelling, or None for None, ``{}`` and ``""``.

    Raises
    ------
    InvalidFilter
        Says where and what was expected.
    PayloadTooLarge
        Over 1 MB.
    """
    if filter is None:
        return None
    if isinstance(filter, str):
        if len(filter) > MAX_BYTES:
            raise PayloadTooLarge(f"filters too large: {len(filter)} characters")
        return _Expression(filter).parse() if filter.strip() else None
    if not isinstance(filter, dict):
        raise InvalidFilter(
            f"filter is a {type(filter).__name__}: expected a dict or an expression"
        )
    try:
        size = len(codec.encode(filter, "filter"))
    except InvalidArgument as error:
        raise InvalidFilter(str(error)) from None
    if size > MAX_BYTES:
        raise PayloadTooLarge(f"filters too large: {size} bytes, at most {MAX_BYTES}")
    return _from_dict(filter, _Budget(), 1) if filter else None


def compile_filter(tree, column, scope=None):
    """Return (sql, bindings): a condition on `column`, which holds JSON text.

    Parameters
    ----------
    tree : what :func:`parse` returned, not None
    column : str
        Trusted SQL.
    scope : str, optional
        Trusted SQL that holds for every row asked about. It is repeated in each alternative,
        for SQLite takes a partial index for one only if the alternative itself implies it.
    """
    bindings = []
    return _compile(tree, column, bindings, f"{scope} AND " if scope else ""), bindings


def json_path(path):
    """Return the SQL string literal of a JSON path; segments were checked by `split_path`."""
    inside = "".join(f'."{segment}"' for segment in path)
    return "'$" + inside.replace("'", "''") + "'"


def split_path(text):
    """Return the segments of ``a.b`` or ``a."odd name"``.

    Raises
    ------
    InvalidFilter
        Empty segments, or characters a JSON path can't hold: quotes, backslash, control.
    """
    segments, position = [], 0
    pattern = re.compile(r'"([^"]*)"|([^."]+)')
    while True:
        match = pattern.match(text, position)
        if match is None:
            raise InvalidFilter(f"path {text!r}: expected names joined by dots")
        segment = match[1] if match[1] is not None else match[2]
        if any(c in '"\\' or ord(c) < 32 or 0xD800 <= ord(c) <= 0xDFFF for c in segment):
            raise InvalidFilter(f"path {text!r} holds a quote, backslash or control character")
        segments.append(segment)
        position = match.end()
        if position == len(text):
            return tuple(segments)
        if text[position] != ".":
            raise InvalidFilter(f"path {text!r}: expected a dot at position {position}")
        position += 1


def json_equal(left, right):
    """Return whether two JSON texts are equal: numbers by value, true is not 1."""
    if left is None or right is None:
        return 0
    return int(_equal(msgspec.json.decode(left), msgspec.json.decode(right)))


def _equal(left, right):
    if isinstance(left, bool) or isinstance(right, bool):
        return left is right
    if isinstance(left, dict) and isinstance(right, dict):
        return left.keys() == right.keys() and all(_equal(left[k], right[k]) for k in left)
    if isinstance(left, list) and isinstance(right, list):
        return len(left) == len(right) and all(map(_equal, left, right))
    return left == right


class _Budget:
    """Counts the nodes of a filter."""

    def __init__(self):
        self.nodes = 0

    def spend(self, depth):
        """Count one node at `depth`; raise `InvalidFilter` when it is one too many."""
        self.nodes += 1
        if self.nodes > MAX_NODES:
            raise InvalidFilter(f"filter has more than {MAX_NODES} nodes")
        if depth > MAX_DEPTH:
            raise InvalidFilter(f"filter is nested deeper than {MAX_DEPTH} levels")


def _from_dict(filter, budget, depth):
    budget.spend(depth)
    children = []
    for name, value in filter.items():
        if not isinstance(name, str):
            raise InvalidFilter(f"filter key {name!r}: expected a field or an operator")
        if name in ("$and", "$or"):
            if not isinstance(value, list) or not all(isinstance(v, dict) for v in value):
                raise InvalidFilter(f"{name}: expected a list of filters")
            parts = tuple(_from_dict(v, budget, depth + 1) for v in value)
            children.append(Group(name[1:].upper(), parts))
        elif name == "$not":
            if not isinstance(value, dict):
                raise InvalidFilter("$not: expected a filter")
            children.append(Not(_from_dict(value, budget, depth + 1)))
        elif name.startswith("$"):
            raise InvalidFilter(f"unknown operator {name!r}: expected $and, $or, $not or a field")
        else:
            children.append(_field(split_path(name), value, budget, depth + 1))
    return children[0] if len(children) == 1 else Group("AND", tuple(children))


def _field(path, value, budget, depth):
    budget.spend(depth)
    operators = isinstance(value, dict) and any(str(k).startswith("$") for k in value)
    if not operators:
        return Test(path, "eq", value)
    children = []
    for name, operand in value.items():
        budget.spend(depth)
        if name not in OPERATORS:
            listed = ", ".join(OPERATORS)
            raise InvalidFilter(f"unknown operator {name!r}: expected one of {listed}")
        if name == "$eq":
            children.append(Test(path, "eq", operand))
        elif name == "$ne":
            children.append(Not(Test(path, "eq", operand)))
        elif name in ("$in", "$nin"):
            if not isinstance(operand, list):
                raise InvalidFilter(f"{name}: expected a list of values")
            for _ in operand:
                budget.spend(depth)
            test = Test(path, "in", tuple(operand))
            children.append(test if name == "$in" else Not(test))
        elif name == "$exists":
            if not isinstance(operand, bool):
                raise InvalidFilter("$exists: expected true or false")
            test = Test(path, "exists")
            children.append(test if operand else Not(test))
        elif name == "$not":
            if not isinstance(operand, dict):
                raise InvalidFilter("$not: expected operators")
            children.append(Not(_field(path, operand, budget, depth + 1)))
        else:
            children.append(_range(path, RANGES[name], operand))
    return children[0] if len(children) == 1 else Group("AND", tuple(children))


def _range(path, sign, value):
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        raise InvalidFilter(f"{sign} {value!r}: expected a number or a string")
    return Test(path, sign, value)


def _compile(node, column, bindings, scope):
    if isinstance(node, Group):
        if not node.children:
            return "1" if node.joint == "AND" else "0"
        parts = [_compile(child, column, bindings, scope) for child in node.children]
        return "(" + f" {node.joint} ".join(parts) + ")"
    if isinstance(node, Not):
        return f"({_compile(node.child, column, bindings, '')} IS NOT TRUE)"
    path = json_path(node.path)
    kind = f"json_type({column}, {path})"
    value = f"json_extract({column}, {path})"
    if node.operator == "exists":
        return f"({kind} IS NOT NULL)"
    if node.operator == "null":
        return f"(coalesce({kind}, 'null') = 'null')"
    if node.operator == "like":
        bindings.append(node.value)
        return f"({kind} = 'text' AND {value} LIKE ?)"
    if node.operator == "eq":
        return _compile_in((node.value,), kind, value, column, path, bindings, scope)
    if node.operator == "in":
        return _compile_in(node.value, kind, value, column, path, bindings, scope)
    bindings.append(node.value)
    wanted = "= 'text'" if isinstance(node.value, str) else "IN ('integer', 'real')"
    return f"({scope}{value} {node.operator} ? AND {kind} {wanted})"


def _compile_in(values, kind, value, column, path, bindings, scope):
    """Compile "equals one of", by JSON type, for the field itself and for its elements."""
    if not values:
        return "0"
    direct = _equals(values, kind, value, f"json({column} -> {path})", bindings, scope)
    each = _equals(values, "e.type", "e.value", "e.value", bindings, "")
    inside = f"EXISTS (SELECT 1 FROM json_each({column}, {path}) AS e WHERE {each})"
    return f"({direct} OR ({scope}{kind} = 'array' AND {inside}))"


def _equals(values, kind, value, whole, bindings, scope):
    texts = [v for v in values if isinstance(v, str)]
    numbers = [v for v in values if isinstance(v, (int, float)) and not isinstance(v, bool)]
    parts = []
    for group, wanted in ((texts, "= 'text'"), (numbers, "IN ('integer', 'real')")):
        if group:
            marks = ", ".join("?" * len(group))
            bindings.extend(group)
            parts.append(f"({scope}{value} IN ({marks}) AND {kind} {wanted})")
    for constant, name in ((True, "true"), (False, "false"), (None, "null")):
        if any(v is constant for v in values):
            parts.append(f"({scope}{kind} = '{name}')")
    for other in values:
        if isinstance(other, (list, tuple, dict)):
            name = "object" if isinstance(other, dict) else "array"
            bindings.append(msgspec.json.encode(other).decode())
            parts.append(f"({scope}{kind} = '{name}' AND {EQUAL_FUNCTION}({whole}, ?))")
    return " OR ".join(parts)


_TOKEN = re.compile(
    r"""\s*(?:
      (?P<number>-?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?(?![\w.]))
    | (?P<text>'(?:[^']|'')*')
    | (?P<sign><=|>=|<>|!=|=|<|>|\(|\)|,)
    | (?P<word>(?:[^\W\d]\w*|"[^"]*")(?:\.(?:\w+|"[^"]*"))*)
    )""",
    re.VERBOSE,
)
_KEYWORDS = frozenset("AND OR NOT IN BETWEEN LIKE IS NULL TRUE FALSE".split())


class _Expression:
    """Recursive descent over ``a.b >= 3 AND (c IN ('x', 'y') OR NOT d IS NULL)``."""

    def __init__(self, text):
        self._text = text
        self._tokens = list(self._split())
        self._at = 0
        self._budget = _Budget()

    def parse(self):
        """Return the tree of the whole text."""
        tree = self._either(1)
        kind, value, position = self._peek()
        if kind != "end":
            raise self._error("AND, OR or the end", value, position)
        return tree

    def _split(self):
        position, text = 0, self._text.rstrip()
        while position < len(text):
            match = _TOKEN.match(text, position)
            if match is None:
                raise InvalidFilter(
                    f"filter position {position}: can't read {text[position : position + 20]!r}"
                )
            kind, value = match.lastgroup, match[match.lastgroup]
            if kind == "word" and value.upper() in _KEYWORDS:
                kind, value = "key", value.upper()
            yield kind, value, match.start(match.lastgroup)
            position = match.end()
        yield "end", "the end", len(text)

    def _peek(self):
        return self._tokens[self._at]

    def _take(self, kind, *values):
        token = self._tokens[self._at]
        if token[0] == kind and (not values or token[1] in values):
            self._at += 1
            return token[1]
        return None

    def _expect(self, kind, value):
        if self._take(kind, value) is None:
            raise self._error(value, *self._peek()[1:])

    def _error(self, expected, found, position):
        return InvalidFilter(f"filter position {position}: expected {expected}, found {found!r}")

    def _either(self, depth):
        self._budget.spend(depth)
        parts = [self._both(depth)]
        while self._take("key", "OR"):
            parts.append(self._both(depth))
        return parts[0] if len(parts) == 1 else Group("OR", tuple(parts))

    def _both(self, depth):
        parts = [self._negated(depth)]
        while self._take("key", "AND"):
            parts.append(self._negated(depth))
        return parts[0] if len(parts) == 1 else Group("AND", tuple(parts))

    def _negated(self, depth):
        self._budget.spend(depth)
        if self._take("key", "NOT"):
            return Not(self._negated(depth + 1))
        if self._take("sign", "("):
            inner = self._either(depth + 1)
            self._expect("sign", ")")
            return inner
        return self._test()

    def _test(self):
        word = self._take("word")
        if word is None:
            raise self._error("a field", *self._peek()[1:])
        path = split_path(word)
        if self._take("key", "IS"):
            negative = self._take("key", "NOT")
            self._expect("key", "NULL")
            test = Test(path, "null")
            return Not(test) if negative else test
        sign = self._take("sign", "=", "!=", "<>", "<", "<=", ">", ">=")
        if sign in ("=", "!=", "<>"):
            test = Test(path, "eq", self._literal())
            return test if sign == "=" else Not(test)
        if sign:
            return _range(path, sign, self._literal())
        negative = self._take("key", "NOT")
        test = self._word_test(path)
        return Not(test) if negative else test

    def _word_test(self, path):
        if self._take("key", "IN"):
            self._expect("sign", "(")
            values = [self._literal()]
            while self._take("sign", ","):
                self._budget.spend(1)
                values.append(self._literal())
            self._expect("sign", ")")
            return Test(path, "in", tuple(values))
        if self._take("key", "BETWEEN"):
            low = _range(path, ">=", self._literal())
            self._expect("key", "AND")
            return Group("AND", (low, _range(path, "<=", self._literal())))
        if self._take("key", "LIKE"):
            _, value, position = self._peek()
            pattern = self._literal()
            if not isinstance(pattern, str):
                raise self._error("a text in quotes", value, position)
            return Test(path, "like", pattern)
        raise self._error("a comparison", *self._peek()[1:])

    def _literal(self):
        text = self._take("text")
        if text is not None:
            return text[1:-1].replace("''", "'")
        number = self._take("number")
        if number is not None:
            if number.lstrip("-").isdigit():
                value = int(number)
                return value if -(2**63) <= value < 2**63 else float(value)
            return float(number)
        word = self._take("key", "TRUE", "FALSE", "NULL")
        if word is not None:
            return {"TRUE": True, "FALSE": False, "NULL": None}[word]
        raise self._error("a value", *self._peek()[1:])
