"""Keys, proofs and seals: against the standards' own vectors, and against a second implementation."""

from collections.abc import Callable

import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from hypothesis import given, settings
from hypothesis import strategies as st

from hermes_nodes.errors import ProtocolViolation
from hermes_nodes.protocol import crypto
from hermes_nodes.protocol.crypto import KeyPair, Opener, Sealer, b64url, open_enc, seal_enc, unb64url
from tests.protocol import independent, vectors

KEY, OTHER_KEY = bytes(range(32)), bytes(range(1, 33))
RECORDS = [b"first", b"second", b"third"]

# The second implementation is right


@pytest.mark.parametrize(
    ("scalar", "point", "result"),
    [
        pytest.param(
            "a546e36bf0527c9d3b16154b82465edd62144c0ac1fc5a18506a2244ba449ac4",
            "e6db6867583030db3594c1a424b15f7c726624ec26b3353b10a903a6d0ab1c4c",
            "c3da55379de9c6908e94ea4df28d084f32eccf03491c71f754b4075577a28552",
            id="section 5.2, first",
        ),
        pytest.param(
            "4b66e9d4d1b4673c5ad22691957d6af5c11b6421e0ea01d42ca4169e7918ba0d",
            "e5210f12786811d3f4b7959d0538ae2c31dbe7106fc03c3efc4cd549c715a493",
            "95cbde9476e8907d7aade45cb4b873f88b595a68799fa152e6f8f7647aac7957",
            id="section 5.2, second",
        ),
        pytest.param(
            "77076d0a7318a57d3c16c17251b26645df4c2f87ebc0992ab177fba51db92c2a",
            "de9edb7d7b7dc1b4d35b61c2ece435373f8343c85b78674dadfc7e146f882b4f",
            "4a5d9d5ba4ce2de1728e3bf480350f25e07e21c947d19e3376f09b3c1e161742",
            id="section 6.1, Alice and Bob",
        ),
    ],
)
def test_the_independent_x25519_gives_what_rfc_7748_publishes(scalar: str, point: str, result: str) -> None:
    assert independent.x25519(bytes.fromhex(scalar), bytes.fromhex(point)).hex() == result


def test_the_independent_x25519_gives_what_rfc_7748_publishes_after_a_thousand_rounds() -> None:
    k = u = independent.BASE_POINT
    for _ in range(1000):
        k, u = independent.x25519(k, u), k
    assert k.hex() == "684cf59ba83309552800ef566f2f4d3c1c3887c49360e3875f2eb94d99532c51"


@pytest.mark.parametrize(
    ("key", "salt", "info", "length", "result"),
    [
        pytest.param(
            b"\x0b" * 22,
            bytes(range(13)),
            bytes(range(0xF0, 0xFA)),
            42,
            "3cb25f25faacd57a90434f64d0362f2a2d2d0a90cf1a5a4c5db02d56ecc4c5bf34007208d5b887185865",
            id="A.1",
        ),
        pytest.param(
            bytes(range(0x50)),
            bytes(range(0x60, 0xB0)),
            bytes(range(0xB0, 0x100)),
            82,
            "b11e398dc80327a1c8e7f78c596a49344f012eda2d4efad8a050cc4c19afa97c59045a99cac7827271cb41c65e590e09"
            "da3275600c2f09b8367793a9aca3db71cc30c58179ec3e87c14c01d5c1f3434f1d87",
            id="A.2, longer than a block",
        ),
        pytest.param(
            b"\x0b" * 22,
            b"",
            b"",
            42,
            "8da4e775a563c18f715f802a063c5a31b8a11f5c5ee1879ec3454e5f3c738d2d9d201395faa4b61a96c8",
            id="A.3, without salt and info",
        ),
    ],
)
def test_the_independent_hkdf_gives_what_rfc_5869_publishes(
    key: bytes, salt: bytes, info: bytes, length: int, result: str
) -> None:
    assert independent.hkdf(key, salt=salt, info=info, length=length).hex() == result


# The key schedule


def _pair(private: bytes) -> KeyPair:
    return KeyPair(X25519PrivateKey.from_private_bytes(private))


def _stream_keys(key: bytes) -> crypto.StreamKeys:
    return crypto.stream_keys(key, hello=vectors.HELLO, hello_ack=vectors.HELLO_ACK)


@pytest.mark.parametrize(
    ("expected", "ours", "independently"),
    [
        pytest.param(
            vectors.NODE_PUBLIC,
            lambda: _pair(vectors.NODE_PRIVATE).public,
            lambda: independent.public_key(vectors.NODE_PRIVATE),
            id="the node's public key",
        ),
        pytest.param(
            vectors.GATEWAY_PUBLIC,
            lambda: _pair(vectors.GATEWAY_PRIVATE).public,
            lambda: independent.public_key(vectors.GATEWAY_PRIVATE),
            id="the gateway's public key",
        ),
        pytest.param(
            vectors.SHARED,
            lambda: _pair(vectors.NODE_PRIVATE).agree(vectors.GATEWAY_PUBLIC),
            lambda: independent.x25519(vectors.GATEWAY_PRIVATE, vectors.NODE_PUBLIC),
            id="the shared secret",
        ),
        pytest.param(
            vectors.HANDSHAKE_KEY,
            lambda: crypto.handshake_key(vectors.SHARED, salt=vectors.SALT, token=vectors.TOKEN),
            lambda: independent.handshake_key(vectors.SHARED, salt=vectors.SALT, token=vectors.TOKEN),
            id="the handshake key",
        ),
        pytest.param(
            vectors.CLIENT_PROOF,
            lambda: crypto.client_proof(vectors.HANDSHAKE_KEY),
            lambda: independent.client_proof(vectors.HANDSHAKE_KEY),
            id="the node's proof",
        ),
        pytest.param(
            vectors.SERVER_PROOF,
            lambda: crypto.server_proof(vectors.HANDSHAKE_KEY),
            lambda: independent.server_proof(vectors.HANDSHAKE_KEY),
            id="the gateway's proof",
        ),
        pytest.param(
            vectors.SESSION_KEY,
            lambda: crypto.session_key(vectors.HANDSHAKE_KEY, vectors.SESSION_ID),
            lambda: independent.session_key(vectors.HANDSHAKE_KEY, vectors.SESSION_ID),
            id="the session key",
        ),
        pytest.param(
            vectors.NODE_STREAM_KEY,
            lambda: _stream_keys(vectors.HANDSHAKE_KEY).node,
            lambda: independent.stream_key(
                vectors.HANDSHAKE_KEY, "node", hello=vectors.HELLO, hello_ack=vectors.HELLO_ACK
            ),
            id="the node's stream key",
        ),
        pytest.param(
            vectors.GATEWAY_STREAM_KEY,
            lambda: _stream_keys(vectors.HANDSHAKE_KEY).gateway,
            lambda: independent.stream_key(
                vectors.HANDSHAKE_KEY, "gateway", hello=vectors.HELLO, hello_ack=vectors.HELLO_ACK
            ),
            id="the gateway's stream key",
        ),
    ],
)
def test_each_key_is_the_same_from_both_implementations(
    expected: bytes, ours: Callable[[], bytes], independently: Callable[[], bytes]
) -> None:
    assert independently() == expected
    assert ours() == expected


@settings(deadline=None)
@given(st.binary(min_size=32, max_size=32), st.binary(min_size=32, max_size=32))
def test_any_two_key_pairs_agree_on_what_the_independent_x25519_gives(one: bytes, other: bytes) -> None:
    shared = independent.x25519(one, independent.public_key(other))
    assert _pair(one).agree(_pair(other).public) == _pair(other).agree(_pair(one).public) == shared


def test_every_session_has_a_key_pair_of_its_own() -> None:
    assert KeyPair().public != KeyPair().public


@pytest.mark.parametrize("point", vectors.SMALL_ORDER_POINTS, ids=bytes.hex)
def test_a_public_key_that_would_fix_the_shared_secret_is_refused(point: bytes) -> None:
    assert independent.x25519(vectors.NODE_PRIVATE, point) == bytes(32)
    with pytest.raises(ProtocolViolation):
        KeyPair().agree(point)


@pytest.mark.parametrize("size", [0, 31, 33])
def test_a_public_key_of_a_wrong_length_is_refused(size: int) -> None:
    with pytest.raises(ProtocolViolation):
        KeyPair().agree(b"\x09" * size)


# base64url


@settings(deadline=None)
@given(st.binary(max_size=70))
def test_base64url_comes_back_and_carries_no_padding(data: bytes) -> None:
    text = b64url(data)
    assert set(text).isdisjoint("=+/")
    assert unb64url(text) == data


BAD_BASE64URL = {
    "padded": "AA==",
    "the standard alphabet": "+/+/",
    "a length that no bytes have": "AAAAA",
    "stray bits at the end": "AB",
    "a space": "AA AA",
    "a line break": "AAAA\n",
    "not ASCII": "AAAé",
    "a full-width letter": "AAA\uff21",
}


@pytest.mark.parametrize("text", BAD_BASE64URL.values(), ids=BAD_BASE64URL.keys())
def test_base64url_that_no_encoder_wrote_is_refused(text: str) -> None:
    with pytest.raises(ProtocolViolation):
        unb64url(text)


# The `enc` envelope


@settings(deadline=None)
@given(st.binary(max_size=200))
def test_what_was_sealed_in_an_envelope_opens(plaintext: bytes) -> None:
    assert open_enc(KEY, seal_enc(KEY, plaintext)) == plaintext


def test_an_envelope_is_nonce_then_ciphertext_then_tag_without_associated_data() -> None:
    sealed = unb64url(seal_enc(KEY, b"text"))
    assert len(sealed) == 12 + len(b"text") + 16
    assert AESGCM(KEY).decrypt(sealed[:12], sealed[12:], None) == b"text"
    nonce = bytes(range(12))
    assert open_enc(KEY, b64url(nonce + AESGCM(KEY).encrypt(nonce, b"text", None))) == b"text"


def test_no_two_envelopes_share_a_nonce() -> None:
    assert len({seal_enc(KEY, b"")[:16] for _ in range(100)}) == 100


def _bit_flipped(data: bytes, at: int) -> bytes:
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


@pytest.mark.parametrize("at", [0, 11, 12, 15, -16, -1])
def test_a_damaged_envelope_is_refused(at: int) -> None:
    sealed = unb64url(seal_enc(KEY, b"text"))
    with pytest.raises(ProtocolViolation):
        open_enc(KEY, b64url(_bit_flipped(sealed, at % len(sealed))))


@pytest.mark.parametrize("size", [0, 11, 12, 27, 28, 31])
def test_a_truncated_envelope_is_refused(size: int) -> None:
    sealed = unb64url(seal_enc(KEY, b"text"))
    with pytest.raises(ProtocolViolation):
        open_enc(KEY, b64url(sealed[:size]))


def test_an_envelope_under_another_key_is_refused() -> None:
    with pytest.raises(ProtocolViolation):
        open_enc(KEY, seal_enc(OTHER_KEY, b"text"))


def test_a_padded_envelope_is_refused() -> None:
    sealed = seal_enc(KEY, b"text")
    assert len(sealed) % 4
    with pytest.raises(ProtocolViolation):
        open_enc(KEY, sealed + "=" * (-len(sealed) % 4))


# Records


def _sealed() -> list[bytes]:
    sealer = Sealer(KEY)
    return [sealer.seal(record) for record in RECORDS]


def test_records_open_in_the_order_in_which_they_were_sealed() -> None:
    opener = Opener(KEY)
    assert [opener.open(record) for record in _sealed()] == RECORDS


def test_the_nonce_of_a_record_is_its_number_from_zero_in_twelve_big_endian_bytes() -> None:
    sealer = Sealer(KEY)
    for number in range(300):
        nonce = bytes(10) + bytes([number // 256, number % 256])
        assert AESGCM(KEY).decrypt(nonce, sealer.seal(b"text"), None) == b"text"


def test_the_counters_go_on_through_a_rest() -> None:
    sealer, opener = Sealer(KEY), Opener(KEY)
    for record in RECORDS:
        assert opener.open(sealer.seal(record)) == record
        sealer.rest()
        opener.rest()


TAMPERED: dict[str, Callable[[list[bytes]], list[bytes]]] = {
    "the first dropped": lambda records: records[1:],
    "one dropped": lambda records: [records[0], records[2]],
    "one repeated": lambda records: [records[0], records[0], *records[1:]],
    "two reordered": lambda records: [records[1], records[0], records[2]],
    "one damaged": lambda records: [records[0], _bit_flipped(records[1], 0), records[2]],
    "a damaged tag": lambda records: [*records[:2], _bit_flipped(records[2], len(records[2]) - 1)],
    "one cut short": lambda records: [records[0][:-1]],
    "one lengthened": lambda records: [records[0] + b"\0"],
    "one shorter than a tag": lambda records: [records[0][:15]],
    "an empty one": lambda records: [records[0][:0]],
}


@pytest.mark.parametrize("tamper", TAMPERED.values(), ids=TAMPERED.keys())
def test_records_that_are_not_exactly_those_that_were_sent_do_not_open(
    tamper: Callable[[list[bytes]], list[bytes]],
) -> None:
    opener = Opener(KEY)
    with pytest.raises(ProtocolViolation):
        [opener.open(record) for record in tamper(_sealed())]


def test_a_record_sent_back_to_its_sender_does_not_open() -> None:
    node_key, gateway_key = _stream_keys(vectors.HANDSHAKE_KEY)
    with pytest.raises(ProtocolViolation):
        Opener(gateway_key).open(Sealer(node_key).seal(b"text"))
