"""State against its peers in one run: group commit, redis, a bare SQLite select, the cache.

Rounds are interleaved and medians are compared, for a disk or a neighbour may be slow for a while.
"""

import asyncio
import contextlib
import shutil
import socket
import statistics
import subprocess
import tempfile
import threading
import time
from pathlib import Path

import apsw

from luma_lab.engine.lab import Lab
from luma_lab.errors import Unavailable

VALUE = {"role": "user", "content": "x" * 170}  # about 200 bytes of JSON
LARGE_BYTES = 256 * 1024


def measure(directory=None, *, rounds=5, puts=4000, redis=True):
    """Measure state and its peers; return a dict of figures.

    Parameters
    ----------
    directory : path, optional
        Where to put the data: a disk that really syncs. Default: the temporary directory.
    puts : int
        Of each round with many clients; with one client a tenth of it.

    Returns
    -------
    dict
        Medians over `rounds`: puts a second of 64 coroutines, 8 threads, redis and one
        transaction a put, microseconds of gets, and their ratios.
    """
    home = Path(tempfile.mkdtemp(dir=directory, prefix="luma-bench-"))
    with contextlib.ExitStack() as stack:
        stack.callback(shutil.rmtree, home, ignore_errors=True)
        lab = stack.enter_context(Lab(home / "lab"))
        server = stack.enter_context(_redis(home)) if redis else None
        bare = apsw.Connection(str(home / "bare.db"))
        stack.callback(bare.close)
        _prepare_bare(bare)
        figures = {}
        for _ in range(rounds):
            _note(figures, "puts_64_coroutines", _coroutines(lab, 64, puts))
            _note(figures, "puts_one_transaction_each", _one_by_one(bare, puts // 10))
            _note(figures, "puts_8_threads", _threads(lambda: lab.state.put, 8, puts))
            _note(figures, "puts_8_coroutines", _coroutines(lab, 8, puts))
            if server is not None:
                _note(figures, "redis_8_threads", _threads(server, 8, puts))
            for name, value in _gets(lab).items():
                _note(figures, name, value)
        result = {name: statistics.median(values) for name, values in figures.items()}
    return {**result, **_ratios(result)}


def _ratios(r):
    ratios = {
        "coroutines_64_over_one_each": r["puts_64_coroutines"] / r["puts_one_transaction_each"],
        "get_over_bare_select": r["get_us"] / r["bare_select_us"],
        "uncached_over_cached_string": r["uncached_string_us"] / r["cached_string_us"],
        "uncached_over_cached_numbers": r["uncached_numbers_us"] / r["cached_numbers_us"],
    }
    if "redis_8_threads" in r:
        ratios["threads_8_over_redis"] = r["puts_8_threads"] / r["redis_8_threads"]
        ratios["coroutines_8_over_redis"] = r["puts_8_coroutines"] / r["redis_8_threads"]
    return ratios


def _note(figures, name, value):
    figures.setdefault(name, []).append(value)


def _coroutines(lab, clients, puts):
    """Return durable puts a second of coroutines that each wait for theirs."""

    async def client(number):
        for i in range(puts // clients):
            await lab.state.put_async(f"c{number}:{i % 100}", VALUE)

    async def everyone():
        await asyncio.gather(*[client(n) for n in range(clients)])

    began = time.perf_counter()
    asyncio.run(everyone())
    return puts / (time.perf_counter() - began)


def _threads(make_put, clients, puts):
    """Return durable puts a second of threads that each wait for theirs."""
    barrier = threading.Barrier(clients + 1)

    def client(number):
        put = make_put()
        barrier.wait()
        for i in range(puts // clients):
            put(f"t{number}:{i % 100}", VALUE)

    threads = [threading.Thread(target=client, args=(n,)) for n in range(clients)]
    for thread in threads:
        thread.start()
    barrier.wait()
    began = time.perf_counter()
    for thread in threads:
        thread.join()
    return puts / (time.perf_counter() - began)


def _prepare_bare(connection):
    connection.execute("PRAGMA journal_mode=WAL").fetchall()
    connection.execute("PRAGMA synchronous=FULL").fetchall()
    connection.execute("CREATE TABLE state (key TEXT PRIMARY KEY, value BLOB)").fetchall()


def _one_by_one(connection, puts):
    """Return puts a second where each has a transaction of its own and nothing else."""
    from luma_lab import codec

    began = time.perf_counter()
    for i in range(puts):
        connection.execute("BEGIN IMMEDIATE")
        connection.execute(
            "INSERT OR REPLACE INTO state VALUES (?, ?)", (f"k{i % 100}", codec.encode(VALUE))
        )
        connection.execute("COMMIT")
    return puts / (time.perf_counter() - began)


def _gets(lab, count=2000):
    state = lab.state
    state["small"] = VALUE
    state["string"] = "x" * (LARGE_BYTES - 2)
    state["numbers"] = list(range(LARGE_BYTES // 7))
    other = apsw.Connection(str(lab.path / "luma.db"), flags=apsw.SQLITE_OPEN_READONLY)
    uncached = type(state)(None, lambda: other, state._clock)
    sql = "SELECT key, revision, expires_at_ms, value, crc FROM luma_state WHERE key=?"
    figures = {
        "bare_select_us": _micros(lambda: other.execute(sql, ("small",)).fetchone(), count),
        "get_us": _micros(lambda: state.get("small"), count),
    }
    for name in ("string", "numbers"):
        state.get(name)
        calls = max(10, count // 20)
        figures[f"uncached_{name}_us"] = _micros(lambda name=name: uncached.get(name), calls)
        figures[f"cached_{name}_us"] = _micros(lambda name=name: state.get(name), calls)
    other.close()
    return figures


def _micros(call, count):
    began = time.perf_counter()
    for _ in range(count):
        call()
    return (time.perf_counter() - began) / count * 1e6


@contextlib.contextmanager
def _redis(home):
    """Run a redis-server that syncs every write; yield a maker of put functions."""
    if shutil.which("redis-server") is None:
        raise Unavailable("redis-server is not installed: pass redis=False")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = ["redis-server", "--port", str(port), "--bind", "127.0.0.1", "--dir", str(home)]
    command += ["--appendonly", "yes", "--appendfsync", "always", "--save", ""]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    try:
        _wait_for(port)
        yield lambda: _redis_put(port)
    finally:
        process.terminate()
        process.wait()


def _wait_for(port):
    deadline = time.monotonic() + 10
    while True:
        try:
            socket.create_connection(("127.0.0.1", port)).close()
            return
        except OSError:
            if time.monotonic() > deadline:
                raise Unavailable("redis-server did not start within 10 s") from None
            time.sleep(0.05)


def _redis_put(port):
    """Return a put over the wire protocol; leaner than any client library."""
    from luma_lab import codec

    connection = socket.create_connection(("127.0.0.1", port))
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def put(key, value):
        name, data = key.encode(), codec.encode(value)
        connection.sendall(
            b"*3\r\n$3\r\nSET\r\n$%d\r\n%b\r\n$%d\r\n%b\r\n" % (len(name), name, len(data), data)
        )
        if connection.recv(64) != b"+OK\r\n":
            raise Unavailable("redis-server did not answer OK")

    return put
