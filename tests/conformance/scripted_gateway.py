"""A gateway of a few lines, which does only what a test of the older node's double says."""

import asyncio
import json
import secrets
from typing import cast

from aiohttp import WSMsgType, web
from aiohttp.test_utils import TestServer
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey

from tests.conformance.node import Json, Keys, b64url, seal, unb64url, unseal
from tests.support import PATIENCE

#: Of the one node that it lets in, which is called `old`.
TOKEN = "hnt_" + "t" * 43


class Link:
    """The gateway's end of one connection, which does only what a test says."""

    def __init__(self, ws: web.WebSocketResponse) -> None:
        self.ws = ws
        self.hello: Json = {}
        self.auth: Json = {}
        self.session_id = "7d0e2f5c-1d2b-4c3a-9e4f-5a6b7c8d9e0f"
        self.over = asyncio.Event()
        self._key: bytes | None = None

    async def greet(self, **fields: object) -> None:
        self.hello = await self.hear()
        await self.say(type="hello_ack", protocol_version="0.1.0", session_id=self.session_id, **fields)
        self.auth = await self.hear()

    async def let_in(self, *capabilities: str) -> None:
        await self.greet(capabilities=list(capabilities))
        assert self.auth["token"] == TOKEN
        await self.say(type="auth_ok", session_id=self.session_id)

    async def let_in_encrypted(self) -> None:
        private, salt = X25519PrivateKey.generate(), secrets.token_bytes(32)
        await self.greet(ecdh_pub=b64url(private.public_key().public_bytes_raw()), salt=b64url(salt))
        shared = private.exchange(X25519PublicKey.from_public_bytes(unb64url(self.hello["ecdh_pub"])))
        keys = Keys(shared, salt=salt, token=TOKEN, session_id=self.session_id)
        assert self.auth == {"type": "auth", "node_name": "old", "proof": keys.client_proof}
        await self.say(type="auth_ok", session_id=self.session_id, proof=keys.server_proof)
        self._key = keys.session

    async def say(self, **message: object) -> None:
        content = json.dumps(message)
        if self._key is not None:
            content = json.dumps({"type": "enc", "data": seal(self._key, content.encode())})
        await self.ws.send_str(content)

    async def hear(self) -> Json:
        """The next message."""
        message = await self.ws.receive(PATIENCE)
        assert message.type is WSMsgType.TEXT, message
        value: Json = json.loads(message.data)
        return value if self._key is None else cast("Json", json.loads(unseal(self._key, value["data"])))

    async def call(self, kind: str, **fields: object) -> Json:
        """A call and the next message, which must belong to it."""
        await self.say(type=kind, id="c1", **fields)
        answer = await self.hear()
        assert answer.pop("id") == "c1", answer
        return answer

    async def exec(self, command: str, timeout_ms: int = 1000 * PATIENCE, **fields: object) -> Json:
        return await self.call("exec", command=command, timeout_ms=timeout_ms, **fields)

    async def heard_until_closed(self) -> set[str]:
        """The types of all messages that still come."""
        kinds = set()
        while (message := await self.ws.receive(PATIENCE)).type is WSMsgType.TEXT:
            kinds.add(json.loads(message.data)["type"])
        return kinds


class Gateway:
    """Hands over each connection as it comes."""

    def __init__(self) -> None:
        self._links: asyncio.Queue[Link] = asyncio.Queue()
        self._open: list[Link] = []
        app = web.Application()
        app.router.add_get("/ws/nodes", self._serve)
        self.server = TestServer(app)

    @property
    def url(self) -> str:
        return str(self.server.make_url("/ws/nodes"))

    async def next(self) -> Link:
        return await asyncio.wait_for(self._links.get(), PATIENCE)

    def end(self) -> None:
        for link in self._open:
            link.over.set()

    async def _serve(self, request: web.Request) -> web.WebSocketResponse:
        ws = web.WebSocketResponse(autoping=False, max_msg_size=0, timeout=1)
        await ws.prepare(request)
        link = Link(ws)
        self._open.append(link)
        self._links.put_nowait(link)
        await link.over.wait()
        return ws
