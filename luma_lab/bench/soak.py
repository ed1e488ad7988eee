"""A server under mixed load for minutes: what it answers, and whether its memory stays.

Run as a program: ``python -m luma_lab.bench.soak SECONDS``.
"""

import os
import random
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path

import httpx
import numpy as np

from luma_lab import codec
from luma_lab.errors import Unavailable

KEY = "soak-key"
DIM = 64
POINTS = 5000
KEYS = 2000
SAMPLE_SECS = 5.0


def measure(seconds=600, *, clients=8, pages=True, directory=None):
    """Load a fresh server for `seconds`; return a dict of memory in MB and answers by kind.

    Parameters
    ----------
    clients : int
        Threads that ask without a pause; one more reads the event stream.
    pages : bool
        Whether the server has the workbench at ``/lab``.

    Returns
    -------
    dict
        ``idle_mb`` after warm-up; ``rss_mb`` as a list over time and of it ``own_mb``, without
        mapped files, for the matrix file grows with every upsert; ``first_half_mb`` and
        ``second_half_mb`` as the largest of each half of ``own_mb``; ``answers`` as a count by
        (operation, status).
    """
    home = Path(tempfile.mkdtemp(dir=directory, prefix="luma-soak-"))
    server, url = _start(home, pages)
    try:
        _prepare(url)
        if pages:
            httpx.get(f"{url}/lab/login", verify=False).raise_for_status()
        time.sleep(2)
        idle, _ = _memory_mb(server.pid)
        answers, stop = Counter(), threading.Event()
        threads = [
            threading.Thread(target=_client, args=(url, n, answers, stop)) for n in range(clients)
        ]
        threads.append(threading.Thread(target=_listener, args=(url, answers, stop)))
        for thread in threads:
            thread.start()
        samples, ends = [], time.monotonic() + seconds
        while time.monotonic() < ends:
            time.sleep(min(SAMPLE_SECS, max(0.0, ends - time.monotonic())))
            samples.append(_memory_mb(server.pid))
        stop.set()
        for thread in threads:
            thread.join()
        half, own = len(samples) // 2, [own for _, own in samples]
        return {
            "idle_mb": idle,
            "rss_mb": [rss for rss, _ in samples],
            "own_mb": own,
            "first_half_mb": max(own[: half or 1]),
            "second_half_mb": max(own[half:]),
            "answers": dict(sorted(answers.items())),
        }
    finally:
        server.terminate()
        server.wait(30)
        shutil.rmtree(home, ignore_errors=True)


def _start(home, pages):
    """Run ``luma serve``; without `pages` as it is where panel is not installed."""
    hide = "" if pages else "sys.modules['panel'] = None; "
    code = f"import sys; {hide}from luma_lab.cli import main; main()"
    command = [sys.executable, "-c", code, "serve", "--port", "0", "--data-dir", str(home / "lab")]
    environment = {**os.environ, "API_KEY": KEY}
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
    for line in server.stdout:
        address = re.search(r"http://[\d.]+:\d+", line)
        if address:
            return server, address[0]
    server.wait()
    raise Unavailable(f"the server did not start: exit status {server.returncode}")


def _session(url):
    return httpx.Client(base_url=url, headers={"X-API-Key": KEY}, timeout=60, verify=False)


def _prepare(url):
    numbers = np.random.default_rng(0).normal(size=(POINTS, DIM)).astype(np.float32)
    with _session(url) as http:
        http.post("/v1/vector/docs", json={"dim": DIM, "metric": "l2"}).raise_for_status()
        for start in range(0, POINTS, 250):
            items = [
                {"id": str(i), "vector": numbers[i].tolist(), "meta": {"n": i % 10}}
                for i in range(start, start + 250)
            ]
            http.post("/v1/vector/docs/upsert_batch", json={"items": items}).raise_for_status()
        http.post("/v1/vector/docs/diskann/build", json={}).raise_for_status()
        sql = "CREATE TABLE seen (n INTEGER PRIMARY KEY, t TEXT)"
        http.post("/v1/sql/exec", json={"sql": sql}).raise_for_status()


def _client(url, number, answers, stop):
    chance = random.Random(number)
    with _session(url) as http:
        while not stop.is_set():
            name, answer = _ask(http, chance, number)
            answers[name, answer.status_code] += 1


def _ask(http, chance, number):
    vector = [chance.gauss(0, 1) for _ in range(DIM)]
    key = f"k{chance.randrange(KEYS)}"
    kind = chance.randrange(10)
    if kind == 0:
        return "put", http.put(f"/v1/state/{key}", json={"value": vector, "ttl_ms": 60_000})
    if kind == 1:
        return "get", http.get(f"/v1/state/{key}")
    if kind == 2:
        body = {"vector": vector, "k": 10, "include_meta": True}
        return "search", http.post("/v1/vector/docs/search", json=body)
    if kind == 3:
        body = {"vector": vector, "k": 10, "filters": {"n": chance.randrange(10)}}
        return "filtered search", http.post("/v1/vector/docs/search", json=body)
    if kind == 4:
        body = {"id": str(chance.randrange(POINTS)), "vector": vector, "meta": {"n": number}}
        return "upsert", http.post("/v1/vector/docs/upsert", json=body)
    if kind == 5:
        return "document", http.put(f"/v1/doc/notes/{key}", json={"n": number, "of": key})
    if kind == 6:
        return "find", http.post("/v1/doc/notes/find", json={"filter": {"n": number}, "limit": 10})
    if kind == 7:
        sql = "SELECT n, count(*) AS c FROM seen GROUP BY n % 5"
        return "query", http.post("/v1/sql/query", json={"sql": sql})
    if kind == 8:
        row = chance.randrange(KEYS)
        operations = [
            {"op": "state.put", "key": key, "value": row},
            {"op": "doc.put", "collection": "notes", "id": key, "doc": {"n": row}},
            {"op": "vector.upsert", "collection": "docs", "id": key, "vector": vector},
            {"op": "sql", "sql": "INSERT OR REPLACE INTO seen VALUES (?, ?)", "params": [row, key]},
            {"op": "publish", "type": "seen", "data": row, "key": key},
        ]
        return "transaction", http.post("/v1/transaction", json={"operations": operations})
    return "scan", http.get("/v1/state", params={"prefix": "k1", "limit": 20})


def _listener(url, answers, stop):
    with (
        _session(url) as http,
        http.stream("GET", "/v1/stream", params={"since": "latest"}) as stream,
    ):
        for line in stream.iter_lines():
            if line.startswith("id: "):
                answers["event", 200] += 1
            if stop.is_set():
                return


def _memory_mb(pid):
    """Return (resident memory, the part of it that maps no file)."""
    status = Path(f"/proc/{pid}/status").read_text()
    return tuple(
        int(re.search(rf"{name}:\s+(\d+)", status)[1]) / 1024 for name in ("VmRSS", "RssAnon")
    )


if __name__ == "__main__":
    figures = measure(float(sys.argv[1]) if len(sys.argv) > 1 else 600)
    figures["answers"] = {f"{kind} {status}": n for (kind, status), n in figures["answers"].items()}
    sys.stdout.buffer.write(codec.encode(figures) + b"\n")
