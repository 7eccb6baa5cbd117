"""One call's connection, seen from the caller: request out, frames in, until the answer is there.

Blocking and standard library only, like the client that it belongs to.
"""

import json
import os
import re
import select
import socket
import stat
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from typing import Protocol

from hermes_nodes.dialing import GatewayAddress, receive_now, send_now
from hermes_nodes.errors import (
    CallCancelled,
    GatewayLost,
    HermesNodesError,
    TryAgain,
    Unavailable,
    UsageError,
    from_wire,
)
from hermes_nodes.protocol import control

#: Seconds without a sign of life from the gateway, which gives one every second, until it counts as gone.
SILENCE_SECONDS = 30.0
#: The same for whoever has interrupted the call: as long as a node gets to confirm that it has ended.
INTERRUPTED_SECONDS = 10.0
#: Seconds for a gateway that is busy to take the word that a call is given up.
GIVE_UP_SECONDS = 2.0
#: Bytes taken from a socket at a time.
RECEIVE_BYTES = 512 * 1024
#: Bytes that may be sent on a channel before the gateway has granted more.
_FIRST_WINDOW = 256 * 1024
#: Bytes sent in one frame: one record of the node protocol.
_PIECE = 126 * 1024
#: Bytes taken from a terminal at a time. Few, so that keys are heard while there is any credit.
_TYPED = 1024
_STDIN = 0
_HTTP = b"HTTP/1."
#: Bytes of a response's head; the gateway's own has some two hundred.
_MAX_HEAD = 64 * 1024

Json = dict[str, object]
Output = Callable[[int, memoryview], object]
Content = bytes | Iterable[bytes | memoryview] | int


class Screen(Protocol):
    """The caller's terminal, where the command has one."""

    input_fd: int
    #: Readable when the size has changed.
    resized_fd: int

    def size(self) -> tuple[int, int]:
        """Columns and rows now."""

    def read(self, limit: int, /) -> bytes | None:
        """What was typed; None if nothing of it is for the command."""


def _pieces(content: bytes | Iterable[bytes | memoryview]) -> Iterator[memoryview]:
    """Content in pieces that fit a frame."""
    blocks = [content] if isinstance(content, bytes) else content
    views = (memoryview(block) for block in blocks)
    return (view[at : at + _PIECE] for view in views for at in range(0, len(view), _PIECE))


def response_head(sock: socket.socket) -> tuple[int, bytes]:
    """The status of an HTTP response, and what came behind its head."""
    received = b""
    while b"\r\n\r\n" not in received:
        piece = sock.recv(RECEIVE_BYTES)
        received += piece
        if not received.startswith(_HTTP[: len(received)]) or len(received) > _MAX_HEAD + RECEIVE_BYTES:
            raise _no_gateway()  # which may be waiting for us to say more
        if not piece:
            raise GatewayLost
    head, _, rest = received.partition(b"\r\n\r\n")
    status = re.match(rb"HTTP/1\.\d (\d{3})\b", head)
    if status is None:
        raise _no_gateway()
    return int(status[1]), rest


def _no_gateway() -> Unavailable:
    return Unavailable("what answers there is no gateway", "check the address given as --gateway")


def checked_answer(status: int, content: bytes) -> Json:
    """The JSON of a response; raises the error that it carries."""
    try:
        answer = json.loads(content)
    except ValueError:
        answer = None
    if not isinstance(answer, dict):
        raise HermesNodesError(f"the gateway answered with HTTP {status} and no JSON")
    error = answer.get("error")
    if isinstance(error, dict):
        raise from_wire(error)
    return answer


def completed(answer: Json) -> Json:
    """A call's answer, if the call came to its end; raises what ended it before that."""
    error = answer.get("error")
    if isinstance(error, dict):
        raise from_wire(error)
    return answer


class CallConnection:
    """One call's upgraded connection, seen from the caller."""

    def __init__(
        self,
        sock: socket.socket,
        address: GatewayAddress,
        output: Output,
        content: Content | None,
        *,
        watch: Sequence[int],
        interrupt: int | None,
        sent: Callable[[memoryview], object],
        note: Callable[[str], object],
        screen: Screen | None = None,
    ) -> None:
        self._sock = sock
        self._address = address
        self._screen = screen
        self._sent = sent
        self._note = note
        self._output = output
        #: Where input is read from, or what it is taken from; at most one of the two is left.
        self._input_fd = content if isinstance(content, int) else screen.input_fd if screen else None
        self._at_a_time = _TYPED if screen else _PIECE
        self._pieces = None if content is None or isinstance(content, int) else _pieces(content)
        self._uploads = self._pieces is not None
        self._credit = _FIRST_WINDOW
        self._reader = control.FrameReader()
        self._answer: Json | None = None
        self._watch = watch
        self._interrupt = interrupt
        self._is_interrupted = False

    def run(self, request: bytes) -> Json:
        """Raises UsageError if the input can't be read, GatewayLost, what the gateway refuses it for.

        Also CallCancelled, where the call was interrupted and the gateway does not answer.
        """
        self._check_input()
        head = (
            f"POST {self._address.prefix}/v1/call HTTP/1.1\r\n{self._address.headers}"
            "Content-Type: application/json\r\n"
            f"Connection: Upgrade\r\nUpgrade: {control.UPGRADE}\r\nContent-Length: {len(request)}\r\n\r\n"
        )
        self._send(head.encode("ascii") + request)
        self._await_socket(select.POLLIN)
        try:
            self._sock.settimeout(SILENCE_SECONDS)
            status, rest = response_head(self._sock)
            self._sock.settimeout(None)
        except OSError as error:
            raise GatewayLost from error
        if status != 101:  # noqa: PLR2004 - Switching Protocols
            checked_answer(status, rest)
            raise HermesNodesError(f"the gateway answered a call with HTTP {status}")
        try:
            self._take(rest)
            while self._answer is None:
                self._send_pieces()
                self._wait()
        except (TryAgain, Unavailable):  # a connection is lost: the node keeps what has come
            raise
        except BaseException:
            self._give_up()
            raise
        return self._answer

    def _give_up(self) -> None:
        """Something of ours ends the call: said aloud, as the node would keep what has come otherwise."""
        poll = select.poll()
        poll.register(self._sock, select.POLLOUT)
        with suppress(OSError):
            poll.poll(GIVE_UP_SECONDS * 1000)  # what has been sent before may fill the socket
            send_now(self._sock, control.frame(control.CANCEL))
            if self._uploads:  # hung up on at once, the gateway might never read it
                self._wait_until_heard()

    def _wait_until_heard(self) -> None:
        poll = select.poll()
        poll.register(self._sock, select.POLLIN)
        deadline = time.monotonic() + GIVE_UP_SECONDS
        while (left := deadline - time.monotonic()) > 0 and poll.poll(left * 1000):
            if not self._sock.recv(_PIECE):
                break

    # -- waiting --

    def _wait(self) -> None:
        """Wait for the gateway, for input, for the user, or for a reader to leave."""
        events = self._selected() if self._polls_badly else self._polled()
        if not events:
            raise self._silence()
        self._handle(events)

    def _await_socket(self, event: int) -> None:
        """Wait until the socket can be read, or written; an interrupt stays to be handled."""
        poll = select.poll()
        poll.register(self._sock, event)
        if self._interrupt is not None:
            poll.register(self._interrupt, select.POLLIN)
        ready = dict(poll.poll(self._patience * 1000))
        if self._interrupt in ready and len(ready) == 1:
            self._is_interrupted = True
            poll.unregister(self._interrupt)
            ready = dict(poll.poll(self._patience * 1000))
        if not ready:
            raise self._silence()

    @property
    def _patience(self) -> float:
        return INTERRUPTED_SECONDS if self._is_interrupted else SILENCE_SECONDS

    def _silence(self) -> HermesNodesError:
        """What it means that nothing came for so long."""
        if not self._is_interrupted:
            return GatewayLost()
        return CallCancelled(
            "interrupted, but the gateway does not answer: the call may go on",
            "when it answers again, `hermes-nodes audit tail` shows what became of it",
        )

    def _polled(self) -> dict[int, int]:
        poll = select.poll()
        for fd in self._watch:
            poll.register(fd, 0)
        for fd in self._awaited():
            poll.register(fd, select.POLLIN)
        return dict(poll.poll(self._patience * 1000))

    def _selected(self) -> dict[int, int]:
        """The same without the watched: that their readers leave shows when they are written to."""
        readable, _, _ = select.select(list(self._awaited()), [], [], self._patience)
        return dict.fromkeys(readable, select.POLLIN)

    def _awaited(self) -> Iterator[int]:
        """Descriptors from which something may come."""
        yield self._sock.fileno()
        if self._interrupt is not None:
            yield self._interrupt
        if self._screen is not None:
            yield self._screen.resized_fd
        if self._input_fd is not None and self._credit >= self._at_a_time:
            yield self._input_fd

    def _handle(self, events: dict[int, int]) -> None:
        if self._interrupt in events:
            self._interrupt = None
            self._is_interrupted = True
            self._input_ended()
            self._send(control.frame(control.CANCEL))
        if self._screen is not None and self._screen.resized_fd in events:
            self._send(control.resize(*self._screen.size()))
        if self._sock.fileno() in events:
            self._receive()
        elif any(events.get(fd, 0) & (select.POLLERR | select.POLLHUP) for fd in self._watch):
            raise BrokenPipeError
        if self._input_fd in events:
            self._read_input()

    # -- from the gateway --

    def _receive(self) -> None:
        try:
            data = receive_now(self._sock, RECEIVE_BYTES)
        except BlockingIOError:
            return
        except OSError as error:
            raise GatewayLost from error
        if not data:
            raise GatewayLost
        self._take(data)

    def _take(self, data: bytes) -> None:
        try:
            for frame in self._reader.feed(data):
                self._take_frame(frame)
        except control.FrameTooLargeError as error:
            raise HermesNodesError(
                "the gateway sent something that this client does not understand",
                "compare `hermes-nodes --version` with `hermes-nodes status`",
            ) from error

    def _take_frame(self, frame: control.ControlFrame) -> None:
        if frame.kind == control.DATA:
            self._output(frame.channel, frame.payload)
        elif frame.kind == control.WINDOW:
            self._credit += control.window_size(frame.payload)
        elif frame.kind == control.NOTE:
            self._note(str(json.loads(bytes(frame.payload)).get("note", "")))
        elif frame.kind == control.ANSWER:
            self._answer = json.loads(bytes(frame.payload))

    # -- to the gateway --

    def _read_input(self) -> None:
        if self._input_fd is None or self._answer is not None:
            return
        try:
            read = os.read(self._input_fd, _PIECE) if self._screen is None else self._screen.read(_TYPED)
        except BlockingIOError:  # somebody has read it before us
            return
        except OSError as error:
            raise UsageError(f"the input can't be read: {error.strerror}") from error
        if read is not None:
            self._send_input(memoryview(read))

    def _check_input(self) -> None:
        """What can't be read is better said before the command runs."""
        self._polls_badly = False
        if self._input_fd is None:
            return
        mode = os.fstat(self._input_fd).st_mode
        if stat.S_ISDIR(mode):
            raise UsageError("the input is a directory", "give it a file, or a pipe")
        # macOS polls no devices, among them terminals and /dev/null; it selects them.
        self._polls_badly = sys.platform == "darwin" and stat.S_ISCHR(mode)

    def _send_pieces(self) -> None:
        while self._pieces is not None and self._credit >= _PIECE and self._answer is None:
            self._send_input(next(self._pieces, memoryview(b"")))

    def _send_input(self, piece: memoryview) -> None:
        """Send a piece of channel 0, or its end."""
        if piece:
            self._credit -= len(piece)
            self._sent(piece)
            self._send(control.header(control.DATA, len(piece), _STDIN), piece)
        else:
            self._input_ended()
            self._send(control.frame(control.END, channel=_STDIN))

    def _input_ended(self) -> None:
        self._input_fd = None
        self._pieces = None

    def _send(self, *parts: bytes | memoryview) -> None:
        try:
            for part in parts:
                self._send_all(memoryview(part))
        except OSError:
            # The gateway has answered and closed, which ends the input: its words are still to be read.
            self._input_ended()

    def _send_all(self, rest: memoryview) -> None:
        while rest:
            try:
                rest = rest[send_now(self._sock, rest) :]
            except BlockingIOError:
                self._await_socket(select.POLLOUT)
