"""Requests a second of the server's hot routes beside a bare Tornado handler, driven by wrk.

The bare handler decodes and encodes the same JSON and does nothing else: no key, no limits, no
metrics, no store. Both servers run as processes of their own and take turns. Run as a program:
``python -m luma_lab.bench.httpbench``.
"""

import contextlib
import json
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from luma_lab import codec
from luma_lab.errors import Unavailable

CONNECTIONS = 16
_OURS = """
import asyncio, sys
import numpy as np
import luma_lab as luma
from luma_lab.config import Settings
from luma_lab.service.app import Server
async def main():
    rows, dim = int(sys.argv[1]), int(sys.argv[2])
    with luma.open(sys.argv[3]) as lab:
        lab.state["small"] = {"role": "user", "content": "x" * 170}
        docs = lab.create_collection("docs", dim, "l2")
        vectors = np.random.default_rng(0).normal(size=(rows, dim)).astype(np.float32)
        for start in range(0, rows, 2000):
            docs.upsert(list(range(start, min(rows, start + 2000))), vectors[start : start + 2000])
        docs.build_index("vamana").result()
        docs.search(vectors[0], 10)
        server = await Server(lab, Settings(port=0, auth="open")).start()
        print(server.port, flush=True)
        await asyncio.to_thread(sys.stdin.readline)
        await server.stop()
asyncio.run(main())
"""
_BARE = """
import asyncio, sys
import msgspec
from tornado.web import Application, RequestHandler
value = {"key": "small", "value": {"role": "user", "content": "x" * 170}, "revision": 1}
hits = {"hits": [{"id": str(i), "score": -0.5, "meta": None} for i in range(10)]}
class State(RequestHandler):
    def get(self, key):
        self.finish(msgspec.json.encode(value))
    def put(self, key):
        msgspec.json.decode(self.request.body)
        self.finish(msgspec.json.encode(value))
class Search(RequestHandler):
    def post(self, name):
        if self.request.headers["Content-Type"] == "application/json":
            msgspec.json.decode(self.request.body)
        self.finish(msgspec.json.encode(hits))
async def main():
    app = Application([(r"/v1/state/(.+)", State), (r"/v1/vector/(.+)/search", Search)])
    server = app.listen(0, address="127.0.0.1")
    print(next(iter(server._sockets.values())).getsockname()[1], flush=True)
    await asyncio.to_thread(sys.stdin.readline)
asyncio.run(main())
"""
_SCRIPT = """
wrk.method = "{method}"
wrk.headers["Content-Type"] = "{media}"
local file = io.open("{body}", "rb")
wrk.body = file:read("*all")
"""


def measure(directory=None, *, rows=5000, dim=384, rounds=3, seconds=2):
    """Return requests a second of both servers and ours over the bare one, medians of `rounds`.

    Parameters
    ----------
    directory : path, optional
        Where to put the data: a disk that really syncs. Default: the temporary directory.
    rows, dim : int
        Of the collection that is searched, k = 10.

    Raises
    ------
    Unavailable
        wrk is not installed.
    """
    if shutil.which("wrk") is None:
        raise Unavailable("wrk is not installed: it drives the requests")
    home = Path(tempfile.mkdtemp(dir=directory, prefix="luma-bench-"))
    with contextlib.ExitStack() as stack:
        stack.callback(shutil.rmtree, home, ignore_errors=True)
        ports = {
            "ours": stack.enter_context(_server(_OURS, str(rows), str(dim), str(home / "lab"))),
            "bare": stack.enter_context(_server(_BARE)),
        }
        figures = {}
        for _ in range(rounds):
            for name, (path, script) in _requests(home, dim).items():
                for who, port in ports.items():
                    url = f"http://127.0.0.1:{port}{path}"
                    figures.setdefault(f"{who}_{name}", []).append(_drive(url, script, seconds))
    result = {name: statistics.median(values) for name, values in figures.items()}
    for name in _requests(home, dim, write=False):
        result[f"{name}_ratio"] = result[f"ours_{name}"] / result[f"bare_{name}"]
    return result


def _requests(home, dim, write=True):
    """Return name to (path, wrk script or None)."""
    query = np.random.default_rng(1).normal(size=dim).astype("<f4")
    search = json.dumps({"vector": [round(float(x), 6) for x in query], "k": 10})
    put = json.dumps({"value": {"role": "user", "content": "x" * 170}})
    found = {"get": ("/v1/state/small", None)}
    for name, path, method, media, body in (
        ("put", "/v1/state/other", "PUT", "application/json", put.encode()),
        ("search", "/v1/vector/docs/search", "POST", "application/json", search.encode()),
        (
            "search_binary",
            "/v1/vector/docs/search?k=10",
            "POST",
            "application/octet-stream",
            query.tobytes(),
        ),
    ):
        script = home / f"{name}.lua"
        if write:
            (home / f"{name}.body").write_bytes(body)
            script.write_text(
                _SCRIPT.format(method=method, media=media, body=home / f"{name}.body")
            )
        found[name] = (path, script)
    return found


@contextlib.contextmanager
def _server(program, *arguments):
    process = subprocess.Popen(
        [sys.executable, "-c", program, *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        line = process.stdout.readline()
        if not line:
            raise Unavailable("a server of the benchmark did not start; its error is above")
        yield int(line)
    finally:
        process.stdin.close()
        process.wait()


def _drive(url, script, seconds):
    command = ["wrk", "-t1", f"-c{CONNECTIONS}", f"-d{seconds}", url]
    if script is not None:
        command[-1:-1] = ["-s", str(script)]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    if "Non-2xx" in said:
        raise Unavailable(f"{url} did not answer with success: {said}")
    return float(re.search(r"Requests/sec:\s+([\d.]+)", said)[1])


if __name__ == "__main__":
    sys.stdout.buffer.write(codec.encode(measure()) + b"\n")
