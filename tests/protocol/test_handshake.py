"""The handshake of both sides: who gets in, in which form, and what everybody else is told."""

import hashlib
import json
import uuid
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest

from hermes_nodes.errors import ProtocolViolation
from hermes_nodes.protocol.codec import EncCodec, Frame, PlainCodec, RecordCodec
from hermes_nodes.protocol.crypto import b64url
from hermes_nodes.protocol.handshake import GatewayHandshake, Refused
from hermes_nodes.protocol.messages import (
    FROM_GATEWAY,
    AuthErr,
    Exec,
    ExecResult,
    HelloErr,
    Message,
    encode,
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
    our_node,
    said,
    text,
)
from tests.protocol.vectors import SMALL_ORDER_POINTS

HASH = hashlib.sha256(TOKEN.encode()).hexdigest()
DEEP = b"[" * 100_000 + b"]" * 100_000
CALL = Exec(id=str(uuid.uuid4()), command="true")
ANSWER = ExecResult(id=CALL.id, exit_code=3)

Auth = Callable[[HandmadeNode, Frame], Frame | None]


def proves(node: HandmadeNode, ack: Frame) -> Frame:
    return node.auth(ack)


def refused(
    gateway: GatewayHandshake, node: HandmadeNode, *, hello: Frame | None, auth: Auth = proves
) -> Refused:
    """The refusal in which this conversation ends."""
    with pytest.raises(Refused) as refusal:
        converse(gateway, hello, lambda ack: auth(node, ack))
    return refusal.value


# What goes wrong


class Row(NamedTuple):
    """A row of the failure table: what the node says, and what it gets."""

    hello: Callable[[HandmadeNode], Frame | None]
    auth: Auth
    reply: HelloErr | AuthErr
    close: int
    protected: bool = True
    token: str = TOKEN


def hello(node: HandmadeNode) -> Frame:
    return node.hello()


def plain_hello(node: HandmadeNode) -> Frame:
    return node.plain_hello()


def _hello_err(reason: str, code: int) -> HelloErr:
    return HelloErr(reason=reason, code=code)


def _auth_err(reason: str, code: int) -> AuthErr:
    return AuthErr(reason=reason, code=code)


def _version(version: str) -> Row:
    reply = HelloErr(reason="unsupported_protocol_version", code=4002, server_max_version="0.1.0")
    return Row(lambda node: node.hello(protocol_version=version), proves, reply, 4002)


NOT_HELLO = _hello_err("expected_hello", 4003)
NOT_AUTH = _auth_err("expected_auth", 4003)
NO_ENCRYPTION = _hello_err("encryption_required", 4001)
NOT_PROVED = _auth_err("invalid_token", 4001)
MALFORMED_HELLO = _hello_err("malformed", 4003)
MALFORMED_AUTH = _auth_err("malformed", 4003)

ROWS = {
    "no hello in time": Row(
        lambda node: None,  # noqa: ARG005 - a row's shape
        proves,
        _hello_err("handshake_timeout", 4004),
        4004,
    ),
}
