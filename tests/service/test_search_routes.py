"""``/search`` out of the box, with an endpoint, and ``query``: what a client of them meets."""

import pytest
from embedding_server import EmbeddingServer
from service_running import KEY, Running

import luma_lab as luma
from luma_lab.config import Settings
from luma_lab.engine import passages
from luma_lab.errors import InvalidArgument

PETS = ["the cat sat on the mat", "a dog sat by the cat", "the dog chased a cat"]
TRADE = ["stocks fell as markets closed", "markets rose and stocks gained", "traders sold stocks"]
SECRET = "sk-very-secret"


def ingest(client, id, content, vector=None, **metadata):
    document = {"id": id, "content": content, "metadata": metadata}
    if vector is not None:
        document["vector"] = vector
    return client.post("/search/ingest", json={"document": document})


def search(client, query, **body):
    answer = client.post("/search", json={"query": query, **body})
    assert answer.status_code == 200, answer.text
    return answer.json()["results"]


def found(client, query, **body):
    return [r["document"]["id"] for r in search(client, query, **body)]


def refused(answer, status, code):
    assert (answer.status_code, answer.json()["error"]) == (status, code), answer.text
    return answer.json()["message"]


@pytest.fixture
def endpoint():
    with EmbeddingServer(dim=16) as running:
        yield running


@pytest.fixture
def remote(serve, endpoint):
    def start(**flags):
        settings = {"embedder": "http", "embedder_url": endpoint.url, "embedder_model": "m"}
        return serve(**settings, embedder_api_key=SECRET, **flags)

    return start


class TestOutOfTheBox:
    def test_texts_are_found_by_words_at_once_and_by_meaning_after_a_while(self, server, client):
        assert found(client, "cat") == []
        texts = [*PETS, *TRADE] * 10
        for id, text in enumerate(texts[:6]):
            answer = ingest(client, id, text, category="pets" if text in PETS else "trade")
            assert (answer.status_code, answer.content) == (200, b"")
            assert int(answer.headers["X-Luma-Offset"]) == server.lab.head
        assert set(found(client, "cats")) == {0, 1, 2}
        assert found(client, "cats", filters={"category": "trade"}) == []
        assert found(client, "cats", mode="hybrid") == found(client, "cats", mode="text")
        message = refused(
            client.post("/search", json={"query": "cat", "mode": "vector"}), 501, "not_supported"
        )
        assert "at least 50 documents" in message
        for id, text in enumerate(texts):
            ingest(client, id, text, category="pets" if text in PETS else "trade")
        documents = server.lab.collection("documents")
        while documents.embedder is None:  # fitted unasked
            server.lab.wait_beyond(server.lab.head, 10)
        assert {r["document"]["content"] for r in search(client, "traders", top_k=10)} == {
            "traders sold stocks"
        }
        fused = search(client, "traders", mode="hybrid", top_k=3)
        assert set(fused[0]["branches"]) == {"vector", "text"}
        assert fused[0]["branches"]["text"].keys() == {"rank", "score", "weight"}
        assert "branches" not in search(client, "traders", mode="text")[0]
        refused(ingest(client, 99, "x", [0.0] * passages.LSA_DIM), 400, "invalid_argument")
        shown = client.get("/v1/vector/documents").json()["embedder"]
        assert shown == documents.embedder.fingerprint

    def test_grouping_cuts_to_items_in_every_mode(self, client):
        for id, text in enumerate([*PETS, *PETS]):
            ingest(client, id, text, group_id=id % 2, processed_at=id, category="c")
        for mode in ("text", "hybrid"):
            every = found(client, "cat", mode=mode)
            assert len(every) == 6
            grouped = found(client, "cat", mode=mode, group_by="group_id", group_limit=2)
            halves = [
                [i for i in every if i % 2 == g][:2] for g in (every[0] % 2, 1 - every[0] % 2)
            ]
            assert grouped == halves[0] + halves[1]
            limited = {"group_by": "group_id", "group_limit": 2, "top_k": 3}
            assert found(client, "cat", mode=mode, **limited) == grouped[:3]
            assert set(found(client, "cat", mode=mode, filters={"version_policy": "latest"})) == {
                4, 5,
            }  # fmt: skip

    def test_a_client_that_sends_vectors_is_served_as_ever(self, client):
        ingest(client, 1, PETS[0], [1.0, 0.0])
        ingest(client, 2, TRADE[0], [0.0, 1.0])
        assert found(client, "", vector=[1, 0]) == [1, 2]
        assert found(client, "stocks") == [2]
        assert found(client, "stocks", mode="hybrid", vector=[1, 0]) == [2, 1]
        message = refused(ingest(client, 3, "x"), 409, "conflict")
        assert "send `vector`" in message

    def test_the_language_is_a_setting(self, serve):
        with serve(search_language="es").client() as client:
            ingest(client, 1, "La campaña política")
            assert found(client, "campanas politicas") == [1]
        with pytest.raises(InvalidArgument, match="SEARCH_LANGUAGE.*unknown language 'xx'"):
            serve(search_language="xx")

    def test_without_an_embedder_a_vector_is_needed(self, serve):
        with serve(embedder="none").client() as client:
            message = refused(ingest(client, 1, "text"), 501, "not_supported")
            assert "EMBEDDER" in message
            ingest(client, 1, "text", [1.0])
            assert found(client, "text") == [1]


class TestEndpoint:
    def test_documents_and_queries_are_embedded_there(self, remote, endpoint):
        with remote().client() as client:
            for id, text in enumerate([*PETS, *TRADE]):
                assert ingest(client, id, text).status_code == 200
            assert found(client, "traders sold stocks", top_k=1) == [5]
            assert abs(search(client, "traders sold stocks")[0]["score"] - 1) < 1e-6
            fused = search(client, "traders sold stocks", mode="hybrid")
            assert fused[0]["branches"].keys() == {"vector", "text"}
        assert endpoint.headers[0]["Authorization"] == f"Bearer {SECRET}"

    def test_another_server_on_the_lab_needs_the_same_model(self, serve, remote, endpoint):
        server = remote()
        with server.client() as client:
            ingest(client, 1, PETS[0])
        server.lab._parts.embedders.clear()  # as in another process
        with serve(lab=server.lab).client() as client:
            message = refused(client.post("/search", json={"query": "cat"}), 501, "not_supported")
            assert "made by m/16: set EMBEDDER to 'http'" in message
            refused(ingest(client, 2, "x"), 501, "not_supported")
            assert found(client, "cat", mode="text") == [1]
        with remote(lab=server.lab).client() as client:
            assert found(client, PETS[0]) == [1]
        server.lab._parts.embedders.clear()
        other = {"embedder": "http", "embedder_url": endpoint.url, "embedder_model": "other"}
        with serve(lab=server.lab, **other).client() as client:
            message = refused(ingest(client, 2, "x"), 409, "conflict")
            assert "made by m/16, not by other/16" in message

    def test_faults_of_the_endpoint_have_codes_of_their_own(self, remote, endpoint):
        server = remote()
        server.service.embedder._sleep = lambda seconds: None
        with server.client() as client:
            ingest(client, 1, PETS[0])
            head = server.lab.head
            endpoint.script += [503] * 5
            message = refused(ingest(client, 2, "two"), 503, "unavailable")
            assert "status 503" in message
            endpoint.script += [401]
            message = refused(ingest(client, 2, "two"), 502, "embedder_failed")
            assert "401" in message and SECRET not in message
            endpoint.script += [{"data": []}]
            refused(client.post("/search", json={"query": "new"}), 502, "embedder_failed")
            assert server.lab.head == head
            assert ingest(client, 2, "two").status_code == 200
            refused(ingest(client, 3, " "), 400, "invalid_argument")

    def test_an_endpoint_that_hangs_does_not_keep_others_waiting(self, remote, endpoint):
        server = remote(request_timeout_secs=1)
        with server.client() as client, server.client() as other:
            ingest(client, 1, PETS[0])
            endpoint.script += ["hang"] * 8
            # Both time limits end at the same moment: the endpoint's or the request's is told.
            answer = client.post("/search", json={"query": "slow"})
            assert (answer.status_code, answer.json()["error"]) in {
                (503, "unavailable"), (408, "timeout"),
            }  # fmt: skip
            assert other.get("/v1/health").status_code == 200

    def test_a_bad_address_stops_the_start(self):
        for url in ("http://me:secret@h", "http://h?key=secret", "h"):
            with pytest.raises(InvalidArgument, match="embedder_url") as caught:
                Settings(embedder="http", embedder_url=url, embedder_model="m")
            assert "secret" not in str(caught.value) or "?" in url or "@" in url


class TestQuery:
    @pytest.fixture
    def words(self, client):
        body = {"dim": 2, "metric": "cosine", "text_fields": ["text"]}
        assert client.post("/v1/vector/words", json=body).status_code == 200
        items = [
            {"id": str(n), "vector": [1, n / 10], "meta": {"text": text, "n": n}}
            for n, text in enumerate([*PETS, *TRADE])
        ]
        assert client.post("/v1/vector/words/upsert_batch", json={"items": items}).is_success
        return client

    def query(self, client, **body):
        answer = client.post("/v1/vector/words/query", json={"k": 10, **body})
        assert answer.status_code == 200, answer.text
        return answer.json()

    def test_the_answer_is_that_of_the_contract(self, server, words):
        fusion = {"method": "rrf", "k": 5, "weights": {"vector": 1, "text": 2}}
        answer = self.query(words, vector=[1, 0], text="stocks", fusion=fusion, filters={"n": 3})
        (hit,) = answer["hits"]
        assert (hit["id"], hit["meta"]) == ("3", {"text": TRADE[0], "n": 3})
        assert hit["branches"]["vector"]["rank"] == hit["branches"]["text"]["rank"] == 1
        assert hit["branches"]["text"]["weight"] == 2
        assert hit["score"] == pytest.approx(1 / 6 + 2 / 6)
        assert set(answer) == {"hits"}
        explained = self.query(words, text="stocks", explain=True)
        assert explained["receipt"]["kind"] == "text"
        assert [h["id"] for h in explained["hits"]] == [
            h.id for h in server.lab.collection("words").search_hybrid(text="stocks")
        ]

    def test_groups_count_k_and_carry_branches(self, words):
        answer = self.query(words, vector=[1, 0], text="cat", k=2, group_by="n")
        assert len(answer["groups"]) == 2
        assert answer["groups"][0]["hits"][0]["branches"]

    def test_meta_and_vectors_come_as_asked(self, words):
        hit = self.query(words, vector=[1, 0], include_meta=False, include_vector=True)["hits"][0]
        assert (hit["meta"], hit["vector"]) == (None, [1, 0])


def test_two_servers_on_one_lab_share_the_fit(tmp_path):
    with luma.open(tmp_path / "lab") as one, luma.open(tmp_path / "lab") as two:
        running = [Running(lab, Settings(port=0, api_key=KEY)) for lab in (one, two)]
        try:
            with running[0].client() as first, running[1].client() as second:
                for id, text in enumerate([*PETS, *TRADE]):
                    assert ingest((first, second)[id % 2], id, text).status_code == 200
                one.collection("documents").fit_embedder().result(30)
                ingest(second, 6, "traders sold stocks")
                for client in (first, second):
                    assert found(client, "traders sold stocks", top_k=2) == [5, 6]
        finally:
            for server in running:
                server.stop()
