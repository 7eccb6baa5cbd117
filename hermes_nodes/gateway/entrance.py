"""TLS before a connection's guard: a handshake counts among the connections from its first moment.

A server that does the handshakes by itself tells of a connection when its TLS is agreed on, and so as many
as a stranger likes could wait for that. So each is accepted in the open, counted, and encrypted then.
"""

import asyncio
import socket
import ssl
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import cast

from hermes_nodes.gateway.guard import Doorkeeper, Guard, address_of


class Handshakes:
    """The TLS handshakes under way of one port, which end with it."""

    def __init__(
        self,
        make_guard: Callable[..., Guard],
        door: Doorkeeper,
        context: ssl.SSLContext,
        *,
        seconds: float,
    ) -> None:
        self._make_guard = make_guard
        self._door = door
        self._context = context
        self._seconds = seconds
        self._under_way: set[asyncio.Task[None]] = set()

    def begin(self, transport: asyncio.Transport) -> None:
        """Start the handshake of a new connection, if the door has room for it."""
        address = address_of(transport)
        with suppress(OSError):  # there are no descriptors left
            # Its transport may have begun to read, which no TLS could start from: a duplicate has not.
            sock = transport.get_extra_info("socket").dup()
            if self._door.admit(address):
                task = asyncio.create_task(self._shake_hands(sock, address))
                self._under_way.add(task)
                task.add_done_callback(self._under_way.discard)
            else:
                sock.close()
        transport.abort()

    async def end(self) -> None:
        """Cut off those under way, and wait for that."""
        for task in self._under_way:
            task.cancel()
        await asyncio.gather(*self._under_way, return_exceptions=True)

    async def _shake_hands(self, sock: socket.socket, address: str) -> None:
        try:
            await asyncio.get_running_loop().connect_accepted_socket(
                partial(self._make_guard, admitted=address),
                sock,
                ssl=self._context,
                ssl_handshake_timeout=self._seconds,
            )
        except OSError:  # TLS's own errors are kinds of it, and a time-out is
            self._door.left(address, authenticated=False)


class Entrance(asyncio.Protocol):
    """A connection as it is accepted, which has its handshake elsewhere."""

    def __init__(self, handshakes: Handshakes) -> None:
        self._handshakes = handshakes

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._handshakes.begin(cast("asyncio.Transport", transport))
