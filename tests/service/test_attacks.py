"""Attempts to get in, out of the directory, or the server down: see also ``attacks.py``."""

import contextlib
import json
import socket
import struct
import threading

import pytest
from attacks import JSON, PUT, WIRE_ATTACKS, WITH_KEY, http
from attacks_in_bodies import BODY_ATTACKS
from service_running import KEY, Running, parse_response, read_all

from luma_lab.config import Settings
from luma_lab.engine.keys import KeyStore
from luma_lab.engine.lab import Lab
from luma_lab.service.app import all_operations

ATTACKS = WIRE_ATTACKS + BODY_ATTACKS
SAMPLES = {"key": "k", "collection": "docs", "id": "a", "name": "reader"}


class Castle:
    """A lab on disk among neighbours, and a server for each way of guarding it."""

    def __init__(self, stack, place):
        (place / "secret.txt").write_text("a neighbour's")
        (place / "other").mkdir()
        self.place = place
        self.lab = lab = stack.enter_context(Lab(place / "lab"))
        docs = lab.create_collection("docs", 2, "l2")
        docs.upsert(["a", "b"], [[1, 2], [3, 4]], [{"a": 1}, {"a": 2}])
        lab.state.put("k", {"a": 1})
        lab.documents("docs").put("a", {"a": 1})
        lab.consumers.ack("reader", 1)
        lab.sql.execute("CREATE TABLE own (a NOT NULL)")
        self.keys = KeyStore(lab.path)
        stack.callback(self.keys.close)
        rights = {"collections": ["mine"], "key_prefixes": ["mine:"]}
        self.reader = self.keys.create("r", "read")[1]
        self.confined = self.keys.create("c", "write", rights)[1]
        common = {"port": 0, "max_body_mb": 8, "max_json_mb": 8}
        self.servers = {
            "keyed": Running(lab, Settings(**common, api_key=KEY)),
            "open": Running(lab, Settings(**common, auth="open")),
            "dev": Running(lab, Settings(**common)),
        }
        for server in self.servers.values():
            stack.callback(server.stop)
        self.keyed = self.servers["keyed"]
        self.client = stack.enter_context(self.keyed.client())
        self.health = {
            name: stack.enter_context(server.client(None)) for name, server in self.servers.items()
        }

    def around(self):
        """Return names and contents of everything beside the lab, and what it keeps keys in."""
        outside = {
            str(path): path.read_bytes() if path.is_file() else None
            for path in self.place.rglob("*")
            if not path.is_relative_to(self.lab.path)
        }
        inside = {path.name for path in self.lab.path.iterdir() if "-" not in path.name}
        return outside, inside, self.keys.list()

    @contextlib.contextmanager
    def unharmed(self, server="keyed"):
        """Check that the block changed nothing, in the lab or beside it, and the server lives."""
        before = self.lab.head, self.around()
        yield self.servers[server]
        assert (self.lab.head, self.around()) == before
        assert self.health[server].get("/v1/health").json()["status"] == "ok"


@pytest.fixture(scope="module")
def castle(tmp_path_factory):
    with contextlib.ExitStack() as stack:
        yield Castle(stack, tmp_path_factory.mktemp("place"))


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.name[:80])
def test_an_attack_is_refused_and_changes_nothing(castle, attack, tmp_path):
    with castle.unharmed(attack.server) as server:
        request = attack.request.replace(b"HOST", server.host.encode())
        raw = server.raw(request, timeout=20)
        refused(raw, attack.status, attack.code, is_http=attack.code or b"/v1/sql/" in request)
        assert attack.never not in raw and b"Traceback" not in raw
    assert list(tmp_path.iterdir()) == []


def refused(raw, status, code, is_http=True):
    """Check one refusal; where the bytes are no HTTP, a bare one or none at all will do."""
    if not is_http:
        assert raw in (b"", b"HTTP/1.1 %d Bad Request\r\n\r\n" % status), raw[:300]
        return
    assert raw.count(b"HTTP/1.1 ") == 1
    found, headers, body = parse_response(raw)
    assert found == status, raw[:600]
    assert headers["content-type"] == "application/json"
    body = json.loads(body)
    assert body["error"] in ((code,) if code else ("sqlite_error", "invalid_argument"))
    assert body["message"]


def test_there_are_enough_attacks_and_no_two_alike():
    assert len({attack.name for attack in ATTACKS}) == len(ATTACKS) > 60


@pytest.mark.parametrize(
    "operation",
    [o for o in all_operations() if o.role in ("write", "admin")],
    ids=lambda o: f"{o.method} {o.path}",
)
@pytest.mark.parametrize("form", ["X-API-Key", "Authorization", "api_key"])
def test_a_reading_key_changes_nothing_in_whatever_form_it_comes(castle, operation, form):
    path = operation.path.format(**SAMPLES)
    headers = {"X-HTTP-Method-Override": "GET", "X-Role": "admin"}
    if form == "api_key":
        path += f"?api_key={castle.reader}&role=admin"
    else:
        headers[form] = castle.reader if form == "X-API-Key" else f"Bearer {castle.reader}"
    with castle.unharmed() as server, server.client(None) as client:
        answer = client.request(operation.method, path, headers=headers, json={})
        assert (answer.status_code, answer.json()["error"]) == (403, "forbidden")


@pytest.mark.parametrize(
    "operation",
    [o for o in all_operations() if o.role and {"{collection}", "{key}"} & {*o.path.split("/")}],
    ids=lambda o: f"{o.method} {o.path}",
)
def test_a_confined_key_reaches_nothing_by_a_name_that_looks_like_its_own(castle, operation):
    for name in ("docs", "mine%2f..%2fdocs", "Mine", "minedocs", "mine%00", "%6dine%2a", "k"):
        path = operation.path.format(**{**SAMPLES, "collection": name, "key": f"x{name}:"})
        with castle.unharmed() as server, server.client(castle.confined) as client:
            answer = client.request(operation.method, path, json={})
            assert answer.status_code in (400, 403), (path, answer.text)
            assert answer.json()["error"] in ("forbidden", "invalid_argument")
            if name in ("docs", "Mine", "minedocs", "k"):
                assert answer.status_code == 403


def test_lists_and_counts_tell_a_confined_key_of_nothing_outside(castle):
    with castle.unharmed() as server, server.client(castle.confined) as client:
        for path in ("/v1/state", "/v1/state?prefix=k", "/v1/state?after=a", "/v1/state?limit=1"):
            answer = client.get(path)
            assert answer.json() == [] and "x-luma-next" not in answer.headers
        assert client.get("/v1/vector").json() == {"collections": []}
        assert client.get("/v1/jobs").json() == {"jobs": []}
        for path in ("/v1/metrics", "/v1/consumers", "/v1/stream?consumer=reader"):
            assert client.get(path).status_code == 403
        for collection in ("docs", "none"):
            refusal = client.get(f"/v1/vector/{collection}")
            assert refusal.status_code == 403
            assert refusal.json()["message"].replace(collection, "X").endswith("collection 'X'")


def test_keys_can_not_be_counted_or_guessed(castle):
    """Whoever is refused is told the same, whatever stands behind."""
    id, token = castle.keys.create("gone", "read")
    castle.keys.revoke(id)
    other_id, old = castle.keys.create("rotated", "read")
    castle.keys.rotate(other_id)
    told = set()
    with castle.unharmed() as server, server.client(None) as client:
        for key in (token, old, castle.reader[:-1], castle.reader + "x", KEY[:-1], "x", "rk_live_"):
            answer = client.get("/v1/state", headers={"X-API-Key": key})
            assert answer.status_code == 401
            told.add((answer.text, tuple(sorted(set(answer.headers) - {"date"}))))
        assert len(told) == 1
        told = set()
        for known in (other_id, "0" * 16, "configured", "x"):
            answer = client.delete(f"/v1/auth/keys/{known}", headers={"X-API-Key": castle.reader})
            assert answer.status_code == 403
            told.add(answer.text)
        assert len(told) == 1
    castle.keys.revoke(other_id)


@pytest.mark.parametrize("path", ["/v1/state", "/v1/vector", "/v1/nope", "/v1/health", "/docs"])
def test_a_foreign_page_reads_nothing_of_an_open_laboratory(castle, path):
    for origin in ("http://evil.example", "null", "http://127.0.0.1.evil.example", "file://"):
        with castle.unharmed("open"):
            answer = castle.health["open"].get(path, headers={"Origin": origin})
            assert "access-control-allow-origin" not in answer.headers
            assert answer.headers["vary"] == "Origin"


def test_a_page_of_this_machine_may_change_an_open_laboratory(castle):
    before = castle.lab.head
    for origin in (castle.servers["open"].url, "http://localhost:3000", "http://[::1]"):
        answer = castle.health["open"].put(
            "/v1/state/k", json={"value": {"a": 1}}, headers={"Origin": origin}
        )
        assert answer.status_code == 200
    assert castle.lab.head == before + 3


def test_text_in_a_header_can_not_end_it(castle):
    castle.lab.state.put("zz\r\nSet-Cookie: x=1\r\n\r\n", 1)
    castle.lab.state.put("zz~", 1)
    with castle.unharmed() as server:
        raw = server.raw(http("GET", "/v1/state?prefix=zz&limit=1", WITH_KEY).replace(
            b"HOST", server.host.encode()
        ))  # fmt: skip
        _, headers, _ = parse_response(raw)
        assert "set-cookie" not in headers and "%0D%0A" in headers["x-luma-next"]
    for origin in ("http://localhost%0d%0aSet-Cookie:x", "http://localhost\tx"):
        with castle.unharmed("open"):
            answer = castle.health["open"].get("/v1/state", headers={"Origin": origin})
            assert "set-cookie" not in answer.headers


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/v1/state/k?if_revision=1&if_revision=", 409),
        ("/v1/state/k?if_revision=&if_revision=1", 400),
        ("/v1/state/k?IF_REVISION=1&if_revision=x", 400),
        ("/v1/state/k?if_revision[]=1&if_revision=x", 400),
    ],
)
def test_of_two_parameters_of_one_name_the_first_counts(castle, path, status):
    with castle.unharmed():
        assert castle.client.delete(path).status_code == status


@pytest.mark.parametrize("prefix", ["%25", "_", "*", "' OR 1=1 --", "%00", "\\", "k%25"])
def test_a_prefix_is_only_text(castle, prefix):
    with castle.unharmed():
        assert castle.client.get("/v1/state", params={"prefix": prefix}).json() == []
        assert castle.client.get(f"/v1/state?after=~{prefix}").json() == []


SPIES = {
    "state": "CREATE VIRTUAL TABLE spy USING fts5(value, content='luma_state')",
    "log": "CREATE VIRTUAL TABLE spy USING fts5(data, content='luma_log', content_rowid='offset')",
    "points": "CREATE VIRTUAL TABLE spy USING fts5(meta, content='luma_points')",
    "view": "CREATE VIEW spy AS SELECT * FROM luma_state",
}


@pytest.mark.parametrize("name", SPIES)
def test_a_table_or_view_over_those_of_the_house_is_refused_when_it_is_made(castle, name):
    """A full-text table reads the content of another by statements of its own."""
    with castle.unharmed():
        answer = castle.client.post("/v1/sql/exec", json={"sql": SPIES[name]})
        assert (answer.status_code, answer.json()["error"]) == (400, "sqlite_error")
        shown = castle.client.post("/v1/sql/query", json={"sql": "SELECT * FROM spy"})
        assert (shown.status_code, shown.json()["error"]) == (400, "sqlite_error")


def test_a_trigger_that_names_a_table_of_the_house_is_refused_when_it_is_made(castle):
    make = "CREATE TRIGGER x AFTER INSERT ON own BEGIN DELETE FROM luma_log; END"
    with castle.unharmed():
        answer = castle.client.post("/v1/sql/exec", json={"sql": make})
        assert (answer.status_code, answer.json()["error"]) == (400, "sqlite_error")
        operations = [{"op": "state.put", "key": "k", "value": 2}, {"op": "sql", "sql": make}]
        answer = castle.client.post("/v1/transaction", json={"operations": operations})
        assert (answer.status_code, answer.json()["index"]) == (400, 1)


def connect(server, data):
    sock = socket.create_connection(("127.0.0.1", server.port), timeout=10)
    sock.sendall(data.replace(b"HOST", server.host.encode()))
    return sock


@pytest.mark.parametrize(
    "body",
    [
        b'{"value":',
        b"",
        b'{"value":1}' + b" " * 100_000,
    ],
    ids=["half", "nothing", "most"],
)
def test_a_client_that_leaves_in_the_middle_of_a_body_wrote_nothing(castle, body):
    head = http("PUT", "/v1/state/left", WITH_KEY, JSON, "Content-Length: 200000")
    with castle.unharmed() as server:
        for abrupt in (False, True):
            sock = connect(server, head + body)
            if abrupt:  # a reset instead of an orderly end
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            sock.close()


def test_connections_that_dawdle_keep_nobody_out(castle):
    """Head, line or body that come byte by byte: others are served meanwhile."""
    starts = [
        b"",
        b"P",
        b"PUT /v1/state/slow HTTP/1.1\r\nHost: HO",
        http("PUT", "/v1/state/slow", WITH_KEY, JSON, "Content-Length: 11") + PUT[:5],
        http("PUT", "/v1/state/slow", WITH_KEY, JSON, "Transfer-Encoding: chunked") + b"b\r\n",
    ]
    with castle.unharmed() as server:
        socks = [connect(server, start) for start in starts for _ in range(30)]
        for _ in range(3):
            for sock in socks:
                sock.sendall(b"{")
            assert castle.client.get("/v1/state/k").status_code == 200
        for sock in socks:
            sock.close()


def test_many_half_requests_at_once_leave_no_thread_and_no_socket_behind(castle):
    with castle.unharmed() as server:
        threads = threading.active_count()
        for _ in range(100):
            connect(server, b"GET /v1/state HTTP/1.1\r\nHost: HOST\r\n").close()
            connect(server, http("GET", "/v1/state", WITH_KEY)).close()
        assert castle.client.get("/v1/state/k").status_code == 200
        assert threading.active_count() <= threads + 32


def test_a_pipelined_request_behind_a_refused_one_is_judged_by_itself(castle):
    forged = http("DELETE", "/v1/state/k")
    with castle.unharmed() as server:
        first = http("GET", "/v1/state/k", WITH_KEY).replace(b"Connection: close\r\n", b"")
        with contextlib.closing(connect(server, first + forged)) as sock:
            raw = read_all(sock)
        assert raw.startswith(b"HTTP/1.1 200") and raw.count(b"HTTP/1.1 401") == 1


@pytest.mark.parametrize(
    "headers",
    [
        "Upgrade: websocket\r\nSec-WebSocket-Version: 13",
        "Upgrade: h2c\r\nHTTP2-Settings: AAMAAABk",
        "Upgrade: TLS/1.0",
    ],
)
def test_no_upgrade_leads_around_the_key(castle, headers):
    for path in ("/lab/ws", "/v1/stream", "/v1/state"):
        with castle.unharmed() as server:
            request = http("GET", path, headers).replace(b"close", b"Upgrade", 1)
            with contextlib.closing(connect(server, request)) as sock:
                assert sock.recv(1000).startswith(b"HTTP/1.1 401")


def test_bytes_of_another_protocol_are_no_harm(castle):
    for data in (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", b"\0" * 2000, b"HELO x\r\n\r\n"):
        with castle.unharmed() as server:
            assert b" 200 " not in server.raw(data, timeout=0.2)
