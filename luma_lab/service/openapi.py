"""``/docs``: the OpenAPI description, made from the operations, and a page that shows it."""

import json
import re
from http.client import responses
from importlib.resources import files
from types import UnionType
from typing import Any, Union, get_args, get_origin

import msgspec

from luma_lab import __version__
from luma_lab.service.base import BaseHandler
from luma_lab.service.operation import Operation
from luma_lab.service.refusals import RouteNotFound

ERRORS = (400, 405, 408, 413, 415, 422, 429, 500, 503, 507)
KEY_ERRORS = (401, 403)
STATIC_MEDIA = {
    "docs.css": "text/css; charset=utf-8",
    "docs.js": "text/javascript; charset=utf-8",
    "icon.svg": "image/svg+xml",
}
POLICY = "default-src 'self'; frame-ancestors 'none'; base-uri 'none'; form-action 'self'"
SECURITY = [{"bearer": []}, {"header": []}, {"query": []}]
SCHEMES = {
    "bearer": {"type": "http", "scheme": "bearer"},
    "header": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
    "query": {"type": "apiKey", "in": "query", "name": "api_key"},
}
ERROR_SCHEMA = {
    "type": "object",
    "description": "Every error. Some carry fields of their own beside these.",
    "properties": {
        "error": {"type": "string", "description": "A code that never changes."},
        "message": {"type": "string", "description": "What was wrong and what was expected."},
        "field": {
            "type": ["string", "null"],
            "description": "The field of the body that has the wrong shape.",
        },
        "index": {
            "type": "integer",
            "description": "Position of the operation, of a transaction, that failed.",
        },
    },
    "required": ["error", "message"],
}
_TYPES = {str: "string", int: "integer", float: "number", bool: "boolean"}
_REFERENCE = "#/components/schemas/{name}"
_BRACES = re.compile(r"{(\w+)}")


class DocsHandler(BaseHandler):
    """GET /docs: a page of our own, without anything from elsewhere."""

    def get(self):
        self.set_header("Content-Type", "text/html; charset=utf-8")
        self.set_header("Content-Security-Policy", POLICY)
        self.finish(_static("index.html"))


class StaticHandler(BaseHandler):
    """GET /docs/static/{name}: the page's script, style and icon."""

    def get(self, name):
        if name not in STATIC_MEDIA:
            raise RouteNotFound(f"no such file: {self.request.path}")
        self.set_header("Content-Type", STATIC_MEDIA[name])
        self.set_header("Content-Security-Policy", POLICY)
        self.finish(_static(name))


class DescriptionHandler(BaseHandler):
    """GET /docs/openapi.json"""

    async def get(self):
        await self.answer(describe, self.service.operations.values())


class YamlHandler(BaseHandler):
    """GET /docs/openapi.yaml and /openapi.yaml"""

    async def get(self):
        text = await self.run(lambda: to_yaml(describe(self.service.operations.values())))
        self.set_header("Content-Type", "text/yaml; charset=utf-8")
        self.finish(text)


def describe(operations):
    """Return the OpenAPI 3.1 description of an iterable of `Operation` as a dict.

    ``servers`` is always the relative root: a Host header never gets into it.
    """
    operations = list(operations)
    types = {}
    for operation in operations:
        for model in (operation.body, operation.answer):
            types |= {repr(part): part for part in _parts(model)}
    schemas, components = msgspec.json.schema_components(
        list(types.values()), ref_template=_REFERENCE
    )
    known = dict(zip(types, schemas, strict=True))
    components = {name.replace("[", "_").replace("]", ""): c for name, c in components.items()}
    components["Error"] = ERROR_SCHEMA
    paths = {}
    for operation in operations:
        entry = _operation(operation, known)
        paths.setdefault(operation.path, {})[operation.method.lower()] = entry
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Luma Lab",
            "version": __version__,
            "description": "Vectors, state, documents, SQL and events over one log.",
        },
        "servers": [{"url": "/"}],
        "security": SECURITY,
        "tags": [{"name": tag} for tag in dict.fromkeys(_tag(o.path) for o in operations)],
        "paths": paths,
        "components": {"schemas": components, "securitySchemes": SCHEMES},
    }


def to_yaml(value):
    """Return plain JSON data as YAML 1.2 in block style; every string is in double quotes."""
    return "\n".join(_yaml_lines(value)) + "\n"


def _yaml_lines(value):
    if isinstance(value, dict) and value:
        for name, part in value.items():
            yield from _yaml_entry(f"{json.dumps(name)}:", part)
    elif isinstance(value, list | tuple) and value:
        for part in value:
            yield from _yaml_entry("-", part)
    else:
        yield json.dumps(value)


def _yaml_entry(head, part):
    if isinstance(part, dict | list | tuple) and part:
        yield head
        for line in _yaml_lines(part):
            yield "  " + line
    else:
        yield f"{head} {json.dumps(part)}"


def _operation(operation, known):
    slug = re.sub(r"\W+", "_", operation.path).strip("_")
    entry = {
        "operationId": f"{operation.method.lower()}_{slug}",
        "summary": operation.about,
        "tags": [_tag(operation.path)],
        "parameters": [
            *map(_path_parameter, _BRACES.findall(operation.path)),
            *map(_parameter, operation.parameters),
        ],
        "responses": _responses(operation, known),
    }
    if operation.role is None:
        entry["security"] = []
    else:
        entry["description"] = f"Needs a key with the role `{operation.role}` or a higher one."
    content = {}
    if operation.body is not None:
        content["application/json"] = {"schema": _schema(operation.body, known)}
    for media, about in operation.media:
        content[media] = {"schema": {"type": "string", "description": about}}
        if media == "application/octet-stream":
            content[media]["schema"]["format"] = "binary"
    if content:
        entry["requestBody"] = {"required": True, "content": content}
    return entry


def _responses(operation, known):
    success = {}
    if operation.answer is not None:
        schema = _schema(operation.answer, known)
        success = {"content": {operation.answer_media: {"schema": schema}}}
    failure = {
        "content": {"application/json": {"schema": {"$ref": _REFERENCE.format(name="Error")}}}
    }
    statuses = {operation.status, *ERRORS, *operation.errors}
    if operation.role is not None:
        statuses |= {*KEY_ERRORS}
    if "{" in operation.path:
        statuses.add(404)
    return {
        str(status): {
            "description": responses.get(status, "Error"),
            **(success if status < 400 else failure),
        }
        for status in sorted(statuses)
    }


def _path_parameter(name):
    return {
        "name": name,
        "in": "path",
        "required": True,
        "schema": {"type": "string", "minLength": 1},
    }


def _parameter(parameter):
    schema = {"type": _TYPES[parameter.type]}
    if parameter.type is int:
        schema["minimum"] = 0
    return {
        "name": parameter.name,
        "in": parameter.place,
        "required": parameter.required,
        "description": parameter.about,
        "schema": schema,
    }


def _schema(model, known):
    parts = [known[repr(part)] for part in _parts(model)]
    return parts[0] if len(parts) == 1 else {"anyOf": parts}


def _parts(model):
    # msgspec describes no union of plain Structs, as it could not decode one.
    if model is None:
        return []
    if model is not Any and get_origin(model) in (Union, UnionType):
        return list(get_args(model))
    return [model]


def _tag(path):
    parts = [part for part in path.split("/") if part]
    return parts[1] if parts[0] == "v1" and len(parts) > 1 else parts[0]


def _static(name):
    return files("luma_lab.service").joinpath("static", name).read_bytes()


operations = [
    Operation(
        "GET", "/docs/openapi.json", DescriptionHandler, "This description, as JSON.", None,
        answer=dict[str, Any],
    ),
    Operation(
        "GET", "/docs/openapi.yaml", YamlHandler, "This description, as YAML.", None,
        answer=dict[str, Any], answer_media="text/yaml",
    ),
    Operation(
        "GET", "/docs", DocsHandler, "This description, as a page.", None,
        answer=str, answer_media="text/html",
    ),
]  # fmt: skip
routes = [
    (r"/docs", DocsHandler),
    (r"/docs/static/([^/]*)", StaticHandler),
    (r"/docs/openapi\.json", DescriptionHandler),
    (r"/docs/openapi\.yaml", YamlHandler),
    (r"/openapi\.yaml", YamlHandler),
]
