"""A gateway started on a home of the older system: nodes log in as ever, with no command typed."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from hermes_nodes.protocol import crypto
from hermes_nodes.protocol.messages import Close
from tests import older_home as older
from tests.harness import GatewayProcess, Home, ScriptedNode, scripted_node
from tests.support import PATIENCE


@pytest.fixture
def older_home(tmp_path: Path) -> Home:
    home = Home(tmp_path)
    older.leave(home.path)
    return home


def listed(home: Home, *options: str) -> dict[str, dict[str, object]]:
    return {view["name"]: view for view in json.loads(home.ok("list", "--json", *options))}


@asynccontextmanager
async def greeted(gateway: GatewayProcess, name: str) -> AsyncIterator[ScriptedNode]:
    """A node of the older system that has offered encryption and been answered without."""
    async with scripted_node(gateway.url) as node:
        hello = {
            "type": "hello",
            "protocol_version": "0.1.0",
            "node_name": name,
            "platform": "linux",
            "e2e": True,
            "ecdh_pub": crypto.b64url(crypto.KeyPair().public),
        }
        await node.send_text(json.dumps(hello))
        ack = await node.receive_json()
        assert ack["type"] == "hello_ack"
        assert not {"ecdh_pub", "salt"} & {key for key, value in ack.items() if value is not None}
        yield node


async def authenticate(node: ScriptedNode, name: str, token: str) -> dict[str, object]:
    await node.send_text(json.dumps({"type": "auth", "node_name": name, "token": token}))
    return await node.receive_json()


async def test_it_lists_the_pairings_and_admits_their_nodes(older_home: Home) -> None:
    file = older_home.path / "nodes" / "tokens.json"
    content = file.read_bytes()
    with older_home.gateway() as gateway:
        before = listed(older_home)
        assert {name: view["state"] for name, view in before.items()} == {
            "build box": "disconnected",
            "nas": "never_seen",
            "web-1": "disconnected",
        }
        for name in before:
            async with greeted(gateway, name) as node:
                ok = await authenticate(node, name, older.token(name))
                assert ok["type"] == "auth_ok"
                assert ok.get("proof") is None
                view = listed(older_home, name)[name]
                assert (view["state"], view["encrypted"], view["hash_only"]) == ("connected", False, True)
        assert gateway.log.count(f"took over 6 pairings (3 revoked) from {file}") == 1
    assert file.read_bytes() == content
    with older_home.gateway() as gateway:
        after = listed(older_home)
        assert gateway.log.count("took over") == 1
        assert {name: view["pairing_id"] for name, view in after.items()} == {
            name: view["pairing_id"] for name, view in before.items()
        }


@pytest.mark.parametrize(("name", "token"), [("web-1", "nas"), ("web-1", ""), ("nas", "web-1")])
async def test_a_wrong_token_is_refused(older_home: Home, name: str, token: str) -> None:
    with older_home.gateway() as gateway:
        async with greeted(gateway, name) as node:
            refusal = await authenticate(node, name, older.token(token))
            assert (refusal["type"], refusal["reason"]) == ("auth_err", "invalid_token")
            assert await node.closed() == Close.UNAUTHORISED
        async with greeted(gateway, name) as node:
            # The hash itself proves nothing.
            refusal = await authenticate(node, name, str(older.record(name)["token_hash"]))
            assert refusal["reason"] == "invalid_token"


async def test_a_revoked_name_is_not_admitted(older_home: Home) -> None:
    with older_home.gateway() as gateway:
        async with scripted_node(gateway.url) as node:
            await node.send_text(
                json.dumps({"type": "hello", "protocol_version": "0.1.0", "node_name": "gone"})
            )
            await node.receive_json()
            assert (await authenticate(node, "gone", older.token("gone")))["reason"] == "invalid_token"


async def test_pairing_again_shuts_the_old_token_out_and_brings_encryption(older_home: Home) -> None:
    with older_home.gateway() as gateway:
        async with greeted(gateway, "web-1") as node:
            await authenticate(node, "web-1", older.token("web-1"))
            assert b"NAME`): build box, nas, web-1\n" in older_home.run("list").stderr
            token = older_home.pair("web-1", "--force")
            assert await node.closed() == Close.REVOKED
        with older_home.node(gateway, "web-1", token=token):
            view = listed(older_home, "web-1")["web-1"]
            assert (view["state"], view["encrypted"], view["hash_only"]) == ("connected", True, False)
            assert b"encrypted" not in older_home.run("list", "web-1").stderr


async def test_a_revocation_holds_though_the_older_file_knows_nothing_of_it(older_home: Home) -> None:
    with older_home.gateway():
        older_home.ok("revoke", "nas")
    with older_home.gateway() as gateway:
        assert "nas" not in listed(older_home)
        async with scripted_node(gateway.url) as node:
            await node.send_text(
                json.dumps({"type": "hello", "protocol_version": "0.1.0", "node_name": "nas"})
            )
            await node.receive_json()
            assert (await authenticate(node, "nas", older.token("nas")))["reason"] == "invalid_token"


def test_a_gateway_killed_after_it_doubles_nothing(older_home: Home) -> None:
    with older_home.gateway() as gateway:
        before = listed(older_home, "--all")
        gateway.process.kill()
        gateway.process.wait(PATIENCE)
    with older_home.gateway():
        assert listed(older_home, "--all") == before
        assert len(json.loads(older_home.ok("list", "--json", "--all"))) == len(older.RECORDS)
    assert len(older_home.trail(action="pair")) == 3


def test_its_own_rows_follow_the_older_ones(older_home: Home) -> None:
    with older_home.gateway():
        rows = [json.loads(line) for line in older_home.ok("audit", "tail", "--json").splitlines()]
    assert rows[: len(older.AUDIT_ROWS)] == older.AUDIT_ROWS
    assert [row["action"] for row in rows[len(older.AUDIT_ROWS) :]] == ["pair", "pair", "pair", "start"]
