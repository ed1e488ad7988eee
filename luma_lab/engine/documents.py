"""Documents: JSON objects by collection and id, found with filters, changed as one event each.

They live in a table of their own, so a document never clashes with a state key. A document's
revision is the offset of the event that wrote it.
"""

from functools import partial

import msgspec

from luma_lab import codec
from luma_lab.engine import filters
from luma_lab.engine.points import check_id
from luma_lab.engine.state import check_key, check_revision
from luma_lab.errors import DocumentNotFound, InvalidArgument, RevisionConflict
from luma_lab.store import mappings
from luma_lab.store.database import luma_errors
from luma_lab.store.mappings import DocumentRow
from luma_lab.types import Document, WriteResult

FIND_LIMIT = 20


class Documents:
    """The documents of one collection, on a lab or inside a transaction.

    Parameters
    ----------
    name : str
        Any key: 1 to 512 bytes of UTF-8. Nothing has to be created first.
    apply : callable
        Runs an operation on a write transaction and returns its result.
    connection : callable
        Returns the connection to read with.
    """

    def __init__(self, name, apply, connection):
        check_key(name, "collection")
        self.name = name
        self._apply = apply
        self._connection = connection

    def put(self, id, doc, *, if_revision=None):
        """Store a document, replacing the one that is there.

        Parameters
        ----------
        doc : JSON value
        if_revision : int, optional
            Write only if the document is at this revision; 0: only if there is none.

        Returns
        -------
        WriteResult
            With `revision`.

        Raises
        ------
        InvalidArgument, RevisionConflict
        """
        id = check_id(id)
        check_revision(if_revision)
        data = codec.encode(doc, f"document {id!r}")
        return self._apply(
            partial(put_document, name=self.name, id=id, doc=data, if_revision=if_revision)
        )

    def update(self, id, changes):
        """Merge `changes` into a document (RFC 7396: null removes a field).

        Returns
        -------
        Document
            As it now is.

        Raises
        ------
        DocumentNotFound
        """
        id = check_id(id)
        codec.encode(changes, "changes")
        return self._apply(partial(patch_document, name=self.name, id=id, changes=changes))

    def delete(self, id, *, if_revision=None):
        """Delete a document; the result's `count` tells whether it was there."""
        check_revision(if_revision)
        return self._apply(
            partial(delete_document, name=self.name, id=check_id(id), if_revision=if_revision)
        )

    @luma_errors
    def get(self, id):
        """Return the `Document` called `id`, or None."""
        row = mappings.read_document(self._connection(), self.name, check_id(id))
        return None if row is None else _document(row)

    @luma_errors
    def find(self, filter=None, limit=FIND_LIMIT, *, after=None):
        """Return up to `limit` documents that match, in byte order of id.

        Parameters
        ----------
        filter : dict or str, optional
            See `luma_lab.engine.filters`. It is applied to every document.
        after : str, optional
            Only ids beyond this one: the last id of the page before.
        """
        if type(limit) is not int or limit < 1:
            raise InvalidArgument(f"limit is {limit!r}: expected an int of at least 1")
        tree = filters.parse(filter)
        condition, bindings = filters.compile_filter(tree, "doc") if tree else ("1", [])
        after = "" if after is None else check_id(after)
        rows = mappings.find_documents(
            self._connection(), self.name, condition, bindings, after, limit
        )
        return [_document(row) for row in rows]

    def __repr__(self):
        return f"Documents({self.name!r})"


def put_document(unit, name, id, doc, if_revision=None):
    """Write one document and its event; `doc` is JSON bytes."""
    _check_revision(unit, name, id, if_revision)
    revision = unit.head.next_offset
    mappings.write_document(unit.connection, DocumentRow(name, id, revision, doc))
    data = b'{%b,"revision":%d,"value":%b,"expires_at_ms":null}' % (
        _names(name, id),
        revision,
        doc,
    )
    unit.append("state_updated", key=event_key(name, id), collection=name, data=data)
    return WriteResult(revision, 1, revision)


def patch_document(unit, name, id, changes):
    """Merge `changes` into a document, write it and its event; return the `Document`."""
    row = mappings.read_document(unit.connection, name, id)
    if row is None:
        raise DocumentNotFound(name, id)
    merged = merge_patch(codec.decode(row.doc), changes)
    result = put_document(unit, name, id, codec.encode(merged, f"document {id!r}"))
    return Document(id, merged, result.revision)


def delete_document(unit, name, id, if_revision=None):
    """Remove one document and append its event; nothing when it is missing."""
    if not _check_revision(unit, name, id, if_revision):
        return WriteResult(unit.head.offset, 0)
    mappings.delete_document(unit.connection, name, id)
    data = b'{%b,"reason":"explicit"}' % _names(name, id)
    offset = unit.append("state_deleted", key=event_key(name, id), collection=name, data=data)
    return WriteResult(offset, 1)


def merge_patch(target, patch):
    """Return `target` with a JSON merge patch applied (RFC 7396); neither is changed."""
    if not isinstance(patch, dict):
        return patch
    merged = dict(target) if isinstance(target, dict) else {}
    for name, value in patch.items():
        if value is None:
            merged.pop(name, None)
        else:
            merged[name] = merge_patch(merged.get(name), value)
    return merged


def event_key(name, id):
    """Return the key a document's events carry."""
    return f"doc:{name}:{id}"


def _names(name, id):
    return b'"key":%b,"collection":%b,"id":%b' % (
        msgspec.json.encode(event_key(name, id)),
        msgspec.json.encode(name),
        msgspec.json.encode(id),
    )


def _check_revision(unit, name, id, if_revision):
    """Return whether the document exists; raise when it is not at `if_revision`."""
    actual = mappings.document_revision(unit.connection, name, id) or 0
    if if_revision is not None and if_revision != actual:
        raise RevisionConflict(event_key(name, id), if_revision, actual)
    return actual > 0


def _document(row):
    return Document(row.id, codec.decode(row.doc), row.revision)
