import socket
import time

import httpx
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from service_running import KEY

FLOATS = st.floats(-(2.0**60), 2.0**60, width=32)
RNG = np.random.default_rng(7)


@pytest.fixture
def docs(client):
    assert client.post("/v1/vector/docs", json={"dim": 4, "metric": "l2"}).status_code == 200
    return client


def fill(client, name, vectors, metas=None):
    items = [
        {"id": f"p{i}", "vector": vector.tolist(), "meta": metas[i] if metas else {"i": i}}
        for i, vector in enumerate(vectors)
    ]
    for start in range(0, len(items), 256):
        batch = {"items": items[start : start + 256]}
        answer = client.post(f"/v1/vector/{name}/upsert_batch", json=batch)
        assert answer.status_code == 200, answer.text


def test_creating_answers_with_what_was_made_and_its_offset(client, server):
    made = client.post("/v1/vector/a.b-c_1", json={"dim": 3, "metric": "dot"})
    assert made.status_code == 200
    assert made.json() == {
        "collection": "a.b-c_1",
        "dim": 3,
        "metric": "dot",
        "offset": server.lab.head,
    }


def test_a_collection_is_created_once(docs):
    again = docs.post("/v1/vector/docs", json={"dim": 4, "metric": "l2"})
    assert again.status_code == 409
    assert again.json()["error"] == "already_exists"
    assert "collection already exists" in again.json()["message"]


def test_listing_and_detail_have_the_fields_clients_read(docs):
    docs.post("/v1/vector/docs/upsert", json={"id": "a", "vector": [1, 2, 3, 4]})
    docs.post("/v1/vector/abc", json={"dim": 2, "metric": "cosine"})
    listed = docs.get("/v1/vector").json()["collections"]
    assert [entry["collection"] for entry in listed] == ["abc", "docs"]
    wanted = "collection dim metric live_count total_records upsert_count file_len applied_offset"
    wanted += " created_at_ms updated_at_ms segments deleted_count"
    assert set(wanted.split()) <= set(listed[1])
    assert listed[1]["live_count"] == 1 and listed[1]["deleted_count"] == 0
    detail = docs.get("/v1/vector/docs").json()
    wanted = "collection dim metric count created_at_ms updated_at_ms manifest notes segments"
    assert set([*wanted.split(), "deleted"]) <= set(detail)
    assert (detail["count"], detail["notes"], detail["manifest"]["dim"]) == (1, None, 4)


def test_dropping_takes_the_collection_away(docs):
    dropped = docs.delete("/v1/vector/docs")
    assert dropped.status_code == 200 and dropped.json()["offset"] > 0
    assert docs.get("/v1/vector/docs").status_code == 404
    assert docs.delete("/v1/vector/docs").status_code == 404


def test_points_come_back_exactly_as_sent(docs):
    meta = {"title": "é", "n": [1, 2.5, None]}
    body = {"id": "a", "vector": [0.1, -2, 3e-9, 1e15], "meta": meta}
    assert docs.post("/v1/vector/docs/add", json=body).json()["ok"] is True
    read = docs.get("/v1/vector/docs/get?id=a")
    assert read.json() == body and '"vector":[0.1,-2.0,' in read.text


@settings(
    max_examples=30,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(hnp.arrays(np.float32, 4, elements=FLOATS))
def test_every_float32_survives_the_round_trip(docs, vector):
    body = {"id": "r", "vector": vector.tolist()}
    assert docs.post("/v1/vector/docs/upsert", json=body).status_code == 200
    read = np.asarray(docs.get("/v1/vector/docs/get?id=r").json()["vector"], np.float32)
    np.testing.assert_array_equal(read, vector)


def test_integer_ids_become_text(docs):
    docs.post("/v1/vector/docs/upsert", json={"id": 7, "vector": [1, 0, 0, 0]})
    assert docs.get("/v1/vector/docs/get?id=7").json()["id"] == "7"
    assert docs.post("/v1/vector/docs/delete", json={"id": 7}).json()["deleted"] is True


def test_add_refuses_an_id_that_is_there(docs):
    body = {"id": "a", "vector": [1, 2, 3, 4]}
    docs.post("/v1/vector/docs/add", json=body)
    again = docs.post("/v1/vector/docs/add", json=body)
    assert again.status_code == 409 and "id already exists" in again.json()["message"]
    assert docs.post("/v1/vector/docs/upsert", json=body).status_code == 200


def test_update_keeps_what_is_left_out_or_null(docs):
    docs.post("/v1/vector/docs/add", json={"id": "a", "vector": [1, 2, 3, 4], "meta": {"m": 1}})
    docs.post("/v1/vector/docs/update", json={"id": "a", "vector": [4, 3, 2, 1]})
    docs.post("/v1/vector/docs/update", json={"id": "a", "vector": None, "meta": None})
    assert docs.get("/v1/vector/docs/get?id=a").json() == {
        "id": "a",
        "vector": [4, 3, 2, 1],
        "meta": {"m": 1},
    }
    docs.post("/v1/vector/docs/update", json={"id": "a", "meta": {"other": 2}})
    assert docs.get("/v1/vector/docs/get?id=a").json()["meta"] == {"other": 2}


def test_update_and_delete_of_a_missing_id_are_404(docs):
    for route in ("update", "delete"):
        missing = docs.post(f"/v1/vector/docs/{route}", json={"id": "no"})
        assert missing.status_code == 404 and "id not found" in missing.json()["message"]
    missing = docs.get("/v1/vector/docs/get?id=no")
    assert missing.status_code == 404 and "id not found" in missing.json()["message"]


def test_a_batch_answers_per_item_in_one_commit(docs, server):
    items = [
        {"id": "a", "vector": [1, 0, 0, 0]},
        {"id": "b", "vector": [1, 0]},
        {"id": "x" * 129, "vector": [1, 0, 0, 0]},
        {"id": "a", "vector": [2, 0, 0, 0]},
    ]
    head = server.lab.head
    body = docs.post("/v1/vector/docs/upsert_batch", json={"items": items}).json()
    assert [result["status"] for result in body["results"]] == [
        "upserted",
        "error",
        "error",
        "upserted",
    ]
    assert body["results"][1]["error"]["error"] == "dim_mismatch"
    assert "id too long" in body["results"][2]["error"]["message"]
    assert body["offset"] == head + 2 == server.lab.head
    assert docs.get("/v1/vector/docs/get?id=a").json()["vector"][0] == 2
    body = docs.post("/v1/vector/docs/delete_batch", json={"ids": ["a", "no", "a"]}).json()
    assert [result["status"] for result in body["results"]] == ["deleted", "error", "error"]
    assert body["results"][1]["error"]["error"] == "not_found"


@pytest.mark.parametrize("metric", ["cosine", "dot", "l2"])
def test_search_ranks_and_scores_like_brute_force(client, metric):
    client.post(f"/v1/vector/{metric}", json={"dim": 8, "metric": metric})
    base = RNG.standard_normal((300, 8)).astype(np.float32)
    query = RNG.standard_normal(8).astype(np.float32)
    fill(client, metric, base)
    wide, asked = base.astype(np.float64), query.astype(np.float64)
    scores = {
        "cosine": wide @ asked / (np.linalg.norm(wide, axis=1) * np.linalg.norm(asked)),
        "dot": wide @ asked,
        "l2": -np.square(wide - asked).sum(axis=1),
    }[metric]
    best = np.argsort(-scores)[:10]
    body = {"vector": query.tolist(), "k": 10, "include_meta": True}
    hits = client.post(f"/v1/vector/{metric}/search", json=body).json()["hits"]
    assert [hit["id"] for hit in hits] == [f"p{i}" for i in best]
    assert [hit["meta"] for hit in hits] == [{"i": int(i)} for i in best]
    np.testing.assert_allclose([hit["score"] for hit in hits], scores[best], rtol=1e-5, atol=1e-5)


def test_search_leaves_out_what_is_not_asked_for(docs):
    fill(docs, "docs", RNG.standard_normal((5, 4)))
    plain = docs.post("/v1/vector/docs/search", json={"vector": [1, 0, 0, 0], "k": 2}).json()
    assert set(plain) == {"hits"} and set(plain["hits"][0]) == {"id", "score", "meta"}
    assert plain["hits"][0]["meta"] is None
    everything = {"include_vector": True, "explain": True, "exact": True}
    body = {"vector": [1, 0, 0, 0], "k": 2, **everything}
    full = docs.post("/v1/vector/docs/search", json=body).json()
    assert len(full["hits"][0]["vector"]) == 4
    wanted = "strategy exact kind hops comparisons reads candidates params fingerprint offset"
    assert set(wanted.split()) <= set(full["receipt"]) and full["receipt"]["exact"] is True


def test_min_score_cuts_on_the_scale_of_the_score(docs):
    fill(docs, "docs", np.diag([1.0, 2.0, 3.0, 4.0]))
    body = {"vector": [0, 0, 0, 0], "k": 4, "min_score": -5}
    hits = docs.post("/v1/vector/docs/search", json=body).json()["hits"]
    assert [hit["score"] for hit in hits] == [-1, -4]


def test_more_hits_than_points_gives_what_there_is(docs):
    fill(docs, "docs", np.eye(4)[:3])
    body = {"vector": [0, 0, 0, 0], "k": 100}
    assert len(docs.post("/v1/vector/docs/search", json=body).json()["hits"]) == 3


def test_a_build_answers_when_the_graph_answers_searches(client):
    client.post("/v1/vector/g", json={"dim": 8, "metric": "l2"})
    base = RNG.standard_normal((600, 8)).astype(np.float32)
    fill(client, "g", base)
    before = client.get("/v1/vector/g/diskann/status").json()
    assert (before["available"], before["last_built_ms"], before["graph_files"]) == (
        False,
        None,
        [],
    )
    built = client.post("/v1/vector/g/diskann/build", json={"max_degree": 24}).json()
    assert built["ok"] is True and built["status"]["available"] is True
    assert built["status"]["kind"] == "diskann" and built["status"]["graph_files"]
    assert built["params"]["max_degree"] == 24 and built["params"]["search_list_size"] == 64
    body = {"vector": base[3].tolist(), "k": 10, "explain": True}
    found = client.post("/v1/vector/g/search", json=body).json()
    assert found["receipt"]["exact"] is False and found["receipt"]["kind"] == "diskann"
    exact = np.argsort(np.square(base - base[3]).sum(axis=1))[:10]
    assert len({hit["id"] for hit in found["hits"]} & {f"p{i}" for i in exact}) >= 9
    assert found["receipt"]["fingerprint"] == built["status"]["fingerprint"]


def test_a_search_may_bring_its_own_list_size(client):
    client.post("/v1/vector/g", json={"dim": 8, "metric": "l2"})
    base = RNG.standard_normal((500, 8)).astype(np.float32)
    fill(client, "g", base)
    client.post("/v1/vector/g/diskann/build", json={"max_degree": 16})
    work = []
    for size in (10, 200):
        body = {"vector": base[0].tolist(), "k": 10, "explain": True}
        body["params"] = {"search_list_size": size}
        work.append(client.post("/v1/vector/g/search", json=body).json()["receipt"]["comparisons"])
    assert work[0] < work[1]


def test_graph_parameters_are_clamped_and_tune_overwrites_all_of_them(docs):
    fill(docs, "docs", RNG.standard_normal((50, 4)))
    big = {"max_degree": 9999, "search_list_size": 1, "build_threads": 0}
    tuned = docs.post("/v1/vector/docs/diskann/tune", json=big).json()
    assert tuned["ok"] is True
    assert (tuned["params"]["max_degree"], tuned["params"]["search_list_size"]) == (1024, 8)
    assert tuned["params"]["build_threads"] == 1
    assert tuned["status"]["available"] is False
    tuned = docs.post("/v1/vector/docs/diskann/tune", json={"search_list_size": 90}).json()
    assert tuned["params"]["max_degree"] == 48
    stored = docs.get("/v1/vector/docs/diskann/status").json()["params"]
    assert (stored["max_degree"], stored["search_list_size"]) == (48, 90)


@pytest.mark.parametrize(
    "extreme", [{"max_degree": 1}, {"max_degree": 5000}, {"build_list_size": 1}]
)
def test_a_build_with_clamped_extremes_still_answers(docs, extreme):
    fill(docs, "docs", RNG.standard_normal((40, 4)))
    built = docs.post("/v1/vector/docs/diskann/build", json=extreme)
    assert built.status_code == 200 and built.json()["status"]["available"] is True


def test_a_client_that_leaves_does_not_cancel_the_build(client, server):
    client.post("/v1/vector/g", json={"dim": 16, "metric": "l2"})
    fill(client, "g", RNG.standard_normal((2500, 16)))
    head = f"POST /v1/vector/g/diskann/build HTTP/1.1\r\nHost: {server.host}\r\nX-API-Key: {KEY}"
    head += "\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}"
    with socket.create_connection(("127.0.0.1", server.port)) as sock:
        sock.sendall(head.encode())
        deadline = time.monotonic() + 60
        while not server.lab.jobs() and time.monotonic() < deadline:
            time.sleep(0.005)
    (job,) = server.lab.jobs()
    assert job.result(timeout=60)["kind"] == "diskann"
    assert client.get("/v1/vector/g/diskann/status").json()["available"] is True


def test_the_request_time_limit_does_not_apply_to_a_build(serve, monkeypatch):
    server = serve(request_timeout_secs=1)
    collection = server.lab.create_collection("g", 4, "l2")
    collection.upsert(["a", "b"], np.eye(4)[:2])
    original = type(server.lab.collection("g")).build_index

    def slow(self, *args, **kwargs):
        time.sleep(1.5)
        return original(self, *args, **kwargs)

    monkeypatch.setattr(type(collection), "build_index", slow)
    with server.client() as client:
        built = client.post("/v1/vector/g/diskann/build", json={}, timeout=httpx.Timeout(60))
        assert built.status_code == 200


def test_a_search_sees_the_write_whose_offset_it_names(docs):
    body = {"id": "a", "vector": [1, 2, 3, 4]}
    offset = docs.post("/v1/vector/docs/upsert", json=body).json()["offset"]
    search = {"vector": [1, 2, 3, 4], "k": 1, "min_offset": offset}
    assert docs.post("/v1/vector/docs/search", json=search).json()["hits"][0]["id"] == "a"


def test_metas_over_the_json_limit_are_413(serve):
    server = serve(max_body_mb=3, max_json_mb=1)
    with server.client() as client:
        client.post("/v1/vector/docs", json={"dim": 1, "metric": "l2"})
        body = {"id": "a", "vector": [1], "meta": "x" * (1 << 20)}
        refused = client.post("/v1/vector/docs/upsert", json=body)
        assert refused.status_code == 413 and "meta too large" in refused.json()["message"]
        batch = client.post("/v1/vector/docs/upsert_batch", json={"items": [body]}).json()
        assert batch["results"][0]["error"]["error"] == "payload_too_large"


def test_text_fields_are_declared_shown_and_searched(client, server):
    body = {"dim": 2, "metric": "l2", "text_fields": {"title": 2, "text": 1}, "language": "es"}
    assert client.post("/v1/vector/t", json=body).status_code == 200
    body |= {
        "text_fields": {"a.b": {"language": "en"}},
        "text_variant": "bm25+",
        "k1": 1,
        "text_positions": True,
    }
    assert client.post("/v1/vector/u", json=body).status_code == 200
    client.post("/v1/vector/plain", json={"dim": 2, "metric": "l2"})
    shown = {e["collection"]: e for e in client.get("/v1/vector").json()["collections"]}
    fields = {name: entry["text_fields"] for name, entry in shown.items()}
    assert fields == {"t": {"title": 2.0, "text": 1.0}, "u": {"a.b": 1.0}, "plain": None}
    assert client.get("/v1/vector/t").json()["language"] == "es"
    assert shown["plain"]["language"] is None and shown["t"]["field_languages"] == {}
    assert shown["u"]["field_languages"] == {"a.b": "en"}
    point = {"id": "a", "vector": [0, 0], "meta": {"title": "Las campañas"}}
    client.post("/v1/vector/t/upsert", json=point)
    before = client.get("/v1/vector/t/index/status").json()["text"]
    assert before["documents"] == 1 and before["memory_bytes"] == 0
    assert [hit.id for hit in server.lab.collection("t").search_text("campana")] == ["a"]
    status = client.get("/v1/vector/t/index/status").json()["text"]
    assert status["language"] == "es" and status["fields"] == {"title": 2.0, "text": 1.0}
    assert status["segments"] == 1 and status["terms"] == 2 and status["memory_bytes"] > 0
    assert status["applied_offset"] == server.lab.head
    assert client.get("/v1/vector/plain/index/status").json()["text"] is None


def test_short_searches_answer_from_the_event_loop_what_threads_would(client, server, monkeypatch):
    vectors = RNG.normal(size=(300, 24)).astype(np.float32)
    docs = server.lab.create_collection("graph", 24, "cosine")
    docs.upsert([f"p{i}" for i in range(300)], vectors, [{"n": i} for i in range(300)])
    docs.build_index("vamana").result()
    docs.search(vectors[0], 3)
    quick, taken = server.lab.quick_search, []

    def ask(vector, **more):
        body = {"vector": vector.tolist(), "k": 5, **more}
        return client.post("/v1/vector/graph/search", json=body).json()

    def ask_raw(vector):
        head = {"content-type": "application/octet-stream"}
        url = "/v1/vector/graph/search?k=5&include_meta=true"
        return client.post(url, content=vector.tobytes(), headers=head).json()

    def everything():
        return [
            part
            for vector in vectors[:5]
            for part in (ask(vector), ask(vector, include_meta=True), ask_raw(vector))
        ]

    monkeypatch.setattr(
        server.lab, "quick_search", lambda *a, **more: taken.append(quick(*a, **more)) or taken[-1]
    )
    short = everything()
    assert len(taken) == 15 and None not in taken
    for more in ({"exact": True}, {"min_score": 0.5}, {"filters": {"n": 3}}, {"explain": True}):
        assert "hits" in ask(vectors[0], **more)
    assert len(taken) == 15
    monkeypatch.setattr(server.lab, "quick_search", lambda *a, **more: None)
    assert short == everything() and len(short[0]["hits"]) == 5
