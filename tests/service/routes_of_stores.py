"""Rows of the route table: state, documents, SQL, transactions, events, consumers."""

from route_cases import BATCH_LIMIT, MISSING, Route, bad, good, shape

LARGE = "x" * (1 << 20)
PUT = {"op": "state.put", "key": "mine:t", "value": 1}
STATE = (
    Route(
        "GET", "/v1/state", "read", waits="query", confined="open",
        cases=(
            good(),
            good("with every option", url="?prefix=k&after=a&limit=5"),
            good("more than the cap", url="?limit=5000"),
            good("with limit 0", url="?limit=0"),
            bad("limit is a word", 400, says="limit", url="?limit=abc"),
            bad("limit is empty", 400, says="limit", url="?limit="),
            bad("limit is negative", 400, says="limit", url="?limit=-1"),
            bad("limit in another script", 400, says="limit", url="?limit=%D9%A1"),
            bad("prefix is too long", 400, says="prefix too long", url="?prefix=" + "k" * 513),
            bad("prefix is no UTF-8", 400, says="prefix", url="?prefix=%FF"),
            bad("after is no UTF-8", 400, says="after", url="?after=%FF"),
        ),
    ),
    Route(
        "GET", "/v1/state/{key}", "read", waits="query",
        cases=(
            good(),
            bad("there is none", 404, "not_found", "key not found", url="/v1/state/none"),
        ),
    ),
    Route(
        "PUT", "/v1/state/{key}", "write", params={"key": "put"},
        fields={"value": "any*", "ttl_ms": "int", "if_revision": "int"},
        cases=(
            good(events=1, json={"value": 1}),
            good("null", 1, json={"value": None}),
            good("with slashes", 1, url="/v1/state/a/b%2Fc", json={"value": 1}),
            bad("is at another revision", 409, "revision_mismatch", "if_revision mismatch",
                json={"value": 1, "if_revision": 10**9}),
            bad("should not be there", 409, "revision_mismatch", "if_revision mismatch",
                url="/v1/state/k", json={"value": 1, "if_revision": 0}),
            bad("revision is negative", 400, says="revision",
                json={"value": 1, "if_revision": -1}),
            shape("ttl_ms is 0", "ttl_ms", json={"value": 1, "ttl_ms": 0}),
            shape("ttl_ms is negative", "ttl_ms", json={"value": 1, "ttl_ms": -5}),
            bad("ttl_ms leads beyond time", 400, says="ttl_ms",
                json={"value": 1, "ttl_ms": 2**62}),
            bad("value is too large", 413, "payload_too_large", "value too large",
                json={"value": LARGE}),
            bad("value has a number too long", 400, says="64 bits", json={"value": 10**40}),
        ),
    ),
    Route(
        "DELETE", "/v1/state/{key}", "write", params={"key": "doomed"},
        cases=(
            good(events=1, before=(("PUT", "/v1/state/doomed", {"value": 1}),)),
            good("nothing", url="/v1/state/none"),
            bad("is at another revision", 409, "revision_mismatch", "if_revision mismatch",
                url="/v1/state/k?if_revision=1000000000"),
            bad("revision is a word", 400, says="if_revision", url="?if_revision=x"),
        ),
    ),
    Route(
        "POST", "/v1/state/batch_put", "write", confined="open",
        fields={"operations": "list*", "atomic": "bool"}, also=("GET", "PUT", "DELETE"),
        cases=(
            good(events=2, json={"operations": [
                {"key": "b1", "value": 1}, {"key": "b2", "value": 2}]}),
            good("some", 1, json={"operations": [
                {"key": "b1", "value": 1}, {"key": "k", "value": 2, "if_revision": 0},
                {"key": "x" * 513, "value": 1}, {"key": "b3", "value": LARGE}]}),
            good("outside the scopes of the key", json={"operations": [{"key": "k", "value": 1}]},
                 key="confined"),
            bad("without operations", 400, says="operations required", json={"operations": []}),
            bad("with too many", 400, says="too many operations",
                json={"operations": [{"key": "b", "value": 1}] * (BATCH_LIMIT + 1)}),
            bad("not all of it", 409, "revision_mismatch", "if_revision mismatch", index=1,
                json={"atomic": True, "operations": [
                    {"key": "b1", "value": 1}, {"key": "k", "value": 2, "if_revision": 0}]}),
            bad("not all of it fits", 413, "payload_too_large", "value too large",
                json={"atomic": True, "operations": [{"key": "b1", "value": LARGE}]}),
            bad("not all inside the scopes", 403, "forbidden", key="confined",
                json={"atomic": True, "operations": [{"key": "k", "value": 1}]}),
            shape("one has no key", "operations[0].key", json={"operations": [{"value": 1}]}),
            shape("one has no value", "operations[1].value",
                  json={"operations": [{"key": "a", "value": 1}, {"key": "b"}]}),
            shape("one has ttl_ms 0", "operations[0].ttl_ms",
                  json={"operations": [{"key": "a", "value": 1, "ttl_ms": 0}]}),
        ),
    ),
)  # fmt: skip
DOCUMENTS = (
    Route(
        "GET", "/v1/doc/{collection}/{id}", "read", waits="query",
        cases=(
            good(),
            bad("there is none", 404, "not_found", "document not found", url="/v1/doc/docs/none"),
        ),
    ),
    Route(
        "PUT", "/v1/doc/{collection}/{id}", "write", any_json=True, params={"id": "put"},
        cases=(
            good(events=1, json={"a": 1}),
            good("null", 1, json=None),
            good("called find", 1, url="/v1/doc/docs/find", json=[1]),
            bad("is at another revision", 409, "revision_mismatch", "if_revision mismatch",
                url="?if_revision=1000000000"),
            bad("revision is a word", 400, says="if_revision", url="?if_revision=x"),
            bad("is too large", 413, "payload_too_large", "doc too large", json=LARGE),
            bad("has a number too long", 400, says="64 bits", json=[10**40]),
        ),
    ),
    Route(
        "PATCH", "/v1/doc/{collection}/{id}", "write", any_json=True, params={"id": "patched"},
        cases=(
            good(events=1, json={"b": 2}, before=(("PUT", "/v1/doc/docs/patched", {"a": 1}),)),
            bad("there is none", 404, "not_found", "document not found",
                url="/v1/doc/docs/none", json={}),
            bad("is too large", 413, "payload_too_large", "doc too large", json={"a": LARGE}),
        ),
    ),
    Route(
        "DELETE", "/v1/doc/{collection}/{id}", "write", params={"id": "doomed"},
        cases=(
            good(events=1, before=(("PUT", "/v1/doc/docs/doomed", 1),)),
            good("nothing", url="/v1/doc/docs/none"),
            bad("is at another revision", 409, "revision_mismatch", "if_revision mismatch",
                url="/v1/doc/docs/a?if_revision=1000000000"),
            bad("revision is a word", 400, says="if_revision", url="?if_revision=x"),
        ),
    ),
    Route(
        "POST", "/v1/doc/{collection}/find", "read", waits="body",
        also=("GET", "PUT", "PATCH", "DELETE"),
        fields={"filter": "any", "limit": "int", "after": "text", "min_offset": "int"},
        cases=(
            good(json={"filter": {"a": 1}}),
            good("all", json={}),
            good("by an expression", json={"filter": "a = 1", "limit": 1, "after": "a"}),
            good("a limit beyond its range", json={"limit": 10**9}),
            good("a limit of 0", json={"limit": 0}),
            good("in a collection that is not there", url=f"/v1/doc/{MISSING}/find", json={}),
            bad("filter is a list", 400, "invalid_filter", "expected", json={"filter": [1]}),
            bad("filter is a number", 400, "invalid_filter", "expected", json={"filter": 5}),
            bad("filter has an unknown operator", 400, "invalid_filter", "$near",
                json={"filter": {"a": {"$near": 1}}}),
            bad("filter breaks off", 400, "invalid_filter", json={"filter": "a ="}),
            bad("filter is too large", 413, "payload_too_large", "filters too large",
                json={"filter": {"a": LARGE}}),
        ),
    ),
)  # fmt: skip
SQL = (
    Route(
        "POST", "/v1/sql/query", "read", waits="body",
        fields={"sql": "text*", "params": "list", "min_offset": "int"},
        cases=(
            good(json={"sql": "SELECT ? AS a", "params": [1]}),
            good("with", json={"sql": "WITH t(a) AS (VALUES (1)) SELECT a FROM t"}),
            good("values", json={"sql": "VALUES (1)"}),
            good("explain", json={"sql": "EXPLAIN SELECT 1"}),
            bad("a write", 400, says="", json={"sql": "CREATE TABLE x (a)"}),
            bad("two statements", 400, says="one", json={"sql": "SELECT 1; SELECT 2"}),
            bad("no statement", 400, says="", json={"sql": ""}),
            bad("a mistake", 400, "sqlite_error", "near", json={"sql": "SELEC 1"}),
            bad("no such table", 400, "sqlite_error", "no such table",
                json={"sql": "SELECT 1 FROM nope"}),
            bad("a parameter that is a list", 400, "sqlite_error", "unsupported parameter type",
                json={"sql": "SELECT ?", "params": [[1]]}),
            bad("a parameter that is an object", 400, "sqlite_error", "unsupported parameter type",
                json={"sql": "SELECT ?", "params": [{}]}),
            bad("a parameter too few", 400, "sqlite_error", json={"sql": "SELECT ?, ?",
                                                                  "params": [1]}),
            bad("takes too long", 408, "sql_timeout", server="hasty_sql", json={
                "sql": "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) "
                       "SELECT max(i) FROM n"}),
            bad("is switched off", 404, "not_enabled", "sqlite module is disabled",
                server="no_sql"),
        ),
    ),
    Route(
        "POST", "/v1/sql/exec", "write",
        fields={"sql": "text", "params": "list"},
        cases=(
            good(events=1, json={"sql": "INSERT INTO own VALUES (?)", "params": [1]}),
            good("a batch", 2, json={"statements": [{"sql": "INSERT INTO own VALUES (2)"}] * 2}),
            bad("a select", 400, says="", json={"sql": "SELECT 1"}),
            bad("two statements", 400, says="one",
                json={"sql": "DELETE FROM own; DELETE FROM own"}),
            bad("a mistake", 400, "sqlite_error", "near", json={"sql": "INSER INTO own"}),
            bad("a table of the house", 400, "sqlite_error", json={"sql": "DELETE FROM luma_log"}),
            bad("an empty batch", 400, says="statements required", json={"statements": []}),
            bad("too many in a batch", 400, says="too many statements",
                json={"statements": [{"sql": "DELETE FROM own"}] * 1001}),
            bad("one of a batch fails", 400, "sqlite_error", index=1, json={"statements": [
                {"sql": "INSERT INTO own VALUES (3)"}, {"sql": "INSERT INTO nope VALUES (3)"}]}),
            shape("neither of the two", "sql", json={}),
            shape("both of the two", "sql",
                  json={"sql": "DELETE FROM own", "statements": [{"sql": "DELETE FROM own"}]}),
            shape("one of a batch has no text", "statements[0].sql", json={"statements": [{}]}),
            bad("a parameter that is a list", 400, "sqlite_error", "unsupported parameter type",
                json={"sql": "INSERT INTO own VALUES (?)", "params": [[1]]}),
            bad("is switched off", 404, "not_enabled", "sqlite module is disabled",
                server="no_sql"),
        ),
    ),
)  # fmt: skip


def failing(name, status, code, operation, says="", **request):
    """A transaction whose second operation fails."""
    body = {"operations": [PUT, operation]}
    return bad(name, status, code, says, json=body, index=1, **request)


TRANSACTION = (
    Route(
        "POST", "/v1/transaction", "write", confined="open", fields={"operations": "list*"},
        cases=(
            good(events=2, json={"operations": [
                PUT, {"op": "publish", "type": "told", "data": 1}]}),
            bad("without operations", 400, says="operations required", json={"operations": []}),
            bad("with too many", 400, says="too many operations",
                json={"operations": [PUT] * 1001}),
            shape("one has no op", "operations[0].op", index=0, json={"operations": [{}]}),
            shape("one is unknown", "operations[0].op", index=0,
                  json={"operations": [{"op": "x"}]}),
            shape("one has no key", "operations[1].key", index=1,
                  json={"operations": [PUT, {"op": "state.delete"}]}),
            shape("one has a wrong type", "operations[1].vector[0]", index=1, json={"operations": [
                PUT, {"op": "vector.add", "collection": "docs", "id": "x", "vector": ["1"]}]}),
            failing("a key too long", 400, "invalid_argument",
                    {"op": "state.delete", "key": "x" * 513}, "key too long"),
            failing("another revision", 409, "revision_mismatch",
                    {"op": "state.put", "key": "k", "value": 1, "if_revision": 0},
                    "if_revision mismatch"),
            failing("a document that is not there", 404, "not_found",
                    {"op": "doc.patch", "collection": "docs", "id": MISSING, "changes": {}},
                    "document not found"),
            failing("a document id too long", 400, "invalid_argument",
                    {"op": "doc.delete", "collection": "docs", "id": "x" * 129}, "id too long"),
            failing("a document too large", 413, "payload_too_large",
                    {"op": "doc.put", "collection": "docs", "id": "x", "doc": LARGE},
                    "doc too large"),
            failing("a point that is there", 409, "already_exists",
                    {"op": "vector.add", "collection": "docs", "id": "a", "vector": [1, 2]},
                    "id already exists"),
            failing("a point that is not there", 404, "not_found",
                    {"op": "vector.delete", "collection": "docs", "id": MISSING}, "id not found"),
            failing("another dimension", 400, "dim_mismatch",
                    {"op": "vector.upsert", "collection": "docs", "id": "x", "vector": [1]},
                    "vector dimension mismatch"),
            failing("no collection", 404, "not_found",
                    {"op": "vector.upsert", "collection": MISSING, "id": "x", "vector": [1]},
                    "collection not found"),
            failing("a statement that fails", 400, "sqlite_error",
                    {"op": "sql", "sql": "INSERT INTO nope VALUES (1)"}, "no such table"),
            failing("SQL, switched off", 404, "not_enabled",
                    {"op": "sql", "sql": "DELETE FROM own"}, "disabled", server="no_sql"),
            failing("a reserved event", 400, "invalid_argument",
                    {"op": "publish", "type": "state_x", "data": 1}, "reserved"),
            *(failing(f"{operation['op']} outside the scopes", 403, "forbidden", operation,
                      key="confined")
              for operation in (
                  {"op": "state.put", "key": "k", "value": 1},
                  {"op": "state.delete", "key": "k"},
                  {"op": "doc.put", "collection": "docs", "id": "a", "doc": 1},
                  {"op": "doc.patch", "collection": "docs", "id": "a", "changes": {}},
                  {"op": "doc.delete", "collection": "docs", "id": "a"},
                  {"op": "vector.add", "collection": "docs", "id": "x", "vector": [1, 2]},
                  {"op": "vector.upsert", "collection": "docs", "id": "x", "vector": [1, 2]},
                  {"op": "vector.update", "collection": "docs", "id": "a", "meta": 1},
                  {"op": "vector.delete", "collection": "docs", "id": "a"},
                  {"op": "sql", "sql": "DELETE FROM own"},
                  {"op": "publish", "type": "told", "data": 1},
                  {"op": "publish", "type": "told", "data": 1, "key": "k"})),
        ),
    ),
)  # fmt: skip


def stream_cases(prefix):
    """The cases both names of the stream have."""
    return (
        good(answers="stream", url="?since=latest"),
        good("from the first", answers="stream", url="?since=earliest"),
        good("through a filter", answers="stream", url=f"?types=told,said&{prefix}=k"),
        good("of a consumer", answers="stream", url="?consumer=reader&on_lag=skip"),
        good("with a Last-Event-ID", answers="stream", url="?since=0",
             headers={"Last-Event-ID": "1"}),
        good("with a Last-Event-ID that is none", answers="stream", url="?since=0",
             headers={"Last-Event-ID": "x"}),
        bad("since is a word", 400, says="since", url="?since=x"),
        bad("since is negative", 400, says="since", url="?since=-1"),
        bad("since is too large", 400, says="since", url=f"?since={2**63}"),
        bad("types is no UTF-8", 400, says="types", url="?types=%FF"),
        bad(f"{prefix} is no UTF-8", 400, says=prefix, url=f"?{prefix}=%FF"),
        bad("consumer is no name", 400, says="consumer name", url="?consumer=a%2Fb"),
        bad("consumer with a confined key", 403, "forbidden", url="?consumer=reader",
            key="confined"),
        bad("on_lag is unknown", 400, says="on_lag", url="?on_lag=drop"),
    )  # fmt: skip


TYPES = "state_x vector_x doc_x index_x job_x gap offset restored sql_executed".split()
EVENTS = (
    Route("GET", "/v1/stream", "read", confined="open", cases=stream_cases("key_prefix")),
    Route("GET", "/v1/events", "read", confined="open", cases=stream_cases("prefix")),
    Route(
        "POST", "/v1/events", "write", fields={"type": "text*", "data": "any*", "key": "text"},
        cases=(
            good(events=1, json={"type": "told", "data": {"a": 1}}),
            good("with a key", 1, json={"type": "told", "data": None, "key": "k"}),
            *(bad(f"the type {t}", 400, says="reserved", json={"type": t, "data": 1})
              for t in TYPES),
            *(bad(f"the type {t!r}", 400, says="event type", json={"type": t, "data": 1})
              for t in ("", "1a", "a b", "é", "a" * 65, "a\n")),
            bad("a key too long", 400, says="key too long",
                json={"type": "told", "data": 1, "key": "k" * 513}),
            bad("data too large", 413, "payload_too_large", "data too large",
                json={"type": "told", "data": LARGE}),
        ),
    ),
)  # fmt: skip
CONSUMERS = (
    Route("GET", "/v1/consumers", "read", cases=(good(),)),
    Route(
        "DELETE", "/v1/consumers/{name}", "write", params={"name": "doomed"},
        cases=(
            good(before=(("POST", "/v1/consumers/doomed/ack", {"offset": 1}),)),
            bad("there is none", 404, "not_found", "consumer not found", url="/v1/consumers/none"),
            bad("is no name", 400, says="consumer name", url="/v1/consumers/.a"),
        ),
    ),
    Route(
        "POST", "/v1/consumers/{name}/ack", "write", fields={"offset": "int*"},
        cases=(
            good(json={"offset": 1}),
            bad("beyond the head", 400, says="head of the log", json={"offset": 2**40}),
            bad("is negative", 400, says="offset", json={"offset": -1}),
            bad("is no name", 400, says="consumer name", url="/v1/consumers/.a/ack"),
        ),
    ),
)  # fmt: skip
ROUTES = STATE + DOCUMENTS + SQL + TRANSACTION + EVENTS + CONSUMERS
