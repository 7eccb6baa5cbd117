"""A token that is taken back is dead everywhere, and one that is good is seen by nobody."""

import asyncio
import json
import threading
from contextlib import suppress
from pathlib import Path

import pytest

from hermes_nodes.errors import HermesNodesError
from hermes_nodes.protocol.messages import Bye
from tests.harness import ScriptedNode, scripted_node
from tests.security.place import Place
from tests.support import SOON, in_background


async def shut_out(node: ScriptedNode) -> int | None:
    assert await node.receive() == Bye(reason="revoked")
    return await node.closed()


@pytest.mark.parametrize("end", ["revoked", "paired anew", "rotated without grace"])
async def test_a_rotated_or_revoked_token_still_alive_on_an_open_socket(place: Place, end: str) -> None:
    name = place.fresh("node")
    token = place.paired(name)
    async with scripted_node(place.gateway.url) as node:
        await node.log_in(name, token)
        async with asyncio.timeout(SOON):
            match end:
                case "revoked":
                    await asyncio.to_thread(place.local.revoke, name)
                case "paired anew":
                    await asyncio.to_thread(lambda: place.local.pair(name, force=True))
                case _:
                    await asyncio.to_thread(lambda: place.local.rotate(name, grace=0))
            assert await shut_out(node) == 4006


async def test_a_token_that_its_successor_has_replaced_still_alive_on_an_open_socket(place: Place) -> None:
    """At the first use of the new token, long before the grace ends."""
    name = place.fresh("node")
    token = place.paired(name)
    async with scripted_node(place.gateway.url) as old, scripted_node(place.gateway.url) as new:
        await old.log_in(name, token)
        rotated = await asyncio.to_thread(place.local.rotate, name)
        await new.log_in(name, str(rotated["token"]))
        async with asyncio.timeout(SOON):
            assert await old.closed() in (1000, 4006)
    async with scripted_node(place.gateway.url) as again:
        with pytest.raises(HermesNodesError):
            await again.log_in(name, token)


def test_a_removed_operators_call_ends_with_it(place: Place) -> None:
    name = place.fresh("operator")
    client = place.operator("exec", name=name)
    ended: list[HermesNodesError] = []

    def call() -> None:
        try:
            client.exec("web", "sleep 60")
        except HermesNodesError as error:
            ended.append(error)

    thread = threading.Thread(target=call)
    thread.start()
    while place.local.nodes("web")[0]["calls_in_flight"] == 0:
        pass
    place.local.remove_operator(name)
    thread.join(2.0)
    assert not thread.is_alive()
    assert [error.code for error in ended] == ["denied"]


def test_a_removed_operators_look_at_the_trail_ends_with_it(place: Place) -> None:
    name = place.fresh("operator")
    token = place.token("audit", name=name)
    with place.asking("GET", "/v1/audit?follow=1&n=1", token) as trail:
        assert trail.readline()
        place.local.remove_operator(name)
        rest = trail.read().splitlines()
    assert json.loads(rest[-1])["error"]["code"] == "denied"


def test_tokens_in_logs_or_process_lists(place: Place) -> None:
    """Of operators; tests/e2e/test_secrets.py does the same for nodes and the key."""
    lines: set[bytes] = set()

    def look() -> None:
        for path in Path("/proc").glob("[0-9]*/cmdline"):
            with suppress(OSError):
                lines.add(path.read_bytes())

    environ = {"HERMES_NODES_GATEWAY": place.url}
    with in_background(look):
        token = place.home.ok("operator", "add", place.fresh("operator"), "--allow", "list,exec").strip()
        wrong = token[:-8] + "AAAAAAAA"
        for shown in (token, wrong):
            environ["HERMES_NODES_OPERATOR_TOKEN"] = shown
            done = place.home.run("exec", "web", "env; ps auxww", **environ)
            assert token.partition(".")[2][:20].encode() not in done.stdout + done.stderr
            assert (done.returncode == 0) is (shown == token)
    place.ask("GET", f"/v1/{token}?token={token}", token)
    place.ask("GET", "/v1/status", headers={"Authorization": f"Basic {token}"})
    trail = place.home.settings.audit_log_path.read_text()
    said = place.gateway.log + trail + place.node.log + repr(lines)
    assert "operator token" in place.gateway.log, "it is the log of what happened here"
    for secret in (token, wrong, place.node.token):
        assert secret.rpartition(".")[2][:20] not in said


def test_a_token_on_the_command_line_is_not_taken(place: Place) -> None:
    for flag in ("--token", "--operator-token"):
        assert place.home.run("--gateway", place.url, flag, "hno_x", "list").returncode != 0
    assert b"OPERATOR_TOKEN" in place.home.run("--gateway", place.url, "list").stderr


def test_the_store_holds_no_token_in_the_open(place: Place) -> None:
    token = place.token("list")
    for path in place.home.path.rglob("tokens.db*"):
        content = path.read_bytes()
        for secret in (token.rpartition(".")[2], place.node.token):
            assert secret[:20].encode() not in content
