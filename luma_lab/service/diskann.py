"""``/v1/vector/{collection}/diskann``: build, tune and look at the graph.

They build a graph on disk, and every answer names the kind of index that is in use.
"""

import asyncio
import os
from typing import Any

import msgspec

from luma_lab.errors import WaitTimeout
from luma_lab.service.operation import MIN_OFFSET, Operation
from luma_lab.service.vectors import COLLECTION, PATH, VectorHandler

KIND = "diskann"
DEGREES = (4, 1024)
LIST_SIZES = (8, 65535)
POLL_SECS = (0.005, 0.25)


class GraphParams(msgspec.Struct):
    """Body of build and tune; what is left out takes the server's default."""

    max_degree: int | None = None
    build_threads: int | None = None
    search_list_size: int | None = None
    build_list_size: int | None = None


class GraphStatus(msgspec.Struct):
    """Which index answers, and with which parameters."""

    available: bool
    kind: str
    last_built_ms: int | None
    graph_files: list[str]
    params: dict[str, Any]
    progress: float
    indexed_points: int
    fingerprint: str | None


class GraphAnswer(msgspec.Struct):
    """The parameters used, within their ranges, and the status after."""

    ok: bool
    params: dict[str, int]
    status: GraphStatus
    offset: int


class GraphHandler(VectorHandler):
    """What build and tune share."""

    def outcome(self, name, params):
        """Return the body of the answer; blocking."""
        status = _status(self.collection(name).index_status())
        return {"ok": True, "params": params, "status": status, "offset": self.lab.head}


class BuildHandler(GraphHandler):
    """POST /v1/vector/{collection}/diskann/build: answers when the build has ended.

    The request time limit does not apply, and a client that leaves does not cancel the build.
    """

    timed = False

    async def post(self, name):
        self.check_name(name)
        params = _clamped(await self.read_json(GraphParams), self.limits)
        job = await self.run(
            lambda: self.collection(name).build_index(
                KIND,
                max_degree=params["max_degree"],
                build_list_size=params["build_list_size"],
                search_list_size=params["search_list_size"],
                threads=params["build_threads"],
            )
        )
        await self.ended(job)
        await self.answer(self.outcome, name, params)

    async def ended(self, job):
        """Return a job's result once it has ended; raise what it raised."""
        # Polled, so that waiting for a long build keeps no thread of the pool.
        pause, longest = POLL_SECS
        while True:
            try:
                return job.result(timeout=0)
            except WaitTimeout:
                await asyncio.sleep(pause)
                pause = min(2 * pause, longest)


class TuneHandler(GraphHandler):
    """POST /v1/vector/{collection}/diskann/tune: stores parameters, builds nothing."""

    async def post(self, name):
        self.check_name(name)
        params = _clamped(await self.read_json(GraphParams), self.limits)

        def tune():
            self.collection(name).tune_index(
                kind=KIND,
                max_degree=params["max_degree"],
                build_list_size=params["build_list_size"],
                search_list_size=params["search_list_size"],
            )
            return self.outcome(name, params)

        await self.answer(tune)


class StatusHandler(VectorHandler):
    """GET /v1/vector/{collection}/diskann/status"""

    async def get(self, name):
        self.check_name(name)
        await self.wait_for(self.query_int("min_offset"))
        await self.answer(lambda: _status(self.collection(name).index_status()))


def _status(status):
    return {
        "available": status["available"],
        "kind": status["kind"],
        "last_built_ms": status["last_built_ms"],
        "graph_files": status["graph_files"],
        "params": status["params"],
        "progress": status["progress"],
        "indexed_points": status["indexed_points"],
        "fingerprint": status["fingerprint"],
    }


def _clamped(request, limits):
    """Return the four parameters within their ranges: the wire clamps, Python rejects."""
    threads = request.build_threads
    if threads is None:
        threads = limits.diskann_build_threads or os.cpu_count() or 1
    size = request.search_list_size
    build_size = request.build_list_size
    degree = request.max_degree
    return {
        "max_degree": _between(limits.diskann_max_degree if degree is None else degree, DEGREES),
        "build_threads": max(1, min(threads, os.cpu_count() or 1)),
        "search_list_size": _between(
            limits.diskann_search_list_size if size is None else size, LIST_SIZES
        ),
        "build_list_size": _between(
            limits.diskann_build_list_size if build_size is None else build_size, LIST_SIZES
        ),
    }


def _between(value, bounds):
    low, high = bounds
    return max(low, min(value, high))


operations = [
    Operation(
        "POST", PATH + "/diskann/build", BuildHandler, "Build the graph; answers when it ended.",
        "write", body=GraphParams, answer=GraphAnswer, errors=(404, 409),
    ),
    Operation(
        "POST", PATH + "/diskann/tune", TuneHandler,
        "Store parameters; those left out take the server's defaults.", "write",
        body=GraphParams, answer=GraphAnswer, errors=(404,),
    ),
    Operation(
        "GET", PATH + "/diskann/status", StatusHandler, "Tell which index answers.",
        answer=GraphStatus, parameters=(MIN_OFFSET,), errors=(404,),
    ),
]  # fmt: skip
_ROOT = COLLECTION + r"/diskann"
routes = [
    (_ROOT + r"/build", BuildHandler),
    (_ROOT + r"/tune", TuneHandler),
    (_ROOT + r"/status", StatusHandler),
]
