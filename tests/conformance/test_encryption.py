"""Section 3 after `auth_ok`: in an encrypted session all is sealed, and nothing else is read."""

import base64
import json
import os
from collections.abc import AsyncIterator, Callable

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from tests.conformance.conftest import Dial, Pairing
from tests.conformance.node import NONCE_BYTES, Json, Node, b64url, seal, unb64url, unseal
from tests.conformance.replies import NO_OBJECTS

PING: Json = {"type": "ping", "ts": "now"}


@pytest.fixture
async def sealed(dial: Dial, pairing: Pairing) -> AsyncIterator[Node]:
    """A node in an encrypted session."""
    async with dial() as node:
        await node.log_in(pairing.name, pairing.token, encrypted=True)
        yield node


@pytest.fixture
async def plain(dial: Dial, pairing: Pairing) -> AsyncIterator[Node]:
    async with dial() as node:
        await node.log_in(pairing.name, pairing.token)
        yield node


def key_of(node: Node) -> bytes:
    assert node.session_key is not None
    return node.session_key


# -- what is right --------------------------------------------------------------------------------


async def test_a_sealed_message_is_answered_with_a_sealed_one(sealed: Node) -> None:
    await sealed.send(PING)
    envelope = await sealed.receive_plain()
    assert envelope["type"] == "enc"
    inner = json.loads(unseal(key_of(sealed), envelope["data"]))
    assert (inner["type"], inner["echo_ts"]) == ("pong", "now")


async def test_each_envelope_has_a_nonce_of_its_own(sealed: Node) -> None:
    nonces = set()
    for _ in range(20):
        await sealed.send(PING)
        nonces.add(unb64url((await sealed.receive_plain())["data"])[:NONCE_BYTES])
    assert len(nonces) == 20


async def test_a_session_s_key_opens_no_other_session(dial: Dial, sealed: Node, pairing: Pairing) -> None:
    before = key_of(sealed)
    async with dial() as newer:
        await newer.log_in(pairing.name, pairing.token, encrypted=True)
        assert key_of(newer) != before


@pytest.mark.parametrize("extra", [{"ts": "now"}, {"id": "x"}, {"colour": ["blue"]}, {"ts": "t" * 64}])
async def test_unknown_fields_of_the_envelope_are_ignored(sealed: Node, extra: Json) -> None:
    await sealed.send_plain({**sealed.envelope(json.dumps(PING).encode()), **extra})
    assert (await sealed.receive())["type"] == "pong"


# -- what is not sealed ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    "kind", ["ping", "pong", "bye", "exec_result", "error", "hello", "auth", "no_such"]
)
async def test_a_plain_message_in_an_encrypted_session_closes_it(sealed: Node, kind: str) -> None:
    await sealed.send_plain({"type": kind, "ts": "now", "id": "x", "status": "ok"})
    assert await sealed.closed() == 4003


@pytest.mark.parametrize("text", NO_OBJECTS.values(), ids=NO_OBJECTS.keys())
async def test_a_message_that_is_no_object_closes_it(sealed: Node, text: str) -> None:
    await sealed.send_text(text)
    assert await sealed.closed() == 4003


async def test_a_sealed_binary_message_closes_it(sealed: Node) -> None:
    await sealed.send_binary(json.dumps(sealed.envelope(json.dumps(PING).encode())).encode())
    assert await sealed.closed() == 4003


async def test_a_record_of_the_other_kind_of_session_closes_it(sealed: Node) -> None:
    sealed_record = AESGCM(key_of(sealed)).encrypt(bytes(NONCE_BYTES), b"\0" + b'{"type":"ping"}', None)
    await sealed.send_binary(sealed_record)
    assert await sealed.closed() == 4003


# -- what does not open ---------------------------------------------------------------------------


def flipped(data: bytes, at: int) -> bytes:
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :] if at >= 0 else flipped(data, len(data) + at)


DAMAGE: dict[str, Callable[[bytes], str]] = {
    "nonce": lambda raw: b64url(flipped(raw, 0)),
    "nonce's end": lambda raw: b64url(flipped(raw, NONCE_BYTES - 1)),
    "ciphertext": lambda raw: b64url(flipped(raw, NONCE_BYTES)),
    "ciphertext's end": lambda raw: b64url(flipped(raw, -17)),
    "tag": lambda raw: b64url(flipped(raw, -16)),
    "tag's end": lambda raw: b64url(flipped(raw, -1)),
    "cut": lambda raw: b64url(raw[:-1]),
    "one byte more": lambda raw: b64url(raw + b"\0"),
    "twice": lambda raw: b64url(raw + raw),
    "no ciphertext": lambda raw: b64url(raw[:NONCE_BYTES] + raw[-16:]),
    "a nonce alone": lambda raw: b64url(raw[:NONCE_BYTES]),
    "nothing": lambda _: "",
    "not base64": lambda _: "!" * 60,
    "not ascii": lambda _: "\xe9" * 60,
    "padded": lambda raw: base64.urlsafe_b64encode(raw + b"\0" * (-len(raw) % 3 + 1)).decode(),
    "standard alphabet": lambda raw: "+/" + b64url(raw)[2:],
    "spaces": lambda raw: " " + b64url(raw),
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE.keys())
async def test_a_damaged_envelope_closes_the_session(sealed: Node, damage: Callable[[bytes], str]) -> None:
    raw = unb64url(sealed.envelope(json.dumps(PING).encode())["data"])
    await sealed.send_plain({"type": "enc", "data": damage(raw)})
    assert await sealed.closed() == 4003


@pytest.mark.parametrize("data", [None, 1, ["AAAA"], {}, True])
async def test_an_envelope_without_text_closes_the_session(sealed: Node, data: object) -> None:
    await sealed.send_plain({"type": "enc", "data": data})
    assert await sealed.closed() == 4003


async def test_an_envelope_without_data_closes_the_session(sealed: Node) -> None:
    await sealed.send_plain({"type": "enc"})
    assert await sealed.closed() == 4003


async def test_associated_data_opens_nothing(sealed: Node) -> None:
    nonce = os.urandom(NONCE_BYTES)
    bound = AESGCM(key_of(sealed)).encrypt(nonce, json.dumps(PING).encode(), sealed.session_id.encode())
    await sealed.send_plain({"type": "enc", "data": b64url(nonce + bound)})
    assert await sealed.closed() == 4003


async def test_a_message_of_another_session_does_not_open(
    dial: Dial, sealed: Node, pairing: Pairing
) -> None:
    recorded = sealed.envelope(json.dumps(PING).encode())
    async with dial() as newer:
        await newer.log_in(pairing.name, pairing.token, encrypted=True)
        await newer.send_plain(recorded)
        assert await newer.closed() == 4003


async def test_another_token_s_key_does_not_open(sealed: Node) -> None:
    stranger = sealed.agree("hnt_nobody").session
    await sealed.send_plain({"type": "enc", "data": seal(stranger, json.dumps(PING).encode())})
    assert await sealed.closed() == 4003


# -- what is garbage inside -----------------------------------------------------------------------


@pytest.mark.parametrize("text", NO_OBJECTS.values(), ids=NO_OBJECTS.keys())
async def test_a_sealed_message_that_is_no_object_closes_the_session(sealed: Node, text: str) -> None:
    await sealed.send_content(text.encode())
    assert await sealed.closed() == 4003


@pytest.mark.parametrize("content", [b"\xff\xfe", b'{"type": "ping", "id": "\xff"}', bytes(100)], ids=repr)
async def test_sealed_bytes_that_are_no_text_close_the_session(sealed: Node, content: bytes) -> None:
    await sealed.send_content(content)
    assert await sealed.closed() == 4003


async def test_an_unknown_type_inside_is_ignored(sealed: Node) -> None:
    await sealed.send({"type": "no_such_type", "id": "x"})
    await sealed.is_served()


async def test_an_envelope_inside_an_envelope_is_an_unknown_type(sealed: Node) -> None:
    await sealed.send(sealed.envelope(json.dumps({"type": "bye"}).encode()))
    await sealed.is_served()


# -- plain sessions -------------------------------------------------------------------------------


async def test_an_envelope_in_a_plain_session_is_an_unknown_type(plain: Node) -> None:
    await plain.send({"type": "enc", "data": seal(bytes(32), b'{"type": "bye"}')})
    await plain.is_served()


async def test_a_token_in_auth_does_not_make_up_for_a_proof(
    our_gateway: object, peer: Node, pairing: Pairing
) -> None:
    await peer.greet(pairing.name, encrypted=True)
    await peer.auth(pairing.name, token=pairing.token)
    reply = await peer.receive_plain()
    assert (reply["type"], reply["reason"]) == ("auth_err", "invalid_token")
