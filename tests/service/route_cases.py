"""What a row of the route table is, and the rows that every route of a kind has in common.

A `Route` says what the contract says of one method of one path: who may, what it reads, what
each field is. From that follow the refusals all such routes share; what is a route's own stands
in its `cases`. The routes themselves are in the modules ``routes_of_*``.
"""

import json
from dataclasses import dataclass, field, replace
from typing import Any

from luma_lab import codec

METHODS = ("GET", "PUT", "POST", "PATCH", "DELETE")
UNSET = object()
JSON = "application/json"
NDJSON = "application/x-ndjson"
BINARY = "application/octet-stream"
FORM = "application/x-www-form-urlencoded"
# The limits the servers of the table are started with.
BODY_MB, JSON_MB = 2, 1
DIM_LIMIT, K_LIMIT, BATCH_LIMIT = 4096, 256, 256
SAMPLES = {"key": "k", "collection": "docs", "id": "a", "name": "reader"}
MISSING = "none"  # no collection, document, job or key of this name ever exists
# What is sent in place of a field's value, and where in the field the fault lies.
WRONG = {
    "int": [("x", ""), (1.5, ""), (True, ""), ([], "")],
    "number": [("x", ""), ([], "")],
    "bool": [("yes", ""), (1, "")],
    "text": [(5, ""), ([], "")],
    "word": [("nope", ""), (5, "")],
    "id": [(1.5, ""), (True, ""), ([], "")],
    "vector": [("x", ""), ([None], "[0]"), (["1"], "[0]"), ({}, "")],
    "vectors": [("x", ""), ([1], "[0]"), ([["1"]], "[0][0]")],
    "list": [({}, ""), ("x", "")],
    "paths": [("x", ""), (5, ""), ([5], "[0]")],
    "object": [([], ""), ("x", "")],
    "any": [],
}


@dataclass(frozen=True)
class Case:
    """One request and the answer the contract asks for.

    Attributes
    ----------
    events : int or None
        By how much a success moves the head of the log; None: by itself, in time.
    at : str or None
        The field of the body that a 422 has to name.
    index : int or None
        The position, of an operation that failed, that has to be told.
    key : {"admin", "write", "read", "confined", "unknown", None}
    server : {"plain", "hasty", "hasty_sql", "no_sql", "bare"}
        Which of the servers is asked: all are on one lab.
    before : tuple of (method, url, json)
        Asked first, by the administrator.
    """

    name: str
    status: int
    code: str | None = None
    says: str = ""
    events: int | None = 0
    at: Any = UNSET
    index: int | None = None
    method: str | None = None
    url: str | None = None
    json: Any = UNSET
    content: bytes | None = None
    headers: dict = field(default_factory=dict)
    key: str | None = "admin"
    server: str = "plain"
    before: tuple = ()
    answers: str = "any"  # or "empty", "stream"
    allows: frozenset | None = None


def good(name="succeeds", events=0, *, status=200, **request):
    """A success."""
    return Case(name, status, events=events, **request)


def bad(name, status, code="invalid_argument", says="", **request):
    """A refusal."""
    return Case(name, status, code, says, **request)


def shape(name, at, **request):
    """A body of the wrong shape, whose field `at` is named."""
    return Case(name, 422, "invalid_argument", at=at, **request)


FILTERS = (
    ("a list", [1], "expected"),
    ("a number", 5, "expected"),
    ("an unknown operator", {"a": {"$near": 1}}, "$near"),
    ("an expression that breaks off", "a >", ""),
    ("a function", "abs(a) = 1", ""),
)


def filter_cases(body):
    """What every route with `filters` refuses."""
    for name, value, says in FILTERS:
        yield bad(f"filters is {name}", 400, "invalid_filter", says,
                  json={**body, "filters": value})  # fmt: skip
    yield bad("filters is too large", 413, "payload_too_large", "filters too large",
              json={**body, "filters": {"a": "x" * (1 << 20)}})  # fmt: skip


@dataclass(frozen=True)
class Route:
    """One method of one path.

    Attributes
    ----------
    role : {"read", "write", "admin"} or None
    cases : tuple of Case
        The first is the plain success; others take from it what they leave out.
    fields : dict
        Name of a field of the JSON body to its kind, a key of :data:`WRONG`; a ``*`` behind the
        kind: the field is required. None: the route reads no JSON.
    any_json : bool
        Any JSON value is a good body.
    params : dict
        Values of the path's parameters where those of :data:`SAMPLES` do not fit.
    waits : {"query", "body"} or None
        How ``min_offset`` is told.
    confined : {"refused", "open"}
        What a key confined to other collections and keys gets.
    lacks : str
        What a 404 says of a collection that is not there; "": such a name is fine.
    operation : bool
        Whether the API description has it.
    also : tuple of str
        Methods of the same url that belong to another path of the table.
    """

    method: str
    path: str
    role: str | None
    cases: tuple
    fields: dict | None = None
    any_json: bool = False
    params: dict = field(default_factory=dict)
    waits: str | None = None
    confined: str = "refused"
    lacks: str = ""
    operation: bool = True
    also: tuple = ()

    @property
    def name(self):
        return f"{self.method} {self.path}"

    @property
    def reads_json(self):
        return self.fields is not None or self.any_json

    @property
    def streams(self):
        return self.cases[0].answers == "stream"

    def url(self, **params):
        """Return the path with its parameters filled in, the first case's query behind it."""
        path = self.path.format(**{**SAMPLES, **self.params, **params})
        first = self.cases[0].url
        return path + first[first.index("?") :] if first and "?" in first else path


def rows_of(route, methods):
    """Yield every `Case` of a route, complete: its own, and those of its kind.

    Parameters
    ----------
    methods : set of str
        All that the contract has for the path.
    """
    first = _complete(route, route.cases[0], route.cases[0])
    yield first
    for case in route.cases[1:]:
        yield _complete(route, case, first)
    for kind in (_keys, _parameters, _bodies, _fields, _waits, _neighbours):
        for case in kind(route, first):
            yield _complete(route, case, first)
    yield from _other_methods(route, first, methods)


def _complete(route, case, first):
    url = case.url
    if url is None:
        url = route.url()
    elif url.startswith("?"):
        url = route.url().partition("?")[0] + url
    body = {}
    if case.json is UNSET and case.content is None and case.method is None:
        body = {"json": first.json, "content": first.content}
        body["headers"] = {**first.headers, **case.headers}
    elif case.content is not None and first.content is not None:
        body = {"headers": {**first.headers, **case.headers}}
    return replace(case, method=case.method or route.method, url=url, **body)


def _keys(route, first):
    if route.role is None:
        return
    yield bad(
        "without a key", 401, "unauthorized", "missing authorization header", key=None
    )  # fmt: skip
    yield bad("with a wrong key", 401, "unauthorized", "invalid api key", key="unknown")
    lesser = {"read": (), "write": ("read",), "admin": ("read", "write", "confined")}
    for key in lesser[route.role]:
        yield bad(f"with a {key} key", 403, "forbidden", route.role, key=key)
    if route.role != "admin" and route.confined == "refused":
        yield bad("outside the scopes of the key", 403, "forbidden", key="confined")


def _parameters(route, first):
    if not route.operation:
        return
    limits = {"key": 512, "collection": 64, "name": 64}
    if route.path.startswith("/v1/doc/"):
        limits["id"] = 128
    for name, limit in limits.items():
        if f"{{{name}}}" not in route.path:
            continue
        what = "consumer name" if name == "name" else f"{name} too long"
        long = route.url(**{name: "x" * (limit + 1)})
        yield bad(f"with a {name} too long", 400, says=what, url=long)
    for name in ("key", "collection", "name", "id"):
        if f"{{{name}}}" in route.path:
            broken = route.url(**{name: "%FF"})
            yield bad(f"with a {name} that is no UTF-8", 400, url=broken)
    if route.path.startswith("/v1/vector/{collection}"):
        for odd in ("a b", ".a", "a%2Fb", "ñ"):
            odd_url = route.url(collection=odd)
            yield bad(f"with the collection {odd!r}", 400, says="invalid collection", url=odd_url)


def _bodies(route, first):
    if not route.reads_json:
        return
    sent = json.dumps(first.json).encode()
    deep = b"[" * (codec.MAX_DEPTH + 1) + b"]" * (codec.MAX_DEPTH + 1)
    for name, content in (
        ("an empty body", b""),
        ("half a body", b'{"a":'),
        ("a body with more behind it", sent + b"{}"),
        ("a body that is no UTF-8", b'{"a":"\xff"}'),
        ("a body that is nested too deep", b'{"a":' + deep + b"}"),
        ("a body with NaN", b'{"a":NaN}'),
    ):
        yield bad(name, 400, "invalid_json", content=content, headers={"Content-Type": JSON})
    for name, headers in (("of another type", {"Content-Type": "text/plain"}), ("of no type", {})):
        yield bad(
            f"a body {name}", 415, "unsupported_media_type", JSON, content=sent, headers=headers
        )
    large = b'{"a":"' + b"x" * (BODY_MB << 20) + b'"}'
    yield bad(
        "a body too large", 413, "payload_too_large", "body too large",
        content=large, headers={"Content-Type": JSON},
    )  # fmt: skip


def _fields(route, first):
    if route.fields is None:
        return
    for value in ([], "x", None):
        yield shape(f"the body {value!r}", None, json=value)
    for name, kind in route.fields.items():
        if kind.endswith("*"):
            rest = {n: v for n, v in first.json.items() if n != name}
            yield shape(f"without {name}", name, json=rest)
            if kind != "any*":
                yield shape(f"{name} is null", name, json={**first.json, name: None})
        for value, where in WRONG[kind.rstrip("*")]:
            sent = {**first.json, name: value}
            yield shape(f"{name} is {value!r}", name + where, json=sent)


def _waits(route, first):
    ahead = 2**40
    if route.waits == "query":
        sign = "&" if "?" in route.url() else "?"
        for value in ("x", "-1", ""):
            yield bad(
                f"min_offset is {value!r}", 400, says="min_offset",
                url=f"{route.url()}{sign}min_offset={value}",
            )  # fmt: skip
        yield bad(
            "min_offset never comes", 408, "timeout", str(ahead),
            url=f"{route.url()}{sign}min_offset={ahead}", server="hasty",
        )  # fmt: skip
        yield good("min_offset is there", url=f"{route.url()}{sign}min_offset=1")
    elif route.waits == "body":
        sent = {**first.json, "min_offset": -1}
        yield bad("min_offset is -1", 400, says="min_offset", json=sent)
        yield shape("min_offset is a word", "min_offset", json={**sent, "min_offset": "x"})
        yield bad(
            "min_offset never comes", 408, "timeout", str(ahead),
            json={**sent, "min_offset": ahead}, server="hasty",
        )  # fmt: skip
        yield good("min_offset is there", json={**sent, "min_offset": 1})


def _neighbours(route, first):
    if route.lacks:
        yield bad(
            "the collection is not there", 404, "not_found", route.lacks,
            url=route.url(collection=MISSING),
        )  # fmt: skip


def _other_methods(route, first, methods):
    allowed = set(methods) | {"OPTIONS"}
    if "GET" in methods and not route.streams:
        allowed.add("HEAD")
    allowed = frozenset(allowed)
    url = first.url
    # Rows of the path, given once: by the first of its methods.
    if route.method == min(methods - set(route.also)):
        for method in METHODS:
            if method not in methods:
                yield bad(
                    f"method {method}", 405, "method_not_allowed", method,
                    method=method, url=url, allows=allowed,
                )  # fmt: skip
        yield Case(
            "method OPTIONS", 204, method="OPTIONS", url=url, answers="empty", allows=allowed
        )
        asks = {"Origin": "http://app.example", "Access-Control-Request-Method": route.method}
        yield Case(
            "a preflight without a key", 204, method="OPTIONS", url=url, headers=asks, key=None,
            answers="empty", allows=allowed,
        )  # fmt: skip
    if route.method == "GET":
        status = 405 if route.streams else first.status
        yield Case("method HEAD", status, method="HEAD", url=url, answers="empty", key=first.key)
