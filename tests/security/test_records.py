"""Somebody between a node and its gateway can end a session, and nothing else."""

from collections.abc import Callable
from typing import Any

import pytest

from hermes_nodes.errors import ProtocolViolation
from hermes_nodes.protocol.codec import Frame, RecordCodec
from hermes_nodes.protocol.handshake import Refused
from hermes_nodes.protocol.messages import Exec, Ping, encode, new_call_id
from tests.harness import scripted_node
from tests.protocol.support import TOKEN, converse, gateway, logged_in, our_node, said, text
from tests.security.place import Place

Alter = Callable[[Frame], Frame]
CALL = Exec(id=new_call_id(), command="true")
PING = Ping(ts="x")


async def test_a_downgrade_from_encrypted_to_plain_in_a_session(place: Place) -> None:
    name = place.fresh("node")
    token = place.paired(name)
    async with scripted_node(place.gateway.url) as node:
        await node.log_in(name, token)
        await node.send_text(encode(PING))
        assert await node.closed() == 4003


def without(frame: Frame, *fields: str) -> Frame:
    return text({key: value for key, value in said(frame).items() if key not in fields})


def no_stream(frame: Frame) -> Frame:
    kept = [one for one in said(frame)["capabilities"] if one != "stream/1"]
    return text(said(frame) | {"capabilities": kept})


def no_encryption(frame: Frame) -> Frame:
    return without(frame, "e2e", "ecdh_pub", "salt")


def same(frame: Frame) -> Frame:
    return frame


@pytest.mark.parametrize(
    ("hello", "ack"),
    [
        pytest.param(no_encryption, same, id="from encrypted to plain, in hello"),
        pytest.param(same, no_encryption, id="from encrypted to plain, in hello_ack"),
        pytest.param(no_encryption, no_encryption, id="from encrypted to plain, in both"),
        pytest.param(no_stream, same, id="from stream/1, in hello"),
        pytest.param(same, no_stream, id="from stream/1, in hello_ack"),
        pytest.param(no_stream, no_stream, id="from stream/1, in both"),
    ],
)
def test_downgrade_from_encrypted_to_plain_and_from_stream(hello: Alter, ack: Alter) -> None:
    """Our node says nothing more: neither its token, nor a proof that would let someone else in."""
    node = our_node()
    told: list[Frame] = []

    def answer(frame: Frame) -> Frame:
        told.append(node.receive_ack(ack(frame)))
        return told[-1]

    with pytest.raises(ProtocolViolation, match="does not offer encryption and stream/1"):
        converse(gateway(TOKEN), hello(node.hello()), answer)
    assert told == []


def test_a_downgrade_on_an_open_line_is_refused_before_the_token_is_sent() -> None:
    with pytest.raises(Refused) as refused:
        converse(gateway(TOKEN, protected=False), no_encryption(our_node().hello()), same)
    assert refused.value.reply.reason == "encryption_required"


# -- records ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("forward", [True, False], ids=["to the node", "to the gateway"])
@pytest.mark.parametrize("attack", ["replay", "reordering", "reflection"])
def test_replay_reordering_and_reflection_of_records(attack: str, forward: bool) -> None:
    accepted, ours = logged_in()
    sender: RecordCodec[Any] = accepted.codec if forward else ours  # type: ignore[assignment]
    receiver: RecordCodec[Any] = ours if forward else accepted.codec  # type: ignore[assignment]
    first, _, third = (sender.encode(PING) for _ in range(3))
    receiver.decode(first)
    back = [receiver.encode(PING) for _ in range(2)][1]
    with pytest.raises(ProtocolViolation):
        receiver.decode({"replay": first, "reordering": third, "reflection": back}[attack])


@pytest.mark.parametrize("attack", ["replay", "reordering", "reflection"])
async def test_a_gateway_closing_on_replay_reordering_and_reflection(place: Place, attack: str) -> None:
    name = place.fresh("node")
    token = place.paired(name)
    async with scripted_node(place.gateway.url) as node:
        await node.log_in(name, token)
        assert node.codec is not None
        first, second = node.codec.encode(PING), node.codec.encode(PING)
        if attack == "replay":
            await node.send_frame(first)
            await node.send_frame(first)
        elif attack == "reordering":
            await node.send_frame(second)
            await node.send_frame(first)
        else:
            await node.send_frame(first)
            message = await node.ws.receive(20)  # the pong
            await node.ws.send_bytes(message.data)
        assert await node.closed() == 4003


# -- the gateway's own proof -----------------------------------------------------------------------


@pytest.mark.parametrize("proof", [None, "", "A" * 43, "the node's own"])
def test_a_proof_left_out_of_auth_ok(proof: str | None) -> None:
    """Whoever does not know the token can't pass for the gateway, nor by sending the proof back."""
    node = our_node()
    shown: list[str] = []

    def answer(frame: Frame) -> Frame:
        auth = node.receive_ack(frame)
        shown.append(said(auth)["proof"])
        return auth

    accepted = converse(gateway(TOKEN), node.hello(), answer)
    changed = shown[0] if proof == "the node's own" else proof
    altered = text(
        {**said(without(accepted.auth_ok, "proof")), **({} if changed is None else {"proof": changed})}
    )
    with pytest.raises(ProtocolViolation, match="could not prove"):
        node.receive_ok(altered)
    node.receive_ok(accepted.auth_ok)


@pytest.mark.parametrize("where", ["hello", "hello_ack"])
@pytest.mark.parametrize("listed", [["stream/1"], ["stream/1", "jobs", "more"]])
def test_a_capability_changed_on_the_way(where: str, listed: list[str]) -> None:
    def alter(frame: Frame) -> Frame:
        return text(said(frame) | {"capabilities": listed})

    hello, ack = (alter, same) if where == "hello" else (same, alter)
    node = our_node("jobs")
    accepted = converse(gateway(TOKEN), hello(node.hello()), lambda frame: node.receive_ack(ack(frame)))
    ours = node.receive_ok(accepted.auth_ok)
    with pytest.raises(ProtocolViolation):
        ours.decode(accepted.codec.encode(CALL))
    with pytest.raises(ProtocolViolation):
        accepted.codec.decode(ours.encode(PING))
