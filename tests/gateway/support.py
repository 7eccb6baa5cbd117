"""The nodes' side of the wire: spoken byte by byte for what no library would send, and logged in."""

import asyncio
import os
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from hermes_nodes.client import ExecResult
from hermes_nodes.gateway import Gateway
from tests.harness import Home, ScriptedNode, scripted_node
from tests.support import PATIENCE

UPGRADE = (
    b"GET /ws/nodes HTTP/1.1\r\nHost: gateway\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: MDEyMzQ1Njc4OWFiY2RlZg==\r\n\r\n"
)
CONTINUATION, TEXT, BINARY, CLOSE, PING = 0x0, 0x1, 0x2, 0x8, 0x9


def frame_header(opcode: int, size: int, *, last: bool = True, mask: bytes = b"\0\0\0\0") -> bytes:
    """The header of a client's frame (RFC 6455 section 5.2); the mask of zeroes changes nothing."""
    first = opcode | (0x80 if last else 0)
    if size < 126:
        return struct.pack("!BB", first, 0x80 | size) + mask
    if size < 1 << 16:
        return struct.pack("!BBH", first, 0x80 | 126, size) + mask
    return struct.pack("!BBQ", first, 0x80 | 127, size) + mask


def frame(opcode: int, payload: bytes, *, last: bool = True) -> bytes:
    return frame_header(opcode, len(payload), last=last) + payload


class RawPeer:
    """A TCP connection to the nodes' port."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def upgrade(self) -> None:
        self.writer.write(UPGRADE)
        head = await asyncio.wait_for(self.reader.readuntil(b"\r\n\r\n"), PATIENCE)
        assert head.startswith(b"HTTP/1.1 101 "), head

    async def send(self, data: bytes) -> None:
        """All of it, or as much as the other side takes before it closes."""
        try:
            for start in range(0, len(data), 1 << 16):
                self.writer.write(data[start : start + (1 << 16)])
                await asyncio.wait_for(self.writer.drain(), PATIENCE)
        except ConnectionError:
            pass  # what matters is what it has said before

    async def rest(self) -> bytes:
        """What comes until the other side closes."""
        received = bytearray()
        try:
            while data := await asyncio.wait_for(self.reader.read(1 << 16), PATIENCE):
                received += data
        except ConnectionError:
            pass
        return bytes(received)

    async def close_code(self) -> int | None:
        """The code of the close frame that comes; None if the connection ends without one."""
        try:
            async with asyncio.timeout(PATIENCE):
                while True:
                    opcode, payload = await self._frame()
                    if opcode == CLOSE:
                        return int.from_bytes(payload[:2], "big")
        except (asyncio.IncompleteReadError, ConnectionError):
            return None

    async def _frame(self) -> tuple[int, bytes]:
        """A server's frame, which bears no mask; those of a handshake are short."""
        first, size = await self.reader.readexactly(2)
        if size == 126:
            size = int.from_bytes(await self.reader.readexactly(2), "big")
        return first & 0x0F, await self.reader.readexactly(size)


@asynccontextmanager
async def raw_peer(host: str, port: int) -> AsyncIterator[RawPeer]:
    reader, writer = await asyncio.wait_for(asyncio.open_connection(host, port), PATIENCE)
    try:
        yield RawPeer(reader, writer)
    finally:
        writer.transport.abort()


def random_mask() -> bytes:
    return os.urandom(4)


# -- our own nodes --------------------------------------------------------------------------------


async def pair(home: Home, name: str, **options: Any) -> str:
    """A new pairing's token, from the gateway that runs."""
    return str((await asyncio.to_thread(home.client.pair, name, **options))["token"])


@asynccontextmanager
async def logged_in(home: Home, gateway: Gateway, name: str = "laptop") -> AsyncIterator[ScriptedNode]:
    token = await pair(home, name)
    async with scripted_node(gateway.url) as node:
        await node.log_in(name, token)
        yield node


def start_exec(
    home: Home, name: str, command: str = "sleep 60", **options: Any
) -> asyncio.Task[ExecResult]:
    """A call under way; its node is to answer it."""
    return asyncio.create_task(asyncio.to_thread(home.client.exec, name, command, **options))
