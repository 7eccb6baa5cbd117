"""One authenticated connection of a node: the handshake, then requests in and answers out."""

import asyncio
import logging
import platform
import time

from aiohttp import ClientWebSocketResponse, WSMsgType

from hermes_nodes import __version__
from hermes_nodes.audit import AuditLog
from hermes_nodes.errors import ProtocolViolation
from hermes_nodes.link import WebSocketLink, send_frame
from hermes_nodes.node.config import NodeConfig
from hermes_nodes.node.lasting import Lasting
from hermes_nodes.node.runner import CAPABILITIES, Runner
from hermes_nodes.protocol.codec import Data, Frame, RecordCodec
from hermes_nodes.protocol.handshake import NodeHandshake
from hermes_nodes.protocol.messages import (
    Bye,
    Cancel,
    Close,
    FromGateway,
    Ping,
    Pong,
    RateLimit,
    Request,
    Resize,
    Unknown,
    Window,
    timestamp,
)
from hermes_nodes.protocol.stream import Budget, Stream
from hermes_nodes.text import printable

log = logging.getLogger(__name__)

#: Seconds for each message of the handshake.
HANDSHAKE_SECONDS = 15.0
#: Seconds of silence after which we ping, and after which the gateway counts as gone.
PING_AFTER = 30.0
DEAD_AFTER = 60.0
#: Characters of what the gateway says that go into the log.
MAX_REASON = 200
#: Messages that may wait for the gateway to read.
MAX_BACKLOG = 4096
#: Bytes that all incoming channels together may let be under way beyond their first windows.
WINDOW_BUDGET = 8 * 1024 * 1024


class SessionEnded(Exception):
    """A session that is over, with the reason that the gateway gave."""

    def __init__(self, reason: str) -> None:
        self.reason = printable(reason, MAX_REASON)
        super().__init__(self.reason)


class NodeSession:
    """One authenticated connection: requests in, answers out."""

    def __init__(
        self,
        ws: ClientWebSocketResponse[bool],
        codec: RecordCodec[FromGateway],
        config: NodeConfig,
        trail: AuditLog,
        lasting: Lasting,
    ) -> None:
        self._ws = ws
        self._codec = codec
        self._stream = Stream(codec, on_output=self._wake, budget=Budget(WINDOW_BUDGET))
        self._link = WebSocketLink(ws, self._stream.next_frame, cut=lambda: None)
        self.runner = Runner(config, self._stream, trail, lasting)
        self._heard = time.monotonic()
        self._pinged = False

    async def run(self) -> None:
        """Answer until the session ends; raises SessionEnded, ProtocolViolation."""
        watch = asyncio.create_task(self._watch_life())
        try:
            while True:
                self._receive(await self._next_frame())
                if self._stream.backlog > MAX_BACKLOG:
                    raise ProtocolViolation("the gateway does not read what it asks for")
        except ProtocolViolation as error:
            self._link.close(error.close_code)
            raise
        finally:
            watch.cancel()
            await self._link.closed()

    def leave(self, reason: str) -> None:
        """Say goodbye; the session ends when the gateway has closed."""
        self._link.close(Close.NORMAL, lambda: self._codec.encode(Bye(ts=timestamp(), reason=reason)))

    def close_calls(self) -> None:
        self._stream.close_all()

    def _wake(self) -> None:
        self._link.wake()

    async def _next_frame(self) -> Frame:
        while True:
            message = await self._ws.receive()
            self._heard = time.monotonic()
            self._pinged = False
            if message.type is WSMsgType.BINARY or message.type is WSMsgType.TEXT:
                return Frame(message.data, binary=message.type is WSMsgType.BINARY)
            if message.type is WSMsgType.PING:
                await self._ws.pong(message.data)
            elif message.type is not WSMsgType.PONG:
                raise SessionEnded(_close_reason(self._ws.close_code))

    def _receive(self, frame: Frame) -> None:
        event = self._stream.receive(frame)
        if isinstance(event, Data):
            call_id = self._stream.call_of(event)
            if call_id is not None:
                self.runner.feed(call_id, event.payload)
            return
        match event:
            case Ping():
                self._stream.send(Pong(ts=timestamp(), echo_ts=event.ts))
            case Bye():
                raise SessionEnded(event.reason or "bye")
            case RateLimit():
                log.warning("the gateway says that this node sends too many messages")
            case Pong() | Window() | Unknown():
                pass
            case _:
                self._pass_on(event)

    def _pass_on(self, event: Request | Cancel | Resize) -> None:
        """What is said about calls."""
        match event:
            case Cancel():
                self.runner.cancel(event.id, keep=event.keep)
            case Resize():
                self.runner.resize(event.id, event.cols, event.rows)
            case _:
                self.runner.start(event)

    async def _watch_life(self) -> None:
        while True:
            silent = time.monotonic() - self._heard
            if silent >= DEAD_AFTER:
                log.warning("no word from the gateway for %d s", DEAD_AFTER)
                self._link.close(Close.NORMAL)
                return
            if silent >= PING_AFTER and not self._pinged:
                self._pinged = True
                self._stream.send(Ping(ts=timestamp()))
                self._stream.rest()
            due = DEAD_AFTER if self._pinged else PING_AFTER
            await asyncio.sleep(max(due - silent, 0.1))


async def log_in(
    ws: ClientWebSocketResponse[bool], config: NodeConfig
) -> tuple[RecordCodec[FromGateway], str]:
    """The handshake; raises Refused, ProtocolViolation, TimeoutError, SessionEnded."""
    handshake = NodeHandshake(
        name=config.name,
        token=config.token,
        node_version=__version__,
        platform=platform.system().lower(),
        arch=platform.machine(),
        capabilities=CAPABILITIES,
    )
    await send_frame(ws, handshake.hello())
    await send_frame(ws, handshake.receive_ack(await _reply(ws)))
    codec = handshake.receive_ok(await _reply(ws))
    return codec, handshake.session_id


async def _reply(ws: ClientWebSocketResponse[bool]) -> Frame:
    async with asyncio.timeout(HANDSHAKE_SECONDS):
        message = await ws.receive()
    if message.type is WSMsgType.BINARY or message.type is WSMsgType.TEXT:
        return Frame(message.data, binary=message.type is WSMsgType.BINARY)
    raise SessionEnded(_close_reason(ws.close_code))


def _close_reason(code: int | None) -> str:
    match code:
        case Close.SHUTDOWN:
            return "server_shutdown"
        case Close.REVOKED:
            return "revoked"
        case Close.LIMIT:
            return "the gateway closed the connection for too many messages"
        case None | Close.NORMAL:
            return "connection closed"
        case _:
            return f"connection closed ({code})"
