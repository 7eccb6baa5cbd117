"""Section 2: the order of the handshake, its versions, and what each answer holds."""

import re
import uuid
from datetime import UTC, datetime, timedelta

import pytest

from tests.conformance.conftest import Dial, Pairing
from tests.conformance.node import Json, Node, unb64url
from tests.conformance.replies import NO_OBJECTS, Refusal, auth_err, hello_err, refusal

MALFORMED = ("malformed", 4003)


# -- what is no handshake -------------------------------------------------------------------------


@pytest.mark.parametrize("text", NO_OBJECTS.values(), ids=NO_OBJECTS.keys())
async def test_a_first_message_that_is_no_object_is_malformed(peer: Node, text: str) -> None:
    await peer.send_text(text)
    assert await refusal(peer) == hello_err(*MALFORMED)


@pytest.mark.parametrize("text", NO_OBJECTS.values(), ids=NO_OBJECTS.keys())
async def test_a_second_message_that_is_no_object_is_malformed(greeted: Node, text: str) -> None:
    await greeted.send_text(text)
    assert await refusal(greeted) == auth_err(*MALFORMED)


async def test_text_that_is_not_utf_8_opens_nothing(peer: Node) -> None:
    await peer.send_content(b'{"type": "hello", "protocol_version": "0.1.0", "node_name": "\xff"}')
    assert await peer.closed() in {4003, 1007}  # RFC 6455 has a code of its own for this


async def test_a_binary_hello_is_malformed(peer: Node) -> None:
    await peer.send_binary(b'{"type": "hello", "protocol_version": "0.1.0", "node_name": "x"}')
    assert await refusal(peer) == hello_err(*MALFORMED)


async def test_a_binary_auth_is_malformed(greeted: Node) -> None:
    await greeted.send_binary(b'{"type": "auth", "node_name": "x", "token": "x"}')
    assert await refusal(greeted) == auth_err(*MALFORMED)


@pytest.mark.parametrize("kind", ["auth", "ping", "bye", "exec_result", "enc", "hello_ack", "no_such_type"])
async def test_a_first_message_that_is_not_hello_is_out_of_order(peer: Node, kind: str) -> None:
    await peer.send_plain({"type": kind, "node_name": "x", "token": "x", "data": "x"})
    assert await refusal(peer) == hello_err("expected_hello", 4003)


@pytest.mark.parametrize("kind", ["hello", "ping", "bye", "exec_result", "enc", "auth_ok", "no_such_type"])
async def test_a_second_message_that_is_not_auth_is_out_of_order(greeted: Node, kind: str) -> None:
    fields = {"protocol_version": "0.1.0", "node_name": "x", "data": "x"}
    await greeted.send_plain({"type": kind, **fields})
    assert await refusal(greeted) == auth_err("expected_auth", 4003)


# -- versions -------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", ["0.0.0", "0.1.9", "0.2.0", "0.99.0", "0.1.0-rc.1", "0.1.0+build.7"])
async def test_a_version_of_the_same_major_is_answered_with_ours(
    peer: Node, fresh_name: str, encrypted: bool, version: str
) -> None:
    ack = await peer.greet(fresh_name, encrypted=encrypted, protocol_version=version)
    assert ack["protocol_version"] == "0.1.0"


@pytest.mark.parametrize(
    "version",
    ["1.0.0", "2.3.4", "10.0.0", "1.0.0-rc.1", "0", "0.1", "v0.1.0", "00.1.0", "0.1.0.0", "newest"],
)
async def test_another_major_or_no_semver_is_refused_with_the_version_that_is_spoken(
    peer: Node, fresh_name: str, encrypted: bool, version: str
) -> None:
    await peer.hello(fresh_name, encrypted=encrypted, protocol_version=version)
    reply = await peer.receive_plain()
    assert reply["server_max_version"] == "0.1.0"
    found = Refusal(reply["type"], reply["reason"], reply["code"], await peer.closed())
    assert found == hello_err("unsupported_protocol_version", 4002)


# -- what the gateway says ------------------------------------------------------------------------


async def test_hello_ack_names_the_session_and_the_time(
    peer: Node, fresh_name: str, encrypted: bool
) -> None:
    ack = await peer.greet(fresh_name, encrypted=encrypted)
    assert ack["protocol_version"] == "0.1.0"
    assert uuid.UUID(ack["session_id"]).version == 4
    assert str(uuid.UUID(ack["session_id"])) == ack["session_id"]
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", ack["server_time"])
    clock = datetime.fromisoformat(ack["server_time"])
    assert abs(datetime.now(UTC) - clock) < timedelta(hours=1)
    assert ack["capabilities"] == []


async def test_hello_ack_brings_a_key_and_a_salt_where_encryption_is_offered(
    peer: Node, fresh_name: str
) -> None:
    ack = await peer.greet(fresh_name, encrypted=True)
    assert len(unb64url(ack["ecdh_pub"])) == 32
    assert len(unb64url(ack["salt"])) == 32


@pytest.mark.parametrize("half", ["nothing", "e2e alone is false", "ecdh_pub alone"])
async def test_hello_ack_brings_neither_where_it_is_not(peer: Node, fresh_name: str, half: str) -> None:
    offers: dict[str, Json] = {
        "nothing": {},
        "e2e alone is false": {**peer.offer(), "e2e": False},
        "ecdh_pub alone": {"ecdh_pub": peer.offer()["ecdh_pub"]},
    }
    ack = await peer.greet(fresh_name, **offers[half])
    assert not {"ecdh_pub", "salt"} & ack.keys()


async def test_each_connection_has_a_session_and_keys_of_its_own(dial: Dial, fresh_name: str) -> None:
    seen: list[object] = []
    for _ in range(3):
        async with dial() as peer:
            ack = await peer.greet(fresh_name, encrypted=True)
            seen += [ack["session_id"], ack["ecdh_pub"], ack["salt"]]
    assert len(set(seen)) == len(seen)


async def test_a_node_that_proves_itself_is_let_in(peer: Node, pairing: Pairing, encrypted: bool) -> None:
    ok = await peer.log_in(pairing.name, pairing.token, encrypted=encrypted)
    assert ("proof" in ok) is encrypted
    await peer.is_served()


async def test_an_unpadded_auth_ok_proof_has_32_bytes(peer: Node, pairing: Pairing) -> None:
    ok = await peer.log_in(pairing.name, pairing.token, encrypted=True)
    assert len(unb64url(ok["proof"])) == 32


# -- capabilities ---------------------------------------------------------------------------------


async def test_stream_1_is_accepted_with_encryption_alone(
    peer: Node, fresh_name: str, encrypted: bool
) -> None:
    ack = await peer.greet(fresh_name, encrypted=encrypted, capabilities=["stream/1", "pty"])
    assert ("stream/1" in ack["capabilities"]) is encrypted


async def test_exec_chunk_is_not_accepted_by_default(peer: Node, fresh_name: str, encrypted: bool) -> None:
    ack = await peer.greet(fresh_name, encrypted=encrypted, capabilities=["exec_chunk"])
    assert ack["capabilities"] == []


async def test_capabilities_that_nobody_knows_are_not_accepted(
    peer: Node, fresh_name: str, encrypted: bool
) -> None:
    ack = await peer.greet(
        fresh_name, encrypted=encrypted, capabilities=["teleport/9", "stdin", "stream/2"]
    )
    assert ack["capabilities"] == []
