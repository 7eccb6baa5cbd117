"""The control API as OpenAPI 3.1, made of its routes and of the structs that its bodies become."""

import re
from typing import Any, get_args

import msgspec

from hermes_nodes import __version__
from hermes_nodes.gateway.bodies import CallBody
from hermes_nodes.gateway.routes import ROUTES, Query, Route

Json = dict[str, Any]
_REFERENCE = "#/components/schemas/{name}"
_ERROR: Json = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["code", "message", "hint"],
            "properties": {key: {"type": "string"} for key in ("code", "message", "hint")},
        }
    },
}


def document() -> Json:
    """The whole document, as `/v1/openapi.json` gives it."""
    calls = list(get_args(CallBody))
    bodies = [route.body for route in ROUTES if route.body is not None]
    _, schemas = msgspec.json.schema_components([*bodies, *calls], ref_template=_REFERENCE)
    paths: dict[str, Json] = {}
    for route in ROUTES:
        paths.setdefault(plain_path(route), {})[route.method.lower()] = _operation(route)
    return {
        "openapi": "3.1.0",
        "info": {"title": "hermes-nodes control API", "version": __version__},
        "security": [{"operator": []}],
        "paths": paths,
        "components": {
            "schemas": {**schemas, "Error": _ERROR},
            "securitySchemes": {"operator": {"type": "http", "scheme": "bearer"}},
        },
    }


def plain_path(route: Route) -> str:
    """A route's path without what its parameters may be."""
    return re.sub(r"\{(\w+):[^}]*\}", r"{\1}", route.path)


def _operation(route: Route) -> Json:
    content = "application/x-ndjson" if route.lines else "application/json"
    answers = {
        str(route.status): {"description": route.what, "content": {content: {}}},
        "default": {
            "description": "What went wrong.",
            "content": {"application/json": {"schema": {"$ref": _REFERENCE.format(name="Error")}}},
        },
    }
    if route.handler == "upgrade_call":
        answers = {"101": {"description": "Frames, as docs/API.md says."}, "default": answers["default"]}
    operation: Json = {
        "operationId": route.handler,
        "summary": route.what,
        "description": _allowed(route),
        "parameters": _parameters(route),
        "responses": answers,
    }
    schema = _body(route)
    if schema is not None:
        operation["requestBody"] = {"required": True, "content": {"application/json": {"schema": schema}}}
    return operation


def _allowed(route: Route) -> str:
    if route.local:
        return "For the local user on the control socket alone."
    return f"An operator needs the verb `{route.verb}`." if route.verb else ""


def _parameters(route: Route) -> list[Json]:
    in_path = re.findall(r"\{(\w+)", route.path)
    text = {"type": "string"}
    return [
        *({"name": name, "in": "path", "required": True, "schema": text} for name in in_path),
        *(
            {"name": one.name, "in": "query", "description": one.what, "schema": _schema(one)}
            for one in route.query
        ),
    ]


def _schema(query: Query) -> Json:
    enum = {"enum": list(query.choices)} if query.choices else {}
    form = {"format": query.form} if query.form else {}
    return {"type": "string", **enum, **form}


def _body(route: Route) -> Json | None:
    if route.body is not None:
        return {"$ref": _REFERENCE.format(name=route.body.__name__)}
    if route.handler == "upgrade_call":
        kinds = [{"$ref": _REFERENCE.format(name=kind.__name__)} for kind in get_args(CallBody)]
        return {"oneOf": kinds, "discriminator": {"propertyName": "call"}}
    # The fields of the same bodies, without `call` and `node`, which are in the path.
    return {"type": "object"} if route.handler == "post_call" else None
