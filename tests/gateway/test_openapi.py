"""The routes as OpenAPI: the table, the router and the document are one."""

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from hermes_nodes.gateway import Gateway
from hermes_nodes.gateway.bodies import VERBS as CALLS
from hermes_nodes.gateway.openapi import document, plain_path
from hermes_nodes.gateway.routes import ROUTES
from hermes_nodes.operators import VERBS
from tests.harness import Home, control_request

DOCUMENT = json.loads(json.dumps(document()))


def references(part: object) -> Iterator[str]:
    """Every `$ref` in a part of the document."""
    if isinstance(part, dict):
        for key, value in part.items():
            if key == "$ref":
                yield str(value)
            yield from references(value)
    elif isinstance(part, list):
        for value in part:
            yield from references(value)


def test_the_document_has_each_route_and_no_other() -> None:
    described = {
        (method.upper(), path) for path, methods in DOCUMENT["paths"].items() for method in methods
    }
    assert described == {(route.method, plain_path(route)) for route in ROUTES}


def test_the_pages_table_has_each_route_with_its_verb() -> None:
    page = (Path(__file__).parents[2] / "docs" / "API.md").read_text()
    rows = dict(re.findall(r"^\| `(\w+ /v1[^`]*)` \| [^|]* \| ([^|]*)\|$", page, re.MULTILINE))
    assert set(rows) == {f"{route.method} {plain_path(route)}" for route in ROUTES}
    for route in ROUTES:
        assert f"`{route.verb}`" in rows[f"{route.method} {plain_path(route)}"] or not route.verb


def test_every_reference_leads_somewhere() -> None:
    found = set(references(DOCUMENT))
    assert found
    schemas = DOCUMENT["components"]["schemas"]
    assert {one.removeprefix("#/components/schemas/") for one in found} <= set(schemas)


def test_operations_have_names_of_their_own_and_every_parameter_of_their_path() -> None:
    operations = [
        (path, operation) for path, methods in DOCUMENT["paths"].items() for operation in methods.values()
    ]
    assert len({operation["operationId"] for _, operation in operations}) == len(operations)
    for path, operation in operations:
        in_path = {one["name"] for one in operation["parameters"] if one["in"] == "path"}
        assert in_path == set(re.findall(r"\{(\w+)\}", path))


def test_every_verb_of_a_route_is_one() -> None:
    assert {route.verb for route in ROUTES} - {""} <= set(VERBS)


async def test_a_gateway_gives_the_document(home: Home, gateway: Gateway) -> None:
    status, _, content = await control_request(gateway.control_socket, "GET /v1/openapi.json")
    assert (status, json.loads(content)) == (200, DOCUMENT)


@pytest.mark.parametrize("route", ROUTES, ids=lambda route: f"{route.method} {plain_path(route)}")
async def test_each_route_is_served(home: Home, gateway: Gateway, route: object) -> None:
    one = next(each for each in ROUTES if each is route)
    path = plain_path(one).replace("{name}", "nobody").replace("{call}", CALLS[0])
    status, _, content = await control_request(gateway.control_socket, f"{one.method} {path}")
    assert b"nothing that can be asked for" not in content
    assert status not in (405, 500)
