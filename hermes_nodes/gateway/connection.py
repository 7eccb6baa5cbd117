"""A caller's upgraded connection: frames in and out, input on credit, output as fast as it is read."""

import asyncio
import json
from collections import deque
from collections.abc import Callable
from typing import cast

from aiohttp import web

from hermes_nodes.errors import UsageError
from hermes_nodes.protocol import control
from hermes_nodes.protocol.control import ControlFrame, FrameReader, FrameTooLargeError
from hermes_nodes.protocol.stream import INITIAL_WINDOW, STDIN, queue

#: Seconds between two signs of life; they find a client that has vanished without closing.
ALIVE_EVERY = 1.0


class Inbox:
    """The caller's input on its way to the node: a stream Source that grants more as it is pulled."""

    def __init__(self, connection: "CallerConnection") -> None:
        self._connection = connection
        self._pieces: deque[memoryview] = deque()
        self._credit = INITIAL_WINDOW
        self._ended = False

    def put(self, payload: memoryview) -> None:
        """Raises UsageError from a caller that sends more than it may."""
        if self._ended or len(payload) > self._credit:
            raise UsageError("input beyond the window that was granted")
        self._credit -= len(payload)
        if payload:
            queue(self._pieces, payload)

    def end(self) -> None:
        self._ended = True

    def pull(self, limit: int) -> memoryview | bytes | None:
        if not self._pieces:
            return b"" if self._ended else None
        piece = self._pieces.popleft()
        if len(piece) > limit:
            self._pieces.appendleft(piece[limit:])
            piece = piece[:limit]
        self._credit += len(piece)
        self._connection.send(control.window(STDIN, len(piece)))
        return piece


class CallerConnection(asyncio.Protocol):
    """Speaks `protocol.control` over a connection taken over from aiohttp.

    What comes in goes to the call; how the connection fares is told to aiohttp too, which goes on
    writing to it and cleans up after it. Make one as soon as the 101 is written.
    """

    def __init__(self, request: web.Request, response: web.StreamResponse) -> None:
        if request.transport is None:
            raise ConnectionResetError("the caller has hung up")
        self._transport: asyncio.Transport = request.transport
        self._http = cast("asyncio.Protocol", request.protocol)
        self._response = response
        self._reader = FrameReader()
        self._cancelled = asyncio.Event()
        #: Whether it was the connection that ended, and no wish of the caller.
        self.has_vanished = False
        self._alive: asyncio.TimerHandle | None = None
        self.inbox = Inbox(self)
        #: Told of a terminal's new size, in columns and rows.
        self.on_resize: Callable[[int, int], object] = lambda *_: None
        self.input_ready = asyncio.Event()
        self._transport.set_protocol(self)
        self._keep_alive()

    # -- asyncio.Protocol --

    def data_received(self, data: bytes) -> None:
        try:
            for frame in self._reader.feed(data):
                self._receive(frame)
        except (FrameTooLargeError, UsageError, ValueError):
            self._cancelled.set()
            self._transport.abort()

    def eof_received(self) -> None:
        self._vanish()
        self._transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        self._vanish()
        self._http.connection_lost(exc)

    def pause_writing(self) -> None:
        self._http.pause_writing()

    def resume_writing(self) -> None:
        self._http.resume_writing()

    # -- what the call needs --

    async def cancelled(self) -> None:
        """Wait until the caller asks for the end, or hangs up."""
        await self._cancelled.wait()

    async def output(self, channel: int, payload: memoryview) -> None:
        """Write one piece, and wait while the caller reads more slowly than that."""
        if self._transport.is_closing():
            raise ConnectionResetError("the caller has hung up")
        if not payload:
            self.send(control.frame(control.END, channel=channel))
            return
        # Header and payload in one step of the loop: nothing may come between them.
        self._transport.write(control.header(control.DATA, len(payload), channel))
        await self._response.write(payload)

    async def note(self, text: str) -> None:
        self.send(control.frame(control.NOTE, json.dumps({"note": text}).encode()))

    def answer(self, answer: dict[str, object]) -> None:
        self.send(control.frame(control.ANSWER, json.dumps(answer).encode()))

    def send(self, frame: bytes) -> None:
        if not self._transport.is_closing():
            self._transport.write(frame)

    def close(self) -> None:
        if self._alive is not None:
            self._alive.cancel()

    # -- inside --

    def _receive(self, frame: ControlFrame) -> None:
        match frame.kind:
            case control.DATA if frame.channel == STDIN:
                self.inbox.put(frame.payload)
                self.input_ready.set()
            case control.END if frame.channel == STDIN:
                self.inbox.end()
                self.input_ready.set()
            case control.RESIZE:
                self.on_resize(*control.size(frame.payload))
            case control.CANCEL:
                self._cancelled.set()
            case _:
                pass  # a newer client may say more than this gateway knows

    def _vanish(self) -> None:
        if not self._cancelled.is_set():
            self.has_vanished = True
            self._cancelled.set()

    def _keep_alive(self) -> None:
        # Not behind output that waits already: that shows life by itself once it is read.
        if self._transport.get_write_buffer_size() == 0:
            self.send(control.frame(control.ALIVE))
        self._alive = asyncio.get_running_loop().call_later(ALIVE_EVERY, self._keep_alive)
