"""Whoever holds the line between a node and its gateway: passes on, changes, withholds, repeats."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from typing import Any, Union

from aiohttp import ClientSession, ClientWebSocketResponse, ClientWSTimeout, WSMsgType, web
from aiohttp.test_utils import TestServer

from hermes_nodes.protocol.codec import Frame

Json = dict[str, Any]
#: What is passed on in place of a frame.
Change = Callable[[Frame], Iterable[Frame]]
_Socket = Union["web.WebSocketResponse[bool]", "ClientWebSocketResponse[bool]"]


def unchanged(frame: Frame) -> Iterable[Frame]:
    return [frame]


def altered(kind: str, alter: Callable[[Json], object]) -> Change:
    """Changes the message of that type in the handshake."""

    def change(frame: Frame) -> Iterable[Frame]:
        if frame.binary:
            return [frame]
        message = json.loads(frame.data)
        if message["type"] != kind:
            return [frame]
        alter(message)
        return [Frame(json.dumps(message, separators=(",", ":")).encode(), binary=False)]

    return change


class Line:
    """One connection of a node at a time, as somebody in the middle has it."""

    def __init__(self, gateway_url: str) -> None:
        self.from_node: Change = unchanged
        self.from_gateway: Change = unchanged
        self.node_said: list[Frame] = []
        self.gateway_said: list[Frame] = []
        #: The code with which the gateway has closed it.
        self.gateway_closed: asyncio.Future[int | None] = asyncio.get_running_loop().create_future()
        self._gateway_url = gateway_url
        self._to_node: _Socket | None = None
        self._to_gateway: _Socket | None = None

    async def say_to_gateway(self, frame: Frame) -> None:
        assert self._to_gateway is not None
        await _send(self._to_gateway, frame)

    async def say_to_node(self, frame: Frame) -> None:
        assert self._to_node is not None
        await _send(self._to_node, frame)

    async def serve(self, request: web.Request) -> web.WebSocketResponse:
        node = web.WebSocketResponse(autoping=False, max_msg_size=0, timeout=1, decode_text=False)
        await node.prepare(request)
        timeout = ClientWSTimeout(ws_close=1)
        async with (
            ClientSession() as http,
            http.ws_connect(
                self._gateway_url, autoping=False, max_msg_size=0, decode_text=False, timeout=timeout
            ) as gateway,
        ):
            self._to_node, self._to_gateway = node, gateway
            up = asyncio.create_task(self._pump(node, gateway, self.node_said, lambda: self.from_node))
            down = asyncio.create_task(
                self._pump(gateway, node, self.gateway_said, lambda: self.from_gateway)
            )
            await asyncio.wait({up, down}, return_when=asyncio.FIRST_COMPLETED)
            if down.done() and not self.gateway_closed.done():
                self.gateway_closed.set_result(gateway.close_code)
            await asyncio.gather(node.close(), gateway.close())
            await asyncio.gather(up, down)
        return node

    async def _pump(
        self, source: _Socket, sink: _Socket, said: list[Frame], change: Callable[[], Change]
    ) -> None:
        while True:
            message = await source.receive()
            if message.type not in (WSMsgType.TEXT, WSMsgType.BINARY):
                return
            frame = Frame(message.data, binary=message.type is WSMsgType.BINARY)
            said.append(frame)
            for one in change()(frame):
                await _send(sink, one)


async def _send(sink: _Socket, frame: Frame) -> None:
    if not sink.closed:
        await sink.send_frame(frame.data, WSMsgType.BINARY if frame.binary else WSMsgType.TEXT)


@asynccontextmanager
async def line_to(gateway_url: str) -> AsyncIterator[tuple[Line, str]]:
    """A line to a gateway, and the address at which a node finds it."""
    line = Line(gateway_url)
    app = web.Application()
    app.router.add_get("/ws/nodes", line.serve)
    async with TestServer(app) as server:
        yield line, str(server.make_url("/ws/nodes")).replace("http", "ws", 1)
