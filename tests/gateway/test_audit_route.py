"""`GET /v1/audit` and `/export`: which rows may be asked for, as by `audit tail`; the rest is refused."""

import json
import re
from pathlib import Path
from urllib.parse import quote

import pytest

from hermes_nodes.audit.rows import ACTIONS, STATUSES
from hermes_nodes.gateway import Gateway
from hermes_nodes.gateway.openapi import document
from tests.gateway.support import pair
from tests.harness import Home, control_request

NONSENSE = [
    ("action", "nonsense"),
    ("action", ""),
    ("action", "EXEC"),
    ("action", "exec,read"),
    ("status", "nonsense"),
    ("status", ""),
    ("status", "ok\n"),
    ("since", "nonsense"),
    ("since", ""),
    ("since", "1h"),
    ("since", "2026"),
    ("since", "2026-13-01"),
    ("since", "2026-02-30T00:00:00Z"),
    ("since", "2026-01-31T12:00:00"),
    ("since", "2026-01-31 12:00:00Z"),
    ("since", "0001-01-01T00:00:00+23:00"),
    ("since", "\uff12026-01-31"),
    ("since", "z" * 1000),
]


async def rows(gateway: Gateway, query: str) -> list[dict[str, object]]:
    status, _, content = await control_request(gateway.control_socket, f"GET /v1/audit?n=100&{query}")
    assert status == 200, content
    return [json.loads(line) for line in content.splitlines() if line.startswith(b"{")]


@pytest.mark.parametrize(("key", "value"), NONSENSE)
@pytest.mark.parametrize("route", ["/v1/audit?", "/v1/audit?follow=1&", "/v1/audit/export?"])
async def test_what_no_row_can_have_is_refused_with_a_sentence(
    gateway: Gateway, route: str, key: str, value: str
) -> None:
    path = f"{route}{key}={quote(value)}"
    status, _, content = await control_request(gateway.control_socket, f"GET {path}")
    error = json.loads(content)["error"]
    assert (status, error["code"]) == (400, "bad_request")
    assert error["message"].startswith(repr(value[:60]) + " is no ")
    assert "\n" not in error["message"] + error["hint"]
    assert len(error["message"]) < 120
    if key != "since":
        assert set(re.findall(r"\w+", error["hint"])) >= set(ACTIONS if key == "action" else STATUSES)


@pytest.mark.parametrize("key", ["action", "status"])
async def test_whatever_a_row_can_have_may_be_asked_for(gateway: Gateway, key: str) -> None:
    for value in ACTIONS if key == "action" else STATUSES:
        found = await rows(gateway, f"{key}={value}")
        assert all(row[key] == value for row in found)


async def test_rows_since_a_time_are_those_from_its_moment_on_however_it_is_written(
    home: Home, gateway: Gateway
) -> None:
    await pair(home, "laptop")
    (row,) = await rows(gateway, "action=pair")
    second = str(row["ts"])[:19]
    for since in (row["ts"], f"{second}Z", f"{second}.000000Z", f"{second}%2B00:00", second[:10]):
        assert row in await rows(gateway, f"action=pair&since={since}"), since
    assert await rows(gateway, "since=9999-12-31") == []


async def test_the_document_says_what_may_be_asked_for(gateway: Gateway) -> None:
    parameters = document()["paths"]["/v1/audit"]["get"]["parameters"]
    schemas = {one["name"]: one["schema"] for one in parameters}
    assert schemas["action"]["enum"] == list(ACTIONS)
    assert schemas["status"]["enum"] == list(STATUSES)
    assert schemas["since"]["format"] == "date-time"


@pytest.mark.parametrize(("key", "known"), [("action", ACTIONS), ("status", STATUSES)])
def test_the_page_names_what_may_be_asked_for(key: str, known: tuple[str, ...]) -> None:
    docs = Path(__file__).parents[2] / "docs"
    assert f"`{key}`" in (docs / "API.md").read_text()
    (row,) = re.findall(rf"^\| `{key}` \| (.*) \|$", (docs / "AUDIT.md").read_text(), re.MULTILINE)
    assert re.findall(r"`(\w+)`", row) == list(known)


@pytest.mark.parametrize("option", ["--action=nonsense", "--status=nonsense", "--since=nonsense"])
def test_the_command_refuses_the_same(home: Home, option: str) -> None:
    done = home.run("audit", "tail", option)
    assert (done.returncode, done.stdout) == (2, b"")
    assert b"'nonsense' is not" in done.stderr
