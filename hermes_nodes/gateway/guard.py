"""What a connection may cost before its peer has authenticated: bytes, seconds, and how many of them.

A Guard stands between the socket and aiohttp, because an unfinished request head or message would
otherwise sit in aiohttp's buffers for as long as its sender likes.
"""

import asyncio
import ipaddress
from collections import Counter
from collections.abc import Callable
from typing import Protocol, cast

from hermes_nodes.protocol.messages import LIMIT_BEFORE_AUTH, Close

#: A request head: the upgrade of a WebSocket takes 300 bytes, a proxy adds its own headers.
MAX_HEAD = 16 * 1024
#: What a peer may send in all before it has authenticated: its head, `hello` and `auth`, and what it
#: sends ahead of our answers.
MAX_BEFORE_AUTH = MAX_HEAD + 3 * LIMIT_BEFORE_AUTH
#: The same where HTTP is all there is: a body comes right behind its head, and as that is refused or let
#: in at the next turn of the event loop, what is kept until then is no more than one read.
MAX_REQUEST = MAX_HEAD + 1024 * 1024
#: Seconds in which a refused peer may read why, while what it sends is thrown away. Closing at once
#: would reset the connection under the reply.
LINGER = 1.0
_HEAD_END = b"\r\n\r\n"


class MessageTooBigError(Exception):
    """A message longer than its limit has begun, or more has come than a handshake takes."""


class MessageMeter:
    """Follows the frame headers of a client's WebSocket stream (RFC 6455 section 5.2).

    It raises MessageTooBigError as soon as a header announces more than ``limit`` bytes for one message,
    before any of them is kept.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._header = bytearray()
        self._skip = 0
        self._message = 0

    def feed(self, data: bytes) -> None:
        position = 0
        while position < len(data):
            if self._skip:
                step = min(self._skip, len(data) - position)
                self._skip -= step
            else:
                step = self._header_step(data, position)
            position += step

    def _header_step(self, data: bytes, position: int) -> int:
        missing = self._header_size() - len(self._header)
        part = data[position : position + missing]
        self._header += part
        if len(self._header) == self._header_size():
            self._begin_frame()
        return len(part)

    def _header_size(self) -> int:
        """Two bytes, then the extended length, then the mask."""
        if len(self._header) < 2:  # noqa: PLR2004 - the fixed part
            return 2
        extended = {126: 2, 127: 8}.get(self._header[1] & 0x7F, 0)
        return 2 + extended + (4 if self._header[1] & 0x80 else 0)

    def _begin_frame(self) -> None:
        first, second = self._header[0], self._header[1]
        short = second & 0x7F
        extended = {126: 2, 127: 8}.get(short, 0)
        size = int.from_bytes(self._header[2 : 2 + extended], "big") if extended else short
        is_control = first & 0x08
        if not is_control:
            self._message += size
            if self._message > self.limit:
                raise MessageTooBigError
            if first & 0x80:
                self._message = 0
        self._skip = size
        self._header.clear()


class Doorkeeper:
    """Counts connections: all of them, and those of each address that have not authenticated.

    ``trusted`` are proxies, which speak for many; they and loopback are not bounded by address.
    """

    def __init__(self, *, most: int, most_per_address: int, trusted: tuple[str, ...] = ()) -> None:
        self._most = most
        self._most_per_address = most_per_address
        self._trusted = [ipaddress.ip_network(one, strict=False) for one in trusted]
        self._open = 0
        self._waiting: Counter[str] = Counter()

    def admit(self, address: str) -> bool:
        if self._open >= self._most:
            return False
        if self._waiting[address] >= self._most_per_address and not self._is_trusted(address):
            return False
        self._open += 1
        self._waiting[address] += 1
        return True

    def authenticated(self, address: str) -> None:
        self._waiting[address] -= 1
        if self._waiting[address] <= 0:
            del self._waiting[address]

    def left(self, address: str, *, authenticated: bool) -> None:
        self._open -= 1
        if not authenticated:
            self.authenticated(address)

    def _is_trusted(self, address: str) -> bool:
        try:
            ip = ipaddress.ip_address(address)
        except ValueError:
            return False
        return ip.is_loopback or any(ip in network for network in self._trusted)


def address_of(transport: asyncio.BaseTransport) -> str:
    """The peer's address; empty where it is gone already."""
    peer = transport.get_extra_info("peername")
    return str(peer[0]) if peer else ""


class _HttpProtocol(Protocol):
    """The part of aiohttp's protocol that a transport calls."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None: ...
    def connection_lost(self, exc: Exception | None) -> None: ...
    def data_received(self, data: bytes) -> None: ...
    def eof_received(self) -> bool | None: ...
    def pause_writing(self) -> None: ...
    def resume_writing(self) -> None: ...


class Guard(asyncio.Protocol):
    """One connection's guard; it lets through at once what is within bounds."""

    def __init__(
        self,
        make_inner: Callable[[], _HttpProtocol],
        door: Doorkeeper,
        *,
        seconds: float,
        websocket: bool = True,
        admitted: str | None = None,
    ) -> None:
        """``websocket`` says what follows the head of a request: frames, or what HTTP has.

        ``admitted`` is the address for which the door has let the connection in, if it has already.
        """
        self._admitted = admitted
        self._websocket = websocket
        self._in_head = True
        self._make_inner = make_inner
        self._inner: _HttpProtocol | None = None
        self._door = door
        self._seconds = seconds
        self._transport: asyncio.Transport | None = None
        self._address = ""
        self._head = bytearray()
        self._meter: MessageMeter | None = None
        self._received = 0
        self._authenticated = False
        self._refused = False
        self._deadline: asyncio.TimerHandle | None = None

    # -- what the nodes' endpoint tells --

    def upgraded(self) -> None:
        """The WebSocket is open: the handshake has its own time-outs from here on."""
        if self._deadline is not None:
            self._deadline.cancel()

    def authenticated(self, limit: int = 0) -> None:
        """The peer has proved itself and may send messages of up to ``limit`` bytes."""
        self.upgraded()
        if self._meter is not None:
            self._meter.limit = limit
        if not self._authenticated:
            self._authenticated = True
            self._door.authenticated(self._address)

    # -- asyncio.Protocol --

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._address = address_of(transport) if self._admitted is None else self._admitted
        if self._admitted is None and not self._door.admit(self._address):
            self._transport.abort()
            return
        loop = asyncio.get_running_loop()
        self._deadline = loop.call_later(self._seconds, self._transport.abort)
        self._inner = self._make_inner()
        self._inner.connection_made(transport)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._inner is None:
            return
        self.upgraded()
        self._door.left(self._address, authenticated=self._authenticated)
        self._inner.connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._inner is None or self._transport is None or self._refused:
            return
        try:
            self._measure(data)
            self._count(len(data))
        except MessageTooBigError:
            self._refuse()
        else:
            self._inner.data_received(data)

    def eof_received(self) -> bool | None:
        return self._inner.eof_received() if self._inner else None

    def pause_writing(self) -> None:
        if self._inner is not None:
            self._inner.pause_writing()

    def resume_writing(self) -> None:
        if self._inner is not None:
            self._inner.resume_writing()

    def _measure(self, data: bytes) -> None:
        if not self._in_head:
            if self._meter is not None:
                self._meter.feed(data)
            return
        self._head += data
        end = self._head.find(_HEAD_END)
        if end < 0 and len(self._head) > MAX_HEAD:
            raise MessageTooBigError
        if end >= 0:
            rest = bytes(self._head[end + len(_HEAD_END) :])
            self._head.clear()
            self._in_head = False
            if self._websocket:
                self._meter = MessageMeter(LIMIT_BEFORE_AUTH)
                self._meter.feed(rest)

    def _count(self, size: int) -> None:
        """Whoever has not authenticated has no more to say than a handshake, in however many messages."""
        self._received += size
        most = MAX_BEFORE_AUTH if self._websocket else MAX_REQUEST
        if not self._authenticated and self._received > most:
            raise MessageTooBigError

    def _refuse(self) -> None:
        """Say why and go; what the peer has begun is not kept."""
        if self._transport is None or self._transport.is_closing():
            return
        self._refused = True
        if self._meter is None:
            reason = b"431 Request Header Fields Too Large" if self._in_head else b"413 Content Too Large"
            self._transport.write(b"HTTP/1.1 " + reason + b"\r\nConnection: close\r\n\r\n")
        else:
            self._transport.write(b"\x88\x02" + int(Close.TOO_BIG).to_bytes(2, "big"))
        asyncio.get_running_loop().call_later(LINGER, self._transport.abort)
