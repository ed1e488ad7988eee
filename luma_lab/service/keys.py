"""``/v1/auth/keys``: create, list, rotate and revoke keys."""

from typing import Any, Literal

import msgspec

from luma_lab.errors import Conflict
from luma_lab.service.base import BaseHandler
from luma_lab.service.guard import CONFIGURED_KEY_ID
from luma_lab.service.operation import Operation


class CreateRequest(msgspec.Struct):
    """Body of create; "user" means "write"."""

    name: str
    role: Literal["read", "write", "user", "admin"] = "user"
    permissions: dict[str, Any] | None = None


class CreateAnswer(msgspec.Struct):
    """The key, shown this once."""

    id: str
    key: str


class KeyAnswer(msgspec.Struct):
    """A key without its secret."""

    id: str
    name: str
    role: str
    permissions: dict[str, Any]
    created_at_ms: int


class KeysHandler(BaseHandler):
    """GET, POST /v1/auth/keys"""

    async def get(self):
        await self.answer(
            lambda: [
                *(msgspec.to_builtins(key) for key in self.service.keys.list()),
                self.service.guard.configured_key(),
            ]
        )

    async def post(self):
        """Create."""
        request = await self.read_json(CreateRequest)

        def create():
            id, key = self.service.keys.create(request.name, request.role, request.permissions)
            return {"id": id, "key": key}

        self.set_header("Cache-Control", "no-store")
        await self.answer(create)


class KeyHandler(BaseHandler):
    """DELETE /v1/auth/keys/{id}"""

    async def delete(self, id):
        """Revoke."""
        _check_id(id)
        await self.run(self.service.keys.revoke, id)
        self.clear_header("Content-Type")
        self.set_status(204)
        self.finish()


class RotateHandler(BaseHandler):
    """POST /v1/auth/keys/{id}/rotate"""

    async def post(self, id):
        """Give the key a new secret."""
        _check_id(id)
        self.set_header("Cache-Control", "no-store")
        await self.answer(lambda: {"id": id, "key": self.service.keys.rotate(id)})


def _check_id(id):
    if id == CONFIGURED_KEY_ID:
        raise Conflict("the configured key is set by API_KEY: change it there and restart")


operations = [
    Operation(
        "GET", "/v1/auth/keys", KeysHandler, "List the keys, newest first.", "admin",
        answer=list[KeyAnswer],
    ),
    Operation(
        "POST", "/v1/auth/keys", KeysHandler, "Create a key; it is shown this once.", "admin",
        body=CreateRequest, answer=CreateAnswer,
    ),
    Operation(
        "DELETE", "/v1/auth/keys/{id}", KeyHandler, "Revoke a key.", "admin",
        status=204, errors=(404, 409),
    ),
    Operation(
        "POST", "/v1/auth/keys/{id}/rotate", RotateHandler,
        "Give a key a new secret; the old one stops at once.", "admin",
        answer=CreateAnswer, errors=(404, 409),
    ),
]  # fmt: skip
routes = [
    (r"/v1/auth/keys", KeysHandler),
    (r"/v1/auth/keys/([^/]+)", KeyHandler),
    (r"/v1/auth/keys/([^/]+)/rotate", RotateHandler),
]
