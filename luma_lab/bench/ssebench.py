"""Event streams at a thousand subscribers: CPU a delivery, order, stalled readers, memory.

Ours beside a Tornado handler that writes and flushes each event to each connection, one after
the other in the same run. Run as a program: ``python -m luma_lab.bench.ssebench``.
"""

import asyncio
import contextlib
import socket
import subprocess
import sys
import time

from luma_lab import codec

EVENT_DATA = {"text": "x" * 120}
PACE_SECS = 0.004
READ_LIMIT_SECS = 120.0
REQUEST = b"GET /v1/stream?since=latest HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
_COMMON = """
import asyncio, json, os, resource, sys, threading, time
resource.setrlimit(resource.RLIMIT_NOFILE, (resource.getrlimit(resource.RLIMIT_NOFILE)[1],) * 2)
events, pace, data = int(sys.argv[1]), float(sys.argv[2]), json.loads(sys.argv[3])
def cpu():
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime
def rss():
    return int(open("/proc/self/statm").read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20
def say(**fields):
    print(json.dumps(fields), flush=True)
def tell(live):
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    say(cpu=cpu(), rss=rss(), peak=peak, live=live)
"""
_OURS = """
import luma_lab as luma
from luma_lab.config import Settings
from luma_lab.service.app import Server
async def main():
    with luma.open(":memory:") as lab:
        server = await Server(lab, Settings(port=0, auth="open")).start()
        say(port=server.port)
        await asyncio.to_thread(sys.stdin.readline)
        tell(len(server._service.fanout))
        def publish():
            for i in range(events):
                lab.events.publish("tick", data)
                time.sleep(pace)
        await asyncio.to_thread(publish)
        await asyncio.to_thread(sys.stdin.readline)
        tell(len(server._service.fanout))
        await asyncio.to_thread(sys.stdin.readline)
        tell(len(server._service.fanout))
        await server.stop()
asyncio.run(main())
"""
_THEIRS = """
from tornado.web import Application, RequestHandler
handlers = set()
class Stream(RequestHandler):
    async def get(self):
        self.set_header("Content-Type", "text/event-stream")
        await self.flush()
        handlers.add(self)
        self.ended = asyncio.Event()
        await self.ended.wait()
    def on_connection_close(self):
        handlers.discard(self)
        self.ended.set()
async def main():
    server = Application([("/v1/stream", Stream)]).listen(0, address="127.0.0.1")
    say(port=next(iter(server._sockets.values())).getsockname()[1])
    await asyncio.to_thread(sys.stdin.readline)
    tell(len(handlers))
    for i in range(1, events + 1):
        now = int(time.time() * 1000)
        body = json.dumps({"offset": i, "ts_ms": now, "type": "tick", "data": data})
        frame = f"event: tick\\nid: {i}\\ndata: {body}\\n\\n"
        for handler in list(handlers):
            handler.write(frame)
            handler.flush()
        await asyncio.sleep(pace)
    await asyncio.to_thread(sys.stdin.readline)
    tell(len(handlers))
    await asyncio.to_thread(sys.stdin.readline)
    tell(len(handlers))
    os._exit(0)
asyncio.run(main())
"""


def measure(subscribers=1000, events=1000, stalled=10, *, pace_secs=PACE_SECS):
    """Return a dict with ``ours``, ``write_and_flush`` and the ratio of CPU a delivery.

    Each of the two holds: ``cpu_us`` of the server a delivery, ``whole`` and ``stalled_whole``
    (how many streams got every event once and in order; stalled ones read only at the end),
    ``live`` (to how many events went straight) and ``rss_mb``, both before, with the stalled
    backlog, and after, and ``peak_mb``. Ours drops the stalled ones from those it hands events
    to and replays the log to them later; with at least 1,000 events none fits into its socket.
    """
    ours = asyncio.run(_run(_OURS, subscribers, events, stalled, pace_secs))
    theirs = asyncio.run(_run(_THEIRS, subscribers, events, stalled, pace_secs))
    return {
        "ours": ours,
        "write_and_flush": theirs,
        "cpu_ratio": theirs["cpu_us"] / ours["cpu_us"],
    }


async def _run(script, subscribers, events, stalled, pace_secs):
    command = [sys.executable, "-c", _COMMON + script, str(events), str(pace_secs)]
    command.append(codec.encode(EVENT_DATA).decode())
    server = subprocess.Popen(command, stdin=-1, stdout=-1, text=True)
    try:
        port = _heard(server)["port"]
        readers = []
        late = [_unread(port) for _ in range(stalled)]
        for _ in range(subscribers - stalled):
            reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1 << 16)
            writer.write(REQUEST)
            await reader.readuntil(b"\r\n\r\n")
            readers.append((reader, writer))
        await asyncio.sleep(1)
        before = await _tell(server)
        told = await asyncio.gather(*[_ids(reader, events) for reader, _ in readers])
        during = await _tell(server)
        late_readers = [await asyncio.open_connection(sock=sock) for sock in late]
        told_late = await asyncio.gather(*[_ids(reader, events) for reader, _ in late_readers])
        after = await _tell(server)
        for _, writer in readers + late_readers:
            writer.close()
        wanted = list(range(told[0][0], told[0][0] + events)) if told and told[0] else []
        return {
            "cpu_us": (during["cpu"] - before["cpu"]) / (len(told) * events) * 1e6,
            "whole": sum(ids == wanted for ids in told),
            "stalled_whole": sum(ids == wanted for ids in told_late),
            "live": [moment["live"] for moment in (before, during, after)],
            "rss_mb": [round(moment["rss"], 1) for moment in (before, during, after)],
            "peak_mb": round(after["peak"], 1),
        }
    finally:
        server.kill()
        server.wait()
        server.stdin.close()
        server.stdout.close()


def _unread(port):
    """Return a connection with a stream of which nothing is read, and little fits in between."""
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    sock.connect(("127.0.0.1", port))
    sock.sendall(REQUEST)
    return sock


async def _ids(reader, count):
    """Return the ids of the next `count` events of a stream."""
    found = []
    with contextlib.suppress(TimeoutError, asyncio.IncompleteReadError):
        async with asyncio.timeout(READ_LIMIT_SECS):
            rest = b""
            while len(found) < count:
                chunk = await reader.read(1 << 16)
                if not chunk:
                    break
                *lines, rest = (rest + chunk).split(b"\n")
                found += [int(line[4:]) for line in lines if line.startswith(b"id: ")]
    return found


async def _tell(server):
    server.stdin.write("\n")
    server.stdin.flush()
    return await asyncio.to_thread(_heard, server)


def _heard(server):
    return codec.decode(server.stdout.readline())


if __name__ == "__main__":
    began = time.perf_counter()
    figures = measure(*map(int, sys.argv[1:4]))
    figures["secs"] = time.perf_counter() - began
    sys.stdout.buffer.write(codec.encode(figures) + b"\n")
