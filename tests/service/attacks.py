"""Attempts on a server that no refusal may be missing for: each a request as bytes.

Not repeated here: ``test_hostile_bytes.py`` (names in paths, bodies over the limit, lengths),
``test_service_auth.py`` (forms of keys, hosts, origins), ``test_lab_pages.py`` (cookies,
websockets), and the engine's own lists of SQL.
"""

import json
from dataclasses import dataclass

from service_running import KEY

JSON = "Content-Type: application/json"
WITH_KEY = f"X-API-Key: {KEY}"
EVIL = "Origin: http://evil.example"
FORGED = "PUT /v1/state/smuggled HTTP/1.1\r\nHost: localhost\r\n" + WITH_KEY
FORGED = f'{FORGED}\r\n{JSON}\r\nContent-Length: 11\r\n\r\n{{"value":1}}'.encode()
PUT = b'{"value":1}'


@dataclass(frozen=True)
class Attack:
    """One attempt.

    Attributes
    ----------
    request : bytes
        ``HOST`` in it stands for the server's host and port.
    status : int
    code : str or None
        None: the bytes are no HTTP, and the answer is a bare 400 or nothing.
    server : {"keyed", "open", "dev"}
    never : bytes
        What no answer may hold.
    """

    name: str
    request: bytes
    status: int
    code: str | None
    server: str = "keyed"
    never: bytes = b"root:"


def http(method, target, *headers, body=None, host="HOST"):
    """Return a request as bytes; a body brings its Content-Length."""
    lines = [f"{method} {target} HTTP/1.1", f"Host: {host}", "Connection: close", *headers]
    if body is not None:
        lines.append(f"Content-Length: {len(body)}")
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1") + (body or b"")


def sent(name, status, code, method, target, *headers, body=None, **fields):
    """An attack by somebody who has the key."""
    return Attack(name, http(method, target, WITH_KEY, *headers, body=body), status, code, **fields)


def posted(name, status, code, target, value, method="POST", **fields):
    """An attack with a JSON body, by somebody who has the key."""
    body = value if isinstance(value, bytes) else json.dumps(value).encode()
    return sent(name, status, code, method, target, JSON, body=body, **fields)


# path, method, what refuses a name that is text but no name of anything
PLACES = {
    "a state key": ("GET", "/v1/state/{}", 404, "not_found"),
    "a document": ("GET", "/v1/doc/c/{}", 404, "not_found"),
    "a collection of documents": ("GET", "/v1/doc/{}/a", 404, "not_found"),
    "a collection": ("DELETE", "/v1/vector/{}", 400, "invalid_argument"),
    "a collection's points": ("GET", "/v1/vector/{}/get?id=a", 400, "invalid_argument"),
    "a collection's index": ("POST", "/v1/vector/{}/index/drop", 400, "invalid_argument"),
    "a consumer": ("DELETE", "/v1/consumers/{}", 400, "invalid_argument"),
    "a job": ("DELETE", "/v1/jobs/{}", 404, "not_found"),
    "a key's id": ("DELETE", "/v1/auth/keys/{}", 404, "not_found"),
    "a static file": ("GET", "/docs/static/{}", 404, "not_found"),
}
SPELLINGS = {
    "dots": "%2e%2e%2fluma.db",
    "dots twice encoded": "%252e%252e%252fluma.db",
    "dots and backslashes": "..%5c..%5cluma.db",
    "an absolute path": "%2fetc%2fpasswd",
    "a NUL": "keys.db%00",
    "a semicolon": "..;%2fluma.db",
    "a drive": "C:%5cwindows",
    "a UNC share": "%5c%5chost%5cshare",
}
OVERLONG = "%c0%ae%c0%ae%c0%afetc"
PATHS = [
    sent(f"{spelling} as {place}", status, code, method, path.format(text))
    for place, (method, path, status, code) in PLACES.items()
    for spelling, text in SPELLINGS.items()
]
PATHS += [
    sent(f"overlong UTF-8 as {place}", 400, "invalid_argument", method, path.format(OVERLONG))
    for place, (method, path, _, _) in PLACES.items()
]
PATHS += [
    sent(f"raw dots, {path}", 404, "not_found", "GET", path)
    for path in (
        "/docs/static/../openapi.json",
        "/docs/../v1/state",
        "/v1/doc/../../keys.db",
        "/v1/vector/../jobs",
        "/v1/../v1/state",
        "/.git/config",
        "/luma.db",
        "/keys.db",
        "/.env",
    )
]
# What the original leaves open, or what looks like an open path: nobody's key is sent.
UNKEYED = [
    Attack(f"no key, {method} {path}", http(method, path), 401, "unauthorized")
    for method in ("GET", "DELETE", "TRACE")
    for path in (
        "/v1/doc/c/x.openapi.yaml",
        "/v1/auth/keys/openapi.yaml",
        "/v1/vector/openapi.yaml",
        "/v1/state?x=/openapi.yaml",
        "/v1/state#/openapi.yaml",
        "/assets/../v1/state",
        "/docs/../v1/state",
        "/docs%2f..%2fv1%2fstate",
        "/docs/",
        "/docsx",
        "/v1/health/../state",
        "/v1/health%2f..%2fstate",
        "/v1/health;/v1/state",
        "/V1/HEALTH",
        "/lab/login/../../v1/state",
        "/lab/ws",
        "http://HOST/v1/health",
    )
]
UNKEYED += [
    Attack(
        f"no key, a change under an open folder, {path}",
        http("DELETE", path),
        401,
        "unauthorized",
    )
    for path in ("/docs/static/../../v1/state/k", "/lab/static/../../v1/state/k")
]
TOKENS = [
    Attack(f"key: {name}", http("DELETE", "/v1/state/k", *headers), 401, "unauthorized")
    for name, headers in {
        "two Authorizations, wrong first": (
            "Authorization: Bearer x",
            f"Authorization: Bearer {KEY}",
        ),
        "two Authorizations, right first": (
            f"Authorization: Bearer {KEY}",
            "Authorization: Bearer x",
        ),
        "two keys": ("X-API-Key: x", f"X-API-Key: {KEY}"),
        "a tab behind Bearer": (f"Authorization: Bearer\t{KEY}",),
        "in capitals": (f"Authorization: BEARER {KEY}",),
        "quoted": (f'Authorization: Bearer "{KEY}"',),
        "as Basic": ("Authorization: Basic dGVzdDp0ZXN0LWtleQ==",),
        "only Bearer": ("Authorization: Bearer ",),
        "in a cookie": (f"Cookie: api_key={KEY}; luma_session={KEY}",),
        "in another header": (f"X-Auth-Token: {KEY}",),
        "a wildcard": ("X-API-Key: *",),
        "SQL": ("X-API-Key: ' OR '1'='1",),
        "very long": ("X-API-Key: " + "k" * 60_000,),
        "the dev key": ("X-API-Key: dev",),
        "the id of the configured key": ("X-API-Key: configured",),
        "behind a proxy of its own making": ("X-Forwarded-For: 127.0.0.1", "X-Real-IP: ::1"),
    }.items()
]
OVERRIDES = [
    sent(f"{header} on {method}", status, code, method, path, f"{header}: DELETE")
    for header in ("X-HTTP-Method-Override", "X-HTTP-Method", "X-Method-Override")
    for method, path, status, code in (
        ("POST", "/v1/state/k", 405, "method_not_allowed"),
        ("GET", "/v1/state/none", 404, "not_found"),
    )
]
OVERRIDES += [
    sent("_method in the query", 405, "method_not_allowed", "POST", "/v1/state/k?_method=DELETE"),
    *(
        sent(f"the method {method[:9]}", 405, "method_not_allowed", method, "/v1/state/k")
        for method in ("TRACE", "CONNECT", "PROPFIND", "delete", "DELETE_", "X" * 3000)
    ),
]
LENGTHS = [
    sent(f"lengths: {name}", 400, "invalid_argument", "PUT", "/v1/state/a", JSON, *headers)
    for name, headers in {
        "two that differ": ("Content-Length: 0", "Content-Length: 11"),
        "two alike": ("Content-Length: 11", "Content-Length: 11"),
        "with a plus": ("Content-Length: +11",),
        "in hexadecimal": ("Content-Length: 0xb",),
        "of 5,000 digits": ("Content-Length: " + "9" * 5000,),
        "with an underscore": ("Content-Length: 1_1",),
        "in another script": ("Content-Length: \xb2",),
        "an unknown coding": ("Transfer-Encoding: xchunked",),
        "chunked twice": ("Transfer-Encoding: chunked, chunked",),
        "chunked, then identity": ("Transfer-Encoding: chunked", "Transfer-Encoding: identity"),
        "chunked before a length": ("Transfer-Encoding: chunked", "Content-Length: 11"),
        "chunked behind a length": ("Content-Length: 11", "Transfer-Encoding: chunked"),
    }.items()
]
CHUNKS = [
    Attack(
        f"chunks: {name}",
        http("PUT", "/v1/state/a", WITH_KEY, JSON, "Transfer-Encoding: chunked") + body,
        400,
        None,
    )
    for name, body in {
        "a negative size": b"-1\r\n" + PUT + b"\r\n0\r\n\r\n",
        "a size with a prefix": b"0xb\r\n" + PUT + b"\r\n0\r\n\r\n",
        "a size with a plus": b"+b\r\n" + PUT + b"\r\n0\r\n\r\n",
        "a size with a blank": b" b\r\n" + PUT + b"\r\n0\r\n\r\n",
        "a size beyond 64 bits": b"f" * 18 + b"\r\n" + PUT + b"\r\n0\r\n\r\n",
        "a size of zeros": b"0" * 70_000 + b"b\r\n" + PUT + b"\r\n0\r\n\r\n",
        "no size": b"\r\n" + PUT + b"\r\n0\r\n\r\n",
        "an extension": b"b;x=1\r\n" + PUT + b"\r\n0\r\n\r\n",
        "more than the size": b"5\r\n" + PUT + b"\r\n0\r\n\r\n",
        "a trailer with a key": b"b\r\n" + PUT + b"\r\n0\r\nX-API-Key: x\r\n\r\n",
        "a request in place of a chunk": FORGED,
    }.items()
]
SMUGGLED = [
    Attack("a request in the body of a refused one",
           http("PUT", "/v1/state/a", JSON, body=FORGED), 401, "unauthorized"),
    Attack("a request in the large body of a refused one",
           http("PUT", "/v1/state/a", JSON, body=FORGED * 1000), 401, "unauthorized"),
    sent("a request in the body of a GET", 404, "not_found", "GET", "/v1/state/none",
         body=FORGED),
    sent("a request in the body of an unknown route", 404, "not_found", "POST", "/v1/nope",
         body=FORGED),
    sent("a request behind an encoded line end", 404, "not_found", "GET",
         "/v1/state/none%20HTTP/1.1%0d%0aX-A:%201%0d%0a%0d%0a"),
    sent("a request that hopes for another host", 404, "not_found", "GET",
         "http://evil.example/v1/state"),
    Attack("two hosts", http("DELETE", "/v1/state/k", WITH_KEY, "Host: evil.example"), 400,
           "invalid_argument"),
    *(
        Attack(f"headers: {name}", http("DELETE", "/v1/state/k", WITH_KEY, header), 400, None)
        for name, header in {
            "a blank before the colon": "Transfer-Encoding : chunked",
            "a folded line": "X-A: b\r\n c",
            "a bare carriage return": "X-A: b\rX-API-Key: x",
            "a NUL": "X-A: b\0c",
            "no colon": "nonsense",
            "a vertical tab": "Transfer-Encoding: \x0bchunked",
        }.items()
    ),
    *(
        Attack(f"request line: {name}", line + f" \r\nHost: HOST\r\n{WITH_KEY}\r\n\r\n".encode()
               if name == "no version" else
               line + f"\r\nHost: HOST\r\n{WITH_KEY}\r\n\r\n".encode(), 400, None)
        for name, line in {
            "HTTP/0.9": b"DELETE /v1/state/k HTTP/0.9",
            "HTTP/2.0": b"DELETE /v1/state/k HTTP/2.0",
            "no version": b"DELETE /v1/state/k",
            "a blank in the target": b"DELETE /v1/state/k x HTTP/1.1",
            "a NUL in the target": b"DELETE /v1/state/k\0 HTTP/1.1",
            "a NUL in the method": b"DEL\0ETE /v1/state/k HTTP/1.1",
            "no target": b"DELETE  HTTP/1.1",
            "the preface of HTTP/2": b"PRI * HTTP/2.0",
        }.items()
    ),
]  # fmt: skip
REBINDING = [
    Attack(
        f"{server}: the host {host!r}",
        http("DELETE", "/v1/state/k?api_key=dev", host=host),
        status,
        code,
        server,
    )
    for server in ("open", "dev")
    for host, status, code in (
        ("evil.example", 403, "forbidden"),
        ("localhost@evil.example", 403, "forbidden"),
        ("evil@127.0.0.1", 400, "invalid_argument"),
        ("127.0.0.1/evil", 400, "invalid_argument"),
        ("localhost,evil.example", 403, "forbidden"),
        ("0.0.0.0", 403, "forbidden"),
        ("127.1", 403, "forbidden"),
        ("2130706433", 403, "forbidden"),
        ("0x7f000001", 403, "forbidden"),
        ("localhost.localdomain.evil", 403, "forbidden"),
        ("xn--lcalhost-54a", 403, "forbidden"),
        ("[::2]", 403, "forbidden"),
    )
]
# A page of another site, in the browser of somebody whose lab asks for no secret.
ELSEWHERE = [
    Attack(f"{server}: a foreign page, {name}", http(method, f"{path}?api_key=dev", *headers,
           body=body), status, code, server)
    for server in ("open", "dev")
    for name, method, path, headers, body, status, code in (
        ("a plain POST", "POST", "/v1/vector/docs/index/drop", (EVIL,), b"", 403, "forbidden"),
        ("a form", "POST", "/v1/events", (EVIL, "Content-Type: text/plain"),
         b'{"type":"told","data":1}', 403, "forbidden"),
        ("of no origin", "POST", "/v1/vector/docs/index/drop", ("Origin: null",), b"", 403,
         "forbidden"),
        ("of a like name", "DELETE", "/v1/state/k", ("Origin: http://localhost.evil.example",),
         None, 403, "forbidden"),
        ("a preflight", "OPTIONS", "/v1/state/k",
         (EVIL, "Access-Control-Request-Method: DELETE"), None, 403, "forbidden"),
        ("a websocket", "GET", "/lab/ws", (EVIL, "Upgrade: websocket"), None, 403, "forbidden"),
    )
]  # fmt: skip
WIRE_ATTACKS = [
    *PATHS, *UNKEYED, *TOKENS, *OVERRIDES, *LENGTHS, *CHUNKS,
    *SMUGGLED, *REBINDING, *ELSEWHERE,
]  # fmt: skip
