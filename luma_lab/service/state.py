"""``/v1/state``: keys and values, with compare-and-set and time to live."""

from typing import Annotated, Any
from urllib.parse import quote

import msgspec

from luma_lab import codec
from luma_lab.errors import InvalidArgument, KeyNotFound, LumaError
from luma_lab.service.base import INLINE_BYTES, BaseHandler
from luma_lab.service.operation import MIN_OFFSET, Operation, Parameter
from luma_lab.service.statuses import item_error

LIST_LIMIT = 100
MAX_LIST_LIMIT = 1000
TimeToLive = Annotated[int, msgspec.Meta(ge=1)]


class PutRequest(msgspec.Struct):
    """Body of PUT /v1/state/{key}."""

    value: Any
    ttl_ms: TimeToLive | None = None
    if_revision: int | None = None


class BatchOperation(msgspec.Struct):
    """One put of a batch."""

    key: str
    value: Any
    ttl_ms: TimeToLive | None = None
    if_revision: int | None = None


class BatchRequest(msgspec.Struct):
    """Body of POST /v1/state/batch_put."""

    operations: list[BatchOperation]
    atomic: bool = False


class ItemAnswer(msgspec.Struct):
    """A state entry."""

    key: str
    value: Any
    revision: int
    expires_at_ms: int | None


class PutAnswer(msgspec.Struct):
    """What a put did."""

    key: str
    revision: int
    expires_at_ms: int | None
    offset: int


class DeleteAnswer(msgspec.Struct):
    """Whether there was something to delete."""

    deleted: bool
    offset: int


class ItemError(msgspec.Struct):
    """Why one item of a batch was refused."""

    error: str
    message: str


class BatchResult(msgspec.Struct, omit_defaults=True):
    """What became of one put: status "ok" with the put's fields, or "error" with the error."""

    status: str
    key: str
    revision: int | msgspec.UnsetType = msgspec.UNSET
    expires_at_ms: int | msgspec.UnsetType | None = msgspec.UNSET
    offset: int | msgspec.UnsetType = msgspec.UNSET
    error: ItemError | msgspec.UnsetType = msgspec.UNSET


class BatchAnswer(msgspec.Struct):
    """One result for each operation, in order."""

    results: list[BatchResult]
    offset: int


class StateListHandler(BaseHandler):
    """GET /v1/state?prefix=&after=&limit="""

    async def get(self):
        prefix = self.query_text("prefix", "")
        check_length("prefix", prefix, self.limits.max_key_len)
        after = self.query_text("after")
        limit = min(self.query_int("limit", LIST_LIMIT), MAX_LIST_LIMIT)
        await self.wait_for(self.query_int("min_offset"))
        # One more than asked for tells whether there is a next page.
        items = await self.run(self._scan, prefix, after, limit + 1 if limit else 0)
        if len(items) > limit:
            items = items[:limit]
            self.set_header("X-Luma-Next", quote(items[-1].key, safe=""))
        await self.answer(lambda: [item_body(item) for item in items])

    def _scan(self, prefix, after, limit):
        """Return up to `limit` items; for a key with scopes, of the prefixes inside them."""
        scopes = self.access.key_prefixes or ()
        if not self.access.is_scoped or prefix.startswith(scopes):
            return self.lab.state.scan(prefix, after=after, limit=limit)
        inside = [scope for scope in scopes if scope.startswith(prefix)]
        # A prefix within another names nothing new.
        inside = [p for p in set(inside) if not any(p != q and p.startswith(q) for q in inside)]
        found = []
        for scope in sorted(inside):
            if len(found) < limit:
                found += self.lab.state.scan(scope, after=after, limit=limit - len(found))
        return found


class StateHandler(BaseHandler):
    """GET, PUT, DELETE /v1/state/{key}; slashes in the key may be sent raw."""

    async def get(self, key):
        self._check(key)
        await self.wait_for(self.query_int("min_offset"))
        state = self.lab.state
        size = state.size_of(key)
        if size is None:
            raise KeyNotFound(key)
        # A small read takes less time than handing it to another thread.
        small = size <= INLINE_BYTES
        item = state.encoded_item(key) if small else await self.run(state.encoded_item, key)
        if item is None:
            raise KeyNotFound(key)
        self.finish(item)

    async def put(self, key):
        self._check(key)
        request = await self.read_json(PutRequest)
        size = len(self.request.body)
        limits = {"ttl_ms": request.ttl_ms, "if_revision": request.if_revision}
        if size <= INLINE_BYTES:
            check_size("value", request.value, size, self.limits)
            writing = self.lab.state.put_async(key, request.value, **limits)
            result = await self.in_time(writing)
        else:

            def write():
                check_size("value", request.value, size, self.limits)
                return self.lab.state.put(key, request.value, **limits)

            result = await self.run(write)
        self.finish(msgspec.json.encode({**put_body(key, result), "offset": result.offset}))

    async def delete(self, key):
        self._check(key)
        if_revision = self.query_int("if_revision")

        def write():
            result = self.lab.state.delete(key, if_revision=if_revision)
            return {"deleted": result.count > 0, "offset": result.offset}

        await self.answer(write)

    def _check(self, key):
        check_length("key", key, self.limits.max_key_len)
        self.access.check_key(key)


class StateBatchHandler(StateHandler):
    """POST /v1/state/batch_put; the other methods are those of a key of that name."""

    async def post(self, _key):
        """Put many keys in one commit, each for itself or all or none."""
        request = await self.read_json(BatchRequest)
        operations = request.operations
        if not operations:
            raise InvalidArgument("operations required: expected at least one")
        if len(operations) > self.limits.max_state_batch:
            raise InvalidArgument(
                f"too many operations: {len(operations)}, at most {self.limits.max_state_batch}"
            )
        large = len(self.request.body)
        await self.answer(self._write, operations, request.atomic, large)

    def _write(self, operations, atomic, large):
        results = [self._objection(operation, large) for operation in operations]
        if atomic:
            for index, objection in enumerate(results):
                if objection is not None:
                    objection.index = index
                    raise objection
        accepted = [i for i, objection in enumerate(results) if objection is None]
        fields = [msgspec.structs.asdict(operations[i]) for i in accepted]
        written = self.lab.state.put_each(fields, atomic=atomic) if fields else []
        for i, result in zip(accepted, written, strict=True):
            results[i] = result
        bodies = [
            self._result_body(operation.key, result)
            for operation, result in zip(operations, results, strict=True)
        ]
        offsets = [result.offset for result in results if not isinstance(result, LumaError)]
        self.puts = len(offsets)
        return {"results": bodies, "offset": max(offsets, default=self.lab.head)}

    def _result_body(self, key, result):
        if isinstance(result, LumaError):
            error = item_error(result, str(self.lab.path))
            return {"status": "error", "key": key, "error": error}
        return {"status": "ok", **put_body(key, result), "offset": result.offset}

    def _objection(self, operation, large):
        try:
            check_length("key", operation.key, self.limits.max_key_len)
            self.access.check_key(operation.key)
            check_size("value", operation.value, large, self.limits)
        except LumaError as error:
            return error
        return None


def item_body(item):
    """Return the JSON object of a `StateItem`."""
    return {
        "key": item.key,
        "value": item.value,
        "revision": item.revision,
        "expires_at_ms": item.expires_at_ms,
    }


def put_body(key, result):
    """Return what a put of `key` tells."""
    return {"key": key, "revision": result.revision, "expires_at_ms": result.expires_at_ms}


def check_length(what, text, limit):
    """Raise `InvalidArgument` when `text` is over `limit` bytes of UTF-8."""
    size = len(text.encode("utf-8", "surrogatepass"))
    if size > limit:
        raise InvalidArgument(f"{what} too long: {size} bytes, at most {limit}")


def check_size(what, value, body_bytes, limits):
    """Raise `PayloadTooLarge` when `value` is over MAX_JSON_MB as compact JSON.

    Parameters
    ----------
    body_bytes : int
        Size of the body `value` came in: a small one can't hold a large value (a number such
        as ``1e15`` grows at most eightfold in compact form), and is not encoded again.
    """
    if body_bytes * 8 <= limits.max_json_bytes:
        return
    codec.encode(value, what, limits.max_json_bytes)


KEY = "/v1/state/{key}"
IF_REVISION = Parameter(
    "if_revision", int, "Only if this is the present revision; 0: only if there is none."
)
operations = [
    Operation(
        "GET", "/v1/state", StateListHandler,
        "List entries in byte order of key; the header X-Luma-Next holds the next `after`.",
        answer=list[ItemAnswer],
        parameters=(
            Parameter("prefix", str, "Only keys that start so."),
            Parameter("after", str, "Only keys beyond this one."),
            Parameter("limit", int, "At most so many; 100 when left out, never over 1,000."),
            MIN_OFFSET,
        ),
    ),
    Operation(
        "GET", KEY, StateHandler, "Read an entry.",
        answer=ItemAnswer, parameters=(MIN_OFFSET,), errors=(404,),
    ),
    Operation(
        "PUT", KEY, StateHandler, "Set an entry.", "write",
        body=PutRequest, answer=PutAnswer, errors=(409,),
    ),
    Operation(
        "DELETE", KEY, StateHandler, "Delete an entry.", "write",
        answer=DeleteAnswer, parameters=(IF_REVISION,), errors=(409,),
    ),
    Operation(
        "POST", "/v1/state/batch_put", StateBatchHandler,
        "Put many entries in one commit, each for itself, or all or none.", "write",
        body=BatchRequest, answer=BatchAnswer, errors=(409,),
    ),
]  # fmt: skip
routes = [
    (r"/v1/state", StateListHandler),
    (r"/v1/state/(batch_put)", StateBatchHandler),
    (r"/v1/state/(.+)", StateHandler),
]
