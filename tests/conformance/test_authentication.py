"""Section 2: who is let in, and how little anybody else learns."""

import asyncio
from contextlib import AsyncExitStack

import pytest

from hermes_nodes.errors import NodeDisconnected
from tests.conformance.conftest import Dial, Pairing
from tests.conformance.node import Json, Node, b64url, connect
from tests.conformance.operators import Operator, arrived
from tests.conformance.replies import Refusal, auth_err, hello_err, refusal
from tests.harness import Home, until
from tests.support import SOON

INVALID = auth_err("invalid_token", 4001)
LOCKED_OUT = auth_err("locked_out", 4001)


def altered(text: str) -> str:
    """The same with another first character."""
    return ("A" if text[0] != "A" else "B") + text[1:]


def wrong_credentials(node: Node, token: str) -> Json:
    return {key: altered(value) for key, value in node.credentials(token).items()}


async def fail(dial: Dial, name: str, *, encrypted: bool) -> Refusal:
    """One login with a token that nobody has."""
    async with dial() as node:
        await node.greet(name, encrypted=encrypted)
        await node.auth(name, **node.credentials("hnt_nobody"))
        return await refusal(node)


# -- what proves nothing --------------------------------------------------------------------------


async def test_a_wrong_token_or_proof_is_refused(greeted: Node, pairing: Pairing) -> None:
    await greeted.auth(pairing.name, **wrong_credentials(greeted, pairing.token))
    assert await refusal(greeted) == INVALID


async def test_an_unknown_name_is_refused_at_its_proof(
    peer: Node, fresh_name: str, encrypted: bool
) -> None:
    ack = await peer.greet(f"unknown-{fresh_name}", encrypted=encrypted)
    assert {"ecdh_pub", "salt"} <= ack.keys() or not encrypted
    await peer.auth(f"unknown-{fresh_name}", **peer.credentials("hnt_nobody"))
    assert await refusal(peer) == INVALID


async def test_auth_must_name_the_node_that_hello_named(greeted: Node, pairing: Pairing) -> None:
    await greeted.auth(f"{pairing.name}-2", **greeted.credentials(pairing.token))
    assert await refusal(greeted) == auth_err("unknown_node", 4001)


async def test_names_differ_in_their_case(our_gateway: object, greeted: Node, pairing: Pairing) -> None:
    await greeted.auth(pairing.name.upper(), **greeted.credentials(pairing.token))
    assert await refusal(greeted) == auth_err("unknown_node", 4001)


@pytest.mark.parametrize("proof", [b"", b"\0" * 31, b"\0" * 32, b"\0" * 33], ids=len)
async def test_a_proof_of_any_length_is_just_wrong(
    our_gateway: object, peer: Node, pairing: Pairing, proof: bytes
) -> None:
    await peer.greet(pairing.name, encrypted=True)
    await peer.auth(pairing.name, proof=b64url(proof), token=pairing.token)
    assert await refusal(peer) == INVALID


async def test_a_proof_is_no_token(our_gateway: object, peer: Node, pairing: Pairing) -> None:
    await peer.greet(pairing.name)
    await peer.auth(pairing.name, token="", proof=b64url(bytes(32)))
    assert await refusal(peer) == INVALID


@pytest.mark.parametrize("proof", ["=", "a=", "!!!!", "\xe9", "a b"])
async def test_a_proof_that_is_no_base64url_is_malformed(peer: Node, pairing: Pairing, proof: str) -> None:
    await peer.greet(pairing.name, encrypted=True)
    await peer.auth(pairing.name, proof=proof)
    assert await refusal(peer) == auth_err("malformed", 4003)


async def test_the_server_s_proof_is_not_the_client_s(peer: Node, pairing: Pairing) -> None:
    await peer.greet(pairing.name, encrypted=True)
    await peer.auth(pairing.name, proof=peer.agree(pairing.token).server_proof)
    assert await refusal(peer) == INVALID


async def test_a_proof_counts_for_its_own_session_alone(dial: Dial, pairing: Pairing) -> None:
    async with dial() as first, dial() as second:
        await first.greet(pairing.name, encrypted=True)
        await second.greet(pairing.name, encrypted=True)
        await second.auth(pairing.name, **first.credentials(pairing.token))
        assert await refusal(second) == INVALID


# -- what looks alike -----------------------------------------------------------------------------


async def answers(dial: Dial, name: str, token: str, *, encrypted: bool) -> list[object]:
    """All that a peer gets to see: the fields, what they hold unless it is random, and the close."""
    varying = {"session_id", "server_time", "ecdh_pub", "salt", "ts"}
    async with dial() as node:
        ack = await node.greet(name, encrypted=encrypted)
        await node.auth(name, **node.credentials(token))
        reply = await node.receive_plain()
        seen: list[object] = [sorted(ack), sorted(reply)]
        seen += [{k: v for k, v in message.items() if k not in varying} for message in (ack, reply)]
        return [*seen, await node.closed()]


async def test_unknown_wrong_revoked_and_expired_look_alike(
    operator: Operator, dial: Dial, pairing: Pairing, encrypted: bool
) -> None:
    unknown, revoked, expired = (f"{pairing.name}-{what}" for what in ("unknown", "revoked", "expired"))
    revoked_token = await operator.pair(revoked)
    await operator.revoke(revoked)
    expired_token = await operator.pair(expired, expires_in=0.001)
    tokens = {
        pairing.name: altered(pairing.token),
        unknown: "hnt_nobody",
        revoked: revoked_token,
        expired: expired_token,
    }
    seen = [await answers(dial, name, token, encrypted=encrypted) for name, token in tokens.items()]
    assert seen == [seen[0]] * 4


async def test_what_is_revoked_during_the_handshake_is_not_let_in(
    operator: Operator, greeted: Node, pairing: Pairing
) -> None:
    await operator.revoke()
    await greeted.auth(pairing.name, **greeted.credentials(pairing.token))
    assert await refusal(greeted) == INVALID


async def test_encryption_is_demanded_where_the_line_can_be_heard(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    # All lines of a test end on this machine, so this one is declared to be another.
    monkeypatch.setattr("hermes_nodes.gateway.nodes._is_protected", lambda _: False)
    async with home.gateway_here() as gateway, AsyncExitStack() as stack:
        in_the_open = await stack.enter_async_context(connect(gateway.url))
        await in_the_open.hello("laptop")
        assert await refusal(in_the_open) == hello_err("encryption_required", 4001)
        sealed = await stack.enter_async_context(connect(gateway.url))
        assert "ecdh_pub" in await sealed.greet("laptop", encrypted=True)


# -- lockout --------------------------------------------------------------------------------------


async def test_ten_failures_lock_an_address_out_but_never_the_right_token(
    our_gateway: object, dial: Dial, pairing: Pairing, encrypted: bool
) -> None:
    # Each under another name, so that it is the address alone that has failed.
    names = [f"{pairing.name}-{number}" for number in range(11)]
    seen = [await fail(dial, name, encrypted=encrypted) for name in names]
    assert seen == [INVALID] * 10 + [LOCKED_OUT]
    async with dial() as node:
        await node.log_in(pairing.name, pairing.token, encrypted=encrypted)
        await node.is_served()


async def test_ten_failures_lock_a_name_out_wherever_they_come_from(
    our_gateway: object, dials: list[Dial], pairing: Pairing, encrypted: bool
) -> None:
    seen = [await fail(dial, pairing.name, encrypted=encrypted) for dial in dials]
    assert seen == [INVALID] * 10 + [LOCKED_OUT]
    async with dials[-1]() as node:
        await node.log_in(pairing.name, pairing.token, encrypted=encrypted)
        await node.is_served()


async def test_a_lockout_changes_no_other_refusal(
    our_gateway: object, dial: Dial, pairing: Pairing, encrypted: bool
) -> None:
    for _ in range(10):
        await fail(dial, pairing.name, encrypted=encrypted)
    async with dial() as node:
        await node.greet(pairing.name, encrypted=encrypted)
        await node.auth("another", token="x")
        assert await refusal(node) == auth_err("unknown_node", 4001)
    async with dial() as node:
        await node.hello("a/b", encrypted=encrypted)
        assert await refusal(node) == hello_err("malformed", 4003)


# -- replacement ----------------------------------------------------------------------------------


async def test_a_newer_connection_of_the_same_name_wins(
    node: Node, dial: Dial, pairing: Pairing, encrypted: bool
) -> None:
    async with dial() as newer:
        await newer.log_in(pairing.name, pairing.token, encrypted=encrypted)
        bye = await node.receive()
        assert (bye["type"], bye["reason"]) == ("bye", "replaced")
        assert await node.closed() == 1000
        await newer.is_served()


async def test_how_often_a_node_was_replaced_is_counted(
    operator: Operator, dial: Dial, pairing: Pairing
) -> None:
    async with AsyncExitStack() as stack:
        for count in range(3):
            node = await stack.enter_async_context(dial())
            await node.log_in(pairing.name, pairing.token)
            await node.is_served()
            assert (await operator.view())["replaced"] == count


async def test_a_newer_connection_that_proves_nothing_replaces_nobody(
    our_gateway: object, node: Node, dial: Dial, pairing: Pairing, encrypted: bool
) -> None:
    await fail(dial, pairing.name, encrypted=encrypted)
    await node.is_served()


async def test_the_newer_session_stays_registered_when_the_old_one_is_gone(
    operator: Operator, node: Node, dial: Dial, pairing: Pairing
) -> None:
    async with dial() as newer:
        await newer.log_in(pairing.name, pairing.token)
        assert await node.closed() == 1000
        left = operator.home.trail
        await until(lambda: len(left(action="disconnect", node=pairing.name)) == 1)
        assert (await operator.view())["state"] == "connected"
    await until(lambda: len(left(action="disconnect", node=pairing.name)) == 2)
    assert (await operator.view())["state"] != "connected"


async def test_calls_of_a_replaced_session_fail_at_once(
    operator: Operator, node: Node, dial: Dial, pairing: Pairing
) -> None:
    call = operator.exec("sleep 60")
    await arrived(node, "exec", call)
    async with dial() as newer:
        await newer.log_in(pairing.name, pairing.token)
        with pytest.raises(NodeDisconnected):
            await asyncio.wait_for(call, SOON)
