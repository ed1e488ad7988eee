"""``search_range`` of a collection: all points that score enough."""

from typing import Any

import msgspec

from luma_lab.errors import InvalidArgument
from luma_lab.service.documents import check_filter
from luma_lab.service.operation import Operation
from luma_lab.service.queries import HitAnswer, answer_body
from luma_lab.service.vectors import COLLECTION, PATH, VectorHandler

DEFAULT_LIMIT = 1000


class RangeRequest(msgspec.Struct):
    """Body of search_range; `limit` is 1000 unless given, or MAX_K where that is less."""

    vector: list[float]
    min_score: float
    limit: int | None = None
    filters: Any = None
    include_meta: bool = False
    include_vector: bool = False
    explain: bool = False
    exact: bool = False
    min_offset: int | None = None


class RangeAnswer(msgspec.Struct, omit_defaults=True):
    """Hits, best first, and whether there are more than the limit."""

    hits: list[HitAnswer]
    truncated: bool
    receipt: dict[str, Any] | msgspec.UnsetType = msgspec.UNSET


class RangeHandler(VectorHandler):
    """POST /v1/vector/{collection}/search_range"""

    async def post(self, name):
        self.check_name(name)
        request = await self.read_json(RangeRequest)
        self.check_vector(request.vector)
        check_filter(request.filters)
        most = self.limits.max_k
        limit = min(DEFAULT_LIMIT, most) if request.limit is None else request.limit
        if not 1 <= limit <= most:
            raise InvalidArgument(f"invalid limit: {limit}, expected 1 to {most}")
        await self.wait_for(request.min_offset)

        def search():
            hits = self.collection(name).search_range(
                request.vector,
                request.min_score,
                limit=limit,
                filter=request.filters,
                include_vector=request.include_vector,
                explain=request.explain,
                exact=request.exact,
            )
            return {**answer_body(hits, request), "truncated": hits.truncated}

        await self.answer(search)


operations = [
    Operation(
        "POST", PATH + "/search_range", RangeHandler, "Find all points that score enough.",
        body=RangeRequest, answer=RangeAnswer, errors=(404, 501),
    ),
]  # fmt: skip
routes = [(COLLECTION + "/search_range", RangeHandler)]
