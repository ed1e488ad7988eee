"""Approximate search with vectors and graph on disk, and only codes in memory."""

import hashlib
from pathlib import Path

import numpy as np

from luma_lab.errors import CorruptStore, InvalidArgument, NotSupported, StoreClosed
from luma_lab.files import DISK, directory_bytes, load_arrays, read_manifest
from luma_lab.index.cache import fill_cache, read_blocks
from luma_lab.index.diskbuild import KIND, VERSION, build_directory, held_beside_codes, write_copy
from luma_lab.index.diskcodes import read_codes, restore_quantizer
from luma_lab.index.diskrange import RangedDisk
from luma_lab.index.disksearch import BEAM_WIDTH, MAX_BEAM_WIDTH, OpenedDisk
from luma_lab.index.progress import reporting
from luma_lab.index.protocol import as_mask, as_queries, check_integer, check_k, check_threads
from luma_lab.index.reader import WalkPool, check_reader
from luma_lab.index.rows import read_only
from luma_lab.index.sectors import KINDS, NodeFile, make_layout
from luma_lab.index.vamana import VamanaIndex, resolve_list_size
from luma_lab.kernels.beam import CACHE_HITS
from luma_lab.kernels.graph import COMPARISONS, HOPS, NO_NODE, READS
from luma_lab.types import DiskStats, Neighbors


class DiskIndex(RangedDisk):
    """Approximate nearest neighbours from disk, by the DiskANN layout.

    Codes in memory lead a beam search over node records in sectors of 4 KiB; every record that
    was read is measured exactly, and the answer is made of those. Made by :meth:`build` or
    :meth:`open`, not by calling the class.

    Attributes
    ----------
    dim, metric, max_degree, build_list_size, alpha, seed
        As built, see :meth:`build`.
    dtype : str
        Of the vectors in the file: "float32", "uint8" or "int8".
    code_kind, code_bytes : str, int
        What leads the search, "q8", "q4" or "pq", and its bytes a row.
    reader : str
        "mmap" or "aio".
    cached_nodes : int

    Notes
    -----
    Searching is thread-safe. An open index keeps answering when another is built into its
    directory.

    References
    ----------
    .. [1] Subramanya et al., "DiskANN", NeurIPS 2019.

    Examples
    --------
    >>> import numpy as np, tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     with DiskIndex.build(np.eye(4, dtype="float32"), folder, metric="l2") as index:
    ...         found = index.search([0, 0, 1, 0], k=1)
    >>> found.rows.tolist(), found.distances.tolist()
    ([[2]], [[0.0]])
    """

    KIND = KIND
    _opened = None

    def __init__(self):
        raise NotSupported(
            "DiskIndex(): use DiskIndex.build(vectors, path) or DiskIndex.open(path)"
        )

    @classmethod
    def build(
        cls,
        vectors,
        path,
        *,
        metric="cosine",
        max_degree=48,
        build_list_size=100,
        alpha=1.2,
        search_memory_bytes=None,
        build_memory_bytes=None,
        seed=0,
        threads=0,
        progress=False,
        disk=DISK,
    ):
        """Build the index of `vectors` (n, dim) in directory `path`; return it, opened.

        Parameters
        ----------
        vectors : array of shape (n, dim)
            uint8 and int8 are kept as such, anything else as float32. May be a memory-mapped file.
        path : path
            Created when missing. An index that is there is replaced in one step at the end.
        metric, max_degree, build_list_size, alpha, seed, threads, progress
            As for `VamanaIndex`.
        search_memory_bytes : int, optional
            What an open index may hold in memory. The finest codes that fit are taken: Q8, Q4,
            or product quantisation with as many parts as fit; what they leave free is for
            cached nodes. Default: Q8 and no cache.
        build_memory_bytes : int, optional
            What the build may allocate beside `vectors`; the graph is then built in shards that
            fit. Default: no limit.
        disk : luma_lab.files.Disk
            Where the bytes go.

        Raises
        ------
        DimensionMismatch, InvalidArgument, UnknownName
            Also when a budget is too small: the message says what would do.
        Conflict
            Another build is writing into the directory.
        StorageError, StoreFull
            The directory is left as it was.
        """
        try:
            array = np.asarray(vectors)
        except ValueError as error:
            raise InvalidArgument(f"vectors are no array: {error}") from None
        if array.ndim != 2:
            raise InvalidArgument(f"vectors have shape {array.shape}: expected (n, dim)")
        asked = VamanaIndex(
            array.shape[1], metric, max_degree=max_degree, build_list_size=build_list_size,
            alpha=alpha, seed=seed, threads=threads,
        )  # fmt: skip
        names = "dim", "metric", "max_degree", "build_list_size", "alpha", "seed"
        parameters = {name: getattr(asked, name) for name in names}
        parameters["threads"] = check_threads(threads)
        parameters["search_memory_bytes"] = _check_bytes("search_memory_bytes", search_memory_bytes)
        budget = _check_bytes("build_memory_bytes", build_memory_bytes)
        given = vectors if isinstance(vectors, np.memmap) else array
        with reporting(progress, "disk") as report:
            build_directory(given, path, parameters, budget, report, disk)
        return cls.open(path)

    @classmethod
    def open(cls, path, *, cache_bytes=None, reader="mmap"):
        """Open the index in directory `path`.

        Parameters
        ----------
        cache_bytes : int, optional
            Memory for node records round the entry, which then need no reading. Default: what
            `search_memory_bytes` of the build leaves free, or nothing if it was not given.
        reader : {"mmap", "aio"}, default "mmap"
            "mmap" maps the file, so that the operating system keeps what it has memory for.
            "aio" (Linux) reads past the page cache, asynchronously, a beam at a time.

        Raises
        ------
        InvalidArgument
            There is no such directory, or it holds another kind of index.
        CorruptStore
            Bytes do not match their checksum. Node records are checked when they are first read.
        NotSupported, StorageError
            This system can't read asynchronously, or its file system refuses.
        """
        check_reader(reader)
        path = Path(path)
        if cache_bytes is not None:
            check_integer("cache_bytes", cache_bytes, 0)
        if not path.is_dir():
            raise InvalidArgument(f"no directory {path}: expected one written by DiskIndex.build")
        manifest = read_manifest(path)
        kind, version = manifest.get("kind"), manifest.get("version")
        if kind != KIND:
            raise InvalidArgument(f"{path} holds {kind!r}: expected an index of kind {KIND!r}")
        if version != VERSION:
            raise CorruptStore(f"{path}: index version {version}, this one reads {VERSION}")
        arrays, manifest = load_arrays(path, mmap=False)

        def check(name, dtype, shape):
            array = arrays.get(name)
            if array is None or array.dtype != dtype or array.shape != shape:
                raise CorruptStore(f"{path}: array {name!r} is not {np.dtype(dtype)} {shape}")

        index = object.__new__(cls)
        index.path, index.reader = path, reader
        try:
            index._restore(manifest, arrays, check, cache_bytes)
        except (KeyError, TypeError, AttributeError, InvalidArgument) as error:
            raise CorruptStore(f"{path}: its manifest makes no index ({error!r})") from None
        return index

    def _restore(self, manifest, arrays, check, cache_bytes):
        parameters = manifest["parameters"]
        self.dtype = parameters["dtype"]
        if self.dtype not in KINDS:
            raise InvalidArgument(f"dtype {self.dtype!r}")
        asked = {
            name: parameters[name] for name in ("max_degree", "build_list_size", "alpha", "seed")
        }
        shown = VamanaIndex(parameters["dim"], parameters["metric"], **asked)
        self.dim, self.metric = shown.dim, shown.metric
        vars(self).update(asked)
        rows = check_integer("rows", parameters["rows"], 0)
        entry = check_integer("entry", parameters["entry"], NO_NODE, rows - 1)
        if rows and entry == NO_NODE:
            raise InvalidArgument(f"entry {entry} of {rows} rows")
        codes, files = manifest["codes"], manifest["files"]
        self.code_kind, self.code_bytes = codes["kind"], codes["row_bytes"]
        quantizer = restore_quantizer(
            self.code_kind, self.code_bytes, self.dim, self.metric, self.seed, arrays, check
        )
        layout = make_layout(rows, self.dim, self.dtype, self.max_degree)
        held = read_codes(self.path / files["codes"]["file"], files["codes"], rows, quantizer)
        self._manifest = manifest
        file = NodeFile(self.path / files["nodes"]["file"], layout, self.reader == "aio")
        try:
            if cache_bytes is None:
                allowed = parameters["search_memory_bytes"] or 0
                held_bytes = held_beside_codes(layout) + held.nbytes + quantizer.memory_bytes
                cache_bytes = max(0, allowed - held_bytes)
            cached = fill_cache(file, entry, cache_bytes)
            self._opened = OpenedDisk(
                file, quantizer, held, entry, cached, WalkPool(file, self.reader)
            )
            # Now, and not at the first search, is the time to learn that reading is refused.
            self._opened.pool.give(self._opened.pool.take(BEAM_WIDTH))
        except BaseException:
            file.close()
            raise

    def _state(self):
        if self._opened is None:
            raise StoreClosed(f"{self.path}: the index was closed; open it again")
        return self._opened

    def search(
        self,
        queries,
        k=10,
        *,
        search_list_size=None,
        beam_width=BEAM_WIDTH,
        threads=1,
        mask=None,
        rows=None,
    ):
        """Find about the `k` nearest rows of each query.

        Parameters
        ----------
        queries : array of shape (dim,) or (n_queries, dim)
        k : int
        search_list_size : int, optional
            L, candidates kept while walking; at least `k`. Default ``max(64, k)``.
        beam_width : int, default 4
            Nodes fetched at a time. More means fewer waits and more reads.
        threads : int, default 1
            Threads that share the queries; 0 stands for all cores.
        mask : bool array of shape (total_rows,), optional
            Only these rows may be answered; each query gets ``min(k, mask.sum())`` of them.
        rows : ascending integers without repeats, optional
            The same as row numbers; not together with `mask`.

        Returns
        -------
        Neighbors
            With `DiskStats`. Rows and distances depend on neither `threads` nor the reader.

        Raises
        ------
        DimensionMismatch, InvalidArgument, StoreClosed
        CorruptStore
            A record does not match its checksum; the message names file and sector.
        StorageError
        """
        opened = self._state()
        queries = as_queries(queries, self.dim)
        k = check_k(k)
        list_size = resolve_list_size(search_list_size, k)
        width = check_integer("beam_width", beam_width, 1, MAX_BEAM_WIDTH)
        threads = check_threads(threads)
        if mask is not None or rows is not None:
            mask = read_only(as_mask(mask, rows, opened.layout.rows))
        answer = opened.search(queries, k, list_size, width, threads, mask)
        counts = answer.counts
        stats = (HOPS, COMPARISONS, READS, CACHE_HITS)
        return Neighbors(
            answer.rows,
            answer.distances,
            DiskStats(*(counts[:, i].copy() for i in stats), answer.nanoseconds // 1000),
        )

    def verify(self):
        """Check every node record on disk; return how many blocks there are.

        Raises
        ------
        CorruptStore
            The message names file and sector.
        """
        opened = self._state()
        opened.file.checked[:] = 0
        nodes = np.arange(0, opened.layout.rows, opened.layout.per_block)
        for _ in read_blocks(opened.file, nodes):
            pass
        return opened.file.block_count

    def save(self, path, disk=DISK):
        """Copy the index to another directory, which then holds it in one step.

        Raises
        ------
        InvalidArgument, StorageError, StoreFull
        """
        opened = self._state()
        write_copy(opened.file.path, opened.codes, opened.quantizer, self._manifest, path, disk)

    @property
    def fingerprint(self):
        """Hexadecimal hash of parameters and bytes: equal bytes, equal fingerprint. Reads all."""
        opened = self._state()
        digest = hashlib.sha256(KIND.encode())
        digest.update(repr(sorted(self._manifest["parameters"].items())).encode())
        digest.update(opened.codes.data.cast("B") if opened.codes.size else b"")
        for _, array in sorted(opened.quantizer._arrays().items()):
            digest.update(array.data.cast("B"))
        nodes = np.arange(0, opened.layout.rows, opened.layout.per_block)
        for _, blocks, _ in read_blocks(opened.file, nodes):
            digest.update(blocks.data.cast("B"))
        return digest.hexdigest()

    @property
    def memory_bytes(self):
        """Bytes held in memory: codes, quantizer, cached nodes, and marks of checked blocks.

        Each search that runs takes a byte a row and its lists on top.
        """
        if self._opened is None:
            return 0
        opened = self._opened
        held = opened.codes, opened.file.checked, *opened.cached
        return sum(array.nbytes for array in held) + opened.quantizer.memory_bytes

    @property
    def disk_bytes(self):
        """Bytes of the directory."""
        return directory_bytes(self.path)

    @property
    def cached_nodes(self):
        """Nodes whose records are kept in memory."""
        return len(self._state().cached[0])

    @property
    def total_rows(self):
        """Rows a mask has entries for."""
        return self._manifest["parameters"]["rows"]

    def __len__(self):
        return self.total_rows

    def close(self):
        """Close the files. May be called twice; not while a search runs."""
        opened, self._opened = self._opened, None
        if opened is not None:
            opened.pool.clear()
            opened.file.close()

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.close()

    def __reduce__(self):
        cache_bytes = sum(array.nbytes for array in self._state().cached)
        return _reopen, (type(self), str(self.path.absolute()), cache_bytes, self.reader)

    def __repr__(self):
        return (
            f"{type(self).__name__}(dim={self.dim}, metric={self.metric!r}, rows={len(self)}, "
            f"codes={self.code_kind!r} of {self.code_bytes} bytes, reader={self.reader!r})"
        )


def _reopen(kind, path, cache_bytes, reader):
    return kind.open(path, cache_bytes=cache_bytes, reader=reader)


def _check_bytes(name, value):
    return None if value is None else check_integer(name, value, 1)
