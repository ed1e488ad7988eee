"""Every method of every route, with everything the contract lets it answer.

The rows are in ``routes_of_*``; what rows of a kind have in common is made in ``route_cases``.
"""

import contextlib
import json
import re
import time
from concurrent.futures import ThreadPoolExecutor
from types import UnionType
from typing import get_args

import msgspec
import pytest
import routes_of_searches
import routes_of_service
import routes_of_stores
import routes_of_vectors
from route_cases import BODY_MB, JSON, JSON_MB, METHODS, UNSET, rows_of
from service_running import KEY, Running

import luma_lab as luma
from luma_lab.config import Settings
from luma_lab.engine.embedders import PROBE
from luma_lab.engine.jobs import FINISHED
from luma_lab.engine.keys import KeyStore
from luma_lab.service.app import MODULES, all_operations

ROUTES = sum(
    (
        m.ROUTES
        for m in (routes_of_service, routes_of_stores, routes_of_vectors, routes_of_searches)
    ),
    (),
)
OPERATIONS = {(o.method, o.path): o for o in all_operations()}
PLACEHOLDERS = re.compile(r"(?<=/)(KEY|JOB|RUNNING)(?=/|$)")


# Writes that the log does not tell of, or tells of in time.
UNLOGGED = {
    "/v1/vector/{collection}/index/build",
    "/v1/vector/{collection}/compact",
    "/v1/jobs/{id}",
    "/v1/consumers/{name}",
    "/v1/consumers/{name}/ack",
}
# Reads of what is not in the log; the streams are the log.
WITHOUT_OFFSET = {
    "/v1/metrics",
    "/v1/jobs",
    "/v1/jobs/{id}",
    "/v1/consumers",
    "/v1/stream",
    "/v1/events",
}


def methods_of(route):
    return {r.method for r in ROUTES if r.path == route.path} | set(route.also)


ROWS = [(route, case) for route in ROUTES for case in rows_of(route, methods_of(route))]
HASTY = [row for row in ROWS if row[1].server.startswith("hasty")]


class Twos:
    """An embedder that makes all texts equal, or fails."""

    def __init__(self, broken=False):
        self.model_name, self._broken = "twos", broken

    def encode(self, texts):
        if self._broken and texts != [PROBE]:
            raise OSError("the model is gone")
        return [[2.0, 2.0]] * len(texts)


class House:
    """One lab, the servers on it, clients with each kind of key."""

    def __init__(self, stack):
        self.lab = lab = stack.enter_context(luma.open(":memory:"))
        docs = lab.create_collection("docs", 2, "l2")
        docs.upsert(["a", "b"], [[1, 2], [3, 4]], [{"n": 1}, {"n": 2}])
        built = lab.create_collection("built", 2, "l2")
        built.upsert([str(i) for i in range(20)], [[i, 1] for i in range(20)])
        lab.create_collection("documents", 2, "cosine", text_fields=["content"])
        words = lab.create_collection("words", 2, text_fields=["text"])
        words.upsert(["a", "b"], [[1, 2], [3, 4]], [{"text": "one"}, {"text": "one two"}])
        learned = lab.create_collection("learned", 2, text_fields=["text"])
        learned.use_embedder("lsa")
        learned.upsert(["a", "b"], metas=[{"text": "one"}, {"text": "two"}])
        foreign = lab.create_collection("foreign", 2)
        foreign.use_embedder(Twos(), fields=["text"])
        foreign._parts.embedders.clear()
        broken = lab.create_collection("broken", 2)
        broken.use_embedder(Twos(broken=True), fields=["text"])
        lab.state.put("k", {"a": 1})
        lab.documents("docs").put("a", {"a": 1})
        lab.sql.execute("CREATE TABLE own (a)")
        lab.consumers.ack("reader", 1)
        self.keys = KeyStore(lab.path)
        stack.callback(self.keys.close)
        rights = {"collections": ["mine*"], "key_prefixes": ["mine:"]}
        tokens = {
            "admin": KEY,
            "unknown": KEY + "x",
            None: None,
            "read": self.keys.create("r", "read")[1],
            "write": self.keys.create("w", "write")[1],
            "confined": self.keys.create("c", "write", rights)[1],
        }
        common = {
            "port": 0,
            "api_key": KEY,
            "max_body_mb": BODY_MB,
            "max_json_mb": JSON_MB,
            "test_vectors": True,
        }
        settings = {
            "plain": Settings(**common),
            "hasty": Settings(**common, request_timeout_secs=1),
            "hasty_sql": Settings(**common, sql_timeout_secs=1),
            "no_sql": Settings(**common, sqlite_enabled=False),
            "bare": Settings(**common, embedder="none"),
        }
        self.servers, self.clients = {}, {}
        for name, chosen in settings.items():
            self.servers[name] = Running(lab, chosen)
            stack.callback(self.servers[name].stop)
            for key, token in tokens.items():
                client = self.servers[name].client(token)
                self.clients[name, key] = stack.enter_context(client)

    def ask(self, case, key, method, url, **body):
        client = self.clients[case.server, key]
        url = PLACEHOLDERS.sub(lambda found: getattr(self, f"a_{found[1].lower()}")(), url)
        return client.request(method, url, **body)

    def send(self, case):
        """Return the answer to a row's request."""
        for method, url, value in case.before:
            answer = self.ask(case, "admin", method, url, json=value)
            assert answer.status_code < 300, answer.text
        self.settle()
        self.head = self.lab.head
        body = {"headers": case.headers}
        if case.json is not UNSET:
            body["content"] = json.dumps(case.json).encode()
            body["headers"] = {"Content-Type": JSON, **case.headers}
        elif case.content is not None:
            body["content"] = case.content
        if case.answers == "stream":
            url = case.url
            with self.clients[case.server, case.key].stream("GET", url, **body) as answer:
                assert next(answer.iter_raw()).startswith(b": epoch ")
                return answer
        return self.ask(case, case.key, case.method, case.url, **body)

    def settle(self):
        """Wait until no job moves the head any more."""
        for job in self.lab.jobs():
            if job.kind == "endless" and job.state not in FINISHED:
                job.cancel()
            assert job._done.wait(60)

    def a_key(self):
        return self.keys.create("spare", "read")[0]

    def a_job(self):
        done = self.lab.jobs("done")
        job = done[-1] if done else self.lab.collection("built").build_index("vamana")
        job.result(60)
        self.settle()
        self.head = self.lab.head
        return job.id

    def a_running(self):
        def work(job):
            while True:
                job.report(0.0)
                time.sleep(0.001)

        before = self.lab.head
        job = self.lab._parts.jobs.start("endless", work, collection="docs")
        assert self.lab.wait_beyond(before, 30)
        self.head = self.lab.head
        return job.id


@pytest.fixture(scope="module")
def house():
    with contextlib.ExitStack() as stack:
        house = House(stack)
        yield house
        house.settle()


def check(house, route, case, answer):
    """Raise AssertionError unless the answer is what the row says."""
    assert answer.status_code == case.status, answer.text
    if case.allows is not None:
        assert set(answer.headers["allow"].split(", ")) == case.allows
    if case.answers == "empty":
        assert answer.content == b""
    if case.code is not None:
        assert answer.headers["content-type"] == "application/json"
        body = answer.json()
        assert body["error"] == case.code and case.says in body["message"]
        assert '"error":"' in answer.text and "Traceback" not in answer.text
        if case.at is not UNSET:
            assert body.get("field") == case.at
        if case.index is not None:
            assert body["index"] == case.index
        if case.status == 401:
            assert answer.headers["www-authenticate"] == "Bearer"
    elif case.answers == "any":
        operation = OPERATIONS.get((case.method, route.path))
        media = answer.headers["content-type"].partition(";")[0]
        if operation is not None:
            assert media == operation.answer_media
            if media == "application/json":
                decode(answer.content, operation.answer)


def decode(content, model):
    """Raise `ValidationError` unless an answer is what its operation says."""
    models = get_args(model) if isinstance(model, UnionType) else (model,)
    for kind in models[:-1]:
        with contextlib.suppress(msgspec.ValidationError):
            return msgspec.json.decode(content, type=kind, strict=True)
    return msgspec.json.decode(content, type=models[-1], strict=True)


@pytest.mark.parametrize(
    ("route", "case"),
    [pytest.param(r, c, id=f"{r.name} {c.name}"[:100]) for r, c in ROWS if (r, c) not in HASTY],
)
def test_a_row_of_the_table_holds(house, route, case):
    answer = house.send(case)
    check(house, route, case, answer)
    if case.events is not None or case.code is not None:
        moved = 0 if case.code is not None else case.events
        assert house.lab.head == house.head + moved
    if case.code is None and case.method == route.method and route.role == "write":
        if route.path == "/search/ingest":
            assert int(answer.headers["x-luma-offset"]) == house.lab.head
        elif route.path not in UNLOGGED:
            assert answer.json()["offset"] == house.lab.head


def test_what_takes_too_long_is_408_and_changes_nothing(house):
    """These rows wait for the time limit, so they do it together."""
    house.settle()
    head = house.lab.head
    assert len(HASTY) > 10
    with ThreadPoolExecutor(len(HASTY)) as pool:
        answers = list(pool.map(lambda row: house.send(row[1]), HASTY))
    for (route, case), answer in zip(HASTY, answers, strict=True):
        check(house, route, case, answer)
    assert house.lab.head == head


def test_the_table_and_the_service_have_the_same_operations():
    listed = [(r.method, r.path) for r in ROUTES if r.operation]
    assert len(listed) == len(set(listed))
    assert set(listed) == set(OPERATIONS)
    for route in ROUTES:
        if route.operation:
            operation = OPERATIONS[route.method, route.path]
            assert operation.role == route.role, route.name
            assert (operation.body is not None) == route.reads_json, route.name


def test_every_read_of_what_is_in_the_log_can_wait_for_an_offset():
    reads = {r.path for r in ROUTES if r.role == "read" and r.operation and not r.waits}
    assert reads == WITHOUT_OFFSET


def test_every_handler_and_method_of_the_service_is_in_the_table():
    served = [rule for module in MODULES for rule in module.routes]
    used = set()
    for route in ROUTES:
        path = route.url().partition("?")[0]
        pattern, handler, *_ = next(r for r in served if re.fullmatch(r[0], path))
        used.add(pattern)
        methods = {m for m in METHODS if m.lower() in vars_of(handler)}
        assert methods_of(route) == methods, (route.name, pattern)
    assert used == {pattern for pattern, *_ in served}


def vars_of(handler):
    from tornado.web import RequestHandler

    return {
        m.lower()
        for m in METHODS
        if getattr(handler, m.lower()) is not getattr(RequestHandler, m.lower())
    }


def test_every_role_and_every_refusal_of_the_contract_has_rows():
    seen = {(case.status, case.code) for _, case in ROWS if case.code is not None}
    assert seen >= {
        (400, "invalid_json"), (400, "invalid_argument"), (400, "dim_mismatch"),
        (400, "sqlite_error"), (400, "invalid_filter"), (401, "unauthorized"),
        (403, "forbidden"), (404, "not_found"), (404, "not_enabled"),
        (405, "method_not_allowed"), (408, "timeout"), (408, "sql_timeout"),
        (409, "already_exists"), (409, "revision_mismatch"), (409, "conflict"),
        (413, "payload_too_large"), (415, "unsupported_media_type"), (422, "invalid_argument"),
        (501, "not_supported"),
    }  # fmt: skip
