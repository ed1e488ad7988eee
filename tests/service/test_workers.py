"""``luma serve --workers``: two processes on one port and one directory."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time

import pytest
from children import ROOT
from service_running import Frames
from serving import is_running, serving, wait_until, worker_of

import luma_lab as luma

pytestmark = pytest.mark.crash
# Works as the server does: the first signal lets it finish, a second one cuts it off.
WORKERS = """
import asyncio, os, signal, socket, sys
from luma_lab.service import workers
workers.SAME_WISH_SECS = float(sys.argv[1])

async def live():
    asked, loop = asyncio.Event(), asyncio.get_running_loop()
    for kind in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(kind, lambda: os._exit(9) if asked.is_set() else asked.set())
    os.write(1, b"serving %d\\n" % os.getpid())
    await asyncio.wait_for(asked.wait(), 60)
    os.write(1, b"asked %d\\n" % os.getpid())
    await asyncio.sleep(float(sys.argv[2]))
    os.write(1, b"finished %d\\n" % os.getpid())

sockets = [socket.create_server(("127.0.0.1", 0))]
workers.Workers(sockets, lambda sockets: asyncio.run(live())).run(2, lambda: None)
os.write(1, b"stopped\\n")
"""


@contextlib.contextmanager
def parent(same_wish_secs=60.0, finishes_after_secs=0.5):
    """A parent of two workers in a process group of its own, once both serve."""
    process = subprocess.Popen(
        [sys.executable, "-c", WORKERS, str(same_wish_secs), str(finishes_after_secs)],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": ROOT},
        start_new_session=True,
    )
    try:
        process.workers = set(pids(process, "serving", 2))
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        process.stdout.close()


def pids(process, word, count):
    """Read lines until `count` workers said `word`; return their process ids."""
    found = []
    while len(found) < count:
        line = process.stdout.readline()
        assert line, f"ended before {word}"
        if line.startswith(word):
            found.append(int(line.split()[1]))
    return found


@pytest.mark.parametrize("kind", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_to_the_whole_group_lets_every_worker_finish(kind):
    with parent() as process:
        os.killpg(process.pid, kind)
        assert set(pids(process, "finished", 2)) == process.workers
        assert process.stdout.read() == "stopped\n"
        assert process.wait(30) == 0


def test_a_signal_to_a_worker_and_then_to_its_parent_is_one_wish():
    with parent() as process:
        for worker in process.workers:
            os.kill(worker, signal.SIGINT)
        pids(process, "asked", 2)
        process.send_signal(signal.SIGINT)
        assert set(pids(process, "finished", 2)) == process.workers
        assert process.stdout.read() == "stopped\n"


def test_a_second_signal_that_comes_later_ends_the_workers_at_once():
    with parent(same_wish_secs=0.0, finishes_after_secs=600) as process:
        process.send_signal(signal.SIGTERM)
        pids(process, "asked", 2)
        process.send_signal(signal.SIGINT)
        assert process.stdout.read() == "stopped\n"
        assert process.wait(30) == 0


def test_a_worker_told_to_stop_finishes_and_is_replaced():
    with parent() as process:
        told = next(iter(process.workers))
        os.kill(told, signal.SIGTERM)
        assert pids(process, "finished", 1) == [told]
        (new,) = pids(process, "serving", 1)
        process.send_signal(signal.SIGTERM)
        assert set(pids(process, "finished", 2)) == process.workers - {told} | {new}
        assert process.wait(30) == 0


def test_workers_stop_when_their_parent_was_killed():
    with parent() as process:
        process.kill()
        assert set(pids(process, "finished", 2)) == process.workers
        wait_until(lambda: not any(map(is_running, process.workers)))


def test_signals_while_workers_are_replaced_leave_none_behind():
    for delay in (0.0, 0.5):
        with parent(finishes_after_secs=0.0) as process:
            os.kill(next(iter(process.workers)), signal.SIGKILL)
            time.sleep(delay)
            process.send_signal(signal.SIGTERM)
            assert process.stdout.read().endswith("stopped\n")
            assert process.wait(30) == 0


@contextlib.contextmanager
def followed(client):
    """The stream of a client's worker from now on, and that worker's process id."""
    worker = worker_of(client)
    with client.stream("GET", "/v1/stream?since=latest") as response:
        frames = Frames(response)
        frames.block()
        yield frames, worker


def test_what_one_worker_commits_reaches_the_subscribers_of_the_other(tmp_path):
    with serving(tmp_path / "lab", "--workers", "2") as server:
        one, two = server.workers()
        with contextlib.ExitStack() as stack:
            clients = [server.client_of(pid) for pid in (one, two)]
            readers = [server.client_of(pid) for pid in (one, two)]
            for client in (*clients, *readers):
                stack.callback(client.close)
            streams = [stack.enter_context(followed(reader)) for reader in readers]
            assert [worker for _, worker in streams] == [one, two]
            expected = []
            for i in range(20):
                writer, (reader, _) = clients[i % 2], streams[1 - i % 2]
                data = {"type": "told", "data": i}
                offset = writer.post("/v1/events", json=data).json()["offset"]
                frame = reader.frame()
                assert (frame["id"], frame["data"]["data"]) == (offset, i)
                expected.append((offset, i))
                other = streams[i % 2][0].frame()
                assert (other["id"], other["data"]["data"]) == (offset, i)

            def write(client, name):
                for i in range(40):
                    assert client.put(f"/v1/state/{name}{i}", json={"value": i}).status_code == 200

            threads = [
                threading.Thread(target=write, args=(client, name))
                for client, name in zip(clients, "ab", strict=True)
            ]
            for thread in threads:
                thread.start()
            told = [[frame["id"] for frame in frames.frames(80)] for frames, _ in streams]
            for thread in threads:
                thread.join(30)
            first = expected[-1][0] + 1
            assert told == [list(range(first, first + 80))] * 2
            listed = [client.get("/v1/state").json() for client in clients]
            assert listed[0] == listed[1] and len(listed[0]) == 80


def test_a_killed_worker_is_replaced_and_a_stop_lets_requests_finish(tmp_path):
    with serving(tmp_path / "lab", "--workers", "2") as server, contextlib.ExitStack() as stack:
        killed, kept = server.workers()
        survivor = closing(stack, server.client_of(kept))
        os.kill(killed, signal.SIGKILL)
        wait_until(lambda: len(server.workers()) == 2 and killed not in server.workers())
        (new,) = set(server.workers()) - {kept}
        writer = closing(stack, server.client_of(new))
        offset = writer.put("/v1/state/a", json={"value": 1}).json()["offset"]
        assert survivor.get(f"/v1/state/a?min_offset={offset}").json()["value"] == 1

        reader = closing(stack, server.client_of(kept))
        frames, _ = stack.enter_context(followed(reader))
        answers = []

        def write():
            answers.append(writer.put("/v1/state/late", json={"value": 2}))

        with luma.open(tmp_path / "lab") as lab:
            with lab.transaction() as tx:  # until it ends nobody else can write
                tx.state["held"] = 1
                thread = threading.Thread(target=write)
                thread.start()
                time.sleep(0.3)
                os.killpg(server.process.pid, signal.SIGINT)
                wait_until(lambda: is_refused(server.port))
                assert not answers
            thread.join(30)
            assert answers[0].status_code == 200
            assert lab.state["late"] == 2
        status, said = server.wait()
        assert status == 0 and said.endswith("stopped\n") and "Traceback" not in said
        with pytest.raises(StopIteration):
            while True:
                frames.block()


def closing(stack, client):
    stack.callback(client.close)
    return client


def is_refused(port):
    try:
        socket.create_connection(("127.0.0.1", port), timeout=5).close()
    except ConnectionRefusedError:
        return True
    return False
