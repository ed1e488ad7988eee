"""Vector files of other benchmarks: read whole, checked, refused by name when malformed."""

import os
from pathlib import Path

import numpy as np

from luma_lab.errors import InvalidArgument, NotFound, NotSupported

XVECS = {".fvecs": np.dtype("<f4"), ".bvecs": np.dtype("u1"), ".ivecs": np.dtype("<i4")}
BIGANN = {".fbin": np.dtype("<f4"), ".u8bin": np.dtype("u1"), ".i8bin": np.dtype("i1")}
HDF5 = (".hdf5", ".h5")
VECTOR_SUFFIXES = (".npy", *XVECS, *BIGANN)
SUFFIXES = (*VECTOR_SUFFIXES, *HDF5)
HDF5_METRICS = {"euclidean": "l2", "angular": "cosine", "dot": "dot", "ip": "dot"}
EXACT_INT = 1 << 24  # float32 holds every integer up to here


def read_vectors(path):
    """Read the vectors of one file as float32.

    Parameters
    ----------
    path : path
        ``.npy``; ``.fvecs``, ``.bvecs``, ``.ivecs`` (every vector preceded by its int32
        length); ``.fbin``, ``.u8bin``, ``.i8bin`` (uint32 count and dimension, then the
        vectors). All little-endian.

    Returns
    -------
    vectors : float32 array of shape (n, dim), contiguous, n and dim at least 1, all finite
    half : bool
        The file holds float16, so vectors of length one are so only roughly.

    Raises
    ------
    NotFound
        No such file.
    InvalidArgument
        Another suffix; a truncated or malformed file; NaN, infinity, or an integer that
        float32 can't hold.
    """
    path = existing_file(path)
    suffix = path.suffix.lower()
    if suffix == ".npy":
        array = _read_npy(path)
    elif suffix in XVECS:
        array = _read_xvecs(path, XVECS[suffix])
    elif suffix in BIGANN:
        array = _read_bigann(path, BIGANN[suffix])
    else:
        raise InvalidArgument(
            f"{path}: can't read vectors of type {suffix or '(no suffix)'!r}; "
            f"expected one of {', '.join(VECTOR_SUFFIXES)}"
        )
    return as_vectors(array, path), array.dtype == np.float16


def read_hdf5(path):
    """Read an ann-benchmarks file.

    Returns
    -------
    base : float32 array of shape (n, dim), from ``train``
    queries : float32 array of shape (n_queries, dim), from ``test``
    neighbors : int64 array of shape (n_queries, m), from ``neighbors``, or None
    metric : str or None
        From the attribute ``distance``; None when the file has none.

    Raises
    ------
    NotFound
        No such file.
    InvalidArgument
        Not HDF5, a part is missing or misshapen, or the distance is not one of ours.
    NotSupported
        h5py is not installed.
    """
    path = existing_file(path)
    try:
        import h5py
    except ImportError:
        raise NotSupported(f'{path}: reading it needs h5py: pip install "luma_lab[lab]"') from None
    try:
        with h5py.File(path, "r") as file:
            arrays = {
                name: file[name][...]
                for name in ("train", "test", "neighbors")
                if isinstance(file.get(name), h5py.Dataset)
            }
            distance = file.attrs.get("distance")
    except (OSError, ValueError, TypeError, KeyError, RuntimeError) as error:
        raise InvalidArgument(f"{path}: not a readable HDF5 file ({error})") from None
    for name in ("train", "test"):
        if name not in arrays:
            raise InvalidArgument(f"{path}: no array {name!r}; expected train and test")
    train, test, neighbors = arrays["train"], arrays["test"], arrays.get("neighbors")
    base, queries = as_vectors(train, f"{path}: train"), as_vectors(test, f"{path}: test")
    if base.shape[1] != queries.shape[1]:
        raise InvalidArgument(
            f"{path}: test has {queries.shape[1]} columns; expected {base.shape[1]}, as train has"
        )
    if neighbors is not None:
        neighbors = as_neighbors(neighbors, len(base), len(queries), path)
    return base, queries, neighbors, _metric_of(distance, path)


def query_sibling(path):
    """Return the query file that stands beside a base file, or None.

    ``sift_base.fvecs`` finds ``sift_query.fvecs``, ``words_base.f16.npy`` finds
    ``words_query.f16.npy``: the word ``base`` becomes ``query`` (or ``queries``). Failing
    that, the one file of the same folder and suffix that starts like the base file up to that
    word and goes on with ``query`` or ``queries`` (``base.10M.fbin``: ``query.public.fbin``).

    Raises
    ------
    InvalidArgument
        Several files could be meant.
    """
    path = Path(path)
    start, found, end = path.name.rpartition("base")
    if not found:
        return None
    for word in ("query", "queries"):
        sibling = path.with_name(start + word + end)
        if sibling.is_file():
            return sibling
    likely = sorted(
        other
        for other in path.parent.iterdir()
        if other.name.startswith((start + "query", start + "queries"))
        and other.suffix.lower() == path.suffix.lower()
        and other.is_file()
    )
    if len(likely) > 1:
        listed = ", ".join(other.name for other in likely)
        raise InvalidArgument(f"{path}: several query files stand beside it ({listed}); name one")
    return likely[0] if likely else None


def existing_file(path):
    """Return `path` as a `Path` if it is a file; raise `NotFound` otherwise."""
    path = Path(path)
    if not path.is_file():
        raise NotFound(f"{path}: no such file")
    return path


def as_vectors(array, what):
    """Return a finite, contiguous float32 array of shape (n, dim); refuse anything else.

    Half-precision and integer components are kept exactly; float64 is rounded.
    """
    array = np.asarray(array)
    if array.ndim != 2 or 0 in array.shape:
        raise InvalidArgument(f"{what}: shape {array.shape}; expected (n, dim), both at least 1")
    if array.dtype.kind not in "fiu":
        raise InvalidArgument(f"{what}: components are {array.dtype}; expected numbers")
    if array.dtype.kind in "iu" and array.dtype.itemsize > 2:
        low, high = int(array.min()), int(array.max())
        if low < -EXACT_INT or high > EXACT_INT:
            raise InvalidArgument(
                f"{what}: holds {high if high > EXACT_INT else low}; integers beyond "
                f"{EXACT_INT} are not exact in float32"
            )
    with np.errstate(over="ignore"):
        vectors = np.ascontiguousarray(array, dtype=np.float32)
    for row in range(0, len(vectors), 65536):
        bad = ~np.isfinite(vectors[row : row + 65536]).all(axis=1)
        if bad.any():
            raise InvalidArgument(
                f"{what}: row {row + int(bad.argmax())} holds NaN, infinity or a number "
                "float32 can't hold"
            )
    return vectors


def as_neighbors(neighbors, n, n_queries, what):
    """Return claimed neighbours as int64 of shape (n_queries, m), rows below n; refuse others."""
    neighbors = np.asarray(neighbors)
    if neighbors.ndim != 2 or len(neighbors) != n_queries or neighbors.dtype.kind not in "iu":
        raise InvalidArgument(
            f"{what}: neighbors are {neighbors.dtype} of shape {neighbors.shape}; expected "
            f"integers of shape ({n_queries}, m)"
        )
    neighbors = neighbors.astype(np.int64)
    if neighbors.size and not (0 <= neighbors.min() and neighbors.max() < n):
        bad = int(neighbors[(neighbors < 0) | (neighbors >= n)][0])
        raise InvalidArgument(f"{what}: neighbors hold row {bad}; the base has rows 0 to {n - 1}")
    return neighbors


def _read_npy(path):
    with open(path, "rb") as stream:
        if stream.read(6) != b"\x93NUMPY":
            raise InvalidArgument(f"{path}: not a .npy file (its first bytes say otherwise)")
    try:
        return np.load(path, allow_pickle=False)
    except (ValueError, EOFError, OSError, SyntaxError) as error:
        raise InvalidArgument(f"{path}: truncated or malformed .npy file ({error})") from None


def _read_xvecs(path, dtype):
    size = os.path.getsize(path)
    head = np.fromfile(path, dtype="<i4", count=1)
    if len(head) == 0:
        raise InvalidArgument(f"{path}: {size} bytes; expected an int32 length, then the vector")
    dim = int(head[0])
    if dim < 1:
        raise InvalidArgument(f"{path}: the first vector claims {dim} components")
    record = np.dtype([("dim", "<i4"), ("vector", dtype, (dim,))])
    if size % record.itemsize:
        raise InvalidArgument(
            f"{path}: {size} bytes; expected a multiple of {record.itemsize} "
            f"(vectors of {dim} components), so it is truncated or malformed"
        )
    records = np.fromfile(path, dtype=record)
    odd = np.flatnonzero(records["dim"] != dim)
    if len(odd):
        raise InvalidArgument(
            f"{path}: vector {odd[0]} claims {records['dim'][odd[0]]} components; expected {dim}, "
            "as the first"
        )
    return records["vector"]


def _read_bigann(path, dtype):
    size = os.path.getsize(path)
    head = np.fromfile(path, dtype="<u4", count=2)
    if len(head) < 2:
        raise InvalidArgument(f"{path}: {size} bytes; expected a header of two uint32")
    n, dim = int(head[0]), int(head[1])
    expected = 8 + n * dim * dtype.itemsize
    if size != expected:
        raise InvalidArgument(
            f"{path}: {size} bytes; expected {expected}, as its header says {n} vectors of "
            f"{dim} components"
        )
    return np.fromfile(path, dtype=dtype, offset=8).reshape(n, dim)


def _metric_of(distance, path):
    if distance is None:
        return None
    name = distance.decode(errors="replace") if isinstance(distance, bytes) else str(distance)
    if name not in HDF5_METRICS:
        raise InvalidArgument(
            f"{path}: its distance is {name!r}; expected one of {', '.join(HDF5_METRICS)}"
        )
    return HDF5_METRICS[name]
