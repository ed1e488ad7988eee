import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from service_running import KEY, parse_response

from luma_lab import codec
from luma_lab.service.base import nesting

V = "/v1/vector/docs"
TRAVERSALS = ["..", "%2e%2e", "..%2f..%2fetc", "%2Fetc%2Fpasswd", ".hidden", "a%00b", "a%5Cb", "ä"]


@pytest.mark.parametrize("name", TRAVERSALS)
@pytest.mark.parametrize(
    ("method", "rest"), [("GET", ""), ("POST", "/upsert"), ("DELETE", ""), ("POST", "/search")]
)
def test_names_that_are_no_names_are_refused_before_anything_else(shared, name, method, rest):
    head = f"{method} /v1/vector/{name}{rest} HTTP/1.1\r\nHost: {shared.host}\r\n"
    head += f"X-API-Key: {KEY}\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"
    status, _, body = parse_response(shared.raw(head.encode()))
    assert (status, json.loads(body)["error"]) == (400, "invalid_argument")
    assert not [path for path in shared.lab.path.rglob("*") if "etc" in path.name]


def test_a_collection_name_over_the_limit_is_too_long(ask):
    answer = ask("GET", "/v1/vector/" + "c" * 65)
    assert answer.status_code == 400 and "collection too long" in answer.json()["message"]


def test_dots_inside_a_path_lead_nowhere(shared):
    for path in ("/v1/vector/../../etc/passwd", "/../etc/passwd", "//etc/passwd", "/lab/../x"):
        head = f"GET {path} HTTP/1.1\r\nHost: {shared.host}\r\nX-API-Key: {KEY}\r\n"
        raw = shared.raw(head.encode() + b"Connection: close\r\n\r\n")
        status, headers, body = parse_response(raw)
        assert status in (404, 501) and headers["content-type"] == "application/json"
        assert "error" in json.loads(body)


def test_a_body_over_the_limit_is_413_in_json(serve):
    server = serve(max_body_mb=1, max_json_mb=1)
    with server.client() as client:
        body = b'{"value":"' + b"x" * (3 << 20) + b'"}'
        headers = {"Content-Type": "application/json"}
        refused = client.put("/v1/state/a", content=body, headers=headers)
        assert (refused.status_code, refused.json()["error"]) == (413, "payload_too_large")
        assert client.get("/v1/state").json() == []


def test_a_chunked_body_over_the_limit_is_413_in_json(serve):
    server = serve(max_body_mb=1, max_json_mb=1)
    head = f"PUT /v1/state/a HTTP/1.1\r\nHost: {server.host}\r\nX-API-Key: {KEY}\r\n"
    head += "Content-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
    chunk = b"%x\r\n%b\r\n" % (1 << 16, b"x" * (1 << 16))
    status, _, body = parse_response(server.raw(head.encode() + chunk * 40 + b"0\r\n\r\n"))
    assert (status, json.loads(body)["error"]) == (413, "payload_too_large")
    with server.client() as client:
        assert client.get("/v1/state").json() == []


def test_a_huge_announced_body_is_refused_before_it_is_sent(serve):
    server = serve(max_body_mb=1, max_json_mb=1)
    head = f"PUT /v1/state/a HTTP/1.1\r\nHost: {server.host}\r\nX-API-Key: {KEY}\r\n"
    head += "Expect: 100-continue\r\nContent-Length: 999999999999\r\n\r\n"
    raw = server.raw(head.encode())
    assert raw.startswith(b"HTTP/1.1 413") and b"100 (Continue)" not in raw


def test_a_strangers_large_body_is_not_read(serve):
    server = serve()
    head = f"PUT /v1/state/a HTTP/1.1\r\nHost: {server.host}\r\nContent-Length: 9000000\r\n\r\n"
    status, headers, body = parse_response(server.raw(head.encode()))
    assert (status, json.loads(body)["error"]) == (401, "unauthorized")
    assert headers["connection"] == "close"


@pytest.mark.parametrize("length", ["x", "-1", "1, 2", "1e3"])
def test_a_bad_content_length_is_400_in_json(shared, length):
    head = f"PUT /v1/state/a HTTP/1.1\r\nHost: {shared.host}\r\nX-API-Key: {KEY}\r\n"
    head += f"Content-Length: {length}\r\n\r\n"
    status, _, body = parse_response(shared.raw(head.encode()))
    assert (status, json.loads(body)["error"]) == (400, "invalid_argument")


@pytest.mark.parametrize(
    "headers",
    ["Transfer-Encoding: gzip, chunked", "Transfer-Encoding: chunked\r\nContent-Length: 2"],
)
def test_a_body_of_doubtful_length_is_400_in_json(shared, headers):
    head = f"PUT /v1/state/a HTTP/1.1\r\nHost: {shared.host}\r\nX-API-Key: {KEY}\r\n{headers}"
    status, _, body = parse_response(shared.raw(head.encode() + b"\r\n\r\n{}"))
    assert (status, json.loads(body)["error"]) == (400, "invalid_argument")


def test_a_request_without_a_host_is_400_in_json(shared):
    status, _, body = parse_response(shared.raw(b"GET /v1/health HTTP/1.1\r\n\r\n"))
    assert (status, json.loads(body)["error"]) == (400, "invalid_argument")


def test_too_many_query_parameters_are_400_in_json(ask):
    answer = ask("GET", "/v1/state?" + "&".join(f"a{i}=1" for i in range(2000)))
    assert answer.status_code == 400


def test_a_body_that_does_not_arrive_in_time_is_408_in_json(serve):
    server = serve(request_timeout_secs=1)
    head = f"PUT /v1/state/a HTTP/1.1\r\nHost: {server.host}\r\nX-API-Key: {KEY}\r\n"
    head += "Content-Type: application/json\r\nContent-Length: 50\r\n\r\n{"
    status, _, body = parse_response(server.raw(head.encode()))
    assert (status, json.loads(body)["error"]) == (408, "timeout")


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=30,
)


def depth_of(value):
    if isinstance(value, dict):
        return 1 + max(map(depth_of, value.values()), default=0)
    if isinstance(value, list):
        return 1 + max(map(depth_of, value), default=0)
    return 0


@given(JSON_VALUES)
def test_the_depth_of_json_is_counted_without_decoding_it(value):
    # Padding with flat lists makes the count of brackets large enough to look closer.
    padded = [value, *([[]] * codec.MAX_DEPTH)]
    assert nesting(json.dumps(padded).encode()) == depth_of(padded)
    assert nesting(json.dumps(padded, ensure_ascii=False).encode()) == depth_of(padded)


ROUTES = ["/v1/state/batch_put", V, f"{V}/upsert", f"{V}/search", f"{V}/delete_batch"]
BODIES = st.binary(max_size=60) | JSON_VALUES.map(lambda value: json.dumps(value).encode())


@settings(
    max_examples=120,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(path=st.sampled_from(ROUTES), body=BODIES)
def test_no_body_brings_anything_but_a_well_formed_refusal(ask, path, body):
    answer = ask("POST", path, content=body, headers={"Content-Type": "application/json"})
    assert 400 <= answer.status_code < 500


@settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(st.binary(max_size=200))
def test_no_bytes_on_the_wire_harm_the_server(shared, data):
    shared.raw(data + b"\r\n\r\n", timeout=0.05)
    with shared.client() as client:
        assert client.get("/v1/health").json()["status"] == "ok"
