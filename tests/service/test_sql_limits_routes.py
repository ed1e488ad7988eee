"""SQL over HTTP: what is too much is refused or cut, with the code the contract names."""

import pytest

ENDLESS = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) "


def ok(answer):
    assert answer.status_code == 200, answer.text
    return answer.json()


@pytest.mark.parametrize(
    ("text", "params", "status", "code"),
    [
        ("SELECT trim(?, ?)", ["a" * 50_000, "b" * 50_000 + "a"], 400, "sqlite_error"),
        ("SELECT " + ", ".join(["zeroblob(30000000)"] * 60), [], 400, "sqlite_error"),
        ("SELECT json_patch('{}', '{}')", [], 400, "sqlite_error"),
        (ENDLESS + "SELECT count(hex(?1 || i)) FROM n", ["a" * 500_000], 408, "sql_timeout"),
        (ENDLESS + "SELECT median(i) FROM n", [], 408, "sql_timeout"),
    ],
)
def test_too_much_is_refused(serve, text, params, status, code):
    # Refusals have no need of the limit; a short one could come before them.
    with serve(sql_timeout_secs=1 if status == 408 else 20).client() as client:
        body = {"sql": text, "params": params}
        answer = client.post("/v1/sql/query", json=body)
        assert (answer.status_code, answer.json()["error"]) == (status, code), answer.text
        assert ok(client.post("/v1/sql/query", json={"sql": "SELECT 1 AS a"}))["rows"] == [{"a": 1}]


def test_a_row_beyond_the_cap_is_cut(serve):
    with serve(max_sql_mb=1).client() as client:
        body = {"sql": ENDLESS + "SELECT i, zeroblob(400000) AS z FROM n"}
        answer = ok(client.post("/v1/sql/query", json=body))
        assert [row["i"] for row in answer["rows"]] == [1, 2]
        assert answer["truncated"]
        answer = ok(client.post("/v1/sql/query", json={"sql": "SELECT zeroblob(2000000)"}))
        assert (answer["rows"], answer["truncated"]) == ([], True)


def test_a_state_value_too_long_for_sql_is_told_by_its_size(serve):
    with serve(max_body_mb=64, max_json_mb=64).client() as client:
        ok(client.put("/v1/state/long", json={"value": "x" * (18 << 20)}))
        ok(client.put("/v1/state/short", json={"value": 1}))
        body = {"sql": "SELECT key, value, bytes FROM state('')"}
        assert ok(client.post("/v1/sql/query", json=body))["rows"] == [
            {"key": "long", "value": None, "bytes": (18 << 20) + 2},
            {"key": "short", "value": "1", "bytes": 1},
        ]
