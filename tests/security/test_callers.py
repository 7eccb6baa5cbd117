"""Nobody acts who has not shown who it is; and who it is, is what its token says."""

import asyncio
import json
from pathlib import Path
from typing import get_args

import pytest

from hermes_nodes import config
from hermes_nodes.errors import HermesNodesError, SettingsError
from hermes_nodes.gateway import Gateway
from hermes_nodes.protocol.messages import FromGateway, FromNode
from tests.gateway.support import pair
from tests.harness import Home, scripted_node
from tests.security.support import REQUESTS, add, ask, operator, our_node, port_of

#: What either side of a session may say, and what nobody may.
KINDS = sorted({str(kind.__struct_config__.tag) for kind in get_args(FromNode) + get_args(FromGateway)})
NOBODY = "hno_7d0e2f5c-1d2b-4c3a-9e4f-5a6b7c8d9e0f." + "x" * 43


@pytest.mark.parametrize("token", ["", NOBODY])
async def test_a_method_callable_before_login(home: Home, gateway: Gateway, token: str) -> None:
    for line in (*REQUESTS, "GET /", "GET /v1/nothing", "OPTIONS *", "PUT /v1/nodes"):
        reply = await ask(gateway, line, token, body={"name": "laptop", "command": "true"})
        assert (reply.status, reply.error["code"]) == (401, "unauthenticated"), line
    assert {row["action"] for row in home.trail()} == {"start", "auth"}


async def test_a_method_callable_before_login_at_the_nodes_door(home: Home, gateway: Gateway) -> None:
    token = await add(home, "ci", "list", "operate")
    for line in REQUESTS:
        reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
        head = f"{line} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\n\r\n"
        writer.write(head.encode())
        assert (await reader.read()).startswith(b"HTTP/1.1 404 "), line
        writer.close()


async def test_a_method_callable_before_login_on_a_nodes_connection(home: Home, gateway: Gateway) -> None:
    token = await pair(home, "laptop")
    for kind in KINDS:
        message = json.dumps({"type": kind, "id": "7d0e2f5c-1d2b-4c3a-9e4f-5a6b7c8d9e0f", "path": "/etc"})
        async with scripted_node(gateway.url) as first, scripted_node(gateway.url) as second:
            await first.send_text(message)
            assert (await first.receive_json())["reason"] == "expected_hello", kind
            assert await first.closed() == 4003
            await second.greet("laptop", token)
            await second.send_text(message)
            assert (await second.receive_json())["reason"] == "expected_auth", kind
            assert await second.closed() == 4003


# -- browsers -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://127.0.0.1:7000"},
        {"Host": "evil.example"},
        {"Host": "127.0.0.1.evil.example:80"},
        {"Host": ""},
    ],
    ids=lambda headers: "-".join(next(iter(headers.items()))),
)
async def test_a_browser_page_reaching_the_gateway(
    home: Home, gateway: Gateway, headers: dict[str, str]
) -> None:
    # Even one that has got hold of a good token.
    token = await add(home, "ci", "list", "operate")
    for line in (*REQUESTS, "OPTIONS /v1/nodes"):
        reply = await ask(gateway, line, token, headers=headers)
        assert (reply.status, reply.error["code"]) == (403, "denied"), line
        assert not any(name.startswith("access-control") for name in reply.headers)
    for host in ("localhost", "127.0.0.1", "[::1]", "LOCALHOST:1"):
        assert (await ask(gateway, "GET /v1/nodes", token, headers={"Host": host})).status == 200


# -- loopback -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"X-Forwarded-For": "127.0.0.1"},
        {"Forwarded": "for=127.0.0.1"},
        {"X-Real-IP": "127.0.0.1", "Authorization": "Bearer "},
        {"Authorization": "Basic cm9vdDpyb290"},
    ],
)
async def test_loopback_taken_for_authentication(gateway: Gateway, headers: dict[str, str]) -> None:
    for line in ("GET /v1/status", "POST /v1/pairings", "POST /v1/call"):
        assert (await ask(gateway, line, headers=headers)).status == 401


async def test_loopback_taken_for_authentication_of_a_node(home: Home, gateway: Gateway) -> None:
    await pair(home, "laptop")
    for proof in ({"token": ""}, {"token": "hnt_" + "x" * 43}, {"proof": ""}):
        async with scripted_node(gateway.url) as node:
            await node.send_text(
                json.dumps({"type": "hello", "protocol_version": "0.1.0", "node_name": "laptop"})
            )
            assert (await node.receive_json())["type"] == "hello_ack"
            await node.send_text(json.dumps({"type": "auth", "node_name": "laptop", **proof}))
            assert (await node.receive_json())["reason"] == "invalid_token"


# -- what a caller says of itself -----------------------------------------------------------------

_SAID = {
    "X-Operator": "boss",
    "X-Actor": "local:root",
    "X-Scope": "all",
    "X-Forwarded-User": "root",
    "X-Hermes-Verbs": "operate",
    "Cookie": "operator=boss; verbs=operate",
}


async def test_a_caller_declaring_its_own_scope(home: Home, gateway: Gateway, tmp_path: Path) -> None:
    inside, outside = await pair(home, "inside"), await pair(home, "outside")
    await add(home, "boss", "list", "exec", "operate")
    token = await add(home, "ci", "list", "exec", nodes="inside")
    async with (
        our_node(gateway.url, "inside", inside, tmp_path / "in") as one,
        our_node(gateway.url, "outside", outside, tmp_path / "out") as other,
    ):
        await one.state("connected")
        await other.state("connected")
        seen = await ask(gateway, "GET /v1/nodes?all=1&scope=all&operator=boss", token, headers=_SAID)
        assert [node["name"] for node in json.loads(seen.body)["nodes"]] == ["inside"]
        assert (await ask(gateway, "GET /v1/operators?operator=boss", token, headers=_SAID)).status == 403
        run = await ask(
            gateway, "POST /v1/nodes/outside/exec", token, headers=_SAID, body={"command": "true"}
        )
        assert json.loads(run.body)["result"]["status"] == "unknown_node"
        for field in ("actor", "operator", "operator_id", "scope", "verbs", "remote_addr"):
            said = {"command": "true", field: "boss"}
            reply = await ask(gateway, "POST /v1/nodes/inside/exec", token, body=said)
            assert reply.status == 400, field
        run = await ask(
            gateway, "POST /v1/nodes/inside/exec", token, headers=_SAID, body={"command": "true"}
        )
        assert json.loads(run.body)["result"]["status"] == "ok"
    rows = home.trail(action="exec")
    assert {(row["actor"], row["remote_addr"]) for row in rows} == {("operator:ci", "127.0.0.1")}


async def test_a_caller_declaring_its_own_scope_by_anothers_id(home: Home, gateway: Gateway) -> None:
    boss, ci = await add(home, "boss", "operate"), await add(home, "ci", "list")
    boss_id = boss.removeprefix("hno_").partition(".")[0]
    forged = (
        f"hno_{boss_id}.{ci.partition('.')[2]}",
        f"hno_{boss_id}.",
        f"hno_{boss_id}",
        boss.upper(),
        boss + "x",
        boss[:-1],
    )
    for token in forged:
        assert (await ask(gateway, "GET /v1/operators", token)).status == 401, token
    assert (await ask(gateway, "GET /v1/operators", boss)).status == 200


async def test_a_caller_declaring_its_own_address(home: Home, gateway: Gateway) -> None:
    """Only a proxy that the settings trust says whom it speaks for."""
    await ask(gateway, "GET /v1/status", NOBODY, headers={"X-Forwarded-For": "198.51.100.7"})
    (row,) = home.trail(action="auth")
    assert (row["remote_addr"], row["actor"]) == ("127.0.0.1", None)


async def test_a_forwarded_address_with_signs_of_its_own(home: Home) -> None:
    trusting = {
        "HERMES_NODES_TRUSTED_PROXIES": "127.0.0.1",
        "HERMES_NODES_CONTROL_LISTEN": "127.0.0.1:0",
    }
    async with home.gateway_here(**trusting) as gateway:
        for said in ("fe80::1%\N{CONTROL SEQUENCE INTRODUCER}31m", "fe80::1%" + "x" * 1000, "here"):
            await ask(gateway, "GET /v1/status", NOBODY, headers={"X-Forwarded-For": said})
        await ask(gateway, "GET /v1/status", NOBODY, headers={"X-Forwarded-For": "198.51.100.7"})
    addresses = [row["remote_addr"] for row in home.trail(action="auth")]
    assert addresses == ["127.0.0.1"] * 3 + ["198.51.100.7"]


# -- settings -------------------------------------------------------------------------------------

_WRONG_KEY = "A" * 43 + "="


@pytest.mark.parametrize(
    ("environ", "said"),
    [
        ({"HERMES_NODES_TOKEN_KEY": _WRONG_KEY}, "is not the key of the token store"),
        ({"HERMES_NODES_TOKEN_KEY": "not a key"}, "is not a valid token key"),
        ({"HERMES_NODES_TOKEN_ENCRYPTION_KEY_ENV": "NOT_THERE"}, "there is no key"),
        ({"HERMES_NODES_CONTROL_LISTEN": "0.0.0.0:0"}, "in the open"),
        ({"HERMES_NODES_CONTROL_LISTEN": "[::]:0"}, "in the open"),
        ({"HERMES_NODES_CONTROL_LISTEN": "gateway.example:0"}, "in the open"),
        ({"HERMES_NODES_TLS_CERT_PATH": "cert.pem"}, "tls_key_path is not"),
        ({"HERMES_NODES_TLS_KEY_PATH": "key.pem"}, "tls_cert_path is not"),
        ({"HERMES_NODES_TLS_CERT_PATH": "no.pem", "HERMES_NODES_TLS_KEY_PATH": "no.pem"}, "no.pem"),
        ({"HERMES_NODES_TRUSTED_PROXIES": "everyone"}, "HERMES_NODES_TRUSTED_PROXIES"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
async def test_a_setting_for_authentication_that_is_ignored(
    home: Home, environ: dict[str, str], said: str
) -> None:
    async with home.gateway_here():
        pass  # the home has its key and its store
    with pytest.raises(HermesNodesError) as refusal:
        async with home.gateway_here(**environ):
            pass
    assert said in refusal.value.message
    assert refusal.value.exit_status in {77, 78}


@pytest.mark.parametrize("key", ["control_lisen: 0.0.0.0:1", "tls_cert: x", "require_auth: true"])
async def test_a_setting_for_authentication_that_is_misspelt(home: Home, key: str) -> None:
    home.path.mkdir()
    (home.path / "hermes-node.yaml").write_text(key + "\n")
    with pytest.raises(SettingsError, match="there is no setting"):
        async with home.gateway_here():
            pass


def test_a_gateway_without_its_key_does_not_start(home: Home) -> None:
    home.pair("laptop")
    (home.path / ".env").unlink()
    done = home.run("serve", "--port", "0")
    assert (done.returncode, b"there is no key" in done.stderr) == (77, True), done.stderr
    assert not (home.path / ".env").exists()


async def test_a_reload_that_would_open_the_line_changes_nothing(home: Home, gateway: Gateway) -> None:
    before = gateway.settings
    reader = await operator(home, gateway, "list")
    environ = {**home.environ, "HERMES_NODES_CONTROL_LISTEN": f"0.0.0.0:{port_of(gateway)}"}
    with pytest.raises(SettingsError, match="in the open"):
        gateway.reload(config.load({"port": "0"}, environ))
    assert gateway.settings is before
    assert await asyncio.to_thread(reader.nodes) == []
