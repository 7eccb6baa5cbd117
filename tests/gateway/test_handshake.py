"""The handshake over a real socket: each row of its failure table, the lockout, and who is trusted."""

import asyncio
import json
import logging
from collections.abc import AsyncIterator
from types import SimpleNamespace

import pytest

from hermes_nodes.gateway import Gateway, nodes
from hermes_nodes.gateway.lockout import MOST_FAILURES
from hermes_nodes.protocol.handshake import Refused
from tests.gateway.support import pair
from tests.harness import Home, ScriptedNode, scripted_node

HELLO = {"type": "hello", "protocol_version": "0.1.0", "node_name": "laptop"}
AUTH = {"type": "auth", "node_name": "laptop", "token": "hnt_wrong"}
DEEP = "[" * 5000 + "]" * 5000


@pytest.fixture
async def peer(gateway: Gateway) -> AsyncIterator[ScriptedNode]:
    async with scripted_node(gateway.url) as node:
        yield node


async def say(peer: ScriptedNode, message: object) -> None:
    if isinstance(message, bytes):
        await peer.ws.send_bytes(message)
    else:
        await peer.send_text(message if isinstance(message, str) else json.dumps(message))


async def refusal(peer: ScriptedNode) -> tuple[object, object, object, int | None]:
    """The reply's type, reason and code, and the code of the close behind it."""
    reply = await peer.receive_json()
    return reply["type"], reply["reason"], reply["code"], await peer.closed()


@pytest.mark.parametrize(
    ("first", "reason", "code"),
    [
        ({"type": "ping"}, "expected_hello", 4003),
        (AUTH, "expected_hello", 4003),
        ("{", "malformed", 4003),
        ("[]", "malformed", 4003),
        (DEEP, "malformed", 4003),
        (json.dumps(HELLO).encode(), "malformed", 4003),
        ({**HELLO, "arch": "x" * 65}, "malformed", 4003),
        ({**HELLO, "capabilities": ["x"] * 33}, "malformed", 4003),
        ({**HELLO, "node_name": "a/b"}, "malformed", 4003),
        ({**HELLO, "node_name": ["laptop"]}, "malformed", 4003),
        ({**HELLO, "e2e": True}, "malformed", 4003),
        ({**HELLO, "e2e": True, "ecdh_pub": "A" * 43}, "malformed", 4003),
        ({**HELLO, "protocol_version": "1.0.0"}, "unsupported_protocol_version", 4002),
        ({**HELLO, "protocol_version": "newest"}, "unsupported_protocol_version", 4002),
    ],
)
async def test_a_bad_first_message_is_refused(
    peer: ScriptedNode, first: object, reason: str, code: int
) -> None:
    await say(peer, first)
    assert await refusal(peer) == ("hello_err", reason, code, code)


@pytest.mark.parametrize(
    ("second", "reason", "code"),
    [
        (HELLO, "expected_auth", 4003),
        ({"type": "ping"}, "expected_auth", 4003),
        ("nonsense", "malformed", 4003),
        (json.dumps(AUTH).encode(), "malformed", 4003),
        ({**AUTH, "token": "x" * 65}, "malformed", 4003),
        ({**AUTH, "node_name": "other"}, "unknown_node", 4001),
        (AUTH, "invalid_token", 4001),
    ],
)
async def test_a_bad_second_message_is_refused(
    home: Home, peer: ScriptedNode, second: object, reason: str, code: int
) -> None:
    await pair(home, "laptop")
    await say(peer, HELLO)
    assert (await peer.receive_json())["type"] == "hello_ack"
    await say(peer, second)
    assert await refusal(peer) == ("auth_err", reason, code, code)


@pytest.mark.parametrize("said", [[], [HELLO]])
async def test_a_peer_that_says_nothing_is_not_waited_for(home: Home, said: list[object]) -> None:
    async with (
        home.gateway_here(HERMES_NODES_HANDSHAKE_TIMEOUT_SECONDS="0.2") as gateway,
        scripted_node(gateway.url) as peer,
    ):
        for message in said:
            await say(peer, message)
            await peer.receive_json()
        kind = "auth_err" if said else "hello_err"
        assert await refusal(peer) == (kind, "handshake_timeout", 4004, 4004)


async def test_a_version_that_is_refused_hears_which_one_is_spoken(peer: ScriptedNode) -> None:
    await say(peer, {**HELLO, "protocol_version": "2.3.4"})
    assert (await peer.receive_json())["server_max_version"] == "0.1.0"


async def test_encryption_is_demanded_where_the_line_can_be_heard(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nodes, "_is_protected", lambda _: False)
    async with scripted_node(gateway.url) as peer:
        await say(peer, HELLO)
        assert await refusal(peer) == ("hello_err", "encryption_required", 4001, 4001)


@pytest.mark.parametrize(
    ("facts", "protected"),
    [
        ({"peername": ("127.0.0.1", 1)}, True),
        ({"peername": ("::1", 1, 0, 0)}, True),
        ({"peername": ("192.0.2.1", 1)}, False),
        ({"peername": None}, False),
        ({"peername": ("192.0.2.1", 1), "sslcontext": object()}, True),
    ],
)
def test_a_line_is_protected_by_tls_or_by_ending_on_this_machine(
    facts: dict[str, object], protected: bool
) -> None:
    assert nodes._is_protected(SimpleNamespace(get_extra_info=facts.get)) is protected  # type: ignore[arg-type]


@pytest.mark.parametrize("state", ["unknown", "wrong", "revoked", "expired"])
async def test_what_is_wrong_with_a_token_is_not_to_be_learnt(
    home: Home, peer: ScriptedNode, state: str
) -> None:
    name = "other" if state == "unknown" else "laptop"
    token = await pair(home, name, expires_in=0.001 if state == "expired" else None)
    if state == "revoked":
        await asyncio.to_thread(home.client.revoke, name)
    shown = token[:-1] + ("A" if token[-1] != "A" else "B") if state == "wrong" else token
    auth = await peer.greet("laptop", shown)
    await peer.send_frame(auth)
    assert await refusal(peer) == ("auth_err", "invalid_token", 4001, 4001)
    (row,) = home.trail(action="auth")
    assert (row["status"], row["node"], row["remote_addr"]) == ("denied", "laptop", "127.0.0.1")


async def fail(gateway: Gateway, name: str) -> str:
    """One failed login; the reason that was given."""
    async with scripted_node(gateway.url) as node:
        with pytest.raises(Refused) as refused:
            await node.log_in(name, "hnt_wrong")
        return refused.value.reply.reason


async def test_too_many_failures_lock_out_but_never_the_right_token(home: Home, gateway: Gateway) -> None:
    token = await pair(home, "laptop")
    reasons = [await fail(gateway, "laptop") for _ in range(MOST_FAILURES + 3)]
    assert reasons == ["invalid_token"] * MOST_FAILURES + ["locked_out"] * 3
    # An attacker can't fill the trail.
    assert len(home.trail(action="auth")) == MOST_FAILURES
    # The address is locked out, under whatever name it comes.
    assert await fail(gateway, "another") == "locked_out"
    async with scripted_node(gateway.url) as node:
        await node.log_in("laptop", token)
        assert (await asyncio.to_thread(home.client.nodes, "laptop"))[0]["state"] == "connected"


async def test_a_lockout_changes_no_other_refusal(
    home: Home, gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    for _ in range(MOST_FAILURES + 1):
        await fail(gateway, "laptop")
    async with scripted_node(gateway.url) as peer:
        await say(peer, HELLO)
        await peer.receive_json()
        await say(peer, {**AUTH, "node_name": "other"})
        assert await refusal(peer) == ("auth_err", "unknown_node", 4001, 4001)
    monkeypatch.setattr(nodes, "_is_protected", lambda _: False)
    async with scripted_node(gateway.url) as peer:
        await say(peer, HELLO)
        assert await refusal(peer) == ("hello_err", "encryption_required", 4001, 4001)
    assert len(home.trail(action="auth")) == MOST_FAILURES


async def test_a_proxy_that_is_trusted_speaks_for_the_address_behind_it(home: Home) -> None:
    async with home.gateway_here(HERMES_NODES_TRUSTED_PROXIES="127.0.0.1,10.0.0.0/8") as gateway:
        headers = {"X-Forwarded-For": "198.51.100.9, 192.0.2.7, 10.1.1.1"}
        async with scripted_node(gateway.url, headers=headers) as peer:
            await say(peer, HELLO)
            await peer.receive_json()
            await say(peer, AUTH)
            await refusal(peer)
    # The first address from the right that no proxy of ours has; what is before it, anybody can write.
    assert [row["remote_addr"] for row in home.trail(action="auth")] == ["192.0.2.7"]


async def test_anybody_else_speaks_for_himself(home: Home, gateway: Gateway) -> None:
    async with scripted_node(gateway.url, headers={"X-Forwarded-For": "192.0.2.7"}) as peer:
        await say(peer, HELLO)
        await peer.receive_json()
        await say(peer, AUTH)
        await refusal(peer)
    assert [row["remote_addr"] for row in home.trail(action="auth")] == ["127.0.0.1"]


async def test_a_ping_during_the_handshake_is_answered(peer: ScriptedNode) -> None:
    await peer.ws.ping(b"there?")
    await say(peer, HELLO)
    message = await peer.ws.receive()
    assert message.data == b"there?"
    assert (await peer.receive_json())["type"] == "hello_ack"


async def test_a_peer_that_leaves_during_the_handshake_leaves_no_trace(
    home: Home, gateway: Gateway, caplog: pytest.LogCaptureFixture
) -> None:
    async with scripted_node(gateway.url) as peer:
        await say(peer, HELLO)
        await peer.receive_json()
        peer.ws._response.close()
    async with scripted_node(gateway.url) as peer:
        await say(peer, HELLO)
        await peer.receive_json()
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []
    assert home.trail(action="auth") == []
