"""`DiskIndex` beside diskannpy, each in a process of its own, both past the page cache.

Run as a program: ``python -m luma_lab.bench.diskbench base.u8.npy queries.u8.npy PEER_PYTHON``,
where the last is a Python that has diskannpy 0.7 (it needs numpy below 2, so an environment of
its own); without it only the house's index is measured. Rounds are interleaved.
"""

import json
import math
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from luma_lab import codec
from luma_lab.bench.compare import qps_at
from luma_lab.bench.truth import exact_neighbors
from luma_lab.errors import Unavailable

LIST_SIZES = (16, 24, 32, 48, 64)
K = 10
CHILD = Path(__file__).with_name("disk_child.py")


def measure(
    base, queries, peer_python=None, *, rows=500_000, n_queries=500, rounds=3, max_degree=32,
    build_list_size=75, memory_bytes=64 << 20, build_memory_bytes=128 << 20, widths=(4, 8),
    directory=None, kept=None,
):  # fmt: skip
    """Build and search both; return a dict of figures.

    Parameters
    ----------
    base, queries : path
        Arrays of uint8, int8 or float32 in ``.npy`` files.
    memory_bytes : int
        What an open index may hold.
    directory : path, optional
        A folder on the disk to measure.
    kept : path, optional
        A folder to keep the indexes in: what an earlier call with the same parameters built
        there is searched again, and not built.

    Returns
    -------
    dict
        By engine: build seconds, bytes held after a warm-up, and for one query at a time and
        for batches by two threads a list of settings with medians over `rounds` and the queries
        a second at a recall of 0.95, interpolated; then the ratios.

    Raises
    ------
    Unavailable
        The peer's Python could not run it.
    """
    import pandas

    asked = np.load(queries)[:n_queries].astype(np.float32)
    stored = np.load(base, mmap_mode="r")[:rows]
    nearest, _ = exact_neighbors(np.asarray(stored, np.float32), asked, K, metric="l2")
    home = Path(tempfile.mkdtemp(dir=directory, prefix="luma-disk-"))
    order = {
        "base": str(Path(base).absolute()), "queries": str(Path(queries).absolute()),
        "rows": rows, "n_queries": n_queries, "max_degree": max_degree,
        "build_list_size": build_list_size, "search_memory_bytes": memory_bytes,
        "build_memory_bytes": build_memory_bytes,
    }  # fmt: skip
    pythons = {"luma": sys.executable}
    if peer_python is not None:
        pythons["diskannpy"] = peer_python
    children, result = {}, {}
    try:
        for name, python in pythons.items():
            folder = Path(kept or home) / name
            result[name] = {}
            if not folder.exists():
                folder.mkdir(parents=True)
                # A build leaves memory behind that no search needs: it has a process of its own.
                children[name] = _Child(python, name, {**order, "folder": str(folder)})
                built = children[name]({"do": "build"})
                result[name] = {"build_s": built["seconds"]}
                children[name].close()
            children[name] = _Child(python, name, {**order, "folder": str(folder)})
            small = home / f"{name}-small"
            small.mkdir()
            children[name]({"do": "warm", "folder": str(small)})
            opened = children[name]({"do": "open", "reader": "aio"})
            result[name]["held_bytes"] = opened["grown_bytes"]
        for batch in (False, True):
            _compare(children, result, nearest, stored, asked, batch, rounds, widths)
        children["luma"]({"do": "open", "reader": "mmap"})
        warm = {n: c for n, c in children.items() if n == "luma"}
        found = {"luma": {}}
        _compare(warm, found, nearest, stored, asked, False, 1, widths)
        _compare(warm, found, nearest, stored, asked, False, rounds, widths)
        result["luma"]["warm_mmap_one"] = found["luma"]["one"]
    finally:
        for child in children.values():
            child.close()
        shutil.rmtree(home, ignore_errors=True)
    for name in result:
        for way in ("one", "batch", "warm_mmap_one"):
            if way in result[name]:
                table = pandas.DataFrame(result[name][way])
                result[name][f"{way}_qps_at_95"] = qps_at(table, 0.95)
    if "diskannpy" in result:
        for way in ("one", "batch"):
            ours, theirs = (result[n][f"{way}_qps_at_95"] for n in ("luma", "diskannpy"))
            result[f"{way}_ratio_at_95"] = ours / theirs if theirs else math.nan
    return result


def _compare(children, result, nearest, stored, asked, batch, rounds, widths):
    trials = {(n, size, w): [] for size in LIST_SIZES for w in widths for n in children}
    for _ in range(rounds):
        for (name, size, width), seen in trials.items():
            options = {
                "k": K, "list_size": size, "width": width, "threads": 2 if batch else 1,
                "batch": batch,
            }  # fmt: skip
            seen.append(children[name]({"do": "search", "options": options}))
    for (name, size, width), seen in trials.items():
        rows = np.array(seen[0]["rows"])
        setting = {
            "list_size": size,
            "beam_width": width,
            "recall": _recall(rows, nearest, stored, asked),
            "qps": len(asked) / statistics.median(s["seconds"] for s in seen),
            "cpu_us": statistics.median(s["cpu_seconds"] for s in seen) / len(asked) * 1e6,
            "reads": seen[0]["reads"],
        }
        result[name].setdefault("batch" if batch else "one", []).append(setting)


def _recall(rows, nearest, stored, asked):
    """Return the share of found rows no farther than the true k-th."""
    hits = 0
    for found, true, query in zip(rows, nearest, asked, strict=True):
        farthest = ((stored[true[-1]].astype(np.float32) - query) ** 2).sum()
        distances = ((stored[found].astype(np.float32) - query) ** 2).sum(axis=1)
        hits += int((distances <= farthest).sum())
    return hits / nearest.size


class _Child:
    """A process that answers an order a line."""

    def __init__(self, python, name, order):
        self._process = subprocess.Popen(
            [python, str(CHILD), name],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        self._name = name
        self._send(order)

    def __call__(self, order):
        self._send(order)
        line = self._process.stdout.readline()
        if not line:
            raise Unavailable(f"the process of {self._name} ended: is the engine installed there?")
        return json.loads(line)

    def _send(self, order):
        try:
            self._process.stdin.write(json.dumps(order) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            raise Unavailable(f"the process of {self._name} ended at once") from None

    def close(self):
        self._process.stdin.close()
        self._process.wait()
        self._process.stdout.close()


if __name__ == "__main__":
    sys.stdout.buffer.write(codec.encode(measure(*sys.argv[1:4])) + b"\n")
