"""The server: one port, one `Lab`, started and stopped in an event loop."""

import asyncio
import logging
import os
import signal
from concurrent.futures import ThreadPoolExecutor

from tornado.httpserver import HTTPServer
from tornado.netutil import bind_sockets
from tornado.web import Application

from luma_lab.engine.embedders_http import HttpEmbedder
from luma_lab.engine.keys import KeyStore
from luma_lab.errors import InvalidArgument, Unavailable, UnknownName
from luma_lab.index.snowball import check_language
from luma_lab.service import (
    bulk,
    consumers,
    diskann,
    documents,
    events,
    health,
    hybrid,
    indexes,
    jobs,
    keys,
    lab_pages,
    metrics,
    openapi,
    points,
    queries,
    ranges,
    search,
    sql,
    state,
    transaction,
    vectors,
)
from luma_lab.service.base import NotFoundHandler, Service, log_request
from luma_lab.service.fanout import Fanout
from luma_lab.service.feed import Feed
from luma_lab.service.front import Front
from luma_lab.service.guard import Guard
from luma_lab.service.streams import Streams

# Writers wait for a shared commit, so more of them than cores make larger groups.
POOL_THREADS = 32
GRACE_SECS = 5.0
IDLE_SECS = 300.0
# The front judges bodies; Tornado's own limit would answer without JSON.
NO_LIMIT = 1 << 62
log = logging.getLogger(__name__)
# Order counts where patterns overlap: fixed words come before parameters.
MODULES = (
    health,
    metrics,
    openapi,
    keys,
    state,
    documents,
    vectors,
    points,
    queries,
    ranges,
    hybrid,
    bulk,
    indexes,
    diskann,
    events,
    consumers,
    sql,
    transaction,
    search,
    jobs,
    lab_pages,
)


def all_operations():
    """Return the list of every `Operation` that is served."""
    return [o for module in MODULES for o in getattr(module, "operations", ())]


def make_application(
    lab, settings, pages=None, *, keepalive_secs=events.KEEPALIVE_SECS, secret=None
):
    """Return the Tornado application of every REST route.

    Parameters
    ----------
    lab : luma_lab.Lab
    settings : luma_lab.config.Settings
    pages : dict, optional
        As in :class:`Server`; here it only decides where ``/`` leads.
    keepalive_secs : float
        Silence after which a stream sends a comment.
    secret : str, optional
        As in :class:`Server`.
    """
    pool = ThreadPoolExecutor(POOL_THREADS, thread_name_prefix="luma-rest")
    keys, feed = KeyStore(lab.path), Feed(lab)
    guard = Guard(settings, keys, secret)
    service = Service(
        lab=lab,
        settings=settings,
        keys=keys,
        guard=guard,
        streams=Streams(guard.is_alive),
        sockets=Streams(guard.is_alive),
        feed=feed,
        fanout=Fanout(feed, keepalive_secs),
        pool=pool,
        keepalive_secs=keepalive_secs,
        has_pages=bool(pages),
        operations={(o.handler, o.method): o for o in all_operations()},
        embedder=make_embedder(settings),
    )
    service.metrics = metrics.Metrics(service)
    routes = [route for module in MODULES for route in module.routes]
    return Application(
        routes,
        service=service,
        default_handler_class=NotFoundHandler,
        log_function=log_request,
    )


def make_embedder(settings):
    """Return what makes the vectors of ``/search`` by the settings: an embedder, "lsa" or None.

    Raises
    ------
    InvalidArgument
        A setting names a language or an address that can't be.
    """
    try:
        check_language(settings.search_language)
    except UnknownName as error:
        raise InvalidArgument(f"SEARCH_LANGUAGE: {error}") from None
    if settings.embedder == "http":
        return HttpEmbedder(
            settings.embedder_url, settings.embedder_model, api_key=settings.embedder_api_key
        )
    return None if settings.embedder == "none" else settings.embedder


class Server:
    """A lab on a port.

    Parameters
    ----------
    lab : luma_lab.Lab
        Stays open when the server stops.
    settings : luma_lab.config.Settings
    pages : dict, optional
        From slug (``"/"``) to a callable that returns a new Panel viewable; served under
        ``/lab``.
    keepalive_secs : float
        Silence after which a stream sends a comment.
    secret : str, optional
        What login cookies are signed with, where several processes serve one port.

    Attributes
    ----------
    port : int
        The port taken, once started.
    """

    def __init__(
        self, lab, settings, pages=None, *, keepalive_secs=events.KEEPALIVE_SECS, secret=None
    ):
        self._settings = settings
        self._application = make_application(
            lab, settings, pages, keepalive_secs=keepalive_secs, secret=secret
        )
        self._service = self._application.settings["service"]
        self._pages = lab_pages.make_pages(pages, self._service) if pages else None
        self._front = Front(self._application, self._pages)
        self._http = None
        self.port = None

    @property
    def url(self):
        """The root address, without a slash at the end."""
        bind = self._settings.bind
        host = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(bind, bind)
        if ":" in host and not host.startswith("["):
            host = f"[{host}]"
        return f"http://{host}:{self.port}"

    async def start(self, sockets=None):
        """Listen, on `sockets` where they are bound already; return the server.

        Raises
        ------
        Unavailable
            The address can't be had.
        """
        sockets = sockets or bind(self._settings)
        self.port = sockets[0].getsockname()[1]
        self._http = HTTPServer(
            self._front, max_body_size=NO_LIMIT, idle_connection_timeout=IDLE_SECS
        )
        self._http.add_sockets(sockets)
        if self._pages is not None:
            lab_pages.start_pages(self._pages)
        return self

    async def stop(self, grace_secs=GRACE_SECS):
        """Accept nothing new, end the streams, give requests `grace_secs` to finish, close."""
        service = self._service
        service.stopping = True
        self._http.stop()
        service.feed.close()
        service.fanout.close()
        service.streams.close()
        loop = asyncio.get_running_loop()
        deadline = loop.time() + grace_secs
        while (service.active or service.streams) and loop.time() < deadline:
            await asyncio.sleep(0.02)
        if self._pages is not None:
            await lab_pages.stop_pages(self._pages)
        service.sockets.close()
        await self._http.close_all_connections()
        for closing in list(self._front.draining):
            closing.cancel()
        service.pool.shutdown(wait=False, cancel_futures=True)
        if isinstance(service.embedder, HttpEmbedder):
            service.embedder.close()
        service.keys.close()


def bind(settings):
    """Return the sockets of the settings' address and port, bound and listening.

    Raises
    ------
    Unavailable
        The address can't be had.
    """
    try:
        return bind_sockets(settings.port, address=settings.bind)
    except OSError as error:
        raise Unavailable(
            f"can't listen on {settings.bind} port {settings.port}: "
            f"{os.strerror(error.errno or 0)}; choose another with --port"
        ) from None


async def serve(lab, settings, pages=None, ready=None, *, sockets=None, secret=None):
    """Serve until SIGTERM or SIGINT, then stop gracefully; a second signal ends it at once.

    Parameters
    ----------
    lab, settings, pages
        As in :class:`Server`.
    ready : callable, optional
        Called with the `Server` once it listens.
    sockets : list of socket, optional
        Bound by a parent process.
    secret : str, optional
        As in :class:`Server`.
    """
    server = await Server(lab, settings, pages, secret=secret).start(sockets)
    loop = asyncio.get_running_loop()
    asked = asyncio.Event()

    def ask():
        if asked.is_set():
            os._exit(1)
        asked.set()

    for kind in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(kind, ask)
    try:
        if ready is not None:
            ready(server)
        await asked.wait()
    finally:
        log.info("stopping")
        await server.stop()
        for kind in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(kind)
