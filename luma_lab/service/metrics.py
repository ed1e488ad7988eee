"""``/v1/metrics``: counters and histograms for Prometheus.

With several workers each answers for itself, named by the label of ``luma_process``.
"""

import os
import re
import time
from pathlib import Path

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from luma_lab.service.base import BaseHandler
from luma_lab.service.operation import Operation, find_operation

MEDIA = "text/plain; version=0.0.4; charset=utf-8"
BUCKETS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
ENGINES = (
    ("/v1/state", "state"),
    ("/v1/doc", "documents"),
    ("/v1/vector", "vectors"),
    ("/search", "vectors"),
    ("/v1/sql", "sql"),
    ("/v1/transaction", "transaction"),
    ("/v1/events", "events"),
    ("/v1/consumers", "events"),
)
VECTOR_READS = re.compile(r"/(?:get|get_batch|scroll|count|status)$")


class Metrics:
    """The figures of one server.

    Parameters
    ----------
    service : luma_lab.service.base.Service
    """

    def __init__(self, service):
        self._service = service
        self.registry = registry = CollectorRegistry()

        def counter(name, about):
            return Counter(name, about, registry=registry)

        def gauge(name, about, labels=()):
            return Gauge(name, about, labels, registry=registry)

        self._puts = counter("state_put", "State entries put over HTTP.")
        self._deletes = counter("state_delete", "State entries deleted over HTTP.")
        self._vectors = counter("vector_ops", "Creations, changes and searches of collections.")
        self._events = gauge("events_total", "Offset of the last event, by whichever process.")
        self._clients = gauge("sse_clients", "Open event streams.")
        self._live = gauge("luma_sse_live", "Streams that have reached the head of the log.")
        self._lag = gauge("luma_sse_lag_events", "Events the slowest stream is behind the head.")
        self._queue = gauge("luma_writer_queue", "Operations that wait for the writer.")
        self._wal = gauge("luma_wal_bytes", "Size of the write-ahead log.")
        self._memory = gauge("luma_resident_bytes", "Resident memory of the process.")
        self._uptime = gauge("luma_uptime_seconds", "Seconds since the server started.")
        self._process = gauge("luma_process", "1, with the process id.", ["pid"])
        self._points = gauge("luma_points", "Live points.", ["collection"])
        self._index = gauge("luma_index_memory_bytes", "Memory of the index.", ["collection"])
        self._disk = gauge("luma_index_disk_bytes", "Index files.", ["collection"])
        self._seconds = Histogram(
            "luma_request_seconds",
            "Time to answer, by route and status.",
            ["method", "route", "status"],
            buckets=BUCKETS,
            registry=registry,
        )
        self._by_engine = Histogram(
            "luma_engine_seconds",
            "Time to answer, by engine.",
            ["engine"],
            buckets=BUCKETS,
            registry=registry,
        )

    def note(self, handler):
        """Count one answered request; return its :func:`route_of`."""
        request = handler.request
        route = route_of(handler)
        seconds = request.request_time()
        status = handler.get_status()
        # A client may invent methods; each would be a label for ever.
        method = request.method if request.method in handler.SUPPORTED_METHODS else "other"
        self._seconds.labels(method, route, str(status)).observe(seconds)
        engine = next((name for start, name in ENGINES if route.startswith(start)), None)
        if engine is not None:
            self._by_engine.labels(engine).observe(seconds)
        if status >= 300:
            return route
        if route == "/v1/state/batch_put":
            self._puts.inc(getattr(handler, "puts", 1))
        elif route == "/v1/state/{key}" and request.method in ("PUT", "DELETE"):
            (self._puts if request.method == "PUT" else self._deletes).inc()
        elif engine == "vectors" and request.method in ("POST", "DELETE"):
            if not VECTOR_READS.search(route):
                self._vectors.inc()
        return route

    def collect(self):
        """Return the figures as Prometheus reads them; blocking."""
        service, lab = self._service, self._service.lab
        head = lab.head
        self._events.set(head)
        behind = [head - subscriber.cursor for subscriber in tuple(service.subscribers)]
        self._lag.set(max(0, *behind) if behind else 0)
        self._clients.set(len(service.streams))
        self._live.set(len(service.fanout))
        self._queue.set(lab.writer_queue)
        self._wal.set(lab.wal_bytes)
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        self._memory.set(pages * os.sysconf("SC_PAGE_SIZE"))
        self._uptime.set(time.monotonic() - service.started)
        self._process.labels(str(os.getpid())).set(1)
        for gauge in (self._points, self._index, self._disk):
            gauge.clear()
        for collection in lab.collections():
            status = collection.index_status()
            self._points.labels(collection.name).set(status["points"])
            self._index.labels(collection.name).set(status["memory_bytes"])
            self._disk.labels(collection.name).set(status["disk_bytes"])
        return generate_latest(self.registry)


def route_of(handler):
    """Return the template of a request's route, the same for every key and name in it."""
    method = "GET" if handler.request.method == "HEAD" else handler.request.method
    service = handler.application.settings["service"]
    operation = find_operation(service.operations, type(handler), method)
    return "other" if operation is None else operation.path


class MetricsHandler(BaseHandler):
    """GET /v1/metrics"""

    async def get(self):
        self.access.check_unscoped("metrics")
        body = await self.run(self.service.metrics.collect)
        self.set_header("Content-Type", MEDIA)
        self.finish(body)


operations = [
    Operation(
        "GET", "/v1/metrics", MetricsHandler, "Counters and histograms for Prometheus.",
        answer=str, answer_media="text/plain",
    ),
]  # fmt: skip
routes = [(r"/v1/metrics", MetricsHandler)]
