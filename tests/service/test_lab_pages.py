import pytest
from service_running import KEY, parse_response

from luma_lab.service.guard import COOKIE

WEBSOCKET = "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
WEBSOCKET += "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"


@pytest.fixture
def pages():
    panel = pytest.importorskip("panel")
    return {"/": lambda: panel.pane.Markdown("a page of the laboratory")}


@pytest.fixture
def lab_server(serve, pages):
    return serve(pages=pages)


def log_in(client):
    answer = client.post("/lab/login", data={"key": KEY})
    assert answer.status_code == 303 and answer.headers["location"] == "/lab/"
    return answer


def test_without_pages_the_workbench_answers_with_the_install_line(client):
    for path in ("/lab/", "/lab/ws", "/", "/index.html", "/lab"):
        answer = client.get(path)
        assert (answer.status_code, answer.json()["error"]) == (501, "not_supported")
        assert "pip install 'luma_lab[lab]'" in answer.json()["message"]


def test_the_root_leads_to_the_workbench(lab_server):
    with lab_server.client(key=None) as client:
        for path in ("/", "/index.html", "/lab"):
            answer = client.get(path)
            assert (answer.status_code, answer.headers["location"]) == (302, "/lab/")


def test_the_page_asks_for_a_login_and_the_key_opens_it(lab_server):
    with lab_server.client(key=None) as client:
        turned_away = client.get("/lab/")
        assert (turned_away.status_code, turned_away.headers["location"]) == (302, "/lab/login")
        assert 'type="password"' in client.get("/lab/login").text
        log_in(client)
        page = client.get("/lab/")
        assert page.status_code == 200 and "Bokeh" in page.text and "Luma Lab" in page.text


def test_a_wrong_key_opens_nothing(lab_server):
    with lab_server.client(key=None) as client:
        for body in ({"key": "wrong"}, {"key": ""}, {}):
            answer = client.post("/lab/login", data=body)
            assert answer.status_code == 401 and COOKIE not in client.cookies
        assert client.get("/lab/").status_code == 302


def test_the_cookie_is_guarded_and_does_not_hold_the_key(lab_server):
    with lab_server.client(key=None) as client:
        cookie = log_in(client).headers["set-cookie"]
    assert "HttpOnly" in cookie and "SameSite=Strict" in cookie and "Path=/lab" in cookie
    assert KEY not in cookie


def test_a_forged_cookie_or_one_of_another_server_opens_nothing(serve, lab_server, pages):
    with lab_server.client(key=None) as client:
        log_in(client)
        good = client.cookies[COOKIE]
    other = serve(pages=pages)
    for value in (good, good[:-2] + "00", "configured", ""):
        with other.client(key=None) as client:
            client.cookies.set(COOKIE, value, path="/lab")
            assert client.get("/lab/").status_code == 302


def test_the_cookie_is_no_key_for_the_interface(lab_server):
    with lab_server.client(key=None) as client:
        log_in(client)
        assert client.get("/v1/state", headers={"Cookie": f"{COOKIE}=x"}).status_code == 401


def test_static_files_are_open_and_local(lab_server):
    with lab_server.client(key=None) as client:
        script = client.get("/lab/static/js/bokeh.min.js")
        assert script.status_code == 200 and len(script.content) > 100_000
        log_in(client)
        page = client.get("/lab/").text
    for line in page.splitlines():
        if "<script" in line or "<link" in line:
            assert "http://" not in line and "https://" not in line


def test_static_files_stay_inside_their_folder(lab_server):
    for path in ("..%2f..%2f..%2fetc%2fpasswd", "../../../etc/passwd", "//etc/passwd"):
        request = f"GET /lab/static/{path} HTTP/1.1\r\nHost: {lab_server.host}\r\n"
        raw = lab_server.raw(request.encode() + b"Connection: close\r\n\r\n")
        status, _, body = parse_response(raw)
        assert status in (403, 404) and b"root:" not in body


def test_the_websocket_needs_the_cookie(lab_server):
    request = f"GET /lab/ws HTTP/1.1\r\nHost: {lab_server.host}\r\n{WEBSOCKET}\r\n"
    status, headers, _ = parse_response(lab_server.raw(request.encode()))
    assert status == 401 and headers["content-type"] == "application/json"


@pytest.mark.parametrize(
    ("origin", "status"), [("http://evil.example", 403), ("null", 403), ("http://{host}", 101)]
)
def test_a_websocket_of_another_site_is_refused(serve, pages, origin, status):
    server = serve(pages=pages, auth="open")
    request = f"GET /lab/ws HTTP/1.1\r\nHost: {server.host}\r\n{WEBSOCKET}"
    request += f"Origin: {origin.format(host=server.host)}\r\n"
    request += "Sec-WebSocket-Protocol: bokeh, not-a-token\r\n\r\n"
    answer = server.raw(request.encode(), timeout=2)
    assert answer.startswith(b"HTTP/1.1 %d" % status)


def test_an_open_laboratory_needs_no_login(serve, pages):
    with serve(pages=pages, auth="open").client(key=None) as client:
        assert client.get("/lab/").status_code == 200
        assert client.get("/lab/login").headers["location"] == "/lab/"


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/lab/nope", 404, "not_found"),
        ("GET", "/lab/static/nope.js", 404, "not_found"),
        ("POST", "/lab/static/js/bokeh.min.js", 405, "method_not_allowed"),
        ("DELETE", "/lab/", 405, "method_not_allowed"),
        ("GET", "/lab/ws", 400, "invalid_argument"),
        ("GET", "/lab/autoload.js", 400, "invalid_argument"),
    ],
)
def test_errors_below_the_workbench_are_json_too(serve, pages, method, path, status, code):
    with serve(pages=pages, auth="open").client(key=None) as client:
        answer = client.request(method, path)
        assert answer.headers["content-type"] == "application/json"
        assert (answer.status_code, answer.json()["error"]) == (status, code)


def test_rest_and_streams_go_on_beside_the_page(lab_server):
    with lab_server.client() as client:
        client.put("/v1/state/a", json={"value": 1})
        with lab_server.stream() as stream:
            assert stream.frame()["id"] == 1
