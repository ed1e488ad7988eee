"""The vectors a disk index is built of: in memory or mapped, read part by part."""

import mmap

import numpy as np

from luma_lab.errors import InvalidArgument
from luma_lab.index.protocol import as_vectors
from luma_lab.index.rows import query_rows, read_only

BYTE_TYPES = (np.uint8, np.int8)


class Source:
    """Checked vectors (n, dim) that keep their type if it is float32, uint8 or int8.

    Parameters
    ----------
    vectors : array
    dim : int
    budget : int or None
        Bytes that converting them may take.

    Raises
    ------
    DimensionMismatch, InvalidArgument
    """

    def __init__(self, vectors, dim, budget):
        mapped = vectors if isinstance(vectors, np.memmap) else None
        # Pages of a shared mapping can be given back at any time; of others they may be changed.
        self._mapping = mapped._mmap if mapped is not None and mapped.mode in ("r", "r+") else None
        array = np.asarray(vectors)
        is_plain = array.ndim == 2 and array.flags.c_contiguous
        if is_plain and array.dtype in BYTE_TYPES and array.shape[1] == dim:
            self.array = read_only(array)
        elif is_plain and array.dtype == np.float32:
            self._check(array, dim)
            self.array = read_only(array)
        else:
            size = array.size * 4
            if budget is not None and size > budget // 4:
                raise InvalidArgument(
                    f"vectors have dtype {array.dtype}: a float32 copy of them takes {size} bytes, "
                    f"too many for build_memory_bytes={budget}; expected a C-contiguous array of "
                    "float32, uint8 or int8"
                )
            self.array = read_only(as_vectors(vectors, dim))
        self.dtype = self.array.dtype.name

    def _check(self, array, dim):
        step = max(1, (1 << 22) // max(1, 4 * array.shape[1]))
        for start in range(0, max(1, len(array)), step):
            try:
                as_vectors(array[start : start + step], dim)
            except InvalidArgument:
                as_vectors(array, dim)  # which names the row by its number among all
                raise
            self.release()

    def __len__(self):
        return len(self.array)

    def raw(self, start, stop):
        """Return rows as they are."""
        return self.array[start:stop]

    def floats(self, start, stop):
        """Return rows as float32, C-contiguous."""
        return np.ascontiguousarray(self.array[start:stop], np.float32)

    def sample(self, rows):
        """Return chosen rows as float32."""
        taken = self.array[rows].astype(np.float32)
        self.release()
        return taken

    def release(self):
        """Let the pages of a mapped file go, which otherwise count as this process's memory."""
        if self._mapping is not None:
            self._mapping.madvise(mmap.MADV_DONTNEED)


def measured(rows, metric):
    """Return float32 rows as graphs compare them: of length one under "cosine"."""
    return query_rows(rows, metric, rows.shape[1])
