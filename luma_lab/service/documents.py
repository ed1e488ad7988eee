"""``/v1/doc``: documents by collection and id, found with filters."""

from typing import Any

import msgspec

from luma_lab.errors import DocumentNotFound, InvalidFilter, PayloadTooLarge
from luma_lab.service.base import BaseHandler
from luma_lab.service.operation import MIN_OFFSET, Operation, Parameter
from luma_lab.service.state import check_length, check_size

FIND_LIMIT = 20
MAX_FILTER_BYTES = 1 << 20


class DocumentAnswer(msgspec.Struct, omit_defaults=True):
    """A document as it is answered."""

    id: str
    revision: int
    doc: Any
    offset: int | msgspec.UnsetType = msgspec.UNSET


class DeleteAnswer(msgspec.Struct):
    """Whether there was something to delete."""

    deleted: bool
    offset: int


class FindRequest(msgspec.Struct):
    """Body of find; a filter is an object or an expression."""

    filter: Any = None
    limit: int = FIND_LIMIT
    after: str | None = None
    min_offset: int | None = None


class FoundDocument(msgspec.Struct):
    """One document of a find."""

    id: str
    doc: Any
    revision: int


class FindAnswer(msgspec.Struct):
    """A page of documents; `next` is the `after` of the next one."""

    documents: list[FoundDocument]
    next: str | None


class DocumentHandler(BaseHandler):
    """GET, PUT, PATCH, DELETE /v1/doc/{collection}/{id}"""

    async def get(self, collection, id):
        documents = self.documents(collection, id)
        await self.wait_for(self.query_int("min_offset"))
        found = await self.run(documents.get, id)
        if found is None:
            raise DocumentNotFound(collection, id)
        await self.answer(document_body, found)

    async def put(self, collection, id):
        documents = self.documents(collection, id)
        if_revision = self.query_int("if_revision")
        doc = await self.read_json(Any)
        size = len(self.request.body)

        def write():
            check_size("doc", doc, size, self.limits)
            result = documents.put(id, doc, if_revision=if_revision)
            return put_document_body(id, doc, result)

        await self.answer(write)

    async def patch(self, collection, id):
        documents = self.documents(collection, id)
        changes = await self.read_json(Any)

        def write():
            check_size("doc", changes, len(self.request.body), self.limits)
            found = documents.update(id, changes)
            return {**document_body(found), "offset": found.revision}

        await self.answer(write)

    async def delete(self, collection, id):
        documents = self.documents(collection, id)
        if_revision = self.query_int("if_revision")
        await self.answer(
            lambda: delete_document_body(documents.delete(id, if_revision=if_revision))
        )

    def documents(self, collection, id=None):
        """Return the `Documents` of a collection after checking names and rights."""
        check_length("collection", collection, self.limits.max_collection_len)
        if id is not None:
            check_length("id", id, self.limits.max_id_len)
        self.access.check_collection(collection)
        return self.lab.documents(collection)


class FindHandler(DocumentHandler):
    """POST /v1/doc/{collection}/find; the other methods are those of a document called so."""

    async def post(self, collection, _id):
        """Find."""
        documents = self.documents(collection)
        request = await self.read_json(FindRequest)
        check_filter(request.filter)
        limit = max(1, min(request.limit, self.limits.max_doc_find))
        await self.wait_for(request.min_offset)

        def find():
            # One more than asked for tells whether there is a next page.
            found = documents.find(request.filter, limit + 1, after=request.after)
            page = found[:limit]
            return {
                "documents": [{"id": d.id, "doc": d.doc, "revision": d.revision} for d in page],
                "next": page[-1].id if len(found) > limit else None,
            }

        await self.answer(find)


def check_filter(filter):
    """Raise `PayloadTooLarge` for a filter over 1 MB."""
    if filter is None:
        return
    size = len(filter.encode() if isinstance(filter, str) else msgspec.json.encode(filter))
    if size > MAX_FILTER_BYTES:
        raise PayloadTooLarge(f"filters too large: {size} bytes, at most {MAX_FILTER_BYTES}")
    if not isinstance(filter, (str, dict)):
        raise InvalidFilter(
            f"filter is a {type(filter).__name__}: expected an object or an expression"
        )


def document_body(document):
    """Return the JSON object of a `Document`."""
    return {"id": document.id, "revision": document.revision, "doc": document.doc}


def put_document_body(id, doc, result):
    """Return what a put of a document tells."""
    return {"id": id, "revision": result.revision, "doc": doc, "offset": result.offset}


def delete_document_body(result):
    """Return what a delete tells."""
    return {"deleted": result.count > 0, "offset": result.offset}


IF_REVISION = Parameter(
    "if_revision", int, "Only if this is the present revision; 0: only if there is none."
)
PATH = "/v1/doc/{collection}/{id}"
operations = [
    Operation(
        "GET", PATH, DocumentHandler, "Read a document.",
        answer=DocumentAnswer, parameters=(MIN_OFFSET,), errors=(404,),
    ),
    Operation(
        "PUT", PATH, DocumentHandler, "Store a document, replacing the one that is there.", "write",
        body=Any, answer=DocumentAnswer, parameters=(IF_REVISION,), errors=(409,),
    ),
    Operation(
        "PATCH", PATH, DocumentHandler, "Merge changes into a document (RFC 7396).", "write",
        body=Any, answer=DocumentAnswer, errors=(404,),
    ),
    Operation(
        "DELETE", PATH, DocumentHandler, "Delete a document.", "write",
        answer=DeleteAnswer, parameters=(IF_REVISION,), errors=(409,),
    ),
    Operation(
        "POST", "/v1/doc/{collection}/find", FindHandler,
        "Find documents with a filter, in byte order of id.", body=FindRequest, answer=FindAnswer,
    ),
]  # fmt: skip
routes = [
    (r"/v1/doc/([^/]+)/(find)", FindHandler),
    (r"/v1/doc/([^/]+)/([^/]+)", DocumentHandler),
]
