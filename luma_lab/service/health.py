"""``GET /v1/health``: open to everybody, cheap enough for a probe every second."""

import time

import msgspec

from luma_lab import __version__
from luma_lab.service.base import BaseHandler
from luma_lab.service.operation import Operation


class HealthAnswer(msgspec.Struct):
    """How the server is: `uptime_secs` since it started, `offset` the head of the log."""

    status: str
    version: str
    uptime_secs: int
    offset: int
    epoch: int
    ready: bool


class HealthHandler(BaseHandler):
    """GET /v1/health"""

    async def get(self):
        service = self.service
        started = service.started
        await self.answer(
            lambda: {
                "status": "ok",
                "version": __version__,
                "uptime_secs": int(time.monotonic() - started),
                "offset": self.lab.head,
                "epoch": self.lab.epoch,
                "ready": not service.stopping,
            }
        )


operations = [
    Operation(
        "GET", "/v1/health", HealthHandler, "Tell that the server lives, and where it stands.",
        None, answer=HealthAnswer,
    ),
]  # fmt: skip
routes = [(r"/v1/health", HealthHandler)]
