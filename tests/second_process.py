"""A lab in a process of its own, told over pipes what to do, and what stands for it here.

:class:`Elsewhere` has those members of a lab that the state machine uses. What is called on
them runs in the other process: results and errors come back as pickles.
"""

import pickle
import sys
from base64 import b64decode, b64encode
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from children import child, tell
from hand_clock import HandClock

from luma_lab.engine.lab import Lab

SCRIPT = """
import sys
sys.path.insert(0, sys.argv[1])
import second_process
second_process.serve()
"""
QUERY = np.array([0.3, -1.7, 2.2])
WAYS = ({"exact": True}, {"search_list_size": 64})
COUNTS = (2, 50)


def picture(lab):
    """Return everything a lab shows of itself, as plain values."""
    points, searches = {}, {}
    for collection in lab.collections():
        page, after = collection.scroll(limit=100)
        points[collection.name] = {
            "points": [(p.id, tuple(p.vector.tolist()), p.meta) for p in page],
            "after": after,
            "counts": (len(collection), collection.info().live_count),
        }
        searches[collection.name] = [
            [(hit.id, hit.score, hit.meta) for hit in collection.search(QUERY, k=k, **way)]
            for way in WAYS
            for k in COUNTS
        ]
    notes = lab.documents("notes")
    return {
        "points": points,
        "searches": searches,
        "state": {i.key: (i.value, i.revision, i.expires_at_ms) for i in lab.state.scan()},
        "keys": len(lab.state),
        "documents": {d.id: (d.doc, d.revision) for d in notes.find(limit=100)},
        "found": [d.id for d in notes.find("a = 1", limit=100)],
        "table": dict(lab.sql("SELECT id, n FROM t").rows),
        "counted": lab.sql("SELECT count(*) FROM documents('notes')").rows[0][0],
        "head": lab.head,
        "first": lab.first_offset,
        "offsets": [e.offset for e in lab.events.read("earliest", limit=10**6)],
    }


def build_or_drop(lab):
    """Build the index of `docs`, or drop the one there is, and wait until all of it is done."""
    docs = lab.collection("docs")
    if docs.index_status()["available"]:
        docs.drop_index()
    else:
        docs.build_index("vamana", max_degree=6, build_list_size=10).result(60)
        for job in lab.jobs():
            assert job._done.wait(60)


def compact(lab):
    """Compact every collection and wait until all of it is done."""
    lab.compact().result(60)
    for job in lab.jobs():
        assert job._done.wait(60)
    assert all(collection.info().deleted_count == 0 for collection in lab.collections())


def create(lab, *args):
    """Create a collection, of which nothing can be sent back."""
    lab.create_collection(*args)


def call(lab, target, verb, args, options):
    """Return what a method of a part of the lab returns, or the value of a property."""
    name, *names = target
    part = getattr(lab, name) if name else lab
    if names:
        part = part(*names)
    found = getattr(part, verb)
    return found(*args, **options) if callable(found) else found


WORK = {f.__name__: f for f in (picture, build_or_drop, compact, create, call)}


class Host:
    """What runs in the other process: at most one lab, whose clock is the caller's."""

    def __init__(self):
        self.lab = self.clock = None

    def do(self, now_ms, work, args):
        if work == "open":
            self.clock = HandClock(now_ms)
            self.lab = Lab(args[0], clock=self.clock)
            return None
        self.clock.advance(now_ms - self.clock.now_ms())
        if work == "close":
            return self.lab.close()
        return WORK[work](self.lab, *args)


def serve():
    """Do what each line of the input says and answer with a line, until there is none."""
    host = Host()
    for line in sys.stdin:
        try:
            answer = (True, host.do(*_read(line)))
        except Exception as error:
            answer = (False, error)
        print(_text(answer), flush=True)


@contextmanager
def second_process():
    """Start the other process; it is dead at the end."""
    with child(SCRIPT, Path(__file__).parent) as process:
        yield process


class Elsewhere:
    """The lab of the other process.

    Parameters
    ----------
    process : subprocess.Popen
        From :func:`second_process`.
    path : Path
    clock : HandClock
        Its time is told with every call.
    """

    def __init__(self, process, path, clock):
        self._process, self._clock = process, clock
        self.ask("open", path)

    def ask(self, work, *args):
        """Return what the other process answers; raise what it raises."""
        line = tell(self._process, _text((self._clock.now_ms(), work, args)))
        assert line, "the other process is gone"
        worked, value = _read(line)
        if not worked:
            raise value
        return value

    def collection(self, name):
        return _Part(self, ("collection", name))

    def documents(self, name):
        return _Part(self, ("documents", name))

    @property
    def state(self):
        return _Part(self, ("state",))

    @property
    def sql(self):
        return _Part(self, ("sql",))

    def create_collection(self, *args):
        self.ask("create", *args)

    def apply(self, operations):
        return self.ask("call", ("",), "apply", (operations,), {})

    def drop_collection(self, name):
        return self.ask("call", ("",), "drop_collection", (name,), {})

    def close(self):
        self.ask("close")


class _Part:
    def __init__(self, lab, target):
        self._lab, self._target = lab, target

    def __getattr__(self, verb):
        return lambda *args, **options: self._lab.ask("call", self._target, verb, args, options)


def _text(value):
    return b64encode(pickle.dumps(value)).decode()


def _read(line):
    return pickle.loads(b64decode(line))
