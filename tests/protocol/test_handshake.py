"""The handshake of both sides: who gets in, in which form, and what everybody else is told."""

import hashlib
import json
from collections.abc import Callable
from typing import NamedTuple

import pytest

from hermes_nodes.protocol.codec import EncCodec, Frame, PlainCodec, RecordCodec
from hermes_nodes.protocol.crypto import b64url
from hermes_nodes.protocol.handshake import GatewayHandshake, Refused
from hermes_nodes.protocol.messages import (
    FROM_GATEWAY,
    AuthErr,
    Exec,
    ExecResult,
    FromGateway,
    HelloErr,
    encode,
    new_call_id,
)
from tests.protocol import independent
from tests.protocol.support import (
    NAME,
    NEWER_TOKEN,
    TOKEN,
    WRONG_TOKEN,
    HandmadeNode,
    converse,
    gateway,
    logged_in,
    said,
    text,
)
from tests.protocol.vectors import SMALL_ORDER_POINTS

NODE = HandmadeNode()
HASH = hashlib.sha256(TOKEN.encode()).hexdigest()
CALL = Exec(id=new_call_id(), command="true")
ANSWER = ExecResult(status="ok", id=CALL.id, exit_code=3)

Auth = Callable[[Frame], Frame | None]


def refused(gateway: GatewayHandshake, hello: Frame | None, auth: Auth = NODE.auth) -> Refused:
    """The refusal in which this conversation ends."""
    with pytest.raises(Refused) as refusal:
        converse(gateway, hello, auth)
    return refusal.value


def on_the_wire(reply: HelloErr | AuthErr) -> object:
    return json.loads(encode(reply))


def always(frame: Frame | None) -> Auth:
    """A node that says this to any `hello_ack`."""

    def auth(_ack: Frame) -> Frame | None:
        return frame

    return auth


# What goes wrong


class Row(NamedTuple):
    """A row of the failure table: what the node says, and what it gets."""

    reply: dict[str, object]
    hello: Frame | None = NODE.hello()
    auth: Auth = NODE.auth
    protected: bool = True
    locked_out: bool = False


def hello_err(reason: str, code: int, **more: str) -> dict[str, object]:
    return {"type": "hello_err", "reason": reason, "code": code, **more}


def auth_err(reason: str, code: int) -> dict[str, object]:
    return {"type": "auth_err", "reason": reason, "code": code}


UNSUPPORTED_VERSION = hello_err("unsupported_protocol_version", 4002, server_max_version="0.1.0")
PLAIN_HELLO = NODE.plain_hello()
STRANGER = "another"
IMPOSTOR = HandmadeNode(token=WRONG_TOKEN)

FAILURES = {
    "no hello in time": Row(hello_err("handshake_timeout", 4004), hello=None),
    "first message is auth": Row(
        hello_err("expected_hello", 4003), hello=text({"type": "auth", "node_name": NAME, "token": TOKEN})
    ),
    "first message is ping": Row(hello_err("expected_hello", 4003), hello=text({"type": "ping"})),
    "first message is of an unknown type": Row(
        hello_err("expected_hello", 4003), hello=text({"type": "salut", "node_name": 5})
    ),
    "hello is not JSON": Row(hello_err("malformed", 4003), hello=Frame(b"hello", binary=False)),
    "hello is not an object": Row(hello_err("malformed", 4003), hello=text(["hello"])),
    "hello is binary": Row(hello_err("malformed", 4003), hello=Frame(NODE.hello().data, binary=True)),
    "a bad field in hello": Row(hello_err("malformed", 4003), hello=NODE.hello(node_name="a/b")),
    "an over-long field in hello": Row(hello_err("malformed", 4003), hello=NODE.hello(arch="a" * 65)),
    "hello is too deep": Row(
        hello_err("malformed", 4003), hello=Frame(b"[" * 100_000 + b"]" * 100_000, binary=False)
    ),
    "auth is not JSON": Row(auth_err("malformed", 4003), auth=always(Frame(b"auth", binary=False))),
    "auth is not an object": Row(auth_err("malformed", 4003), auth=always(text(["auth"]))),
    "auth is binary": Row(
        auth_err("malformed", 4003), auth=lambda ack: Frame(NODE.auth(ack).data, binary=True)
    ),
    "a bad field in auth": Row(auth_err("malformed", 4003), auth=lambda ack: NODE.auth(ack, proof=5)),
    "an over-long field in auth": Row(
        auth_err("malformed", 4003), auth=lambda ack: NODE.auth(ack, proof="a" * 65)
    ),
    "auth is too deep": Row(
        auth_err("malformed", 4003), auth=always(Frame(b"[" * 100_000 + b"]" * 100_000, binary=False))
    ),
    "another major version": Row(UNSUPPORTED_VERSION, hello=NODE.hello(protocol_version="1.0.0")),
    "a version that is not semver": Row(UNSUPPORTED_VERSION, hello=NODE.hello(protocol_version="0.1")),
    "no encryption offered on an open line": Row(
        hello_err("encryption_required", 4001), hello=PLAIN_HELLO, protected=False
    ),
    "no auth in time": Row(auth_err("handshake_timeout", 4004), auth=always(None)),
    "second message is hello": Row(auth_err("expected_auth", 4003), auth=always(NODE.hello())),
    "second message is ping": Row(auth_err("expected_auth", 4003), auth=always(text({"type": "ping"}))),
    "auth names another node": Row(
        auth_err("unknown_node", 4001), auth=lambda ack: NODE.auth(ack, node_name=STRANGER)
    ),
    "unknown name, encrypted": Row(
        auth_err("invalid_token", 4001),
        hello=NODE.hello(node_name=STRANGER),
        auth=lambda ack: NODE.auth(ack, node_name=STRANGER),
    ),
    "unknown name, plain": Row(
        auth_err("invalid_token", 4001),
        hello=NODE.plain_hello(node_name=STRANGER),
        auth=lambda ack: NODE.auth(ack, node_name=STRANGER),
    ),
    "wrong token": Row(auth_err("invalid_token", 4001), hello=PLAIN_HELLO, auth=IMPOSTOR.auth),
    "wrong proof": Row(auth_err("invalid_token", 4001), auth=IMPOSTOR.auth),
    "a token where a proof is due": Row(
        auth_err("invalid_token", 4001), auth=lambda ack: NODE.auth(ack, proof=None, token=TOKEN)
    ),
    "a proof where a token is due": Row(
        auth_err("invalid_token", 4001),
        hello=PLAIN_HELLO,
        auth=lambda ack: NODE.auth(ack, token=None, proof="AAAA"),
    ),
    "a proof cut short": Row(
        auth_err("invalid_token", 4001),
        auth=lambda ack: NODE.auth(ack, proof=said(NODE.auth(ack))["proof"][:40]),
    ),
    "wrong proof after too many": Row(auth_err("locked_out", 4001), auth=IMPOSTOR.auth, locked_out=True),
}


@pytest.mark.parametrize("row", FAILURES.values(), ids=FAILURES.keys())
def test_what_goes_wrong_is_answered_as_the_table_says(row: Row) -> None:
    handshake = gateway(TOKEN, protected=row.protected)
    refusal = refused(handshake, row.hello, row.auth)
    if row.locked_out:  # the caller counts the failures, and says so
        refusal = handshake.invalid_token(refusal.true_reason, locked_out=True)
    assert on_the_wire(refusal.reply) == row.reply
    assert refusal.close_code == row.reply["code"]


def test_a_pairing_that_is_revoked_during_the_handshake_is_refused_like_a_wrong_token() -> None:
    handshake = gateway(TOKEN)
    converse(handshake, NODE.hello(), NODE.auth)
    late = handshake.invalid_token("revoked during the handshake")
    wrong = refused(gateway(TOKEN), NODE.hello(), IMPOSTOR.auth)
    assert (on_the_wire(late.reply), late.close_code) == (on_the_wire(wrong.reply), wrong.close_code)


@pytest.mark.parametrize("hello", [NODE.hello, NODE.plain_hello], ids=["encrypted", "plain"])
def test_an_unknown_name_and_a_wrong_token_look_alike(hello: Callable[..., Frame]) -> None:
    def conversation(name: str) -> list[object]:
        handshake = gateway(TOKEN)
        ack = handshake.receive_hello(hello(node_name=name, capabilities=["stream/1"]))
        with pytest.raises(Refused) as refusal:
            handshake.receive_auth(IMPOSTOR.auth(ack, node_name=name))
        shape = {field: len(value) for field, value in said(ack).items()}
        return [shape, on_the_wire(refusal.value.reply), refusal.value.close_code]

    assert conversation(STRANGER) == conversation(NAME)


BAD_NAMES = {
    "an empty name": "",
    "a blank name": "   ",
    "a name of 65 characters": "a" * 65,
    "a name with a slash": "a/b",
    "a name with a backslash": "a\\b",
    "a name with two dots": "a..b",
    "a name with a line break": "a\nb",
    "a name with an escape": "a\x1b[1mb",
    "a name with NUL": "a\x00b",
    "a name with DEL": "a\x7fb",
    "a name with é": "é",
    "a name with a full-width letter": "\uff41",
    "a name with half a surrogate pair": "a\ud800",
    "a name that is a number": 5,
    "a name that is null": None,
    "a name that is a list": [NAME],
}

BAD_ANYWHERE: dict[str, bytes] = {
    "an empty message": b"",
    "an array": b"[]",
    "a string": b'"hello"',
    "null": b"null",
    "an object without a type": b"{}",
    "a type that is null": b'{"type":null}',
    "a type that is a number": b'{"type":1}',
    "half an object": b'{"type":"hello"',
    "two objects": b'{"type":"hello"}{}',
    "bytes that are not UTF-8": b'{"type":"hello\xff"}',
    "an unknown field nested too deep": b'{"type":"x","y":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    "objects nested too deep": b'{"a":' * 100_000 + b"1" + b"}" * 100_000,
}

BAD_HELLOS: dict[str, dict[str, object]] = {
    **{what: {"node_name": name} for what, name in BAD_NAMES.items()},
    "a version that is null": {"protocol_version": None},
    "a version that is a number": {"protocol_version": 0.1},
    "a version of 65 characters": {"protocol_version": "0.1.0-" + "a" * 59},
    "a node_version of 65 characters": {"node_version": "a" * 65},
    "a platform of 65 characters": {"platform": "a" * 65},
    "a platform that is an object": {"platform": {}},
    "an arch of 65 characters": {"arch": "a" * 65},
    "a ts of 65 characters": {"ts": "a" * 65},
    "a ts that is a number": {"ts": 5},
    "33 capabilities": {"capabilities": [f"c{number}" for number in range(33)]},
    "a capability of 33 characters": {"capabilities": ["a" * 33]},
    "a capability that is a number": {"capabilities": [1]},
    "a capability that is null": {"capabilities": [None]},
    "capabilities in one string": {"capabilities": "stream/1"},
    "e2e as a string": {"e2e": "true"},
    "e2e as a number": {"e2e": 1},
    "a public key that is a number": {"ecdh_pub": 5},
    "a public key of 65 characters": {"ecdh_pub": "A" * 65},
    "a public key that is padded": {"ecdh_pub": b64url(independent.BASE_POINT) + "="},
    "a public key that is not base64url": {"ecdh_pub": "+" * 43},
    "a public key of 31 bytes": {"ecdh_pub": b64url(b"\x09" * 31)},
    "a public key of 33 bytes": {"ecdh_pub": b64url(b"\x09" * 33)},
    "encryption without a public key": {"ecdh_pub": None},
    **{
        f"a public key of small order ({point.hex()[:8]}…)": {"ecdh_pub": b64url(point)}
        for point in SMALL_ORDER_POINTS
    },
}

BAD_AUTHS: dict[str, dict[str, object]] = {
    **{what: {"node_name": name} for what, name in BAD_NAMES.items()},
    "a proof that is null, and no token": {"proof": None},
    "a proof that is padded": {"proof": "A" * 43 + "="},
    "a proof that is not base64url": {"proof": "+" * 43},
    "a proof of 65 characters": {"proof": "A" * 65},
    "a proof that is an object": {"proof": {}},
    "a token of 65 characters": {"token": "a" * 65},
    "a token that is a number": {"token": 5},
    "a ts of 65 characters": {"ts": "a" * 65},
}


def malformed_hello(hello: Frame) -> None:
    refusal = refused(gateway(TOKEN, protected=False), hello)
    assert on_the_wire(refusal.reply) == hello_err("malformed", 4003)


def malformed_auth(auth: Auth) -> None:
    refusal = refused(gateway(TOKEN), NODE.hello(), auth)
    assert on_the_wire(refusal.reply) == auth_err("malformed", 4003)


@pytest.mark.parametrize("raw", BAD_ANYWHERE.values(), ids=BAD_ANYWHERE.keys())
def test_what_is_no_message_is_malformed_at_either_step(raw: bytes) -> None:
    malformed_hello(Frame(raw, binary=False))
    malformed_auth(always(Frame(raw, binary=False)))


@pytest.mark.parametrize("changes", BAD_HELLOS.values(), ids=BAD_HELLOS.keys())
def test_a_hello_with_a_bad_field_is_malformed(changes: dict[str, object]) -> None:
    malformed_hello(NODE.hello(**changes))


@pytest.mark.parametrize("field", ["protocol_version", "node_name"])
def test_a_hello_without_what_it_must_have_is_malformed(field: str) -> None:
    fields = said(NODE.hello())
    del fields[field]
    malformed_hello(text(fields))


@pytest.mark.parametrize("changes", BAD_AUTHS.values(), ids=BAD_AUTHS.keys())
def test_an_auth_with_a_bad_field_is_malformed(changes: dict[str, object]) -> None:
    malformed_auth(lambda ack: NODE.auth(ack, **changes))


def test_an_auth_without_a_name_is_malformed() -> None:
    malformed_auth(lambda ack: text({"type": "auth", "proof": said(NODE.auth(ack))["proof"]}))


NEVER_A_VERSION = ["", "0", "0.1", "0.1.0.0", "v0.1.0", "0.01.0", "-0.1.0", " 0.1.0", "0.1.0\n", "latest"]
NO_SUCH_SUFFIX = ["0.1.0-", "0.1.0+", "0.1.0-a..b", "0.1.0-01", "0.1.0+a+b", "0.1.0-é", "0.1.1\u0663"]


@pytest.mark.parametrize("version", ["1.0.0", "10.0.0", "00.1.0", *NEVER_A_VERSION, *NO_SUCH_SUFFIX])
def test_another_major_version_or_one_that_is_not_semver_is_told_the_highest_there_is(version: str) -> None:
    refusal = refused(gateway(TOKEN), NODE.hello(protocol_version=version))
    assert on_the_wire(refusal.reply) == UNSUPPORTED_VERSION


@pytest.mark.parametrize(
    "version", ["0.0.0", "0.1.0", "0.99.12", "0.2.0-rc.1", "0.1.0+build.01", "0.1.0-0a.b-c+d-e"]
)
def test_any_version_of_the_same_major_gets_in(version: str) -> None:
    converse(gateway(TOKEN), NODE.hello(protocol_version=version), NODE.auth)


@pytest.mark.parametrize("name", [NAME, STRANGER, "a/b"])
@pytest.mark.parametrize("changes", [{}, {"e2e": False}, {"e2e": None}], ids=["left out", "false", "null"])
def test_on_an_open_line_a_plain_hello_is_refused_before_anything_is_looked_up(
    name: str, changes: dict[str, object]
) -> None:
    asked: list[str] = []
    hello = NODE.plain_hello(node_name=name, **changes)
    refusal = refused(gateway(TOKEN, protected=False, asked=asked), hello)
    assert on_the_wire(refusal.reply) == hello_err("encryption_required", 4001)
    assert asked == []


def test_auth_before_any_hello_is_refused() -> None:
    with pytest.raises(Refused) as refusal:
        gateway(TOKEN).receive_auth(text({"type": "auth", "node_name": NAME, "token": TOKEN}))
    assert on_the_wire(refusal.value.reply) == hello_err("expected_hello", 4003)


# Who gets in


def test_a_name_with_spaces_around_it_is_stripped() -> None:
    asked: list[str] = []
    accepted = converse(
        gateway(TOKEN, asked=asked),
        NODE.hello(node_name=f"  {NAME}\t"),
        lambda ack: NODE.auth(ack, node_name=f" {NAME}\n"),
    )
    assert (accepted.name, asked) == (NAME, [NAME])


@pytest.mark.parametrize("name", ["a", "a" * 64, " " * 60 + "a" * 64, "a b~!.c", "-._"])
def test_any_printable_name_of_up_to_64_characters_is_looked_up_at_the_first_step(name: str) -> None:
    asked: list[str] = []
    gateway(TOKEN, asked=asked).receive_hello(NODE.hello(node_name=name))
    assert asked == [name.strip()]


def test_fields_at_their_limits_get_in() -> None:
    full: dict[str, object] = dict.fromkeys(("node_version", "platform", "arch", "ts"), "a" * 64)
    capabilities = [f"{number:032}" for number in range(32)]
    accepted = converse(gateway(TOKEN), NODE.hello(**full, capabilities=capabilities), NODE.auth)
    assert accepted.hello.capabilities == capabilities


def test_optional_fields_may_be_null() -> None:
    fields: dict[str, object] = dict.fromkeys(
        ("node_version", "platform", "arch", "ts", "capabilities", "e2e", "ecdh_pub")
    )
    accepted = converse(
        gateway(TOKEN), NODE.hello(**fields), lambda ack: NODE.auth(ack, proof=None, ts=None)
    )
    assert isinstance(accepted.codec, PlainCodec)


def test_unknown_fields_are_ignored_in_hello_and_in_auth() -> None:
    unknown: dict[str, object] = {"colour": "red", "nested": {"list": [1, None, 2.5]}, "id": 7}
    accepted = converse(gateway(TOKEN), NODE.hello(**unknown), lambda ack: NODE.auth(ack, **unknown))
    assert accepted.name == NAME


@pytest.mark.parametrize("hello", [NODE.hello, NODE.plain_hello], ids=["encrypted", "plain"])
@pytest.mark.parametrize("token", [TOKEN, NEWER_TOKEN], ids=["old", "new"])
def test_under_rotation_either_token_gets_in(hello: Callable[[], Frame], token: str) -> None:
    node = HandmadeNode(token=token)
    assert converse(gateway(TOKEN, NEWER_TOKEN), hello(), node.auth).name == NAME
    assert refused(gateway(TOKEN, NEWER_TOKEN), hello(), IMPOSTOR.auth).close_code == 4001


def test_a_plain_session_carries_plain_messages() -> None:
    accepted = converse(gateway(TOKEN), PLAIN_HELLO, NODE.auth)
    assert said(accepted.auth_ok) == {"type": "auth_ok", "session_id": accepted.session_id}
    assert isinstance(accepted.codec, PlainCodec)
    assert said(accepted.codec.encode(CALL)) == {"type": "exec", "id": CALL.id, "command": "true"}
    node = PlainCodec[FromGateway](FROM_GATEWAY)
    assert node.decode(accepted.codec.encode(CALL)) == CALL
    assert accepted.codec.decode(node.encode(ANSWER)) == ANSWER


def test_an_encrypted_session_of_an_older_node_carries_envelopes() -> None:
    node = HandmadeNode()
    accepted = converse(gateway(TOKEN, protected=False), node.hello(), node.auth)
    assert said(accepted.auth_ok) == {
        "type": "auth_ok",
        "session_id": accepted.session_id,
        "proof": node.expected_proof,
    }
    assert isinstance(accepted.codec, EncCodec)
    assert not accepted.streams
    assert said(accepted.codec.encode(CALL)).keys() == {"type", "ts", "data"}
    assert node.codec().decode(accepted.codec.encode(CALL)) == CALL
    assert accepted.codec.decode(node.codec().encode(ANSWER)) == ANSWER


def test_a_session_of_our_own_node_carries_records() -> None:
    accepted, node = logged_in()
    assert accepted.streams
    assert isinstance(accepted.codec, RecordCodec)
    sent = accepted.codec.encode(CALL)
    assert sent.binary
    assert node.decode(sent) == CALL
    assert accepted.codec.decode(node.encode(ANSWER)) == ANSWER


def test_hello_ack_says_who_and_when_and_gives_each_session_its_own_salt() -> None:
    handshakes = [gateway(TOKEN), gateway(TOKEN)]
    acks = [said(handshake.receive_hello(NODE.hello())) for handshake in handshakes]
    for ack, handshake in zip(acks, handshakes, strict=True):
        assert ack["type"] == "hello_ack"
        assert ack["protocol_version"] == "0.1.0"
        assert ack["session_id"] == handshake.session_id
        assert ack["server_time"].endswith("Z")
        assert (len(ack["ecdh_pub"]), len(ack["salt"])) == (43, 43)
    for field in ("session_id", "ecdh_pub", "salt"):
        assert acks[0][field] != acks[1][field]


class Offer(NamedTuple):
    """What a node lists, what the gateway is set to, and what is then offered."""

    listed: list[str] | None
    e2e: bool
    legacy_streaming: bool
    offered: list[str]


OFFERS = {
    "stream/1 with encryption": Offer(["stream/1", "pty"], True, False, ["stream/1"]),
    "stream/1 without encryption": Offer(["stream/1"], False, False, []),
    "stream/1 and exec_chunk": Offer(["exec_chunk", "stream/1"], True, True, ["stream/1"]),
    "stream/1 and exec_chunk without encryption": Offer(
        ["exec_chunk", "stream/1"], False, True, ["exec_chunk"]
    ),
    "exec_chunk by default": Offer(["exec_chunk"], True, False, []),
    "exec_chunk where it is wanted": Offer(["exec_chunk"], True, True, ["exec_chunk"]),
    "exec_chunk in plain where it is wanted": Offer(["exec_chunk"], False, True, ["exec_chunk"]),
    "nothing": Offer(None, True, True, []),
    "something unknown": Offer(["stream/2", "e2e"], True, True, []),
}


@pytest.mark.parametrize("offer", OFFERS.values(), ids=OFFERS.keys())
def test_the_gateway_offers_what_the_node_lists_and_the_settings_allow(offer: Offer) -> None:
    handshake = gateway(TOKEN, legacy_streaming=offer.legacy_streaming)
    hello = NODE.hello if offer.e2e else NODE.plain_hello
    ack = handshake.receive_hello(hello(capabilities=offer.listed))
    assert said(ack)["capabilities"] == offer.offered


# A pairing of which only the hash is known


def test_on_a_protected_line_a_node_of_which_only_the_hash_is_known_shows_its_token() -> None:
    handshake = gateway(hashes=(HASH,))
    ack = handshake.receive_hello(NODE.hello(capabilities=["stream/1"]))
    assert said(ack)["capabilities"] == []
    assert said(ack).keys().isdisjoint({"ecdh_pub", "salt"})
    accepted = handshake.receive_auth(NODE.auth(ack))
    assert isinstance(accepted.codec, PlainCodec)
    assert said(accepted.auth_ok).keys() == {"type", "session_id"}


def test_a_hash_does_not_admit_another_token_nor_itself() -> None:
    for token in (WRONG_TOKEN, HASH):
        refusal = refused(gateway(hashes=(HASH,)), NODE.hello(), HandmadeNode(token=token).auth)
        assert on_the_wire(refusal.reply) == auth_err("invalid_token", 4001)


def test_on_an_open_line_the_token_stays_home_and_the_proof_fails() -> None:
    handshake = gateway(hashes=(HASH,), protected=False)
    ack = handshake.receive_hello(NODE.hello())
    auth = NODE.auth(ack)
    assert "token" not in said(auth)
    with pytest.raises(Refused) as refusal:
        handshake.receive_auth(auth)
    assert on_the_wire(refusal.value.reply) == auth_err("invalid_token", 4001)


def test_on_an_open_line_a_token_that_was_sent_all_the_same_does_not_get_in() -> None:
    refusal = refused(
        gateway(hashes=(HASH,), protected=False),
        NODE.hello(),
        lambda ack: NODE.auth(ack, proof=None, token=TOKEN),
    )
    assert on_the_wire(refusal.reply) == auth_err("invalid_token", 4001)
