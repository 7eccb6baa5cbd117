"""The handshake of both sides as plain state: feed it messages, send what it returns. No I/O.

A refusal is an exception that carries the reply to send, the close code, and the true reason, which is
for the log and the audit trail alone: a peer that has not authenticated must learn nothing.
"""

import hashlib
import hmac
import os
import re
import uuid
from collections.abc import Callable
from typing import NamedTuple, TypeVar

from hermes_nodes.errors import ProtocolViolation
from hermes_nodes.protocol import crypto
from hermes_nodes.protocol.codec import EncCodec, Frame, PlainCodec, RecordCodec
from hermes_nodes.protocol.messages import (
    EXEC_CHUNK,
    FROM_GATEWAY,
    FROM_NODE,
    HANDSHAKE_REPLY,
    HELLO_OR_AUTH,
    PROTOCOL_VERSION,
    STREAM,
    Auth,
    AuthErr,
    AuthOk,
    Close,
    FromGateway,
    FromNode,
    Hello,
    HelloAck,
    HelloErr,
    encode,
    timestamp,
)

# semver 2.0.0 by the expression that semver.org suggests; MAJOR is the group that decides.
_IDENTIFIER = r"(?:0|[1-9]\d*|\d*[a-zA-Z-][0-9a-zA-Z-]*)"
_SEMVER = re.compile(
    r"(0|[1-9]\d*)\.(?:0|[1-9]\d*)\.(?:0|[1-9]\d*)"
    rf"(?:-{_IDENTIFIER}(?:\.{_IDENTIFIER})*)?(?:\+[0-9a-zA-Z-]+(?:\.[0-9a-zA-Z-]+)*)?",
    re.ASCII,
)
_OUR_MAJOR = PROTOCOL_VERSION.split(".", maxsplit=1)[0]
MAX_NAME = 64
_Reply = TypeVar("_Reply", HelloAck, AuthOk)


class Credentials(NamedTuple):
    """What can prove a name: tokens, and SHA-256 hex of tokens that are themselves not known."""

    tokens: tuple[str, ...]
    hashes: tuple[str, ...] = ()


class Refused(ProtocolViolation):
    """A handshake that ends here: ``reply`` is sent, then the connection closes."""

    def __init__(self, reply: HelloErr | AuthErr, true_reason: str) -> None:
        super().__init__(true_reason, close_code=reply.code)
        self.reply = reply
        self.true_reason = true_reason


NodeCodec = PlainCodec[FromNode] | EncCodec[FromNode] | RecordCodec[FromNode]


class Accepted(NamedTuple):
    """A node that has proved itself; ``auth_ok`` is still to be sent."""

    name: str
    session_id: str
    hello: Hello
    auth_ok: Frame
    codec: NodeCodec
    #: Which of the credentials was proved: tokens first, then hashes.
    proved_by: int
    #: Whether `exec_chunk` was agreed on.
    chunks: bool = False

    @property
    def streams(self) -> bool:
        return isinstance(self.codec, RecordCodec)


def clean_name(text: str) -> str:
    """A node's name as it may stand on the wire; raises ProtocolViolation otherwise."""
    name = text.strip()
    printable = name.isascii() and name.isprintable()
    if not name or len(name) > MAX_NAME or not printable or "/" in name or "\\" in name or ".." in name:
        raise ProtocolViolation("malformed node_name")
    return name


class GatewayHandshake:
    """The gateway's side: ``receive_hello``, then ``receive_auth``; ``timed_out`` at any time.

    ``protected`` says that nobody can listen: TLS, or a peer on loopback. ``lookup`` gives what proves
    a name, and gives something that can't be proved for a name that isn't admitted, at the same cost.
    """

    def __init__(
        self,
        *,
        protected: bool,
        lookup: Callable[[str], Credentials],
        legacy_streaming: bool = False,
    ) -> None:
        self.session_id = str(uuid.uuid4())
        #: The name that the peer claims, for the log and the lockout.
        self.claimed_name: str | None = None
        self._protected = protected
        self._lookup = lookup
        self._legacy_streaming = legacy_streaming
        self._hello_raw = b""
        self._ack_raw = b""
        self._hello: Hello | None = None
        self._credentials = Credentials(())
        self._shared = b""
        self._salt = b""

    def timed_out(self) -> Refused:
        return self._refuse("handshake_timeout", Close.LIMIT, "no message in time")

    def receive_hello(self, frame: Frame) -> Frame:
        """The `hello_ack` to send; raises Refused."""
        hello = self._decode_hello(frame)
        self._check_version(hello)
        if not hello.e2e and not self._protected:
            raise self._refuse(
                "encryption_required", Close.UNAUTHORISED, "no encryption offered on an open line"
            )
        try:
            self.claimed_name = clean_name(hello.node_name)
            ack = self._acknowledge(hello, self.claimed_name)
        except ProtocolViolation as error:
            raise self._malformed(error) from error
        self._hello_raw, self._ack_raw = frame.data, encode(ack)
        # Only now: until here a refusal is a `hello_err`.
        self._hello = hello
        return Frame(self._ack_raw, binary=False)

    def receive_auth(self, frame: Frame) -> Accepted:
        """The accepted node; raises Refused, with `invalid_token` for whatever did not prove itself."""
        auth = self._decode_auth(frame)
        hello = self._hello
        name = self.claimed_name
        if hello is None or name is None:
            raise self._refuse("expected_hello", Close.PROTOCOL, "auth before hello")
        try:
            same_name = clean_name(auth.node_name) == name
            proof = crypto.unb64url(auth.proof or "")
        except ProtocolViolation as error:
            raise self._malformed(error) from error
        if not same_name:
            raise self._refuse("unknown_node", Close.UNAUTHORISED, "auth names another node")
        if self._shared:
            return self._accept_proof(hello, name, proof)
        return self._accept_token(hello, name, auth.token or "")

    def invalid_token(self, true_reason: str, *, locked_out: bool = False) -> Refused:
        """For the caller too, when it finds the pairing revoked or the name locked out."""
        reason = "locked_out" if locked_out else "invalid_token"
        return self._refuse(reason, Close.UNAUTHORISED, true_reason)

    # -- hello --

    def _decode_hello(self, frame: Frame) -> Hello:
        try:
            message = HELLO_OR_AUTH.decode(_text(frame))
        except ProtocolViolation as error:
            raise self._malformed(error) from error
        if not isinstance(message, Hello):
            raise self._refuse("expected_hello", Close.PROTOCOL, "the first message is not hello")
        return message

    def _check_version(self, hello: Hello) -> None:
        version = _SEMVER.fullmatch(hello.protocol_version)
        if version is None or version[1] != _OUR_MAJOR:
            reply = HelloErr(
                reason="unsupported_protocol_version",
                code=Close.VERSION,
                server_max_version=PROTOCOL_VERSION,
            )
            raise Refused(reply, "unsupported protocol version")

    def _acknowledge(self, hello: Hello, name: str) -> HelloAck:
        self._credentials = self._lookup(name)
        encrypted = self._agree(hello)
        return HelloAck(
            protocol_version=PROTOCOL_VERSION,
            session_id=self.session_id,
            server_time=timestamp(),
            capabilities=self._accepted_capabilities(hello),
            ecdh_pub=crypto.b64url(encrypted) if encrypted else None,
            salt=crypto.b64url(self._salt) if encrypted else None,
        )

    def _agree(self, hello: Hello) -> bytes | None:
        """Our public key, if this session is to be encrypted."""
        # A pairing of which only the hash is known can't be proved, so where the line is protected
        # its node shows the token itself; elsewhere the token stays home and the proof fails.
        unprovable = not self._credentials.tokens and self._protected
        if not hello.e2e or unprovable:
            return None
        if not hello.ecdh_pub:
            raise ProtocolViolation("e2e without ecdh_pub")
        pair = crypto.KeyPair()
        self._shared = pair.agree(crypto.unb64url(hello.ecdh_pub))
        self._salt = os.urandom(crypto.SALT_BYTES)
        return pair.public

    def _accepted_capabilities(self, hello: Hello) -> list[str]:
        listed = hello.capabilities or []
        if STREAM in listed and self._shared:
            return [STREAM]
        if EXEC_CHUNK in listed and self._legacy_streaming:
            return [EXEC_CHUNK]
        return []

    # -- auth --

    def _decode_auth(self, frame: Frame) -> Auth:
        try:
            message = HELLO_OR_AUTH.decode(_text(frame))
        except ProtocolViolation as error:
            raise self._malformed(error) from error
        if not isinstance(message, Auth):
            raise self._refuse("expected_auth", Close.PROTOCOL, "the second message is not auth")
        if message.token is None and message.proof is None:
            raise self._refuse("malformed", Close.PROTOCOL, "auth without token and proof")
        return message

    def _accept_proof(self, hello: Hello, name: str, proof: bytes) -> Accepted:
        for number, token in enumerate(self._credentials.tokens):
            key = crypto.handshake_key(self._shared, salt=self._salt, token=token)
            if hmac.compare_digest(crypto.client_proof(key), proof):
                return self._accepted(hello, name, self._codec(key), number, crypto.server_proof(key))
        raise self.invalid_token("wrong proof")

    def _accept_token(self, hello: Hello, name: str, token: str) -> Accepted:
        shown = hashlib.sha256(token.encode()).hexdigest()
        known = [hashlib.sha256(one.encode()).hexdigest() for one in self._credentials.tokens]
        for number, digest in enumerate((*known, *self._credentials.hashes)):
            if hmac.compare_digest(digest, shown):
                return self._accepted(hello, name, PlainCodec(FROM_NODE), number)
        raise self.invalid_token("wrong token")

    def _codec(self, key: bytes) -> NodeCodec:
        listed = self._hello.capabilities if self._hello else None
        if STREAM in (listed or []):
            keys = crypto.stream_keys(key, hello=self._hello_raw, hello_ack=self._ack_raw)
            return RecordCodec(FROM_NODE, send_key=keys.gateway, receive_key=keys.node)
        return EncCodec(FROM_NODE, crypto.session_key(key, self.session_id))

    def _accepted(
        self, hello: Hello, name: str, codec: NodeCodec, proved_by: int, proof: bytes | None = None
    ) -> Accepted:
        auth_ok = AuthOk(session_id=self.session_id, proof=crypto.b64url(proof) if proof else None)
        chunks = EXEC_CHUNK in self._accepted_capabilities(hello)
        frame = Frame(encode(auth_ok), binary=False)
        return Accepted(name, self.session_id, hello, frame, codec, proved_by, chunks)

    # -- refusals --

    def _malformed(self, error: ProtocolViolation) -> Refused:
        return self._refuse("malformed", Close.PROTOCOL, error.message)

    def _refuse(self, reason: str, code: Close, true_reason: str) -> Refused:
        kind = HelloErr if self._hello is None else AuthErr
        return Refused(kind(reason=reason, code=code), true_reason)


class NodeHandshake:
    """Our own node's side; it takes part in `stream/1` sessions and in nothing less."""

    def __init__(
        self,
        *,
        name: str,
        token: str,
        node_version: str,
        platform: str,
        arch: str,
        capabilities: list[str],
    ) -> None:
        self._name = name
        self._token = token
        self._pair = crypto.KeyPair()
        self._hello_raw = encode(
            Hello(
                protocol_version=PROTOCOL_VERSION,
                node_name=name,
                node_version=node_version,
                platform=platform,
                arch=arch,
                capabilities=[STREAM, *capabilities],
                e2e=True,
                ecdh_pub=crypto.b64url(self._pair.public),
            )
        )
        self._key = b""
        self._ack_raw = b""
        self.session_id = ""

    def hello(self) -> Frame:
        return Frame(self._hello_raw, binary=False)

    def receive_ack(self, frame: Frame) -> Frame:
        """The `auth` to send; raises Refused, or ProtocolViolation if the gateway offers too little."""
        ack = self._expect(frame, HelloAck)
        if not ack.ecdh_pub or not ack.salt or STREAM not in ack.capabilities:
            raise ProtocolViolation(
                "the gateway does not offer encryption and stream/1, so this node does not log in"
            )
        shared = self._pair.agree(crypto.unb64url(ack.ecdh_pub))
        self._key = crypto.handshake_key(shared, salt=crypto.unb64url(ack.salt), token=self._token)
        self._ack_raw = frame.data
        self.session_id = ack.session_id
        proof = crypto.b64url(crypto.client_proof(self._key))
        return Frame(encode(Auth(node_name=self._name, proof=proof)), binary=False)

    def receive_ok(self, frame: Frame) -> RecordCodec[FromGateway]:
        """The session's codec; raises Refused, or ProtocolViolation unless the gateway's proof is right."""
        ok = self._expect(frame, AuthOk)
        if not self._key:
            raise ProtocolViolation("auth_ok before hello_ack")
        proof = crypto.unb64url(ok.proof or "")
        if not hmac.compare_digest(crypto.server_proof(self._key), proof):
            raise ProtocolViolation("the gateway could not prove that it knows this pairing")
        keys = crypto.stream_keys(self._key, hello=self._hello_raw, hello_ack=self._ack_raw)
        return RecordCodec(FROM_GATEWAY, send_key=keys.node, receive_key=keys.gateway)

    def _expect(self, frame: Frame, kind: type[_Reply]) -> _Reply:
        message = HANDSHAKE_REPLY.decode(_text(frame))
        if isinstance(message, HelloErr | AuthErr):
            raise Refused(message, f"the gateway refused this node: {message.reason}")
        if not isinstance(message, kind):
            raise ProtocolViolation("the gateway's handshake is out of order")
        return message


def _text(frame: Frame) -> bytes:
    if frame.binary:
        raise ProtocolViolation("a binary message in the handshake")
    return frame.data
