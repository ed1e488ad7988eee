"""Matrix files: float32 rows exactly as sent, written by position, never shrunk.

A row is written inside the database transaction that names it, at ``row * dim * 4``, and
synced before the commit. A crash in between leaves orphan bytes beyond the committed rows;
the next writer writes over them. Readers map committed rows only.
"""

import os
import threading
import zlib

import numpy as np

from luma_lab.errors import CorruptStore, RowsGone, StoreClosed
from luma_lab.files import DISK

BLOCK_ROWS = 1024
FIRST_ROOM_BYTES = 1 << 16
LARGEST_STEP_BYTES = 1 << 26


class Matrix:
    """The rows of one collection's generation.

    Parameters
    ----------
    path : path
        ``collections/<uid>/vectors-<generation>.f32``.
    dim : int

    Attributes
    ----------
    checked : bool
        Whether this process has compared the rows with their checksums.
    damage : str or None
        What that found, in words.
    """

    def __init__(self, path, dim, disk=DISK):
        self.path = path
        self.dim = dim
        self.checked = False
        self.damage = None
        self._disk = disk
        self._row_bytes = dim * 4
        self._lock = threading.RLock()
        self._closed = False
        self._descriptor = None
        self._map = None

    def write(self, row, vectors):
        """Write `vectors` (float32, (n, dim)) from row `row` on; not yet synced."""
        descriptor = self._open(create=True)
        end = (row + len(vectors)) * self._row_bytes
        size = os.fstat(descriptor).st_size
        if end > size:
            step = min(max(size, FIRST_ROOM_BYTES), LARGEST_STEP_BYTES)
            self._disk.extend(descriptor, max(end, size + step))
        self._disk.write_at(descriptor, np.ascontiguousarray(vectors), row * self._row_bytes)

    def sync(self):
        """Return when every written row is on stable storage."""
        self._disk.sync(self._open(create=False))

    def is_own(self):
        """Return whether the open file is still the one that lies at the path."""
        with self._lock:
            if self._descriptor is None:
                return False
            try:
                return os.path.samestat(os.fstat(self._descriptor), os.stat(self.path))
            except FileNotFoundError:
                return False

    def read(self, row):
        """Return a copy of one row, committed or not."""
        with self._lock:  # a descriptor closed meanwhile could by now be another file's
            data = os.pread(self._open(create=False), self._row_bytes, row * self._row_bytes)
        if len(data) != self._row_bytes:
            raise CorruptStore(f"{self.path}: row {row} lies beyond the end of the file")
        return np.frombuffer(data, dtype=np.float32)

    def rows(self, count):
        """Return the first `count` rows as a read-only float32 array of shape (count, dim)."""
        if count == 0:
            return np.empty((0, self.dim), np.float32)
        with self._lock:
            if self._map is None or len(self._map) < count:
                self._refuse_closed()
                try:
                    room = os.stat(self.path).st_size // self._row_bytes
                except FileNotFoundError as error:
                    raise RowsGone(f"{self.path}: {error.strerror}") from None
                except OSError as error:
                    raise CorruptStore(f"{self.path}: {error.strerror}") from None
                if room < count:
                    raise CorruptStore(f"{self.path}: holds {room} rows, expected {count}")
                # As a plain array: slicing a memmap costs microseconds.
                self._map = np.asarray(
                    np.memmap(self.path, np.float32, "r", shape=(room, self.dim))
                )
            return self._map[:count]

    def close(self):
        """Give back the file descriptor; mappings live on while arrays use them."""
        with self._lock:
            self._closed = True
            if self._descriptor is not None:
                self._disk.close(self._descriptor)
            self._descriptor = self._map = None

    def _refuse_closed(self):
        if self._closed:
            raise StoreClosed(
                f"{self.path} is closed, with its lab or because its collection was dropped"
            )

    def _open(self, create):
        if self._descriptor is None:
            with self._lock:
                self._refuse_closed()
                if self._descriptor is None:
                    if create and not self.path.parent.is_dir():
                        self.path.parent.mkdir(parents=True, exist_ok=True)
                        self._disk.sync_directory(self.path.parent.parent.parent)
                        self._disk.sync_directory(self.path.parent.parent)
                    fresh = create and not self.path.exists()
                    if not create and not self.path.exists():
                        raise RowsGone(f"{self.path}: No such file or directory")
                    self._descriptor = self._disk.open(self.path, create=create)
                    if fresh:
                        self._disk.sync_directory(self.path.parent)
        return self._descriptor


def extend_checksums(blocks, row, vectors):
    """Return the block checksums changed by appending `vectors` at `row`.

    Parameters
    ----------
    blocks : callable
        ``blocks(block) -> (rows, crc)`` of a block as stored, or None.
    row : int
        The number of committed rows before.
    vectors : float32 array of shape (n, dim)

    Returns
    -------
    list of (block, rows, crc)
        A CRC32 goes on where it stopped, so a part-filled block is never read again.
    """
    changed = []
    data = np.ascontiguousarray(vectors)
    start = 0
    while start < len(data):
        block, used = divmod(row + start, BLOCK_ROWS)
        take = min(BLOCK_ROWS - used, len(data) - start)
        before = blocks(block) if used else (0, 0)
        crc = zlib.crc32(memoryview(data[start : start + take]).cast("B"), before[1])
        changed.append((block, used + take, crc))
        start += take
    return changed


def damaged_blocks(matrix_rows, blocks):
    """Return the numbers of blocks whose rows do not match their checksum.

    Parameters
    ----------
    matrix_rows : float32 array of shape (rows, dim)
    blocks : iterable of (block, rows, crc)
    """
    damaged, covered = [], 0
    for block, rows, crc in blocks:
        start = block * BLOCK_ROWS
        part = matrix_rows[start : start + rows]
        covered += rows
        if len(part) != rows or zlib.crc32(memoryview(part).cast("B")) != crc:
            damaged.append(block)
    if covered != len(matrix_rows):
        damaged.append(-1)
    return damaged
