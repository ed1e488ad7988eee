"""The door: what must be judged before an application sees the request.

Tornado itself answers some faults bare (a body over its limit, a bad length). Here they are
judged first, so that every refusal is JSON; a request line that can't be parsed is the one
exception. Also here: Host headers, the login of the workbench, and the time a body may take.
"""

import asyncio
import logging
import socket

import msgspec
from tornado import httputil
from tornado.iostream import StreamClosedError
from tornado.web import RequestHandler

from luma_lab.errors import InvalidArgument, LumaError, PayloadTooLarge
from luma_lab.service.lab_pages import LOGIN, PREFIX, WEBSOCKET
from luma_lab.service.refusals import RequestTimeout, Unauthorized, UnsupportedMediaType
from luma_lab.service.statuses import error_body, status_of
from luma_lab.service.streams import Socket

# Bodies up to this size are read before anything is refused, so that the connection lives on.
SMALL_BODY_BYTES = 64 * 1024
DRAIN_BYTES = 16 * 1024 * 1024
DRAIN_SECS = 2.0
MAX_LENGTH_DIGITS = 18
log = logging.getLogger(__name__)


class Front(httputil.HTTPServerConnectionDelegate):
    """Hands requests to the REST application or to the pages.

    Parameters
    ----------
    application : tornado.web.Application
        REST; its settings hold the `Service`.
    pages : tornado.web.Application or None
        What is under ``/lab/``.
    """

    def __init__(self, application, pages=None):
        self.application = application
        self.pages = pages
        self.service = application.settings["service"]
        self.draining = set()

    def start_request(self, server_conn, request_conn):
        return _Message(self, server_conn, request_conn)

    def target(self, path):
        """Return the application that serves `path`."""
        is_page = path.startswith(PREFIX + "/") and path != LOGIN
        return self.pages if is_page and self.pages is not None else self.application


class _Redirect(Exception):
    """The answer is another place, not an error."""


class _Message(httputil.HTTPMessageDelegate):
    """One request on its way in."""

    def __init__(self, front, server_conn, request_conn):
        self._front = front
        self._service = front.service
        self._server_conn = server_conn
        self._connection = request_conn
        self._inner = None
        self._received = 0
        self._limit = front.service.settings.max_body_bytes
        self._timer = None
        self._refused = False

    def headers_received(self, start_line, headers):
        self._origin = headers.get("Origin")
        path, _, query = start_line.path.partition("?")
        target = self._front.target(path)
        try:
            self._check(start_line.method, path, query, headers, target)
            self._inner = target.start_request(self._server_conn, self._connection)
            following = self._inner.headers_received(start_line, headers)
        except LumaError as error:
            return self._refuse(_response(self._service, error, self._origin))
        except _Redirect:
            return self._refuse(_redirect(LOGIN))
        except httputil.HTTPInputError as error:
            problem = InvalidArgument(f"bad request: {error}")
            return self._refuse(_response(self._service, problem, self._origin))
        if "Content-Length" in headers or "Transfer-Encoding" in headers:
            seconds = self._service.settings.request_timeout_secs
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(seconds, self._on_slow_body)
        return following

    def data_received(self, chunk):
        self._received += len(chunk)
        if self._refused:
            if self._received > self._limit + DRAIN_BYTES:
                self._connection.stream.close()
            return None
        if self._received > self._limit:
            self._answer_late(self._too_large(None))
            return None
        return self._inner.data_received(chunk)

    def finish(self):
        self._stop_timer()
        if self._refused:
            self._connection.stream.close()
        else:
            self._inner.finish()

    def on_connection_close(self):
        self._stop_timer()
        if self._inner is not None and not self._refused:
            self._inner.on_connection_close()

    def _check(self, method, path, query, headers, target):
        guard = self._service.guard
        host = headers.get("Host")
        guard.check_host(host)
        guard.check_origin(method, headers.get("Origin"))
        if method not in RequestHandler.SUPPORTED_METHODS:
            # Tornado refuses it before any handler could ask for the key.
            guard.admit(method, path, query, headers)
        if target is self._front.pages and not guard.is_open(method, path):
            self._check_session(method, path, headers)
        if headers.get("Upgrade", "").lower() == "websocket":
            guard.check_websocket(host, headers.get("Origin"))
        elif target is self._front.pages and path == WEBSOCKET:
            raise InvalidArgument(f"{path} speaks websocket only")
        length = _content_length(headers)
        chunked = "Transfer-Encoding" in headers
        if chunked and (
            "Content-Length" in headers or headers["Transfer-Encoding"].lower() != "chunked"
        ):
            raise InvalidArgument("Transfer-Encoding: expected 'chunked' alone, no Content-Length")
        if chunked or length > SMALL_BODY_BYTES:
            # A stranger's body is not worth reading.
            guard.admit(method, path, query, headers)
        if length > self._limit:
            raise self._too_large(length)
        media = headers.get("Content-Type", "").strip().lower()
        if media.startswith("multipart/") and target is self._front.application:
            # Tornado would take such a body apart before any handler could refuse it.
            guard.admit(method, path, query, headers)
            raise UnsupportedMediaType(f"content type {media!r}: expected application/json")

    def _check_session(self, method, path, headers):
        cookies = httputil.parse_cookie(headers.get("Cookie", ""))
        access = self._service.guard.session(cookies)
        if access is not None:
            if path == WEBSOCKET:
                self._service.sockets.add(Socket(self._connection.stream), access)
            return
        if method == "GET" and path == PREFIX + "/":
            raise _Redirect
        raise Unauthorized(f"log in at {LOGIN} first")

    def _too_large(self, length):
        size = f"{length} bytes" if length is not None else "more"
        return PayloadTooLarge(f"body too large: {size}, at most {self._limit} bytes")

    def _on_slow_body(self):
        seconds = self._service.settings.request_timeout_secs
        self._answer_late(RequestTimeout(f"the body did not arrive within {seconds} s"))
        self._connection.stream.close()

    def _answer_late(self, error):
        """Refuse in the middle of a body: answer now, swallow what is still coming."""
        self._refused = True
        self._stop_timer()
        self._inner.on_connection_close()
        stream = self._connection.stream
        if not stream.closed():
            stream.write(_response(self._service, error, self._origin))

    def _stop_timer(self):
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _refuse(self, response):
        stream = self._connection.detach()
        closing = asyncio.ensure_future(_say_and_close(stream, response))
        self._front.draining.add(closing)
        closing.add_done_callback(self._front.draining.discard)


async def _say_and_close(stream, response):
    """Send `response`, read on for a moment (a reset would destroy it unread), close."""
    try:
        await stream.write(response)
        stream.socket.shutdown(socket.SHUT_WR)
        async with asyncio.timeout(DRAIN_SECS):
            left = DRAIN_BYTES
            while left > 0:
                left -= len(await stream.read_bytes(64 * 1024, partial=True))
    except (StreamClosedError, OSError):  # a time-out is an OSError too
        pass
    finally:
        stream.close()


def _content_length(headers):
    text = headers.get("Content-Length")
    if text is None:
        return 0
    if not text.isascii() or not text.isdigit() or len(text) > MAX_LENGTH_DIGITS:
        raise InvalidArgument(f"Content-Length is {text[:40]!r}: expected one integer")
    return int(text)


def _response(service, error, origin):
    body = msgspec.json.encode(error_body(error, str(service.lab.path)))
    headers = {"Content-Type": "application/json", **service.guard.cors_headers(origin)}
    if isinstance(error, Unauthorized):
        headers["WWW-Authenticate"] = "Bearer"
    return _bytes(status_of(error), headers, body)


def _redirect(location):
    return _bytes(302, {"Location": location, "Cache-Control": "no-store"}, b"")


def _bytes(status, headers, body):
    reason = httputil.responses.get(status, "Unknown")
    lines = [f"HTTP/1.1 {status} {reason}", "Connection: close", f"Content-Length: {len(body)}"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1", "replace") + body
