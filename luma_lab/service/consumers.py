"""``/v1/consumers``: named readers of the log and what they have acknowledged."""

import msgspec

from luma_lab.service.base import BaseHandler
from luma_lab.service.operation import Operation


class ConsumerAnswer(msgspec.Struct):
    """A consumer; `lag` is how many offsets follow the one it acknowledged."""

    name: str
    offset: int
    lag: int


class ConsumersAnswer(msgspec.Struct):
    """The consumers, by name."""

    consumers: list[ConsumerAnswer]


class AckRequest(msgspec.Struct):
    """Body of ack."""

    offset: int


class AckAnswer(msgspec.Struct):
    """The offset that now holds; it never moves backwards."""

    name: str
    offset: int


class ForgetAnswer(msgspec.Struct):
    """Forgotten."""

    deleted: bool


class ConsumersHandler(BaseHandler):
    """GET /v1/consumers"""

    async def get(self):
        self.access.check_unscoped("consumers")
        await self.answer(
            lambda: {"consumers": [msgspec.to_builtins(c) for c in self.lab.consumers.list()]}
        )


class ConsumerHandler(BaseHandler):
    """DELETE /v1/consumers/{name}"""

    async def delete(self, name):
        """Forget the consumer."""
        self.access.check_unscoped("consumers")

        def forget():
            self.lab.consumers.delete(name)
            return {"deleted": True}

        await self.answer(forget)


class AckHandler(BaseHandler):
    """POST /v1/consumers/{name}/ack"""

    async def post(self, name):
        self.access.check_unscoped("consumers")
        request = await self.read_json(AckRequest)
        await self.answer(
            lambda: {"name": name, "offset": self.lab.consumers.ack(name, request.offset)}
        )


operations = [
    Operation(
        "GET", "/v1/consumers", ConsumersHandler, "List the consumers.", answer=ConsumersAnswer
    ),
    Operation(
        "DELETE", "/v1/consumers/{name}", ConsumerHandler, "Forget a consumer.", "write",
        answer=ForgetAnswer, errors=(404,),
    ),
    Operation(
        "POST", "/v1/consumers/{name}/ack", AckHandler,
        "Acknowledge all events up to an offset; the first makes the consumer known.", "write",
        body=AckRequest, answer=AckAnswer,
    ),
]  # fmt: skip
routes = [
    (r"/v1/consumers", ConsumersHandler),
    (r"/v1/consumers/([^/]+)", ConsumerHandler),
    (r"/v1/consumers/([^/]+)/ack", AckHandler),
]
