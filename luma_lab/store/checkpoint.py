"""The size of the write-ahead log.

SQLite begins it anew only when no reader is inside, so readers that overlap without a pause
would let it grow for as long as they go on. Beyond a limit they are waited for.
"""

import apsw

PATIENCE_MS = 200  # no write can be done meanwhile


class Checkpoints:
    """Keeps the write-ahead log of a database within a limit.

    Parameters
    ----------
    database : luma_lab.store.database.Database
    limit_bytes : int
    """

    def __init__(self, database, limit_bytes):
        self._database = database
        self._limit_bytes = limit_bytes
        self._file = database.file.with_name(database.file.name + "-wal")
        self._connection = None

    @property
    def size(self):
        """Bytes of the log's file."""
        try:
            return self._file.stat().st_size
        except FileNotFoundError:
            return 0

    def bound(self):
        """Begin the log anew if it is over the limit; return whether that could be done.

        False: a reader stayed inside longer than `PATIENCE_MS`. Try again later.
        """
        if self.size <= self._limit_bytes:
            return True
        if self._connection is None:
            self._connection = self._database.connect(writes=True)
            self._connection.set_busy_timeout(PATIENCE_MS)
        try:
            self._connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_TRUNCATE)
        except apsw.BusyError:
            return False
        return True
