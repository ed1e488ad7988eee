import pytest
from prometheus_client.parser import text_string_to_metric_families
from service_running import KEY

VECTORS = "/v1/vector/docs"


def figures(client):
    """Return a dict from (sample name, sorted labels) to value."""
    answer = client.get("/v1/metrics")
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    return {
        (sample.name, *sorted(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(answer.text)
        for sample in family.samples
    }


def test_the_counters_of_the_contract_count_what_was_done(client, server):
    client.put("/v1/state/a", json={"value": 1})
    client.put("/v1/state/b", json={"value": 1})
    client.put("/v1/state/b", json={"value": 1, "if_revision": 1_000_000})  # refused
    client.delete("/v1/state/a")
    client.post(VECTORS, json={"dim": 2, "metric": "l2"})
    client.post(VECTORS + "/upsert", json={"id": "x", "vector": [1, 2]})
    client.post(VECTORS + "/search", json={"vector": [1, 2], "k": 1})
    client.get(VECTORS + "/get", params={"id": "x"})
    seen = figures(client)
    assert seen["state_put_total",] == 2
    assert seen["state_delete_total",] == 1
    assert seen["vector_ops_total",] == 3
    assert seen["events_total",] == server.lab.head > 0
    assert seen["luma_points", ("collection", "docs")] == 1


def test_an_open_stream_is_counted_until_it_ends(client, server):
    assert figures(client)["sse_clients",] == 0
    with server.stream() as frames:
        frames.block()
        assert figures(client)["sse_clients",] == 1


def test_latencies_have_the_template_of_the_route_never_a_key_of_it(client):
    for number in range(20):
        client.get(f"/v1/state/secret-{number}")
        client.get(f"/nothing/secret-{number}")
    seen = figures(client)
    count = ("luma_request_seconds_count", ("method", "GET"))
    assert seen[(*count, ("route", "/v1/state/{key}"), ("status", "404"))] == 20
    assert seen[(*count, ("route", "other"), ("status", "404"))] == 20
    assert "secret" not in client.get("/v1/metrics").text


def test_methods_of_ones_own_invention_make_no_new_series(client):
    for number in range(5):
        client.request(f"INVENTED{number}", "/v1/state/a")
    assert "INVENTED" not in client.get("/v1/metrics").text


def test_two_servers_count_apart(serve):
    one, other = serve(), serve()
    with one.client() as client:
        client.put("/v1/state/a", json={"value": 1})
        assert figures(client)["state_put_total",] == 1
    with other.client() as client:
        assert figures(client)["state_put_total",] == 0


@pytest.mark.parametrize("key", [None, KEY + "x"])
def test_metrics_need_a_key(server, key):
    with server.client(key=key) as client:
        assert client.get("/v1/metrics").status_code == 401
