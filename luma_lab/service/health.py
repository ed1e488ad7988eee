"""``GET /v1/health``: open to everybody, cheap enough for a probe every second."""

import time

from luma_lab import __version__
from luma_lab.service.base import BaseHandler


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


routes = [(r"/v1/health", HealthHandler)]
