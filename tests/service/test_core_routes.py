"""Documents, SQL, transactions, keys, bulk, index, job and search routes: what they answer."""

import json
import time
from base64 import b64decode

import msgspec
import numpy as np
import pytest

import luma_lab as luma
from luma_lab.engine.keys import KeyStore
from luma_lab.service.app import all_operations

V = "/v1/vector/docs"
ADD, PUT = "vector.add", "state.put"


@pytest.fixture
def filled(server, client):
    assert client.post(V, json={"dim": 2, "metric": "l2", "meta_indexes": ["n"]}).status_code == 200
    items = [{"id": i, "vector": [i, 0], "meta": {"n": i, "g": i % 3}} for i in range(9)]
    assert client.post(f"{V}/upsert_batch", json={"items": items}).status_code == 200
    return client


def ok(answer, status=200):
    assert answer.status_code == status, answer.text
    return answer.json()


def refused(answer, status, code):
    assert (answer.status_code, answer.json()["error"]) == (status, code), answer.text
    return answer.json()


class TestDocuments:
    def test_a_document_is_put_patched_found_and_deleted(self, client):
        first = ok(client.put("/v1/doc/notes/n1", json={"a": 1, "tags": ["x"]}))
        assert first["doc"] == {"a": 1, "tags": ["x"]} and first["revision"] == first["offset"]
        patched = ok(client.patch("/v1/doc/notes/n1", json={"a": None, "b": {"c": 2}}))
        assert patched["doc"] == {"tags": ["x"], "b": {"c": 2}}
        assert ok(client.get("/v1/doc/notes/n1")) == {
            "id": "n1", "revision": patched["revision"], "doc": patched["doc"],
        }  # fmt: skip
        found = ok(client.post("/v1/doc/notes/find", json={"filter": {"tags": "x"}}))
        assert [d["id"] for d in found["documents"]] == ["n1"] and found["next"] is None
        refused(client.delete("/v1/doc/notes/n1?if_revision=1"), 409, "revision_mismatch")
        assert ok(client.delete("/v1/doc/notes/n1"))["deleted"] is True
        assert ok(client.delete("/v1/doc/notes/n1"))["deleted"] is False
        refused(client.get("/v1/doc/notes/n1"), 404, "not_found")
        refused(client.patch("/v1/doc/notes/n1", json={}), 404, "not_found")

    def test_a_document_called_find_is_like_any_other(self, client):
        ok(client.put("/v1/doc/notes/find", json=1))
        assert ok(client.get("/v1/doc/notes/find"))["doc"] == 1
        assert ok(client.delete("/v1/doc/notes/find"))["deleted"]

    def test_find_pages_through_everything(self, client):
        for i in range(7):
            ok(client.put(f"/v1/doc/notes/{i}", json={"n": i}))
        seen, after = [], None
        while True:
            page = ok(client.post("/v1/doc/notes/find", json={"limit": 3, "after": after}))
            seen += [d["doc"]["n"] for d in page["documents"]]
            after = page["next"]
            if after is None:
                break
        assert seen == list(range(7))
        refused(client.post("/v1/doc/notes/find", json={"filter": 5}), 400, "invalid_filter")
        refused(client.post("/v1/doc/notes/find", json={"filter": "n ="}), 400, "invalid_filter")

    def test_its_events_name_collection_and_id(self, client, server):
        ok(client.put("/v1/doc/notes/n1", json=[1]))
        ok(client.delete("/v1/doc/notes/n1"))
        put, deleted = server.lab.events.read()
        assert (put.type, put.key, put.collection) == ("state_updated", "doc:notes:n1", "notes")
        assert put.data["value"] == [1] and put.data["id"] == "n1"
        assert deleted.type == "state_deleted" and deleted.data["reason"] == "explicit"

    def test_names_too_long_are_refused(self, client):
        assert (
            "collection too long"
            in refused(client.put(f"/v1/doc/{'c' * 65}/a", json=1), 400, "invalid_argument")[
                "message"
            ]
        )
        assert (
            "id too long"
            in refused(client.put(f"/v1/doc/c/{'i' * 129}", json=1), 400, "invalid_argument")[
                "message"
            ]
        )


class TestSql:
    def test_a_query_answers_rows_columns_and_truncated(self, client):
        ok(client.post("/v1/sql/exec", json={"sql": "CREATE TABLE t (a, b)"}))
        done = ok(
            client.post(
                "/v1/sql/exec", json={"sql": "INSERT INTO t VALUES (?, x'00ff')", "params": [1]}
            )
        )
        assert done["rows_affected"] == 1
        body = ok(client.post("/v1/sql/query", json={"sql": "SELECT a, b, a, 9e999 AS inf FROM t"}))
        assert body["columns"] == ["a", "b", "a_2", "inf"] and body["truncated"] is False
        (row,) = body["rows"]
        assert b64decode(row.pop("b") + "==") == b"\0\xff"
        assert row == {"a": 1, "a_2": 1, "inf": None}

    def test_a_batch_is_all_or_nothing(self, client):
        batch = [{"sql": "CREATE TABLE t (a UNIQUE)"}, {"sql": "INSERT INTO t VALUES (1), (1)"}]
        assert (
            refused(client.post("/v1/sql/exec", json={"statements": batch}), 400, "sqlite_error")[
                "index"
            ]
            == 1
        )
        batch[1]["sql"] = "INSERT INTO t VALUES (1), (2)"
        body = ok(client.post("/v1/sql/exec", json={"statements": batch}))
        assert body["rows_affected"] == 2 and len(body["results"]) == 2

    @pytest.mark.parametrize(
        ("route", "body", "status", "code"),
        [
            ("query", {"sql": "DELETE FROM t"}, 400, "sqlite_error"),
            ("query", {"sql": "CREATE TABLE x (a)"}, 400, "invalid_argument"),
            ("query", {"sql": "PRAGMA user_version"}, 400, "invalid_argument"),
            ("query", {"sql": "SELECT 1; SELECT 2"}, 400, "invalid_argument"),
            ("query", {"sql": "SELECT ?", "params": [[1]]}, 400, "sqlite_error"),
            ("query", {"sql": "SELECT * FROM luma_log"}, 400, "sqlite_error"),
            ("query", {"sql": 5}, 422, "invalid_argument"),
            ("query", {}, 422, "invalid_argument"),
            ("exec", {"sql": "SELECT 1"}, 400, "invalid_argument"),
            ("exec", {"sql": "DROP TABLE luma_log"}, 400, "sqlite_error"),
            ("exec", {}, 422, "invalid_argument"),
            ("exec", {"sql": "x", "statements": []}, 422, "invalid_argument"),
            ("exec", {"statements": []}, 400, "invalid_argument"),
        ],
    )  # fmt: skip
    def test_what_may_not_be_is_refused(self, client, server, route, body, status, code):
        head = server.lab.head
        refused(client.post(f"/v1/sql/{route}", json=body), status, code)
        assert server.lab.head == head

    def test_a_runaway_is_stopped_and_rows_are_capped(self, serve):
        server = serve(sql_timeout_secs=1, max_sql_rows=5)
        endless = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT "
        with server.client() as client:
            refused(
                client.post("/v1/sql/query", json={"sql": endless + "max(i) FROM n"}),
                408,
                "sql_timeout",
            )
            body = ok(client.post("/v1/sql/query", json={"sql": endless + "i FROM n"}))
            assert len(body["rows"]) == 5 and body["truncated"]

    def test_it_can_be_switched_off(self, serve):
        with serve(sqlite_enabled=False).client() as client:
            for path in ("query", "exec"):
                body = refused(
                    client.post(f"/v1/sql/{path}", json={"sql": "SELECT 1"}), 404, "not_enabled"
                )
                assert body["message"] == "sqlite module is disabled"
            operations = [{"op": "sql", "sql": "CREATE TABLE t (a)"}]
            refused(
                client.post("/v1/transaction", json={"operations": operations}), 404, "not_enabled"
            )


class TestTransaction:
    def test_every_kind_in_one_range_with_the_bodies_of_the_single_routes(self, filled, server):
        ok(filled.post("/v1/sql/exec", json={"sql": "CREATE TABLE t (a)"}))
        head = server.lab.head
        operations = [
            {"op": "state.put", "key": "k", "value": [1]},
            {"op": "state.delete", "key": "nope"},
            {"op": "doc.put", "collection": "c", "id": "d", "doc": {"x": 1}},
            {"op": "doc.patch", "collection": "c", "id": "d", "changes": {"y": 2}},
            {"op": "doc.delete", "collection": "c", "id": "d"},
            {"op": "vector.add", "collection": "docs", "id": "new", "vector": [1, 1]},
            {"op": "vector.update", "collection": "docs", "id": "new", "meta": {"m": 1}},
            {"op": "vector.delete", "collection": "docs", "id": "new"},
            {"op": "sql", "sql": "INSERT INTO t VALUES (?)", "params": [1]},
            {"op": "publish", "type": "done", "data": {"a": 1}, "key": "k"},
        ]
        body = ok(filled.post("/v1/transaction", json={"operations": operations}))
        assert (body["first_offset"], body["offset"]) == (head + 1, head + 9)
        results = body["results"]
        assert results[0] == {
            "key": "k",
            "revision": head + 1,
            "expires_at_ms": None,
            "offset": head + 1,
        }
        assert results[1]["deleted"] is False
        assert results[3]["doc"] == {"x": 1, "y": 2}
        assert results[4]["deleted"] and results[7]["deleted"] and results[5]["ok"]
        assert results[8]["rows_affected"] == 1
        assert results[9] == {"offset": head + 9}

    @pytest.mark.parametrize(
        ("bad", "status", "code"),
        [
            ({"op": "vector.delete", "collection": "docs", "id": "nope"}, 404, "not_found"),
            ({"op": ADD, "collection": "docs", "id": "1", "vector": [1, 1]}, 409, "already_exists"),
            ({"op": ADD, "collection": "docs", "id": "x", "vector": [1]}, 400, "dim_mismatch"),
            ({"op": ADD, "collection": "gone", "id": "x", "vector": [1]}, 404, "not_found"),
            ({"op": PUT, "key": "k", "value": 1, "if_revision": 99}, 409, "revision_mismatch"),
            ({"op": "doc.patch", "collection": "c", "id": "no", "changes": {}}, 404, "not_found"),
            ({"op": "sql", "sql": "INSERT OR ROLLBACK INTO t VALUES (NULL)"}, 400, "sqlite_error"),
            ({"op": "sql", "sql": "DELETE FROM luma_log"}, 400, "sqlite_error"),
            ({"op": "publish", "type": "state_x", "data": 1}, 400, "invalid_argument"),
            ({"op": "state.put", "key": "x" * 600, "value": 1}, 400, "invalid_argument"),
        ],
    )  # fmt: skip
    def test_one_that_fails_undoes_all_and_is_named(self, filled, server, bad, status, code):
        ok(filled.post("/v1/sql/exec", json={"sql": "CREATE TABLE t (a NOT NULL)"}))
        head = server.lab.head
        operations = [{"op": "state.put", "key": "first", "value": 1}, bad]
        body = refused(
            filled.post("/v1/transaction", json={"operations": operations}), status, code
        )
        assert body["index"] == 1
        assert server.lab.head == head and "first" not in server.lab.state

    def test_shapes_that_are_none_are_422(self, client):
        for operations in ([{"op": "nope"}], [{}], 5, [{"op": "state.put", "key": "k"}]):
            refused(
                client.post("/v1/transaction", json={"operations": operations}),
                422,
                "invalid_argument",
            )
        refused(client.post("/v1/transaction", json={"operations": []}), 400, "invalid_argument")


class TestVectors:
    def test_filters_in_both_spellings_groups_and_counts(self, filled):
        for filters in ({"n": {"$gte": 6}}, "n >= 6"):
            body = {"vector": [0, 0], "k": 9, "filters": filters, "explain": True}
            found = ok(filled.post(f"{V}/search", json=body))
            assert [h["id"] for h in found["hits"]] == ["6", "7", "8"]
            assert found["receipt"]["matches"] == 3
            assert ok(filled.post(f"{V}/count", json={"filters": filters})) == {"count": 3}
        body = {"vector": [0, 0], "k": 2, "group_by": "g", "group_limit": 2, "include_meta": True}
        found = ok(filled.post(f"{V}/search", json=body))
        assert [g["key"] for g in found["groups"]] == [0, 1]
        assert [[h["id"] for h in g["hits"]] for g in found["groups"]] == [["0", "3"], ["1", "4"]]
        assert [h["id"] for h in found["hits"]] == ["0", "1"]

    def test_a_range_search_answers_all_that_score_enough(self, filled):
        body = {"vector": [0, 0], "min_score": -9, "explain": True, "include_meta": True}
        found = ok(filled.post(f"{V}/search_range", json=body))
        assert [h["id"] for h in found["hits"]] == ["0", "1", "2", "3"]
        assert [h["score"] for h in found["hits"]] == [0, -1, -4, -9]
        assert found["truncated"] is found["receipt"]["truncated"] is False
        assert found["hits"][1]["meta"]["n"] == 1
        body = {"vector": [0, 0], "min_score": -9, "filters": {"n": {"$gte": 2}}, "limit": 1}
        found = ok(filled.post(f"{V}/search_range", json=body))
        assert [h["id"] for h in found["hits"]] == ["2"] and found["truncated"] is True
        refused(
            filled.post(f"{V}/search_range", json={**body, "limit": 0}), 400, "invalid_argument"
        )
        lacking = filled.post(f"{V}/search_range", json={"vector": [0, 0]})
        refused(lacking, 422, "invalid_argument")

    def test_binary_searches_are_those_in_json(self, filled):
        vectors = np.array([[1, 0], [7, 0]], "<f4")
        media = {"Content-Type": "application/octet-stream"}
        query = {"k": 2, "include_meta": "true", "filters": '{"n": {"$lt": 8}}'}
        one = ok(
            filled.post(f"{V}/search", params=query, content=vectors[0].tobytes(), headers=media)
        )
        body = {"vector": [1, 0], "k": 2, "include_meta": True, "filters": {"n": {"$lt": 8}}}
        assert one == ok(filled.post(f"{V}/search", json=body))
        many = ok(
            filled.post(f"{V}/search_batch", params=query, content=vectors.tobytes(), headers=media)
        )
        del body["vector"]
        assert many == ok(
            filled.post(f"{V}/search_batch", json={**body, "vectors": vectors.tolist()})
        )
        refused(filled.post(f"{V}/search?k=2", content=b"123", headers=media), 400, "dim_mismatch")
        nan = np.array([np.nan, 0], "<f4").tobytes()
        refused(filled.post(f"{V}/search?k=2", content=nan, headers=media), 400, "invalid_argument")
        refused(filled.post(f"{V}/search", content=nan, headers=media), 400, "invalid_argument")

    def test_lines_and_raw_floats_are_written_all_or_not_at_all(self, filled, server):
        media = {"Content-Type": "application/x-ndjson"}
        lines = [json.dumps({"id": f"l{i}", "vector": [i, 1], "meta": i}) for i in range(300)]
        done = ok(filled.post(f"{V}/upsert_batch", content="\n".join(lines), headers=media))
        assert done == {"count": 300, "offset": server.lab.head}
        head = server.lab.head
        lines[7] = '{"id": "x", "vector": [1]}'
        body = refused(
            filled.post(f"{V}/upsert_batch", content="\n".join(lines), headers=media),
            400,
            "dim_mismatch",
        )
        assert "line 8" in body["message"] and server.lab.head == head
        lines[7] = '{"id": 5}'
        body = refused(
            filled.post(f"{V}/upsert_batch", content="\n".join(lines), headers=media),
            422,
            "invalid_argument",
        )
        assert "line 8" in body["message"]
        raw = np.arange(6, dtype="<f4").tobytes()
        tail = b"\n".join(b'{"id":"b%d","meta":{"i":%d}}' % (i, i) for i in range(3))
        media = {"Content-Type": "application/octet-stream"}
        assert (
            ok(filled.post(f"{V}/upsert_binary?n=3", content=raw + tail, headers=media))["count"]
            == 3
        )
        assert ok(filled.get(f"{V}/get?id=b2"))["vector"] == [4, 5]
        for count in ("2", "4", "0", ""):
            answer = filled.post(f"{V}/upsert_binary?n={count}", content=raw + tail, headers=media)
            assert answer.status_code in (400, 422), answer.text

    def test_pages_batches_and_deletes(self, filled):
        seen, after = [], None
        while True:
            page = ok(
                filled.post(f"{V}/scroll", json={"limit": 4, "after": after, "filters": "n != 3"})
            )
            seen += [p["id"] for p in page["points"]]
            after = page["next"]
            if after is None:
                break
        assert seen == [str(i) for i in range(9) if i != 3]
        points = ok(filled.post(f"{V}/get_batch", json={"ids": [3, "nope", "1"]}))["points"]
        assert [p and p["id"] for p in points] == ["3", None, "1"]
        refused(filled.post(f"{V}/delete_where", json={}), 400, "invalid_argument")
        refused(filled.post(f"{V}/delete_where", json={"filters": {}}), 400, "invalid_argument")
        assert ok(filled.post(f"{V}/delete_where", json={"filters": {"g": 1}}))["deleted"] == 3
        assert ok(filled.post(f"{V}/count", json={})) == {"count": 6}

    def test_an_index_is_built_watched_tuned_and_dropped(self, filled):
        job = ok(filled.post(f"{V}/index/build", json={"kind": "vamana"}), 202)["job"]
        while ok(filled.get(f"/v1/jobs/{job['id']}"))["state"] not in ("done", "failed"):
            time.sleep(0.02)
        status = ok(filled.get(f"{V}/index/status"))
        assert status["available"] and status["kind"] == "vamana" and status["indexed_points"] == 9
        done = ok(filled.post(f"{V}/index/build", json={"kind": "vamana", "wait": True}))["job"]
        assert done["state"] == "done" and done["progress"] == 1
        refused(filled.delete(f"/v1/jobs/{done['id']}"), 409, "conflict")
        assert len(ok(filled.get("/v1/jobs?state=done"))["jobs"]) == 2
        refused(filled.get("/v1/jobs?state=odd"), 400, "invalid_argument")
        refused(filled.get("/v1/jobs/nope"), 404, "not_found")
        tuned = ok(filled.post(f"{V}/index/tune", json={"params": {"search_list_size": 99}}))
        assert tuned["params"]["search_list_size"] == 99
        assert ok(filled.post(f"{V}/index/drop"))["dropped"] is True
        assert ok(filled.post(f"{V}/index/drop"))["dropped"] is False
        built = ok(filled.post(f"{V}/index/build", json={"kind": "ivf", "wait": True}))["job"]
        assert built["result"]["kind"] == ok(filled.get(f"{V}/index/status"))["kind"] == "ivf"
        found = ok(
            filled.post(
                f"{V}/search",
                json={
                    "vector": [1, 0],
                    "k": 2,
                    "explain": True,
                    "params": {"nprobe": 1, "rerank": 5},
                },
            )
        )
        assert found["receipt"]["params"] == {"k": 2, "nprobe": 1, "rerank": 5}
        refused(filled.post(f"{V}/index/build", json={"kind": "tree"}), 422, "invalid_argument")

    def test_a_collection_is_compacted_and_says_why_it_is_scanned(self, filled):
        ok(filled.post(f"{V}/delete_batch", json={"ids": ["1", "2", "3"]}))
        before = ok(filled.post(f"{V}/search", json={"vector": [4, 0], "k": 3}))
        job = ok(filled.post(f"{V}/compact"), 202)["job"]
        assert job["kind"] == "compact"
        while (now := ok(filled.get(f"/v1/jobs/{job['id']}")))["state"] not in ("done", "failed"):
            time.sleep(0.02)
        assert (now["result"]["rows_before"], now["result"]["rows"]) == (9, 6)
        assert ok(filled.post(f"{V}/search", json={"vector": [4, 0], "k": 3})) == before
        [listed] = ok(filled.get("/v1/vector"))["collections"]
        assert (listed["total_records"], listed["deleted_count"]) == (6, 0)
        assert "6 rows" in ok(filled.get(f"{V}/index/status"))["why"]


class TestSearch:
    def ingest(self, client, id, vector, **metadata):
        document = {"id": id, "vector": vector, "content": f"text {id}", "metadata": metadata}
        return client.post("/search/ingest", json={"document": document})

    def test_documents_are_found_the_latest_grouped(self, serve):
        with serve(test_vectors=True).client() as client:
            answer = self.ingest(client, 1, [1, 0], category="a", group_id=7, processed_at=1)
            assert (answer.status_code, answer.content) == (200, b"")
            assert int(answer.headers["X-Luma-Offset"]) == 2
            self.ingest(client, 2, [0.9, 0.1], category="a", group_id=7, processed_at=2)
            self.ingest(client, 3, [0, 1], category="b", language="es")
            refused(self.ingest(client, 4, [1]), 400, "dim_mismatch")
            refused(
                client.post(
                    "/search/ingest", json={"document": {"id": 1, "content": "x", "metadata": {}}}
                ),
                409,
                "conflict",
            )

            def ids(**body):
                found = ok(client.post("/search", json={"query": "TEST_VEC:1.0,0.0", **body}))
                return [r["document"]["id"] for r in found["results"]]

            assert ids() == [1, 2, 3]
            assert ids(top_k=1) == [1]
            assert ids(filters={"version_policy": "latest"}) == [2, 3]
            assert ids(filters={"language": ["es", "en"]}) == [3]
            assert ids(group_by="category") == [1, 3]
            assert ids(group_by="category", group_limit=2) == [1, 2, 3]
            assert ids(group_by="nothing") == [1, 2, 3]
            assert ids(group_by="category", group_limit=0) == []
            refused(client.post("/search", json={"query": "x" * 1025}), 400, "invalid_argument")
            refused(
                client.post("/search", json={"query": "x", "top_k": 0}), 400, "invalid_argument"
            )
            # Without an embedder a plain query is one for words.
            found = ok(client.post("/search", json={"query": "text", "top_k": 2}))["results"]
            assert len(found) == 2 and all(r["score"] > 0 for r in found)

    def test_test_vectors_need_to_be_allowed(self, serve):
        with serve(embedder="none").client() as client:
            refused(client.post("/search", json={"query": "TEST_VEC:1.0"}), 501, "not_supported")
            refused(client.post("/search", json={"query": "plain"}), 501, "not_supported")
            assert ok(client.post("/search", json={"query": "", "vector": [1.0]}))["results"] == []


class TestKeys:
    def test_a_key_is_made_used_rotated_and_revoked(self, server, client):
        made = ok(client.post("/v1/auth/keys", json={"name": "bob"}))
        assert made["key"].startswith("rk_live_")
        with server.client(made["key"]) as bob:
            ok(bob.put("/v1/state/k", json={"value": 1}))
            refused(bob.get("/v1/auth/keys"), 403, "forbidden")
            new = ok(client.post(f"/v1/auth/keys/{made['id']}/rotate"))
            refused(bob.get("/v1/state"), 401, "unauthorized")
        with server.client(new["key"]) as bob:
            ok(bob.get("/v1/state"))
            listed = ok(client.get("/v1/auth/keys"))
            assert [(k["name"], k["role"]) for k in listed] == [
                ("bob", "write"),
                ("Configured key", "admin"),
            ]
            assert all("hash" not in k and made["key"] not in str(k) for k in listed)
            answer = client.delete(f"/v1/auth/keys/{made['id']}")
            assert (answer.status_code, answer.content) == (204, b"")
            refused(bob.get("/v1/state"), 401, "unauthorized")
        body = refused(client.delete(f"/v1/auth/keys/{made['id']}"), 404, "not_found")
        assert body["message"].startswith("key id not found")
        refused(client.delete("/v1/auth/keys/configured"), 409, "conflict")

    def test_misspelt_rights_are_refused(self, client):
        for body in (
            {"name": "x", "permissions": {"colections": ["a"]}},
            {"name": "x", "permissions": {"collections": "a"}},
            {"name": "x", "role": "admin", "permissions": {"collections": ["a"]}},
            {"name": ""},
            {"name": "a\nb"},
        ):
            refused(client.post("/v1/auth/keys", json=body), 400, "invalid_argument")
        refused(
            client.post("/v1/auth/keys", json={"name": "x", "role": "root"}),
            422,
            "invalid_argument",
        )
        assert len(ok(client.get("/v1/auth/keys"))) == 1

    def test_secrets_are_on_no_disk_and_the_file_is_the_owner_s_alone(self, tmp_path):
        with luma.open(tmp_path / "lab") as lab:
            store = KeyStore(lab.path)
            _, token = store.create("a", "read")
            again = KeyStore(lab.path)
            assert again.find(token.encode()).name == "a"
            store.revoke(again.list()[0].id)
            assert again.find(token.encode()) is None, "seen by another process at once"
            store.create("b")
            for file in lab.path.glob("keys.db*"):
                assert token.encode() not in file.read_bytes()
                assert file.stat().st_mode & 0o077 == 0
            store.close()
            again.close()

    def test_a_damaged_store_lets_nobody_in(self, tmp_path):
        (tmp_path / "keys.db").write_bytes(b"no database at all" * 100)
        with pytest.raises(luma.LumaError):
            KeyStore(tmp_path).find(b"rk_live_x")

    def test_an_open_stream_of_a_revoked_key_ends(self, server, client):
        made = ok(client.post("/v1/auth/keys", json={"name": "bob", "role": "read"}))
        with (
            server.client(made["key"]) as bob,
            bob.stream("GET", "/v1/stream?since=latest") as stream,
        ):
            lines = stream.iter_lines()
            assert next(lines).startswith(": epoch")
            KeyStore(server.lab.path).revoke(made["id"])
            with pytest.raises(Exception, match="closed|incomplete|Remote"):
                for _ in lines:
                    pass
                raise ConnectionError("closed")

    def test_a_confined_key_sees_and_does_what_is_inside_only(self, filled, server):
        rights = {"collections": ["docs", "no*"], "key_prefixes": ["mine:", "ours:"]}
        made = ok(filled.post("/v1/auth/keys", json={"name": "c", "permissions": rights}))
        ok(filled.post("/v1/vector/other", json={"dim": 2, "metric": "l2"}))
        ok(filled.put("/v1/state/theirs", json={"value": 1}))
        ok(filled.put("/v1/doc/secret/a", json=1))
        with server.client(made["key"]) as key:
            ok(key.put("/v1/state/mine:a", json={"value": 1}))
            ok(key.put("/v1/state/ours:b", json={"value": 2}))
            ok(key.put("/v1/doc/notes/a", json=1))
            assert [i["key"] for i in ok(key.get("/v1/state"))] == ["mine:a", "ours:b"]
            page = key.get("/v1/state?limit=1")
            assert [i["key"] for i in ok(page)] == ["mine:a"]
            following = key.get(
                "/v1/state", params={"after": page.headers["X-Luma-Next"].replace("%3A", ":")}
            )
            assert [i["key"] for i in ok(following)] == ["ours:b"]
            assert [c["collection"] for c in ok(key.get("/v1/vector"))["collections"]] == ["docs"]
            for method, path, body in (
                ("GET", "/v1/state/theirs", None),
                ("PUT", "/v1/state/theirs", {"value": 2}),
                ("DELETE", "/v1/state/theirs", None),
                ("GET", "/v1/doc/secret/a", None),
                ("POST", "/v1/doc/secret/find", {}),
                ("GET", "/v1/vector/other", None),
                ("POST", "/v1/vector/other/search", {"vector": [1, 1], "k": 1}),
                ("DELETE", "/v1/vector/other", None),
                ("POST", "/v1/sql/query", {"sql": "SELECT 1"}),
                ("POST", "/v1/sql/exec", {"sql": "CREATE TABLE t (a)"}),
                ("POST", "/v1/events", {"type": "said", "data": 1}),
                ("POST", "/v1/events", {"type": "said", "data": 1, "key": "theirs"}),
                ("GET", "/v1/consumers", None),
                ("POST", "/search", {"query": "", "vector": [1]}),
                (
                    "POST",
                    "/v1/transaction",
                    {"operations": [{"op": "sql", "sql": "CREATE TABLE t (a)"}]},
                ),
                (
                    "POST",
                    "/v1/transaction",
                    {"operations": [{"op": "state.put", "key": "theirs", "value": 1}]},
                ),
                (
                    "POST",
                    "/v1/transaction",
                    {
                        "operations": [
                            {"op": "doc.put", "collection": "secret", "id": "a", "doc": 1}
                        ]
                    },
                ),
            ):
                head = server.lab.head
                refused(key.request(method, path, json=body), 403, "forbidden")
                assert server.lab.head == head
            with key.stream("GET", "/v1/stream?since=0") as stream:
                told = []
                for line in stream.iter_lines():
                    if line.startswith("data: "):
                        told.append(json.loads(line[6:]))
                    if told and told[-1]["data"].get("id") == "a":
                        break
            text = json.dumps(told)
            assert "theirs" not in text and "secret" not in text and "other" not in text
            assert "mine:a" in text and "ours:b" in text


SAMPLES = {
    "key": "k", "collection": "docs", "id": "1", "name": "n",
}  # fmt: skip


def test_roles_hold_on_every_operation(filled, server):
    store = KeyStore(server.lab.path)
    keys = {role: store.create(role, role)[1] for role in ("read", "write")}
    store.close()
    checked = 0
    for operation in all_operations():
        path = operation.path.format(**SAMPLES)
        if operation.role is None:
            continue
        head = server.lab.head
        with server.client(None) as nobody:
            answer = nobody.request(operation.method, path, json={})
            refused(answer, 401, "unauthorized")
        if operation.role != "read":
            with server.client(keys["read"]) as reader:
                refused(reader.request(operation.method, path, json={}), 403, "forbidden")
        if operation.role == "admin":
            with server.client(keys["write"]) as writer:
                refused(writer.request(operation.method, path, json={}), 403, "forbidden")
        assert server.lab.head == head
        checked += 1
    assert checked > 50


def test_successful_answers_are_what_their_operations_say(filled):
    """The models behind the API description are decoded strictly."""
    ok(filled.put("/v1/state/k", json={"value": 1}))
    ok(filled.put("/v1/doc/docs/1", json={"a": 1}))
    checked = 0
    bodies = {
        "/search": {"vector": [1, 0], "k": 2, "explain": True, "group_by": "g"},
        "/search_batch": {"vectors": [[1, 0]], "k": 2},
        "/search_range": {"vector": [1, 0], "min_score": -9, "explain": True},
        "/find": {},
        "/scroll": {"include_vector": True},
        "/get_batch": {"ids": ["1", "no"]},
        "/count": {},
        "/query": {"sql": "SELECT 1 AS a", "vector": [1, 0], "k": 2, "explain": True},
    }  # fmt: skip
    for operation in all_operations():
        if operation.answer_media != "application/json" or operation.path in ("/search",):
            continue
        path = operation.path.format(**SAMPLES)
        if operation.method == "GET" and "{name}" not in path and "jobs/" not in path:
            path += "?id=1" if path.endswith("/get") else ""
            answer = filled.get(path)
        elif any(path.endswith(end) for end in bodies):
            answer = filled.post(path, json=bodies["/" + path.rsplit("/", 1)[1]])
        else:
            continue
        assert answer.status_code == 200, (path, answer.text)
        msgspec.json.decode(answer.content, type=operation.answer, strict=True)
        checked += 1
    assert checked >= 15


def test_who_asks_too_often_is_told_when_to_come_back(serve):
    server = serve(rate_limit_per_sec=5)
    with server.client() as client:
        answers = [client.get("/v1/state") for _ in range(20)]
        late = [a for a in answers if a.status_code == 429]
        assert late and answers[0].status_code == 200
        assert (
            late[0].json()["error"] == "rate_limited" and int(late[0].headers["Retry-After"]) >= 1
        )
        assert client.get("/v1/health").status_code == 200
