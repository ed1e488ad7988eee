import json
import re

import pytest
import yaml
from jsonschema import Draft202012Validator
from service_running import KEY

from luma_lab.service.app import MODULES, all_operations
from luma_lab.service.openapi import to_yaml
from luma_lab.service.operation import ROLES

METHODS = ("GET", "PUT", "POST", "PATCH", "DELETE")


@pytest.fixture
def described(shared):
    with shared.client(key=None) as client:
        yield client.get("/docs/openapi.json").json()


def references(value):
    if isinstance(value, dict):
        if "$ref" in value:
            yield value["$ref"]
        value = list(value.values())
    if isinstance(value, list):
        for part in value:
            yield from references(part)


def test_the_description_is_the_same_as_json_and_as_yaml(shared, described):
    with shared.client(key=None) as client:
        for path in ("/docs/openapi.yaml", "/openapi.yaml"):
            answer = client.get(path)
            assert answer.headers["content-type"] == "text/yaml; charset=utf-8"
            assert yaml.safe_load(answer.text) == described


@pytest.mark.parametrize(
    "value",
    [{}, [], "a: b", "- x\n\u2028é", {"a": []}, [[1], [{"b": [None, True, 1.5]}]], {"no": "yes"}],
)
def test_our_yaml_is_read_back_as_what_it_was(value):
    assert yaml.safe_load(to_yaml(value)) == value


def test_every_operation_is_described_with_its_role_and_nothing_else_is(described):
    listed = {(m.upper(), p) for p, methods in described["paths"].items() for m in methods}
    assert listed == {(o.method, o.path) for o in all_operations()}
    for operation in all_operations():
        entry = described["paths"][operation.path][operation.method.lower()]
        if operation.role is None:
            assert entry["security"] == []
        else:
            assert operation.role in ROLES and f"`{operation.role}`" in entry["description"]
            assert "security" not in entry and {"401", "403"} <= set(entry["responses"])
        named = {p["name"] for p in entry["parameters"] if p["in"] == "path"}
        assert named == set(re.findall(r"{(\w+)}", operation.path))
        assert str(operation.status) in entry["responses"]


def test_the_schemas_are_valid_and_every_reference_leads_to_one(described):
    schemas = described["components"]["schemas"]
    for schema in schemas.values():
        Draft202012Validator.check_schema(schema)
    found = set(references(described))
    assert found and found <= {f"#/components/schemas/{name}" for name in schemas}
    names = [e["operationId"] for methods in described["paths"].values() for e in methods.values()]
    assert len(names) == len(set(names))


def test_every_route_but_the_pages_has_an_operation():
    handlers = {o.handler for o in all_operations()}
    for module in MODULES:
        if module.__name__.rpartition(".")[2] == "lab_pages":
            continue
        for _, handler, *_ in module.routes:
            assert handler in handlers or handler.__name__ == "StaticHandler", handler


def test_a_build_answers_202_or_200_with_the_same_body(described):
    path = "/v1/vector/{collection}/index/build"
    answers = described["paths"][path]["post"]["responses"]
    assert answers["200"]["content"] == answers["202"]["content"]


def test_a_host_header_never_gets_into_the_description(serve):
    server = serve()
    with server.client(key=None) as client:
        text = client.get("/docs/openapi.json", headers={"Host": "evil.example"}).text
        assert json.loads(text)["servers"] == [{"url": "/"}] and "evil" not in text


def test_the_static_folder_holds_its_files_and_no_others(shared):
    with shared.client(key=None) as client:
        for name, media in (("docs.js", "text/javascript"), ("docs.css", "text/css")):
            answer = client.get(f"/docs/static/{name}")
            assert answer.status_code == 200 and answer.headers["content-type"].startswith(media)
        for name in ("index.html", "nope", "..%2Fopenapi.py", "%2e%2e%2fbase.py"):
            answer = client.get(f"/docs/static/{name}")
            assert answer.status_code == 404 and answer.json()["error"] == "not_found"


@pytest.mark.browser
def test_the_page_lists_the_operations_and_tries_them_without_another_host(
    serve, browser, tmp_path
):
    server = serve()
    server.lab.state.put("k", {"a": 1})
    page = browser.new_page()
    asked, faults = [], []
    page.on("request", lambda request: asked.append(request.url))
    page.on("pageerror", lambda error: faults.append(str(error)))
    page.on("console", lambda m: faults.append(m.text) if m.type == "error" else None)
    answer = page.goto(server.url + "/docs")
    assert answer.headers["content-security-policy"].startswith("default-src 'self'")
    page.locator("#operations[aria-busy=false]").wait_for()
    assert page.locator("details.operation").count() == len(all_operations())
    page.fill("#key", KEY)
    page.fill("#find", "entry get /v1/state/{key}")
    shown = page.locator("details.operation:visible")
    assert shown.count() == 1
    page.fill("#find", "")
    box = page.locator("#get_v1_state_key")
    box.locator("summary").click()
    box.locator("input[name=key]").fill("k")
    box.get_by_text("Send").click()
    box.get_by_text('"revision"').wait_for()
    assert box.locator("pre").inner_text().startswith("200 OK")
    for details in page.locator("details.operation").all():
        if details.get_attribute("id") != "get_v1_state_key":
            details.locator("summary").click()
    page.screenshot(path=str(tmp_path / "docs.png"))
    assert all(url.startswith(server.url) for url in asked) and faults == []
