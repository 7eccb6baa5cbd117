"""The key schedule and the two ways to seal a message: the `enc` envelope and the record layer.

Key agreement is X25519 (RFC 7748), derivation HKDF-SHA256 (RFC 5869), sealing AES-256-GCM. The info
strings and the order of inputs are PROTOCOL.md sections 3 and 7.
"""

import base64
import binascii
import hashlib
import hmac
import os
from typing import NamedTuple

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from hermes_nodes.errors import ProtocolViolation

KEY_BYTES = 32
SALT_BYTES = 32
NONCE_BYTES = 12
TAG_BYTES = 16


def b64url(data: bytes) -> str:
    """base64url without padding, as all byte strings of the handshake travel."""
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode("ascii")


def unb64url(text: str) -> bytes:
    """The reverse; raises ProtocolViolation on padding, other alphabets and stray bits."""
    try:
        data = base64.b64decode(text.encode("ascii") + b"=" * (-len(text) % 4), b"-_", validate=True)
    except (binascii.Error, UnicodeEncodeError) as error:
        raise ProtocolViolation("malformed base64url") from error
    if b64url(data) != text:
        raise ProtocolViolation("malformed base64url")
    return data


def hkdf(key: bytes, *, salt: bytes, info: bytes) -> bytes:
    return HKDF(hashes.SHA256(), KEY_BYTES, salt=salt, info=info).derive(key)


class KeyPair:
    """One side's X25519 pair, made for one session."""

    __slots__ = ("_private", "public")

    def __init__(self, private: X25519PrivateKey | None = None) -> None:
        self._private = private or X25519PrivateKey.generate()
        self.public = self._private.public_key().public_bytes_raw()

    def agree(self, peer_public: bytes) -> bytes:
        """The shared secret; raises ProtocolViolation on a bad key or an all-zero result."""
        try:
            return self._private.exchange(X25519PublicKey.from_public_bytes(peer_public))
        except ValueError as error:
            raise ProtocolViolation("malformed ecdh_pub") from error


def handshake_key(shared: bytes, *, salt: bytes, token: str) -> bytes:
    return hkdf(shared, salt=salt, info=b"hermes-node-e2e-v1" + token.encode("ascii"))


def client_proof(key: bytes) -> bytes:
    """What the node shows in `auth`."""
    return hmac.digest(key, b"client-auth", "sha256")


def server_proof(key: bytes) -> bytes:
    """What the gateway shows in `auth_ok`."""
    return hmac.digest(key, b"server-auth", "sha256")


def session_key(key: bytes, session_id: str) -> bytes:
    """The one key of an `enc` session."""
    return hkdf(key, salt=session_id.encode("ascii"), info=b"hermes-node-session-v1")


class StreamKeys(NamedTuple):
    """A `stream/1` session's keys, each named after the sender that uses it."""

    node: bytes
    gateway: bytes


def stream_keys(key: bytes, *, hello: bytes, hello_ack: bytes) -> StreamKeys:
    """Keys bound to the exact bytes of both opening messages, so that neither was altered."""
    transcript = hashlib.sha256(hello).digest() + hashlib.sha256(hello_ack).digest()
    salt = hashlib.sha256(transcript).digest()
    return StreamKeys(
        node=hkdf(key, salt=salt, info=b"hermes-node-stream-v1 node"),
        gateway=hkdf(key, salt=salt, info=b"hermes-node-stream-v1 gateway"),
    )


def seal_enc(key: bytes, plaintext: bytes) -> str:
    """The `data` of an `enc` message: base64url(nonce || ciphertext || tag)."""
    nonce = os.urandom(NONCE_BYTES)
    return b64url(nonce + AESGCM(key).encrypt(nonce, plaintext, None))


def open_enc(key: bytes, data: str) -> bytes:
    """Raises ProtocolViolation if ``data`` was not sealed under ``key``."""
    sealed = unb64url(data)
    if len(sealed) < NONCE_BYTES + TAG_BYTES:
        raise ProtocolViolation("a sealed message is too short")
    try:
        return AESGCM(key).decrypt(sealed[:NONCE_BYTES], sealed[NONCE_BYTES:], None)
    except InvalidTag as error:
        raise ProtocolViolation("a sealed message does not open") from error


class _Counted:
    """One direction's key and its record counter, which is the nonce and is never sent."""

    __slots__ = ("_aead", "_count", "_key")

    def __init__(self, key: bytes) -> None:
        self._key = key
        self._aead: AESGCM | None = None
        self._count = 0

    def _next(self) -> tuple[AESGCM, bytes]:
        aead = self._aead
        if aead is None:
            aead = self._aead = AESGCM(self._key)
        nonce = self._count.to_bytes(NONCE_BYTES, "big")
        self._count += 1
        return aead, nonce

    def rest(self) -> None:
        """Drop the cipher object (2.4 KB) until the next record; a session is idle most of its life."""
        self._aead = None


class Sealer(_Counted):
    def seal(self, plaintext: bytes | bytearray | memoryview) -> bytes:
        aead, nonce = self._next()
        return aead.encrypt(nonce, plaintext, None)


class Opener(_Counted):
    def open(self, record: bytes) -> bytes:
        """Raises ProtocolViolation on a record damaged, dropped, repeated, reordered or reflected."""
        aead, nonce = self._next()
        try:
            return aead.decrypt(nonce, record, None)
        except InvalidTag as error:
            raise ProtocolViolation("a record does not open") from error
