"""Which codes a disk index keeps in memory: the finest that its budget allows."""

import numpy as np

from luma_lab.errors import CorruptStore, InvalidArgument
from luma_lab.files import CHUNK_BYTES
from luma_lab.index.pq import PQQuantizer
from luma_lab.index.quantizer import Q4Quantizer, Q8Quantizer
from luma_lab.index.rows import aligned_empty, read_only
from luma_lab.index.sectors import file_digest

SAMPLE_ROWS = 16384
KINDS = {"q8": Q8Quantizer, "q4": Q4Quantizer, "pq": PQQuantizer}
CENTROID_BYTES = 1024  # a component, of product quantisation


def choose_quantizer(rows, dim, metric, budget, fixed, seed):
    """Return the quantizer with the longest codes that fit, not fitted yet.

    Parameters
    ----------
    budget : int or None
        Bytes that codes of all rows, the quantizer and `fixed` may take; None allows Q8.
    fixed : int
        Bytes that search holds whatever the codes are.

    Raises
    ------
    InvalidArgument
        Not even one byte a row fits.
    """
    left = None if budget is None else budget - fixed
    for kind in (Q8Quantizer, Q4Quantizer):
        made = kind(dim, metric)
        if left is None or rows * made.row_bytes + 4 * dim <= left:
            return made
    parts = (left - CENTROID_BYTES * dim) // max(1, rows)
    if parts < 1:
        least = fixed + CENTROID_BYTES * dim + rows
        raise InvalidArgument(
            f"search_memory_bytes={budget}: expected at least {least}, "
            f"which is one byte of code for each of {rows} rows and what is needed beside"
        )
    # The centroids of unevenly shared components are as wide as the widest part.
    parts = min(parts, dim)
    while parts > 1 and parts * -(-dim // parts) * CENTROID_BYTES + rows * parts > left:
        parts -= 1
    return PQQuantizer(dim, metric, parts=int(parts), seed=seed)


def sample_rows(count, dim, budget):
    """Return ascending row numbers to learn from, evenly spread, a small part of a budget."""
    most = SAMPLE_ROWS
    if budget is not None:
        most = max(256, min(most, budget // (16 * 4 * dim)))
    return np.linspace(0, count - 1, min(count, most)).astype(np.int64)


def describe(quantizer):
    """Return the name of a quantizer's codes as a manifest and people see it."""
    return {"kind": quantizer.KIND, "row_bytes": quantizer.row_bytes}


def restore_quantizer(kind, row_bytes, dim, metric, seed, arrays, check):
    """Return the quantizer a saved index was written with; `check` as in `Directory.load`."""
    parameters = {"dim": dim, "metric": metric}
    if kind == "pq":
        parameters |= {"parts": row_bytes, "seed": seed}
    return KINDS[kind]._restore(parameters, arrays, check)


def read_codes(path, entry, rows, quantizer):
    """Return the codes in a file, checked, in memory."""
    codes = aligned_empty((rows, quantizer.row_bytes), np.uint8)
    try:
        size = path.stat().st_size
        if size != codes.nbytes or size != entry["bytes"]:
            raise CorruptStore(f"{path}: {size} bytes, expected {codes.nbytes}")
        flat, digest = memoryview(codes.reshape(-1)), file_digest()
        with open(path, "rb", buffering=0) as stream:
            for start in range(0, size, CHUNK_BYTES):
                part = flat[start : start + CHUNK_BYTES]
                while part:
                    done = stream.readinto(part)
                    if not done:
                        raise CorruptStore(f"{path}: ends before its {size} bytes")
                    digest.update(part[:done])
                    part = part[done:]
    except FileNotFoundError:
        raise CorruptStore(f"{path}: missing") from None
    if digest.hexdigest() != entry["blake2b"]:
        raise CorruptStore(f"{path}: does not match its digest")
    return read_only(codes)
