import json

import httpx
import pytest
from service_running import KEY, parse_response

OPEN = ["/", "/index.html", "/v1/health", "/docs", "/openapi.yaml", "/docs/openapi.json"]
# what makes the path open in the original, or looks as if it might
CLOSED = [
    "/v1/state/x-openapi.yaml",
    "/v1/state/openapi.yaml",
    "/v1/doc/c/openapi.yaml",
    "/assets/x",
    "/docs/other",
    "/v1/health/",
    "/v1/%68ealth",
    "//v1/health",
    "/lab/login/",
    "/lab/",
    "/v1/metrics",
    "/v1/stream",
    "/v1/events",
    "/nope",
]


@pytest.mark.parametrize("path", OPEN)
def test_open_paths_need_no_key(shared, path):
    with shared.client(key=None) as client:
        assert client.get(path).status_code in (200, 501)


@pytest.mark.parametrize("path", CLOSED)
@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE"])
def test_every_other_path_needs_the_key(shared, method, path):
    request = f"{method} {path} HTTP/1.1\r\nHost: {shared.host}\r\nConnection: close\r\n\r\n"
    status, headers, body = parse_response(shared.raw(request.encode()))
    assert status == 401 and headers["www-authenticate"] == "Bearer"
    assert json.loads(body) == {
        "error": "unauthorized",
        "message": "missing authorization header",
    }


@pytest.mark.parametrize(
    ("headers", "query"),
    [
        ({"Authorization": f"Bearer {KEY}"}, ""),
        ({"Authorization": f"Bearer   {KEY}"}, ""),
        ({"X-API-Key": KEY}, ""),
        ({"x-api-key": KEY}, ""),
        ({}, f"?api_key={KEY}"),
        ({}, f"?api_key={KEY}&api_key=wrong"),
        ({}, "?api_key=test%2Dkey"),
    ],
)
def test_the_key_may_come_in_each_of_its_forms(shared, headers, query):
    with shared.client(key=None) as client:
        assert client.get(f"/v1/state{query}", headers=headers).status_code == 200


@pytest.mark.parametrize(
    ("headers", "query", "message"),
    [
        ({"Authorization": f"bearer {KEY}"}, "", "invalid authorization header format"),
        ({"Authorization": f"Bearer{KEY}"}, "", "invalid authorization header format"),
        ({"Authorization": f"Basic {KEY}"}, "", "invalid authorization header format"),
        (
            {"Authorization": f"Token {KEY}", "X-API-Key": KEY},
            "",
            "invalid authorization header format",
        ),
        ({"Authorization": "Bearer wrong", "X-API-Key": KEY}, "", "invalid api key"),
        ({"X-API-Key": f"{KEY}x"}, "", "invalid api key"),
        ({"X-API-Key": KEY[:-1]}, "", "invalid api key"),
        ({"X-API-Key": ""}, f"?api_key={KEY}", "invalid api key"),
        ({}, f"?api_key=wrong&api_key={KEY}", "invalid api key"),
        ({}, "?api_key=", "invalid api key"),
        ({"X-API-Key": "ключ".encode()}, "", "invalid api key"),
        ({}, "?api_key=%FF", "invalid api key"),
    ],
)
def test_wrong_keys_are_told_what_is_wrong(shared, headers, query, message):
    with shared.client(key=None) as client:
        refused = client.get(f"/v1/state{query}", headers=headers)
        assert refused.status_code == 401
        assert refused.json() == {"error": "unauthorized", "message": message}


def test_an_open_laboratory_asks_nobody(serve):
    with serve(auth="open").client(key=None) as client:
        assert client.put("/v1/state/a", json={"value": 1}).status_code == 200
        assert client.get("/v1/state", headers={"Authorization": "nonsense"}).status_code == 200


@pytest.mark.parametrize(
    ("host", "served"),
    [
        ("127.0.0.1", True),
        ("localhost:8080", True),
        ("[::1]:8080", True),
        ("evil.example", False),
        ("localhost.evil.example:8080", False),
        ("127.0.0.1.evil.example", False),
        ("[", False),
    ],
)
@pytest.mark.parametrize("flags", [{"auth": "open"}, {"api_key": "dev"}])
def test_without_a_real_key_only_loopback_hosts_are_served(serve, flags, host, served):
    server = serve(**flags)
    with server.client(key="dev") as client:
        answer = client.get("/v1/state", headers={"Host": host})
        assert answer.status_code == (200 if served else 403)
        if not served:
            assert answer.json()["error"] == "forbidden"


def test_with_a_real_key_any_host_is_served(client):
    assert client.get("/v1/state", headers={"Host": "lab.example"}).status_code == 200


PREFLIGHT = {
    "Origin": "http://app.example",
    "Access-Control-Request-Method": "PUT",
    "Access-Control-Request-Headers": "content-type,x-api-key",
}


def test_a_preflight_needs_no_key_and_allows_what_clients_send(shared):
    with shared.client(key=None) as client:
        answer = client.options("/v1/state/a", headers=PREFLIGHT)
    assert answer.status_code == 204 and answer.content == b""
    assert answer.headers["access-control-allow-origin"] == "*"
    assert {"PUT", "DELETE"} <= set(answer.headers["access-control-allow-methods"].split(", "))
    allowed = answer.headers["access-control-allow-headers"].lower()
    assert all(name in allowed for name in ("authorization", "content-type", "x-api-key"))


def test_an_options_request_that_is_no_preflight_needs_the_key(server, client):
    with server.client(key=None) as stranger:
        assert stranger.options("/v1/state/a").status_code == 401
    answer = client.options("/v1/state/a")
    assert answer.status_code == 204 and "PUT" in answer.headers["allow"]


def test_errors_carry_the_cors_headers_too(shared):
    with shared.client(key=None) as client:
        for path in ("/v1/state", "/v1/nope"):
            answer = client.get(path, headers={"Origin": "http://app.example"})
            assert answer.status_code == 401
            assert answer.headers["access-control-allow-origin"] == "*"


def test_only_listed_origins_may_call_where_a_list_is_given(serve):
    server = serve(cors_allowed_origins="https://a.example, https://B.example")
    with server.client() as client:
        for origin, allowed in (
            ("https://a.example", True),
            ("https://b.example", True),
            ("https://a.example.evil", False),
            ("null", False),
        ):
            answer = client.get("/v1/state", headers={"Origin": origin})
            assert answer.status_code == 200 and answer.headers["vary"] == "Origin"
            assert answer.headers.get("access-control-allow-origin") == (
                origin if allowed else None
            )
            preflight = client.options("/v1/state", headers={**PREFLIGHT, "Origin": origin})
            assert preflight.status_code == (204 if allowed else 403)


def test_without_a_real_key_only_loopback_origins_may_call(serve):
    with serve(auth="open").client(key=None) as client:
        for origin, allowed in (
            ("http://localhost:3000", True),
            ("http://127.0.0.1", True),
            ("http://evil.example", False),
            ("null", False),
        ):
            preflight = client.options("/v1/state", headers={**PREFLIGHT, "Origin": origin})
            assert preflight.status_code == (204 if allowed else 403)
            answer = client.get("/v1/state", headers={"Origin": origin})
            assert ("access-control-allow-origin" in answer.headers) is allowed


def test_the_key_never_reaches_the_log(server, caplog):
    caplog.set_level("DEBUG")
    with server.client(key=None) as client:
        client.get(f"/v1/state?api_key={KEY}")
        client.get(f"/v1/nope?api_key={KEY}")
        client.get(f"/v1/state?limit=x&api_key={KEY}")
    ours = [record.getMessage() for record in caplog.records if record.name.startswith("luma")]
    assert ours and not any(KEY in message for message in ours)


def test_health_is_true_and_open(shared):
    with httpx.Client(base_url=shared.url) as client:
        body = client.get("/v1/health").json()
    assert set(body) == {"status", "version", "uptime_secs", "offset", "epoch", "ready"}
    assert (body["status"], body["ready"], body["offset"]) == ("ok", True, shared.lab.head)
