"""Text indexes as directories beside the matrix: found, loaded, written, swept.

``index/text-<offset>/`` says in its manifest at which offset it was true, of which settings.
The latest sound one counts; deleting them loses time, never an answer.
"""

import logging
import os
import shutil

import numpy as np

from luma_lab.engine.text_cache import Counters
from luma_lab.errors import CorruptStore, LumaError
from luma_lab.files import MANIFEST, directory_bytes, load_arrays, read_manifest, save_arrays

PREFIX = "text-"
log = logging.getLogger(__name__)


def load_latest(home, settings, head):
    """Return what `TextCache.start` takes as loaded, or None when nothing sound is there.

    Parameters
    ----------
    home : path
        The collection's directory ``index``.
    settings : dict
        Only an index of these counts.
    head : luma_lab.store.log.Head
        An index of a later offset tells of another history.
    """
    for _, path in reversed(_by_offset(home)):
        try:
            manifest = read_manifest(path)
        except CorruptStore:
            continue  # another process is writing it, or has ended while it did
        if manifest.get("settings") != settings or manifest["applied_offset"] > head.offset:
            continue
        try:
            return _restored(path, *load_arrays(path))
        except OSError as error:
            log.warning("the text index %s can't be read (%s)", path, error)
        except (LumaError, KeyError, TypeError, ValueError) as error:
            log.warning("the text index %s is damaged (%s); dropping it", path, error)
            shutil.rmtree(path, ignore_errors=True)
    return None


def _restored(path, arrays, manifest):
    from luma_lab.index import TextIndex

    index = TextIndex.of_arrays(arrays, manifest, path, deferred=True)
    rows, revisions = (np.array(arrays[name]) for name in ("matrix_rows", "revisions"))
    counters = Counters(*manifest["counters"])
    live = rows[index.live] if len(rows) == index.total_rows else None
    if (
        live is None
        or rows.dtype != np.int64
        or revisions.dtype != np.int64
        or len(revisions) != len(rows)
        or len(np.unique(live)) != len(live)
        or live.min(initial=0) < 0
        or live.max(initial=-1) >= counters.rows
    ):
        raise CorruptStore(f"{path}: its rows are not those of a matrix")
    return index, rows, revisions, manifest["applied_offset"], manifest["epoch"], counters


def saved_counters(home, settings):
    """Return the `Counters` of the latest saved index of these settings, or None."""
    for _, path in reversed(_by_offset(home)):
        try:
            manifest = read_manifest(path)
            if manifest.get("settings") == settings:
                return Counters(*manifest["counters"])
        except (CorruptStore, KeyError, TypeError):
            continue
    return None


def problems(home, checked):
    """Yield what is wrong with saved indexes, in words, and count them in a dict."""
    for _, path in _by_offset(home):
        try:
            read_manifest(path)
        except CorruptStore:
            if not (path / MANIFEST).exists():
                continue  # it is being written, or was not to its end
        try:
            load_arrays(path)
        except (LumaError, OSError) as error:
            if path.exists():  # and not replaced meanwhile
                yield f"text index {path.name}: {error}"
        checked["text indexes"] = checked.get("text indexes", 0) + 1


def save(home, arrays, manifest):
    """Write an index, then remove all others that were there before; return its path."""
    before = _by_offset(home)
    serial = manifest["applied_offset"]
    home.mkdir(parents=True, exist_ok=True)
    while True:
        path = home / f"{PREFIX}{serial}"
        try:
            os.mkdir(path)
            break
        except FileExistsError:
            serial += 1
    try:
        save_arrays(path, arrays, manifest)
    except BaseException:
        shutil.rmtree(path, ignore_errors=True)
        raise
    for _, other in before:
        shutil.rmtree(other, ignore_errors=True)
    return path


def disk_bytes(home):
    """Return the size of the latest saved index, 0 when there is none."""
    found = _by_offset(home)
    return directory_bytes(found[-1][1]) if found else 0


def _by_offset(home):
    """Return (serial, path) of each text index directory, ascending."""
    found = []
    for path in home.glob(f"{PREFIX}*"):
        serial = path.name[len(PREFIX) :]
        if serial.isdecimal():
            found.append((int(serial), path))
    return sorted(found)
