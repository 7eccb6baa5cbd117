"""A node written from the protocol's text alone: it shares no code with what it tests."""

import asyncio
import base64
import hmac
import json
import os
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

from aiohttp import ClientSession, ClientWebSocketResponse, ClientWSTimeout, WSMsgType
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

Json = dict[str, Any]

VERSION = "0.1.0"
#: Seconds until what was to come counts as lost.
PATIENCE = 20.0
NONCE_BYTES = 12
_ENDS = (WSMsgType.CLOSE, WSMsgType.CLOSED, WSMsgType.CLOSING, WSMsgType.ERROR)


# -- section 3 ------------------------------------------------------------------------------------


def b64url(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


def unb64url(text: str) -> bytes:
    """The reverse; ValueError on anything but base64url without padding."""
    data = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
    if b64url(data) != text:
        raise ValueError(f"not base64url without padding: {text!r}")
    return data


def hkdf(key: bytes, *, salt: bytes, info: bytes) -> bytes:
    return HKDF(SHA256(), 32, salt=salt, info=info).derive(key)


class Keys:
    """What both ends of one encrypted handshake come to."""

    def __init__(self, shared: bytes, *, salt: bytes, token: str, session_id: str) -> None:
        key = hkdf(shared, salt=salt, info=b"hermes-node-e2e-v1" + token.encode("ascii"))
        self.client_proof = b64url(hmac.digest(key, b"client-auth", "sha256"))
        self.server_proof = b64url(hmac.digest(key, b"server-auth", "sha256"))
        self.session = hkdf(key, salt=session_id.encode("ascii"), info=b"hermes-node-session-v1")


def seal(key: bytes, plaintext: bytes) -> str:
    """The `data` of an `enc` message."""
    nonce = os.urandom(NONCE_BYTES)
    return b64url(nonce + AESGCM(key).encrypt(nonce, plaintext, None))


def unseal(key: bytes, data: str) -> bytes:
    """The reverse; raises InvalidTag."""
    sealed = unb64url(data)
    return AESGCM(key).decrypt(sealed[:NONCE_BYTES], sealed[NONCE_BYTES:], None)


# -- the node -------------------------------------------------------------------------------------


class Node:
    """One connection to a gateway, which says nothing by itself: no pong, no ping, no answer."""

    def __init__(self, ws: "ClientWebSocketResponse[bool]") -> None:
        self.ws = ws
        self.hello_ack: Json = {}
        self.keys: Keys | None = None
        #: Set once the session's messages are sealed.
        self.session_key: bytes | None = None
        #: Every frame that the gateway sent a WebSocket-level ping in.
        self.websocket_pings: list[bytes] = []
        self._private = X25519PrivateKey.generate()

    @property
    def session_id(self) -> str:
        return str(self.hello_ack["session_id"])

    # -- as the wire has it --

    async def send_text(self, text: str) -> None:
        await self.ws.send_frame(text.encode(), WSMsgType.TEXT)

    async def send_binary(self, data: bytes) -> None:
        await self.ws.send_frame(data, WSMsgType.BINARY)

    async def send_plain(self, message: object) -> None:
        """A message that is not sealed, whatever the session is."""
        await self.send_text(json.dumps(message))

    async def receive_plain(self, within: float = PATIENCE) -> Json:
        """The next message as it came."""
        message = await self._next(within)
        assert message.type is WSMsgType.TEXT, (message, self.ws.close_code)
        value = json.loads(message.data)
        assert isinstance(value, dict)
        return value

    async def closed(self, within: float = PATIENCE) -> int | None:
        """Wait for the close, past whatever else comes; its code."""
        async with asyncio.timeout(within):
            while (await self._next(within)).type not in _ENDS:
                pass
        return self.ws.close_code

    async def _next(self, within: float) -> Any:  # aiohttp has a class for each kind of message
        """The next message or end; what WebSocket itself pings is noted and not answered."""
        while True:
            message = await self.ws.receive(within)
            if message.type is WSMsgType.PING:
                self.websocket_pings.append(message.data)
            elif message.type is not WSMsgType.PONG:
                return message

    # -- sections 1 and 3: messages, sealed where the session is --

    async def send(self, message: object) -> None:
        await self.send_content(json.dumps(message).encode())

    async def send_content(self, content: bytes) -> None:
        """Bytes where a message belongs."""
        if self.session_key is None:
            await self.ws.send_frame(content, WSMsgType.TEXT)
        else:
            await self.send_plain(self.envelope(content))

    def envelope(self, content: bytes) -> Json:
        assert self.session_key is not None
        return {"type": "enc", "data": seal(self.session_key, content)}

    async def receive(self, within: float = PATIENCE) -> Json:
        """The next message, opened."""
        message = await self.receive_plain(within)
        if self.session_key is None:
            return message
        assert message["type"] == "enc", message
        opened = json.loads(unseal(self.session_key, message["data"]))
        assert isinstance(opened, dict)
        return opened

    async def request(self, kind: str, within: float = PATIENCE) -> Json:
        """The next message, which must be of this type."""
        message = await self.receive(within)
        assert message["type"] == kind, message
        return message

    async def is_served(self) -> None:
        """Wait until everything sent so far has been looked at, and nothing came of it."""
        mark = os.urandom(8).hex()
        await self.send({"type": "ping", "ts": mark})
        pong = await self.receive()
        assert (pong["type"], pong.get("echo_ts")) == ("pong", mark), pong

    # -- section 2 --

    def offer(self) -> Json:
        """The fields of `hello` that ask for encryption."""
        return {"e2e": True, "ecdh_pub": b64url(self._private.public_key().public_bytes_raw())}

    async def hello(self, name: str, *, encrypted: bool = False, **fields: object) -> None:
        offer = self.offer() if encrypted else {}
        hello = {"type": "hello", "protocol_version": VERSION, "node_name": name, **offer, **fields}
        await self.send_plain(hello)

    async def greet(self, name: str, *, encrypted: bool = False, **fields: object) -> Json:
        """`hello`, and the `hello_ack` that it is answered with."""
        await self.hello(name, encrypted=encrypted, **fields)
        self.hello_ack = await self.receive_plain()
        assert self.hello_ack["type"] == "hello_ack", self.hello_ack
        return self.hello_ack

    def agree(self, token: str) -> Keys:
        """The keys that a token gives with what `hello_ack` has brought."""
        ack = self.hello_ack
        shared = self._private.exchange(X25519PublicKey.from_public_bytes(unb64url(ack["ecdh_pub"])))
        return Keys(shared, salt=unb64url(ack["salt"]), token=token, session_id=self.session_id)

    def credentials(self, token: str) -> Json:
        """The field of `auth` that proves a token: shown in a plain session, else proved."""
        if "ecdh_pub" not in self.hello_ack:
            return {"token": token}
        self.keys = self.agree(token)
        return {"proof": self.keys.client_proof}

    async def auth(self, name: str, **fields: object) -> None:
        await self.send_plain({"type": "auth", "node_name": name, **fields})

    async def log_in(
        self,
        name: str,
        token: str,
        *,
        encrypted: bool = False,
        capabilities: Sequence[str] = (),
    ) -> Json:
        """The whole handshake; gives `auth_ok`, whose proof is checked."""
        await self.greet(name, encrypted=encrypted, capabilities=list(capabilities))
        assert ("ecdh_pub" in self.hello_ack) is encrypted
        await self.auth(name, **self.credentials(token))
        ok = await self.receive_plain()
        assert (ok["type"], ok.get("session_id")) == ("auth_ok", self.session_id), ok
        if self.keys is not None:
            assert ok["proof"] == self.keys.server_proof
            self.session_key = self.keys.session
        return ok


@asynccontextmanager
async def connect(url: str, headers: Mapping[str, str] | None = None) -> AsyncIterator[Node]:
    """A connection on which nothing has been said yet."""
    async with (
        ClientSession() as http,
        http.ws_connect(
            url,
            headers=headers,
            autoping=False,
            decode_text=False,
            max_msg_size=0,
            timeout=ClientWSTimeout(ws_close=0.2),  # what a test leaves open is no part of it
        ) as ws,
    ):
        yield Node(ws)


def transport_of(node: Node) -> asyncio.Transport:
    """Its connection, for bytes that no library would send; ConnectionError if there is none any more."""
    connection = node.ws._response.connection
    if connection is None or connection.transport is None:
        raise ConnectionResetError("the gateway has hung up")
    assert isinstance(connection.transport, asyncio.Transport)
    return connection.transport
