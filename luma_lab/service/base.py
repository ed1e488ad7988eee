"""What every handler shares: JSON in, JSON out, errors as JSON, work off the event loop."""

import asyncio
import logging
import re
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import msgspec
import numpy as np
from tornado.web import HTTPError, RequestHandler

from luma_lab import codec, errors
from luma_lab.config import Settings
from luma_lab.engine.keys import KeyStore
from luma_lab.service import refusals
from luma_lab.service.access import ANYONE, NOBODY
from luma_lab.service.fanout import Fanout
from luma_lab.service.feed import Feed
from luma_lab.service.guard import Guard
from luma_lab.service.logs import log_answer
from luma_lab.service.operation import find_operation
from luma_lab.service.statuses import error_body, status_of
from luma_lab.service.streams import Streams
from luma_lab.store import deadline

CODES = {
    400: "invalid_argument",
    403: "forbidden",
    404: "not_found",
    405: "method_not_allowed",
}
INLINE_BYTES = 64 * 1024
_STRING = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"', re.DOTALL)
_NOT_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))
_PATH = re.compile(r" - at `\$\.?(.*)`$")
_TOO_LARGE = re.compile(r"(?:Number|Integer value) out of range")
_MISSING = re.compile(r"missing required field `([^`]*)`")
log = logging.getLogger(__name__)


@dataclass
class Service:
    """What handlers need: made once per server, reached as ``handler.service``."""

    lab: Any
    settings: Settings
    keys: KeyStore
    guard: Guard
    feed: Feed
    pool: ThreadPoolExecutor
    fanout: Fanout
    keepalive_secs: float
    has_pages: bool = False
    operations: dict = field(default_factory=dict)
    started: float = field(default_factory=time.monotonic)
    stopping: bool = False
    active: set = field(default_factory=set)
    subscribers: set = field(default_factory=set)
    streams: Streams = None
    sockets: Streams = None
    metrics: Any = None
    embedder: Any = None


class BaseHandler(RequestHandler):
    """A handler whose answers, good or bad, are compact JSON."""

    timed = True
    asks_for_key = True
    internal_code = "internal"

    @property
    def service(self):
        """The `Service` this handler works for."""
        return self.application.settings["service"]

    @property
    def lab(self):
        """The lab behind the service."""
        return self.service.lab

    @property
    def limits(self):
        """The server's `Settings`."""
        return self.service.settings

    def set_default_headers(self):
        self.clear_header("Server")
        self.set_header("Content-Type", "application/json")
        self.set_header("X-Content-Type-Options", "nosniff")
        guard = self.application.settings["service"].guard
        for name, value in guard.cors_headers(self.request.headers.get("Origin")).items():
            self.set_header(name, value)

    def prepare(self):
        self.service.active.add(self)
        self._deadline = time.monotonic() + self.limits.request_timeout_secs
        request = self.request
        self.access = ANYONE
        if not self.asks_for_key or self._is_preflight():
            return
        guard = self.service.guard
        self.access = guard.admit(request.method, request.path, request.query, request.headers)
        if self.access is not NOBODY:
            guard.check_rate(self.access, request.remote_ip)
        method = "GET" if request.method == "HEAD" else request.method
        if not _is_implemented(self, method.lower()):
            raise refusals.MethodNotAllowed(request.method, self.allowed_methods())
        if self.access is NOBODY:
            return
        operation = find_operation(self.service.operations, type(self), method)
        role = "read" if method in ("GET", "OPTIONS") else "write"
        if operation is not None:
            role = operation.role or "read"
        self.access.check_role(role)

    def on_finish(self):
        self.service.active.discard(self)

    def on_connection_close(self):
        self.service.active.discard(self)

    def compute_etag(self):
        return None

    def allowed_methods(self):
        """Return the methods this route has."""
        methods = [m for m in self.SUPPORTED_METHODS if _is_implemented(self, m.lower())]
        if "GET" in methods and "HEAD" not in methods and self.timed:
            methods.insert(methods.index("GET") + 1, "HEAD")
        return methods

    def head(self, *args):
        """HEAD is GET without the body."""
        if not self.timed:
            raise refusals.MethodNotAllowed("HEAD", self.allowed_methods())
        return self.get(*args)

    def options(self, *args):
        """Answer a CORS preflight, or say which methods there are."""
        if self._is_preflight():
            origin = self.request.headers["Origin"]
            for name, value in self.service.guard.preflight_headers(origin).items():
                self.set_header(name, value)
        self.set_header("Allow", ", ".join(self.allowed_methods()))
        self.clear_header("Content-Type")
        self.set_status(204)
        self.finish()

    @property
    def media_type(self):
        """The content type of the body, without its parameters."""
        return self.request.headers.get("Content-Type", "").partition(";")[0].strip().lower()

    async def read_json(self, model):
        """Return the body as `model`, a msgspec.Struct class.

        Raises
        ------
        UnsupportedMediaType, InvalidJson, WrongShape
        """
        media = self.media_type
        if media != "application/json" and not (
            media.startswith("application/") and media.endswith("+json")
        ):
            raise refusals.UnsupportedMediaType(
                f"content type {media!r}: expected application/json"
            )
        body = self.request.body
        if len(body) > INLINE_BYTES:
            return await self.run(decode_body, body, model)
        return decode_body(body, model)

    async def run(self, work, *args, **kwargs):
        """Run blocking work in the pool and return its result.

        Raises
        ------
        RequestTimeout
            The request's time limit passed first. Reads stop then, a write that still waited
            for its turn is not done; one that had begun goes on to its end.
        """
        loop = asyncio.get_running_loop()
        call = partial(work, *args, **kwargs)
        if not self.timed:
            return await loop.run_in_executor(self.service.pool, call)
        return await self.in_time(
            loop.run_in_executor(self.service.pool, _call_limited, call, self.seconds_left())
        )

    async def in_time(self, future):
        """Return the result of an `asyncio.Future`; past the time limit it is cancelled.

        Raises
        ------
        RequestTimeout
        """
        try:
            async with asyncio.timeout(self.seconds_left()):
                return await future
        except TimeoutError as error:
            if isinstance(error, errors.LumaError):
                raise
            raise refusals.RequestTimeout(
                f"not done within {self.limits.request_timeout_secs} s; "
                "a write that had begun may still be committed"
            ) from None

    async def answer(self, work, *args):
        """Run `work` in the pool and send what it returns as JSON, encoded there too."""
        self.finish(await self.run(_encoded, work, *args))

    def seconds_left(self):
        """Return how much of the request's time limit is left."""
        return max(0.0, self._deadline - time.monotonic())

    async def wait_for(self, min_offset):
        """Return once `min_offset` is readable; raise `RequestTimeout` at the time limit."""
        if min_offset is None:
            return
        if min_offset < 0:
            raise errors.InvalidArgument(f"min_offset is {min_offset}: expected at least 0")
        if not await self.service.feed.reaches(min_offset, self.seconds_left()):
            raise refusals.RequestTimeout(
                f"offset {min_offset} was not reached within {self.limits.request_timeout_secs} s"
            )

    def query_text(self, name, default=None):
        """Return a query parameter exactly as sent; of several the first."""
        values = self.request.query_arguments.get(name)
        if values is None:
            return default
        try:
            return values[0].decode()
        except UnicodeDecodeError:
            raise errors.InvalidArgument(f"query parameter {name} is not UTF-8") from None

    def query_int(self, name, default=None):
        """Return a query parameter as an int of at least 0."""
        text = self.query_text(name)
        if text is None:
            return default
        if not text.isascii() or not text.isdigit() or len(text) > 20:
            raise errors.InvalidArgument(
                f"query parameter {name} is {text!r}: expected an integer of at least 0"
            )
        return int(text)

    def query_bool(self, name):
        """Return a query parameter as a bool; left out means false."""
        text = self.query_text(name, "false").lower()
        if text not in ("true", "false", "1", "0"):
            raise errors.InvalidArgument(
                f"query parameter {name} is {text!r}: expected true or false"
            )
        return text in ("true", "1")

    def write_error(self, status_code, **kwargs):
        error = kwargs.get("exc_info", (None, None, None))[1]
        if isinstance(error, errors.LumaError):
            self.set_status(status_of(error))
            body = error_body(error, str(self.lab.path))
            if status_of(error) == 500 and body["error"] == "internal":
                body["error"] = self.internal_code
            if isinstance(error, refusals.MethodNotAllowed):
                self.set_header("Allow", ", ".join(error.allowed))
            if isinstance(error, refusals.RateLimited):
                self.set_header("Retry-After", str(error.retry_after))
            if isinstance(error, refusals.Unauthorized):
                self.set_header("WWW-Authenticate", "Bearer")
        elif isinstance(error, HTTPError):
            if status_code == 405:
                self.set_header("Allow", ", ".join(self.allowed_methods()))
            message = error.log_message or f"{self.request.method} is not allowed here"
            body = {"error": CODES.get(status_code, "invalid_argument"), "message": message}
        else:
            message = "internal error; the server's log says more"
            body = {"error": self.internal_code, "message": message}
        self.finish(msgspec.json.encode(body))

    def log_exception(self, typ, value, tb):
        # Never the query string: it may hold the key.
        where = f"{self.request.method} {self.request.path}"
        if isinstance(value, errors.LumaError) and status_of(value) != 500:
            log.debug("%s refused: %s", where, value)
        elif isinstance(value, HTTPError):
            log.debug("%s refused: %s", where, value.log_message)
        else:
            log.error("%s failed", where, exc_info=(typ, value, tb))

    def _is_preflight(self):
        headers = self.request.headers
        return (
            self.request.method == "OPTIONS"
            and "Origin" in headers
            and "Access-Control-Request-Method" in headers
        )


class NotFoundHandler(BaseHandler):
    """Any path that is no route."""

    def prepare(self):
        super().prepare()
        if self.request.method != "OPTIONS":
            raise refusals.RouteNotFound(f"no such route: {self.request.path}")

    def get(self, *args):
        """Never reached: `prepare` refuses."""

    post = put = delete = patch = get


def decode_body(body, model):
    """Return JSON bytes as `model`; see `BaseHandler.read_json` for what is refused."""
    if nesting(body) > codec.MAX_DEPTH:
        raise refusals.InvalidJson(f"the body is nested deeper than {codec.MAX_DEPTH} levels")
    try:
        if not body.isascii():
            body.decode()  # the decoder does not look into fields it passes over
        return msgspec.json.decode(body, type=model)
    except msgspec.ValidationError as error:
        text = str(error)
        path = _PATH.search(text)
        missing = _MISSING.search(text)
        parts = [path[1] if path else "", missing[1] if missing else ""]
        field = ".".join(part for part in parts if part) or None
        kind = refusals.OutOfRange if _TOO_LARGE.match(text) else refusals.WrongShape
        raise kind(text, field) from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise refusals.InvalidJson(f"the body is not valid JSON: {error}") from None


def nesting(body):
    """Return how deep the brackets of JSON bytes go, without decoding them."""
    if body.count(b"[") + body.count(b"{") <= codec.MAX_DEPTH:
        return 0
    brackets = _STRING.sub(b"", body).translate(None, _NOT_BRACKETS)
    kinds = np.frombuffer(brackets, dtype=np.uint8)
    opening = (kinds == ord("[")) | (kinds == ord("{"))
    return int(np.where(opening, 1, -1).cumsum().max(initial=0))


def log_request(handler):
    """Log and count one answered request."""
    service = handler.application.settings["service"]
    if service.metrics is None:  # the pages' own application starts before the server does
        return
    log_answer(handler, service.metrics.note(handler), service.settings.slow_query_ms)


def _call_limited(call, seconds):
    with deadline.limited(seconds):
        return call()


def _encoded(work, *args):
    return msgspec.json.encode(work(*args))


def _is_implemented(handler, method):
    if method == "head":
        return False
    own = getattr(type(handler), method, None)
    return own is not None and own is not RequestHandler._unimplemented_method
