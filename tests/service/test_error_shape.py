import threading

import pytest

import luma_lab.errors
from luma_lab import codec
from luma_lab.errors import LumaError
from luma_lab.service import refusals
from luma_lab.service.statuses import STATUS, error_body, status_of

V = "/v1/vector/docs"
POINT = {"id": "a", "vector": [1, 2]}
GRAPH = f"{V}/diskann/build"
# method, path, body, status, code, part of the message, field
ERRORS = [
    ("GET", "/v1/nope", None, 404, "not_found", "no such route"),
    ("GET", "/v1/vector/docs/nope", None, 404, "not_found", "no such route"),
    ("POST", "/v1/state", None, 405, "method_not_allowed", "POST"),
    ("POST", "/v1/state/key", {"value": 1}, 405, "method_not_allowed", "POST"),
    ("PUT", "/v1/vector", None, 405, "method_not_allowed", "PUT"),
    ("GET", f"{V}/search", None, 405, "method_not_allowed", "GET"),
    ("HEAD", "/v1/stream", None, 405, None, None),
    ("DELETE", "/v1/health", None, 405, "method_not_allowed", "DELETE"),
    ("GET", "/v1/state/" + "k" * 513, None, 400, "invalid_argument", "key too long"),
    ("GET", "/v1/state/" + "%C3%A9" * 257, None, 400, "invalid_argument", "key too long"),
    ("GET", "/v1/state?prefix=" + "k" * 513, None, 400, "invalid_argument", "prefix too long"),
    ("GET", "/v1/state?limit=abc", None, 400, "invalid_argument", "limit"),
    ("GET", "/v1/state?limit=", None, 400, "invalid_argument", "limit"),
    ("GET", "/v1/state?limit=-1", None, 400, "invalid_argument", "limit"),
    ("GET", "/v1/state?limit=%D9%A1", None, 400, "invalid_argument", "limit"),
    ("GET", "/v1/state?prefix=%FF", None, 400, "invalid_argument", "prefix"),
    ("GET", "/v1/state/%FF", None, 400, "invalid_argument", ""),
    ("DELETE", "/v1/state/a?if_revision=x", None, 400, "invalid_argument", "if_revision"),
    ("PUT", "/v1/state/a", {"value": 1, "if_revision": -1}, 400, "invalid_argument", "revision"),
    ("PUT", "/v1/state/a", {"value": 1, "if_revision": 9}, 409, "revision_mismatch", "revision"),
    ("POST", "/v1/state/batch_put", {"operations": []}, 400, "invalid_argument", "required"),
    (
        "POST",
        "/v1/state/batch_put",
        {"operations": [{"key": "a", "value": 1}] * 257},
        400,
        "invalid_argument",
        "too many operations",
    ),
    ("POST", "/v1/vector/x", {"dim": 0, "metric": "l2"}, 400, "invalid_argument", "invalid dim"),
    ("POST", "/v1/vector/x", {"dim": 4097, "metric": "l2"}, 400, "invalid_argument", "dim"),
    ("POST", "/v1/vector/x", {"dim": -1, "metric": "l2"}, 400, "invalid_argument", "dim"),
    (
        "POST",
        "/v1/vector/x",
        {"dim": 2, "metric": "l2", "params": {"max_degre": 3}},
        400,
        "invalid_argument",
        "did you mean 'max_degree'",
    ),
    ("POST", V, {"dim": 2, "metric": "l2"}, 409, "already_exists", "already exists"),
    ("GET", "/v1/vector/none", None, 404, "not_found", "collection not found"),
    ("POST", "/v1/vector/none/upsert", POINT, 404, "not_found", "not found"),
    ("POST", "/v1/vector/none/search", {"vector": [1], "k": 1}, 404, "not_found", "not found"),
    ("POST", "/v1/vector/none/upsert_batch", {"items": [POINT]}, 404, "not_found", "not found"),
    ("GET", "/v1/vector/none/get?id=a", None, 404, "not_found", "not found"),
    ("POST", "/v1/vector/none/diskann/build", {}, 404, "not_found", "not found"),
    ("POST", "/v1/vector/none/diskann/tune", {}, 404, "not_found", "not found"),
    ("GET", "/v1/vector/none/diskann/status", None, 404, "not_found", "not found"),
    ("POST", f"{V}/upsert", {"id": "a", "vector": [1]}, 400, "dim_mismatch", "dimension mismatch"),
    ("POST", f"{V}/upsert", {"id": "a", "vector": []}, 400, "dim_mismatch", "mismatch"),
    ("POST", f"{V}/upsert", {"id": "a", "vector": [1e39, 1]}, 400, "invalid_argument", "inf"),
    ("POST", f"{V}/upsert", {"id": "", "vector": [1, 2]}, 400, "invalid_argument", "id is empty"),
    (
        "POST",
        f"{V}/upsert",
        {"id": "é" * 65, "vector": [1, 2]},
        400,
        "invalid_argument",
        "id too long",
    ),
    (
        "POST",
        f"{V}/upsert",
        {"id": "a", "vector": [0] * 4097},
        400,
        "invalid_argument",
        "vector too large",
    ),
    ("POST", f"{V}/upsert_batch", {"items": []}, 400, "invalid_argument", "items required"),
    ("POST", f"{V}/upsert_batch", {"items": [POINT] * 257}, 400, "invalid_argument", "too many"),
    ("POST", f"{V}/delete_batch", {"ids": []}, 400, "invalid_argument", "ids required"),
    ("POST", f"{V}/delete_batch", {"ids": ["a"] * 257}, 400, "invalid_argument", "too many ids"),
    ("GET", f"{V}/get", None, 400, "invalid_argument", "id"),
    ("POST", f"{V}/search", {"vector": [1, 2], "k": 0}, 400, "invalid_argument", "invalid k"),
    ("POST", f"{V}/search", {"vector": [1, 2], "k": -1}, 400, "invalid_argument", "invalid k"),
    ("POST", f"{V}/search", {"vector": [1, 2], "k": 257}, 400, "invalid_argument", "invalid k"),
    ("POST", f"{V}/search", {"vector": [1], "k": 1}, 400, "dim_mismatch", "mismatch"),
    (
        "POST",
        f"{V}/search",
        {"vector": [1, 2], "k": 5, "params": {"search_list_size": 2}},
        400,
        "invalid_argument",
        "search_list_size",
    ),
    ("GET", "/v1/stream?since=x", None, 400, "invalid_argument", "since"),
    ("GET", f"/v1/stream?since={2**63}", None, 400, "invalid_argument", "since"),
]
# path, body, field that is named
WRONG_SHAPES = [
    ("PUT", "/v1/state/a", {}, "value"),
    ("PUT", "/v1/state/a", [], None),
    ("PUT", "/v1/state/a", {"value": 1, "ttl_ms": "x"}, "ttl_ms"),
    ("PUT", "/v1/state/a", {"value": 1, "if_revision": 1.5}, "if_revision"),
    ("PUT", "/v1/state/a", {"value": 1, "if_revision": True}, "if_revision"),
    ("POST", "/v1/state/batch_put", {"operations": [{"value": 1}]}, "operations[0].key"),
    ("POST", "/v1/state/batch_put", {"operations": {}}, "operations"),
    ("POST", "/v1/vector/x", {"metric": "l2"}, "dim"),
    ("POST", "/v1/vector/x", {"dim": "2", "metric": "l2"}, "dim"),
    ("POST", "/v1/vector/x", {"dim": 2, "metric": "euclid"}, "metric"),
    ("POST", "/v1/vector/x", {"dim": 2, "metric": "L2"}, "metric"),
    ("POST", "/v1/vector/x", {"dim": 2, "metric": "l2", "index": "hnsw"}, "index"),
    ("POST", f"{V}/upsert", {"id": "a"}, "vector"),
    ("POST", f"{V}/upsert", {"id": None, "vector": [1, 2]}, "id"),
    ("POST", f"{V}/upsert", {"id": True, "vector": [1, 2]}, "id"),
    ("POST", f"{V}/upsert", {"id": 1.5, "vector": [1, 2]}, "id"),
    ("POST", f"{V}/upsert", {"id": "a", "vector": [1, None]}, "vector[1]"),
    ("POST", f"{V}/upsert", {"id": "a", "vector": ["1", 2]}, "vector[0]"),
    ("POST", f"{V}/upsert_batch", {"items": [POINT, {"id": 1}]}, "items[1].vector"),
    ("POST", f"{V}/search", {"vector": [1, 2]}, "k"),
    ("POST", f"{V}/search", {"vector": [1, 2], "k": "3"}, "k"),
    ("POST", f"{V}/search", {"vector": [1, 2], "k": 1, "exact": 1}, "exact"),
    ("POST", GRAPH, {"max_degree": "many"}, "max_degree"),
]
BROKEN = [b"", b"{", b'{"value":}', b"\xff\xfe", b'{"value":"\xff"}', b'{"value":NaN}']
BROKEN += [b'{"value":1} {}', b'{"value":"\\ud800"}', b'\xef\xbb\xbf{"value":1}']


@pytest.mark.parametrize(("method", "path", "body", "status", "code", "part"), ERRORS)
def test_each_error_has_its_status_code_and_words(ask, method, path, body, status, code, part):
    answer = ask(method, path, **({} if body is None else {"json": body}))
    assert answer.status_code == status, answer.text
    if code is not None:
        assert answer.json()["error"] == code and part in answer.json()["message"]
    if status == 405:
        allowed = answer.headers["allow"].split(", ")
        assert allowed and method not in allowed


@pytest.mark.parametrize(("method", "path", "body", "field"), WRONG_SHAPES)
def test_a_body_of_the_wrong_shape_is_422_and_names_the_field(ask, method, path, body, field):
    answer = ask(method, path, json=body)
    assert (answer.status_code, answer.json()["error"]) == (422, "invalid_argument")
    assert answer.json().get("field") == field


def test_unknown_fields_and_null_options_are_ignored(ask):
    body = {"vector": [1, 2], "k": 1, "filters": None, "group_by": None, "zzz": {"deep": [1]}}
    assert ask("POST", f"{V}/search", json=body).status_code == 200


@pytest.mark.parametrize(
    ("media", "status", "code"),
    [
        ("application/x-ndjson", 400, "invalid_argument"),
        ("application/octet-stream", 415, "unsupported_media_type"),
    ],
)
def test_an_empty_bulk_body_is_refused(ask, media, status, code):
    answer = ask("POST", f"{V}/upsert_batch", content=b"", headers={"Content-Type": media})
    assert (answer.status_code, answer.json()["error"]) == (status, code)


@pytest.mark.parametrize(
    "media",
    ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", None],
)
@pytest.mark.parametrize("path", [f"{V}/search", "/v1/state/batch_put", GRAPH])
def test_a_json_route_reads_json_only(ask, media, path):
    headers = {} if media is None else {"Content-Type": media}
    answer = ask("POST", path, content=b"{}", headers=headers)
    assert (answer.status_code, answer.json()["error"]) == (415, "unsupported_media_type")


@pytest.mark.parametrize("media", ["application/json; charset=utf-8", "application/ld+json"])
def test_json_may_come_with_parameters_and_suffixes(ask, media):
    content = b'{"vector":[1,2],"k":1}'
    answer = ask("POST", f"{V}/search", content=content, headers={"Content-Type": media})
    assert answer.status_code == 200


@pytest.mark.parametrize("body", BROKEN)
def test_bytes_that_are_not_json_are_400(ask, body):
    answer = ask("PUT", "/v1/state/a", content=body, headers={"Content-Type": "application/json"})
    assert (answer.status_code, answer.json()["error"]) == (400, "invalid_json")


@pytest.mark.parametrize("depth", [codec.MAX_DEPTH, 5_000, 200_000])
def test_json_nested_too_deep_is_400(ask, depth):
    body = b'{"value":' + b"[" * depth + b"]" * depth + b"}"
    answer = ask("PUT", "/v1/state/a", content=body, headers={"Content-Type": "application/json"})
    assert (answer.status_code, answer.json()["error"]) == (400, "invalid_json")


def test_work_over_the_time_limit_is_408_and_others_go_on(serve, monkeypatch):
    server = serve(request_timeout_secs=1)
    answered = threading.Event()
    monkeypatch.setattr(server.lab.state, "scan", lambda *_, **__: answered.wait(60))
    with server.client() as client:
        late = client.get("/v1/state")
        assert (late.status_code, late.json()["error"]) == (408, "timeout")
        assert client.get("/v1/health").status_code == 200
        answered.set()


def test_an_unexpected_fault_is_500_and_tells_nothing(serve, monkeypatch, caplog):
    server = serve()

    def fail(key):
        raise RuntimeError("a secret in /some/path")

    monkeypatch.setattr(server.lab.state, "size_of", fail)
    with server.client() as client:
        broken = client.get("/v1/state/a?api_key=visible")
    assert (broken.status_code, broken.json()["error"]) == (500, "internal")
    assert "secret" not in broken.text
    assert "a secret in /some/path" in caplog.text and "visible" not in caplog.text


def test_a_closed_lab_is_503(serve):
    server = serve()
    server.lab.close()
    with server.client() as client:
        answer = client.get("/v1/state")
        assert (answer.status_code, answer.json()["error"]) == (503, "unavailable")


def every_error():
    found, todo = [], [LumaError]
    while todo:
        found.append(todo.pop())
        todo += found[-1].__subclasses__()
    return sorted(set(found), key=lambda kind: kind.__name__)


@pytest.mark.parametrize("kind", every_error(), ids=lambda kind: kind.__name__)
def test_every_error_of_the_house_has_a_status(kind):
    error = kind.__new__(kind)
    expected = {
        luma_lab.errors.AlreadyExists: 409,
        luma_lab.errors.CorruptStore: 500,
        luma_lab.errors.DimensionMismatch: 400,
        luma_lab.errors.JobNotFound: 404,
        luma_lab.errors.LeaseHeld: 409,
        luma_lab.errors.StoreFull: 507,
        luma_lab.errors.UnknownName: 400,
        luma_lab.errors.WaitTimeout: 408,
        refusals.InvalidJson: 400,
        refusals.RouteNotFound: 404,
        refusals.WrongShape: 422,
    }
    assert status_of(error) == expected.get(kind, status_of(error))
    assert status_of(error) in set(STATUS.values()) and kind.code


def test_damage_is_named_but_not_the_directory_it_lies_in():
    error = luma_lab.errors.CorruptStore("/srv/lab/luma.db: block 3 is damaged")
    body = error_body(error, "/srv/lab")
    assert body == {"error": "corrupt", "message": "DATA_DIR/luma.db: block 3 is damaged"}
