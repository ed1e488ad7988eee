"""Index builds of a collection: the job, the catalog switch, the status.

An index is a directory beside the matrix, named in the catalog by the transaction that makes
it current. Deleting the directory loses time, never data.
"""

import logging
import os
import shutil
from functools import partial

import numpy as np

from luma_lab import codec
from luma_lab.engine.text_caches import text_status
from luma_lab.errors import (
    Cancelled,
    Conflict,
    InvalidArgument,
    LumaError,
    NotSupported,
    UnknownName,
)
from luma_lab.files import directory_bytes
from luma_lab.store import catalog, leases
from luma_lab.types import WriteResult

KINDS = ("auto", "flat", "vamana")
LATER_KINDS = ("ivf", "diskann")
AUTO_VAMANA_ROWS = 10_000  # below this, scanning everything takes well under a millisecond
BUILD_PARAMS = ("max_degree", "build_list_size", "alpha", "seed")
PARAMS = (*BUILD_PARAMS, "search_list_size")
DEFAULTS = {
    "max_degree": 48,
    "build_list_size": 100,
    "alpha": 1.2,
    "seed": 0,
    "search_list_size": 64,
}
MAX_LIST_SIZE = 65_535
# Rows behind an index, at least and as a share of it, at which it grows to take them in.
LEAST_BEHIND, SHARE_BEHIND = 2000, 0.1
MOST_GROWTH = 2
CODED_DIM = 17  # below, codes and their constants take no less room than float32
log = logging.getLogger(__name__)


def refuse(name, why):
    """Raise `NotSupported` for a documented name that does not exist yet."""
    raise NotSupported(f"{name} is not supported yet: {why}")


def check_kind(kind):
    """Raise unless `kind` is an index kind that can be built."""
    if kind in LATER_KINDS:
        refuse(f"index kind {kind!r}", "use 'vamana', 'flat' or 'auto'")
    if kind not in KINDS:
        raise UnknownName("index kind", kind, KINDS)


def check_params(params):
    """Return index parameters as a plain dict; raise on unknown names and wrong values."""
    if not isinstance(params, dict):
        raise InvalidArgument(f"params is {params!r}: expected a dict")
    for name in params:
        if name not in PARAMS:
            raise UnknownName("index parameter", name, PARAMS)
    params = {
        name: value.item() if isinstance(value, np.generic) else value
        for name, value in params.items()
        if value is not None
    }
    check_list_size(params.get("search_list_size"), 1)
    for name in ("max_degree", "build_list_size", "seed"):
        if name in params and type(params[name]) is not int:
            raise InvalidArgument(f"{name} is {params[name]!r}: expected an int")
    _index(1, "l2", {**DEFAULTS, **params}, 1)
    return params


def check_list_size(size, k):
    """Raise unless `size` is None or an int that can hold the `k` answers."""
    if size is None:
        return
    if isinstance(size, bool) or not isinstance(size, (int, np.integer)):
        raise InvalidArgument(f"search_list_size is {size!r}: expected an int")
    if not max(1, k) <= size <= MAX_LIST_SIZE:
        raise InvalidArgument(
            f"search_list_size is {size}: expected at least k = {k} and at most {MAX_LIST_SIZE}"
        )


def start(parts, name, kind, params):
    """Start the build job of a collection and return it."""
    check_kind(kind)
    threads = params.pop("threads", 0) or 0
    if type(threads) is not int or threads < 0:
        raise InvalidArgument(f"threads is {threads!r}: expected an int of at least 0 (0: all)")
    params = check_params(params)
    row = parts.follower.row(name)
    params = {**DEFAULTS, **row.params, **params}
    kind = row.kind if kind == "auto" else kind
    if kind == "auto":
        kind = "vamana" if row.rows >= AUTO_VAMANA_ROWS else "flat"
    shown = {"kind": kind, **params}
    if kind == "flat":
        return parts.jobs.start(
            "index_build", lambda job: _make_flat(parts, name), collection=name, params=shown
        )
    work = partial(_build, parts, name, params, threads)
    return parts.jobs.start("index_build", work, collection=name, params=shown)


def follow_rows(parts):
    """Start growing each index that too many rows have come behind; return the jobs.

    They are scanned by every search meanwhile, so none is missed, but each costs time.
    """
    busy = {job.collection for job in parts.jobs.list("running") if job.kind == "index_build"}
    jobs = []
    for row in catalog.read_all(parts.database.reader()):
        behind = row.rows - row.index_rows
        if row.index_name is None or behind < max(LEAST_BEHIND, SHARE_BEHIND * row.index_rows):
            continue
        if row.name in busy or leases.holder(
            parts.database.reader(), f"build:{row.uid}", parts.clock.now_ms()
        ):
            continue
        params = {**DEFAULTS, **row.params}
        shown = {"kind": kind_of(row.index_name), **params}
        work = partial(_build, parts, row.name, params, 1, replaces=row.index_name, grows=True)
        jobs.append(parts.jobs.start("index_build", work, collection=row.name, params=shown))
    return jobs


def store_params(parts, name, params):
    """Store parameters for later builds and searches; return all that now hold."""
    params = check_params(params)

    def operation(unit):
        row = catalog.require(unit.connection, name)
        merged = {**DEFAULTS, **row.params, **params}
        catalog.set_params(unit.connection, row.uid, merged)
        data = codec.encode({"collection": name, "params": merged})
        unit.append("index_tuned", collection=name, data=data)
        return merged

    return parts.writer.run(operation)


def drop(parts, name):
    """Make search exact again; the result's count tells whether there was an index."""

    def operation(unit):
        row = catalog.require(unit.connection, name)
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
    """Return what `index_status` shows, a dict of plain values."""
    row = parts.follower.row(name)
    snapshot = parts.follower.snapshot(name)
    running = [
        job
        for job in parts.jobs.list()
        if job.collection == name and job.kind == "index_build" and job.state == "running"
    ]
    index = snapshot.index
    path = directory(parts, row.uid, row.index_name) if row.index_name else None
    available = index is not None
    return {
        "kind": kind_of(row.index_name) if available else "flat",
        "available": available,
        "progress": running[-1].progress if running else 1.0,
        "points": snapshot.live_count,
        "indexed_points": snapshot.indexed_rows - snapshot.dead_indexed,
        "params": {**DEFAULTS, **row.params},
        "fingerprint": index.fingerprint if available else None,
        "applied_offset": row.index_offset if available else snapshot.offset,
        "memory_bytes": index.memory_bytes if available else 0,
        "disk_bytes": directory_bytes(path) if available and path.is_dir() else 0,
        "last_built_ms": row.index_built_ms,
        "graph_files": sorted(f.name for f in path.glob("*.npy")) if available else [],
        "text": text_status(parts, row),
    }


def load(parts, row):
    """Return the index named in a catalog row; a damaged one is rebuilt in the background."""
    prepared = parts.prepared.pop((row.uid, row.index_name), None)
    if prepared is not None or row.index_name is None:
        return prepared
    from luma_lab.index import VamanaIndex

    path = directory(parts, row.uid, row.index_name)
    try:
        index = VamanaIndex.load(path, vectors=_rows_of(parts, row))
        if index.total_rows != row.index_rows or index.dim != row.dim:
            raise InvalidArgument(f"{path} holds {index.total_rows} rows, not {row.index_rows}")
        return index
    except (LumaError, OSError) as error:
        log.warning("index of collection %r is lost (%s); rebuilding it", row.name, error)
        key = (row.uid, row.index_name)
        if key not in parts.rebuilding:
            parts.rebuilding.add(key)
            params = {**DEFAULTS, **row.params}
            work = partial(_build, parts, row.name, params, 0, replaces=row.index_name)
            parts.jobs.start(
                "index_build", work, collection=row.name, params={"kind": "vamana", **row.params}
            )
        return None


def _rows_of(parts, row):
    """Return the rows an index was built of, from the collection's matrix."""
    return parts.matrices.of(row.uid, row.generation, row.dim).rows(row.index_rows)


def directory(parts, uid, index_name):
    """Return ``collections/<uid>/index/<name>``."""
    return parts.matrices.directory(uid) / "index" / index_name


def kind_of(index_name):
    """Return the kind in a directory name such as ``vamana-3``."""
    return index_name.rsplit("-", 1)[0]


def _make_flat(parts, name):
    drop(parts, name)
    return {"kind": "flat"}


def _build(parts, name, params, threads, job, *, replaces=None, grows=False):
    owner = f"{parts.owner}:{job.id}"
    row = parts.follower.row(name)
    lease = f"build:{row.uid}"
    parts.writer.run(lambda unit: leases.take(unit.connection, lease, owner, unit.now_ms))
    try:
        snapshot = parts.follower.snapshot(name)
        index = _grown(snapshot, params) if grows else None
        if index is None:
            index = _index(row.dim, row.metric, params, threads)
            index.build(snapshot.vectors, progress=lambda fraction: job.report(0.95 * fraction))
        index_name = _new_name(parts, row.uid, snapshot.offset)
        path = directory(parts, row.uid, index_name)
        operation = partial(
            _commit_index,
            uid=row.uid,
            generation=snapshot.row.generation,
            name=name,
            index_name=index_name,
            rows=len(snapshot.vectors),
            offset=snapshot.offset,
            params=params,
            fingerprint=index.fingerprint,
            replaces=replaces,
        )
        try:
            index.save(path, vectors=index.quantizer is None)
            job.report(0.99)
            parts.prepared[row.uid, index_name] = index
            old_name = parts.writer.run(operation)
        except BaseException:
            parts.prepared.pop((row.uid, index_name), None)
            shutil.rmtree(path, ignore_errors=True)
            raise
        parts.follower.catch_up()
        if old_name is not None:
            shutil.rmtree(directory(parts, row.uid, old_name), ignore_errors=True)
        return {
            "kind": "vamana",
            "rows": len(snapshot.vectors),
            "fingerprint": index.fingerprint,
            "index": index_name,
        }
    except Cancelled:
        raise
    except Exception as error:
        _tell_failed(parts, name, error)
        raise
    finally:
        parts.writer.run(lambda unit: leases.release(unit.connection, lease, owner))


def _grown(snapshot, params):
    """Return the index of a snapshot with the rows behind it, or None where to build it anew.

    Anew once it has doubled: its codes still have the mean of the rows it began with.
    """
    index = snapshot.index
    if index is None or len(snapshot.vectors) > MOST_GROWTH * snapshot.indexed_rows:
        return None
    if any(getattr(index, name) != params[name] for name in BUILD_PARAMS):
        return None
    return index.grown(snapshot.vectors, snapshot.live)


def _commit_index(
    unit, uid, generation, name, index_name, rows, offset, params, fingerprint, replaces
):
    row = catalog.find(unit.connection, name)
    if row is None or (row.uid, row.generation) != (uid, generation):
        raise Conflict(f"collection {name!r} was dropped or compacted while its index was built")
    if replaces is not None and row.index_name != replaces:
        raise Conflict(f"index {replaces} of {name!r} was dropped or replaced by someone else")
    catalog.set_index(unit.connection, uid, index_name, rows, offset, unit.now_ms)
    catalog.set_params(unit.connection, uid, params)
    shown = {
        "collection": name,
        "kind": kind_of(index_name),
        "rows": rows,
        "params": params,
        "fingerprint": fingerprint,
    }
    unit.append("index_built", collection=name, data=codec.encode(shown))
    return row.index_name


def _tell_failed(parts, name, error):
    data = codec.encode({"collection": name, "kind": "vamana", "error": str(error)})
    try:
        parts.writer.run(lambda unit: unit.append("index_failed", collection=name, data=data))
    except LumaError as second:
        log.warning("event index_failed of %r was not written: %s", name, second)


def _new_name(parts, uid, serial):
    # Numbered by offset, so that no name comes twice: a view tells indexes apart by name.
    home = parts.matrices.directory(uid) / "index"
    home.mkdir(parents=True, exist_ok=True)
    while True:
        try:
            os.mkdir(home / f"vamana-{serial}")
            return f"vamana-{serial}"
        except FileExistsError:
            serial += 1


def _index(dim, metric, params, threads):
    from luma_lab.index import VamanaIndex

    return VamanaIndex(
        dim,
        metric,
        **{name: params[name] for name in BUILD_PARAMS},
        quantizer="q8" if dim >= CODED_DIM else None,
        threads=threads,
    )
