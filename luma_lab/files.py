"""Durable files: array directories that exist whole or not at all, and the disk they live on.

Every byte the house writes outside SQLite goes through a `Disk`, so that a test can stand in
a double that runs full at the n-th write or records which syncs came before which answers.
"""

import errno
import io
import json
import os
import zlib
from pathlib import Path

import numpy as np

from luma_lab.errors import CorruptStore, InvalidArgument, StorageError, StoreFull

MANIFEST = "manifest.json"
DIRECTORY_FORMAT = 1
CHUNK_BYTES = 1 << 22
NETWORK_FILE_SYSTEMS = frozenset(
    "nfs nfs4 cifs smb smb2 smb3 smbfs 9p afs ncpfs ceph glusterfs lustre gpfs beegfs "
    "fuse.sshfs fuse.glusterfs fuse.cephfs fuse.s3fs fuse.rclone fuse.davfs davfs".split()
)


class Disk:
    """The operating system's file calls, with errors turned into `StorageError`s."""

    def open(self, path, create=True):
        """Return a read-write file descriptor of `path`."""
        with _named(path):
            return os.open(path, os.O_RDWR | os.O_CLOEXEC | (os.O_CREAT if create else 0), 0o644)

    def close(self, descriptor):
        """Close a file descriptor."""
        os.close(descriptor)

    def write_at(self, descriptor, data, offset):
        """Write all of `data` at byte `offset`.

        Raises
        ------
        StoreFull
            No space or quota left; part of `data` may have been written.
        """
        view = memoryview(data).cast("B")
        with _named(descriptor):
            while view:
                written = os.pwrite(descriptor, view, offset)
                view, offset = view[written:], offset + written

    def extend(self, descriptor, size):
        """Grow a file to `size` bytes; never shrinks it (a shrunk mapping is SIGBUS)."""
        with _named(descriptor):
            if os.fstat(descriptor).st_size < size:
                os.ftruncate(descriptor, size)

    def sync(self, descriptor):
        """Return when the file's bytes are on stable storage."""
        with _named(descriptor):
            os.fdatasync(descriptor)

    def sync_directory(self, path):
        """Return when the directory's entries are on stable storage."""
        with _named(path):
            descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)

    def rename(self, source, target):
        """Move `source` over `target` in one step."""
        with _named(target):
            os.replace(source, target)


class _named:
    """Turn an OSError in the block into a StorageError that names the file."""

    def __init__(self, name):
        self.name = name

    def __enter__(self):
        return self

    def __exit__(self, kind, error, trace):
        if isinstance(error, OSError) and not isinstance(error, StorageError):
            raise storage_error(error, self.name) from error


def storage_error(error, name):
    """Return the `StorageError` of an `OSError` on file `name`."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return StoreFull(f"no space left writing {name}: free some and try again; nothing was kept")
    return StorageError(f"{os.strerror(error.errno or 0)}: {name}")


DISK = Disk()


def write_file(path, data, disk=DISK):
    """Write `data` to `path` through a temporary name, synced before and after the rename."""
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    descriptor = disk.open(temporary)
    try:
        os.ftruncate(descriptor, 0)
        for start in range(0, len(data), CHUNK_BYTES):
            disk.write_at(descriptor, data[start : start + CHUNK_BYTES], start)
        disk.sync(descriptor)
        disk.rename(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    finally:
        disk.close(descriptor)


def save_arrays(path, arrays, manifest, disk=DISK):
    """Save named arrays and a manifest as a directory that appears in one step.

    Array files carry their checksum in their name and the manifest is renamed into place
    last, so an interrupted save leaves the previous contents readable.

    Parameters
    ----------
    path : path
        Directory; created when missing, its previous contents replaced.
    arrays : dict of str to ndarray
    manifest : dict
        JSON fields of the caller's own, kept beside the fields ``format`` and ``arrays``.

    Raises
    ------
    StorageError, StoreFull
    """
    path = Path(path)
    if path.exists() and not path.is_dir():
        raise InvalidArgument(f"{path} is a file: expected a directory to save into")
    path.mkdir(parents=True, exist_ok=True)
    entries = {}
    for name, array in arrays.items():
        data = _npy_bytes(array)
        checksum = zlib.crc32(data)
        file = f"{name}-{checksum:08x}.npy"
        write_file(path / file, data, disk)
        entries[name] = {"file": file, "bytes": len(data), "size": array.size, "crc32": checksum}
    body = {**manifest, "format": DIRECTORY_FORMAT, "arrays": entries}
    body["crc32"] = zlib.crc32(_canonical(body))
    write_file(path / MANIFEST, json.dumps(body, indent=1, sort_keys=True).encode(), disk)
    disk.sync_directory(path)
    disk.sync_directory(path.parent)
    keep = {entry["file"] for entry in entries.values()} | {MANIFEST}
    for stale in path.glob("*-*.npy"):
        if stale.name not in keep:
            stale.unlink(missing_ok=True)


def read_manifest(path):
    """Return the manifest of an array directory.

    Raises
    ------
    CorruptStore
        The manifest is missing, unreadable or does not match its checksum.
    """
    file = Path(path) / MANIFEST
    try:
        body = json.loads(file.read_bytes())
        checksum = body.pop("crc32")
    except FileNotFoundError:
        raise CorruptStore(f"{path}: no {MANIFEST}, so this is not a saved directory") from None
    except (ValueError, KeyError, TypeError, AttributeError, OSError) as error:
        raise CorruptStore(f"{file}: unreadable manifest ({error})") from None
    if checksum != zlib.crc32(_canonical(body)):
        raise CorruptStore(f"{file}: manifest does not match its checksum")
    if body.get("format") != DIRECTORY_FORMAT:
        raise CorruptStore(
            f"{file}: format {body.get('format')}, this version reads {DIRECTORY_FORMAT}"
        )
    return body


def load_arrays(path, mmap=True, verify=True):
    """Return (arrays, manifest) of a directory written by :func:`save_arrays`.

    Parameters
    ----------
    mmap : bool
        Map the files read-only instead of reading them into memory.
    verify : bool
        Compare every file with its CRC32 first.

    Raises
    ------
    CorruptStore
        A file is missing, short, or does not match its checksum.
    """
    path = Path(path)
    body = read_manifest(path)
    arrays = {}
    for name, entry in body["arrays"].items():
        file = path / entry["file"]
        try:
            size = file.stat().st_size
        except OSError:
            raise CorruptStore(f"{file}: missing") from None
        if size != entry["bytes"]:
            raise CorruptStore(f"{file}: {size} bytes, expected {entry['bytes']}")
        if verify and _file_crc32(file) != entry["crc32"]:
            raise CorruptStore(f"{file}: does not match its checksum")
        try:
            arrays[name] = np.load(file, mmap_mode="r" if mmap and entry["size"] else None)
        except ValueError as error:
            raise CorruptStore(f"{file}: {error}") from None
    return arrays, body


def directory_bytes(path):
    """Return the size of all files below `path`, in bytes."""
    return sum(f.stat().st_size for f in Path(path).rglob("*") if f.is_file())


def file_system_type(path):
    """Return the type of the file system that holds `path` (``"ext4"``, ``"nfs4"``, ...)."""
    path = os.path.realpath(path)
    best, kind = "", "unknown"
    try:
        with open("/proc/self/mounts", encoding="utf-8", errors="replace") as mounts:
            for line in mounts:
                _, point, fs_type, *_ = line.split()
                point = point.replace("\\040", " ")
                inside = path == point or path.startswith(point.rstrip("/") + "/")
                if inside and len(point) >= len(best):
                    best, kind = point, fs_type
    except OSError:
        pass
    return kind


def _npy_bytes(array):
    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, np.ascontiguousarray(array), allow_pickle=False)
    return buffer.getbuffer()


def _file_crc32(file):
    checksum = 0
    with open(file, "rb") as stream:
        while chunk := stream.read(CHUNK_BYTES):
            checksum = zlib.crc32(chunk, checksum)
    return checksum


def _canonical(body):
    return json.dumps(body, sort_keys=True, separators=(",", ":")).encode()
