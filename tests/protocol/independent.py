"""The key schedule once more, from the standards alone: hashlib, hmac and integers, none of our code."""

import hashlib
import hmac

#: The field and the curve of RFC 7748, section 4.1; a24 is (486662 - 2) / 4.
P = 2**255 - 19
A24 = 121665
BASE_POINT = (9).to_bytes(32, "little")


def x25519(scalar: bytes, point: bytes) -> bytes:
    """The function X25519 of RFC 7748, section 5: the Montgomery ladder over all 255 bits."""
    k = _clamped(scalar)
    x1 = int.from_bytes(point, "little") & (2**255 - 1)
    x2, z2, x3, z3 = 1, 0, x1, 1
    swap = 0
    for t in reversed(range(255)):
        bit = k >> t & 1
        if swap ^ bit:
            x2, z2, x3, z3 = x3, z3, x2, z2
        swap = bit
        x2, z2, x3, z3 = _step(x1, x2, z2, x3, z3)
    if swap:
        x2, z2, x3, z3 = x3, z3, x2, z2
    return (x2 * pow(z2, P - 2, P) % P).to_bytes(32, "little")


def _clamped(scalar: bytes) -> int:
    """decodeScalar25519."""
    number = int.from_bytes(scalar, "little")
    return number & ~7 & (2**255 - 1) | 2**254


def _step(x1: int, x2: int, z2: int, x3: int, z3: int) -> tuple[int, int, int, int]:
    """One rung: a doubling and a differential addition."""
    aa, bb = pow(x2 + z2, 2, P), pow(x2 - z2, 2, P)
    e = aa - bb
    da, cb = (x3 - z3) * (x2 + z2), (x3 + z3) * (x2 - z2)
    return aa * bb % P, e * (aa + A24 * e) % P, pow(da + cb, 2, P), x1 * pow(da - cb, 2, P) % P


def public_key(private: bytes) -> bytes:
    return x25519(private, BASE_POINT)


def hkdf(key: bytes, *, salt: bytes, info: bytes, length: int = 32) -> bytes:
    """HKDF-SHA256 of RFC 5869: extract, then expand."""
    pseudorandom = hmac.digest(salt or bytes(32), key, "sha256")
    block, output = b"", b""
    while len(output) < length:
        counter = len(output) // 32 + 1
        block = hmac.digest(pseudorandom, block + info + bytes([counter]), "sha256")
        output += block
    return output[:length]


def handshake_key(shared: bytes, *, salt: bytes, token: str) -> bytes:
    return hkdf(shared, salt=salt, info=b"hermes-node-e2e-v1" + token.encode())


def client_proof(key: bytes) -> bytes:
    return hmac.digest(key, b"client-auth", "sha256")


def server_proof(key: bytes) -> bytes:
    return hmac.digest(key, b"server-auth", "sha256")


def session_key(key: bytes, session_id: str) -> bytes:
    return hkdf(key, salt=session_id.encode(), info=b"hermes-node-session-v1")


def stream_key(key: bytes, sender: str, *, hello: bytes, hello_ack: bytes) -> bytes:
    both = hashlib.sha256(hello).digest() + hashlib.sha256(hello_ack).digest()
    salt = hashlib.sha256(both).digest()
    return hkdf(key, salt=salt, info=f"hermes-node-stream-v1 {sender}".encode())
