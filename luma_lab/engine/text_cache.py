"""The text index of a collection in this process: a cache of the tables, kept in step by the log.

Rows of the text index are numbered on their own, for a point whose meta alone changes keeps its
matrix row but gets another text. Each has the matrix row and the revision of its point: the
offset that wrote it last, which is never given out twice. So the index also finds back into step
without the log, by comparing revisions with the table: after compaction, after a restore, when
the log no longer reaches back.
"""

import logging
import threading
from typing import Any, NamedTuple

import numpy as np

from luma_lab.engine.text_settings import Texts, make_index
from luma_lab.errors import Conflict, CorruptStore
from luma_lab.store import log as event_log
from luma_lab.store import mappings, moving

CHUNK_BYTES = 1 << 23  # of metas that are indexed at once
CHUNK_POINTS = 1 << 15
# Entries of the log beyond which it is less work to compare the table.
LONG_LOG = 1 << 14
# Deleted rows whose numbers are kept, beside as many as there are live ones.
LEAST_DEAD = 1 << 12
MANY_SEGMENTS = 6  # at which those of like size are merged unasked
# Postings up to which an index at rest is made one segment, for queries to be fastest.
SMALL_INDEX = 1 << 22
_KINDS = ", ".join(f"'{name}'" for name in sorted(event_log.POINT_TYPES))
_CHANGES = (
    "SELECT offset, ts_ms, type, key, collection, data, crc FROM luma_log "
    f"WHERE offset > ? AND collection = ? AND type IN ({_KINDS}) ORDER BY offset"
)
log = logging.getLogger(__name__)


class Moment(NamedTuple):
    """A text index as it was at one offset of the log.

    Attributes
    ----------
    index : luma_lab.index.TextIndex
        For reading only.
    rows : int64 array of shape (total_rows,)
        The matrix row of each text row; of a deleted one, what it was.
    places : int64 array
        The text row of each matrix row, -1 for none. May be of a later moment.
    offset : int
    """

    index: Any
    rows: np.ndarray
    places: np.ndarray
    offset: int

    def mask(self, matrix_rows):
        """Return the mask over text rows that lets through these matrix rows, an int64 array."""
        mask = np.zeros(len(self.rows), bool)
        known = (matrix_rows >= 0) & (matrix_rows < len(self.places))
        matrix_rows = matrix_rows[known]
        places = self.places[matrix_rows]
        if places.max(initial=-1) < len(mask):
            mask[places[places >= 0]] = True
            return mask
        # Some got another text after this moment.
        wanted = np.zeros(len(self.places), bool)
        wanted[matrix_rows] = True
        return wanted[self.rows]

    def place(self, matrix_row):
        """Return the text row of a matrix row, or None."""
        found = np.flatnonzero(self.mask(np.array([matrix_row])) & self.index.live)
        return int(found[0]) if len(found) else None


class Counters(NamedTuple):
    """What tells two states of a collection's points apart, see `searching.matching_rows`."""

    generation: int
    rows: int
    live: int
    upserts: int


class _Batch:
    """Points to be indexed, and text rows that are gone."""

    def __init__(self):
        self.metas, self.gone, self._size = {}, [], 0

    def put(self, row, revision, meta):
        self.metas[row] = revision, meta
        self._size += len(meta)

    def forget(self, row):
        """Return whether the point of a matrix row was here; it is not any more."""
        return self.metas.pop(row, None) is not None

    @property
    def is_full(self):
        return self._size >= CHUNK_BYTES or len(self.metas) >= CHUNK_POINTS


class TextCache:
    """The text index of one collection, in memory.

    Attributes
    ----------
    lock : threading.RLock
        Held while a read transaction is begun and the index brought to its offset.
    """

    def __init__(self):
        self.lock = threading.RLock()
        self.index = None
        self._moment = self._seen = None
        self._sound = self._rests = False

    @property
    def memory_bytes(self):
        """Bytes of the index and of what maps its rows."""
        maps = self._rows.nbytes + self._revisions.nbytes + self._places.nbytes
        return self.index.memory_bytes + maps

    def needs(self, settings):
        """Return whether the index must be made anew: there is none, or one of other settings."""
        return self.index is None or self.settings != settings

    def start(self, settings, loaded=None):
        """Begin with an empty index, or with what was loaded.

        Parameters
        ----------
        loaded : (TextIndex, rows, revisions, applied offset, epoch, Counters), optional
        """
        self.settings, self._texts = settings, Texts(settings)
        self._moment = None
        if loaded is None:
            index = make_index(settings, deferred=True).build([])
            none = np.empty(0, np.int64)
            loaded = index, none, none, 0, -1, None
        self.index, self._rows, self._revisions, self.applied, self._epoch, counters = loaded
        self._counters = counters
        self._places = np.empty(0, np.int64)
        self._sound = counters is not None
        if self._sound:
            self._places = np.full(counters.rows, -1, np.int64)
            self._rows[~self.index.live] = 0  # of another generation, maybe
            live = np.flatnonzero(self.index.live)
            self._places[self._rows[live]] = live

    def moment(self, connection, row):
        """Return the `Moment` of what a connection sees; later where the cache is later already.

        Parameters
        ----------
        connection : apsw.Connection
            Inside the read transaction that read the catalog row `row`.

        Raises
        ------
        Conflict
            The cache is later, and of a matrix that was compacted since.
        """
        head = event_log.read_head(connection)
        if self._sound and head.offset < self.applied and head.epoch == self._epoch:
            if self._counters.generation != row.generation:
                raise Conflict(
                    f"collection {row.name!r} was compacted after the transaction began: "
                    "begin it again"
                )
            return self._now()
        counters = Counters(row.generation, row.rows, row.live, row.upserts)
        if not self._sound or self._counters != counters or self._epoch != head.epoch:
            try:
                self._catch_up(connection, row, head)
            except BaseException:
                self._sound = False  # what is there is true, what is missing the table tells
                raise
            self._counters = counters
            self._moment = None
        self.applied, self._epoch, self._sound = head.offset, head.epoch, True
        return self._now()

    @property
    def latest(self):
        """The latest `Moment` that was asked for, or None."""
        return self._moment

    def needs_tidying(self):
        """Return whether :meth:`tidy` has something to do; asked from time to time."""
        moment = self._moment
        if moment is None:
            return True  # someone's time limit passed while it was made
        self._rests = moment.index is self._seen  # nothing was written since the last look
        self._seen = moment.index
        return moment.index.segments >= MANY_SEGMENTS or self._is_sparse or self._can_rest

    @property
    def _can_rest(self):
        index = self._seen
        return self._rests and index.segments > 1 and index.postings <= SMALL_INDEX

    @property
    def _is_sparse(self):
        return self.index.total_rows > 2 * len(self.index) + LEAST_DEAD

    def tidy(self):
        """Merge segments, and forget the numbers of deleted rows when they are most."""
        if self.index.settle(whole=self._can_rest):
            with self.lock:
                self._moment = None
                self._now()
        with self.lock:
            if self._is_sparse:
                kept = self.index.compact()
                self._rows, self._revisions = self._rows[kept], self._revisions[kept]
                self._places = np.full(len(self._places), -1, np.int64)
                self._places[self._rows] = np.arange(len(kept))
                self._moment = None
                self._now()

    def to_save(self):
        """Return (arrays, manifest) of what the index is now; None when it is out of step."""
        with self.lock:
            if not self._sound:
                return None
            arrays, manifest = self.index.to_arrays()
            total = self.index.total_rows
            arrays |= {
                "matrix_rows": self._rows[:total].copy(),
                "revisions": self._revisions[:total].copy(),
            }
            return arrays, {
                **manifest,
                "settings": self.settings,
                "applied_offset": self.applied,
                "epoch": self._epoch,
                "counters": list(self._counters),
            }

    def _now(self):
        if self._moment is None or self._moment.offset != self.applied:
            if self._moment is None:
                pinned = self.index.pinned()
                rows = self._rows[: pinned.total_rows]
                self._moment = Moment(pinned, rows, self._places, self.applied)
            else:
                self._moment = self._moment._replace(offset=self.applied)
        return self._moment

    def _catch_up(self, connection, row, head):
        by_log = (
            self._sound
            and self._epoch == head.epoch
            and self._counters.generation == row.generation
            and head.first_offset <= self.applied + 1
            and head.offset - self.applied <= max(LONG_LOG, row.live)
        )
        if by_log:
            try:
                self._follow_log(connection, row)
                return
            except CorruptStore as error:
                log.error("the log is damaged (%s); reading the points instead", error)
        self._compare(connection, row)

    def _follow_log(self, connection, row):
        batch = _Batch()
        for values in connection.execute(_CHANGES, (self.applied, row.name)):
            entry = event_log.Entry._make(values[:6])
            if event_log.checksum(entry) != values[6]:
                raise CorruptStore(f"log entry {entry.offset} does not match its checksum")
            change = event_log.point_change_decoder.decode(entry.data)
            if change.uid != row.uid:
                continue  # of a dropped one of that name
            for gone in (change.old, change.row):
                if gone >= 0 and not batch.forget(gone) and gone < len(self._places):
                    batch.gone.append(int(self._places[gone]))
            if change.row >= 0:
                batch.put(change.row, entry.offset, bytes(change.meta))
            if batch.is_full:
                self._take(batch)
                batch = _Batch()
        self._take(batch)

    def _compare(self, connection, row):
        """Bring the index into step with the table of points, whatever it was before."""
        rows, revisions = moving.places(connection, row.uid)
        live = np.flatnonzero(self.index.live)
        _, held, found = np.intersect1d(
            self._revisions[live], revisions, assume_unique=True, return_indices=True
        )
        kept, gone = live[held], np.delete(live, held)
        if len(gone):
            self.index.delete(gone)
        self._rows = np.zeros_like(self._rows)  # moments hold the former
        self._rows[kept] = rows[found]
        self._places = np.full(row.rows, -1, np.int64)
        self._places[rows[found]] = kept
        missing = np.delete(rows, found).tolist()
        batch = _Batch()
        for point in mappings.points_at(connection, row.uid, missing):
            batch.put(point.row, point.revision, point.meta)
            if batch.is_full:
                self._take(batch)
                batch = _Batch()
        self._take(batch)
        self.index.settle(whole=2 * len(missing) > len(rows))

    def _take(self, batch):
        """Apply the changes of a batch."""
        texts = [self._texts.of(meta) for _, meta in batch.metas.values()]
        first, count = self.index.total_rows, len(texts)
        rows = np.fromiter(batch.metas, np.int64, count)
        self._rows = _with_room(self._rows, first, count)
        self._revisions = _with_room(self._revisions, first, count)
        wider = max(0, 1 + int(rows.max(initial=-1)) - len(self._places))
        self._places = _with_room(self._places, len(self._places), wider, -1)
        gone = np.array(sorted(place for place in batch.gone if place >= 0), np.int64)
        if len(gone):
            self.index.delete(gone)
        if not count:
            return
        self.index.add(texts)
        self._rows[first : first + count] = rows
        self._revisions[first : first + count] = [at for at, _ in batch.metas.values()]
        self._places[rows] = np.arange(first, first + count)


def _with_room(array, used, count, fill=0):
    """Return `array`, or a longer copy of it, with room for `count` more than `used`."""
    if used + count <= len(array):
        return array
    longer = np.full(max(used + count, 2 * len(array)), fill, np.int64)
    longer[:used] = array[:used]
    return longer
