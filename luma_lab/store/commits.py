"""A mark beside the database that moves with every commit, in whichever process.

To ask SQLite whether something was committed since takes a statement, which behind a search that
has emptied the processor's caches costs 10 microseconds; to look at two mapped words takes a
tenth of one. Who commits writes a new number into the first before, while nobody else can commit,
and into the second afterwards. So where both are equal and as they were at an earlier look, nothing
has become visible since. Where they differ a commit is under way, or its process was killed in it.

The mark tells nothing of commits by other programs: these SQLite must be asked for. Of this house
nobody commits who can't move the mark, for others may see it and would take it for true.
"""

import contextlib
import mmap
import os
import random

from luma_lab.files import storage_error

SIZE_BYTES = 16
BEGUN, ENDED = 0, 1


class CommitMark:
    """Two words of a file that all processes of a lab have mapped.

    Parameters
    ----------
    path : pathlib.Path
        Made when missing.
    database : pathlib.Path, optional
        Whose owner and permissions the file gets, as SQLite gives them to its own beside it.

    Raises
    ------
    StorageError, StoreFull
        The file can't be opened, made or written.
    """

    def __init__(self, path, database=None):
        try:
            file = self._open(path, database)
            try:
                if os.fstat(file).st_size < SIZE_BYTES:
                    # Written, not only made so long: a mapped hole can't tell of a full disk. At
                    # the end, for another process may have done the same since, and committed.
                    os.write(file, bytes(SIZE_BYTES))
                self._mapping = mmap.mmap(file, SIZE_BYTES)
            finally:
                os.close(file)
        except OSError as error:
            raise storage_error(error, path) from error
        self._words = memoryview(self._mapping).cast("Q")
        self._numbers = random.Random()  # begun by the system's chance: no user seeds it

    @staticmethod
    def _open(path, database):
        flags = os.O_RDWR | os.O_APPEND | os.O_CLOEXEC
        try:
            file = os.open(path, flags | os.O_CREAT | os.O_EXCL, 0o666)
        except FileExistsError:
            return os.open(path, flags)
        if database is not None:
            with contextlib.suppress(OSError):  # as good as can be: who needs more is told so
                status = os.stat(database)
                os.fchmod(file, status.st_mode & 0o777)
                if os.geteuid() == 0:
                    os.fchown(file, status.st_uid, status.st_gid)
        return file

    def look(self):
        """Return where the mark stands: equal to an earlier answer only if nothing came since."""
        try:
            begun, ended = self._words
            return begun if begun == ended else object()
        except (TypeError, ValueError):  # closed, by another thread
            return object()

    def begin(self):
        """Say that a commit begins, inside its write transaction; return what `end` takes."""
        # Never a number that was there before, so that nothing is taken for what it was.
        number = self._numbers.getrandbits(64)
        if self._words is not None:
            self._words[BEGUN] = number
        return number

    def end(self, number):
        """Say that the commit that :meth:`begin` named has ended, well or not."""
        if self._words is not None:
            self._words[ENDED] = number

    def close(self):
        """Unmap the file; the mark never stands still then."""
        words, self._words = self._words, None
        if words is not None:
            words.release()
            self._mapping.close()
