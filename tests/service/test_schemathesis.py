import json

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis.checks import not_a_server_error
from schemathesis.generation import GenerationMode
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    ignored_auth,
    response_schema_conformance,
    status_code_conformance,
)
from service_running import KEY, Running

import luma_lab as luma
from luma_lab.config import Settings


def no_fault(context, response, case):
    """As `not_a_server_error`; but what is not built yet may say so, where that is described."""
    described = case.operation.definition.raw["responses"]
    if response.status_code == 501 and "501" in described:
        assert response.json()["error"] == "not_supported"
        return None
    return not_a_server_error(context, response, case)


CHECKS = [
    no_fault,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
    ignored_auth,
]
# endless answers
STREAMS = {("GET", "/v1/stream"), ("GET", "/v1/events")}
FEW, MANY = 5, 100


@pytest.fixture(scope="module")
def running():
    with luma.open(":memory:") as lab:
        docs = lab.create_collection("docs", 2, "l2")
        docs.upsert(["a", "b"], [[1, 2], [3, 4]], [{"n": 1}, None])
        lab.state.put("k", {"a": 1})
        server = Running(lab, Settings(port=0, api_key=KEY, request_timeout_secs=2))
        yield server
        server.stop()


@schemathesis.serializer("application/x-ndjson")
def ndjson(context, value):
    return value if isinstance(value, bytes) else json.dumps(value).encode()


def every_operation(running, examples, only=None):
    """Try `examples` generated requests on every operation; return the failures by operation."""
    description = httpx.get(running.url + "/docs/openapi.json").json()
    schema = schemathesis.openapi.from_dict(description)
    schema.config.update(base_url=running.url)
    failures, tried = {}, 0
    for result in schema.get_all_operations():
        operation = result.ok()
        if (operation.method.upper(), operation.path) in STREAMS:
            continue
        if only is not None and operation.path != only:
            continue
        tried += 1
        strategy = operation.as_strategy(generation_mode=GenerationMode.POSITIVE)
        strategy |= operation.as_strategy(generation_mode=GenerationMode.NEGATIVE)

        @settings(
            max_examples=examples,
            deadline=None,
            database=None,
            derandomize=True,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        @given(case=strategy)
        def check(case):
            case.call_and_validate(headers={"X-API-Key": KEY}, checks=CHECKS)

        try:
            check()
        except (Exception, BaseExceptionGroup) as error:
            failures[f"{operation.method.upper()} {operation.path}"] = error
    paths = description["paths"]
    assert tried == (len(paths[only]) if only else sum(map(len, paths.values())) - len(STREAMS))
    return failures


def told(failures):
    lines = []
    for name, error in failures.items():
        for part in getattr(error, "exceptions", [error]):
            lines.append(f"{name}: {type(part).__name__} {str(part)[:1500]}")
        lines.append(str(error)[-1500:])
    return "\n\n".join(lines)


def test_generated_requests_are_answered_as_the_description_says(running):
    failures = every_operation(running, FEW)
    assert not failures, told(failures)


def test_a_server_that_asks_for_no_key_is_found_out(serve):
    failures = every_operation(serve(auth="open"), FEW, only="/v1/jobs")
    assert "IgnoredAuth" in told(failures)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_many_generated_requests_are_answered_as_the_description_says(running):
    failures = every_operation(running, MANY)
    assert not failures, told(failures)
