"""Our own node's side of the handshake: what it shows, and when it breaks off."""

from collections.abc import Callable

import pytest

from hermes_nodes.errors import ProtocolViolation
from hermes_nodes.protocol.codec import Frame
from hermes_nodes.protocol.crypto import b64url
from hermes_nodes.protocol.handshake import NodeHandshake, Refused
from hermes_nodes.protocol.messages import AuthErr, Exec, ExecResult, HelloErr, encode, new_call_id
from tests.protocol import independent
from tests.protocol.support import NAME, TOKEN, WRONG_TOKEN, converse, gateway, our_node, said, text

CALL = Exec(id=new_call_id(), command="true")
ANSWER = ExecResult(status="ok", id=CALL.id, exit_code=3)


def _offer(node: NodeHandshake, **changes: object) -> Frame:
    """A good `hello_ack` with those fields changed, or left out where they are ``...``."""
    fields = said(gateway(TOKEN).receive_hello(node.hello())) | changes
    return text({field: value for field, value in fields.items() if value is not ...})


def test_our_node_offers_encryption_and_stream_1_and_what_it_can_do() -> None:
    hello = said(our_node("stdin", "jobs").hello())
    assert len(hello.pop("ecdh_pub")) == 43
    assert hello == {
        "type": "hello",
        "protocol_version": "0.1.0",
        "node_name": NAME,
        "node_version": "1.0.0",
        "platform": "linux",
        "arch": "x86_64",
        "capabilities": ["stream/1", "stdin", "jobs"],
        "e2e": True,
    }


def test_our_node_shows_a_proof_and_never_its_token() -> None:
    node = our_node()
    handshake = gateway(TOKEN)
    auth = node.receive_ack(handshake.receive_hello(node.hello()))
    assert said(auth).keys() == {"type", "node_name", "proof"}
    assert TOKEN.encode() not in node.hello().data + auth.data


BAD_OFFERS: dict[str, dict[str, object]] = {
    "no public key": {"ecdh_pub": ...},
    "a public key that is null": {"ecdh_pub": None},
    "an empty public key": {"ecdh_pub": ""},
    "a public key of small order": {"ecdh_pub": b64url(bytes(32))},
    "a public key that is too short": {"ecdh_pub": b64url(bytes(31))},
    "a public key that is not base64url": {"ecdh_pub": "+" * 43},
    "no salt": {"salt": ...},
    "an empty salt": {"salt": ""},
    "a salt that is not base64url": {"salt": "é"},
    "no capabilities": {"capabilities": ...},
    "empty capabilities": {"capabilities": []},
    "other capabilities": {"capabilities": ["exec_chunk"]},
    "no session": {"session_id": ...},
    "a session that is a number": {"session_id": 5},
    "no type": {"type": ...},
}


@pytest.mark.parametrize("changes", BAD_OFFERS.values(), ids=BAD_OFFERS.keys())
def test_our_node_does_not_log_in_on_an_offer_with(changes: dict[str, object]) -> None:
    node = our_node()
    with pytest.raises(ProtocolViolation):
        node.receive_ack(_offer(node, **changes))


def test_our_node_ignores_fields_that_it_does_not_know() -> None:
    node = our_node()
    assert said(node.receive_ack(_offer(node, colour="red")))["type"] == "auth"


WRONG_REPLIES: dict[str, Frame] = {
    "binary": Frame(b"\x00", binary=True),
    "not JSON": Frame(b"hello", binary=False),
    "of an unknown type": text({"type": "salut"}),
    "a node's own": our_node().hello(),
}


@pytest.mark.parametrize("reply", WRONG_REPLIES.values(), ids=WRONG_REPLIES.keys())
def test_our_node_breaks_off_at_either_step_on_a_reply_that_is(reply: Frame) -> None:
    node = our_node()
    with pytest.raises(ProtocolViolation):
        node.receive_ack(reply)
    node.receive_ack(_offer(node))
    with pytest.raises(ProtocolViolation):
        node.receive_ok(reply)


def test_our_node_breaks_off_on_messages_out_of_order() -> None:
    node = our_node()
    accepted = converse(gateway(TOKEN), node.hello(), node.receive_ack)
    with pytest.raises(ProtocolViolation, match="out of order"):
        our_node().receive_ack(accepted.auth_ok)
    with pytest.raises(ProtocolViolation, match="out of order"):
        node.receive_ok(_offer(node))


def test_our_node_takes_no_auth_ok_before_a_hello_ack_even_one_proved_with_the_empty_key() -> None:
    proof = b64url(independent.server_proof(b""))
    with pytest.raises(ProtocolViolation):
        our_node().receive_ok(text({"type": "auth_ok", "session_id": "s", "proof": proof}))


@pytest.mark.parametrize(
    "proof", [..., None, "", "+" * 43, "A" * 43, "the node's own"], ids=lambda proof: str(proof)[:16]
)
def test_our_node_breaks_off_unless_the_gateway_proves_itself(proof: object) -> None:
    node = our_node()
    auths: list[Frame] = []

    def receive_ack(ack: Frame) -> Frame:
        auths.append(node.receive_ack(ack))
        return auths[0]

    fields = said(converse(gateway(TOKEN), node.hello(), receive_ack).auth_ok)
    fields["proof"] = said(auths[0])["proof"] if proof == "the node's own" else proof
    with pytest.raises(ProtocolViolation):
        node.receive_ok(text({field: value for field, value in fields.items() if value is not ...}))


def test_a_gateway_that_does_not_know_the_token_can_not_prove_itself_to_our_node() -> None:
    node, believer = our_node(token=TOKEN), our_node(token=WRONG_TOKEN)
    other = gateway(WRONG_TOKEN)
    ack = other.receive_hello(believer.hello())
    auth_ok = other.receive_auth(believer.receive_ack(ack)).auth_ok
    node.receive_ack(ack)
    with pytest.raises(ProtocolViolation, match="could not prove"):
        node.receive_ok(auth_ok)


@pytest.mark.parametrize("reply", [HelloErr, AuthErr])
def test_our_node_reports_what_the_gateway_refused(reply: type[HelloErr | AuthErr]) -> None:
    refusal = reply(reason="invalid_token", code=4001)
    node = our_node()
    frame = Frame(encode(refusal), binary=False)
    for receive in (node.receive_ack, node.receive_ok):
        with pytest.raises(Refused) as failure:
            receive(frame)
        assert (failure.value.reply, failure.value.close_code) == (refusal, 4001)


# Altered on the way


Alter = Callable[[Frame], Frame]


def unaltered(frame: Frame) -> Frame:
    return frame


def with_capabilities(*capabilities: str) -> Alter:
    return lambda frame: text(said(frame) | {"capabilities": list(capabilities)})


def spaced(frame: Frame) -> Frame:
    """The same object in other bytes."""
    return Frame(frame.data + b" ", binary=False)


@pytest.mark.parametrize(
    ("hello", "ack"),
    [
        pytest.param(with_capabilities("stream/1"), unaltered, id="a capability taken from hello"),
        pytest.param(with_capabilities("stream/1", "jobs", "fs"), unaltered, id="one added to hello"),
        pytest.param(unaltered, with_capabilities("stream/1", "new"), id="one added to hello_ack"),
        pytest.param(spaced, unaltered, id="a space added to hello"),
        pytest.param(unaltered, spaced, id="a space added to hello_ack"),
    ],
)
def test_an_opening_that_was_altered_on_the_way_leaves_no_common_key(hello: Alter, ack: Alter) -> None:
    node = our_node("jobs")
    accepted = converse(gateway(TOKEN), hello(node.hello()), lambda frame: node.receive_ack(ack(frame)))
    theirs, ours = accepted.codec, node.receive_ok(accepted.auth_ok)
    with pytest.raises(ProtocolViolation):
        ours.decode(theirs.encode(CALL))
    with pytest.raises(ProtocolViolation):
        theirs.decode(ours.encode(ANSWER))


def test_our_node_does_not_log_in_when_stream_1_was_taken_out_on_the_way() -> None:
    node = our_node()
    stripped = with_capabilities("jobs")(node.hello())
    with pytest.raises(ProtocolViolation):
        converse(gateway(TOKEN), stripped, node.receive_ack)
