"""``/v1/vector/{collection}/index``: build, tune, drop and look at indexes of every kind."""

from typing import Any, Literal

import msgspec

from luma_lab.errors import InvalidArgument
from luma_lab.service.diskann import BuildHandler as DiskannBuildHandler
from luma_lab.service.jobs import JobAnswer
from luma_lab.service.operation import MIN_OFFSET, Operation
from luma_lab.service.vectors import COLLECTION, PATH, VectorHandler


class BuildRequest(msgspec.Struct):
    """Body of build."""

    kind: Literal["auto", "flat", "ivf", "vamana", "diskann"]
    params: dict[str, Any] | None = None
    wait: bool = False


class BuildAnswer(msgspec.Struct):
    """The job that does it."""

    job: JobAnswer


class TuneRequest(msgspec.Struct):
    """Body of tune."""

    params: dict[str, Any]


class TuneAnswer(msgspec.Struct):
    """The parameters that now hold."""

    params: dict[str, Any]
    offset: int


class DropAnswer(msgspec.Struct):
    """Whether there was an index; searches are exact now."""

    dropped: bool
    offset: int


class TextStatus(msgspec.Struct):
    """The text index; what it takes in memory is what this process has searched."""

    language: str
    fields: dict[str, float]
    field_languages: dict[str, str]
    documents: int
    terms: int
    segments: int
    applied_offset: int
    memory_bytes: int
    disk_bytes: int


class StatusAnswer(msgspec.Struct):
    """Which index answers, over what, how large it is."""

    kind: str
    available: bool
    progress: float
    points: int
    indexed_points: int
    params: dict[str, Any]
    fingerprint: str | None
    applied_offset: int
    memory_bytes: int
    disk_bytes: int
    last_built_ms: int | None
    graph_files: list[str]
    text: TextStatus | None
    why: str


def _named(params, *taken):
    """Return parameters as keywords; raise on names that Python's own arguments have."""
    for name in ("self", *taken):
        if name in (params or {}):
            raise InvalidArgument(f"unknown index parameter {name!r}")
    return params or {}


class BuildHandler(DiskannBuildHandler):
    """POST /v1/vector/{collection}/index/build: answers at once, or with `wait` at the end."""

    async def post(self, name):
        self.check_name(name)
        request = await self.read_json(BuildRequest)
        job = await self.run(
            lambda: self.collection(name).build_index(
                request.kind, **_named(request.params, "kind")
            )
        )
        if request.wait:
            await self.ended(job)
        else:
            self.set_status(202)
        await self.answer(lambda: {"job": job.as_json()})


class TuneHandler(VectorHandler):
    """POST /v1/vector/{collection}/index/tune: stores parameters, builds nothing."""

    async def post(self, name):
        self.check_name(name)
        asked = (await self.read_json(TuneRequest)).params

        def tune():
            params = self.collection(name).tune_index(**_named(asked))
            return {"params": params, "offset": self.lab.head}

        await self.answer(tune)


class DropHandler(VectorHandler):
    """POST /v1/vector/{collection}/index/drop: searches are exact from now on."""

    async def post(self, name):
        self.check_name(name)

        def drop():
            result = self.collection(name).drop_index()
            return {"dropped": result.count > 0, "offset": result.offset}

        await self.answer(drop)


class StatusHandler(VectorHandler):
    """GET /v1/vector/{collection}/index/status"""

    async def get(self, name):
        self.check_name(name)
        await self.wait_for(self.query_int("min_offset"))
        await self.answer(lambda: self.collection(name).index_status())


class CompactHandler(VectorHandler):
    """POST /v1/vector/{collection}/compact: starts giving back the space of dead rows."""

    async def post(self, name):
        self.check_name(name)
        job = await self.run(lambda: self.collection(name).compact())
        self.set_status(202)
        await self.answer(lambda: {"job": job.as_json()})


_ROOT = PATH + "/index"
operations = [
    Operation(
        "POST", _ROOT + "/build", BuildHandler,
        "Build an index; with `wait` the answer (200) comes at its end.", "write",
        body=BuildRequest, answer=BuildAnswer, status=202, errors=(200, 404, 409, 501),
    ),
    Operation(
        "POST", _ROOT + "/tune", TuneHandler, "Store index parameters without rebuilding.",
        "write", body=TuneRequest, answer=TuneAnswer, errors=(404,),
    ),
    Operation(
        "POST", _ROOT + "/drop", DropHandler, "Go back to exact search.", "write",
        answer=DropAnswer, errors=(404,),
    ),
    Operation(
        "POST", PATH + "/compact", CompactHandler, "Rewrite the collection without dead rows.",
        "write", answer=BuildAnswer, status=202, errors=(404,),
    ),
    Operation(
        "GET", _ROOT + "/status", StatusHandler, "Tell which index answers.",
        answer=StatusAnswer, parameters=(MIN_OFFSET,), errors=(404,),
    ),
]  # fmt: skip
_PATTERN = COLLECTION + r"/index"
routes = [
    (_PATTERN + r"/build", BuildHandler),
    (_PATTERN + r"/tune", TuneHandler),
    (_PATTERN + r"/drop", DropHandler),
    (_PATTERN + r"/status", StatusHandler),
    (COLLECTION + r"/compact", CompactHandler),
]
