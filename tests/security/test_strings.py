"""What a stranger or a node says is shown as text, and moves no cursor and no line."""

import json

import pytest

from hermes_nodes.protocol.messages import Exec, ExecResult
from tests.conformance.node import connect
from tests.gateway.support import start_exec
from tests.harness import scripted_node
from tests.security.place import Place

EVIL = "\x1b]0;owned\x07\x1b[2J\r\n\x9b1A\u202egnp"
CONTROLS = ("\x1b", "\x07", "\x9b", "\r", "\u202e")


def assert_harmless(shown: str) -> None:
    assert not [sign for sign in CONTROLS if sign in shown], repr(shown)


async def test_terminal_escapes_from_a_nodes_strings(place: Place) -> None:
    """In `list`, in errors, and in the gateway's log."""
    name = place.fresh("node")
    token = place.paired(name)
    async with connect(place.gateway.url) as node:
        ack = await node.greet(
            name, platform=EVIL, arch=EVIL, node_version=EVIL, capabilities=[EVIL[:30]], encrypted=True
        )
        assert ack["ecdh_pub"]
        await node.auth(name, **node.credentials(token))
        assert (await node.receive_plain())["type"] == "auth_ok"
        for command in (["list"], ["list", "--wide"], ["list", name, "--json"], ["status"]):
            done = place.home.run(*command)
            assert_harmless((done.stdout + done.stderr).decode())
    assert_harmless(place.gateway.log)


async def test_terminal_escapes_from_a_nodes_errors(place: Place) -> None:
    name = place.fresh("node")
    token = place.paired(name)
    async with scripted_node(place.gateway.url) as node:
        await node.log_in(name, token)
        call = start_exec(place.home, name, "true")
        request = await node.receive()
        assert isinstance(request, Exec)
        await node.send(
            ExecResult(
                status="error",
                id=request.id,
                exit_code=-1,
                error="io_error",
                error_detail=EVIL,
                signal=EVIL,
            )
        )
        with pytest.raises(Exception, match="owned") as failed:
            await call
    assert_harmless(str(failed.value))
    assert_harmless(place.gateway.log)
    assert_harmless("".join(map(str, place.home.trail(node=name))))


@pytest.mark.parametrize(
    "name", ["web\nINFO forged: all is well", "web\x1b[2J", "web\x9b1A", "web\u202e", "w\u00e9b", "a/../b"]
)
async def test_a_line_of_the_log_forged_by_a_name(place: Place, name: str) -> None:
    async with connect(place.gateway.url) as node:
        await node.hello(name)
        assert (await node.receive_plain())["reason"] == "malformed"
    assert_harmless(place.gateway.log)
    assert not [line for line in place.gateway.log.splitlines() if line.startswith("INFO forged")]


@pytest.mark.parametrize("address", ["1.2.3.4\x1b[2J", "1.2.3.4 all is well", "fe80::1%\x1b[2J"])
def test_a_line_of_the_log_forged_by_a_forwarded_address(place: Place, address: str) -> None:
    token = "hno_" + "a" * 36 + "." + "b" * 43
    assert place.ask("GET", "/v1/status", token, headers={"X-Forwarded-For": address}).status in (400, 401)
    assert_harmless(place.gateway.log)
    assert "all is well" not in place.gateway.log


@pytest.mark.parametrize(
    "path", ["/v1/%1b%5b2J%0aINFO", "/v1/nodes?target=%1b%5b2J%0a", "/v1/pairings/%1b"]
)
def test_a_line_of_the_log_forged_by_a_request(place: Place, path: str) -> None:
    token = place.token("list", "revoke")
    for method in ("GET", "DELETE"):
        assert_harmless(place.ask(method, path, token).body.decode())
    assert_harmless(place.gateway.log)


@pytest.mark.parametrize("route", ["/v1/operators", "/v1/pairings"])
def test_a_name_with_escapes_is_not_given(place: Place, route: str) -> None:
    token = place.token("operate", "pair")
    answer = place.ask("POST", route, token, b'{"name": "x\\u001b[2J\\nINFO"}')
    assert answer.status == 400
    assert_harmless(json.loads(answer.body)["error"]["message"])
