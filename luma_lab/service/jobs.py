"""``/v1/jobs``: long work of this process, watched and cancelled."""

from typing import Any

import msgspec

from luma_lab.engine.jobs import STATES
from luma_lab.errors import InvalidArgument, JobNotFound
from luma_lab.service.base import BaseHandler
from luma_lab.service.operation import Operation, Parameter


class JobAnswer(msgspec.Struct):
    """A job; times in ms since 1970."""

    id: str
    kind: str
    collection: str | None
    params: dict[str, Any]
    state: str
    progress: float
    eta_secs: float | None
    created_at_ms: int
    started_at_ms: int | None
    finished_at_ms: int | None
    result: Any
    error: str | None


class JobsAnswer(msgspec.Struct):
    """The jobs, oldest first."""

    jobs: list[JobAnswer]


class JobsHandler(BaseHandler):
    """GET /v1/jobs?state="""

    async def get(self):
        state = self.query_text("state")
        if state is not None and state not in STATES:
            raise InvalidArgument(f"state is {state!r}: expected one of {', '.join(STATES)}")
        jobs = [job for job in self.lab.jobs(state) if self._sees(job)]
        await self.answer(lambda: {"jobs": [job.as_json() for job in jobs]})

    def _sees(self, job):
        access = self.access
        return not access.is_scoped or (
            job.collection is not None and access.sees_collection(job.collection)
        )


class JobHandler(JobsHandler):
    """GET, DELETE /v1/jobs/{id}"""

    async def get(self, id):
        await self.answer(self._job(id).as_json)

    async def delete(self, id):
        """Ask the job to stop."""
        job = self._job(id)
        await self.answer(lambda: job.cancel().as_json())

    def _job(self, id):
        job = self.lab.job(id)
        if not self._sees(job):
            raise JobNotFound(id)
        return job


operations = [
    Operation(
        "GET", "/v1/jobs", JobsHandler, "List the jobs of this process.", answer=JobsAnswer,
        parameters=(Parameter("state", str, "Only jobs in this state."),),
    ),
    Operation(
        "GET", "/v1/jobs/{id}", JobHandler, "Look at a job.", answer=JobAnswer, errors=(404,)
    ),
    Operation(
        "DELETE", "/v1/jobs/{id}", JobHandler, "Ask a job to stop.", "write",
        answer=JobAnswer, errors=(404, 409),
    ),
]  # fmt: skip
routes = [(r"/v1/jobs", JobsHandler), (r"/v1/jobs/([^/]+)", JobHandler)]
