"""One call's connection, seen from the caller."""

import socket
import threading
from contextlib import suppress

from hermes_nodes.call_connection import CallConnection, Content
from hermes_nodes.dialing import GatewayAddress
from hermes_nodes.protocol import control


def connection_over(sock: socket.socket, content: Content | None = None) -> CallConnection:
    return CallConnection(
        sock,
        GatewayAddress("/nowhere"),
        lambda *_: None,
        content,
        watch=(),
        interrupt=None,
        sent=lambda _: None,
        note=lambda _: None,
    )


def test_an_upload_that_is_given_up_is_left_only_when_that_was_heard() -> None:
    ours, theirs = socket.socketpair()
    received = bytearray()

    def read_late() -> None:
        received.extend(theirs.recv(1 << 16))
        theirs.close()

    with ours:
        ours.sendall(b"what came before")
        reader = threading.Timer(0.2, read_late)
        reader.start()
        connection_over(ours, [b"content"])._give_up()
        assert received.endswith(control.frame(control.CANCEL))
        reader.join()


def test_a_call_is_given_up_aloud_also_where_the_gateway_is_slow_to_read() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        connection = connection_over(ours)
        with suppress(BlockingIOError):
            while True:
                ours.send(bytes(1000), socket.MSG_DONTWAIT)
        received = bytearray()

        def read_late() -> None:
            while piece := theirs.recv(1 << 16):
                received.extend(piece)

        reader = threading.Timer(0.2, read_late)
        reader.start()
        connection._give_up()
        ours.shutdown(socket.SHUT_WR)
        reader.join()
        assert received.endswith(control.frame(control.CANCEL))
