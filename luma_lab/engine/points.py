"""What a write does to points: rows appended, old rows dead, events in the same transaction."""

from typing import NamedTuple

import msgspec
import numpy as np

from luma_lab import codec
from luma_lab.engine import meta_indexes, stamps
from luma_lab.errors import (
    AlreadyExists,
    DimensionMismatch,
    InvalidArgument,
    LumaError,
    PointNotFound,
)
from luma_lab.store import catalog, mappings
from luma_lab.store.log import PointChange, point_change_encoder
from luma_lab.store.mappings import PointRow
from luma_lab.store.matrix import extend_checksums
from luma_lab.types import LARGEST_SQUARE, WriteResult

MAX_ID_BYTES = 512
KEEP = object()  # "leave the meta as it is", which None, a legal meta, can't say
EVENT_TYPES = {"add": "vector_added", "upsert": "vector_upserted", "update": "vector_updated"}


class Batch(NamedTuple):
    """Checked points: `vectors` float32 (n, dim) or None, `metas` JSON bytes or None to keep.

    `embedded` is the serial of the stamp by which the vectors were made of the metas' texts,
    None where the caller gave them.
    """

    ids: list[str]
    vectors: np.ndarray | None
    metas: list[bytes | None]
    embedded: int | None = None


def check_id(id, where=""):
    """Return an id as str; ints are accepted and become their decimal string.

    Raises
    ------
    InvalidArgument
        Another type, empty, or more than 512 bytes of UTF-8.
    """
    if isinstance(id, (int, np.integer)) and not isinstance(id, bool):
        return str(int(id))
    if not isinstance(id, str):
        raise InvalidArgument(f"id{where} is a {type(id).__name__}: expected a str or an int")
    try:
        size = len(id.encode())
    except UnicodeEncodeError:
        raise InvalidArgument(f"id{where} {id!r} is not valid Unicode text") from None
    if not 1 <= size <= MAX_ID_BYTES:
        raise InvalidArgument(
            f"id{where} too long: {size} bytes, at most {MAX_ID_BYTES}"
            if size
            else f"id{where} is empty: expected at least one character"
        )
    return str.__str__(id)  # numpy.str_ and the like become plain str


def is_single(ids):
    """Return whether `ids` is one id and not a sequence of them."""
    return isinstance(ids, (str, bytes, int, np.integer))


def id_list(ids):
    """Return one id or many as a list, not yet checked."""
    if is_single(ids):
        return [ids]
    try:
        return list(ids)
    except TypeError:
        raise InvalidArgument(
            f"ids is a {type(ids).__name__}: expected a str, an int or a sequence of them"
        ) from None


def check_batch(ids, vectors, metas, *, dim, collection, keep_vectors=False):
    """Check the arguments of a write and return them as a `Batch`.

    Parameters
    ----------
    ids : str, int, or sequence of them
        One id takes a vector of shape (dim,) and one meta.
    vectors : array of shape (n, dim), or (dim,) for one id; None keeps what is stored
    metas : JSON values, one per id; None means null for each, `KEEP` keeps what is stored
    """
    single = is_single(ids)
    ids = id_list(ids)
    if not ids:
        raise InvalidArgument("the batch is empty: expected at least one id")
    checked, seen = [], {}
    for position, id in enumerate(ids):
        id = check_id(id, "" if single else f" at position {position}")
        if id in seen:
            raise InvalidArgument(
                f"id {id!r} is at positions {seen[id]} and {position}: "
                "an id may be in a batch only once"
            )
        seen[id] = position
        checked.append(id)
    if vectors is None:
        if not keep_vectors:
            raise InvalidArgument("vectors are missing: expected one vector for each id")
    else:
        vectors = check_vectors(vectors, len(ids), dim, collection, single)
    return Batch(checked, vectors, _check_metas(metas, len(ids), single))


def check_vectors(vectors, count, dim, collection, single=False):
    """Return `vectors` as a contiguous float32 array of shape (count, dim).

    Raises
    ------
    DimensionMismatch
    InvalidArgument
        Not numbers, another count, NaN or infinity (the row is named).
    """
    try:
        array = np.asarray(vectors)
        if array.dtype.kind == "O":
            array = np.asarray(vectors, dtype=np.float64)
        if array.dtype.kind not in "fiub":  # text and dates would be turned into numbers
            raise TypeError
    except (TypeError, ValueError, OverflowError):
        raise InvalidArgument(
            f"vectors are not a rectangular array of numbers: expected shape ({count}, {dim})"
        ) from None
    if array.ndim == 1 and (single or (count == 1 and array.size == dim)):
        array = array[None, :]
    if array.ndim != 2:
        shape = f"({dim},)" if single else f"({count}, {dim})"
        raise InvalidArgument(f"vectors have shape {array.shape}: expected {shape}")
    if len(array) != count:
        raise InvalidArgument(f"{len(array)} vectors for {count} ids: expected one for each")
    if array.shape[1] != dim:
        raise DimensionMismatch(array.shape[1], dim, f"collection {collection!r}")
    with np.errstate(over="ignore"):
        array = np.ascontiguousarray(array, dtype=np.float32)
    flat = array.reshape(-1)
    with np.errstate(over="ignore", invalid="ignore"):
        # One fast sum clears nearly every batch; the slow look only finds whom to name.
        if not np.dot(flat, flat) <= LARGEST_SQUARE:
            _refuse_bad_vector(array, single)
    return array


def _refuse_bad_vector(array, single):
    finite = np.isfinite(array).all(axis=1)
    if not finite.all():
        row = int(np.argmin(finite))
        bad = array[row][~np.isfinite(array[row])][0]
        where = "vector" if single else f"vector at position {row}"
        raise InvalidArgument(f"{where} holds {bad}: expected finite float32 numbers")
    squares = np.einsum("ij,ij->i", array, array, dtype=np.float64)
    if squares.max(initial=0.0) > LARGEST_SQUARE:
        row = int(squares.argmax())
        where = "vector" if single else f"vector at position {row}"
        raise InvalidArgument(
            f"{where} has squared length {squares[row]:.3g}: expected at most "
            f"{LARGEST_SQUARE:.0e}, so that distances fit float32"
        )


def write_points(unit, name, batch, verb):
    """Apply a checked batch; all of it or, by raising, none.

    Parameters
    ----------
    verb : {"add", "upsert", "update"}

    Raises
    ------
    CollectionNotFound, AlreadyExists, PointNotFound, DimensionMismatch
    """
    connection = unit.connection
    row = catalog.require(connection, name)
    if batch.vectors is not None and batch.vectors.shape[1] != row.dim:
        raise DimensionMismatch(batch.vectors.shape[1], row.dim, f"collection {name!r}")
    old = _old_points(unit, row, batch, verb)
    if row.embedder is not None or batch.embedded is not None:
        stamps.check_write(row, batch, old)
    count = len(batch.ids)
    moves = batch.vectors is not None
    if moves:
        unit.write_vectors(row, batch.vectors)
        _write_checksums(unit, row, batch.vectors)
    first = unit.head.next_offset
    points, changes = [], []
    for i, id in enumerate(batch.ids):
        before = old.get(id)
        meta = batch.metas[i]
        if meta is None:
            meta = before.meta if before is not None else b"null"
        place = row.rows + i if moves else before.row
        points.append(PointRow(place, id, first + i, meta))
        died = before.row if moves and before is not None else -1
        changes.append(
            point_change_encoder.encode(
                PointChange(row.uid, row.generation, id, place, died, msgspec.Raw(meta))
            )
        )
    mappings.delete_points(connection, row.uid, [before.row for before in old.values()])
    mappings.write_points(connection, row.uid, points)
    unit.append_many(EVENT_TYPES[verb], name, changes)
    catalog.count_rows(
        connection,
        row.uid,
        row.rows + (count if moves else 0),
        row.live + count - len(old),
        row.upserts + count,
        unit.now_ms,
    )
    return WriteResult(first + count - 1, count)


def delete_points(unit, name, ids, *, missing_ok=True):
    """Delete points by id; the result's count tells how many were there."""
    row = catalog.require(unit.connection, name)
    rows, changes = [], []
    for id in dict.fromkeys(ids):
        place = mappings.find_row(unit.connection, row.uid, id)
        if place is None:
            if not missing_ok:
                raise PointNotFound(name, id)
            continue
        rows.append(place)
        changes.append(
            point_change_encoder.encode(PointChange(row.uid, row.generation, id, -1, place))
        )
    if not rows:
        return WriteResult(unit.head.offset, 0)
    mappings.delete_points(unit.connection, row.uid, rows)
    unit.append_many("vector_deleted", name, changes)
    catalog.count_rows(
        unit.connection, row.uid, row.rows, row.live - len(rows), row.upserts, unit.now_ms
    )
    return WriteResult(unit.head.offset, len(rows))


def delete_where(unit, name, tree):
    """Delete the points whose meta matches a filter; the result's count tells how many."""
    row = catalog.require(unit.connection, name)
    ids = mappings.ids_where(unit.connection, *meta_indexes.where_points(tree, row))
    return delete_points(unit, name, ids)


def write_each(unit, name, items, verb):
    """Apply items one by one, in order, each all or nothing; errors are answers too.

    Parameters
    ----------
    items : list of Batch or LumaError
        A delete takes batches of ids alone.
    """
    catalog.require(unit.connection, name)
    results = []
    for item in items:
        if isinstance(item, LumaError):
            results.append(item)
            continue
        try:
            if verb == "delete":
                results.append(
                    unit.run(lambda u, ids=item.ids: delete_points(u, name, ids, missing_ok=False))
                )
            else:
                results.append(unit.run(lambda u, batch=item: write_points(u, name, batch, verb)))
        except LumaError as error:
            results.append(error)
    return results


def _old_points(unit, row, batch, verb):
    old = {}
    for id in batch.ids:
        before = mappings.read_point(unit.connection, row.uid, id)
        if before is not None:
            if verb == "add":
                raise AlreadyExists("id", id)
            old[id] = before
        elif verb == "update":
            raise PointNotFound(row.name, id)
    return old


def _write_checksums(unit, row, vectors):
    blocks = extend_checksums(
        lambda block: catalog.read_block(unit.connection, row.uid, row.generation, block),
        row.rows,
        vectors,
    )
    catalog.write_blocks(unit.connection, row.uid, row.generation, blocks)


def _check_metas(metas, count, single):
    if metas is KEEP:
        return [None] * count
    if metas is None:
        return [b"null"] * count
    if single:
        metas = [metas]
    elif isinstance(metas, (dict, str)) or not hasattr(metas, "__len__"):
        raise InvalidArgument(f"metas is a {type(metas).__name__}: expected a list, one per id")
    if len(metas) != count:
        raise InvalidArgument(f"{len(metas)} metas for {count} ids: expected one for each")
    return [
        None if meta is KEEP else codec.encode(meta, "meta" if single else f"meta at position {i}")
        for i, meta in enumerate(metas)
    ]
