"""Bad input to collections: each is an error of ours that names the value, and changes nothing."""

import numpy as np
import pytest

from luma_lab.errors import (
    AlreadyExists,
    CollectionNotFound,
    DimensionMismatch,
    InvalidArgument,
    InvalidFilter,
    LumaError,
    NotSupported,
    PointNotFound,
    UnknownName,
)


@pytest.fixture
def docs(lab):
    docs = lab.create_collection("docs", 3, "l2")
    docs.upsert(["a", "b"], [[1, 0, 0], [0, 1, 0]], [{"n": 1}, None])
    return docs


def contents(lab):
    docs = lab.collection("docs")
    points, _ = docs.scroll(limit=1000)
    return (
        [c.name for c in lab.collections()],
        [(p.id, p.vector.tolist(), p.meta) for p in points],
        docs.info(),
        lab.head,
        [h.id for h in docs.search([0, 0, 0], k=1000, exact=True)],
    )


V = [1.0, 2.0, 3.0]
LONG = "x" * 513


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda lab, c: c.upsert("x", [1, 2]), DimensionMismatch, "got 2.*'docs' wants 3"),
        (lambda lab, c: c.upsert(["x", "y"], [[1, 2, 3, 4]] * 2), DimensionMismatch, "got 4"),
        (lambda lab, c: c.upsert(["x", "y"], [V]), InvalidArgument, "1 vectors for 2 ids"),
        (lambda lab, c: c.upsert("x", [V, V]), InvalidArgument, "2 vectors for 1 ids"),
        (lambda lab, c: c.upsert("x", [[V]]), InvalidArgument, r"shape \(1, 1, 3\)"),
        (lambda lab, c: c.upsert(["x", "y"], [V, [1, 2]]), InvalidArgument, "rectangular"),
        (lambda lab, c: c.upsert("x", 5.0), InvalidArgument, r"shape \(\)"),
        (lambda lab, c: c.upsert("x", None), InvalidArgument, "vectors are missing"),
        (lambda lab, c: c.upsert("x", "abc"), InvalidArgument, "numbers"),
        (lambda lab, c: c.upsert("x", ["1", "2", "3"]), InvalidArgument, "numbers"),
        (lambda lab, c: c.upsert("x", [1j, 2, 3]), InvalidArgument, "numbers"),
        (lambda lab, c: c.upsert("x", np.zeros(3, "M8[s]")), InvalidArgument, "numbers"),
        (lambda lab, c: c.upsert("x", [None, 2, 3]), InvalidArgument, "nan|numbers"),
        (lambda lab, c: c.upsert("x", [1, float("nan"), 3]), InvalidArgument, "nan.*finite"),
        (
            lambda lab, c: c.upsert(["x", "y"], [V, [1, float("-inf"), 3]]),
            InvalidArgument,
            "position 1 holds -inf",
        ),
        (lambda lab, c: c.upsert("x", [1e39, 2, 3]), InvalidArgument, "inf"),
        (lambda lab, c: c.upsert("x", [1e19, 2, 3]), InvalidArgument, r"length 1e\+38.*8e\+37"),
        (
            lambda lab, c: c.upsert(["x", "y"], [V, [0, 1e30, 0]]),
            InvalidArgument,
            r"position 1 has squared length 1e\+60",
        ),
        (lambda lab, c: c.search([1e30, 0, 0]), InvalidArgument, r"length 1e\+60"),
        (lambda lab, c: c.upsert("x", [10**400, 2, 3]), InvalidArgument, "numbers|inf"),
        (lambda lab, c: c.upsert(["x", "a", "x"], [V] * 3), InvalidArgument, "'x'.* 0 and 2"),
        (lambda lab, c: c.upsert([1, "1"], [V] * 2), InvalidArgument, "'1'.* 0 and 1"),
        (lambda lab, c: c.upsert([], []), InvalidArgument, "empty"),
        (lambda lab, c: c.upsert([], np.zeros((0, 3))), InvalidArgument, "empty"),
        (lambda lab, c: c.upsert("", V), InvalidArgument, "id is empty"),
        (lambda lab, c: c.upsert(["x", ""], [V] * 2), InvalidArgument, "position 1 is empty"),
        (lambda lab, c: c.upsert(LONG, V), InvalidArgument, "513 bytes, at most 512"),
        (lambda lab, c: c.upsert("\ud800", V), InvalidArgument, "Unicode"),
        (lambda lab, c: c.upsert([1.5], [V]), InvalidArgument, "float"),
        (lambda lab, c: c.upsert([True], [V]), InvalidArgument, "bool"),
        (lambda lab, c: c.upsert(True, V), InvalidArgument, "bool"),
        (lambda lab, c: c.upsert(None, V), InvalidArgument, "NoneType"),
        (lambda lab, c: c.upsert(1.5, V), InvalidArgument, "float"),
        (lambda lab, c: c.upsert("x", V, float("nan")), InvalidArgument, "meta holds nan"),
        (lambda lab, c: c.upsert("x", V, {1: 2}), InvalidArgument, "key 1"),
        (lambda lab, c: c.upsert(["x"], [V], [object()]), InvalidArgument, "position 0.*object"),
        (lambda lab, c: c.upsert(["x"], [V], [1, 2]), InvalidArgument, "2 metas for 1"),
        (lambda lab, c: c.upsert(["x"], [V], {"a": 1}), InvalidArgument, "metas is a dict"),
        (lambda lab, c: c.upsert(["x"], [V], 5), InvalidArgument, "metas is a int"),
        (lambda lab, c: c.update("x", V), PointNotFound, "'x'"),
        (lambda lab, c: c.update("a", [1, 2]), DimensionMismatch, "got 2"),
        (lambda lab, c: c.add("a", V), AlreadyExists, "'a'"),
        (lambda lab, c: c.delete(None), InvalidArgument, "exactly one"),
        (lambda lab, c: c.delete("a", filter={"a": 1}), InvalidArgument, "exactly one"),
        (lambda lab, c: c.delete(filter={}), InvalidArgument, "every point"),
        (lambda lab, c: c.delete(filter={"$x": 1}), InvalidFilter, "unknown operator"),
        (lambda lab, c: c.count("a ="), InvalidFilter, "expected"),
        (lambda lab, c: c.scroll(filter=7), InvalidFilter, "int"),
        (lambda lab, c: c.search(V, group_by=3), InvalidArgument, "group_by is 3"),
        (lambda lab, c: c.search(V, group_by="a..b"), InvalidFilter, "a..b"),
        (lambda lab, c: c.search(V, group_by="a", group_limit=0), InvalidArgument, "group_limit"),
        (lambda lab, c: lab.create_collection("n", 2, meta_indexes="a"), InvalidArgument, "'a'"),
        (
            lambda lab, c: lab.create_collection("n", 2, meta_indexes=["a", "a"]),
            InvalidArgument,
            "twice",
        ),
        (lambda lab, c: lab.create_collection("n", 2, meta_indexes=['a"b']), InvalidFilter, "a"),
        (lambda lab, c: c.delete([1.5]), InvalidArgument, "float"),
        (lambda lab, c: c.delete(LONG), InvalidArgument, "513"),
        (lambda lab, c: c.get(""), InvalidArgument, "empty"),
        (lambda lab, c: c.get(None), InvalidArgument, "NoneType"),
        (lambda lab, c: c.get_many(5.5), InvalidArgument, "float"),
        (lambda lab, c: c.scroll(limit=0), InvalidArgument, "limit is 0"),
        (lambda lab, c: c.scroll(limit=2.5), InvalidArgument, "limit is 2.5"),
        (lambda lab, c: c.scroll(after=b"x"), InvalidArgument, "bytes"),
        (lambda lab, c: c.write_each("grow", [("x", V, None)]), LumaError, "'grow'"),
        (lambda lab, c: c.search(V, k=0), InvalidArgument, "k: 0"),
        (lambda lab, c: c.search(V, k=-3), InvalidArgument, "k: -3"),
        (lambda lab, c: c.search(V, k=1.5), InvalidArgument, "k: 1.5"),
        (lambda lab, c: c.search(V, k=True), InvalidArgument, "k: True"),
        (lambda lab, c: c.search(V, k="5"), InvalidArgument, "k: '5'"),
        (lambda lab, c: c.search(V, k=None), InvalidArgument, "k: None"),
        (lambda lab, c: c.search([1, 2]), DimensionMismatch, "got 2"),
        (lambda lab, c: c.search([]), LumaError, "0|shape"),
        (lambda lab, c: c.search([V]), InvalidArgument, "search_many"),
        (lambda lab, c: c.search([[1], [1, 2]]), InvalidArgument, "rectangular|shape"),
        (lambda lab, c: c.search(5.0), InvalidArgument, "shape"),
        (lambda lab, c: c.search(None), InvalidArgument, "shape|numbers"),
        (lambda lab, c: c.search("abc"), NotSupported, "needs an embedder"),
        (lambda lab, c: c.search([1, float("nan"), 3]), InvalidArgument, "nan"),
        (lambda lab, c: c.search([1, float("inf"), 3]), InvalidArgument, "inf"),
        (lambda lab, c: c.search(V, search_list_size=5), InvalidArgument, "is 5.*k = 10"),
        (lambda lab, c: c.search(V, search_list_size="9"), InvalidArgument, "'9'"),
        (lambda lab, c: c.search(V, search_list_size=1 << 40), InvalidArgument, str(1 << 40)),
        (lambda lab, c: c.search(V, min_score="high"), InvalidArgument, "min_score.*'high'"),
        (lambda lab, c: c.search(V, min_score=float("nan")), InvalidArgument, "min_score.*nan"),
        (lambda lab, c: c.search(V, min_offset="soon"), InvalidArgument, "offset.*'soon'"),
        (lambda lab, c: c.search(V, min_offset=-1), InvalidArgument, "offset.*-1"),
        (lambda lab, c: c.search(V, filter=[1]), InvalidFilter, "list"),
        (lambda lab, c: c.search_many([V, [1, 2]]), InvalidArgument, "rectangular|numbers"),
        (lambda lab, c: c.search_many(V), InvalidArgument, "shape"),
        (lambda lab, c: c.search_many(None), InvalidArgument, "vectors"),
        (lambda lab, c: c.search_many(5), InvalidArgument, "vectors"),
        (lambda lab, c: c.search_many([V], threads=-1), InvalidArgument, "threads.*-1"),
        (lambda lab, c: c.search_many([V], threads="all"), InvalidArgument, "threads.*'all'"),
        (lambda lab, c: lab.collection("nowhere"), CollectionNotFound, "'nowhere'"),
        (lambda lab, c: lab.collection(5), LumaError, "5"),
        (lambda lab, c: lab.drop_collection("nowhere"), CollectionNotFound, "'nowhere'"),
        (lambda lab, c: lab.create_collection("docs", 3), AlreadyExists, "'docs'"),
        (lambda lab, c: lab.create_collection("../x", 3), InvalidArgument, r"'\.\./x'"),
        (lambda lab, c: lab.create_collection(".hidden", 3), InvalidArgument, "hidden"),
        (lambda lab, c: lab.create_collection("a/b", 3), InvalidArgument, "a/b"),
        (lambda lab, c: lab.create_collection("", 3), InvalidArgument, "''"),
        (lambda lab, c: lab.create_collection("é", 3), InvalidArgument, "é"),
        (lambda lab, c: lab.create_collection("new\n", 3), InvalidArgument, "new"),
        (lambda lab, c: lab.create_collection("x" * 65, 3), InvalidArgument, "x{65}"),
        (lambda lab, c: lab.create_collection(5, 3), InvalidArgument, "5"),
        (lambda lab, c: lab.create_collection("new", 0), InvalidArgument, "dim: 0"),
        (lambda lab, c: lab.create_collection("new", -1), InvalidArgument, "dim: -1"),
        (lambda lab, c: lab.create_collection("new", 65536), InvalidArgument, "65536"),
        (lambda lab, c: lab.create_collection("new", 3.0), InvalidArgument, "3.0"),
        (lambda lab, c: lab.create_collection("new", True), InvalidArgument, "True"),
        (lambda lab, c: lab.create_collection("new", "3"), InvalidArgument, "'3'"),
        (lambda lab, c: lab.create_collection("new", 3, "cosinus"), UnknownName, "'cosine'"),
        (lambda lab, c: lab.create_collection("new", 3, None), UnknownName, "None"),
        (lambda lab, c: lab.create_collection("new", 3, index="hnsw"), UnknownName, "'hnsw'"),
        (
            lambda lab, c: lab.create_collection("new", 3, index="ivf", params={"alpha": 2}),
            InvalidArgument,
            "alpha does not fit index kind 'ivf'",
        ),
        (
            lambda lab, c: lab.create_collection("new", 3, index="flat", params={"nlist": 2}),
            InvalidArgument,
            "no parameters",
        ),
        (
            lambda lab, c: lab.create_collection("new", 3, params={"nlist": 0}),
            InvalidArgument,
            "nlist",
        ),
        (
            lambda lab, c: lab.create_collection("new", 3, params={"degree": 5}),
            UnknownName,
            "'degree'",
        ),
        (
            lambda lab, c: lab.create_collection("new", 3, params={"max_degree": "many"}),
            InvalidArgument,
            "'many'",
        ),
        (lambda lab, c: lab.create_collection("new", 3, params=5), InvalidArgument, "5"),
        (lambda lab, c: c.build_index("hnsw"), UnknownName, "'hnsw'"),
        (lambda lab, c: c.build_index("diskann", nprobe=5), InvalidArgument, "nprobe"),
        (lambda lab, c: c.build_index("diskann", beam_width=0), InvalidArgument, "beam_width"),
        (lambda lab, c: c.build_index("ivf", nprobe=True), InvalidArgument, "True"),
        (lambda lab, c: c.build_index("ivf", nlist=2.5), InvalidArgument, "2.5"),
        (lambda lab, c: c.build_index("vamana", nlist=5), InvalidArgument, "does not fit"),
        (lambda lab, c: c.search([1, 2, 3], nprobe=0), InvalidArgument, "nprobe"),
        (lambda lab, c: c.search([1, 2, 3], k=9, rerank=8), InvalidArgument, "rerank"),
        (lambda lab, c: c.build_index("vamana", degree=5), UnknownName, "'degree'"),
        (lambda lab, c: c.build_index("vamana", alpha="x"), InvalidArgument, "'x'"),
        (lambda lab, c: c.build_index("vamana", alpha=0.5), InvalidArgument, "0.5"),
        (lambda lab, c: c.build_index("vamana", max_degree=0), InvalidArgument, "0"),
        (lambda lab, c: c.build_index("vamana", threads=-1), InvalidArgument, "-1"),
        (lambda lab, c: c.tune_index(search_list_size=0), InvalidArgument, "0"),
        (lambda lab, c: c.tune_index(speed=9), UnknownName, "'speed'"),
    ],
)
def test_bad_input_is_named_and_changes_nothing(lab, docs, call, error, words):
    before = contents(lab)
    with pytest.raises(error, match=words) as caught:
        call(lab, docs)
    assert isinstance(caught.value, LumaError)
    assert contents(lab) == before
