"""``/search`` and ``/search/ingest``: documents with a vector, searched in one call."""

from typing import Annotated, Literal

import msgspec

from luma_lab.engine import passages
from luma_lab.errors import InvalidArgument, PayloadTooLarge
from luma_lab.service.hybrid import Branch
from luma_lab.service.operation import Operation
from luma_lab.service.refusals import WrongShape
from luma_lab.service.vectors import VectorHandler

MAX_QUERY_BYTES = 1024
TEST_PREFIX = "TEST_VEC:"
MAX_U32, MAX_U64 = 2**32 - 1, 2**64 - 1
# Described, not enforced: a number of the right type but out of range is 400, not 422.
U32 = Annotated[int, msgspec.Meta(extra_json_schema={"minimum": 0, "maximum": MAX_U32})]
U64 = Annotated[int, msgspec.Meta(extra_json_schema={"minimum": 0, "maximum": MAX_U64})]


class Metadata(msgspec.Struct, omit_defaults=True):
    """What is known of a document; all of it may be left out."""

    filename: str | None = None
    processed_at: U64 | None = None
    category: str | None = None
    language: str | None = None
    status: str | None = None
    version: str | None = None
    group_id: U32 | None = None
    document_id: str | None = None


class IngestDocument(msgspec.Struct):
    """A document; a vector that is left out is made of the content, see EMBEDDER."""

    id: U32
    content: str
    metadata: Metadata
    vector: list[float] | None = None


class IngestRequest(msgspec.Struct):
    """Body of ingest."""

    document: IngestDocument


class Filters(msgspec.Struct):
    """Which documents are looked at."""

    category: str | None = None
    language: str | list[str] | None = None
    status: str | None = None
    version_policy: Literal["all", "latest"] = "all"


class SearchRequest(msgspec.Struct):
    """Body of search.

    Without a mode: by `vector`, else by the query's own, else by its words.
    """

    query: str
    top_k: int = 10
    filters: Filters | None = None
    group_by: str | None = None
    group_limit: int = 1
    vector: list[float] | None = None
    mode: Literal["vector", "text", "hybrid"] | None = None
    min_offset: int | None = None


class FoundDocument(msgspec.Struct):
    """A document that was found."""

    id: int
    content: str
    metadata: Metadata


class Found(msgspec.Struct, omit_defaults=True):
    """A document with its score: cosine, BM25, or that of the fusion."""

    score: float
    document: FoundDocument
    branches: dict[str, Branch] | msgspec.UnsetType = msgspec.UNSET


class SearchAnswer(msgspec.Struct):
    """Documents, best first."""

    query: str
    top_k: int
    results: list[Found]


class PassageHandler(VectorHandler):
    """What both routes share."""

    internal_code = "internal_error"  # clients of the original know these routes' faults so

    def check_rights(self):
        """Raise `Forbidden` where the key may not touch the collection."""
        self.access.check_collection(passages.COLLECTION)


class IngestHandler(PassageHandler):
    """POST /search/ingest"""

    async def post(self):
        self.check_rights()
        document = (await self.read_json(IngestRequest)).document
        size = len(document.content.encode())
        if size > self.limits.max_body_bytes:
            raise PayloadTooLarge(f"content too large: {size} bytes")
        if document.vector is not None and not document.vector:
            raise InvalidArgument("the vector is empty: expected at least one component")
        self.check_vector(document.vector)
        check_numbers(document)
        result = await self.run(
            passages.ingest,
            self.lab,
            document.id,
            document.vector,
            document.content,
            msgspec.to_builtins(document.metadata),
            embedder=self.service.embedder,
            language=self.limits.search_language,
            dim=min(passages.LSA_DIM, self.limits.max_vector_dim),
        )
        self.set_header("X-Luma-Offset", str(result.offset))
        self.clear_header("Content-Type")
        self.finish()


class SearchHandler(PassageHandler):
    """POST /search"""

    async def post(self):
        self.check_rights()
        request = await self.read_json(SearchRequest)
        if len(request.query.encode()) > MAX_QUERY_BYTES:
            raise InvalidArgument(f"query too long: at most {MAX_QUERY_BYTES} bytes")
        if not 1 <= request.top_k <= self.limits.max_k:
            raise InvalidArgument(
                f"top_k invalid: {request.top_k}, expected 1 to {self.limits.max_k}"
            )
        if request.group_limit < 0:
            raise InvalidArgument(f"group_limit is {request.group_limit}: expected at least 0")
        vector = self._vector(request)
        self.check_vector(vector)
        filters = request.filters or Filters()
        await self.wait_for(request.min_offset)

        def search():
            found = passages.search(
                self.lab,
                request.query,
                vector,
                request.top_k,
                mode=request.mode,
                embedder=self.service.embedder,
                filters=msgspec.to_builtins(filters),
                version=filters.version_policy,
                group_by=request.group_by,
                group_limit=request.group_limit,
            )
            return {
                "query": request.query,
                "top_k": request.top_k,
                "results": [_found(passage) for passage in found],
            }

        await self.answer(search)

    def _vector(self, request):
        if request.vector is not None:
            return request.vector
        may_test = self.limits.auth == "open" or self.limits.test_vectors
        if not request.query.startswith(TEST_PREFIX) or not may_test:
            return None
        try:
            return [float(part) for part in request.query[len(TEST_PREFIX) :].split(",")]
        except ValueError:
            raise WrongShape(
                "query: expected numbers separated by commas behind TEST_VEC:", "query"
            ) from None


def _found(passage):
    body = {
        "score": passage.score,
        "document": {
            "id": passage.id,
            "content": passage.content,
            "metadata": passage.metadata,
        },
    }
    if passage.branches is not None:
        body["branches"] = passage.branches
    return body


def check_numbers(document):
    """Raise `InvalidArgument` for a number of a document that is out of its range."""
    metadata = document.metadata
    for name, value, limit in (
        ("id", document.id, MAX_U32),
        ("metadata.group_id", metadata.group_id, MAX_U32),
        ("metadata.processed_at", metadata.processed_at, MAX_U64),
    ):
        if value is not None and not 0 <= value <= limit:
            raise InvalidArgument(f"document.{name} is {value}: expected 0 to {limit}")


operations = [
    Operation(
        "POST", "/search/ingest", IngestHandler,
        "Store a document; the header X-Luma-Offset holds its offset.", "write",
        body=IngestRequest, errors=(409, 501, 502),
    ),
    Operation(
        "POST", "/search", SearchHandler, "Search the documents.",
        body=SearchRequest, answer=SearchAnswer, errors=(409, 501, 502),
    ),
]  # fmt: skip
routes = [(r"/search", SearchHandler), (r"/search/ingest", IngestHandler)]
