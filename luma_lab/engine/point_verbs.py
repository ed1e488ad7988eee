"""Reading and writing points by id: the same verbs on a lab and inside a transaction."""

from functools import partial

from luma_lab import codec
from luma_lab.engine import filters, meta_indexes, points
from luma_lab.engine.points import KEEP
from luma_lab.errors import InvalidArgument, LumaError, RowsGone, StoreClosed, UnknownName
from luma_lab.store import catalog, mappings
from luma_lab.store.database import luma_errors
from luma_lab.types import Point

SCROLL_LIMIT = 100
VERBS = ("upsert", "add", "update", "delete")


class PointVerbs:
    """Reading and writing points by id, on a lab or inside a transaction.

    Parameters
    ----------
    name : str
    apply : callable
        Runs an operation on a write transaction and returns its result.
    connection : callable
        Returns the connection to read with.
    matrices : luma_lab.engine.views.Matrices
    """

    def __init__(self, name, apply, connection, matrices):
        self.name = name
        self._apply = apply
        self._connection = connection
        self._matrices = matrices

    @property
    def dim(self):
        """Components per vector."""
        return self._row().dim

    @property
    def metric(self):
        """The metric, one of ``"cosine" "dot" "l2"``."""
        return self._row().metric

    def upsert(self, ids, vectors=None, metas=None):
        """Insert points, or replace those whose id is there.

        Parameters
        ----------
        ids : str, int, or sequence of them
            Each once. One id takes a vector of shape (dim,) and one meta.
        vectors : array of shape (n, dim)
            Anything `numpy.asarray` takes; stored as float32 exactly as sent. A collection with
            an embedder makes those that are left out of the metas' texts, outside transactions.
        metas : sequence of JSON values, optional

        Returns
        -------
        WriteResult
            `offset` of the last of n events, `count` n.

        Raises
        ------
        InvalidArgument, DimensionMismatch
            Naming the position or id; the whole batch is refused.
        """
        return self._write("upsert", ids, vectors, metas)

    def add(self, ids, vectors=None, metas=None):
        """Insert points; raise `AlreadyExists` if an id is there. See :meth:`upsert`."""
        return self._write("add", ids, vectors, metas)

    def update(self, ids, vectors=None, metas=KEEP):
        """Change points that are there; what is left out stays. See :meth:`upsert`.

        Raises
        ------
        PointNotFound
            An id is not there; nothing is changed.
        """
        return self._write("update", ids, vectors, metas)

    def delete(self, ids=None, *, filter=None):
        """Delete points by id (one or many) or by filter, in one commit.

        Returns
        -------
        WriteResult
            `count` tells how many were there.

        Raises
        ------
        InvalidArgument
            Not exactly one of the two, or a filter that says nothing.
        """
        if (ids is None) == (filter is None):
            raise InvalidArgument("delete takes ids or a filter: expected exactly one of them")
        if filter is None:
            return self._apply(partial(points.delete_points, name=self.name, ids=_id_list(ids)))
        tree = filters.parse(filter)
        if tree is None:
            raise InvalidArgument(
                "the filter is empty and would delete every point: say which, or drop the "
                "collection"
            )
        return self._apply(partial(points.delete_where, name=self.name, tree=tree))

    @luma_errors
    def count(self, filter=None):
        """Return how many points there are, or how many match a filter."""
        tree = filters.parse(filter)
        with self._reading() as (connection, row):
            if tree is None:
                return row.live
            return mappings.count_points(connection, *meta_indexes.where_points(tree, row))

    def write_each(self, verb, items):
        """Apply items in one commit, in order, each for itself.

        Parameters
        ----------
        verb : {"upsert", "add", "update", "delete"}
        items : list of (id, vector or None, meta or KEEP)

        Returns
        -------
        list of WriteResult or LumaError
        """
        if verb not in VERBS:
            raise UnknownName("verb", verb, VERBS)
        row = self._row()
        batches = []
        for id, vector, meta in items:
            try:
                if verb == "delete":
                    batches.append(points.Batch([points.check_id(id)], None, []))
                else:
                    batches.append(self._batch(row, verb, id, vector, meta))
            except LumaError as error:
                batches.append(error)
        return self._apply(partial(points.write_each, name=self.name, items=batches, verb=verb))

    def get(self, id):
        """Return the `Point` called `id`, or None."""
        return self.get_many([id])[0]

    @luma_errors
    def get_many(self, ids):
        """Return a list with the `Point` or None of each id, in order."""
        ids = _id_list(ids)

        def read(connection, row):
            found = [mappings.read_point(connection, row.uid, id) for id in ids]
            matrix = self._matrices.checked(connection, row)
            return [None if p is None else _point(matrix, p) for p in found]

        return self._read(read)

    @luma_errors
    def scroll(self, after=None, limit=SCROLL_LIMIT, *, filter=None):
        """Return (points, next): a page in byte order of id, and the `after` of the next page.

        Parameters
        ----------
        after : str, optional
            Only ids beyond this one.
        limit : int
        filter : dict or str, optional
            Only points whose meta matches.

        Returns
        -------
        points : list of Point
        next : str or None
            None when this was the last page.
        """
        if type(limit) is not int or limit < 1:
            raise InvalidArgument(f"limit is {limit!r}: expected an int of at least 1")
        tree = filters.parse(filter)
        after = "" if after is None else points.check_id(after)

        def read(connection, row):
            where = filters.compile_filter(tree, "meta") if tree else ("1", ())
            found = mappings.scan_points(connection, row.uid, after, limit + 1, *where)
            matrix = self._matrices.checked(connection, row)
            page = [_point(matrix, p) for p in found[:limit]]
            return page, page[-1].id if len(found) > limit else None

        return self._read(read)

    @luma_errors
    def __contains__(self, id):
        row = self._row()
        return mappings.find_row(self._connection(), row.uid, points.check_id(id)) is not None

    def _write(self, verb, ids, vectors, metas):
        batch = self._batch(self._row(), verb, ids, vectors, metas)
        return self._apply(partial(points.write_points, name=self.name, batch=batch, verb=verb))

    def _batch(self, row, verb, ids, vectors, metas):
        return points.check_batch(
            ids,
            vectors,
            metas,
            dim=row.dim,
            collection=self.name,
            keep_vectors=verb == "update",
        )

    @luma_errors
    def _row(self):
        return catalog.require(self._connection(), self.name)

    def _read(self, read):
        """Return ``read(connection, row)`` of one read transaction.

        Rows that were compacted away after it began, by whatever process, are read in another.
        """
        seen = None
        while True:
            with self._reading() as (connection, row):
                try:
                    return read(connection, row)
                except (RowsGone, StoreClosed):
                    if seen == (row.uid, row.generation):
                        raise
                seen = row.uid, row.generation

    def _reading(self):
        return _Reading(self._connection(), self.name)


class _Reading:
    """A read transaction with the collection's catalog row."""

    def __init__(self, connection, name):
        self._connection, self._name = connection, name
        self._ours = not connection.in_transaction

    def __enter__(self):
        if self._ours:
            self._connection.execute("BEGIN")
        try:
            return self._connection, catalog.require(self._connection, self._name)
        except BaseException:
            self.__exit__()
            raise

    def __exit__(self, *_):
        if self._ours:
            self._connection.execute("COMMIT")


def _point(matrix, found):
    return Point(found.id, matrix.read(found.row), codec.decode(found.meta))


def _id_list(ids):
    return [points.check_id(id) for id in points.id_list(ids)]
