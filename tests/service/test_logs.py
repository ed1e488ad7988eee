import json
import logging
import sys

from service_running import KEY

from luma_lab.service.logs import JsonFormatter


def lines(caplog):
    formatter = JsonFormatter()
    return [json.loads(formatter.format(record)) for record in caplog.records]


def answered(caplog):
    return [line for line in lines(caplog) if "route" in line]


def test_a_request_is_one_json_object_with_its_route_and_key_id(server, caplog):
    with caplog.at_level(logging.INFO), server.client() as client:
        client.get("/v1/state/a")
        server.stop()
    (line,) = answered(caplog)
    assert line["method"] == "GET" and line["route"] == "/v1/state/{key}"
    assert line["status"] == 404 and line["ms"] >= 0 and line["key_id"] == "configured"
    assert line["level"] == "info" and line["ts"].endswith("Z") and line["message"]


def test_no_key_query_string_or_body_is_ever_logged(server, caplog):
    with caplog.at_level(logging.DEBUG), server.client(key=None) as client:
        client.get("/v1/state", params={"api_key": KEY, "prefix": "query-word"})
        client.get("/v1/state", params={"api_key": "wrong-word"})
        client.put("/v1/state/a", params={"api_key": KEY}, json={"value": "body-word"})
        client.put("/v1/state/a", params={"api_key": KEY}, content=b"broken-word")
        server.stop()
    assert len(answered(caplog)) == 4
    own = [r for r in caplog.records if r.name.startswith(("luma_lab", "tornado"))]
    text = "\n".join(JsonFormatter().format(r) + r.getMessage() for r in own)
    for secret in (KEY, "query-word", "wrong-word", "body-word", "broken-word", "api_key"):
        assert secret not in text


def slow_sql(client):
    numbers = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n LIMIT 200000) "
    answer = client.post("/v1/sql/query", json={"sql": numbers + "SELECT sum(i) FROM n"})
    assert answer.status_code == 200


def test_a_slow_request_is_a_warning_that_names_its_route_and_key(serve, caplog):
    server = serve(slow_query_ms=1)
    with caplog.at_level(logging.INFO), server.client() as client:
        slow_sql(client)
        server.stop()
    (line,) = answered(caplog)
    assert line["level"] == "warning" and line["message"].startswith("slow: ")
    assert line["route"] == "/v1/sql/query" and line["ms"] > 1
    assert line["key_id"] == "configured"


def test_nothing_is_slow_when_the_limit_is_0(serve, caplog):
    server = serve(slow_query_ms=0)
    with caplog.at_level(logging.INFO), server.client() as client:
        slow_sql(client)
        server.stop()
    assert [line["level"] for line in answered(caplog)] == ["info"]


def test_a_build_is_never_slow(serve, caplog):
    server = serve(slow_query_ms=1)
    collection = server.lab.create_collection("docs", 2, "l2")
    collection.upsert([str(i) for i in range(200)], [[i, 1] for i in range(200)])
    body = {"kind": "vamana", "wait": True}
    with caplog.at_level(logging.INFO), server.client() as client:
        assert client.post("/v1/vector/docs/index/build", json=body).status_code == 200
        server.stop()
    (line,) = answered(caplog)
    assert line["ms"] > 1 and line["level"] == "info"


def test_an_exception_stays_on_its_line():
    try:
        raise ValueError("two\nlines")
    except ValueError:
        record = logging.LogRecord("a", logging.ERROR, "", 1, "%s", ("x",), sys.exc_info())
    line = JsonFormatter().format(record)
    assert "\n" not in line and "ValueError" in json.loads(line)["trace"]
