"""Rows of the route table: searches, indexes, ``/search``."""

import struct

from route_cases import (
    BATCH_LIMIT,
    DIM_LIMIT,
    K_LIMIT,
    Route,
    bad,
    filter_cases,
    good,
    shape,
)
from routes_of_vectors import FLOATS, LACKS, RAW, C, doomed

OPTIONS = {
    "k": "int*", "include_meta": "bool", "include_vector": "bool", "explain": "bool",
    "exact": "bool", "min_score": "number", "min_offset": "int", "params": "object",
    "group_by": "text", "group_limit": "int",
}  # fmt: skip


def search_cases(body, plain):
    """What both searches refuse.

    Parameters
    ----------
    plain : str
        The url.
    """
    yield from filter_cases(body)
    for k in (0, -1, K_LIMIT + 1, 2**70):
        yield bad(f"k is {k}", 400, says="invalid k", json={**body, "k": k})
    yield bad("group_limit is too large", 400, says="group_limit",
              json={**body, "group_by": "n", "group_limit": K_LIMIT + 1})  # fmt: skip
    yield bad("group_limit is negative", 400, says="group_limit",
              json={**body, "group_by": "n", "group_limit": -1})  # fmt: skip
    yield bad("group_by is no path", 400, "invalid_filter", json={**body, "group_by": "a..b"})
    yield bad("the list is shorter than k", 400, says="search_list_size",
              json={**body, "k": 5, "params": {"search_list_size": 2}})  # fmt: skip
    yield shape("a parameter of the wrong type", "params.search_list_size",
                json={**body, "params": {"search_list_size": "x"}})  # fmt: skip
    yield good("for cells", json={**body, "params": {"nprobe": 3, "rerank": 50}})
    yield bad("no cells to look into", 400, says="nprobe",
              json={**body, "params": {"nprobe": 0}})  # fmt: skip
    yield bad("fewer rows than k are measured", 400, says="rerank",
              json={**body, "k": 5, "params": {"rerank": 4}})  # fmt: skip
    yield shape("nprobe of the wrong type", "params.nprobe",
                json={**body, "params": {"nprobe": "x"}})  # fmt: skip
    raw = {"content": FLOATS, "headers": RAW}
    yield good("raw floats", url="?k=1&include_meta=true&filters=n+%3D+1", **raw)
    yield good("raw floats and a filter", url="?k=1&filters=%7B%22n%22%3A1%7D", **raw)
    yield bad("raw floats without k", 400, says="k is missing", url=plain, **raw)
    for query, says in (
        ("k=x", "query parameter k"),
        ("k=0", "invalid k"),
        ("k=1&exact=perhaps", "exact"),
        ("k=1&min_score=high", "min_score"),
        ("k=1&min_score=nan", "min_score"),
        ("k=1&min_score=-inf", "min_score"),
        ("k=1&min_score=1_0", "min_score"),
        ("k=1&min_score=", "min_score"),
        ("k=1&min_offset=x", "min_offset"),
        ("k=1&search_list_size=x", "search_list_size"),
        ("k=1&group_limit=x", "group_limit"),
    ):
        yield bad(f"raw floats and {query}", 400, says=says, url=f"?{query}", **raw)
    for query in (
        "filters=%7B%22a%22%3A",
        "filters=a+%3D",
        "filters=%7B%22a%22%3A%7B%22$z%22%3A1%7D%7D",
    ):
        yield bad(f"raw floats and {query}", 400, "invalid_filter", url=f"?k=1&{query}", **raw)
    yield bad("half a float", 400, "dim_mismatch", "vector dimension mismatch", url="?k=1",
              content=FLOATS[:7], headers=RAW)  # fmt: skip
    yield bad("raw floats that are none", 400, says="nan", url="?k=1", headers=RAW,
              content=struct.pack("<2f", float("nan"), 0))  # fmt: skip


ONE = {"vector": [1, 2], "k": 2}
MANY = {"vectors": [[1, 2], [3, 4]], "k": 2}
SEARCHES = (
    Route(
        "POST", C + "/search", "read", waits="body", lacks=LACKS,
        fields={"vector": "vector*", **OPTIONS},
        cases=(
            good(json=ONE),
            good("with every option", json={
                **ONE, "filters": {"n": {"$gte": 0}}, "include_meta": True, "exact": True,
                "include_vector": True, "explain": True, "min_score": -1e6,
                "params": {"search_list_size": 9}, "group_by": "n", "group_limit": 2}),
            bad("another dimension", 400, "dim_mismatch", "vector dimension mismatch",
                json={**ONE, "vector": [1]}),
            bad("a vector too large", 400, says="vector too large",
                json={**ONE, "vector": [0] * (DIM_LIMIT + 1)}),
            bad("two raw vectors", 400, says="expected one", url="?k=1", content=FLOATS * 2,
                headers=RAW),
            bad("no raw vector", 400, says="expected one", url="?k=1", content=b"",
                headers=RAW),
            *search_cases(ONE, "/v1/vector/docs/search"),
        ),
    ),
    Route(
        "POST", C + "/search_batch", "read", waits="body", lacks=LACKS,
        fields={"vectors": "vectors*", **OPTIONS},
        cases=(
            good(json=MANY),
            bad("another dimension", 400, "dim_mismatch", "vector dimension mismatch",
                json={**MANY, "vectors": [[1, 2], [1]]}),
            bad("without vectors", 400, says="vectors required", json={**MANY, "vectors": []}),
            bad("with too many", 400, says="too many vectors",
                json={**MANY, "vectors": [[1, 2]] * (BATCH_LIMIT + 1)}),
            bad("no raw vectors", 400, says="vectors required", url="?k=1", content=b"",
                headers=RAW),
            *search_cases(MANY, "/v1/vector/docs/search_batch"),
        ),
    ),
)  # fmt: skip
NEAR = {"vector": [1, 2], "min_score": -1e6}
RANGES = (
    Route(
        "POST", C + "/search_range", "read", waits="body", lacks=LACKS,
        fields={"vector": "vector*", "min_score": "number*", "limit": "int",
                "include_meta": "bool", "include_vector": "bool", "explain": "bool",
                "exact": "bool", "min_offset": "int"},
        cases=(
            good(json=NEAR),
            good("with every option", json={
                **NEAR, "limit": 2, "filters": {"n": {"$gte": 0}}, "include_meta": True,
                "exact": True, "include_vector": True, "explain": True}),
            bad("another dimension", 400, "dim_mismatch", "vector dimension mismatch",
                json={**NEAR, "vector": [1]}),
            bad("a vector too large", 400, says="vector too large",
                json={**NEAR, "vector": [0] * (DIM_LIMIT + 1)}),
            *(bad(f"limit is {limit}", 400, says="invalid limit", json={**NEAR, "limit": limit})
              for limit in (0, -1, K_LIMIT + 1, 2**70)),
            *filter_cases(NEAR),
        ),
    ),
)  # fmt: skip
BOTH = {"vector": [1, 2], "text": "one", "k": 2}
QUERIES = (
    Route(
        "POST", C + "/query", "read", params={"collection": "words"}, waits="body", lacks=LACKS,
        fields={"vector": "vector", "text": "text", "k": "int*", "fusion": "object",
                "candidates": "int", "include_meta": "bool", "include_vector": "bool",
                "explain": "bool", "group_by": "text", "group_limit": "int",
                "min_offset": "int"},
        cases=(
            good(json=BOTH),
            good("by words", json={"text": "one", "k": 1}),
            good("by a vector", json={"vector": [1, 2], "k": 1}),
            good("with every option", json={
                **BOTH, "filters": {"text": {"$exists": True}}, "include_meta": False,
                "include_vector": True, "explain": True, "candidates": 9, "group_by": "text",
                "group_limit": 2, "fusion": {
                    "method": "weighted", "k": 1, "weights": {"vector": 0.5, "text": 2}}}),
            good("before the embedder is fitted", json={"text": "one", "k": 1},
                 url="/v1/vector/learned/query"),
            bad("with neither", 400, says="vector and text are missing", json={"k": 1}),
            *(bad(f"k is {k}", 400, says="invalid k", json={**BOTH, "k": k})
              for k in (0, -1, K_LIMIT + 1, 2**70)),
            bad("a text too long", 400, says="text too long", json={"text": "x" * 65537, "k": 1}),
            bad("too many words", 400, says="distinct words",
                json={"text": " ".join(map(str, range(5000))), "k": 1}),
            bad("another dimension", 400, "dim_mismatch", "vector dimension mismatch",
                json={**BOTH, "vector": [1]}),
            bad("a vector too large", 400, says="vector too large",
                json={**BOTH, "vector": [0] * (DIM_LIMIT + 1)}),
            *(bad(f"candidates is {n}", 400, says="invalid candidates",
                  json={**BOTH, "candidates": n}) for n in (1, -5, 16 * K_LIMIT + 1)),
            bad("group_limit is too large", 400, says="group_limit",
                json={**BOTH, "group_by": "n", "group_limit": K_LIMIT + 1}),
            bad("group_limit is 0", 400, says="group_limit",
                json={**BOTH, "group_by": "n", "group_limit": 0}),
            bad("group_by is no path", 400, "invalid_filter", json={**BOTH, "group_by": "a..b"}),
            shape("an unknown method", "fusion.method", json={
                **BOTH, "fusion": {"method": "sum"}}),
            shape("a weight that is none", "fusion.weights.text", json={
                **BOTH, "fusion": {"weights": {"text": "x"}}}),
            bad("a negative weight", 400, says="'text' is -1",
                json={**BOTH, "fusion": {"weights": {"text": -1}}}),
            bad("no weight at all", 400, says="all weights are 0",
                json={**BOTH, "fusion": {"weights": {"text": 0, "vector": 0}}}),
            bad("a negative k of rrf", 400, says="the k of rrf",
                json={**BOTH, "fusion": {"k": -1}}),
            bad("words where there are none", 501, "not_supported", "text_fields",
                json={"text": "one", "k": 1}, url="/v1/vector/docs/query"),
            bad("an embedder of elsewhere", 409, "conflict", "made by twos/2",
                json={"text": "one", "k": 1}, url="/v1/vector/foreign/query"),
            bad("an embedder that fails", 502, "embedder_failed", "the model is gone",
                json={"text": "one", "k": 1}, url="/v1/vector/broken/query"),
            *filter_cases(BOTH),
        ),
    ),
)  # fmt: skip
GRAPH = {"max_degree": "int", "build_threads": "int", "search_list_size": "int",
         "build_list_size": "int"}  # fmt: skip
EXTREME = {"max_degree": 10**6, "build_threads": 0, "search_list_size": 1, "build_list_size": -5}
INDEXES = (
    Route(
        "POST", C + "/index/build", "write", params={"collection": "built"}, lacks=LACKS,
        fields={"kind": "word*", "params": "object", "wait": "bool"},
        cases=(
            good(status=202, events=None, json={"kind": "vamana"}),
            good("and waits", None, json={"kind": "vamana", "wait": True}),
            good("the plain kind", None, json={"kind": "flat", "wait": True}),
            bad("an unknown parameter", 400, says="max_degre",
                json={"kind": "vamana", "params": {"max_degre": 5}}),
            bad("a parameter out of range", 400, says="max_degree",
                json={"kind": "vamana", "params": {"max_degree": -1}}),
            *(bad(f"the parameter {name}", 400, says=name,
                  json={"kind": "vamana", "params": {name: 1}}) for name in ("self", "kind")),
            *(good(f"the kind {kind}", None, json={"kind": kind, "wait": True, "params": params})
              for kind, params in (("ivf", {"nlist": 2}), ("diskann", {"beam_width": 2}))),
            bad("a parameter of another kind", 400, says="does not fit",
                json={"kind": "ivf", "params": {"max_degree": 5}}),
        ),
    ),
    Route(
        "POST", C + "/index/tune", "write", params={"collection": "built"}, lacks=LACKS,
        fields={"params": "object*"},
        cases=(
            good(events=1, json={"params": {"search_list_size": 50}}),
            bad("an unknown parameter", 400, says="search_list",
                json={"params": {"search_list": 5}}),
            bad("a parameter out of range", 400, says="search_list_size",
                json={"params": {"search_list_size": 0}}),
            bad("a parameter of the wrong type", 400, says="search_list_size",
                json={"params": {"search_list_size": "x"}}),
            bad("the parameter self", 400, says="self", json={"params": {"self": 1}}),
            bad("a kind that is none", 400, says="nope", json={"params": {"kind": "nope"}}),
            bad("a kind that is no word", 400, says="index kind", json={"params": {"kind": [3]}}),
        ),
    ),
    Route(
        "POST", C + "/index/drop", "write", params={"collection": "dropped"}, lacks=LACKS,
        cases=(good(events=1, before=(
            *doomed("dropped", "a", "b"),
            ("POST", "/v1/vector/dropped/index/build", {"kind": "vamana", "wait": True}),)),),
    ),
    Route(
        "POST", C + "/compact", "write", params={"collection": "built"}, lacks=LACKS,
        cases=(good(status=202, events=None, before=(
            ("POST", "/v1/vector/built/upsert", {"id": "gone", "vector": [1, 2]}),
            ("POST", "/v1/vector/built/delete", {"id": "gone"}),)),),
    ),
    Route("GET", C + "/index/status", "read", waits="query", lacks=LACKS, cases=(good(),)),
    Route(
        "POST", C + "/diskann/build", "write", params={"collection": "built"}, lacks=LACKS,
        fields=GRAPH,
        cases=(good(events=None, json={}), good("with extremes", None, json=EXTREME)),
    ),
    Route(
        "POST", C + "/diskann/tune", "write", params={"collection": "built"}, lacks=LACKS,
        fields=GRAPH,
        cases=(good(events=1, json={}), good("with extremes", 1, json=EXTREME)),
    ),
    Route("GET", C + "/diskann/status", "read", waits="query", lacks=LACKS, cases=(good(),)),
)  # fmt: skip
# A passage's collection is `documents`.
PASSAGE = {"id": 1, "vector": [1, 0], "content": "text", "metadata": {"category": "a"}}
PASSAGES = (
    Route(
        "POST", "/search/ingest", "write", fields={"document": "object*"},
        cases=(
            good(events=1, json={"document": PASSAGE}, answers="empty"),
            shape("without content", "document.content", json={
                "document": {"id": 1, "vector": [1, 0], "metadata": {}}}),
            shape("without metadata", "document.metadata", json={
                "document": {"id": 1, "vector": [1, 0], "content": ""}}),
            shape("without an id", "document.id", json={
                "document": {"vector": [1, 0], "content": "", "metadata": {}}}),
            shape("the id is a text", "document.id", json={"document": {**PASSAGE, "id": "1"}}),
            bad("the id is negative", 400, says="document.id",
                json={"document": {**PASSAGE, "id": -1}}),
            bad("the id is beyond 32 bits", 400, says="document.id",
                json={"document": {**PASSAGE, "id": 2**32}}),
            bad("group_id is beyond 32 bits", 400, says="document.metadata.group_id",
                json={"document": {**PASSAGE, "metadata": {"group_id": 2**32}}}),
            bad("processed_at is negative", 400, says="document.metadata.processed_at",
                json={"document": {**PASSAGE, "metadata": {"processed_at": -1}}}),
            shape("a category of the wrong type", "document.metadata.category",
                  json={"document": {**PASSAGE, "metadata": {"category": 5}}}),
            bad("another dimension", 400, "dim_mismatch", "vector dimension mismatch",
                json={"document": {**PASSAGE, "vector": [1]}}),
            bad("an empty vector", 400, says="empty", json={"document": {**PASSAGE, "vector": []}}),
            bad("a vector too large", 400, says="vector too large",
                json={"document": {**PASSAGE, "vector": [0] * (DIM_LIMIT + 1)}}),
            bad("without a vector or an embedder", 501, "not_supported", "EMBEDDER", server="bare",
                json={"document": {**PASSAGE, "vector": None}}),
            bad("without a vector where others sent theirs", 409, "conflict", "sent along",
                before=(("POST", "/search/ingest", {"document": PASSAGE}),),
                json={"document": {**PASSAGE, "vector": None}}),
        ),
    ),
    Route(
        "POST", "/search", "read", waits="body",
        fields={"query": "text*", "top_k": "int", "filters": "object", "group_by": "text",
                "group_limit": "int", "mode": "word", "vector": "vector", "min_offset": "int"},
        cases=(
            good(json={"query": "", "vector": [1, 0]}),
            good("as a test vector", json={"query": "TEST_VEC:1.0,0.0", "top_k": 1}),
            good("grouped by what is none", json={
                "query": "", "vector": [1, 0], "group_by": "x", "group_limit": 0}),
            bad("query is too long", 400, says="query too long", json={"query": "x" * 1025}),
            *(bad(f"top_k is {k}", 400, says="top_k invalid", json={"query": "", "top_k": k})
              for k in (0, -1, K_LIMIT + 1)),
            bad("group_limit is negative", 400, says="group_limit",
                json={"query": "", "vector": [1, 0], "group_limit": -1}),
            shape("an unknown policy", "filters.version_policy",
                  json={"query": "", "vector": [1, 0], "filters": {"version_policy": "new"}}),
            shape("a language that is none", "filters.language",
                  json={"query": "", "vector": [1, 0], "filters": {"language": 5}}),
            shape("a test vector that is none", "query", json={"query": "TEST_VEC:1,x"}),
            bad("another dimension", 400, "dim_mismatch", "vector dimension mismatch",
                json={"query": "", "vector": [1]}),
            good("plain words", json={"query": "plain text"}),
            good("mode text", json={"query": "text", "mode": "text", "group_by": "category",
                                    "filters": {"category": "a"}}),
            good("mode hybrid", json={"query": "text", "mode": "hybrid", "vector": [1, 0]}),
            good("mode hybrid without a vector", json={"query": "text", "mode": "hybrid"}),
            bad("mode vector of plain words", 501, "not_supported", "EMBEDDER",
                json={"query": "x", "mode": "vector"}),
        ),
    ),
)  # fmt: skip
ROUTES = SEARCHES + RANGES + QUERIES + INDEXES + PASSAGES
