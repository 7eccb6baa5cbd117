"""A session's WebSocket: one writer at a time, and a close that no mute peer can hold up."""

import asyncio
from collections.abc import Callable
from typing import Protocol

from aiohttp import WSMsgType

from hermes_nodes.protocol.codec import Frame

#: Seconds that a peer gets to answer a close before it is cut; a revoked one must be gone in one.
CLOSE_GRACE = 0.7


class WebSocket(Protocol):
    """The part of aiohttp's two WebSocket classes that sessions need."""

    async def send_frame(self, message: bytes, opcode: WSMsgType, /) -> None: ...
    async def close(self, *, code: int) -> bool: ...


async def send_frame(ws: WebSocket, frame: Frame) -> None:
    await ws.send_frame(frame.data, WSMsgType.BINARY if frame.binary else WSMsgType.TEXT)


async def close_websocket(
    ws: WebSocket, code: int, *, cut: Callable[[], None], last: Callable[[], Frame] | None = None
) -> None:
    """Say a last word and close; ``cut`` ends the connection whatever the peer does."""
    try:
        async with asyncio.timeout(CLOSE_GRACE):
            if last is not None:
                await send_frame(ws, last())
            await ws.close(code=code)
    except (TimeoutError, ConnectionError):
        pass  # cut below
    finally:
        cut()


class WebSocketLink:
    """Writes what ``next_frame`` gives, whenever it is woken, until it is closed."""

    def __init__(
        self, ws: WebSocket, next_frame: Callable[[], Frame | None], *, cut: Callable[[], None]
    ) -> None:
        self._ws = ws
        self._next_frame = next_frame
        self._cut = cut
        self._writer: asyncio.Task[None] | None = None
        self._closer: asyncio.Task[None] | None = None

    def wake(self) -> None:
        """There may be something to write."""
        # A task only while there is something to write: an idle connection costs none.
        if self._writer is None and self._closer is None:
            self._writer = asyncio.create_task(self._write())

    def close(self, code: int, last: Callable[[], Frame] | None = None) -> None:
        """Close without being waited for; ``last`` is sealed when it is its turn."""
        if self._closer is None:
            self._closer = asyncio.create_task(close_websocket(self._ws, code, cut=self._cut, last=last))

    async def closed(self) -> None:
        """Wait until whatever was under way here has ended."""
        if self._writer is not None:
            self._writer.cancel()
        tasks = [task for task in (self._writer, self._closer) if task is not None]
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _write(self) -> None:
        try:
            while self._closer is None and (frame := self._next_frame()) is not None:
                await send_frame(self._ws, frame)
        except ConnectionError:
            pass  # the reader sees the same end, and reports it
        finally:
            self._writer = None
