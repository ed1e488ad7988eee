"""A server with ``POST /v1/embeddings`` in a thread, whose answers a test can script."""

import asyncio
import json
import threading
import zlib

import numpy as np
from tornado.httpserver import HTTPServer
from tornado.web import Application, RequestHandler


def vector_of(text, dim):
    """Return the vector the server answers for a text: words added up, each a fixed direction."""
    vector = np.full(dim, 1e-3)
    for word in text.lower().split():
        vector += np.random.default_rng(zlib.crc32(word.encode())).standard_normal(dim)
    return vector


class EmbeddingServer:
    """Context manager; `requests` lists what came, `script` what to answer instead.

    Each entry of `script` is used once: a status, (status, headers), a dict as the body, bytes,
    ``"hang"`` or ``"close"``.
    """

    def __init__(self, dim=8):
        self.dim = dim
        self.requests, self.headers, self.script = [], [], []

    @property
    def texts(self):
        return [text for request in self.requests for text in request["input"]]

    def __enter__(self):
        ready = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve(ready)))
        self._thread.start()
        ready.wait()
        return self

    def __exit__(self, *_):
        self._loop.call_soon_threadsafe(self._ended.set)
        self._thread.join()

    async def _serve(self, ready):
        self._loop, self._ended = asyncio.get_running_loop(), asyncio.Event()
        http = HTTPServer(Application([(r"/v1/embeddings", _Handler, {"server": self})]))
        http.listen(0, "127.0.0.1")
        port = next(iter(http._sockets.values())).getsockname()[1]
        self.url = f"http://127.0.0.1:{port}"
        ready.set()
        await self._ended.wait()
        http.stop()
        await http.close_all_connections()


class _Handler(RequestHandler):
    def initialize(self, server):
        self.server = server

    async def post(self):
        server = self.server
        body = json.loads(self.request.body)
        server.requests.append(body)
        server.headers.append(dict(self.request.headers))
        step = server.script.pop(0) if server.script else None
        if step == "hang":
            await server._ended.wait()
            return
        if step == "close":
            self.request.connection.stream.close()
            return
        if isinstance(step, (int, tuple)):
            status, headers = step if isinstance(step, tuple) else (step, {})
            self.set_status(status)
            for name, value in headers.items():
                self.set_header(name, value)
            self.finish({"error": {"message": f"refused {self.request.headers['Authorization']}"}})
            return
        if step is not None:
            self.finish(step)
            return
        data = [
            {"index": i, "embedding": vector_of(text, server.dim).tolist()}
            for i, text in enumerate(body["input"])
        ]
        self.finish({"data": data[::-1], "model": body["model"]})
