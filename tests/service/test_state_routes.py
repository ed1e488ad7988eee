import threading
import time

import httpx
import pytest
from service_running import parse_response


def put(client, key, value, **fields):
    return client.put(f"/v1/state/{key}", json={"value": value, **fields})


def test_a_value_comes_back_with_its_revision_as_compact_json(client):
    written = put(client, "a", {"b": [1, 2.5, None, "é"]})
    body = written.json()
    assert written.status_code == 200 and written.headers["content-type"] == "application/json"
    assert body == {
        "key": "a",
        "revision": body["offset"],
        "expires_at_ms": None,
        "offset": body["offset"],
    }
    read = client.get("/v1/state/a")
    expected = '{"key":"a","value":{"b":[1,2.5,null,"é"]},"revision":%d,"expires_at_ms":null}'
    assert read.text == expected % body["revision"]


def test_null_is_a_value(client):
    put(client, "n", None)
    assert client.get("/v1/state/n").json()["value"] is None


def test_a_missing_key_is_404_with_the_original_words(client):
    missing = client.get("/v1/state/none")
    assert missing.status_code == 404
    assert missing.json()["error"] == "not_found" and "key not found" in missing.json()["message"]


def test_deleting_says_whether_something_was_there(client):
    put(client, "a", 1)
    assert client.delete("/v1/state/a").json()["deleted"] is True
    gone = client.delete("/v1/state/a")
    assert gone.status_code == 200 and gone.json()["deleted"] is False


def test_a_write_that_changes_nothing_answers_with_the_head(client, server):
    put(client, "a", 1)
    assert client.delete("/v1/state/other").json()["offset"] == server.lab.head


def test_keys_with_slashes_may_be_sent_raw_or_encoded(client):
    put(client, "a/b/c", 1)
    assert client.get("/v1/state/a%2Fb%2Fc").json()["value"] == 1
    put(client, "x%2Fy", 2)
    assert client.get("/v1/state/x/y").json()["key"] == "x/y"


@pytest.mark.parametrize("key", ["ключ", "a b", "a+b", "per%cent", "q?x", "#h", '"', "\\", "\x01"])
def test_any_text_can_be_a_key(client, key):
    quoted = "".join(f"%{byte:02X}" for byte in key.encode())
    put(client, quoted, key)
    assert client.get(f"/v1/state/{quoted}").json()["key"] == key
    assert client.get("/v1/state", params={"prefix": key}).json()[0]["value"] == key


def test_a_key_that_looks_like_a_path_is_only_a_key(client, server):
    path = "/v1/state/..%2F..%2Fetc%2Fpasswd"
    assert client.put(path, json={"value": 1}).json()["key"] == "../../etc/passwd"
    assert [item.key for item in server.lab.state.scan()] == ["../../etc/passwd"]


def test_compare_and_set_takes_the_present_revision_only(client):
    first = put(client, "a", 1).json()["revision"]
    second = put(client, "a", 2, if_revision=first).json()["revision"]
    stale = put(client, "a", 3, if_revision=first)
    assert stale.status_code == 409
    assert stale.json()["error"] == "revision_mismatch" and "revision" in stale.json()["message"]
    assert stale.json()["actual"] == second
    assert client.get("/v1/state/a").json()["value"] == 2


def test_revision_zero_means_must_not_exist(client):
    assert put(client, "new", 1, if_revision=0).status_code == 200
    assert put(client, "new", 2, if_revision=0).status_code == 409


def test_delete_compares_revisions_too_and_recreation_never_fools_it(client):
    old = put(client, "a", 1).json()["revision"]
    client.delete("/v1/state/a")
    new = put(client, "a", 1).json()["revision"]
    assert client.delete("/v1/state/a", params={"if_revision": old}).status_code == 409
    assert client.delete("/v1/state/a", params={"if_revision": new}).json()["deleted"] is True


def test_a_time_to_live_shows_and_a_later_put_clears_it(client):
    before = time.time_ns() // 1_000_000
    body = put(client, "t", 1, ttl_ms=60_000).json()
    assert before + 60_000 <= body["expires_at_ms"] <= time.time_ns() // 1_000_000 + 60_000
    assert put(client, "t", 1).json()["expires_at_ms"] is None


def test_an_expired_key_is_gone(client):
    put(client, "t", 1, ttl_ms=1)
    time.sleep(0.02)
    assert client.get("/v1/state/t").status_code == 404
    assert client.get("/v1/state").json() == []


@pytest.mark.parametrize("ttl_ms", [0, -1, "5", 1.5, True])
def test_a_time_to_live_that_is_no_positive_integer_is_422_and_writes_nothing(client, ttl_ms):
    refused = put(client, "t", 1, ttl_ms=ttl_ms)
    assert refused.status_code == 422
    assert refused.json()["error"] == "invalid_argument" and refused.json()["field"] == "ttl_ms"
    assert client.get("/v1/state/t").status_code == 404


def test_listing_is_in_byte_order_and_pages_by_the_next_header(client):
    keys = sorted(["b", "a/1", "a é", "a", "z", "Z", "日本"], key=str.encode)
    for key in keys:
        put(client, "".join(f"%{byte:02X}" for byte in key.encode()), 1)
    assert [item["key"] for item in client.get("/v1/state").json()] == keys
    seen, url = [], "/v1/state?limit=2"
    while True:
        page = client.get(url)
        seen += [item["key"] for item in page.json()]
        if "x-luma-next" not in page.headers:
            break
        url = f"/v1/state?limit=2&after={page.headers['x-luma-next']}"
    assert seen == keys


def test_listing_honours_prefix_and_limit(client):
    for key in ("user:1", "user:2", "other"):
        put(client, key, 1)
    keys = [item["key"] for item in client.get("/v1/state?prefix=user:").json()]
    assert keys == ["user:1", "user:2"]
    assert len(client.get("/v1/state?limit=1").json()) == 1
    nothing = client.get("/v1/state?limit=0")
    assert nothing.json() == [] and "x-luma-next" not in nothing.headers


def test_a_listing_is_capped_at_a_thousand(client, server):
    server.lab.state.put_each([{"key": f"{i:04}", "value": i} for i in range(1001)])
    page = client.get("/v1/state?limit=5000")
    assert len(page.json()) == 1000 and page.headers["x-luma-next"] == "0999"
    assert len(client.get("/v1/state").json()) == 100


def test_a_batch_answers_per_item_in_order_in_one_commit(client, server):
    put(client, "taken", 1)
    head = server.lab.head
    operations = [
        {"key": "a", "value": 1},
        {"key": "taken", "value": 2, "if_revision": 0},
        {"key": "a", "value": 3},
        {"key": "k" * 513, "value": 4},
    ]
    body = client.post("/v1/state/batch_put", json={"operations": operations}).json()
    assert [result["status"] for result in body["results"]] == ["ok", "error", "ok", "error"]
    assert body["results"][1]["error"]["error"] == "revision_mismatch"
    assert body["results"][3]["error"]["error"] == "invalid_argument"
    assert body["results"][0]["revision"] < body["results"][2]["revision"] == body["offset"]
    assert server.lab.head == head + 2
    assert client.get("/v1/state/a").json()["value"] == 3


def test_an_atomic_batch_writes_all_or_none_and_names_the_position(client, server):
    put(client, "taken", 1)
    head = server.lab.head
    operations = [{"key": "a", "value": 1}, {"key": "taken", "value": 2, "if_revision": 0}]
    refused = client.post("/v1/state/batch_put", json={"operations": operations, "atomic": True})
    assert refused.status_code == 409 and refused.json()["index"] == 1
    operations[1] = {"key": "k" * 513, "value": 2}
    refused = client.post("/v1/state/batch_put", json={"operations": operations, "atomic": True})
    assert refused.status_code == 400 and refused.json()["index"] == 1
    assert server.lab.head == head
    operations.pop()
    done = client.post("/v1/state/batch_put", json={"operations": operations, "atomic": True})
    assert done.json()["results"][0]["status"] == "ok"


def test_a_key_called_batch_put_is_reachable(client):
    put(client, "batch_put", 7)
    assert client.get("/v1/state/batch_put").json()["value"] == 7


def test_values_over_the_json_limit_are_413(serve):
    server = serve(max_body_mb=3, max_json_mb=1)
    with server.client() as client:
        refused = put(client, "big", "x" * (1 << 20))
        assert refused.status_code == 413
        assert refused.json()["error"] == "payload_too_large"
        assert "value too large" in refused.json()["message"]
        assert put(client, "fits", "x" * ((1 << 20) - 2)).status_code == 200


def test_a_read_waits_for_the_offset_it_asks_for(client, server):
    offset = put(client, "a", 1).json()["offset"]
    answers = []

    def read():
        with server.client() as other:
            answers.append(other.get(f"/v1/state/b?min_offset={offset + 1}"))

    reader = threading.Thread(target=read)
    reader.start()
    put(client, "b", 2)
    reader.join(20)
    assert answers[0].json()["value"] == 2


def test_a_read_of_an_offset_that_never_comes_is_408(serve):
    server = serve(request_timeout_secs=1)
    with server.client() as client:
        late = client.get("/v1/state?min_offset=99")
        assert late.status_code == 408 and late.json()["error"] == "timeout"


def test_waiting_reads_keep_no_thread_from_others(serve):
    server = serve(request_timeout_secs=20)
    threads = []

    def wait():
        try:
            with server.client() as client:
                client.get("/v1/state/x?min_offset=1")
        except httpx.HTTPError:
            pass

    for _ in range(64):
        threads.append(threading.Thread(target=wait, daemon=True))
        threads[-1].start()
    with server.client() as client:
        assert put(client, "x", 1).status_code == 200
    for thread in threads:
        thread.join(30)
        assert not thread.is_alive()


def test_head_answers_like_get_without_a_body(client, server):
    put(client, "a", 1)
    head = client.head("/v1/state/a")
    assert head.status_code == 200 and head.content == b""
    assert int(head.headers["content-length"]) == len(client.get("/v1/state/a").content)


def test_an_answer_says_nothing_about_the_software_behind_it(server):
    request = f"GET /v1/health HTTP/1.1\r\nHost: {server.host}\r\nConnection: close\r\n\r\n"
    _, headers, _ = parse_response(server.raw(request.encode()))
    assert "server" not in headers and headers["x-content-type-options"] == "nosniff"
