"""Embedding a whole collection anew: vectors and stamp change in one commit, or not at all.

The slow part, reading and embedding every text, happens before it, in a job. Points that were
written meanwhile are embedded again until so few are left that they fit into the write itself.
"""

import logging
import shutil
import time
from functools import partial

import numpy as np

from luma_lab.engine import embedding, points
from luma_lab.engine.index_files import make_numbered
from luma_lab.engine.stamps import LSA, Texts, stamp_of
from luma_lab.errors import Conflict, InvalidArgument, LeaseHeld, LumaError
from luma_lab.store import catalog, leases, mappings

FIRST_POINTS = 50  # from which an LSA is fitted unasked
GROWTH = 2  # by which points multiply until it is fitted again
READ_POINTS = 2000
EMBED_TEXTS = 512
INSIDE_POINTS = 1000  # that a local embedder may embed while the writer waits
ROUNDS = 20
KIND = "embedder_fit"
WAIT_SECS = 0.05
log = logging.getLogger(__name__)


def fit(parts, name, fields=None, language=None, replace=False, *, unasked=False):
    """Start the job that fits an LSA on a collection and embeds its points; return it.

    It waits for another that embeds the collection; an `unasked` one leaves it at that.

    Raises
    ------
    Conflict
        The vectors were made by something else and `replace` is not set.
    """
    row = parts.follower.row(name)
    stamp = stamp_of(row)
    made = embedding.lsa_stamp(row, fields, language)
    if not replace and (stamp.kind != LSA if stamp else row.live):
        by = stamp.fingerprint if stamp else "whoever wrote them"
        raise Conflict(
            f"the vectors of collection {name!r} were made by {by}: fitting an LSA replaces "
            "every one of them; pass replace=True if that is what you want"
        )
    return parts.jobs.start(
        KIND,
        partial(_fit, parts, row.uid, name, made, unasked),
        collection=name,
        params={"embedder": made.name, "fields": made.fields},
    )


def replace(parts, name, embedder, stamp):
    """Start the job that embeds every point with a given embedder; return it."""
    row = parts.follower.row(name)
    return parts.jobs.start(
        KIND,
        partial(_replace, parts, row.uid, name, embedder, stamp),
        collection=name,
        params={"embedder": stamp.name, "fields": stamp.fields},
    )


def follow_texts(parts):
    """Fit each LSA for which enough points have come; return the jobs.

    The first time at 50 points, then whenever they have doubled: what the embedder learned
    then speaks of at least half of them.
    """
    started, rows = [], catalog.read_all(parts.database.reader())
    for kept in (parts.embedders, parts.unfitted):
        for uid in kept.keys() - {row.uid for row in rows}:
            kept.pop(uid, None)
    for row in rows:
        if not _is_due(parts, row):
            continue
        busy = [j for j in parts.jobs.list("running") if (j.kind, j.collection) == (KIND, row.name)]
        held = leases.holder(parts.database.reader(), lease_of(row.uid), parts.clock.now_ms())
        if not busy and not held:
            started.append(fit(parts, row.name, unasked=True))
    return started


def _is_due(parts, row):
    stamp = stamp_of(row)
    if stamp is None or stamp.kind != LSA:
        return False
    since = max(stamp.fitted_on, parts.unfitted.get(row.uid, 0))
    return row.live >= max(FIRST_POINTS, GROWTH * since)


def lease_of(uid):
    """Return the name of the lease under which one process at a time embeds a collection."""
    return f"embedder:{uid}"


def _fit(parts, uid, name, stamp, unasked, job):
    from luma_lab.engine.embedders_lsa import LsaEmbedder

    lease = _Leased(parts, uid, job)
    if unasked and not lease.take():
        return None
    with lease:
        if unasked and not _is_due(parts, parts.follower.row(name)):
            return None  # fitted meanwhile
        known = _read(parts, uid, name, stamp)
        embedder = LsaEmbedder(parts.follower.row(name).dim, stamp.language)
        try:
            embedder.fit([text for _, text in known.values() if text])
        except InvalidArgument:
            parts.unfitted[uid] = len(known)  # not again until there is more
            raise
        job.report(0.4)
        home = parts.matrices.directory(uid)
        # By offset, for another process may still read the old one: no name comes twice.
        directory = make_numbered(home, "embedder", parts.follower.head.offset)
        path = home / directory
        stamp = stamp._replace(
            fingerprint=embedder.fingerprint, directory=directory, fitted_on=len(known)
        )
        try:
            embedder.save(path)
            before = _switch(parts, uid, name, embedder, stamp, known, job)
        except BaseException:
            shutil.rmtree(path, ignore_errors=True)
            raise
        count = _settle(parts, before, embedder, known)
        return {"embedder": stamp.name, "fingerprint": embedder.fingerprint, "points": count}


def _replace(parts, uid, name, embedder, stamp, job):
    with _Leased(parts, uid, job):
        known = _read(parts, uid, name, stamp)
        before = _switch(parts, uid, name, embedder, stamp, known, job)
        count = _settle(parts, before, embedder, known)
        return {"embedder": stamp.name, "fingerprint": embedder.fingerprint, "points": count}


class _Leased:
    """Holds the lease under which one process at a time embeds a collection."""

    def __init__(self, parts, uid, job):
        self._parts, self._lease = parts, lease_of(uid)
        self._owner = f"{parts.owner}:{job.id}"
        self._job = job

    def take(self):
        """Take the lease and return True; False where another has it."""
        try:
            self._parts.writer.run(
                lambda unit: leases.take(unit.connection, self._lease, self._owner, unit.now_ms)
            )
        except LeaseHeld:
            return False
        return True

    def __enter__(self):
        while not self.take():
            self._job.report(0.0)
            time.sleep(WAIT_SECS)

    def __exit__(self, *_):
        self._parts.writer.run(
            lambda unit: leases.release(unit.connection, self._lease, self._owner)
        )


def _read(parts, uid, name, stamp):
    """Return {id: (revision, text)} of every point."""
    connection = parts.database.reader()
    connection.execute("BEGIN")
    try:
        return _texts_of(connection, _present(connection, uid, name).uid, stamp)
    finally:
        connection.execute("COMMIT")


def _texts_of(connection, uid, stamp, known=()):
    """Return {id: (revision, text)} of the points that are not `known` at their revision."""
    texts, found, after = Texts(stamp.fields), {}, ""
    while page := mappings.scan_points(connection, uid, after, READ_POINTS):
        for point in page:
            if point.id not in known or known[point.id][0] != point.revision:
                found[point.id] = (point.revision, texts.of(point.meta))
        after = page[-1].id
    return found


def _present(connection, uid, name):
    row = catalog.find(connection, name)
    if row is None or row.uid != uid:
        raise Conflict(f"collection {name!r} was dropped while it was embedded")
    return row


def _switch(parts, uid, name, embedder, stamp, known, job):
    """Write all vectors and the stamp in one commit; return the catalog row before."""
    before = parts.follower.row(name)
    vectors = {}
    local = getattr(embedder, "local", False)
    for _ in range(ROUNDS):
        _embed(parts, embedder, {i: known[i] for i in known if i not in vectors}, vectors, job)
        missing = parts.writer.run(
            partial(_commit, before, embedder if local else None, stamp, known, vectors)
        )
        if not missing:
            break
        for id in missing:
            vectors.pop(id, None)
        known |= missing
    else:
        raise LumaError(f"collection {name!r} changes too fast to be embedded: try again")
    return before


def _settle(parts, before, embedder, known):
    """Use what was committed, and remove what it replaced; return how many points there are."""
    uid = before.uid
    parts.follower.catch_up()
    parts.embedders[uid] = embedder
    old = stamp_of(before)
    if old is not None and old.directory is not None:
        shutil.rmtree(parts.matrices.directory(uid) / old.directory, ignore_errors=True)
    return len(known)


def _embed(parts, embedder, texts, vectors, job):
    """Add the vector of each text to `vectors`; an LSA has zeros for no text."""
    for id, (_, text) in texts.items():
        if not text:
            if not getattr(embedder, "local", False):
                raise InvalidArgument(
                    f"point {id!r} has no text to embed: give it one, or delete it first"
                )
            vectors[id] = np.zeros(embedder.dim, np.float32)
    asked = [(id, text) for id, (_, text) in texts.items() if text]
    for start in range(0, len(asked), EMBED_TEXTS):
        part = asked[start : start + EMBED_TEXTS]
        made = embedding.embed(parts, embedder, [text for _, text in part])
        vectors.update(zip((id for id, _ in part), made, strict=True))
        job.report(0.4 + 0.5 * min(1.0, (start + len(part)) / len(asked)))


def _commit(before, embedder, stamp, known, vectors, unit):
    """Write what is embedded, or return what is missing: {id: (revision, text)}, and write nothing.

    Parameters
    ----------
    embedder : embedder or None
        What may embed here the few that are missing.
    """
    row = _present(unit.connection, before.uid, before.name)
    if stamp.directory is not None:
        # Whoever opens the lab while the lease has lapsed takes it for a leftover.
        path = unit.matrix(row).path.with_name(stamp.directory)
        if not path.is_dir():
            raise Conflict(f"{path} was removed by another process: start again")
    if row.embedder != before.embedder:
        raise Conflict(f"collection {row.name!r} was given another embedder meanwhile")
    missing = _texts_of(unit.connection, row.uid, stamp, known)
    if missing and (embedder is None or len(missing) > INSIDE_POINTS):
        return missing
    present = {id for _, id in mappings.ids_by_row(unit.connection, row.uid)}
    made = dict(vectors)
    if missing:
        texts = [text for _, text in missing.values()]
        made |= zip(missing, embedder.embed(texts), strict=True)
    ids = [id for id in made if id in present]
    stamp = embedding.set_stamp(unit, row, stamp)
    if ids:
        batch = points.Batch(
            ids, np.stack([made[id] for id in ids]), [None] * len(ids), stamp.serial
        )
        points.write_points(unit, row.name, batch, "update")
    return None
