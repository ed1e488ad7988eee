"""What ``index_status`` shows of a collection: which index answers, over what, and why."""

from luma_lab.engine import kinds
from luma_lab.engine.choosing import wanted
from luma_lab.engine.index_files import directory, kind_of
from luma_lab.engine.kinds import AUTO, BY, BY_CHOICE, DROPPED, FLAT
from luma_lab.engine.text_caches import text_status
from luma_lab.files import directory_bytes


def status(parts, name, least_rows):
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
    files = [f.name for f in path.glob("*.*") if f.suffix in (".npy", ".bin")] if path else []
    return {
        "kind": index.kind if available else FLAT,
        "available": available,
        "progress": running[-1].progress if running else 1.0,
        "points": snapshot.live_count,
        "indexed_points": snapshot.indexed_rows - snapshot.dead_indexed,
        "params": holding(row.params, shown_kind(row)),
        "fingerprint": index.fingerprint if available else None,
        "applied_offset": row.index_offset if available else snapshot.offset,
        "memory_bytes": index.memory_bytes if available else 0,
        "disk_bytes": directory_bytes(path) if available and path.is_dir() else 0,
        "last_built_ms": row.index_built_ms,
        "graph_files": sorted(files) if available else [],
        "text": text_status(parts, row),
        "why": _why(parts, row, index, running, least_rows),
    }


def _why(parts, row, index, running, least_rows):
    """Return in words why searches of a collection go as they do."""
    by, choice = row.params.get(BY), wanted(parts, row, least_rows)
    if index is None and running:
        return f"{running[-1].params.get('kind')!r} is being built; every row is scanned meanwhile"
    if index is None and row.index_name is not None:
        return f"{row.index_name} is lost; every row is scanned"
    if index is None and by == DROPPED:
        return "the index was dropped, or flat asked for: every row is scanned"
    if index is None and row.kind not in (AUTO, FLAT):
        return f"{choice.why}; no index is built yet, every row is scanned"
    if index is None:
        why = choice.why if choice.kind == FLAT else f"{choice.kind!r} is to be built: {choice.why}"
        return why
    if by == BY_CHOICE and choice.kind == index.kind:
        return choice.why
    if row.kind == index.kind:
        return f"the collection was created with {row.kind!r}"
    return f"{index.kind!r} was asked for by a build"


def shown_kind(row):
    """Return the kind whose parameters a collection shows: in use, else asked for."""
    return row.kind if row.index_name is None else kind_of(row.index_name)


def holding(params, kind):
    """Return the parameters that hold for a kind, as they are shown."""
    names = kinds.names_of(AUTO if kind in (AUTO, FLAT) else kind)
    return {**kinds.defaults_of(kind), **{n: v for n, v in params.items() if n in names}}
