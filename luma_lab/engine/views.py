"""What searches look at: per collection, the committed rows, which of them live, the index.

A view is moved forward by the follower only. A snapshot of it stays true for as long as it
is held: new rows lie beyond its end, and marks of death go into a copy.
"""

import logging
import threading
from typing import Any, NamedTuple

import numpy as np

from luma_lab.engine.point_cache import PointCache
from luma_lab.errors import CorruptStore, LumaError, RowsGone, StoreClosed
from luma_lab.files import DISK
from luma_lab.store import catalog, mappings
from luma_lab.store.matrix import Matrix, damaged_blocks

VERIFY_FIRST_BYTES = 64 << 20
log = logging.getLogger(__name__)


class Matrices:
    """The matrix files of a lab directory, each opened once."""

    def __init__(self, path, disk=DISK):
        self.path = path
        self.disk = disk
        self._open = {}
        self._closed = False
        self._lock = threading.Lock()
        self._check_lock = threading.Lock()

    def directory(self, uid):
        """Return ``collections/<uid>``."""
        return self.path / "collections" / str(uid)

    def of(self, uid, generation, dim):
        """Return the `Matrix` of a collection's generation."""
        key = (uid, generation, dim)
        with self._lock:
            if key not in self._open:
                if self._closed:
                    raise StoreClosed(f"the lab at {self.path} is closed: open it again")
                file = self.directory(uid) / f"vectors-{generation}.f32"
                self._open[key] = Matrix(file, dim, self.disk)
            return self._open[key]

    def checked(self, connection, row):
        """Return the `Matrix` of a catalog row, for reading.

        On first use the rows are compared with their checksums, large files in the background.

        Parameters
        ----------
        connection : apsw.Connection
            Inside the transaction that read `row`.

        Raises
        ------
        CorruptStore
            The rows are damaged or gone.
        """
        matrix = self.of(row.uid, row.generation, row.dim)
        if not matrix.checked:
            self._check(connection, row, matrix)
        if matrix.damage is not None:
            raise CorruptStore(matrix.damage)
        return matrix

    def _check(self, connection, row, matrix):
        with self._check_lock:
            if matrix.checked:
                return
            blocks = catalog.read_blocks(connection, row.uid, row.generation)
            if row.rows * row.dim * 4 <= VERIFY_FIRST_BYTES:
                _compare(matrix, row, blocks)
            else:
                matrix.rows(row.rows)  # mapped from now on, should the file go
                threading.Thread(
                    target=_compare, args=(matrix, row, blocks), name="luma-verify", daemon=True
                ).start()
            matrix.checked = True

    def forget(self, uid, before=None):
        """Close the files of a dropped collection, or of its generations before one."""
        with self._lock:
            old = [k for k in self._open if k[0] == uid and (before is None or k[1] < before)]
            for key in old:
                self._open.pop(key).close()

    def close(self):
        """Close every file."""
        with self._lock:
            self._closed = True
            for matrix in self._open.values():
                matrix.close()
            self._open.clear()


class Snapshot(NamedTuple):
    """A collection at one offset; `live` is a bool array of shape (rows,).

    `points` moves on with the view.
    """

    row: catalog.CollectionRow
    vectors: np.ndarray
    live: np.ndarray
    live_count: int
    index: Any
    index_name: str | None
    indexed_rows: int
    dead_indexed: int
    dead_tail: int
    offset: int
    points: PointCache


class View:
    """A collection's state in memory, as of the offset `applied`.

    Parameters
    ----------
    connection : apsw.Connection
        Inside the read transaction whose head is `applied`.
    points : luma_lab.engine.point_cache.PointCache
    """

    def __init__(self, connection, row, matrix, applied, points):
        self.row = row
        self.matrix = matrix
        self.applied = applied
        self._points = points
        self._taken = None  # the last snapshot, while it is the present state
        self.rows = row.rows
        self.index = None
        self.index_name = None
        self.indexed_rows = 0
        self.dead_indexed = 0
        alive = np.asarray(mappings.live_rows(connection, row.uid), dtype=np.int64)
        self._live = np.zeros(max(1024, self.rows), dtype=bool)
        self._live[alive] = True
        self.live_count = len(alive)
        self._held = False

    def apply(self, offset, change):
        """Absorb a `PointChange` with a log offset after `applied`."""
        if change.gen != self.row.generation:
            return  # rows of another generation: this view is at its end
        self._taken = None
        if change.row >= 0:
            if change.row < self.rows:
                self._points.forget(change.row, offset)
            if change.row >= len(self._live):
                wider = np.zeros(max(change.row + 1, 2 * len(self._live)), dtype=bool)
                wider[: self.rows] = self._live[: self.rows]
                self._live, self._held = wider, False
            if not self._live[change.row]:
                self._live[change.row] = True
                self.live_count += 1
            self.rows = max(self.rows, change.row + 1)
        if change.old >= 0 and self._live[change.old]:
            self._points.forget(change.old, offset)
            if self._held:
                self._live, self._held = self._live.copy(), False
            self._live[change.old] = False
            self.live_count -= 1
            if change.old < self.indexed_rows:
                self.dead_indexed += 1

    def use_index(self, index, name, rows):
        """Search `index`, which covers the first `rows` rows, from now on (None: exact)."""
        self._taken = None
        self.index, self.index_name = index, name
        self.indexed_rows = rows if index is not None else 0
        self.dead_indexed = self.indexed_rows - int(self._live[: self.indexed_rows].sum())

    @property
    def taken(self):
        """The last snapshot while it is the present state and sound, or None."""
        taken = self._taken
        if taken is None or taken.offset != self.applied or taken.row is not self.row:
            return None
        return taken if self.matrix.damage is None else None

    def snapshot(self):
        """Return the present state; raise `CorruptStore` when the rows are known damaged."""
        if self.matrix.damage is not None:
            raise CorruptStore(self.matrix.damage)
        taken = self.taken
        if taken is not None:
            return taken
        self._held = True
        dead = self.rows - self.live_count
        self._taken = Snapshot(
            self.row,
            self.matrix.rows(self.rows),
            self._live[: self.rows],
            self.live_count,
            self.index,
            self.index_name,
            self.indexed_rows,
            self.dead_indexed,
            dead - self.dead_indexed,
            self.applied,
            self._points,
        )
        return self._taken


def _compare(matrix, row, blocks):
    try:
        damaged = damaged_blocks(matrix.rows(row.rows), blocks)
        if damaged:
            matrix.damage = (
                f"collection {row.name!r}: block {damaged[0]} of {matrix.path.name} "
                "does not match its checksum; its vectors are not served. "
                "Drop the collection and load it again, or restore a backup"
            )
    except RowsGone as error:
        # Lost, or compacted away since `row` was read: who asked will know.
        raise RowsGone(f"collection {row.name!r}: {error}") from None
    except LumaError as error:
        matrix.damage = f"collection {row.name!r}: {error}"
    if matrix.damage:
        log.error("%s", matrix.damage)
