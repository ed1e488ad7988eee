"""Doubles of the disk: one that runs full at the n-th call, one that records, a recording VFS."""

import errno
import os

import apsw

from luma_lab.files import Disk, storage_error


class FullDisk(Disk):
    """Lets `good` writes through, then refuses every one with ENOSPC, half of it written.

    With `good` None it never refuses; `writes` counts.
    """

    def __init__(self, good=None):
        self.good = good
        self.writes = 0

    def write_at(self, descriptor, data, offset):
        if self._refuses():
            view = memoryview(data).cast("B")
            os.pwrite(descriptor, view[: len(view) // 2], offset)
            raise storage_error(OSError(errno.ENOSPC, "full"), descriptor)
        super().write_at(descriptor, data, offset)

    def extend(self, descriptor, size):
        if self._refuses():
            raise storage_error(OSError(errno.ENOSPC, "full"), descriptor)
        super().extend(descriptor, size)

    def sync(self, descriptor):
        if self._refuses():
            raise storage_error(OSError(errno.EDQUOT, "full"), descriptor)
        super().sync(descriptor)

    def rename(self, source, target):
        if self._refuses():
            raise storage_error(OSError(errno.ENOSPC, "full"), target)
        super().rename(source, target)

    def _refuses(self):
        self.writes += 1
        return self.good is not None and self.writes > self.good


class RecordingDisk(Disk):
    """Notes every write and sync of a file as ("write" or "sync", name)."""

    def __init__(self, journal):
        self.journal = journal

    def write_at(self, descriptor, data, offset):
        super().write_at(descriptor, data, offset)
        self.journal.append(("write", _name(descriptor)))

    def sync(self, descriptor):
        super().sync(descriptor)
        self.journal.append(("sync", _name(descriptor)))

    def sync_directory(self, path):
        super().sync_directory(path)
        self.journal.append(("sync", os.path.basename(path) + "/"))


class RecordingVFS(apsw.VFS):
    """SQLite's own file calls with its writes and syncs noted in the same journal."""

    def __init__(self, name, journal):
        self.journal = journal
        super().__init__(name, "")

    def xOpen(self, name, flags):
        return _RecordingFile(name, flags, self.journal)


class _RecordingFile(apsw.VFSFile):
    def __init__(self, name, flags, journal):
        self.journal = journal
        given = name.filename() if isinstance(name, apsw.URIFilename) else name
        self.name = os.path.basename(given) if given else ""
        super().__init__("", name, flags)

    def xWrite(self, data, offset):
        super().xWrite(data, offset)
        self.journal.append(("write", self.name))

    def xSync(self, flags):
        super().xSync(flags)
        self.journal.append(("sync", self.name))


def _name(descriptor):
    return os.path.basename(os.readlink(f"/proc/self/fd/{descriptor}"))
