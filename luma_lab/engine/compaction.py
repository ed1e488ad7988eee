"""Compaction: the rows that live written anew beside the old ones, then one switch.

Rows are copied, links renumbered and tables prepared while writes and searches go on. One write
transaction then copies what came meanwhile and changes everything at once: generation, checksums,
the row of each point, the index's name. What it takes is about four microseconds a point that
moves, in which writes wait; searches do not.

The map from old to new rows stays as ``moved-<generation>.npy`` beside the matrix for as long as
its generation is the current one: int64 of shape (old rows,), -1 for rows that died, see
:func:`read_moved`. The log tells of the switch by ``vector_collection_compacted``, with the
generation, the rows before and the rows after.
"""

import contextlib
import io
import logging
import shutil
from functools import partial

import numpy as np

from luma_lab import codec
from luma_lab.engine import builds, kinds
from luma_lab.engine.index_files import (
    directory,
    is_busy,
    kind_of,
    make_directory,
    working_alone,
)
from luma_lab.engine.kinds import KINDS
from luma_lab.errors import (
    Cancelled,
    CollectionNotFound,
    Conflict,
    CorruptStore,
    LumaError,
    StoreClosed,
)
from luma_lab.files import write_file
from luma_lab.store import catalog, moving
from luma_lab.store.matrix import Matrix, damaged_blocks, extend_checksums
from luma_lab.store.vacuum import vacuum

# Dead rows, at least and as a share of all, at which upkeep compacts a collection.
LEAST_DEAD, SHARE_DEAD = 10_000, 0.5
COPY_BYTES = 4 << 20
CATCH_UP_ROUNDS = 8
FEW_BEHIND = 256  # rows that may be copied while writers wait
log = logging.getLogger(__name__)


def start(parts, name, *, unasked=False):
    """Start compacting a collection; return the `Job`.

    Its result is a dict: ``rows_before``, ``rows``, ``generation``, ``bytes_freed`` and
    ``index``, what became of it: "rewritten", "rebuilt" (there are kinds that can't be
    rewritten, and with most rows gone building is quicker) or None.
    """
    parts.follower.row(name)
    work = partial(_compact, parts, name)
    return parts.jobs.start("compact", work, collection=name, unasked=unasked)


def start_all(parts):
    """Start compacting every collection, one after the other, and then the database file."""
    return parts.jobs.start("compact", partial(_compact_all, parts), params={})


def follow_deaths(parts):
    """Start compacting each collection that holds too many dead rows; return the jobs."""
    running = parts.jobs.list("queued") + parts.jobs.list("running")
    busy = {job.collection for job in running if job.kind in builds.WORKING}
    jobs = []
    for row in catalog.read_all(parts.database.reader()):
        dead = row.rows - row.live
        if dead < max(LEAST_DEAD, SHARE_DEAD * row.rows) or row.name in busy:
            continue
        if not is_busy(parts, row.uid) and builds.may_try(parts, row.uid):
            jobs.append(start(parts, row.name, unasked=True))
    return jobs


def read_moved(parts, row):
    """Return where the rows of the generation before a catalog row's went, or None.

    Returns
    -------
    int64 array of shape (old rows,)
        The new row of each, -1 for those that died. None where there is no such generation, or
        its map is damaged or gone: what follows rows by it is then built anew.
    """
    try:
        return np.load(_moved_path(parts, row.uid, row.generation), allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return None


def sweep_generations(home, generation):
    """Remove what other generations left in the directory of a collection."""
    for file in (*home.glob("vectors-*.f32"), *home.glob("moved-*.npy"), *home.glob(".moved-*")):
        if file.name not in (f"vectors-{generation}.f32", f"moved-{generation}.npy"):
            file.unlink(missing_ok=True)


def _compact_all(parts, job):
    results = {}
    names = parts.follower.names()
    for place, name in enumerate(names):
        share = _Share(job, place / (len(names) + 1), 1 / (len(names) + 1))
        try:
            results[name] = _compact(parts, name, share)
        except (Cancelled, StoreClosed):
            raise
        except CollectionNotFound:
            continue  # dropped meanwhile
        except LumaError as error:  # the others are not to wait for this one
            log.warning("collection %r is not compacted: %s", name, error)
            results[name] = {"error": str(error)}
    with parts.writer.paused():
        database = vacuum(parts.database)
    return {"collections": results, "database": database}


class _Share:
    """Stands for a job of which this work is a part."""

    unasked = False

    def __init__(self, job, start, share):
        self.id, self._job, self._start, self._share = job.id, job, start, share

    def report(self, fraction):
        """Note progress of the part."""
        self._job.report(self._start + self._share * fraction)


def _compact(parts, name, job):
    row = parts.follower.row(name)
    with working_alone(parts, row, job) as still_alone:
        try:
            return _Compaction(parts, name, job, still_alone).run()
        except Cancelled:
            raise
        except Exception:
            builds.wait_before_next(parts, row.uid)
            raise


class _Compaction:
    """One compaction of one collection, under its lease."""

    def __init__(self, parts, name, job, still_alone):
        self.parts, self.name, self.job = parts, name, job
        self.still_alone = still_alone
        self.seen = parts.follower.snapshot(name)
        self.row = row = self.seen.row
        self.generation = row.generation + 1
        self.path = parts.matrices.directory(row.uid) / f"vectors-{self.generation}.f32"
        self.index_name = self.attached = None
        self.what_of_index = None

    def run(self):
        """Do all of it and return the job's result."""
        seen, rows_before = self.seen, len(self.seen.vectors)
        if seen.live_count == rows_before:
            return self._result(rows_before, rows_before, self.row.generation, 0)
        self._check_source()
        size_before = self._file_bytes(self.row.generation)
        # A leftover nobody ever mapped; a stranger who still writes to it writes to nothing.
        self.path.unlink(missing_ok=True)
        self.matrix = Matrix(self.path, self.row.dim, self.parts.matrices.disk)
        self.rows, self.blocks, self.copied = 0, {}, []
        try:
            self._copy(np.flatnonzero(seen.live), seen.vectors, self.job.report, 0.4)
            self.upto = rows_before
            self._renew_index()
            self._catch_up()
            self.prepared = moving.prepare(
                self.parts.database.reader(),
                self.row.uid,
                self._numbers(self.upto),
                lambda fraction: self.job.report(0.85 + 0.1 * fraction),
            )
            self._catch_up()
            self._sync()
            if self.attached is not None:
                self.parts.prepared[self.row.uid, self.index_name] = self.attached
            row, index_used = self.parts.writer.run(self._switch, alone=True)
        except BaseException:
            self._undo()
            raise
        finally:
            self.matrix.close()
        return self._finish(row, index_used, size_before)

    def _check_source(self):
        """Raise `CorruptStore` before damaged rows would get checksums of their own."""
        connection, row = self.parts.database.reader(), self.row
        connection.execute("BEGIN")
        try:
            now = catalog.require(connection, self.name)
            if (now.uid, now.generation) != (row.uid, row.generation):
                raise Conflict(f"collection {self.name!r} was dropped or compacted: start again")
            blocks = catalog.read_blocks(connection, row.uid, row.generation)
        finally:
            connection.execute("COMMIT")
        matrix = self.parts.matrices.of(row.uid, row.generation, row.dim)
        damaged = damaged_blocks(matrix.rows(now.rows), blocks)
        if damaged:
            raise CorruptStore(
                f"collection {self.name!r}: block {damaged[0]} of {matrix.path.name} does not "
                "match its checksum; it is not compacted. Restore a backup, or drop the collection"
            )

    def _copy(self, rows, vectors, report=None, share=0.0):
        """Write these rows behind what is written."""
        step = max(1, COPY_BYTES // (4 * self.row.dim))
        for start in range(0, len(rows), step):
            part = np.ascontiguousarray(vectors[rows[start : start + step]])
            self.matrix.write(self.rows, part)
            for block, count, crc in extend_checksums(self.blocks.get, self.rows, part):
                self.blocks[block] = count, crc
            self.rows += len(part)
            if report is not None:
                report(share * start / len(rows))
        self.copied.append(rows)

    def _sync(self):
        if self.rows and self.parts.database.durable:
            self.matrix.sync()

    def _renew_index(self):
        """Make the index of the new rows that were behind the old one's."""
        seen, row = self.seen, self.row
        if row.index_name is None:
            return
        live = seen.live[: row.index_rows]
        covered = int(np.count_nonzero(live))
        kind, held = KINDS.get(kind_of(row.index_name)), seen.index
        if kind is None or not covered:
            return
        vectors = self.matrix.rows(covered)
        self.index_name = make_directory(self.parts, row.uid, kind.name, seen.offset)
        path = directory(self.parts, row.uid, self.index_name)
        index = None if held is None else kind.compacted(held.index, vectors, live)
        if index is not None:
            kind.save(index, path)
            self.what_of_index = "rewritten"
        else:
            params = {**kinds.defaults_of(kind.name), **row.params}
            threads = 1 if self.job.unasked else 0
            index = kind.build(
                row, params, threads, vectors, path, lambda f: self.job.report(0.4 + 0.45 * f)
            )
            self.what_of_index = "rebuilt"
        self.attached = builds.attach(self.parts, row, self.index_name, index)
        self.covered = covered

    def _catch_up(self):
        """Copy rows that came meanwhile, until few are left."""
        for _ in range(CATCH_UP_ROUNDS):
            now = self.parts.follower.snapshot(self.name)
            self._check_place(now.row)
            behind = np.flatnonzero(now.live[self.upto :]) + self.upto
            if len(behind) <= FEW_BEHIND:
                return
            self._copy(behind, now.vectors)
            self.upto = len(now.vectors)

    def _check_place(self, row):
        if row is None or (row.uid, row.generation) != (self.row.uid, self.row.generation):
            raise Conflict(f"collection {self.name!r} was dropped or compacted: start again")

    def _numbers(self, total):
        """Return the new row of each old one, -1 for those not copied: int64 (total,)."""
        numbers = np.full(total, -1, np.int64)
        copied = np.concatenate(self.copied)
        numbers[copied] = np.arange(len(copied))
        return numbers

    def _switch(self, unit):
        """Change everything in one transaction; return the rows and the index that holds."""
        connection, uid = unit.connection, self.row.uid
        self.still_alone(unit)
        # Whoever opens the lab while this lease has lapsed takes the file for a leftover.
        if self.rows and not self.matrix.is_own():
            raise Conflict(f"{self.path.name} was removed by another process: start again")
        row = catalog.find(connection, self.name)
        self._check_place(row)
        rows, revisions = moving.places(connection, uid)
        behind = rows[rows >= self.upto]
        if len(behind):
            self._copy(behind, unit.matrix(row).rows(row.rows))
            self._sync()
        numbers = self._numbers(row.rows)
        if len(rows) and numbers[rows].min() < 0:
            raise CorruptStore(f"collection {self.name!r}: a point came back to a dead row")
        moving.move(connection, uid, rows, revisions, numbers, self.prepared)
        moved = io.BytesIO()
        np.save(moved, numbers)
        write_file(
            _moved_path(self.parts, uid, self.generation),
            moved.getvalue(),
            self.parts.matrices.disk,
        )
        catalog.write_blocks(
            connection, uid, self.generation, [(b, *of) for b, of in sorted(self.blocks.items())]
        )
        catalog.set_generation(connection, uid, self.generation, self.rows, unit.now_ms)
        # Dropped or replaced meanwhile: then it stays so.
        index_used = self.index_name if row.index_name == self.row.index_name else None
        if index_used is not None:
            place = self.covered, row.index_offset, row.index_built_ms
            catalog.set_index(connection, uid, index_used, *place)
        elif row.index_name is not None:
            catalog.set_index(connection, uid, None, 0, 0, None)
        data = codec.encode(
            {
                "collection": self.name,
                "generation": self.generation,
                "rows_before": row.rows,
                "rows": self.rows,
            }
        )
        unit.append("vector_collection_compacted", collection=self.name, data=data)
        return row, index_used

    def _finish(self, row, index_used, size_before):
        parts, uid = self.parts, self.row.uid
        # Its checksums were reckoned from these very bytes.
        parts.matrices.of(uid, self.generation, self.row.dim).checked = True
        with contextlib.suppress(CollectionNotFound):  # dropped since
            parts.follower.snapshot(self.name)  # so that the next search need not load it
        for name in {self.index_name, row.index_name} - {index_used, None}:
            parts.prepared.pop((uid, name), None)
            shutil.rmtree(directory(parts, uid, name), ignore_errors=True)
        sweep_generations(parts.matrices.directory(uid), self.generation)
        if index_used is None:
            self.what_of_index = None
        freed = max(0, size_before - self._file_bytes(self.generation))
        return self._result(row.rows, self.rows, self.generation, freed)

    def _undo(self):
        parts, uid = self.parts, self.row.uid
        if catalog.read_generation(parts.database.reader(), uid) == self.generation:
            return  # committed after all, or by another: what lies there is in use
        with contextlib.suppress(LumaError):  # what stays is swept when a lab is opened
            parts.writer.run(self._remove_own)
        if self.index_name is not None:
            parts.prepared.pop((uid, self.index_name), None)
            shutil.rmtree(directory(parts, uid, self.index_name), ignore_errors=True)

    def _remove_own(self, unit):
        """Remove what was written; inside a transaction, for nobody replaces it meanwhile."""
        if self.matrix.is_own():
            self.path.unlink(missing_ok=True)
            _moved_path(self.parts, self.row.uid, self.generation).unlink(missing_ok=True)

    def _file_bytes(self, generation):
        path = self.path.with_name(f"vectors-{generation}.f32")
        return path.stat().st_size if path.exists() else 0

    def _result(self, before, rows, generation, freed):
        return {
            "rows_before": before,
            "rows": rows,
            "generation": generation,
            "bytes_freed": freed,
            "index": self.what_of_index,
        }


def _moved_path(parts, uid, generation):
    return parts.matrices.directory(uid) / f"moved-{generation}.npy"
