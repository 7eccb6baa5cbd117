"""The other side of a handshake: a node by hand, as someone else might have written it."""

import json
import secrets
from collections.abc import Callable
from typing import Any

from hermes_nodes.protocol.codec import EncCodec, Frame, RecordCodec
from hermes_nodes.protocol.crypto import b64url, unb64url
from hermes_nodes.protocol.handshake import Accepted, Credentials, GatewayHandshake, NodeHandshake
from hermes_nodes.protocol.messages import FROM_GATEWAY, FromGateway
from tests.protocol import independent

NAME = "web-1"
TOKEN, NEWER_TOKEN, WRONG_TOKEN = ("hnt_" + letter * 43 for letter in "abc")


def text(message: object) -> Frame:
    """A text message, encoded by the standard library."""
    return Frame(json.dumps(message).encode(), binary=False)


def said(frame: Frame) -> dict[str, Any]:
    """What a text message says, decoded by the standard library."""
    assert not frame.binary
    message = json.loads(frame.data)
    assert isinstance(message, dict)
    return message


def gateway(
    *tokens: str,
    hashes: tuple[str, ...] = (),
    protected: bool = True,
    legacy_streaming: bool = False,
    asked: list[str] | None = None,
) -> GatewayHandshake:
    """A gateway that knows one pairing; ``asked`` collects the names that it looks up."""

    def lookup(name: str) -> Credentials:
        if asked is not None:
            asked.append(name)
        return Credentials(tokens, hashes) if name == NAME else Credentials((secrets.token_urlsafe(32),))

    return GatewayHandshake(protected=protected, lookup=lookup, legacy_streaming=legacy_streaming)


class HandmadeNode:
    """A node that knows sections 1 to 3 of PROTOCOL.md and shares no code with ours."""

    def __init__(self, *, token: str = TOKEN, private: bytes = b"n" * 32) -> None:
        self._token = token
        self._private = private
        self._key = b""
        self._session_id = ""

    def hello(self, **changes: object) -> Frame:
        """An encrypted node's `hello` with those fields changed."""
        fields = {"e2e": True, "ecdh_pub": b64url(independent.public_key(self._private))}
        return self.plain_hello(**(fields | changes))

    def plain_hello(self, **changes: object) -> Frame:
        fields = {"type": "hello", "protocol_version": "0.1.0", "node_name": NAME}
        return text(fields | changes)

    def auth(self, ack: Frame, **changes: object) -> Frame:
        """The `auth` that answers this `hello_ack`: a proof if it offers a key, else the token."""
        offer = said(ack)
        self._session_id = offer["session_id"]
        if "ecdh_pub" not in offer:
            return text({"type": "auth", "node_name": NAME, "token": self._token} | changes)
        shared = independent.x25519(self._private, unb64url(offer["ecdh_pub"]))
        self._key = independent.handshake_key(shared, salt=unb64url(offer["salt"]), token=self._token)
        proof = b64url(independent.client_proof(self._key))
        return text({"type": "auth", "node_name": NAME, "proof": proof} | changes)

    @property
    def expected_proof(self) -> str:
        """What the gateway has to show in `auth_ok`."""
        return b64url(independent.server_proof(self._key))

    def codec(self) -> EncCodec[FromGateway]:
        return EncCodec(FROM_GATEWAY, independent.session_key(self._key, self._session_id))


def converse(
    gateway: GatewayHandshake, hello: Frame | None, auth: Callable[[Frame], Frame | None]
) -> Accepted:
    """Say both messages of a node to the gateway; None is a node that stays silent."""
    if hello is None:
        raise gateway.timed_out()
    answer = auth(gateway.receive_hello(hello))
    if answer is None:
        raise gateway.timed_out()
    return gateway.receive_auth(answer)


def our_node(*capabilities: str, token: str = TOKEN) -> NodeHandshake:
    return NodeHandshake(
        name=NAME,
        token=token,
        node_version="1.0.0",
        platform="linux",
        arch="x86_64",
        capabilities=list(capabilities),
    )


def logged_in(*capabilities: str) -> tuple[Accepted, RecordCodec[FromGateway]]:
    """Both ends of a `stream/1` session after the handshake of our own two sides."""
    node = our_node(*capabilities)
    accepted = converse(gateway(TOKEN), node.hello(), node.receive_ack)
    return accepted, node.receive_ok(accepted.auth_ok)
