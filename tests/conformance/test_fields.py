"""Sections 1 and 2: the fields of the handshake, what they may hold, and how long they may be."""

import json

import pytest

from tests.conformance.conftest import Pairing
from tests.conformance.node import Node, b64url
from tests.conformance.replies import DEEP, auth_err, hello_err, refusal

MALFORMED = ("malformed", 4003)
LIMIT_BEFORE_AUTH = 64 * 1024
LONG_VERSION = "0.1.0-" + "a" * 58


def padded(message: dict[str, object], size: int) -> str:
    """A message of exactly so many bytes, by a field that nobody knows."""
    bare = len(json.dumps({**message, "padding": ""}))
    return json.dumps({**message, "padding": "x" * (size - bare)})


# -- unknown fields -------------------------------------------------------------------------------


async def test_unknown_fields_are_ignored_in_hello_and_auth(
    peer: Node, pairing: Pairing, encrypted: bool
) -> None:
    unknown = {"colour": "blue", "id": "x", "nested": {"a": [1, None, {}]}, "code": 1e308}
    await peer.greet(pairing.name, encrypted=encrypted, **unknown)
    await peer.auth(pairing.name, **peer.credentials(pairing.token), **unknown)
    assert (await peer.receive_plain())["type"] == "auth_ok"


async def test_a_field_of_another_message_is_unknown_in_this_one(
    peer: Node, fresh_name: str, encrypted: bool
) -> None:
    ack = await peer.greet(fresh_name, encrypted=encrypted, token="t" * 100, proof=1, seq="x")
    assert ack["type"] == "hello_ack"


async def test_nesting_in_an_unknown_field_of_hello_has_an_end(peer: Node, fresh_name: str) -> None:
    hello = json.dumps({"type": "hello", "protocol_version": "0.1.0", "node_name": fresh_name})
    await peer.send_text(f'{hello[:-1]}, "x": {DEEP}}}')
    assert await refusal(peer) == hello_err(*MALFORMED)


async def test_nesting_in_an_unknown_field_of_auth_has_an_end(greeted: Node, pairing: Pairing) -> None:
    auth = json.dumps({"type": "auth", "node_name": pairing.name, **greeted.credentials(pairing.token)})
    await greeted.send_text(f'{auth[:-1]}, "x": {DEEP}}}')
    assert await refusal(greeted) == auth_err(*MALFORMED)


# -- wrong types ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("protocol_version", 1),
        ("protocol_version", ["0.1.0"]),
        ("node_name", 1),
        ("node_name", ["laptop"]),
        ("node_name", {}),
        ("node_name", True),
        ("node_version", 1),
        ("platform", ["linux"]),
        ("arch", {}),
        ("capabilities", "stream/1"),
        ("capabilities", {"stream/1": True}),
        ("capabilities", [1]),
        ("capabilities", [["stream/1"]]),
        ("e2e", "yes"),
        ("e2e", 1),
        ("ecdh_pub", 1),
        ("ecdh_pub", ["A"]),
        ("ts", 1),
    ],
)
async def test_a_field_of_hello_with_a_wrong_type_is_malformed(
    peer: Node, fresh_name: str, field: str, value: object
) -> None:
    await peer.send_plain(
        {"type": "hello", "protocol_version": "0.1.0", "node_name": fresh_name, field: value}
    )
    assert await refusal(peer) == hello_err(*MALFORMED)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("node_name", 1),
        ("node_name", ["laptop"]),
        ("node_name", None),
        ("token", 1),
        ("token", ["hnt_x"]),
        ("token", {}),
        ("proof", 1),
        ("proof", True),
        ("ts", {}),
    ],
)
async def test_a_field_of_auth_with_a_wrong_type_is_malformed(
    greeted: Node, pairing: Pairing, field: str, value: object
) -> None:
    right = greeted.credentials(pairing.token)
    await greeted.send_plain({"type": "auth", "node_name": pairing.name, **right, field: value})
    assert await refusal(greeted) == auth_err(*MALFORMED)


@pytest.mark.parametrize("missing", ["protocol_version", "node_name"])
async def test_hello_without_what_it_must_hold_is_malformed(peer: Node, missing: str) -> None:
    hello = {"type": "hello", "protocol_version": "0.1.0", "node_name": "x"}
    del hello[missing]
    await peer.send_plain(hello)
    assert await refusal(peer) == hello_err(*MALFORMED)


async def test_auth_without_a_name_is_malformed(greeted: Node, pairing: Pairing) -> None:
    await greeted.send_plain({"type": "auth", **greeted.credentials(pairing.token)})
    assert await refusal(greeted) == auth_err(*MALFORMED)


# -- names ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    [
        "a",
        "x" * 64,
        "  spaces around  ",
        "\tlaptop\n",
        " " * 20 + "x" * 64,
        "a b",
        "~!@#$%^&*()",
        ".",
        "a.b",
    ],
)
async def test_a_name_of_printable_ascii_is_taken(peer: Node, encrypted: bool, name: str) -> None:
    assert (await peer.greet(name, encrypted=encrypted))["type"] == "hello_ack"


BAD_NAMES = [
    "",
    "   ",
    "x" * 65,
    "a/b",
    "/",
    "a\\b",
    "..",
    "a..b",
    "../etc",
    "a\0b",
    "a\nb",
    "a\x1b[31m",
    "a\x7f",
    "caf\xe9",
    "a\u202eb",
    "\ud83d\ude00",
    "\ud800",
]


@pytest.mark.parametrize("name", BAD_NAMES, ids=ascii)
async def test_any_other_name_is_malformed_in_hello(peer: Node, encrypted: bool, name: str) -> None:
    await peer.hello(name, encrypted=encrypted)
    assert await refusal(peer) == hello_err(*MALFORMED)


@pytest.mark.parametrize("name", BAD_NAMES, ids=ascii)
async def test_any_other_name_is_malformed_in_auth(greeted: Node, pairing: Pairing, name: str) -> None:
    await greeted.auth(name, **greeted.credentials(pairing.token))
    assert await refusal(greeted) == auth_err(*MALFORMED)


async def test_names_are_stripped_before_they_are_compared(
    peer: Node, pairing: Pairing, encrypted: bool
) -> None:
    await peer.greet(f"  {pairing.name}\t", encrypted=encrypted)
    await peer.auth(f"\n{pairing.name} ", **peer.credentials(pairing.token))
    assert (await peer.receive_plain())["type"] == "auth_ok"


# -- lengths --------------------------------------------------------------------------------------

AT_LIMIT: list[tuple[str, object]] = [
    ("protocol_version", LONG_VERSION),
    ("node_version", "v" * 64),
    ("platform", "p" * 64),
    ("arch", "\xe9" * 64),  # characters, not bytes
    ("ts", "t" * 64),
    ("capabilities", ["c" * 32] * 32),
    ("capabilities", []),
]
OVER_LIMIT: list[tuple[str, object]] = [
    ("protocol_version", LONG_VERSION + "a"),
    ("node_version", "v" * 65),
    ("platform", "p" * 65),
    ("arch", "a" * 65),
    ("ts", "t" * 65),
    ("ecdh_pub", "A" * 65),
    ("capabilities", ["c"] * 33),
    ("capabilities", ["c" * 33]),
]


@pytest.mark.parametrize(("field", "value"), AT_LIMIT)
async def test_a_field_of_hello_at_its_limit_is_taken(
    peer: Node, fresh_name: str, encrypted: bool, field: str, value: object
) -> None:
    ack = await peer.greet(fresh_name, encrypted=encrypted, **{field: value})
    assert ack["type"] == "hello_ack"


@pytest.mark.parametrize(("field", "value"), OVER_LIMIT)
async def test_a_field_of_hello_one_over_its_limit_is_malformed(
    peer: Node, fresh_name: str, field: str, value: object
) -> None:
    await peer.hello(fresh_name, encrypted=False, **{field: value})
    assert await refusal(peer) == hello_err(*MALFORMED)


@pytest.mark.parametrize("field", ["token", "proof", "ts"])
async def test_a_field_of_auth_one_over_its_limit_is_malformed(
    greeted: Node, pairing: Pairing, field: str
) -> None:
    fields = {**greeted.credentials(pairing.token), field: "A" * 65}
    await greeted.auth(pairing.name, **fields)
    assert await refusal(greeted) == auth_err(*MALFORMED)


async def test_a_token_at_its_limit_is_looked_at(peer: Node, pairing: Pairing) -> None:
    await peer.greet(pairing.name)
    await peer.auth(pairing.name, token="x" * 64, ts="t" * 64)
    assert await refusal(peer) == auth_err("invalid_token", 4001)


# -- sizes of messages ----------------------------------------------------------------------------


async def test_a_hello_of_64_kib_is_read(peer: Node, fresh_name: str) -> None:
    hello: dict[str, object] = {"type": "hello", "protocol_version": "0.1.0", "node_name": fresh_name}
    await peer.send_text(padded(hello, LIMIT_BEFORE_AUTH))
    assert (await peer.receive_plain())["type"] == "hello_ack"


async def test_a_hello_one_byte_longer_closes_the_connection(peer: Node, fresh_name: str) -> None:
    hello: dict[str, object] = {"type": "hello", "protocol_version": "0.1.0", "node_name": fresh_name}
    await peer.send_text(padded(hello, LIMIT_BEFORE_AUTH + 1))
    assert await peer.closed() == 1009


async def test_an_auth_of_64_kib_is_read(greeted: Node, pairing: Pairing) -> None:
    auth = {"type": "auth", "node_name": pairing.name, **greeted.credentials(pairing.token)}
    await greeted.send_text(padded(auth, LIMIT_BEFORE_AUTH))
    assert (await greeted.receive_plain())["type"] == "auth_ok"


async def test_an_auth_one_byte_longer_closes_the_connection(greeted: Node, pairing: Pairing) -> None:
    auth = {"type": "auth", "node_name": pairing.name, **greeted.credentials(pairing.token)}
    await greeted.send_text(padded(auth, LIMIT_BEFORE_AUTH + 1))
    assert await greeted.closed() == 1009


async def test_a_binary_message_is_measured_like_any(peer: Node) -> None:
    await peer.send_binary(bytes(LIMIT_BEFORE_AUTH + 1))
    assert await peer.closed() == 1009


# -- keys -----------------------------------------------------------------------------------------

#: Points of small order on the curve (RFC 7748 section 6.1): whoever sends one knows the shared secret.
SMALL_ORDER = [
    bytes(32),
    bytes([1, *bytes(31)]),
    bytes.fromhex("e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800"),
    bytes.fromhex("5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157"),
    bytes.fromhex("ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f"),
    bytes.fromhex("edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f"),
    bytes.fromhex("eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f"),
]


@pytest.mark.parametrize("point", SMALL_ORDER, ids=bytes.hex)
async def test_a_key_that_leads_to_an_all_zero_secret_is_malformed(
    peer: Node, fresh_name: str, point: bytes
) -> None:
    await peer.hello(fresh_name, e2e=True, ecdh_pub=b64url(point))
    assert await refusal(peer) == hello_err(*MALFORMED)


@pytest.mark.parametrize(
    "key",
    [
        "",
        b64url(b"\x09" * 31),
        b64url(b"\x09" * 33),
        b64url(b"\x09" * 32) + "=",
        "+" + b64url(b"\x09" * 32)[1:],
        "/" + b64url(b"\x09" * 32)[1:],
        " " + b64url(b"\x09" * 32),
        "\xe9" * 43,
    ],
    ids=ascii,
)
async def test_an_ecdh_pub_that_is_no_unpadded_base64url_of_32_bytes_is_malformed(
    peer: Node, fresh_name: str, key: str
) -> None:
    await peer.hello(fresh_name, e2e=True, ecdh_pub=key)
    assert await refusal(peer) == hello_err(*MALFORMED)


async def test_e2e_without_a_key_is_malformed(peer: Node, fresh_name: str) -> None:
    await peer.hello(fresh_name, e2e=True)
    assert await refusal(peer) == hello_err(*MALFORMED)
