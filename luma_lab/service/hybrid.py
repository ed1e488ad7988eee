"""``query`` of a collection: by vector, by words, or by both, fused."""

from typing import Any, Literal

import msgspec

from luma_lab.engine.fusion import RRF_K
from luma_lab.errors import InvalidArgument
from luma_lab.service.documents import check_filter
from luma_lab.service.operation import Operation
from luma_lab.service.queries import answer_body, hit_body
from luma_lab.service.vectors import COLLECTION, PATH, PointQuery, VectorHandler

MAX_TEXT_BYTES = 64 * 1024
CANDIDATES_PER_K = 16  # of MAX_K: how deep a branch may be asked to look


class Weights(msgspec.Struct):
    """How much each branch counts, at least 0 and not both 0."""

    vector: float = 1.0
    text: float = 1.0


class Fusion(msgspec.Struct):
    """How the branches become one order; `k` is for rrf."""

    method: Literal["rrf", "weighted", "distribution"] = "rrf"
    k: float = RRF_K
    weights: Weights = msgspec.field(default_factory=Weights)


class QueryRequest(PointQuery, kw_only=True):
    """Body of query: a vector, a text or both; a text alone is embedded where it can be."""

    vector: list[float] | None = None
    text: str | None = None
    fusion: Fusion | None = None
    candidates: int | None = None
    include_meta: bool = True


class Branch(msgspec.Struct):
    """Where a hit stood in a branch, from 1, with its score there and the branch's weight."""

    rank: int
    score: float
    weight: float


class QueryHit(msgspec.Struct, omit_defaults=True):
    """A hit, with the branches that found it."""

    id: str
    score: float
    meta: Any
    branches: dict[str, Branch]
    vector: list[float] | msgspec.UnsetType = msgspec.UNSET


class QueryGroup(msgspec.Struct):
    """The best hits with one value of the field."""

    key: Any
    hits: list[QueryHit]


class QueryAnswer(msgspec.Struct, omit_defaults=True):
    """Hits, best first."""

    hits: list[QueryHit]
    groups: list[QueryGroup] | msgspec.UnsetType = msgspec.UNSET
    receipt: dict[str, Any] | msgspec.UnsetType = msgspec.UNSET


class QueryHandler(VectorHandler):
    """POST /v1/vector/{collection}/query"""

    async def post(self, name):
        self.check_name(name)
        request = await self.read_json(QueryRequest)
        options = self._check(request)
        await self.wait_for(request.min_offset)

        def search():
            collection = self.collection(name)
            hits = collection.search_hybrid(request.vector, request.text, request.k, **options)
            return answer_body(hits, request, _hit_body)

        await self.answer(search)

    def _check(self, request):
        """Return the keywords of `Collection.search_hybrid`; raise on what is out of range."""
        self.check_counts(request)
        if request.vector is None and request.text is None:
            raise InvalidArgument("vector and text are missing: expected at least one of them")
        if request.text is not None and (size := len(request.text.encode())) > MAX_TEXT_BYTES:
            raise InvalidArgument(f"text too long: {size} bytes, at most {MAX_TEXT_BYTES}")
        self.check_vector(request.vector)
        check_filter(request.filters)
        depth, deepest = request.candidates, CANDIDATES_PER_K * self.limits.max_k
        if depth is not None and not request.k <= depth <= deepest:
            raise InvalidArgument(
                f"invalid candidates: {depth}, expected k = {request.k} to {deepest}"
            )
        fusion = request.fusion or Fusion()
        return {
            "fusion": fusion.method,
            "rrf_k": fusion.k,
            "weights": msgspec.to_builtins(fusion.weights),
            "candidates": depth,
            "filter": request.filters,
            "include_vector": request.include_vector,
            "group_by": request.group_by,
            "group_limit": 1 if request.group_limit is None else request.group_limit,
            "explain": request.explain,
        }


def _hit_body(hit, request):
    body = hit_body(hit, request)
    body["branches"] = hit.branches
    return body


operations = [
    Operation(
        "POST", PATH + "/query", QueryHandler,
        "Search a collection by a vector, by words, or by both, fused.",
        body=QueryRequest, answer=QueryAnswer, errors=(404, 409, 501, 502),
    ),
]  # fmt: skip
routes = [(COLLECTION + "/query", QueryHandler)]
