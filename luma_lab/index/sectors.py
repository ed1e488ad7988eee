"""The files of a disk index: node records in sectors of 4 KiB, and what writes and reads them."""

import hashlib
import mmap
import os
import weakref
from pathlib import Path

import numpy as np

from luma_lab.errors import CorruptStore, StorageError
from luma_lab.files import CHUNK_BYTES, storage_error
from luma_lab.index.rows import read_only
from luma_lab.kernels.crc import CRC_BYTES
from luma_lab.kernels.record import FLOAT32, INT8, UINT8, Layout, is_sound, seal_blocks

SECTOR_BYTES = 4096
KINDS = {"float32": FLOAT32, "uint8": UINT8, "int8": INT8}
WRITE_BLOCK_BYTES = 1 << 20


def make_layout(rows, dim, dtype, max_degree):
    """Return the `Layout` of nodes with vectors of `dtype`: blocks of as few sectors as hold one.

    Parameters
    ----------
    dtype : str
        One of `KINDS`.
    """
    edges_at = -(-dim * np.dtype(dtype).itemsize // 4) * 4
    record_bytes = edges_at + 4 * (max_degree + 1)
    block_bytes = -(-(record_bytes + CRC_BYTES) // SECTOR_BYTES) * SECTOR_BYTES
    per_block = (block_bytes - CRC_BYTES) // record_bytes
    return Layout(
        rows, dim, KINDS[dtype], max_degree, edges_at, record_bytes, per_block, block_bytes
    )


def count_blocks(layout):
    """Return how many blocks the nodes take."""
    return -(-layout.rows // layout.per_block)


def file_digest():
    """Return the hash that names a file and proves its bytes.

    No CRC-32: node records carry their own, which makes that of the whole the same for all.
    """
    return hashlib.blake2b(digest_size=8)


class StreamedFile:
    """A file written front to back under a temporary name, which gets its digest as its name.

    As a context manager: what was not finished is gone at the end.

    Parameters
    ----------
    directory : Path
    stem : str
    disk : luma_lab.files.Disk
    """

    def __init__(self, directory, stem, disk):
        self._directory, self._stem, self._disk = Path(directory), stem, disk
        self.path = self._directory / f".{stem}.tmp"
        self.size = 0
        self._digest = file_digest()
        self._descriptor = disk.open(self.path)
        os.ftruncate(self._descriptor, 0)

    def __enter__(self):
        return self

    def __exit__(self, *error):
        if self._descriptor is not None:
            self._disk.close(self._descriptor)
            self._descriptor = None
            self.path.unlink(missing_ok=True)

    def write(self, array):
        """Append the bytes of a C-contiguous array."""
        if not array.size:
            return
        data = memoryview(array).cast("B")
        self._digest.update(data)
        for start in range(0, len(data), CHUNK_BYTES):
            part = data[start : start + CHUNK_BYTES]
            self._disk.write_at(self._descriptor, part, self.size)
            self.size += len(part)

    def overwrite(self, array, offset):
        """Replace bytes of a file that is never finished."""
        self._disk.write_at(self._descriptor, array, offset)

    def mapped(self, dtype, shape):
        """Return what was written so far as a read-only array that stays on disk."""
        if not self.size:
            return read_only(np.empty(shape, dtype))
        return read_only(np.memmap(self.path, dtype, "r", shape=shape))

    def finish(self):
        """Make the file durable under its name; return what a manifest says of it."""
        self._disk.sync(self._descriptor)
        digest = self._digest.hexdigest()
        name = f"{self._stem}-{digest}.bin"
        self._disk.rename(self.path, self._directory / name)
        self._disk.close(self._descriptor)
        self._descriptor = None
        return {"file": name, "bytes": self.size, "blake2b": digest}


def write_nodes(file, layout, parts):
    """Write node records to a `StreamedFile`.

    Parameters
    ----------
    parts : iterable of (vectors, edges)
        Of running nodes: (m, dim) in the layout's type and int32 (m, max_degree), padded with -1.
        All but the last hold whole blocks, see `part_rows`.
    """
    first = 0
    for vectors, edges in parts:
        count = -(-len(vectors) // layout.per_block)
        blocks = np.zeros((count, layout.block_bytes), np.uint8)
        records = np.zeros((count * layout.per_block, layout.record_bytes), np.uint8)
        rows = np.ascontiguousarray(vectors)
        size = rows.itemsize * layout.dim
        records[: len(rows), :size] = rows.view(np.uint8).reshape(len(rows), size)
        links = records[: len(rows), layout.edges_at :].view(np.int32)
        links[:, 0] = (edges >= 0).sum(axis=1)
        links[:, 1:] = edges
        used = layout.per_block * layout.record_bytes
        blocks[:, :used] = records.reshape(count, used)
        seal_blocks(blocks, first)
        file.write(blocks)
        first += count


def part_rows(layout):
    """Return how many rows at a time :func:`write_nodes` is best given: whole blocks."""
    return max(1, WRITE_BLOCK_BYTES // layout.block_bytes) * layout.per_block


class NodeFile:
    """An open file of node records.

    Parameters
    ----------
    path : Path
    layout : Layout
    direct : bool
        Read past the page cache (O_DIRECT) instead of mapping the file.

    Attributes
    ----------
    checked : uint8 array of shape (blocks,)
        Not 0 where a block was found sound since the file was opened.
    mapped : uint8 array
        The whole file; empty when `direct`.
    close : callable
        Closes the file; may be called twice, and is when nobody holds the object any more.
    """

    def __init__(self, path, layout, direct):
        self.path, self.layout = path, layout
        self.block_count = count_blocks(layout)
        self.checked = np.zeros(self.block_count, np.uint8)
        self.mapped = read_only(np.empty(0, np.uint8))
        expected = self.block_count * layout.block_bytes
        try:
            found = path.stat().st_size
            if found == expected:
                flags = os.O_RDONLY | os.O_CLOEXEC | (os.O_DIRECT if direct else 0)
                self.descriptor = os.open(path, flags)
                self.close = weakref.finalize(self, os.close, self.descriptor)
                if not direct and found:
                    self.mapped = read_only(np.memmap(path, np.uint8, "r"))
        except FileNotFoundError:
            raise CorruptStore(f"{path}: missing") from None
        except OSError as error:
            if direct:
                raise StorageError(
                    f"{path}: its file system refuses O_DIRECT ({error.strerror}): "
                    "open the index with reader='mmap'"
                ) from error
            raise storage_error(error, path) from error
        if found != expected:
            raise CorruptStore(f"{path}: {found} bytes, expected {expected}")

    def read(self, numbers):
        """Return the blocks of ascending `numbers`, checked: uint8 (m, block_bytes), read-only.

        Raises
        ------
        CorruptStore, StorageError
        """
        size = self.layout.block_bytes
        room = mmap.mmap(-1, max(1, len(numbers)) * size)  # starts at a page, as O_DIRECT wants
        blocks = np.frombuffer(room, np.uint8)[: len(numbers) * size].reshape(-1, size)
        # Neighbours are read at once.
        cuts = np.flatnonzero(np.diff(numbers) != 1) + 1
        for start, stop in zip([0, *cuts], [*cuts, len(numbers)], strict=True):
            if stop > start:
                self._fill(blocks[start:stop], int(numbers[start]))
        flat = read_only(blocks.reshape(-1))
        for i, number in enumerate(numbers.tolist()):
            if not self.checked[number]:
                if not is_sound(flat, i * size, number, self.layout):
                    raise self.damaged(number)
                self.checked[number] = 1
        return read_only(blocks)

    def _fill(self, blocks, first):
        view = memoryview(blocks).cast("B")
        offset = first * self.layout.block_bytes
        while view:
            try:
                done = os.preadv(self.descriptor, [view], offset)
            except OSError as error:
                raise storage_error(error, self.path) from error
            if done == 0:
                raise CorruptStore(f"{self.path}: ends before byte {offset + len(view)}")
            view, offset = view[done:], offset + done

    def damaged(self, block):
        """Return the `CorruptStore` of a block."""
        sectors = self.layout.block_bytes // SECTOR_BYTES
        first = block * sectors
        named = f"sector {first}" if sectors == 1 else f"sectors {first} to {first + sectors - 1}"
        return CorruptStore(f"{self.path}: {named} does not match its checksum or is no record")
