"""Rows of the route table: collections, points, searches, indexes, ``/search``."""

import struct

from route_cases import (
    BATCH_LIMIT,
    BINARY,
    DIM_LIMIT,
    MISSING,
    NDJSON,
    Route,
    bad,
    filter_cases,
    good,
    shape,
)

C = "/v1/vector/{collection}"
LARGE = "x" * (1 << 20)
POINT = {"id": "p", "vector": [1, 2], "meta": {"n": 1}}
LACKS = "collection not found"
RAW = {"Content-Type": BINARY}
LINES = {"Content-Type": NDJSON}
FLOATS = struct.pack("<2f", 1, 2)


def doomed(name, *points):
    """What makes a collection that the row may spoil."""
    steps = [("POST", f"/v1/vector/{name}", {"dim": 2, "metric": "l2"})]
    steps += [("POST", f"/v1/vector/{name}/upsert", {**POINT, "id": id}) for id in points]
    return tuple(steps)


def point_cases(verb):
    """What adding and upserting refuse."""
    return (
        bad("another dimension", 400, "dim_mismatch", "vector dimension mismatch",
            json={**POINT, "vector": [1]}),
        bad("an empty vector", 400, "dim_mismatch", "vector dimension mismatch",
            json={**POINT, "vector": []}),
        bad("a vector too large", 400, says="vector too large",
            json={**POINT, "vector": [0] * (DIM_LIMIT + 1)}),
        bad("a component too large", 400, says="inf", json={**POINT, "vector": [1e39, 0]}),
        bad("an empty id", 400, says="id is empty", json={**POINT, "id": ""}),
        bad("an id too long", 400, says="id too long", json={**POINT, "id": "é" * 65}),
        bad("a meta too large", 413, "payload_too_large", "meta too large",
            json={**POINT, "meta": LARGE}),
    )  # fmt: skip


TEXT_FIELDS = tuple(
    bad(f"text: {says}", 400, code, says, url="/v1/vector/other",
        json={"dim": 2, "metric": "l2", **fields})
    for code, says, fields in (
        ("invalid_argument", "unknown language 'xx'", {"text_fields": ["t"], "language": "xx"}),
        ("invalid_argument", "language is given without text_fields", {"language": "es"}),
        ("invalid_argument", "'t' twice", {"text_fields": ["t", "t"]}),
        ("invalid_argument", "0 text_fields", {"text_fields": []}),
        ("invalid_argument", "17 text_fields", {"text_fields": [f"t{i}" for i in range(17)]}),
        ("invalid_argument", "weight of field 't'", {"text_fields": {"t": -1}}),
        ("invalid_argument", "unknown variant", {"text_fields": ["t"], "text_variant": "bm26"}),
        ("invalid_argument", "b=2", {"text_fields": ["t"], "b": 2}),
        ("invalid_argument", "'xx'", {"text_fields": {"t": {"weight": 1, "language": "xx"}}}),
        ("invalid_filter", "a..b", {"text_fields": ["a..b"]}),
    )
)  # fmt: skip
COLLECTIONS = (
    Route("GET", "/v1/vector", "read", waits="query", confined="open", cases=(good(),)),
    Route("GET", C, "read", waits="query", lacks=LACKS, cases=(good(),)),
    Route(
        "POST", C, "write", params={"collection": "made"},
        fields={"dim": "int*", "metric": "word*", "index": "word", "params": "object",
                "meta_indexes": "list", "text_fields": "paths", "language": "text",
                "text_variant": "text", "k1": "number", "b": "number", "stop_words": "bool",
                "text_positions": "bool"},
        cases=(
            good(events=1, json={"dim": 3, "metric": "dot"}),
            bad("is there already", 409, "already_exists", "collection already exists",
                url="/v1/vector/docs", json={"dim": 2, "metric": "l2"}),
            *(bad(f"dim is {dim}", 400, says="invalid dim", url="/v1/vector/other",
                  json={"dim": dim, "metric": "l2"}) for dim in (0, -1, DIM_LIMIT + 1, 2**70)),
            bad("an unknown parameter", 400, says="max_degre", url="/v1/vector/other",
                json={"dim": 2, "metric": "l2", "params": {"max_degre": 3}}),
            bad("a parameter out of range", 400, says="max_degree", url="/v1/vector/other",
                json={"dim": 2, "metric": "l2", "params": {"max_degree": -3}}),
            *(bad(f"{name} does not fit {kind}", 400, says="does not fit", url="/v1/vector/other",
                  json={"dim": 2, "metric": "l2", "index": kind, "params": {name: 3}})
              for kind, name in (("ivf", "max_degree"), ("vamana", "nlist"), ("flat", "nprobe"))),
            bad("an index on no path", 400, "invalid_filter", url="/v1/vector/other",
                json={"dim": 2, "metric": "l2", "meta_indexes": ["a..b"]}),
            shape("an index on no text", "meta_indexes[0]", url="/v1/vector/other",
                  json={"dim": 2, "metric": "l2", "meta_indexes": [5]}),
            shape("a metric in capitals", "metric", url="/v1/vector/other",
                  json={"dim": 2, "metric": "L2"}),
            *TEXT_FIELDS,
        ),
    ),
    Route(
        "DELETE", C, "write", params={"collection": "doomed"}, lacks=LACKS,
        cases=(good(events=1, before=doomed("doomed")),),
    ),
)  # fmt: skip
POINTS = (
    Route(
        "POST", C + "/add", "write", lacks=LACKS,
        fields={"id": "id*", "vector": "vector*"},
        cases=(
            good(events=1, json={**POINT, "id": "added"}),
            good("a number as id", 1, json={"id": 77, "vector": [1, 2]}),
            bad("is there already", 409, "already_exists", "id already exists",
                json={**POINT, "id": "a"}),
            *point_cases("add"),
        ),
    ),
    Route(
        "POST", C + "/upsert", "write", lacks="not found",
        fields={"id": "id*", "vector": "vector*"},
        cases=(good(events=1, json=POINT), *point_cases("upsert")),
    ),
    Route(
        "POST", C + "/upsert_batch", "write", lacks=LACKS, fields={"items": "list*"},
        cases=(
            good(events=2, json={"items": [POINT, {"id": "q", "vector": [0, 1]}]}),
            good("some", 1, json={"items": [POINT, {"id": "q", "vector": [0]},
                                            {"id": "x" * 129, "vector": [0, 1]}]}),
            bad("without items", 400, says="items required", json={"items": []}),
            bad("with too many", 400, says="too many items",
                json={"items": [POINT] * (BATCH_LIMIT + 1)}),
            shape("one has no vector", "items[1].vector", json={"items": [POINT, {"id": 1}]}),
            good("lines", 2, headers=LINES,
                 content=b'{"id":"l1","vector":[1,2]}\n{"id":"l2","vector":[1,2]}\n'),
            bad("no lines", 400, says="items required", headers=LINES, content=b"\n\n"),
            bad("a line that is no JSON", 400, "invalid_json", "line 2", headers=LINES,
                content=b'{"id":"l3","vector":[1,2]}\n{"id":'),
            bad("a line that is no UTF-8", 400, "invalid_json", "line 1", headers=LINES,
                content=b'{"id":"\xff","vector":[1,2]}'),
            bad("a line that is nested too deep", 400, "invalid_json", "line 1", headers=LINES,
                content=b'{"id":"d","vector":[1,2],"meta":' + b"[" * 200 + b"]" * 200 + b"}"),
            shape("a line without a vector", "vector", headers=LINES, says="line 1",
                  content=b'{"id":"l3"}'),
            bad("a line of another dimension", 400, "dim_mismatch", "vector dimension mismatch",
                headers=LINES,
                content=b'{"id":"l3","vector":[1,2]}\n{"id":"l4","vector":[1]}'),
            bad("a line with an id too long", 400, says="line 1", headers=LINES,
                content=b'{"id":"%b","vector":[1,2]}' % (b"x" * 129)),
            bad("lines and no collection", 404, "not_found", LACKS, headers=LINES,
                url=f"/v1/vector/{MISSING}/upsert_batch", content=b'{"id":"l","vector":[1,2]}'),
        ),
    ),
    Route(
        "POST", C + "/upsert_binary", "write", lacks=LACKS,
        cases=(
            good(events=1, url="?n=1", content=FLOATS + b'{"id":"raw"}', headers=RAW),
            bad("of another type", 415, "unsupported_media_type", BINARY, url="?n=1",
                content=b"{}", headers={"Content-Type": "application/json"}),
            bad("without n", 400, says="n is missing", url="/v1/vector/docs/upsert_binary",
                content=FLOATS, headers=RAW),
            bad("n is 0", 400, says="n is missing or 0", url="?n=0"),
            bad("n is a word", 400, says="query parameter n", url="?n=x"),
            bad("n is negative", 400, says="query parameter n", url="?n=-1"),
            bad("n is beyond the body", 400, says="bytes", url="?n=99999999999999999999"),
            bad("too few bytes", 400, says="bytes", url="?n=1", content=FLOATS[:7]),
            bad("too few lines", 400, says="lines", url="?n=2",
                content=FLOATS * 2 + b'{"id":"r"}'),
            bad("too many lines", 400, says="lines", url="?n=1",
                content=FLOATS + b'{"id":"r"}\n{"id":"s"}'),
            bad("no lines", 400, says="required", url="?n=1", content=FLOATS),
            bad("a line that is no JSON", 400, "invalid_json", "line 1", url="?n=1",
                content=FLOATS + b"{"),
            shape("a line without an id", "id", url="?n=1", says="line 1",
                  content=FLOATS + b'{"meta":1}'),
            bad("not a number", 400, says="nan", url="?n=1",
                content=struct.pack("<2f", float("nan"), 0) + b'{"id":"r"}'),
            bad("a body too large", 413, "payload_too_large", "body too large", url="?n=1",
                content=b"\0" * ((2 << 20) + 1)),
        ),
    ),
    Route(
        "POST", C + "/update", "write", lacks=LACKS,
        fields={"id": "id*", "vector": "vector"},
        cases=(
            good(events=1, json={"id": "a", "meta": {"n": 1}}),
            bad("there is none", 404, "not_found", "id not found", json={"id": MISSING}),
            bad("another dimension", 400, "dim_mismatch", "vector dimension mismatch",
                json={"id": "a", "vector": [1]}),
            bad("an id too long", 400, says="id too long", json={"id": "x" * 129}),
            bad("a vector too large", 400, says="vector too large",
                json={"id": "a", "vector": [0] * (DIM_LIMIT + 1)}),
            bad("a meta too large", 413, "payload_too_large", "meta too large",
                json={"id": "a", "meta": LARGE}),
        ),
    ),
    Route(
        "POST", C + "/delete", "write", lacks="not found", fields={"id": "id*"},
        cases=(
            good(events=1, json={"id": "gone"},
                 before=(("POST", "/v1/vector/docs/upsert", {**POINT, "id": "gone"}),)),
            bad("there is none", 404, "not_found", "id not found", json={"id": MISSING}),
            bad("an empty id", 400, says="id is empty", json={"id": ""}),
            bad("an id too long", 400, says="id too long", json={"id": "x" * 129}),
        ),
    ),
    Route(
        "POST", C + "/delete_batch", "write", lacks=LACKS, fields={"ids": "list*"},
        cases=(
            good(events=1, json={"ids": ["gone", MISSING, "x" * 129]},
                 before=(("POST", "/v1/vector/docs/upsert", {**POINT, "id": "gone"}),)),
            bad("without ids", 400, says="ids required", json={"ids": []}),
            bad("with too many", 400, says="too many ids",
                json={"ids": ["a"] * (BATCH_LIMIT + 1)}),
            shape("one is no id", "ids[0]", json={"ids": [1.5]}),
        ),
    ),
    Route(
        "GET", C + "/get", "read", waits="query", lacks=LACKS,
        cases=(
            good(url="?id=a"),
            bad("without an id", 400, says="id is missing", url="/v1/vector/docs/get"),
            bad("an empty id", 400, says="id is empty", url="?id="),
            bad("an id too long", 400, says="id too long", url="?id=" + "x" * 129),
            bad("an id that is no UTF-8", 400, says="id", url="?id=%FF"),
            bad("there is none", 404, "not_found", "id not found", url="?id=none"),
        ),
    ),
    Route(
        "POST", C + "/get_batch", "read", waits="body", lacks=LACKS,
        fields={"ids": "list*", "min_offset": "int"},
        cases=(
            good(json={"ids": ["a", MISSING, 5]}),
            bad("without ids", 400, says="ids required", json={"ids": []}),
            bad("with too many", 400, says="too many ids",
                json={"ids": ["a"] * (BATCH_LIMIT + 1)}),
            bad("one is too long", 400, says="id too long", json={"ids": ["x" * 129]}),
            shape("one is no id", "ids[1]", json={"ids": ["a", None]}),
        ),
    ),
    Route(
        "POST", C + "/scroll", "read", waits="body", lacks=LACKS,
        fields={"after": "text", "limit": "int", "include_vector": "bool", "min_offset": "int"},
        cases=(
            good(json={"limit": 2, "include_vector": True}),
            good("all", json={}),
            good("a limit beyond its range", json={"limit": 10**9}),
            bad("limit is 0", 400, says="limit", json={"limit": 0}),
            *filter_cases({}),
        ),
    ),
    Route(
        "POST", C + "/count", "read", waits="body", lacks=LACKS, fields={"min_offset": "int"},
        cases=(
            good(json={"filters": {"n": 1}}),
            good("all", json={}),
            *filter_cases({}),
        ),
    ),
    Route(
        "POST", C + "/delete_where", "write", lacks=LACKS, fields={},
        cases=(
            good(events=1, json={"filters": {"gone": True}}, before=(
                ("POST", "/v1/vector/docs/upsert", {**POINT, "meta": {"gone": True}}),)),
            good("nothing", json={"filters": "nowhere = 1"}),
            bad("without a filter", 400, says="filters required", json={}),
            bad("with an empty filter", 400, says="filters required", json={"filters": {}}),
            bad("with an empty expression", 400, says="filter is empty", json={"filters": " "}),
            *filter_cases({}),
        ),
    ),
)  # fmt: skip
ROUTES = COLLECTIONS + POINTS
