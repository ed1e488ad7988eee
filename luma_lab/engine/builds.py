"""Index builds of a collection: the job, the catalog switch, the status.

An index is a directory beside the matrix, named in the catalog by the transaction that makes
it current. Deleting the directory loses time, never data.
"""

import logging
import shutil
import threading
import time
from functools import partial

from luma_lab import codec
from luma_lab.engine import index_status, kinds
from luma_lab.engine.choosing import wanted
from luma_lab.engine.index_files import (
    directory,
    is_busy,
    kind_of,
    make_directory,
    working_alone,
)
from luma_lab.engine.kinds import AUTO, BY, BY_CHOICE, BY_HAND, DROPPED, FLAT, KINDS, Attached
from luma_lab.errors import (
    Cancelled,
    Conflict,
    CorruptStore,
    InvalidArgument,
    LumaError,
    RowsGone,
)
from luma_lab.store import catalog
from luma_lab.types import WriteResult

AUTO_VAMANA_ROWS = 10_000  # below this, scanning everything takes well under a millisecond
# Rows behind an index, at least, at which it takes them in; of their share each kind has a view.
LEAST_BEHIND = 2000
RETRY_SECS = 60.0  # after a build that nobody asked for has failed
VERIFY_FIRST_BYTES = 64 << 20
WORKING = ("index_build", "compact")
log = logging.getLogger(__name__)


def start(parts, name, kind, params):
    """Start the build job of a collection and return it."""
    kinds.check_kind(kind)
    params = dict(params)
    threads = params.pop("threads", 0) or 0
    if type(threads) is not int or threads < 0:
        raise InvalidArgument(f"threads is {threads!r}: expected an int of at least 0 (0: all)")
    params = kinds.check_params(params, kind if kind in KINDS else AUTO)
    row = parts.follower.row(name)
    by = BY_HAND if kind != AUTO or row.kind != AUTO else BY_CHOICE
    after = DROPPED if kind == FLAT else BY_CHOICE  # a choice of today is not one for ever
    if kind == AUTO:
        kind, chosen = wanted(parts, row, AUTO_VAMANA_ROWS)[:2]
        params = {**chosen, **params}
    if kind == FLAT:
        return parts.jobs.start(
            "index_build",
            lambda job: _make_flat(parts, name, after),
            collection=name,
            params={"kind": kind, **params},
        )
    return _start(parts, row, kind, params, threads, by)


def follow_rows(parts):
    """Start builds that rows call for; return the jobs.

    A collection that has enough rows gets its first index, and an index that too many rows have
    come behind grows. They are scanned by every search meanwhile, so none is missed, but each
    costs time.
    """
    running = parts.jobs.list("queued") + parts.jobs.list("running")
    busy = {job.collection for job in running if job.kind in WORKING}
    jobs = []
    for row in catalog.read_all(parts.database.reader()):
        call = _called_for(parts, row)
        if call is None or row.name in busy or is_busy(parts, row.uid):
            continue
        if not may_try(parts, row.uid):
            continue
        kind, params, grows, by = call
        jobs.append(
            _start(
                parts, row, kind, params, 1, by, replaces=row.index_name, grows=grows, unasked=True
            )
        )
    return jobs


def may_try(parts, uid):
    """Return whether work that nobody asked for may begin: some failed a moment ago."""
    return time.monotonic() >= parts.not_before.get(uid, 0.0)


def wait_before_next(parts, uid):
    """Note that work on a collection failed, so that none begins unasked for a while."""
    parts.not_before[uid] = time.monotonic() + RETRY_SECS


def _called_for(parts, row):
    """Return (kind, parameters, whether the index grows, who decided), or None."""
    by = row.params.get(BY)
    if row.index_name is None:
        if not parts.auto_index or by == DROPPED or row.rows < AUTO_VAMANA_ROWS:
            return None
        choice = wanted(parts, row, AUTO_VAMANA_ROWS)
        if choice.kind == FLAT:
            return None
        return choice.kind, choice.params, False, BY_CHOICE if row.kind == AUTO else BY_HAND
    kind = kind_of(row.index_name)
    if kind in KINDS and (row.uid, row.index_name) in parts.rebuilding:
        return kind, {}, False, by  # lost, and building it anew has failed so far
    behind = row.rows - row.index_rows
    if kind not in KINDS or behind < max(LEAST_BEHIND, KINDS[kind].share_behind * row.index_rows):
        return None
    if by == BY_CHOICE and parts.auto_index:
        choice = wanted(parts, row, AUTO_VAMANA_ROWS)
        if choice.kind not in (kind, FLAT):
            return choice.kind, choice.params, False, by
    return kind, {}, True, by


def _start(parts, row, kind, params, threads, by, *, replaces=None, grows=False, unasked=False):
    stored = kinds.fitting_params(row.params, kind)
    params = {**kinds.defaults_of(kind), **stored, **kinds.fitting_params(params, kind)}
    work = partial(
        _build, parts, row.name, kind, params, threads, by, replaces=replaces, grows=grows
    )
    shown = {"kind": kind, **params}
    return parts.jobs.start("index_build", work, collection=row.name, params=shown, unasked=unasked)


def store_params(parts, name, params, kind=None):
    """Store parameters for later builds and searches; return all that now hold of the kind.

    `kind` is the one they are for; by default that of the index in use, else the collection's.
    """
    if kind is not None:
        kinds.check_kind(kind)

    def operation(unit):
        row = catalog.require(unit.connection, name)
        shown = kind or index_status.shown_kind(row)
        checked = kinds.check_params(params, AUTO if shown == FLAT else shown)
        merged = {**row.params, **checked}
        catalog.set_params(unit.connection, row.uid, merged)
        held = index_status.holding(merged, shown)
        data = codec.encode({"collection": name, "params": held})
        unit.append("index_tuned", collection=name, data=data)
        return held

    return parts.writer.run(operation)


def drop(parts, name, after=DROPPED):
    """Make search exact again, by default until a build is asked for.

    The result's count tells whether there was an index.
    """

    def operation(unit):
        row = catalog.require(unit.connection, name)
        if row.params.get(BY) != after:
            catalog.set_params(unit.connection, row.uid, {**row.params, BY: after})
        if row.index_name is None:
            return WriteResult(unit.head.offset, 0), None
        catalog.set_index(unit.connection, row.uid, None, 0, 0, None)
        data = codec.encode({"collection": name, "kind": kind_of(row.index_name)})
        return WriteResult(unit.append("index_dropped", collection=name, data=data), 1), row

    result, row = parts.writer.run(operation)
    if row is not None:
        parts.follower.catch_up()
        shutil.rmtree(directory(parts, row.uid, row.index_name), ignore_errors=True)
    return result


def status(parts, name):
    """Return what `Collection.index_status` shows."""
    return index_status.status(parts, name, AUTO_VAMANA_ROWS)


def load(parts, row):
    """Return the index named in a catalog row; a damaged one is rebuilt in the background."""
    key = row.uid, row.index_name
    prepared = parts.prepared.pop(key, None)
    if prepared is not None or row.index_name is None or key in parts.rebuilding:
        return prepared
    path, name = directory(parts, row.uid, row.index_name), kind_of(row.index_name)
    try:
        if name not in KINDS:
            raise CorruptStore(f"{path}: this version knows no index kind {name!r}")
        index = KINDS[name].load(path, _rows_of(parts, row))
        if index.total_rows != row.index_rows or index.dim != row.dim:
            raise CorruptStore(f"{path} holds {index.total_rows} rows, not {row.index_rows}")
        attached = attach(parts, row, row.index_name, index)
        _check_records(attached)
        return attached
    except RowsGone:
        return None  # compacted a moment ago: whoever asked will look again
    except (LumaError, OSError) as error:
        lose(parts, row, row.index_name, error)
        return None


def attach(parts, row, index_name, index):
    """Return the index of a collection as it is put to use."""
    lost = partial(lose, parts, row, index_name)
    return Attached(kind_of(index_name), index, lost)


def _check_records(attached):
    """Compare what only searches would read with its checksums, much of it in the background."""
    verify = getattr(attached.index, "verify", None)
    if verify is None:
        return

    def check():
        try:
            verify()
        except LumaError as error:
            attached.lost(error)

    if attached.index.disk_bytes <= VERIFY_FIRST_BYTES:
        verify()
    else:
        threading.Thread(target=check, name="luma-verify", daemon=True).start()


def lose(parts, row, index_name, error):
    """Search without a damaged index from now on, and start building it anew."""
    key = row.uid, index_name
    parts.follower.lose_index(row.name, index_name)
    if key in parts.rebuilding:
        return
    parts.rebuilding.add(key)
    log.warning("index of collection %r is lost (%s); rebuilding it", row.name, error)
    name = kind_of(index_name)
    kind = name if name in KINDS else wanted(parts, row, AUTO_VAMANA_ROWS).kind
    if kind in KINDS:
        _start(parts, row, kind, {}, 0, row.params.get(BY), replaces=index_name, unasked=True)


def _rows_of(parts, row):
    """Return the rows an index was built of, from the collection's matrix."""
    return parts.matrices.of(row.uid, row.generation, row.dim).rows(row.index_rows)


def _make_flat(parts, name, after):
    drop(parts, name, after)
    return {"kind": FLAT}


def _build(parts, name, kind, params, threads, by, job, *, replaces=None, grows=False):
    row = parts.follower.row(name)
    with working_alone(parts, row, job):
        try:
            return _build_alone(parts, name, kind, params, threads, by, job, replaces, grows)
        except Cancelled:
            raise
        except Exception as error:
            wait_before_next(parts, row.uid)
            _tell_failed(parts, name, kind, error)
            raise


def _build_alone(parts, name, kind, params, threads, by, job, replaces, grows):
    snapshot = parts.follower.snapshot(name)
    row, rows = snapshot.row, len(snapshot.vectors)
    index_name = make_directory(parts, row.uid, kind, snapshot.offset)
    path = directory(parts, row.uid, index_name)
    try:
        index = make_index(kind, snapshot, params, threads, path, job, grows)
        attached = attach(parts, row, index_name, index)
        fingerprint = attached.fingerprint
        job.report(0.99)

        parts.prepared[row.uid, index_name] = attached
        old_name = parts.writer.run(
            lambda unit: _commit_index(
                unit, row, index_name, rows, snapshot.offset, {**params, BY: by}, fingerprint,
                replaces, job.unasked,
            )
        )  # fmt: skip
    except BaseException:
        parts.prepared.pop((row.uid, index_name), None)
        shutil.rmtree(path, ignore_errors=True)
        raise
    parts.follower.catch_up()
    if old_name is not None:
        shutil.rmtree(directory(parts, row.uid, old_name), ignore_errors=True)
    return {"kind": kind, "rows": rows, "fingerprint": fingerprint, "index": index_name}


def make_index(kind, snapshot, params, threads, path, job, grows=False):
    """Return an index of all rows of a snapshot, saved in directory `path`."""
    made, held = KINDS[kind], snapshot.index
    if grows and held is not None and held.kind == kind:
        index = made.grown(held.index, params, snapshot.vectors, snapshot.live)
        if index is not None:
            made.save(index, path)
            return index
    return made.build(
        snapshot.row,
        params,
        threads,
        snapshot.vectors,
        path,
        lambda fraction: job.report(0.95 * fraction),
    )


def _commit_index(unit, seen, index_name, rows, offset, params, fingerprint, replaces, unasked):
    name = seen.name
    row = catalog.find(unit.connection, name)
    if row is None or (row.uid, row.generation) != (seen.uid, seen.generation):
        raise Conflict(f"collection {name!r} was dropped or compacted while its index was built")
    if replaces is not None and row.index_name != replaces:
        raise Conflict(f"index {replaces} of {name!r} was dropped or replaced by someone else")
    if unasked and row.params.get(BY) == DROPPED:
        raise Conflict(f"{name!r} is to be searched without an index since this build began")
    catalog.set_index(unit.connection, row.uid, index_name, rows, offset, unit.now_ms)
    merged = {**row.params, **{n: v for n, v in params.items() if v is not None}}
    catalog.set_params(unit.connection, row.uid, merged)
    shown = {
        "collection": name,
        "kind": kind_of(index_name),
        "rows": rows,
        "params": {name: value for name, value in params.items() if name != BY},
        "fingerprint": fingerprint,
    }
    unit.append("index_built", collection=name, data=codec.encode(shown))
    return row.index_name


def _tell_failed(parts, name, kind, error):
    data = codec.encode({"collection": name, "kind": kind, "error": str(error)})
    try:
        parts.writer.run(lambda unit: unit.append("index_failed", collection=name, data=data))
    except LumaError as second:
        log.warning("event index_failed of %r was not written: %s", name, second)
